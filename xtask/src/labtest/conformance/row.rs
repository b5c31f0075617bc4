//! One row of the table: a request, what the specification wants, how two servers answered, and
//! whether a difference has a reason. Asks nobody.

use sha2::{Digest, Sha256};

use super::wire::Reply;
use crate::cluster::image::hex;

/// Headers that a client acts on.
const HEADERS: [&str; 10] = [
    "content-type",
    "content-length",
    "docker-content-digest",
    "docker-distribution-api-version",
    "content-range",
    "accept-ranges",
    "link",
    "etag",
    "oci-filters-applied",
    "www-authenticate",
];
/// Those that matter where the answer is an error: its text is everybody's own.
const ERROR_HEADERS: [&str; 3] =
    ["docker-distribution-api-version", "content-range", "www-authenticate"];
/// Any part may differ.
pub(super) const ANY: &[&str] = &["*"];

/// Who is another than the specification, or than the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The registry is not as the specification has it; the node is.
    RegistryDeparts,
    /// The node means to be different where the specification leaves it open.
    ByDesign,
}

/// A request and what is expected of the answers.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The section of the specification.
    pub(super) section: &'static str,
    /// For people.
    pub(super) what: String,
    /// Asked one after the other; all must hold.
    pub(super) methods: &'static [&'static str],
    /// Path and query.
    pub(super) path: String,
    /// Header lines.
    pub(super) headers: Vec<String>,
    /// Body of the request.
    pub(super) body: &'static [u8],
    status: u16,
    code: Option<&'static str>,
    content: Option<Vec<u8>>,
    differs: Option<(Why, &'static [&'static str], &'static str)>,
    note: &'static str,
}

impl Row {
    /// A GET that gets 200.
    pub(super) fn get(section: &'static str, what: impl Into<String>, path: &str) -> Self {
        Self {
            section,
            what: what.into(),
            methods: &["GET"],
            path: path.to_owned(),
            headers: Vec::new(),
            body: b"",
            status: 200,
            code: None,
            content: None,
            differs: None,
            note: "",
        }
    }

    /// Other methods than GET alone.
    pub(super) fn by(self, methods: &'static [&'static str]) -> Self {
        Self { methods, ..self }
    }

    /// GET, and HEAD with the same head.
    pub(super) fn and_head(self) -> Self {
        self.by(&["GET", "HEAD"])
    }

    /// One more header line.
    pub(super) fn header(mut self, line: impl Into<String>) -> Self {
        self.headers.push(line.into());
        self
    }

    /// A body that is sent along.
    pub(super) fn sending(self, body: &'static [u8]) -> Self {
        Self { body, ..self }
    }

    /// The status that the node has to answer with.
    pub(super) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// An error: status and code.
    pub(super) fn error(self, status: u16, code: &'static str) -> Self {
        Self { status, code: Some(code), ..self }
    }

    /// The bytes that the answer to a GET has to have.
    pub(super) fn content(self, content: &[u8]) -> Self {
        Self { content: Some(content.to_vec()), ..self }
    }

    /// These parts of the registry's answer are not as the specification has them.
    pub(super) fn registry_departs(
        self,
        parts: &'static [&'static str],
        how: &'static str,
    ) -> Self {
        Self { differs: Some((Why::RegistryDeparts, parts, how)), ..self }
    }

    /// These parts of the node's answer differ, for this reason.
    pub(super) fn by_design(self, parts: &'static [&'static str], reason: &'static str) -> Self {
        Self { differs: Some((Why::ByDesign, parts, reason)), ..self }
    }

    /// How the registry departs from the specification where the node passes its answer on.
    pub(super) fn noted(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    /// Compares two answers to one method.
    pub(super) fn judge(&self, method: &str, registry: &Reply, node: &Reply) -> Verdict {
        if let Err(wrong) = self.holds(method, node) {
            return Verdict::Wrong(wrong);
        }
        let parts = differing(registry, node);
        let allowed = |part: &&str| {
            self.differs.is_some_and(|(_, parts, _)| parts == ANY || parts.contains(part))
        };
        match (parts.iter().find(|part| !allowed(part)), self.differs) {
            (Some(part), _) => Verdict::Wrong(format!("{part} differs, and no reason is given")),
            (None, Some((why, ..))) if !parts.is_empty() => match why {
                Why::RegistryDeparts => Verdict::RegistryDeparts,
                Why::ByDesign => Verdict::ByDesign,
            },
            _ => Verdict::Same,
        }
    }

    /// A verdict in words, with the reason that was given for a difference.
    pub(super) fn in_words(&self, verdict: &Verdict) -> String {
        let reason = self.differs.map_or("", |(.., reason)| reason);
        match verdict {
            Verdict::Same if self.note.is_empty() => "same".to_owned(),
            Verdict::Same => format!("same; {}", self.note),
            Verdict::RegistryDeparts => format!("registry departs: {reason}"),
            Verdict::ByDesign => format!("by design: {reason}"),
            Verdict::Wrong(how) => format!("WRONG: {how}"),
        }
    }

    /// Whether the node's answer is what the specification wants.
    fn holds(&self, method: &str, node: &Reply) -> Result<(), String> {
        if node.status != self.status {
            return Err(format!("the node answers {}, not {}", node.status, self.status));
        }
        if let Some(fault) = &node.fault {
            return Err(format!("the node's answer is cut wrongly: {fault}"));
        }
        if node.header("location").is_some() {
            return Err("the node sends its client elsewhere".to_owned());
        }
        if method == "HEAD" {
            let length = node.header("content-length").and_then(|length| length.parse().ok());
            let expected = self.content.as_ref().map(Vec::len);
            if expected.is_some() && length != expected {
                return Err(format!("the node's length is {length:?}, not {expected:?}"));
            }
            return Ok(());
        }
        if self.code.is_some() && node.code().as_deref() != self.code {
            return Err(format!("the node's code is {:?}, not {:?}", node.code(), self.code));
        }
        match &self.content {
            Some(content) if *content != node.body => {
                let (got, wanted) = (digest(&node.body), digest(content));
                Err(format!("the node's bytes are {got}, not {wanted}"))
            }
            _ => Ok(()),
        }
    }
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Both answered the same.
    Same,
    /// They differ because the registry is not as the specification has it.
    RegistryDeparts,
    /// They differ as the row says.
    ByDesign,
    /// They differ without a reason, or the node is wrong.
    Wrong(String),
}

