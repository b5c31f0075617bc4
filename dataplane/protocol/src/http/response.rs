//! The head of a response: read from an upstream, written to a reader.

use std::io::Write;

use super::range::{content_range, number};
use super::{HEADER_SIZE, HeadError, incomplete, text};
use crate::Digest;
use crate::limits::HEADERS_MAX;

/// `Content-Type` of a blob: what it is, only its manifest says. Blobs have ranges, all else has
/// none.
pub const BLOB_TYPE: &str = "application/octet-stream";

/// What a node looks at in its upstream's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// Bytes of body that follow, if said.
    pub content_length: Option<u64>,
    /// First byte, last byte and whole size of a 206.
    pub content_range: Option<(u64, u64, u64)>,
    /// Whether the body is chunked (its length is then not known in advance).
    pub chunked: bool,
    /// Whether the upstream keeps the connection.
    pub keep_alive: bool,
    /// `Location` of a redirect.
    pub location: Option<String>,
    /// `WWW-Authenticate` of a 401.
    pub challenge: Option<String>,
    /// Size of the blob that a stripe is of.
    pub blob_size: Option<u64>,
}

impl ResponseHead {
    /// Parses a head from the start of `bytes`; `None` while its end is not here. Returns the
    /// head's length too.
    ///
    /// # Errors
    /// [`HeadError`]; the connection cannot be used further.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(bytes)? else {
            return incomplete(bytes);
        };
        let mut response = Self {
            status: head.code.unwrap_or(0),
            content_length: None,
            content_range: None,
            chunked: false,
            keep_alive: head.version == Some(1),
            location: None,
            challenge: None,
            blob_size: None,
        };
        for header in head.headers.iter() {
            response.take(header)?;
        }
        Ok(Some((response, length)))
    }

    fn take(&mut self, header: &httparse::Header<'_>) -> Result<(), HeadError> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let length = number(text(header, "content-length")?);
            let length = length.map_err(|_| HeadError::Header("content-length"))?;
            if self.content_length.is_some_and(|earlier| earlier != length) {
                return Err(HeadError::Header("content-length"));
            }
            self.content_length = Some(length);
        } else if is("content-range") {
            self.content_range = content_range(text(header, "content-range")?);
        } else if is("transfer-encoding") {
            self.chunked = true;
        } else if is("connection") {
            self.keep_alive = !text(header, "connection")?.eq_ignore_ascii_case("close");
        } else if is("location") {
            self.location = Some(text(header, "location")?.to_owned());
        } else if is("www-authenticate") {
            self.challenge = Some(text(header, "www-authenticate")?.to_owned());
        } else if is(HEADER_SIZE) {
            self.blob_size = number(text(header, HEADER_SIZE)?).ok();
        }
        Ok(())
    }

    /// The blob's whole size and the bytes that follow, when this answers a request for the bytes
    /// from `offset` to `end` (or the blob's end); `None` if it does not.
    pub fn piece_from(&self, offset: u64, end: u64) -> Option<(u64, u64)> {
        let (first, last, size) = self.content_range.filter(|_| self.status == 206)?;
        let is_it = first == offset && last + 1 == end.min(size) && !self.chunked;
        let bytes = end.min(size) - offset;
        let agrees = self.content_length.is_none_or(|length| length == bytes);
        (is_it && agrees).then_some((size, bytes))
    }

    /// The blob's whole size, when this answers a request for the bytes from `offset` on; `None` if
    /// it does not.
    pub fn blob_size_from(&self, offset: u64) -> Option<u64> {
        match (self.status, self.content_range, self.content_length) {
            (200, _, Some(length)) if offset == 0 && !self.chunked => Some(length),
            (206, Some((first, last, size)), length) => {
                let whole = first == offset && last + 1 == size && !self.chunked;
                let agrees = length.is_none_or(|length| length == size - offset);
                (whole && agrees).then_some(size)
            }
            _ => None,
        }
    }
}

