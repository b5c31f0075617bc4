//! A pull as `GET /xylem/v1/images/…` shows it. Reads the history, never changes it.

use serde::Serialize;
use xylem_protocol::Digest;
use xylem_protocol::limits::UNIT_BYTES;

use super::{Asker, Fetch, History, Image, REGISTRY};
use crate::hops::Verdict;

/// The last pull of an image.
#[derive(Debug, Serialize)]
pub(in crate::agent) struct ImageView {
    /// Digest of its manifest, which names its tree.
    pub(in crate::agent) image: String,
    /// Repository, with its registry where that is not the default one.
    name: String,
    /// The tag that led to it.
    tag: Option<String>,
    /// The index that led to it.
    index: Option<String>,
    /// `runtime`, `pull`, `preheat`, or the name of a node below.
    asked_by: String,
    /// `running`, `done`, `partial` (not all was asked for), `failed`.
    state: &'static str,
    /// `CLOCK_MONOTONIC`.
    start_ns: u64,
    /// When the last blob was complete.
    end_ns: Option<u64>,
    /// Since its start.
    age_s: f64,
    total_bytes: u64,
    peer_bytes: u64,
    registry_bytes: u64,
    /// That were here already.
    disk_bytes: u64,
    /// Who was above this node, in order.
    parents: Vec<String>,
    blobs: Vec<BlobView>,
}

/// One of its blobs.
#[derive(Debug, Serialize)]
pub(in crate::agent) struct BlobView {
    digest: String,
    size: u64,
    /// `here` before the pull, `done`, `running`, `failed`, or `unasked`.
    state: &'static str,
    peer_bytes: u64,
    registry_bytes: u64,
    disk_bytes: u64,
    /// Since the pull's start.
    start_ms: Option<f64>,
    /// Since the blob's own start: its wait for a turn is in it.
    first_byte_ms: Option<f64>,
    /// From the blob's start to its commit.
    seconds: Option<f64>,
    /// Sources lost.
    retries: u32,
    /// What limited the hop that it came over last: `sender`, `network`, `receiver`.
    limited_by: &'static str,
    /// Most at once.
    readers: u32,
    error: Option<String>,
    /// In the order in which they were asked. Of a blob that is `here`, those of its earlier fetch.
    sources: Vec<SourceView>,
}

#[derive(Debug, Serialize)]
struct SourceView {
    /// A node, or `registry`.
    upstream: String,
    /// The stripe that it brings; none: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    stripe: Option<u8>,
    /// Offset of its first byte, in the stripe if it brings one.
    from: u64,
    bytes: u64,
    /// Why it was left.
    lost: Option<String>,
}

impl History {
    /// The last pull of an image. `held` is what the store says of a blob's size, `limit` what
    /// limits the hop from a source now: asked for blobs that were over before that could be told.
    pub(in crate::agent) fn view(
        &self,
        digest: &Digest,
        held: impl Fn(&Digest) -> Option<u64>,
        limit: impl Fn(&str) -> Verdict,
        now_ns: u64,
    ) -> Option<ImageView> {
        let image = self.images.peek(digest)?;
        let blob = |&(blob, size): &(Digest, u64)| {
            let fetch = self.fetches.peek(&blob);
            let is_starting = self.starting.contains_key(&blob);
            let is_held = held(&blob).is_some();
            let view = BlobView::new(image, &blob, size, fetch, is_starting, is_held);
            view.limited(fetch, &limit)
        };
        let blobs: Vec<BlobView> = image.blobs.iter().map(blob).collect();
        let sum = |of: fn(&BlobView) -> u64| blobs.iter().map(of).sum();
        let ends = image.blobs.iter().filter_map(|(blob, _)| self.fetches.peek(blob)?.end_ns);
        let end_ns = ends.filter(|end| *end >= image.start_ns).max();
        let state = state(&blobs);
        Some(ImageView {
            image: digest.to_string(),
            name: image.repository.clone(),
            tag: image.tag.clone(),
            index: image.index.map(|index| index.to_string()),
            asked_by: asker(&image.by),
            start_ns: image.start_ns,
            end_ns: end_ns.filter(|_| state != "running"),
            age_s: ms(now_ns.saturating_sub(image.start_ns)) / 1000.0,
            state,
            total_bytes: sum(|blob| blob.size),
            peer_bytes: sum(|blob| blob.peer_bytes),
            registry_bytes: sum(|blob| blob.registry_bytes),
            disk_bytes: sum(|blob| blob.disk_bytes),
            parents: image.parents.iter().map(|parent| parent.to_string()).collect(),
            blobs,
        })
    }
}

