//! Which digests a registry has given to somebody without credentials: with that, a node can serve
//! them while the registry cannot be asked. A list on disk that only grows; what the store no
//! longer holds is dropped when it is opened.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use xylem_protocol::Digest;
use xylem_protocol::limits::PUBLIC_MAX;

/// Bytes of one entry: a SHA-256.
const ENTRY_BYTES: usize = 32;

/// The list.
#[derive(Debug)]
pub(super) struct Public {
    file: File,
    digests: HashSet<Digest>,
}

impl Public {
    /// Reads the list and writes it anew with what is still of use.
    pub(super) fn open(path: &Path, is_here: impl Fn(&Digest) -> bool) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let bytes_max = (PUBLIC_MAX * ENTRY_BYTES) as u64;
        match File::open(path) {
            Ok(file) => file.take(bytes_max).read_to_end(&mut bytes).map(drop)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A kill in mid-write leaves part of an entry: it is not one.
        let entries = bytes.chunks_exact(ENTRY_BYTES).filter_map(|entry| entry.try_into().ok());
        let digests: HashSet<Digest> = entries.map(Digest::from_bytes).filter(is_here).collect();
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        file.write_all(&digests.iter().flat_map(Digest::as_bytes).copied().collect::<Vec<u8>>())?;
        Ok(Self { file, digests })
    }

    /// Adds digests; those beyond the bound are not remembered.
    pub(super) fn insert(&mut self, digests: &[Digest]) -> io::Result<()> {
        let room = PUBLIC_MAX.saturating_sub(self.digests.len());
        let new = digests.iter().filter(|digest| !self.digests.contains(digest)).take(room);
        let new: Vec<Digest> = new.copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        self.digests.extend(&new);
        self.file.write_all(&new.iter().flat_map(Digest::as_bytes).copied().collect::<Vec<u8>>())
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }
}
