//! Pulls into the node's own store: started, followed and remembered for whoever polls them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::info;
use xylem_protocol::Digest;
use xylem_protocol::http::Request;
use xylem_protocol::limits::{PULL_BLOBS_MAX, PULL_WAIT_MAX_MS, PULLS_MAX};
use xylem_protocol::names::{Target, check_host, check_repository};

use super::Agent;
use super::access::caller;
use super::flows::{FlowAsk, Refusal};
use super::history::Asker;
use super::manifests::ManifestAsk;
use crate::clock::monotonic_ns;
use crate::origin::{
    ACCEPT_ALL, Credentials, Descriptor, Document, Manifest, Platform, Repository,
};

/// Where one pull is told of: this, and its number.
pub(super) const ONE: &str = "/xylem/v1/pulls/";

/// Body of `POST /xylem/v1/pulls`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PullAsk {
    /// Repository.
    pub(super) name: String,
    /// Tag or digest.
    pub(super) reference: String,
    /// `host[:port]` of the registry. Empty: the default one.
    #[serde(default)]
    pub(super) registry: String,
    /// `os/architecture`; default is this machine's.
    #[serde(default)]
    pub(super) platform: Option<String>,
}

/// A pull that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    repository: Repository,
    credentials: Credentials,
    target: Target,
    platform: Platform,
}

#[derive(Debug)]
struct Pull {
    wanted: Wanted,
    image: Option<Digest>,
    blobs: Vec<(Descriptor, bool)>,
    start_ns: u64,
    end_ns: Option<u64>,
    error: Option<String>,
    /// Wakes those who wait for its end.
    ended: Rc<Notify>,
}

/// All pulls, the latest ones.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    map: RefCell<BTreeMap<u64, Pull>>,
    last: Cell<u64>,
}

/// State of a pull, as `GET /xylem/v1/pulls/N` shows it.
#[derive(Debug, Serialize)]
pub(super) struct PullJson {
    id: u64,
    pub(super) state: &'static str,
    pub(super) error: Option<String>,
    pub(super) image: Option<String>,
    manifest: Option<String>,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: u64,
    blobs: Vec<PullBlobJson>,
    start_ns: u64,
    end_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
struct PullBlobJson {
    digest: String,
    size: u64,
    media_type: String,
    done_bytes: u64,
    complete: bool,
}

impl Pulls {
    fn with<T>(&self, id: u64, act: impl FnOnce(&mut Pull) -> T) -> Option<T> {
        self.map.borrow_mut().get_mut(&id).map(act)
    }

    /// A running pull of the same image, or a new one; `None` when too many run.
    fn add(&self, wanted: &Wanted) -> Option<(u64, bool)> {
        let mut map = self.map.borrow_mut();
        let same = map.iter().find(|(_, pull)| pull.end_ns.is_none() && pull.wanted == *wanted);
        if let Some((&id, _)) = same {
            return Some((id, false));
        }
        if map.len() >= PULLS_MAX {
            let oldest = map.iter().find(|(_, pull)| pull.end_ns.is_some()).map(|(&id, _)| id)?;
            map.remove(&oldest);
        }
        let id = self.last.get() + 1;
        self.last.set(id);
        let pull = Pull {
            wanted: wanted.clone(),
            image: None,
            blobs: Vec::new(),
            start_ns: monotonic_ns(),
            end_ns: None,
            error: None,
            ended: Rc::default(),
        };
        map.insert(id, pull);
        Some((id, true))
    }
}

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::new(400, "NAME_INVALID", message.into())
}

impl Agent {
    /// Starts a pull; returns its number.
    pub(super) fn pull(self: &Rc<Self>, request: &Request, body: &[u8]) -> Result<u64, Refusal> {
        let ask: PullAsk = serde_json::from_slice(body)
            .map_err(|error| bad_request(format!("body is no pull request: {error}")))?;
        let credentials = match &request.authorization {
            Some(_) => caller(request),
            None => Credentials::Node,
        };
        self.start_pull(ask, credentials, Asker::Pull)
    }

