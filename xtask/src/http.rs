//! One HTTP/1.1 request over one connection, everything bounded; not a client for the world.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long a connect, a read or a write may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read into memory.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The head, as it came.
    pub(crate) head: String,
    /// The body, without chunking.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its name in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!("not JSON: {}", String::from_utf8_lossy(&self.body[..self.body.len().min(200)]))
        })
    }
}

/// `GET path` with these extra headers. Any status is an answer; only transport trouble fails.
pub(crate) fn get(to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    send(to, "GET", path, headers, b"")
}

/// Any request, its body in memory.
pub(crate) fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    let answer = raw(to, &[head.as_bytes(), body].concat())?;
    parse(&answer, method).with_context(|| format!("in the answer to {method} http://{to}{path}"))
}

/// Sends bytes as they are and returns all that comes back until the other side closes.
pub(crate) fn raw(to: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A server that refuses early closes before it has read everything: its answer still counts.
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    let received = Read::by_ref(&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    if answer.is_empty() {
        sent.with_context(|| format!("cannot send to {to}"))?;
        received.with_context(|| format!("cannot read from {to}"))?;
    }
    Ok(answer)
}

fn parse(answer: &[u8], method: &str) -> Result<Answer> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no end of head")?;
    let head = String::from_utf8(answer[..end].to_vec()).context("the head is not text")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in `{head}`"))?;
    let mut parsed = Answer { status, head, body: answer[end + 4..].to_vec() };
    if parsed.header("transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked")) {
        parsed.body = unchunk(&parsed.body)?;
    } else if let Some(length) = parsed.header("content-length") {
        let length: usize = length.parse().context("bad content-length")?;
        let got = parsed.body.len();
        ensure!(method == "HEAD" || got == length, "body of {got} bytes instead of {length}");
    }
    Ok(parsed)
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").context("cut chunk head")?;
        let size = std::str::from_utf8(&rest[..line])?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("bad chunk size")?;
        rest = &rest[line + 2..];
        if size == 0 {
            return Ok(body);
        }
        if rest.len() < size + 2 {
            bail!("cut chunk");
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        let answer =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(answer, "GET").unwrap().body, b"abcd");
    }

    #[test]
    fn a_short_body_is_an_error() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc";
        assert!(parse(answer, "GET").unwrap_err().to_string().contains("3 bytes instead of 4"));
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let answer = parse(b"HTTP/1.1 404 Not Found\r\nX-Y: z\r\n\r\n", "GET").unwrap();
        assert_eq!((answer.status, answer.header("x-y")), (404, Some("z")));
    }
}