/// The parts in which two answers differ.
fn differing(registry: &Reply, node: &Reply) -> Vec<&'static str> {
    let mut parts = Vec::new();
    if registry.status != node.status {
        parts.push("status");
    }
    let failed = registry.status >= 400 || node.status >= 400;
    if failed {
        if registry.code() != node.code() {
            parts.push("code");
        }
    } else if registry.body != node.body {
        parts.push("body");
    }
    let headers = if failed { &ERROR_HEADERS[..] } else { &HEADERS[..] };
    // What a 304 repeats of the 200 is open (RFC 9110 §15.4.5), and has nothing new in it.
    let headers = if node.status == 304 { &headers[3..4] } else { headers };
    parts.extend(headers.iter().filter(|name| registry.plain(name) != node.plain(name)));
    parts
}

/// The first digits of a body's digest, and its length.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("{} ({} B)", &hex(&Sha256::digest(bytes))[..8], bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        Reply::parse("GET", text.as_bytes()).unwrap()
    }

    #[test]
    fn a_difference_needs_a_reason() {
        let registry = reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nEtag: \"x\"\r\n\r\nab");
        let node = reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
        let row = Row::get("", "", "/").content(b"ab");
        assert_eq!(row.judge("GET", &registry, &registry), Verdict::Same);
        assert!(matches!(row.judge("GET", &registry, &node), Verdict::Wrong(_)));
        let other = row.clone().by_design(&["link"], "why");
        assert!(matches!(other.judge("GET", &registry, &node), Verdict::Wrong(_)));
        let reasoned = row.by_design(&["etag"], "why");
        assert_eq!(reasoned.judge("GET", &registry, &node), Verdict::ByDesign);
        assert_eq!(reasoned.judge("GET", &registry, &registry), Verdict::Same);
    }

    #[test]
    fn a_wrong_node_is_wrong_whatever_the_reason() {
        let body = br#"{"errors":[{"code":"X"}]}"#;
        let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
        let node = reply(&(head + std::str::from_utf8(body).unwrap()));
        let row = Row::get("", "", "/").error(404, "X").by_design(ANY, "why");
        assert_eq!(row.judge("GET", &node, &node), Verdict::Same);
        let row = row.error(404, "Y");
        assert!(matches!(row.judge("GET", &node, &node), Verdict::Wrong(_)));
        let row = row.error(400, "X");
        assert!(matches!(row.judge("GET", &node, &node), Verdict::Wrong(_)));
        let away = reply("HTTP/1.1 200 OK\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
        let verdict = Row::get("", "", "/").by_design(ANY, "why").judge("GET", &away, &away);
        assert!(matches!(verdict, Verdict::Wrong(_)));
    }
}