impl BlobView {
    fn new(
        image: &Image,
        digest: &Digest,
        size: u64,
        fetch: Option<&Fetch>,
        is_starting: bool,
        is_held: bool,
    ) -> Self {
        let is_of_pull =
            |fetch: &&Fetch| fetch.end_ns.is_none_or(|end_ns| end_ns >= image.start_ns);
        let mine = fetch.filter(is_of_pull);
        let state = match mine {
            _ if is_starting => "running",
            Some(Fetch { end_ns: None, .. }) => "running",
            Some(Fetch { error: Some(_), .. }) if !is_held => "failed",
            Some(_) => "done",
            None if is_held => "here",
            None => "unasked",
        };
        let (mut peer_bytes, mut registry_bytes) = (0, 0);
        for origin in mine.iter().flat_map(|fetch| &fetch.origins) {
            let bytes = origin.to - origin.from;
            *(if &*origin.upstream == REGISTRY { &mut registry_bytes } else { &mut peer_bytes }) +=
                bytes;
        }
        let origins = fetch.iter().flat_map(|fetch| &fetch.origins);
        let sources = origins.map(|origin| SourceView {
            upstream: origin.upstream.to_string(),
            stripe: origin.stripe,
            from: origin.from,
            bytes: origin.to - origin.from,
            lost: origin.lost.as_deref().map(str::to_owned),
        });
        let sources: Vec<SourceView> = sources.collect();
        let is_lost = |source: &&SourceView| mine.is_some() && source.lost.is_some();
        let lost = sources.iter().filter(is_lost).count();
        let retries = u32::try_from(lost).unwrap_or(u32::MAX);
        let end_ns = mine.and_then(|fetch| fetch.end_ns);
        Self {
            digest: digest.to_string(),
            size,
            state,
            peer_bytes,
            registry_bytes,
            disk_bytes: match mine {
                Some(fetch) => fetch.resumed,
                None if is_held => size,
                None => 0,
            },
            start_ms: mine.map(|fetch| ms(fetch.start_ns.saturating_sub(image.start_ns))),
            first_byte_ms: mine.and_then(Fetch::first_byte_after_ns).map(ms),
            seconds: end_ns
                .zip(mine)
                .map(|(end_ns, fetch)| ms(end_ns.saturating_sub(fetch.start_ns)) / 1000.0),
            retries: retries + mine.map_or(0, |fetch| fetch.forgotten),
            limited_by: mine.map_or("unknown", |fetch| fetch.verdict.as_str()),
            readers: mine.map_or(0, |fetch| fetch.readers),
            error: mine.and_then(|fetch| fetch.error.as_deref()).map(str::to_owned),
            sources,
        }
    }
}

impl BlobView {
    /// Less than a unit is over before anything limits it.
    fn limited(self, fetch: Option<&Fetch>, limit: impl Fn(&str) -> Verdict) -> Self {
        let last = fetch.and_then(|fetch| fetch.origins.last()).filter(|_| self.state == "done");
        match last {
            Some(last) if self.limited_by == "unknown" && self.size >= u64::from(UNIT_BYTES) => {
                Self { limited_by: limit(&last.upstream).as_str(), ..self }
            }
            _ => self,
        }
    }
}

impl Fetch {
    fn first_byte_after_ns(&self) -> Option<u64> {
        Some(self.first_byte_ns?.saturating_sub(self.start_ns))
    }
}

fn state(blobs: &[BlobView]) -> &'static str {
    let any = |state| blobs.iter().any(|blob| blob.state == state);
    match () {
        () if any("running") => "running",
        () if any("failed") => "failed",
        () if any("unasked") => "partial",
        () => "done",
    }
}

fn asker(by: &Asker) -> String {
    match by {
        Asker::Runtime => "runtime".to_owned(),
        Asker::Pull => "pull".to_owned(),
        Asker::Preheat => "preheat".to_owned(),
        Asker::Node(name) => format!("node {name}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time for people, in 53 bits")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