    /// Starts a pull, or joins a running one of the same image.
    pub(super) fn start_pull(
        self: &Rc<Self>,
        ask: PullAsk,
        credentials: Credentials,
        by: Asker,
    ) -> Result<u64, Refusal> {
        let wanted = self.check_pull(ask, credentials)?;
        let Some((id, is_new)) = self.pulls.add(&wanted) else {
            let message = format!("{PULLS_MAX} pulls are running already; try again");
            return Err(Refusal::new(503, "TOOMANYREQUESTS", message));
        };
        if is_new {
            let agent = self.clone();
            tokio_uring::spawn(async move {
                let outcome = agent.run_pull(id, &wanted, by).await;
                let state = if outcome.is_ok() { "done" } else { "failed" };
                let repository = wanted.repository.label();
                info!(id, repository, target = %wanted.target, state, "pull");
                agent.pulls.with(id, |pull| {
                    pull.end_ns = Some(monotonic_ns());
                    pull.error = outcome.err().map(|refusal| refusal.message);
                    pull.ended.notify_waiters();
                });
            });
        }
        Ok(id)
    }

    fn check_pull(&self, ask: PullAsk, credentials: Credentials) -> Result<Wanted, Refusal> {
        check_repository(&ask.name).map_err(|error| bad_request(error.to_string()))?;
        let target = ask.reference.parse().map_err(|error| bad_request(format!("{error}")))?;
        let host = Some(ask.registry.as_str()).filter(|host| !host.is_empty());
        if let Some(host) = host {
            check_host(host).map_err(|error| bad_request(error.to_string()))?;
        }
        let repository = self.find_repository(host, &ask.name)?;
        let platform = match &ask.platform {
            None => Platform::host(),
            Some(text) => Platform::parse(text)
                .ok_or_else(|| bad_request(format!("{text:?} is no platform: os/architecture")))?,
        };
        Ok(Wanted { repository, credentials, target, platform })
    }

