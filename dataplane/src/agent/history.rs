//! What happened to the images that were pulled lately, for `xylem explain`. State only: the agent
//! tells it what it does, with the time; it asks and decides nothing.
//!
//! A *pull* of an image begins when somebody asks for its manifest and nothing has happened to it
//! for a while. A *fetch* of a blob belongs to whatever pull it fell into: a blob that was fetched
//! before the pull began was here already. So a blob that two images share is told right for both.

mod view;

use std::collections::HashMap;
use std::sync::Arc;

use xylem_protocol::Digest;
use xylem_protocol::limits::{
    FLOWS_MAX, HISTORY_BLOBS_MAX, HISTORY_IMAGES_MAX, HISTORY_NAMES_MAX, HISTORY_PARENTS_MAX,
    HISTORY_PAUSE_MS, HISTORY_REASON_MAX, HISTORY_SOURCES_MAX,
};
use xylem_protocol::names::Target;

use super::REGISTRY;
use xylem_protocol::stripe::offset_in_stripe;

use crate::hops::Verdict;
use crate::lru::Lru;
use crate::origin::{Descriptor, Document};

pub(super) use view::ImageView;

/// Who asked for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client of the mirror: a container runtime.
    Runtime,
    /// `xylem pull`.
    Pull,
    /// Control, for `xylem preheat`.
    Preheat,
    /// A node below this one.
    Node(String),
}

/// A manifest or index that was given to somebody.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) digest: Digest,
    /// What stands in it.
    pub(super) document: &'a Document,
    /// Repository, with its registry where that is not the default one.
    pub(super) repository: String,
    pub(super) by: Asker,
    /// When it was asked for.
    pub(super) at_ns: u64,
}

/// The last pull of one image.
#[derive(Debug)]
struct Image {
    repository: String,
    tag: Option<String>,
    /// The index that names it.
    index: Option<Digest>,
    by: Asker,
    start_ns: u64,
    /// When it was last asked for, or a blob of its was.
    last_ns: u64,
    /// Who was above this node when a blob was asked for: `registry` at the root.
    parents: Vec<Arc<str>>,
    /// With their sizes.
    blobs: Vec<(Digest, u64)>,
}

/// Bytes from one source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    upstream: Arc<str>,
    /// The stripe that it brings; `None`: everything.
    stripe: Option<u8>,
    /// Where it began, in the stripe if it brings one.
    from: u64,
    /// Where it has come to.
    to: u64,
    lost: Option<Box<str>>,
}

/// The last fetch of one blob.
#[derive(Debug)]
struct Fetch {
    start_ns: u64,
    first_byte_ns: Option<u64>,
    end_ns: Option<u64>,
    size: u64,
    /// Bytes that were here from an earlier try.
    resumed: u64,
    origins: Vec<Origin>,
    /// Origins that had to go for later ones.
    forgotten: u32,
    readers: u32,
    verdict: Verdict,
    error: Option<Box<str>>,
}

impl Fetch {
    fn new(start_ns: u64) -> Self {
        Self {
            start_ns,
            first_byte_ns: None,
            end_ns: None,
            size: 0,
            resumed: 0,
            origins: Vec::new(),
            forgotten: 0,
            readers: 0,
            verdict: Verdict::Unknown,
            error: None,
        }
    }

    /// All before a place in the blob has come, or all of a stripe before it.
    fn reached(&mut self, stripe: Option<u8>, at: u64) {
        if let Some(origin) = self.last(stripe) {
            origin.to = within(stripe, at).max(origin.from);
        }
    }

    /// The same of whatever it consists of.
    fn reached_by_all(&mut self, at: u64, edges: [u64; 2]) {
        if self.last(Some(0)).is_none() && self.last(Some(1)).is_none() {
            return self.reached(None, at);
        }
        self.reached(Some(0), edges[0]);
        self.reached(Some(1), edges[1]);
    }

    fn last(&mut self, stripe: Option<u8>) -> Option<&mut Origin> {
        self.origins.iter_mut().rfind(|origin| origin.stripe == stripe)
    }
}

/// A place in the blob as one in what a source brings.
fn within(stripe: Option<u8>, at: u64) -> u64 {
    stripe.map_or(at, |stripe| offset_in_stripe(at, stripe))
}

/// All that is remembered.
#[derive(Debug)]
pub(super) struct History {
    images: Lru<Digest, Image>,
    fetches: Lru<Digest, Fetch>,
    /// When the blobs began that have no source yet.
    starting: HashMap<Digest, u64>,
    /// The tag that last named a digest.
    tags: Lru<Digest, (String, String)>,
    /// The index that last named an image.
    indexes: Lru<Digest, Digest>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            images: Lru::new(HISTORY_IMAGES_MAX),
            fetches: Lru::new(HISTORY_BLOBS_MAX),
            starting: HashMap::new(),
            tags: Lru::new(HISTORY_NAMES_MAX),
            indexes: Lru::new(HISTORY_NAMES_MAX),
        }
    }
}

