//! Sizes and rates as people write them: `758MB`, `1GiB`, `1gbit`, `500mbit`. Nothing is guessed: a
//! number without a unit is refused.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::limits::{RATE_MAX, RATE_MIN, SIZE_MAX};

/// A text that is no size or no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct UnitError {
    text: String,
    what: &'static str,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

/// A rate, bytes per second; written in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(pub u64);

const SIZES: [(&str, u64); 7] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
];

/// Of a rate, in bits.
const RATES: [(&str, u64); 4] =
    [("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];

/// A positive decimal number with one of the units; at most three digits behind the point.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let unit = unit.to_ascii_lowercase();
    let (_, unit) = units.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.trim_end().split_once('.').unwrap_or((number.trim_end(), "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    let parts = whole.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(thousandths)?;
    Some(parts.checked_mul(*unit)? / 1_000)
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let size = parse(text, &SIZES).filter(|size| (1..=SIZE_MAX).contains(size));
        let what = "size between 1B and 1024GiB, as in 758MB or 1GiB";
        size.map(Self).ok_or_else(|| UnitError { text: text.to_owned(), what })
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let rate = parse(text, &RATES).map(|bits| bits / 8);
        let rate = rate.filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
        let what = "rate between 8kbit and 1000gbit, as in 1gbit or 500mbit";
        rate.map(Self).ok_or_else(|| UnitError { text: text.to_owned(), what })
    }
}

impl TryFrom<String> for Size {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

impl TryFrom<String> for Rate {
    type Error = UnitError;

    fn try_from(text: String) -> Result<Self, UnitError> {
        text.parse()
    }
}

/// In the largest unit that leaves no rest.
fn written(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |&&(_, unit): &&(&str, u64)| value >= unit && value.is_multiple_of(unit);
    let (name, unit) = units.iter().filter(fits).max_by_key(|(_, unit)| *unit).unwrap_or(&units[0]);
    write!(f, "{}{name}", value / unit)
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [("B", 1), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
        let binary = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        written(f, self.0, &[&names[..], &binary[..]].concat())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(f, self.0 * 8, &RATES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_read_and_written() {
        for (text, bytes) in [
            ("1B", 1),
            ("758MB", 758_000_000),
            ("1.5GB", 1_500_000_000),
            ("64KiB", 65_536),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for (text, bytes) in
            [("1gbit", 125_000_000), ("2.5gbit", 312_500_000), ("500Mbit", 62_500_000)]
        {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        for text in ["758MB", "1GiB", "65537B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!(Rate(125_000_000).to_string(), "1gbit");
        assert_eq!(Rate(312_500_000).to_string(), "2500mbit");
    }

    #[test]
    fn what_is_no_size_or_rate_is_refused() {
        for text in
            ["", "758", "MB", "0MB", "-1MB", "1e3MB", "1.MB", ".5MB", "1.2345MB", "2000GiB", "1MBs"]
        {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "1", "gbit", "0gbit", "1GB", "1 000mbit", "99999gbit", "1gbps"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        let error = "fast".parse::<Rate>().unwrap_err();
        assert!(error.to_string().starts_with("`fast` is not a rate between"), "{error}");
    }
}
