//! Chooses the files of the image: deterministic, readable by everyone, bounded; reads no contents.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

const ROOTS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share"];
/// A file larger than this part of the image would be a layer by itself.
const LARGEST_PART: u64 = 8;
/// Directories below directories; a tree of links to itself cannot occur, links are not followed.
const DEPTH_MAX: u32 = 32;

/// A file or a symbolic link that goes into the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Where a symbolic link points; none for a regular file.
    pub(super) link: Option<PathBuf>,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    modified_s: i64,
}

/// The files under /usr, in order, until there are `size` bytes of them.
pub(super) fn select(size: u64) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    let mut taken = 0;
    for root in ROOTS.map(Path::new) {
        walk(root, DEPTH_MAX, &mut |source: Source| {
            if taken + source.bytes <= size && source.bytes <= size / LARGEST_PART {
                taken += source.bytes;
                files.push(source);
            }
            taken < size
        });
    }
    ensure!(taken > size / 2, "this machine has only {taken} bytes of files for the image");
    Ok(files)
}

/// A name for what would be built: it changes when a file does.
pub(super) fn fingerprint(format: &str, files: &[Source]) -> String {
    let mut hash = Sha256::new();
    hash.update(format);
    for file in files {
        hash.update(format!("{file:?}\n"));
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Calls `visit` for each file in order of the names, until it returns false.
fn walk(directory: &Path, depth: u32, visit: &mut impl FnMut(Source) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return true };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let go_on = if metadata.is_dir() {
            depth == 0 || walk(&path, depth - 1, visit)
        } else {
            describe(path, &metadata).is_none_or(&mut *visit)
        };
        if !go_on {
            return false;
        }
    }
    true
}

fn describe(path: PathBuf, metadata: &fs::Metadata) -> Option<Source> {
    let link = if metadata.is_symlink() { Some(fs::read_link(&path).ok()?) } else { None };
    // What everyone may read gives the same image with and without root.
    let readable = metadata.is_file() && metadata.mode() & 0o004 != 0;
    (link.is_some() || readable).then(|| Source {
        bytes: if link.is_some() { 0 } else { metadata.len() },
        mode: if metadata.mode() & 0o111 == 0 { 0o644 } else { 0o755 },
        modified_s: metadata.mtime(),
        path,
        link,
    })
}

/// Cuts the files into consecutive runs whose sizes stand in the given proportions.
pub(super) fn cut<'a>(files: &'a [Source], proportions: &[u64]) -> Result<Vec<&'a [Source]>> {
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let whole: u64 = proportions.iter().sum();
    let enough = files.len() >= proportions.len();
    ensure!(enough, "too few files for {} layers", proportions.len());
    let mut runs = Vec::new();
    let (mut start, mut at, mut bytes, mut share) = (0, 0, 0, 0);
    for (index, proportion) in proportions.iter().enumerate() {
        share += proportion;
        // Each of the runs behind this one is to have a file.
        let end = files.len() - (proportions.len() - 1 - index);
        // A file may be larger than a run's share: then it is the run.
        while at < end && (at == start || (bytes + files[at].bytes) * whole <= total * share) {
            bytes += files[at].bytes;
            at += 1;
        }
        runs.push(&files[start..at]);
        start = at;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, bytes: u64) -> Source {
        Source { path: name.into(), link: None, bytes, mode: 0o644, modified_s: 0 }
    }

    #[test]
    fn the_selection_is_bounded_and_repeats() {
        let size = 2_000_000;
        let files = select(size).unwrap();
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        assert!(bytes <= size && bytes > size / 2, "{bytes}");
        assert_eq!(files, select(size).unwrap());
    }

    #[test]
    fn a_changed_file_changes_the_fingerprint() {
        let (old, mut new) = (vec![file("a", 1)], vec![file("a", 1)]);
        assert_eq!(fingerprint("f", &old), fingerprint("f", &new));
        new[0].modified_s = 1;
        assert_ne!(fingerprint("f", &old), fingerprint("f", &new));
        assert_ne!(fingerprint("f", &old), fingerprint("g", &old));
    }

    #[test]
    fn a_cut_keeps_every_file_once_and_in_order() {
        let files: Vec<Source> = (0..100).map(|n| file(&format!("{n:03}"), 10)).collect();
        let runs = cut(&files, &[3, 1]).unwrap();
        assert_eq!(runs.iter().map(|run| run.len()).collect::<Vec<_>>(), [75, 25]);
        assert_eq!(runs.concat(), files);
        assert!(cut(&files[..1], &[1, 1]).is_err());
    }

    #[test]
    fn a_large_file_leaves_no_run_empty() {
        for large in 0..4 {
            let bytes = |n| if n == large { 1000 } else { 10 };
            let files: Vec<Source> = (0..4).map(|n| file(&format!("{n}"), bytes(n))).collect();
            let runs = cut(&files, &[2, 1, 3]).unwrap();
            assert!(runs.iter().all(|run| !run.is_empty()), "{runs:?}");
            assert_eq!(runs.concat(), files);
        }
    }
}
