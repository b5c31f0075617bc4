//! A blob's name: `sha256:<64 hex digits>`. Other algorithms are refused, not guessed at.

use std::fmt;
use std::str::FromStr;

/// SHA-256 of a blob or manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a string is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm, or none.
    #[error("digest is not of the form sha256:<64 hex digits>")]
    Algorithm,
    /// Not 64 lower-case hex digits.
    #[error("digest needs 64 lower-case hex digits after sha256:")]
    Hex,
}

impl Digest {
    /// From the raw hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hex digits as a number: enough to tell blobs apart, and to put them in an
    /// order that is the same on all nodes.
    pub const fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The 64 hex digits, as they name the file in a store.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").ok_or(DigestError::Algorithm)?.as_bytes();
        if hex.len() != 64 {
            return Err(DigestError::Hex);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::Hex),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn round_trip() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.as_bytes()[0], 0xe3);
        assert_eq!(digest.prefix(), 0xe3b0_c442_98fc_1c14);
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("", DigestError::Algorithm),
            ("sha512:00", DigestError::Algorithm),
            ("sha256:00", DigestError::Hex),
            (&EMPTY.to_uppercase().replace("SHA", "sha"), DigestError::Hex),
            (&format!("{EMPTY}0"), DigestError::Hex),
            (&EMPTY.replace('e', "/"), DigestError::Hex),
        ] {
            assert_eq!(text.parse::<Digest>().unwrap_err(), error, "{text}");
        }
    }
}
