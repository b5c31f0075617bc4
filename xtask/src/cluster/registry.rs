//! What a `docker-registry` is told, and what its access log tells of whom it has served.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// How the registry of a lab differs from the plainest one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Whether every request is written into its log, for [`served`] to read.
    pub(crate) access_log: bool,
    /// The `auth` section, as YAML in one line.
    pub(crate) auth: Option<String>,
    /// Certificate and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// The certificate of the authority behind that, which its nodes are to trust.
    pub(crate) authority: Option<PathBuf>,
}

impl Settings {
    /// The configuration file.
    pub(crate) fn text(&self, address: &str, root: &Path) -> String {
        let quiet = !self.access_log;
        let auth = self.auth.as_ref().map(|auth| format!("auth: {auth}\n")).unwrap_or_default();
        let tls = self.tls.as_ref().map(|(certificate, key)| {
            let (certificate, key) = (certificate.display(), key.display());
            format!(", tls: {{certificate: {certificate}, key: {key}}}")
        });
        let tls = tls.unwrap_or_default();
        format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: {quiet}}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             {auth}http: {{addr: \"{address}\", secret: lab{tls}}}\n",
            root.display()
        )
    }
}

/// One request that the registry has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// The address of the client.
    pub(crate) client: String,
    /// The method and the path with its query.
    pub(crate) request: String,
    /// The status code.
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) bytes: u64,
    /// What the client calls itself.
    pub(crate) agent: String,
}

impl Served {
    /// Whether it was given what it had asked for.
    pub(crate) fn is_good(&self) -> bool {
        self.status < 300
    }

    /// Whether a blob's bytes were sent.
    pub(crate) fn is_blob(&self) -> bool {
        self.is_good() && self.is_for_blob()
    }

    /// Whether a blob's bytes were asked for.
    pub(crate) fn is_for_blob(&self) -> bool {
        self.request.starts_with("GET ") && self.request.contains("/blobs/sha256:")
    }
}

/// The requests in a log, in the order of their ends; other lines are left out.
pub(crate) fn served(log: &str) -> Result<Vec<Served>> {
    let requests = log.lines().filter(|line| line.contains("] \"") && line.contains(" HTTP/1."));
    requests.map(|line| parse(line).with_context(|| format!("in the access log: {line}"))).collect()
}

/// A line of the combined log format.
fn parse(line: &str) -> Option<Served> {
    let client = line.split(' ').next()?.to_owned();
    let mut quoted = line.split('"').skip(1);
    let request = quoted.next()?.rsplit_once(' ')?.0.to_owned();
    let mut numbers = quoted.next()?.split_whitespace();
    let status = numbers.next()?.parse().ok()?;
    let bytes = numbers.next()?.parse().ok()?;
    Some(Served { client, request, status, bytes, agent: quoted.nth(2)?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_access_log_are_read() {
        let log = "time=\"x\" level=warning msg=\"y\"\n\
                   10.77.0.3 - - [01/Jan/2026 +0000] \"GET /v2/a/blobs/sha256:00 \
                   HTTP/1.1\" 206 17 \"\" \"xylemd/0.1.0\"\n";
        let served = served(log).unwrap();
        assert_eq!(
            served,
            [Served {
                client: "10.77.0.3".into(),
                request: "GET /v2/a/blobs/sha256:00".into(),
                status: 206,
                bytes: 17,
                agent: "xylemd/0.1.0".into(),
            }]
        );
        assert!(served[0].is_blob());
    }
}
