//! Where blobs lie on disk: which are complete, which are partial and how far, commit and restart.
//! Blocking calls; the agent makes them off its runtime. Writing a blob's bytes is not here but in
//! the ring.
//!
//! ```text
//! DIR/ingest                held locked by the one daemon that uses the store
//! DIR/blobs/sha256/<hex>    complete and verified
//! DIR/partial/<hex>         bytes so far, padded to 4096 while O_DIRECT writes the tail
//! DIR/public                which digests anybody may have (public.rs)
//! DIR/tags                  what tags named last (tags.rs)
//! DIR/partial/<hex>.units   which units are there, and the CRC32C of each (record.rs)
//! ```

mod health;
mod public;
pub mod record;
mod resume;
mod tags;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use tracing::warn;
use xylem_protocol::Digest;

use crate::link::{FillFile, Resume};
use crate::usdt;

pub use health::Space;
pub use tags::KeptTag;
#[cfg(test)]
pub(crate) use tags::kept_in;

/// What went wrong with the store; one line that names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("store {} is in use by another xylemd; give each its own --store", .0.display())]
    Locked(PathBuf),
    /// It cannot be used at all.
    #[error("cannot use store {path}{remedy}", path = .path.display(), remedy = remedy(.source))]
    Unusable {
        /// What was tried.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// One operation failed.
    #[error("cannot {action} {path}{remedy}", path = .path.display(), remedy = remedy(.source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The bytes are not those that their name promises.
    #[error("bytes hash to {actual}, not to {expected}")]
    Digest {
        /// The name.
        expected: Digest,
        /// What they hash to.
        actual: Digest,
    },
}

/// What to do about an error of the file system; empty when only the cause helps.
pub fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free space there or choose another --store"
        }
        ErrorKind::ReadOnlyFilesystem => "; mount it writable or choose another --store",
        ErrorKind::PermissionDenied => {
            "; give xylemd the right to write there or choose another --store"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "; --store wants a directory",
        _ => "",
    }
}

/// A complete blob, open for reading.
#[derive(Debug)]
pub struct Complete {
    /// The file.
    pub file: OwnedFd,
    /// Its size, bytes.
    pub size: u64,
    /// Whether it is open with `O_DIRECT`.
    pub direct: bool,
}

/// A blob that is to be fetched.
#[derive(Debug)]
pub struct Partial {
    /// The file.
    pub file: FillFile,
    /// What it holds already.
    pub resume: Option<Resume>,
}

/// What there is of a blob when it is asked for.
#[derive(Debug)]
pub enum Begun {
    /// All of it.
    Complete(Complete),
    /// Some of it, or nothing.
    Partial(Partial),
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Complete blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Partial blobs.
    pub partial: u64,
}

/// The store; clones share it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    partial: PathBuf,
    tags: PathBuf,
    /// Held for its lock.
    _ingest: File,
    index: Mutex<Index>,
    public: Mutex<public::Public>,
}

#[derive(Debug, Default)]
struct Index {
    sizes: HashMap<Digest, u64>,
    bytes: u64,
}

impl Index {
    fn insert(&mut self, digest: Digest, size: u64) {
        self.remove(&digest);
        self.sizes.insert(digest, size);
        self.bytes += size;
    }

    fn remove(&mut self, digest: &Digest) {
        self.bytes -= self.sizes.remove(digest).unwrap_or(0);
    }
}

