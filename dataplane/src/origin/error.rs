//! What can go wrong between a node and its upstream, with the answer that tells a client so.

use std::path::PathBuf;

use xylem_protocol::Digest;
use xylem_protocol::limits::MANIFEST_MAX;

/// Why the upstream did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// There is none.
    #[error("not here, and this node has no --upstream")]
    NoUpstream,
    /// No connection, or it broke.
    #[error("cannot reach {upstream}")]
    Unreachable {
        /// Which.
        upstream: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A name that has no address.
    #[error("cannot find the address of {host}")]
    Lookup {
        /// Which.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// It did not answer in time.
    #[error("{0} did not answer in time")]
    Timeout(String),
    /// It does not have it.
    #[error("{upstream} has no {what}")]
    NotFound {
        /// Which.
        upstream: String,
        /// What was asked for.
        what: String,
    },
    /// It wants credentials, and this node has none.
    #[error("{upstream} refuses {what} (status {status}): credentials are missing or not enough")]
    Denied {
        /// Which.
        upstream: String,
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
        /// The registry's own answer, for the client.
        answer: Option<Box<super::Relayed>>,
    },
    /// Another status.
    #[error("{upstream} answered {status} for {what}")]
    Status {
        /// Which.
        upstream: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
    },
    /// A manifest beyond the bound.
    #[error("{what} of {upstream} is larger than {MANIFEST_MAX} bytes")]
    TooLarge {
        /// Which.
        upstream: String,
        /// What was asked for.
        what: String,
    },
    /// A manifest that is not the one that was asked for.
    #[error("{upstream} sent {actual} for {expected}")]
    Digest {
        /// Which.
        upstream: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// An answer that makes no sense.
    #[error("{upstream} sent {what} that cannot be used")]
    Malformed {
        /// Which.
        upstream: String,
        /// What.
        what: &'static str,
    },
    /// A blob of another range or size than asked for.
    #[error("{0} answered with another range than asked for")]
    Range(String),
    /// Not an OCI layout.
    #[error("{} is not an OCI layout", path.display())]
    Layout {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate file that cannot be used.
    #[error("cannot use the certificates of {}", path.display())]
    Certificates {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// No TLS at all.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// No HTTP client.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// A task of ours died.
    #[error("interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl OriginError {
    /// Status of the answer to a client.
    pub const fn status(&self) -> u16 {
        match self {
            Self::NoUpstream | Self::NotFound { .. } => 404,
            Self::Denied { status, .. } => *status,
            Self::Timeout(_) => 504,
            Self::Status { status: 429, .. } => 429,
            Self::Interrupted(_) => 500,
            _ => 502,
        }
    }

    /// Error code of the distribution specification; `unknown` is the one for a thing that is not
    /// there.
    pub const fn code(&self, unknown: &'static str) -> &'static str {
        match self.status() {
            404 => unknown,
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        }
    }

    /// Whether another try may help.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout(_) | Self::Lookup { .. } | Self::Range(_) => {
                true
            }
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }

    pub(super) fn request(upstream: &str, source: reqwest::Error) -> Self {
        if source.is_timeout() {
            Self::Timeout(upstream.to_owned())
        } else {
            // The URL stands in our own sentence already.
            Self::Unreachable { upstream: upstream.to_owned(), source: source.without_url() }
        }
    }

    pub(super) fn status_of(upstream: &str, what: String, status: u16) -> Self {
        let upstream = upstream.to_owned();
        match status {
            404 => Self::NotFound { upstream, what },
            401 | 403 => Self::Denied { upstream, what, status, answer: None },
            _ => Self::Status { upstream, what, status },
        }
    }
}
