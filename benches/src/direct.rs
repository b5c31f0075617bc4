//! A preallocated file written past the page cache in large blocks, as the splice relay and the
//! write floor do it; a file system that refuses O_DIRECT gets buffered writes.

use crate::sys;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// What O_DIRECT asks of offsets and lengths, in bytes.
const ALIGN_BYTES: usize = 4096;

/// The file; blocks go in from its start to its end.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    written: u64,
}

/// Creates a file of the given length with its blocks reserved, for buffered writes.
///
/// # Errors
/// The file system's.
pub fn create_buffered(path: &Path, size: u64) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    reserve(&file, size)?;
    Ok(file)
}

fn reserve(file: &File, size: u64) -> Result<()> {
    if size > 0 {
        sys::allocate(file.as_fd(), size).context("cannot reserve the file's blocks")?;
    }
    Ok(())
}

impl DirectFile {
    /// Creates the file with `size` bytes reserved.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).custom_flags(libc::O_DIRECT);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return Ok(Self { file: create_buffered(path, size)?, written: 0 });
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot create {}", path.display()));
            }
        };
        reserve(&file, size)?;
        Ok(Self { file, written: 0 })
    }

    /// Writes `len` bytes of an aligned block; only the last block may have an odd length, and the
    /// block must have room for it to be rounded up to 4 KiB.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&mut self, block: &[u8], len: usize) -> Result<()> {
        let padded = len.next_multiple_of(ALIGN_BYTES);
        self.file.write_all_at(&block[..padded], self.written).context("cannot write the file")?;
        self.written += len as u64;
        Ok(())
    }

    /// Cuts the padding of the last block off.
    ///
    /// # Errors
    /// The file system's.
    pub fn finish(self) -> Result<()> {
        let written = self.written;
        self.finish_at(written)
    }

    /// The same where others have written past [`Self::write`].
    ///
    /// # Errors
    /// The file system's.
    pub fn finish_at(self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).context("cannot set the file's length")
    }

    /// A descriptor of its own, for whoever writes by himself.
    ///
    /// # Errors
    /// Too many open files.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}
