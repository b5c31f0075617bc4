//! Finds out how much of a partial blob can be kept: reads its units again, compares them with the
//! record and hashes them. Does not repair.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest as _, Sha256};
use xylem_protocol::limits::UNIT_BYTES;

use super::record::Record;
use crate::link::Resume;

/// The longest prefix of whole units that are as recorded; the blob's last, shorter unit counts
/// when it is among them. `None` when nothing can be kept.
pub(super) fn verify(file: &File, record: &Record) -> io::Result<Option<Resume>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; UNIT_BYTES as usize];
    let mut bytes = 0;
    for crc in &record.units {
        let length = u64::from(UNIT_BYTES).min(record.size - bytes);
        let unit = &mut buffer[..usize::try_from(length).unwrap_or(0)];
        let Some(crc) = crc else { break };
        if unit.is_empty() {
            break;
        }
        match file.read_exact_at(unit, bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        if crc32c::crc32c(unit) != *crc {
            break;
        }
        hasher.update(&*unit);
        bytes += length;
    }
    Ok((bytes > 0).then_some(Resume { bytes, hasher, size: record.size }))
}
