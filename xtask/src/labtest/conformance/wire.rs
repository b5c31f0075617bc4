//! Requests and answers as they are on the wire, faults included: a client would hide them.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::http;

/// An answer, whole.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Status code.
    pub(super) status: u16,
    /// Head without its end.
    head: String,
    /// All that follows.
    pub(super) body: Vec<u8>,
    /// A body that is not as long as its head says.
    pub(super) fault: Option<String>,
}

impl Reply {
    /// Takes all bytes that came on a connection for one answer.
    pub(super) fn parse(method: &str, bytes: &[u8]) -> Result<Self> {
        let end =
            bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no end of head")?;
        let head = String::from_utf8(bytes[..end].to_vec()).context("the head is not text")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("no status in `{head}`"))?;
        let mut reply = Self { status, head, body: bytes[end + 4..].to_vec(), fault: None };
        let said = reply.header("content-length").and_then(|length| length.parse::<usize>().ok());
        let expected = if method == "HEAD" || status == 304 { Some(0) } else { said };
        let found = reply.body.len();
        if expected != Some(found) {
            reply.fault = Some(format!("{found} bytes instead of {expected:?}"));
        }
        Ok(reply)
    }

    /// The value of a header, by its name in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The same for a comparison: JSON has no charset (RFC 8259 §11), so a parameter that names one
    /// says nothing.
    pub(super) fn plain(&self, name: &str) -> Option<&str> {
        let json = |value| if value == "application/json; charset=utf-8" { JSON } else { value };
        self.header(name).map(json)
    }

    /// Status, code or length, and kind, in a few words.
    pub(super) fn summary(&self) -> String {
        let kind = self.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default();
        let kind = kind.trim_start_matches("application/").trim_start_matches("vnd.");
        let part = self.header("content-range").unwrap_or_default();
        match self.code() {
            Some(code) => format!("{} {code}", self.status),
            None if self.body.is_empty() => format!("{} {kind}", self.status),
            None => format!("{} {} B {kind} {part}", self.status, self.body.len()),
        }
    }

    /// The code of the first error in the body.
    pub(super) fn code(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.pointer("/errors/0/code")?.as_str()?.to_owned())
    }
}

const JSON: &str = "application/json";

/// Sends one request and takes all that comes back until the other side closes.
pub(super) fn ask(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[String],
    body: &[u8],
) -> Result<Reply> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    for line in headers {
        request += &format!("{line}\r\n");
    }
    if !body.is_empty() {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    let answer = http::raw(to, &[request.as_bytes(), body].concat())?;
    Reply::parse(method, &answer).with_context(|| format!("in the answer to {method} {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        let fault = |method, body: &str| {
            Reply::parse(method, format!("{head}{body}").as_bytes()).unwrap().fault
        };
        assert_eq!(fault("GET", "ab"), None);
        assert!(fault("GET", "a").is_some() && fault("GET", "abc").is_some());
        assert_eq!(fault("HEAD", ""), None);
        assert!(fault("HEAD", "ab").is_some(), "a HEAD has no body");
    }
}
