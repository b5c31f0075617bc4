//! Whether the store takes bytes, for whoever looks for what is wrong. Touches no blob.

use std::fs::{self, OpenOptions};

use super::{Store, StoreError, open_direct};

/// Room on the store's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// For an unprivileged process, bytes.
    pub free_bytes: u64,
    /// In all, bytes.
    pub total_bytes: u64,
}

impl Store {
    /// How much room there is; `None` when the file system does not say.
    pub fn space(&self) -> Option<Space> {
        let fs = rustix::fs::statvfs(&self.0.blobs).ok()?;
        let (free_bytes, total_bytes) = (fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize);
        Some(Space { free_bytes, total_bytes })
    }

    /// Writes a file and removes it; whether it could be opened with `O_DIRECT`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn try_write(&self) -> Result<bool, StoreError> {
        // No blob has such a name.
        let path = self.0.partial.join("doctor");
        let attempt = || {
            let mut options = OpenOptions::new();
            let (_, direct) = open_direct(options.write(true).create(true), &path)?;
            fs::write(&path, [0; 4096])?;
            fs::remove_file(&path)?;
            Ok(direct)
        };
        attempt().map_err(|source| StoreError::Io { action: "write", path: path.clone(), source })
    }
}
