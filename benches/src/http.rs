//! As much HTTP/1.1 as the sender and the sinks need of each other; the daemon has a parser of its
//! own.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest request or response head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest answer that is fetched as a whole, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How long one may take to come.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A request as far as the sender understands it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// HEAD instead of GET.
    pub head_only: bool,
    /// The path asked for.
    pub path: String,
    /// The value of `Range`.
    pub range: Option<String>,
    /// The client wants the connection closed afterwards.
    pub close: bool,
}

/// Reads one request head; `None` when the client is done with the connection.
///
/// # Errors
/// The connection's, a head that is too long, or a method other than GET and HEAD.
pub fn read_request(from: &mut impl BufRead) -> Result<Option<Request>> {
    let mut head = from.take(HEAD_BYTES_MAX as u64);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let head_only = match words.next() {
        Some("GET") => false,
        Some("HEAD") => true,
        other => bail!("method not served: {}", other.unwrap_or("none")),
    };
    let path = words.next().context("request line without a path")?.to_owned();
    let mut request = Request { head_only, path, range: None, close: false };
    loop {
        line.clear();
        ensure!(head.read_line(&mut line)? > 0, "request head cut off or too long");
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(request));
        }
        let (name, value) = line.split_once(':').context("header line without a colon")?;
        if name.eq_ignore_ascii_case("range") {
            request.range = Some(value.trim().to_owned());
        } else if name.eq_ignore_ascii_case("connection") {
            request.close = value.trim().eq_ignore_ascii_case("close");
        }
    }
}

/// The first and one past the last byte of a single range over `size` bytes; `None` when no byte of
/// it exists.
#[must_use]
pub fn resolve_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (first.parse().ok()?, last.parse::<u64>().ok()?.saturating_add(1)),
    };
    let end = end.min(size);
    (start < end).then_some((start, end))
}

/// A response head as far as a sink understands it, and what came behind it.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// `Content-Length`.
    pub length: u64,
    /// The first bytes of the body, which arrived together with the head.
    pub body: Vec<u8>,
}

/// Asks for a path, and reads the response's head.
///
/// # Errors
/// The connection's, and a head that is too long or makes no sense.
pub fn get(stream: &mut (impl Read + Write), host: &str, path: &str) -> Result<Response> {
    ask(stream, host, &format!("GET {path}"), "*/*", "")
}

/// The same with any method, which stands before the path, media types to accept, and more lines
/// of the head, each with its end.
///
/// # Errors
/// As [`get`].
pub fn ask(
    stream: &mut (impl Read + Write),
    host: &str,
    what: &str,
    accept: &str,
    more: &str,
) -> Result<Response> {
    let request = format!("{what} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n{more}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut filled = 0;
    let end = loop {
        ensure!(filled < head.len(), "response head too long");
        let read = stream.read(&mut head[filled..])?;
        ensure!(read > 0, "connection closed before the response's head was complete");
        filled += read;
        if let Some(at) = head[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let body = head[end + 4..filled].to_vec();
    let text = std::str::from_utf8(&head[..end]).context("response head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status line")?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("response without Content-Length")?
        .1;
    Ok(Response { status: status.parse()?, length: length.trim().parse()?, body })
}

/// The body of an answer to a `GET` on a connection of its own.
///
/// # Errors
/// As [`get`]; any status but 200, or a body that is long or cut off.
pub fn fetch(from: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(from)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let answer = get(&mut stream, &from.to_string(), path)?;
    ensure!(answer.status == 200, "{path}: status {}", answer.status);
    ensure!(answer.length < ANSWER_BYTES_MAX, "{path}: {} bytes", answer.length);
    let mut body = answer.body;
    let left = answer.length.saturating_sub(body.len() as u64);
    stream.take(left).read_to_end(&mut body)?;
    ensure!(body.len() as u64 == answer.length, "{path}: the answer is cut off");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_request_and_then_the_end() {
        let text = "HEAD /v2/ HTTP/1.1\r\nHost: x\r\nrange: bytes=5-\r\nConnection: close\r\n\r\n";
        let mut from = text.as_bytes();
        let request = read_request(&mut from).unwrap().unwrap();
        assert!(request.head_only && request.close);
        assert_eq!((request.path.as_str(), request.range.as_deref()), ("/v2/", Some("bytes=5-")));
        assert_eq!(read_request(&mut from).unwrap(), None);
    }

    #[test]
    fn refuses_cut_and_endless_heads() {
        assert!(read_request(&mut "GET / HTTP/1.1\r\nHost".as_bytes()).is_err());
        let endless = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        assert!(read_request(&mut endless.as_bytes()).is_err());
    }

    #[test]
    fn resolves_every_form_of_range() {
        assert_eq!(resolve_range("bytes=0-0", 10), Some((0, 1)));
        assert_eq!(resolve_range("bytes=4-", 10), Some((4, 10)));
        assert_eq!(resolve_range("bytes=-3", 10), Some((7, 10)));
        assert_eq!(resolve_range("bytes=4-99", 10), Some((4, 10)));
        assert_eq!(resolve_range("bytes=10-", 10), None);
        assert_eq!(resolve_range("bytes=5-4", 10), None);
        assert_eq!(resolve_range("bytes=-0", 10), None);
        assert_eq!(resolve_range("units=0-1", 10), None);
    }
}