    async fn run_pull(self: &Rc<Self>, id: u64, wanted: &Wanted, by: Asker) -> Result<(), Refusal> {
        let (image, blobs) = self.image(wanted, &by).await?;
        if wanted.credentials == Credentials::Node {
            let blobs = blobs.iter().map(|blob| blob.digest).collect();
            self.note_if_public(wanted.repository.clone(), image.digest, blobs);
        }
        self.pulls.with(id, |pull| {
            pull.image = Some(image.digest);
            pull.blobs = blobs.iter().map(|blob| (blob.clone(), false)).collect();
        });
        let mut rest = blobs.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < PULL_BLOBS_MAX
                && let Some(blob) = rest.next()
            {
                let (agent, repository) = (self.clone(), wanted.repository.clone());
                let image = image.digest;
                running
                    .spawn_local(async move { agent.pull_blob(id, image, repository, blob).await });
            }
            match running.join_next().await {
                None => {
                    // A pull that is done is in the store, its manifest too.
                    self.store_manifest(&image).await;
                    return Ok(());
                }
                Some(Ok(outcome)) => outcome?,
                Some(Err(_)) => return Err(interrupted()),
            }
        }
    }

    /// The image's manifest, which is then in the store, and its blobs.
    async fn image(
        self: &Rc<Self>,
        wanted: &Wanted,
        by: &Asker,
    ) -> Result<(Manifest, Vec<Descriptor>), Refusal> {
        let Wanted { repository, credentials, target, platform } = wanted;
        let asked_ns = monotonic_ns();
        let mut target = target.clone();
        let mut digest = match &target {
            Target::Tag(tag) => {
                let (digest, stale) =
                    self.resolve(repository, tag, ACCEPT_ALL, credentials).await?;
                if stale.is_some() && !self.is_anybodys(&digest) {
                    let message = "registry down: nobody says who may have this image".to_owned();
                    return Err(Refusal::new(503, "UNKNOWN", message));
                }
                digest
            }
            Target::Digest(digest) => *digest,
        };
        // An index, and the image that it names: no index names an index.
        for _ in 0..2 {
            let ask = ManifestAsk {
                repository: repository.clone(),
                digest,
                credentials: credentials.clone(),
                image: None,
                path: Vec::new(),
            };
            let manifest = self.manifest(&ask).await?;
            let document = Document::parse(&manifest.bytes);
            if let Some(document) = &document {
                let given = (digest, document);
                self.note_manifest(repository, &target, given, by.clone(), asked_ns);
            }
            if let Some(Document::Image(mut blobs)) = document {
                let mut seen = std::collections::HashSet::new();
                blobs.retain(|blob| seen.insert(blob.digest));
                return Ok((manifest, blobs));
            }
            let Some(index) = document else { break };
            let found = index.select(platform).map(|descriptor| descriptor.digest);
            digest = found.ok_or_else(|| {
                Refusal::new(
                    404,
                    "MANIFEST_UNKNOWN",
                    format!("{}@{digest} has no image for {platform}", repository.label()),
                )
            })?;
            target = Target::Digest(digest);
        }
        let name = repository.label();
        let message = format!("{name}@{digest} is neither an image nor an index of images");
        Err(Refusal::new(502, "MANIFEST_INVALID", message))
    }

    async fn pull_blob(
        self: Rc<Self>,
        id: u64,
        image: Digest,
        repository: Repository,
        blob: Descriptor,
    ) -> Result<(), Refusal> {
        let ask = FlowAsk { repository, image: Some(image), stripe: None, path: Vec::new() };
        let outcome = self.fetch(blob.digest, ask).await.map_err(|_| interrupted())?;
        let size = outcome.map_err(|refusal| (*refusal).clone())?;
        if size != blob.size {
            let message =
                format!("{} has {size} bytes, its manifest says {}", blob.digest, blob.size);
            return Err(Refusal::new(502, "SIZE_INVALID", message));
        }
        self.pulls.with(id, |pull| {
            for (descriptor, complete) in &mut pull.blobs {
                *complete |= descriptor.digest == blob.digest;
            }
        });
        Ok(())
    }

    /// State of a pull; with `?wait_ms=` only when it has ended, or so much later.
    pub(super) async fn pull_at(&self, path: &str, request: &Request) -> Result<PullJson, Refusal> {
        let id = path[ONE.len()..].parse().map_err(|_| Refusal::nothing_at(path))?;
        let wait = wait_of(request)?;
        let running = |pull: &mut Pull| pull.end_ns.is_none().then(|| pull.ended.clone());
        if let Some(ended) = self.pulls.with(id, running).flatten() {
            // Out of time is an answer too: how far it is.
            let _ = timeout(wait, ended.notified()).await;
        }
        self.pull_json(id).ok_or_else(|| Refusal::nothing_at(path))
    }

    /// State of a pull.
    pub(super) fn pull_json(&self, id: u64) -> Option<PullJson> {
        self.pulls.with(id, |pull| {
            let blobs: Vec<PullBlobJson> = pull
                .blobs
                .iter()
                .map(|(blob, complete)| {
                    let received =
                        || self.flows.with(&blob.digest, |flow| flow.received.min(blob.size));
                    let done_bytes = if *complete { blob.size } else { received().unwrap_or(0) };
                    PullBlobJson {
                        digest: blob.digest.to_string(),
                        size: blob.size,
                        media_type: blob.media_type.clone(),
                        done_bytes,
                        complete: *complete,
                    }
                })
                .collect();
            let image = pull.image.map(|image| image.to_string());
            PullJson {
                id,
                state: match (pull.end_ns, &pull.error) {
                    (None, _) => "running",
                    (_, None) => "done",
                    (_, Some(_)) => "failed",
                },
                error: pull.error.clone(),
                manifest: image.clone(),
                image,
                done_bytes: blobs.iter().map(|blob| blob.done_bytes).sum(),
                total_bytes: blobs.iter().map(|blob| blob.size).sum(),
                blobs,
                start_ns: pull.start_ns,
                end_ns: pull.end_ns,
            }
        })
    }
}

fn wait_of(request: &Request) -> Result<Duration, Refusal> {
    let Some(wait) = request.parameter("wait_ms") else { return Ok(Duration::ZERO) };
    match wait.parse() {
        Ok(ms) if ms <= PULL_WAIT_MAX_MS => Ok(Duration::from_millis(ms)),
        _ => {
            let message = format!("?wait_ms={wait}: not a number up to {PULL_WAIT_MAX_MS}");
            Err(Refusal::new(400, "UNSUPPORTED", message))
        }
    }
}

fn interrupted() -> Refusal {
    Refusal::new(500, "UNKNOWN", "interrupted".to_owned())
}