impl Store {
    /// Opens or makes the store in a directory, locks it and lists its complete blobs.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it, else [`StoreError::Unusable`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let blobs = root.join("blobs/sha256");
        let partial = root.join("partial");
        for path in [&blobs, &partial] {
            fs::create_dir_all(path).map_err(unusable(root))?;
        }
        let ingest_path = root.join("ingest");
        let ingest = OpenOptions::new().create(true).truncate(false).write(true).open(&ingest_path);
        let ingest = ingest.map_err(unusable(&ingest_path))?;
        match ingest.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(root.to_owned())),
            Err(TryLockError::Error(source)) => return Err(unusable(&ingest_path)(source)),
        }
        let index = list(&blobs).map_err(unusable(&blobs))?;
        let path = root.join("public");
        let public = public::Public::open(&path, |digest| index.sizes.contains_key(digest));
        let public = Mutex::new(public.map_err(unusable(&path))?);
        let index = Mutex::new(index);
        let tags = root.join("tags");
        Ok(Self(Arc::new(Inner { blobs, partial, tags, _ingest: ingest, index, public })))
    }

    /// Remembers that anybody may have these: a registry gave them to somebody without credentials.
    pub fn mark_public(&self, digests: &[Digest]) {
        let mut public = self.0.public.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = public.insert(digests) {
            // Costs a question at the registry after a restart, and an answer while that is down.
            warn!(%error, "cannot write down what is public");
        }
    }

    /// Whether anybody may have a blob or manifest, as far as is known.
    pub fn is_public(&self, digest: &Digest) -> bool {
        self.0.public.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Size of a blob that is complete.
    pub fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.index().sizes.get(digest).copied()
    }

    /// A complete blob, open for reading; `None` if it is not (or no longer) here.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn complete(&self, digest: &Digest) -> Result<Option<Complete>, StoreError> {
        if self.size_of(digest).is_none() {
            return Ok(None);
        }
        let path = self.blob_path(digest);
        match open_complete(&path) {
            Ok(complete) => Ok(Some(complete)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                warn!(%digest, "blob has vanished from the store");
                self.index().remove(digest);
                Ok(None)
            }
            Err(source) => Err(StoreError::Io { action: "open", path, source }),
        }
    }

    /// Opens a blob to be fetched, and finds out how much of it is here. Reads and hashes all of
    /// that.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn begin(&self, digest: &Digest) -> Result<Begun, StoreError> {
        if let Some(complete) = self.complete(digest)? {
            return Ok(Begun::Complete(complete));
        }
        let path = self.partial_path(digest);
        let resume = self.verified(digest)?;
        let resume = match resume {
            Some(resume) if resume.bytes == resume.size => {
                let actual = Digest::from_bytes(resume.hasher.clone().finalize().into());
                if actual == *digest {
                    self.commit(digest, resume.size)?;
                    let open = open_complete(&self.blob_path(digest));
                    return open.map(Begun::Complete).map_err(|source| StoreError::Io {
                        action: "open",
                        path,
                        source,
                    });
                }
                warn!(%digest, %actual, "partial blob has another digest; fetching it again");
                None
            }
            other => other,
        };
        let partial = self.create(digest, resume)?;
        if let Some(resume) = &partial.resume {
            // It forgets the units that are not what it says.
            self.open_record(digest, resume.bytes)?;
        }
        Ok(Begun::Partial(partial))
    }

    /// The file of a blob to be filled, empty but for what is to be resumed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn create(&self, digest: &Digest, resume: Option<Resume>) -> Result<Partial, StoreError> {
        let path = self.partial_path(digest);
        let (file, direct) = open_direct(
            OpenOptions::new().read(true).write(true).create(true).truncate(resume.is_none()),
            &path,
        )
        .map_err(|source| StoreError::Io { action: "create", path, source })?;
        Ok(Partial { file: FillFile { file: file.into(), direct }, resume })
    }

    /// Whether a blob is here, or a part of it: if not, it begins with [`Store::create`].
    pub fn knows(&self, digest: &Digest) -> bool {
        self.size_of(digest).is_some() || self.record_path(digest).exists()
    }

    /// The prefix of a partial blob whose units are what the record says.
    fn verified(&self, digest: &Digest) -> Result<Option<Resume>, StoreError> {
        let record_path = self.record_path(digest);
        let Some(record) = record::read(&record_path) else { return Ok(None) };
        let path = self.partial_path(digest);
        match File::open(&path) {
            Ok(file) => resume::verify(&file, &record).map_err(|source| StoreError::Io {
                action: "read",
                path,
                source,
            }),
            Err(_) => Ok(None),
        }
    }

    /// The record of a partial blob, made if it is not there, cut to the units of its first `bytes`
    /// bytes. Without one the blob is not resumed after a restart.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open_record(&self, digest: &Digest, bytes: u64) -> Result<File, StoreError> {
        let path = self.record_path(digest);
        let open = || {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(bytes == 0).open(&path)?;
            if bytes > 0 {
                file.set_len(record::length_for(bytes))?;
            }
            Ok(file)
        };
        open().map_err(|source| StoreError::Io { action: "create", path: path.clone(), source })
    }

    /// Makes a blob whose bytes are all written and verified complete: cut to size, made durable,
    /// renamed.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn commit(&self, digest: &Digest, size: u64) -> Result<(), StoreError> {
        let (from, to) = (self.partial_path(digest), self.blob_path(digest));
        let sync = || {
            let file = OpenOptions::new().write(true).open(&from)?;
            file.set_len(size)?;
            file.sync_data()?;
            fs::rename(&from, &to)?;
            File::open(&self.0.blobs)?.sync_all()
        };
        sync().map_err(|source| StoreError::Io { action: "commit", path: from.clone(), source })?;
        self.index().insert(*digest, size);
        usdt::committed(digest, size);
        // Without its blob the record says nothing; a failure here costs a few bytes.
        let _ = fs::remove_file(self.record_path(digest));
        Ok(())
    }

    /// Deletes what there is of a partial blob.
    pub fn discard(&self, digest: &Digest) {
        for path in [self.record_path(digest), self.partial_path(digest)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    warn!(path = %path.display(), %error, "cannot delete");
                }
                _ => {}
            }
        }
    }

    /// Forgets which units of a partial blob are there: they are about to be written anew.
    pub fn reset(&self, digest: &Digest) {
        let path = self.record_path(digest);
        let cut = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(0));
        if let Err(error) = cut {
            warn!(path = %path.display(), %error, "cannot reset");
        }
    }

    /// Stores bytes that are at hand, such as a manifest.
    ///
    /// # Errors
    /// [`StoreError::Digest`] when they are not what the digest names, else [`StoreError::Io`].
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let actual = Digest::from_bytes(Sha256::digest(bytes).into());
        if actual != *digest {
            return Err(StoreError::Digest { expected: *digest, actual });
        }
        if self.size_of(digest).is_some() {
            return Ok(());
        }
        let path = self.partial_path(digest);
        let written = File::create(&path).and_then(|mut file| file.write_all(bytes));
        if let Err(source) = written {
            self.discard(digest);
            return Err(StoreError::Io { action: "write", path, source });
        }
        self.commit(digest, bytes.len() as u64)
    }

    /// Reads a whole small blob; `None` if it is not here or larger than `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Digest`] when the disk has changed it (it is then
    /// forgotten).
    pub fn read(&self, digest: &Digest, max_bytes: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(size) = self.size_of(digest).filter(|&size| size <= u64::from(max_bytes)) else {
            return Ok(None);
        };
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(size).read_to_end(&mut bytes));
        read.map_err(|source| StoreError::Io { action: "read", path: path.clone(), source })?;
        let actual = Digest::from_bytes(Sha256::digest(&bytes).into());
        if actual != *digest {
            self.index().remove(digest);
            let _ = fs::remove_file(&path);
            return Err(StoreError::Digest { expected: *digest, actual });
        }
        Ok(Some(bytes))
    }

    /// How much there is.
    pub fn totals(&self) -> Totals {
        let (blobs, bytes) = {
            let index = self.index();
            (index.sizes.len() as u64, index.bytes)
        };
        let partial = fs::read_dir(&self.0.partial).map_or(0, |entries| {
            let is_blob = |name: &std::ffi::OsStr| name.to_str().and_then(digest_of).is_some();
            entries.flatten().filter(|entry| is_blob(&entry.file_name())).count()
        });
        Totals { blobs, bytes, partial: partial as u64 }
    }

    /// Bytes of all complete blobs.
    pub fn held_bytes(&self) -> u64 {
        self.index().bytes
    }

    /// Bytes that an unprivileged process can still write to the store's file system; 0 when not
    /// known.
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.0.blobs).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
    }

    /// Path of a partial blob, for messages.
    pub fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.0.partial.join(digest.hex())
    }

    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.0.partial.join(format!("{}.units", digest.hex()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.blobs.join(digest.hex())
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        // The index is whole between any two statements of ours: a panic elsewhere does not spoil
        // it.
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a complete file for reading, with `O_DIRECT` where that goes.
///
/// # Errors
/// Those of the file system.
pub fn open_complete(path: &Path) -> io::Result<Complete> {
    let (file, direct) = open_direct(OpenOptions::new().read(true), path)?;
    let size = file.metadata()?.len();
    Ok(Complete { file: file.into(), size, direct })
}

/// Opens with `O_DIRECT`; without it where the file system refuses (older tmpfs, some network file
/// systems).
fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<(File, bool)> {
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            options.open(path).map(|file| (file, false))
        }
        other => other.map(|file| (file, true)),
    }
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Unusable { path, source }
}

fn digest_of(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

/// The complete blobs of a directory. What is none is reported and left alone.
fn list(blobs: &Path) -> io::Result<Index> {
    let mut index = Index::default();
    for entry in fs::read_dir(blobs)? {
        let entry = entry?;
        let name = entry.file_name();
        match name.to_str().and_then(digest_of) {
            Some(digest) if entry.file_type()?.is_file() => {
                index.insert(digest, entry.metadata()?.len());
            }
            _ => warn!(path = %entry.path().display(), "not a blob; left alone"),
        }
    }
    Ok(index)
}

#[cfg(test)]
mod tests;
