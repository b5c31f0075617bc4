//! Byte counts as people write them (`64k`, `1GiB`); always powers of two, never SI.

use anyhow::{Context, Result, bail};

/// Bytes in a KiB.
pub const KIB: u64 = 1024;
/// Bytes in a MiB.
pub const MIB: u64 = 1024 * KIB;
/// Bytes in a GiB.
pub const GIB: u64 = 1024 * MIB;

/// Reads a byte count with an optional suffix: `4096`, `64k`, `8MiB`, `1G`.
///
/// # Errors
/// Anything that is not a whole number with a known suffix, or that does not fit 64 bits.
pub fn parse(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("not a byte count: {text}"))?;
    let unit = match suffix.to_ascii_lowercase().trim_end_matches("ib") {
        "" => 1,
        "k" => KIB,
        "m" => MIB,
        "g" => GIB,
        _ => bail!("unknown unit in byte count: {text}"),
    };
    number.checked_mul(unit).with_context(|| format!("byte count too large: {text}"))
}

/// A length as an index; the benches run on 64-bit machines only.
#[must_use]
pub fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64-bit machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_suffix() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65536),
            ("512KiB", 524_288),
            ("8MiB", 8 * MIB),
            ("1G", GIB),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_count() {
        for text in ["", "k", "1.5G", "12x", "99999999999G"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