/// The head of an answer that a node gives.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Status code.
    pub status: u16,
    /// `Content-Length`.
    pub length: u64,
    /// `Content-Type`.
    pub content_type: &'a str,
    /// The blob or manifest that the body is.
    pub digest: Option<&'a Digest>,
    /// First byte and whole size, for a 206.
    pub part: Option<(u64, u64)>,
    /// Whether the connection stays.
    pub keep_alive: bool,
    /// Further header lines, each ended by CRLF.
    pub extra: &'a str,
}

impl Answer<'_> {
    /// Appends the head to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { status, length, content_type, .. } = self;
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\n\
             Docker-Distribution-Api-Version: registry/2.0\r\n",
            reason(*status)
        );
        if *status != 304 {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        if let Some(digest) = self.digest {
            let _ = write!(out, "Docker-Content-Digest: {digest}\r\nEtag: \"{digest}\"\r\n");
        }
        if self.content_type == BLOB_TYPE {
            out.extend_from_slice(b"Accept-Ranges: bytes\r\n");
        }
        if let Some((first, size)) = self.part {
            let last = (first + length).saturating_sub(1);
            let _ = write!(out, "Content-Range: bytes {first}-{last}/{size}\r\n");
        }
        if !self.keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(self.extra.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// An error body of the distribution specification.
pub fn error_body(code: &str, message: &str) -> Vec<u8> {
    let mut escaped = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    format!("{{\"errors\":[{{\"code\":\"{code}\",\"message\":\"{escaped}\",\"detail\":null}}]}}\n")
        .into_bytes()
}

/// Reason phrase of the statuses that a node uses.
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> ResponseHead {
        ResponseHead::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_written_head_is_read_back() {
        let digest = Digest::from_bytes([7; 32]);
        let mut out = Vec::new();
        Answer {
            status: 206,
            length: 6,
            content_type: "application/octet-stream",
            digest: Some(&digest),
            part: Some((4, 10)),
            keep_alive: false,
            extra: "",
        }
        .write(&mut out);
        let (head, length) = ResponseHead::parse(&out).unwrap().unwrap();
        assert_eq!(length, out.len());
        assert_eq!(head.content_range, Some((4, 9, 10)));
        assert_eq!(head.blob_size_from(4), Some(10));
        assert_eq!(head.blob_size_from(0), None);
        assert!(!head.keep_alive);
    }

    #[test]
    fn only_blobs_offer_ranges() {
        let head = |content_type: &str| {
            let mut out = Vec::new();
            let digest = Digest::from_bytes([7; 32]);
            let (digest, part, keep_alive, extra) = (Some(&digest), None, true, "");
            Answer { status: 200, length: 6, content_type, digest, part, keep_alive, extra }
                .write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert!(head(BLOB_TYPE).contains("Accept-Ranges: bytes\r\n"));
        assert!(!head("application/vnd.oci.image.manifest.v1+json").contains("Accept-Ranges"));
    }

    #[test]
    fn what_counts_as_the_blob() {
        let whole = parse("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
        assert_eq!(whole.blob_size_from(0), Some(10));
        assert_eq!(whole.blob_size_from(4), None, "an upstream that ignores the range");
        let short = parse("HTTP/1.1 206 P\r\nContent-Range: bytes 4-7/10\r\n\r\n");
        assert_eq!(short.blob_size_from(4), None, "a part that stops early");
        let lie =
            parse("HTTP/1.1 206 P\r\nContent-Length: 3\r\nContent-Range: bytes 4-9/10\r\n\r\n");
        assert_eq!(lie.blob_size_from(4), None);
        let chunked = parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(chunked.blob_size_from(0), None);
        let twice = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert!(ResponseHead::parse(twice).is_err());
    }

    #[test]
    fn error_bodies_are_json_whatever_the_message() {
        let body = String::from_utf8(error_body("X", "a \"b\" \\ \n")).unwrap();
        assert!(body.contains(r#""message":"a \"b\" \\  ""#), "{body}");
    }
}
