//! The record beside a partial blob: which units are in the file and the CRC32C of each. A hint,
//! never trusted: a resumption reads the units again and compares.
//!
//! ```text
//! 0   "XYLEMUNI"            magic
//! 8   version u32 | unit bytes u32
//! 16  blob size u64
//! 24  for each unit, in order: mark u32 (1: here) | CRC32C u32       all little-endian
//! ```
//!
//! Each unit has its place, so units may come in any order: what was not written reads as zeros,
//! which is a hole.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use xylem_protocol::limits::{BLOB_MAX, UNIT_BYTES};

const MAGIC: [u8; 8] = *b"XYLEMUNI";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 8;
const HERE: u32 = 1;
/// Longest record read, bytes.
const RECORD_MAX: u64 = HEADER_BYTES as u64 + ENTRY_BYTES as u64 * (BLOB_MAX / UNIT_BYTES as u64);

/// A record, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The whole blob's size, bytes.
    pub size: u64,
    /// CRC32C of each unit that is here, up to the last one that is.
    pub units: Vec<Option<u32>>,
}

/// The header of a blob's record; it stands at offset 0.
pub fn header(size: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(UNIT_BYTES.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes
}

/// Where the entries of units from `first` on stand, and their bytes.
pub fn entries(first: u32, crc: &[u32]) -> (u64, Vec<u8>) {
    let bytes = crc.iter().flat_map(|crc| [HERE.to_le_bytes(), crc.to_le_bytes()]);
    let offset = HEADER_BYTES as u64 + ENTRY_BYTES as u64 * u64::from(first);
    (offset, bytes.flatten().collect())
}

/// Length of the record of a blob's first bytes.
pub(super) fn length_for(bytes: u64) -> u64 {
    HEADER_BYTES as u64 + ENTRY_BYTES as u64 * bytes.div_ceil(u64::from(UNIT_BYTES))
}

/// Reads a record; `None` if there is none or it is not one of ours.
pub(super) fn read(path: &Path) -> Option<Record> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(RECORD_MAX).read_to_end(&mut bytes).ok()?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (unit, rest) = rest.split_first_chunk::<4>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let size = u64::from_le_bytes(*size);
    let known = *magic == MAGIC
        && u32::from_le_bytes(*version) == VERSION
        && u32::from_le_bytes(*unit) == UNIT_BYTES
        && (1..=BLOB_MAX).contains(&size);
    if !known {
        return None;
    }
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    let units = rest.chunks_exact(ENTRY_BYTES).map(|entry| {
        let (mark, crc) = entry.split_at(4);
        (word(mark) == HERE).then(|| word(crc))
    });
    Some(Record { size, units: units.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = header(3 * u64::from(UNIT_BYTES));
        let (offset, entry) = entries(2, &[7]);
        bytes.resize(usize::try_from(offset).unwrap(), 0);
        bytes.extend(entry);
        let record = parse(&bytes).unwrap();
        assert_eq!(record.size, 3 * u64::from(UNIT_BYTES));
        assert_eq!(record.units, [None, None, Some(7)], "holes stay holes");
    }

    #[test]
    fn other_files_are_no_records() {
        let good = header(5);
        assert!(parse(&good).is_some());
        for spoilt in [0, 8, 12] {
            let mut bytes = good.clone();
            bytes[spoilt] ^= 1;
            assert_eq!(parse(&bytes), None, "byte {spoilt}");
        }
        assert_eq!(parse(&good[..20]), None);
        assert_eq!(parse(&header(0)), None);
        assert_eq!(parse(&header(u64::MAX)), None);
    }
}