impl History {
    /// A tag of a repository names a digest.
    pub(super) fn named(&mut self, digest: Digest, repository: String, tag: &str) {
        self.tags.insert(digest, (repository, tag.to_owned()));
    }

    /// Somebody got a manifest or an index.
    pub(super) fn given(&mut self, given: Given<'_>) {
        let Given { digest, document, repository, by, at_ns } = given;
        let blobs = match document {
            Document::Index(images) => {
                for (image, _) in images.iter().take(HISTORY_NAMES_MAX / 2) {
                    self.indexes.insert(image.digest, digest);
                }
                return;
            }
            Document::Image(blobs) => blobs,
        };
        let index = self.indexes.peek(&digest).copied();
        let named = |digest: &Digest| match self.tags.peek(digest) {
            Some((of, tag)) if *of == repository => Some(tag.clone()),
            _ => None,
        };
        let tag = named(&digest).or_else(|| index.as_ref().and_then(named));
        let is_below = matches!(by, Asker::Node(_));
        let goes_on = is_below || self.is_going_on(&digest, at_ns);
        if let Some(image) = self.images.get(&digest).filter(|_| goes_on) {
            // Who is below asks because of a pull there: what happened here stays to be told.
            if !is_below {
                image.last_ns = image.last_ns.max(at_ns);
            }
            image.tag = tag.or_else(|| image.tag.take());
            image.index = index.or(image.index);
            return;
        }
        let (start_ns, last_ns, parents) = (at_ns, at_ns, Vec::new());
        let blobs = distinct(blobs);
        let image = Image { repository, tag, index, by, start_ns, last_ns, parents, blobs };
        self.images.insert(digest, image);
        while self.images.iter().map(|(_, image)| image.blobs.len()).sum::<usize>()
            > HISTORY_BLOBS_MAX
            && self.images.len() > 1
        {
            self.images.pop();
        }
    }

    /// A blob is to be fetched, or found to be here.
    pub(super) fn began(&mut self, blob: Digest, at_ns: u64) {
        if self.starting.len() < usize::from(FLOWS_MAX) {
            self.starting.insert(blob, at_ns);
        }
    }

    /// It is here already.
    pub(super) fn present(&mut self, blob: &Digest) {
        self.starting.remove(blob);
    }

    /// A source is asked for what comes from `at` on; `parent` is who is above in the blob's tree.
    pub(super) fn asks(
        &mut self,
        blob: Digest,
        image: Option<&Digest>,
        parent: Option<&Arc<str>>,
        upstream: &Arc<str>,
        (stripe, at): (Option<u8>, u64),
    ) {
        if let Some(start_ns) = self.starting.remove(&blob) {
            let fetch = Fetch { resumed: at, ..Fetch::new(start_ns) };
            self.fetches.insert(blob, fetch);
            if let Some(image) = image.and_then(|image| self.images.get(image)) {
                image.last_ns = image.last_ns.max(start_ns);
            }
        }
        if let (Some(image), Some(parent)) =
            (image.and_then(|image| self.images.get(image)), parent)
            && image.parents.last() != Some(parent)
            && image.parents.len() < HISTORY_PARENTS_MAX
        {
            image.parents.push(parent.clone());
        }
        let Some(fetch) = self.fetches.get(&blob) else { return };
        match fetch.last(stripe) {
            // A redirect, or a token: still the same source.
            Some(last) if last.lost.is_none() && last.upstream == *upstream => return,
            _ => {}
        }
        if fetch.origins.len() == HISTORY_SOURCES_MAX {
            // The last ones tell how it ended, the first one how it began.
            fetch.origins.remove(1);
            fetch.forgotten += 1;
        }
        let (upstream, at) = (upstream.clone(), within(stripe, at));
        fetch.origins.push(Origin { upstream, stripe, from: at, to: at, lost: None });
    }

    /// The source in use is lost.
    pub(super) fn lost(&mut self, blob: &Digest, (stripe, at): (Option<u8>, u64), reason: &str) {
        let Some(fetch) = self.fetches.get(blob) else { return };
        fetch.reached(stripe, at);
        if let Some(origin) = fetch.last(stripe) {
            origin.lost = Some(short(reason));
        }
    }

    /// The source in use is left for another one.
    pub(super) fn left(&mut self, blob: &Digest, (stripe, at): (Option<u8>, u64)) {
        if let Some(fetch) = self.fetches.get(blob) {
            fetch.reached(stripe, at);
        }
    }

