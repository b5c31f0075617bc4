//! What tags named last, for the time in which their registry cannot be asked. Off unless the
//! operator gives a time; what is given out so is marked. Kept in the store over a restart.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use tracing::warn;
use xylem_protocol::Digest;
use xylem_protocol::limits::{TAGS_REMEMBERED_MAX, TAGS_WRITE_MS};

use super::Agent;
use crate::lru::Lru;
use crate::origin::Repository;
use crate::store::KeptTag;

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
    /// When it was noted here, and how long before that the registry has said so.
    when: Instant,
    before: Duration,
    /// Whether it was given out unconfirmed since.
    stale: bool,
}

impl Named {
    fn age(&self) -> Duration {
        self.before + self.when.elapsed()
    }
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
    /// Whether something is not written down yet.
    changed: Cell<bool>,
}

impl Tags {
    /// Remembers what was kept.
    pub(super) fn new(kept: Vec<KeptTag>) -> Self {
        let mut named = Lru::new(TAGS_REMEMBERED_MAX);
        for tag in kept {
            let (Some(before), Ok(digest)) = (tag.age(), tag.digest.parse()) else { continue };
            let known = Named { digest, when: Instant::now(), before, stale: false };
            named.insert((tag.name, tag.tag, tag.accept), known);
        }
        Self { named: RefCell::new(named), changed: Cell::new(false) }
    }

    /// What is to be kept.
    fn kept(&self) -> Vec<KeptTag> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let keep = |((name, tag, accept), named): (&(String, String, String), &Named)| KeptTag {
            name: name.clone(),
            tag: tag.clone(),
            accept: accept.clone(),
            digest: named.digest.to_string(),
            unix_s: now.saturating_sub(named.age()).as_secs(),
        };
        self.named.borrow().iter().map(keep).collect()
    }

    /// The registry has said what a tag names.
    pub(super) fn note(&self, repository: &Repository, tag: &str, accept: &str, digest: Digest) {
        let key = (repository.label(), tag.to_owned(), accept.to_owned());
        let named = Named { digest, when: Instant::now(), before: Duration::ZERO, stale: false };
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
        let age = named.age();
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
            age: named.age(),
        };
        stale.map(of).collect()
    }
}

impl Agent {
    /// The registry has said what a tag names; it is written down in a while, where it will be
    /// asked for.
    pub(super) fn note_tag(
        self: &Rc<Self>,
        repository: &Repository,
        tag: &str,
        accept: &str,
        digest: Digest,
    ) {
        self.tags.note(repository, tag, accept, digest);
        let is_kept = !self.access.settings.offline.is_zero();
        if is_kept && !self.tags.changed.replace(true) {
            let agent = self.clone();
            tokio_uring::spawn(async move {
                tokio::time::sleep(Duration::from_millis(TAGS_WRITE_MS)).await;
                agent.keep_tags().await;
            });
        }
    }

    /// Writes down what is not yet.
    pub(super) async fn keep_tags(&self) {
        if !self.tags.changed.replace(false) {
            return;
        }
        let (store, kept) = (self.store.clone(), self.tags.kept());
        if let Ok(Err(error)) = spawn_blocking(move || store.keep_tags(kept)).await {
            warn!(%error, "cannot write down what tags name");
        }
    }
}
