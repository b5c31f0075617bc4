//! HTTP/1.1 heads: what is asked of a node, and what a node is told by its upstream. Bodies never
//! pass here.

mod range;
mod request;
mod response;

pub use range::{ByteRange, RangeError};
pub use request::{Method, Request, Route, has_tag};
pub use response::{Answer, BLOB_TYPE, ResponseHead, error_body, reason};

use crate::limits::{HEAD_MAX, HEADERS_MAX};
use crate::names::NameError;

/// The node that asks: its name.
pub const HEADER_NODE: &str = "Xylem-Node";
/// The tree that a request belongs to: digest of the image's manifest.
pub const HEADER_IMAGE: &str = "Xylem-Image";
/// The nodes that a request has passed, comma-separated; a node that finds itself answers 508.
pub const HEADER_PATH: &str = "Xylem-Path";

/// Says that the asking node has made sure that its caller may have what it asks for.
pub const HEADER_GRANT: &str = "Xylem-Grant";

/// Size of the blob that a stripe is of, in the answer to a request for a stripe.
pub const HEADER_SIZE: &str = "Xylem-Size";

/// Answered by a node whose ring thread runs.
pub const ALIVE_PATH: &str = "/xylem/v1/alive";

/// Why a head was refused, with the status that says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`HEAD_MAX`] bytes without an end.
    #[error("head is longer than {HEAD_MAX} bytes")]
    TooLong,
    /// More than [`HEADERS_MAX`] lines.
    #[error("head has more than {HEADERS_MAX} header lines")]
    TooMany,
    /// Not HTTP/1.
    #[error("not an HTTP/1.1 head")]
    Syntax(#[source] httparse::Error),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] crate::digest::DigestError),
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] crate::names::NameError),
    /// A range that is none.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A number that is none, or header lines that contradict each other.
    #[error("header {0} is not valid")]
    Header(&'static str),
    /// A request that would change a registry.
    #[error("images are pulled from here, and pushed to the registry")]
    Push,
    /// A path with an escape that is none, or that would be a path of its own: `%2F`.
    #[error("path has an escape that is not served")]
    Escape,
    /// A stripe other than `0/2` and `1/2`.
    #[error("blobs have the stripes 0/2 and 1/2")]
    Stripe,
    /// No host, several, or one that is none.
    #[error("a request has one host header")]
    Host,
    /// A transfer coding; bodies come with their length here.
    #[error("transfer codings are not supported, send a content-length")]
    Coding,
}

impl HeadError {
    /// Status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::TooLong | Self::TooMany => 431,
            Self::Coding => 411,
            Self::Push => 405,
            // What can have no such name is not there.
            Self::Name(NameError::Tag) => 404,
            Self::Range(_) => 416,
            _ => 400,
        }
    }

    /// Error code of the distribution specification.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Digest(_) | Self::Name(NameError::Digest(_)) => "DIGEST_INVALID",
            Self::Name(NameError::Tag) => "MANIFEST_UNKNOWN",
            Self::Name(_) | Self::Escape => "NAME_INVALID",
            Self::Range(_) => "RANGE_INVALID",
            _ => "UNSUPPORTED",
        }
    }
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooMany,
            other => Self::Syntax(other),
        }
    }
}

/// A whole head is not here yet: refuse it if it cannot become one.
fn incomplete<T>(bytes: &[u8]) -> Result<Option<T>, HeadError> {
    if bytes.len() >= HEAD_MAX as usize { Err(HeadError::TooLong) } else { Ok(None) }
}

/// A header's value as text; bytes above ASCII are refused.
fn text<'a>(header: &httparse::Header<'a>, name: &'static str) -> Result<&'a str, HeadError> {
    std::str::from_utf8(header.value).map(str::trim).map_err(|_| HeadError::Header(name))
}
