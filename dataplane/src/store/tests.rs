//! The store on a real file system: commit, restart, resumption, refusals.

use std::os::unix::fs::FileExt;

use xylem_protocol::limits::UNIT_BYTES;

use super::*;

const UNIT: usize = UNIT_BYTES as usize;

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect()
}

/// Leaves a partial blob behind as a killed daemon would: `units` units in file and record.
fn leave_partial(root: &Path, content: &[u8], units: usize) -> Digest {
    let digest = digest(content);
    let store = Store::open(root).unwrap();
    let Begun::Partial(partial) = store.begin(&digest).unwrap() else { panic!("complete") };
    assert!(partial.resume.is_none());
    // Not through partial.file: that is O_DIRECT, which wants aligned memory.
    let end = content.len().min(units * UNIT);
    let file = OpenOptions::new().write(true).open(store.partial_path(&digest)).unwrap();
    file.write_all_at(&content[..end], 0).unwrap();
    file.set_len((content.len() as u64).next_multiple_of(4096)).unwrap();
    let crc: Vec<u32> = content[..end].chunks(UNIT).map(crc32c::crc32c).collect();
    let units_file = store.open_record(&digest, 0).unwrap();
    units_file.write_all_at(&record::header(content.len() as u64), 0).unwrap();
    let (offset, bytes) = record::entries(0, &crc);
    units_file.write_all_at(&bytes, offset).unwrap();
    digest
}

fn resumed(store: &Store, digest: &Digest) -> Option<Resume> {
    match store.begin(digest).unwrap() {
        Begun::Partial(partial) => partial.resume,
        Begun::Complete(_) => panic!("complete"),
    }
}

#[test]
fn what_is_public_stays_so_while_it_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let here = leave_partial(dir.path(), b"here", 1);
    let gone = digest(b"gone");
    let store = Store::open(dir.path()).unwrap();
    store.commit(&here, 4).unwrap();
    store.mark_public(&[here, gone]);
    store.mark_public(&[here]);
    assert!(store.is_public(&here) && store.is_public(&gone));
    assert!(!store.is_public(&digest(b"other")));
    drop(store);
    let path = dir.path().join("public");
    assert_eq!(fs::metadata(&path).unwrap().len(), 64, "each once");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"torn").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.is_public(&here) && !store.is_public(&gone));
    store.mark_public(&[gone]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 64);
}

#[test]
fn a_committed_blob_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(5000);
    let digest = leave_partial(dir.path(), &content, 1);
    let store = Store::open(dir.path()).unwrap();
    store.commit(&digest, 5000).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    drop(store);
    fs::write(dir.path().join("blobs/sha256/stray"), "x").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.size_of(&digest), Some(5000), "the padding is cut off");
    assert_eq!(store.totals(), Totals { blobs: 1, bytes: 5000, partial: 0 });
    assert_eq!(store.read(&digest, 5000).unwrap().unwrap(), content);
    assert_eq!(store.read(&digest, 4999).unwrap(), None);
    assert!(matches!(store.begin(&digest).unwrap(), Begun::Complete(Complete { size: 5000, .. })));
    assert!(dir.path().join("blobs/sha256/stray").exists());
}

#[test]
fn a_partial_blob_is_resumed_where_it_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(3 * UNIT + 77);
    let digest = leave_partial(dir.path(), &content, 3);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.totals().partial, 1);
    let resume = resumed(&store, &digest).unwrap();
    assert_eq!((resume.bytes, resume.size), (3 * UNIT as u64, content.len() as u64));
    let mut hasher = resume.hasher;
    hasher.update(&content[3 * UNIT..]);
    assert_eq!(Digest::from_bytes(hasher.finalize().into()), digest);

    let file = OpenOptions::new().write(true).open(store.partial_path(&digest)).unwrap();
    file.write_all_at(b"rot", UNIT as u64 + 5).unwrap();
    let resume = resumed(&store, &digest).unwrap();
    assert_eq!(resume.bytes, UNIT as u64, "up to the unit that is spoilt");
    let kept = record::read(&store.record_path(&digest)).unwrap();
    assert_eq!(kept.units.len(), 1, "the record forgets the rest");
}

#[test]
fn a_partial_blob_with_all_units_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(UNIT + 9);
    let digest = leave_partial(dir.path(), &content, 2);
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(store.begin(&digest).unwrap(), Begun::Complete(_)));
    assert_eq!(store.read(&digest, u32::MAX).unwrap().unwrap(), content);
}

#[test]
fn a_record_without_its_blob_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let digest = leave_partial(dir.path(), &pattern(UNIT * 2), 1);
    let store = Store::open(dir.path()).unwrap();
    fs::remove_file(store.partial_path(&digest)).unwrap();
    assert!(resumed(&store, &digest).is_none());
    store.discard(&digest);
    assert_eq!(store.totals(), Totals::default());
}

#[test]
fn one_daemon_per_store() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let second = Store::open(dir.path()).unwrap_err();
    assert!(matches!(second, StoreError::Locked(_)), "{second}");
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_file_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains("--store wants a directory"), "{error}");
}

#[test]
fn what_is_put_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = store.put(&digest(b"a"), b"b").unwrap_err();
    assert!(matches!(error, StoreError::Digest { .. }));
    store.put(&digest(b"a"), b"a").unwrap();
    assert_eq!(store.read(&digest(b"a"), 1).unwrap().unwrap(), b"a");
    fs::write(store.blob_path(&digest(b"a")), "b").unwrap();
    assert!(store.read(&digest(b"a"), 1).is_err(), "changed on disk");
    assert_eq!(store.size_of(&digest(b"a")), None);
}

#[test]
fn a_blob_that_vanished_is_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.put(&digest(b"a"), b"a").unwrap();
    fs::remove_file(store.blob_path(&digest(b"a"))).unwrap();
    assert!(matches!(store.begin(&digest(b"a")).unwrap(), Begun::Partial(_)));
}