    /// Each stripe has a source of its own from here on.
    pub(super) fn split(&mut self, blob: &Digest, at: u64) {
        if let Some(fetch) = self.fetches.get(blob) {
            fetch.reached(None, at);
        }
    }

    /// How far a blob is, and each of its stripes.
    pub(super) fn moved(
        &mut self,
        blob: &Digest,
        (at, edges): (u64, [u64; 2]),
        readers: u32,
        first_byte_ns: u64,
    ) {
        let Some(fetch) = self.fetches.get(blob).filter(|fetch| fetch.end_ns.is_none()) else {
            return;
        };
        fetch.reached_by_all(at, edges);
        fetch.readers = fetch.readers.max(readers);
        fetch.first(first_byte_ns);
    }

    /// The present source of a blob: whose hop its verdict is about.
    pub(super) fn upstream_of(&self, blob: &Digest) -> Option<Arc<str>> {
        Some(self.fetches.peek(blob)?.origins.last()?.upstream.clone())
    }

    /// A blob is complete.
    pub(super) fn done(
        &mut self,
        blob: &Digest,
        size: u64,
        (first_byte_ns, readers): (u64, u32),
        verdict: Verdict,
        at_ns: u64,
    ) {
        let Some(fetch) = self.fetches.get(blob) else { return };
        fetch.reached_by_all(size, [size; 2]);
        fetch.first(first_byte_ns);
        fetch.readers = fetch.readers.max(readers);
        (fetch.size, fetch.verdict, fetch.end_ns) = (size, verdict, Some(at_ns));
    }

    /// A blob cannot be had.
    pub(super) fn failed(&mut self, blob: Digest, reason: &str, at_ns: u64) {
        if let Some(start_ns) = self.starting.remove(&blob) {
            self.fetches.insert(blob, Fetch::new(start_ns));
        }
        let Some(fetch) = self.fetches.get(&blob) else { return };
        (fetch.error, fetch.end_ns) = (Some(short(reason)), Some(at_ns));
    }

    /// The image that was pulled last under a name.
    pub(super) fn find(&self, repository: &str, target: &Target) -> Option<Digest> {
        let is_meant = |(digest, image): &(&Digest, &Image)| {
            image.repository == repository
                && match target {
                    Target::Tag(tag) => image.tag.as_deref() == Some(tag),
                    Target::Digest(wanted) => {
                        **digest == *wanted || image.index.as_ref() == Some(wanted)
                    }
                }
        };
        let found = self.images.iter().filter(is_meant);
        found.max_by_key(|(_, image)| image.last_ns).map(|(digest, _)| *digest)
    }

    /// The image of a digest: its own, or the last one of the index that it names.
    pub(super) fn find_digest(&self, wanted: &Digest) -> Option<Digest> {
        if self.images.peek(wanted).is_some() {
            return Some(*wanted);
        }
        let of_index = self.images.iter().filter(|(_, image)| image.index.as_ref() == Some(wanted));
        of_index.max_by_key(|(_, image)| image.last_ns).map(|(digest, _)| *digest)
    }

    /// Whether a blob of an image is on its way, or something happened a short while ago.
    fn is_going_on(&self, image: &Digest, now_ns: u64) -> bool {
        let Some(image) = self.images.peek(image) else { return false };
        let is_recent = |last_ns: u64| now_ns < last_ns + HISTORY_PAUSE_MS * 1_000_000;
        let is_active = |(blob, _): &(Digest, u64)| {
            let fetched = self.fetches.peek(blob);
            self.starting.contains_key(blob)
                || fetched.is_some_and(|fetch| fetch.end_ns.is_none_or(is_recent))
        };
        is_recent(image.last_ns) || image.blobs.iter().any(is_active)
    }
}

impl Fetch {
    fn first(&mut self, at_ns: u64) {
        if at_ns > 0 && self.first_byte_ns.is_none() {
            self.first_byte_ns = Some(at_ns);
        }
    }
}

fn distinct(blobs: &[Descriptor]) -> Vec<(Digest, u64)> {
    let mut seen = std::collections::HashSet::new();
    let first = blobs.iter().filter(|blob| seen.insert(blob.digest));
    first.take(HISTORY_BLOBS_MAX).map(|blob| (blob.digest, blob.size)).collect()
}

/// A reason in one line of a bounded length.
fn short(reason: &str) -> Box<str> {
    let mut line = String::new();
    for c in reason.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > HISTORY_REASON_MAX {
            break;
        }
        line.push(c);
    }
    line.into()
}

#[cfg(test)]
mod tests;
