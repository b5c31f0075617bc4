//! `Range` and `Content-Range`: one range of bytes (RFC 9110 §14). Several at once are not served.

/// A range as it was asked for, before the size is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=a-`
    From(u64),
    /// `bytes=a-b`, both included.
    Span(u64, u64),
    /// `bytes=-n`: the last n bytes.
    Last(u64),
}

/// Why a range was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not `bytes=a-b`.
    #[error("range is not of the form bytes=FIRST-LAST")]
    Syntax,
    /// Beyond the end.
    #[error("range lies beyond the end of the blob")]
    Unsatisfiable,
}

impl ByteRange {
    /// Parses the value of a `Range` header. `None` for what a server may answer with the whole,
    /// and this one does: a unit that it does not know (§14.2 demands it) and a list of ranges.
    ///
    /// # Errors
    /// [`RangeError::Syntax`].
    pub fn parse(value: &str) -> Result<Option<Self>, RangeError> {
        let (unit, spec) = value.split_once('=').ok_or(RangeError::Syntax)?;
        if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
            return Ok(None);
        }
        let (first, last) = spec.trim().split_once('-').ok_or(RangeError::Syntax)?;
        let range = match (first.is_empty(), last.is_empty()) {
            (true, true) => return Err(RangeError::Syntax),
            (true, false) => Self::Last(position(last)?),
            (false, true) => Self::From(position(first)?),
            (false, false) => Self::Span(position(first)?, position(last)?),
        };
        match range {
            Self::Span(first, last) if first > last => Err(RangeError::Syntax),
            range => Ok(Some(range)),
        }
    }

    /// The half-open range of a blob of `size` bytes.
    ///
    /// # Errors
    /// [`RangeError::Unsatisfiable`].
    pub fn resolve(self, size: u64) -> Result<(u64, u64), RangeError> {
        let (start, end) = match self {
            Self::From(first) => (first, size),
            Self::Span(first, last) => (first, size.min(last.saturating_add(1))),
            Self::Last(count) => (size.saturating_sub(count), size),
        };
        if start < end { Ok((start, end)) } else { Err(RangeError::Unsatisfiable) }
    }
}

/// Digits only: `u64::from_str` would take a sign.
pub(super) fn number(digits: &str) -> Result<u64, RangeError> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RangeError::Syntax);
    }
    digits.parse().map_err(|_| RangeError::Syntax)
}

/// A number in a `Range`: however large, it is one, and beyond every blob (§14.1.1).
fn position(digits: &str) -> Result<u64, RangeError> {
    match number(digits) {
        Err(_) if digits.bytes().all(|b| b.is_ascii_digit()) => Ok(u64::MAX),
        position => position,
    }
}

/// `bytes a-b/size`, as (first, last, size).
pub(super) fn content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (span, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, size) = (number(first).ok()?, number(last).ok()?, number(size).ok()?);
    (first <= last && last < size).then_some((first, last, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(ByteRange::parse("bytes=0-0"), Ok(Some(ByteRange::Span(0, 0))));
        assert_eq!(ByteRange::parse("Bytes= 5-"), Ok(Some(ByteRange::From(5))));
        assert_eq!(ByteRange::parse("bytes=-7"), Ok(Some(ByteRange::Last(7))));
        for whole in ["bytes=0-1,3-4", "bytes=0-1,", "items=0-1", "items=x"] {
            assert_eq!(ByteRange::parse(whole), Ok(None), "{whole}");
        }
        for bad in ["", "bytes", "bytes=", "bytes=-", "bytes=2-1", "bytes=+1-", "bytes=1 - 2"] {
            assert_eq!(ByteRange::parse(bad), Err(RangeError::Syntax), "{bad}");
        }
    }

    #[test]
    fn numbers_beyond_every_blob_are_numbers() {
        let huge = "99999999999999999999";
        let to_huge = ByteRange::parse(&format!("bytes=3-{huge}")).unwrap().unwrap();
        assert_eq!(to_huge.resolve(10), Ok((3, 10)));
        let from_huge = ByteRange::parse(&format!("bytes={huge}-")).unwrap().unwrap();
        assert_eq!(from_huge.resolve(10), Err(RangeError::Unsatisfiable));
        let last_huge = ByteRange::parse(&format!("bytes=-{huge}")).unwrap().unwrap();
        assert_eq!(last_huge.resolve(10), Ok((0, 10)));
    }

    #[test]
    fn against_a_size() {
        assert_eq!(ByteRange::From(0).resolve(10), Ok((0, 10)));
        assert_eq!(ByteRange::From(9).resolve(10), Ok((9, 10)));
        assert_eq!(ByteRange::From(10).resolve(10), Err(RangeError::Unsatisfiable));
        assert_eq!(ByteRange::Span(3, u64::MAX).resolve(10), Ok((3, 10)));
        assert_eq!(ByteRange::Last(3).resolve(10), Ok((7, 10)));
        assert_eq!(ByteRange::Last(30).resolve(10), Ok((0, 10)));
        assert_eq!(ByteRange::Last(0).resolve(10), Err(RangeError::Unsatisfiable));
        assert_eq!(ByteRange::From(0).resolve(0), Err(RangeError::Unsatisfiable));
    }

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, 10)));
        for bad in ["", "bytes 5-9/*", "bytes 9-5/10", "bytes 5-10/10", "bytes */10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
