//! What tags named last, for the time in which their registry cannot be asked. Off unless the
//! operator gives a time; what is given out so is marked.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use xylem_protocol::Digest;
use xylem_protocol::limits::TAGS_REMEMBERED_MAX;

use crate::lru::Lru;
use crate::origin::Repository;

/// A tag's digest that the registry did not confirm now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stale {
    /// How long ago it did.
    pub(super) age: Duration,
}

impl Stale {
    /// The header line that says so (RFC 7234 §5.5.1).
    pub(super) fn warning(self) -> String {
        let seconds = self.age.as_secs();
        format!("Warning: 110 xylem \"registry unreachable, tag as of {seconds} s ago\"\r\n")
    }
}

#[derive(Debug)]
struct Named {
    digest: Digest,
    when: Instant,
    /// Whether it was given out unconfirmed since.
    stale: bool,
}

/// For `status`: a tag that was given out unconfirmed.
#[derive(Debug)]
pub(super) struct StaleTag {
    pub(super) image: String,
    pub(super) digest: Digest,
    pub(super) age: Duration,
}

/// What tags named last, by repository, tag and accepted types.
#[derive(Debug)]
pub(super) struct Tags {
    named: RefCell<Lru<(String, String, String), Named>>,
}

impl Default for Tags {
    fn default() -> Self {
        Self { named: RefCell::new(Lru::new(TAGS_REMEMBERED_MAX)) }
    }
}

impl Tags {
    /// The registry has said what a tag names.
    pub(super) fn note(&self, repository: &Repository, tag: &str, accept: &str, digest: Digest) {
        let key = (repository.label(), tag.to_owned(), accept.to_owned());
        let named = Named { digest, when: Instant::now(), stale: false };
        self.named.borrow_mut().insert(key, named);
    }

    /// What it said last, if that is not longer ago than `patience`.
    pub(super) fn recall(
        &self,
        repository: &Repository,
        tag: &str,
        accept: &str,
        patience: Duration,
    ) -> Option<(Digest, Stale)> {
        let key = (repository.label(), tag.to_owned(), accept.to_owned());
        let mut named = self.named.borrow_mut();
        let named = named.get(&key)?;
        let age = named.when.elapsed();
        if age > patience {
            return None;
        }
        named.stale = true;
        Some((named.digest, Stale { age }))
    }

    /// The tags that were given out unconfirmed and still are.
    pub(super) fn stale(&self) -> Vec<StaleTag> {
        let named = self.named.borrow();
        let stale = named.iter().filter(|(_, named)| named.stale);
        let of = |((name, tag, _), named): (&(String, String, String), &Named)| StaleTag {
            image: format!("{name}:{tag}"),
            digest: named.digest,
            age: named.when.elapsed(),
        };
        stale.map(of).collect()
    }
}
