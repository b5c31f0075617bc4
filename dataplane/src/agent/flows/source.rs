//! Whom to ask for a blob next: parent, alternatives, registry. Each peer once; the registry a few
//! times.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{debug, info};
use xylem_protocol::Digest;
use xylem_protocol::limits::{
    CREDENTIAL_WAIT_MS, PEER_ANSWER_MS, REDIRECTS_MAX, REGISTRY_ANSWER_MS, REGISTRY_BACKOFF_MS,
    REGISTRY_TRIES_MAX, SLOTS_MAX,
};

use super::{Flow, LaneKey, Refusal};
use crate::agent::trees::Upstream;
use crate::agent::{Agent, REGISTRY, feed};
use crate::link::{Attempt, Lost, Source, lane_of};
use crate::oneline::chain;
use crate::origin::{BlobRoute, Credentials, OriginError, Registry, Repository};

/// A source, and what the agent has to do for it.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) source: Source,
    /// To be opened here, because it is inside TLS.
    tls: Option<reqwest::Url>,
}

impl Chosen {
    pub(super) fn upstream(&self) -> &str {
        self.source.upstream()
    }
}

/// As what a flow's registry is asked.
#[derive(Debug)]
pub(super) struct Asked {
    repository: Repository,
    turn: u32,
    credentials: Credentials,
}

impl Asked {
    fn endpoint(&self) -> Option<&Registry> {
        Some(self.repository.origin().registry()?.endpoint(self.turn))
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.turn < self.repository.origin().mirrors()
    }
}

enum Step {
    Peer(Chosen),
    Registry { repository: Repository, turn: u32, credentials: Credentials },
    End(Refusal),
}

impl Agent {
    /// The next source of a flow; `None` if the flow has gone meanwhile.
    pub(super) async fn next_source(&self, key: LaneKey) -> Result<Option<Chosen>, Refusal> {
        let LaneKey { digest, serial, .. } = key;
        loop {
            let step = self.flows.with_serial(&digest, serial, |flow| self.plan(key, flow));
            match step {
                None => return Ok(None),
                Some(Step::End(refusal)) => return Err(refusal),
                Some(Step::Peer(chosen)) => return Ok(Some(chosen)),
                Some(Step::Registry { repository, turn, credentials }) => {
                    let (origin, name) = (repository.origin(), repository.name());
                    let again = turn.saturating_sub(origin.mirrors());
                    if again > 0 {
                        let wait = REGISTRY_BACKOFF_MS << (again - 1).min(8);
                        tokio::time::sleep(Duration::from_millis(wait)).await;
                    }
                    match origin.blob(name, &digest, turn, &credentials).await {
                        Ok(route) => return Ok(self.routed(key, route)),
                        Err(error) => self.not_routed(key, &error)?,
                    }
                }
            }
        }
    }

    fn plan(&self, key: LaneKey, flow: &mut Flow) -> Step {
        if let Some(chosen) = self.next_peer(key, flow) {
            return Step::Peer(chosen);
        }
        let Flow { ask, lanes, .. } = flow;
        let lane = &mut lanes[usize::from(key.lane)];
        let mirrors = ask.repository.origin().mirrors();
        if lane.registry_tries == mirrors + REGISTRY_TRIES_MAX {
            let none = || Refusal::origin(&OriginError::NoUpstream);
            return Step::End(flow.cause.clone().unwrap_or_else(none));
        }
        lane.registry_tries += 1;
        lane.upstream = Arc::from(REGISTRY);
        lane.address = None;
        lane.turn = lane.registry_tries - 1;
        lane.credentials = self.credentials_of(&ask.repository);
        Step::Registry {
            repository: ask.repository.clone(),
            turn: lane.turn,
            credentials: lane.credentials.clone(),
        }
    }

    /// The next peer that a lane asks, if there is one that it has not asked.
    fn next_peer(&self, key: LaneKey, flow: &mut Flow) -> Option<Chosen> {
        let LaneKey { digest, lane: index, .. } = key;
        let (image, Upstream { node, address }) = self.untried_peer(index, flow)?;
        let lane = flow.lane_mut(index);
        lane.tried.push(node.clone());
        lane.upstream = node.clone();
        lane.address = Some(address);
        let (ask, stripe) = (&flow.ask, flow.striped.then_some(index));
        let path = ask.path_of(index, flow.striped);
        let ask = self.peer_request(&ask.repository, (digest, stripe), image, path);
        let (head, answer_ms) = (ask.blob_head(address), PEER_ANSWER_MS);
        let source = Source::Http { upstream: node, address, head, registry: false, answer_ms };
        Some(Chosen { source, tls: None })
    }

    fn untried_peer(&self, index: u8, flow: &Flow) -> Option<(Digest, Upstream)> {
        let Flow { ask, striped, .. } = flow;
        let (lane, image) = (flow.lane(index), ask.image.filter(|_| !flow.registry_only)?);
        let branch = if *striped { index } else { WHOLE_BRANCH };
        let upstreams = self.trees.branch(&image, branch);
        let path = ask.path_of(index, *striped);
        let is_new = |up: &&Upstream| {
            let waits_for_us = path.iter().any(|node| **node == *up.node);
            !waits_for_us && !lane.tried.contains(&up.node) && self.trees.is_usable(&up.node)
        };
        Some((image, upstreams.iter().find(is_new)?.clone()))
    }

    /// Whether a try that a peer brings nothing to is to end at once, because there is somebody
    /// else to ask.
    pub(in crate::agent) fn leaves_early(&self, digest: &Digest, attempt: Attempt) -> bool {
        let index = lane_of(attempt);
        let leaves = self.flows.with(digest, |flow| {
            let (lane, origin) = (flow.lane(index), flow.ask.repository.origin());
            let tries = origin.mirrors() + REGISTRY_TRIES_MAX;
            let has_registry = origin.registry().is_some() && lane.registry_tries < tries;
            let has_other = has_registry || self.untried_peer(index, flow).is_some();
            let leaves = has_other && !lane.patient;
            flow.lane_mut(index).left_early |= leaves;
            leaves
        });
        leaves.unwrap_or(false)
    }

    /// Nobody has what a lane needs: peers that were left early may have it by now, and this time
    /// they are waited for.
    pub(super) fn back_to_peer(&self, key: LaneKey) -> Option<Chosen> {
        let back = |flow: &mut Flow| {
            let lane = flow.lane_mut(key.lane);
            lane.patient = std::mem::take(&mut lane.left_early);
            if !lane.patient {
                return None;
            }
            lane.tried.clear();
            self.next_peer(key, flow)
        };
        self.flows.with_serial(&key.digest, key.serial, back).flatten()
    }

    /// The registry cannot even be addressed: an error unless another try may help.
    fn not_routed(&self, key: LaneKey, error: &OriginError) -> Result<(), Refusal> {
        let LaneKey { digest, serial, .. } = key;
        let refusal = Refusal::origin(error);
        let earlier = self.flows.with_serial(&digest, serial, |flow| {
            if error.is_passing() {
                flow.cause = Some(refusal.clone());
            }
            flow.cause.clone()
        });
        debug!(%digest, error = refusal.message, "registry");
        match error {
            error if error.is_passing() => Ok(()),
            // What the peers said tells more than that there is nobody else to ask.
            OriginError::NoUpstream => Err(earlier.flatten().unwrap_or(refusal)),
            _ => Err(refusal),
        }
    }

    fn routed(&self, key: LaneKey, route: BlobRoute) -> Option<Chosen> {
        let upstream: Arc<str> = Arc::from(REGISTRY);
        let asked = self.asked(key)?;
        let endpoint = asked.endpoint();
        let own_url = match (endpoint, &route) {
            (_, BlobRoute::Tls { url }) => Some(url.clone()),
            (Some(registry), _) => registry.blob_url(asked.repository.name(), &key.digest).ok(),
            (None, _) => None,
        };
        let answer_ms = endpoint.map_or(REGISTRY_ANSWER_MS, |registry| ms(registry.timeout()));
        self.flows.with_lane(key, |lane| lane.url = own_url)?;
        match route {
            BlobRoute::Plain { address, head } => {
                let source = Source::Http { upstream, address, head, registry: true, answer_ms };
                Some(Chosen { source, tls: None })
            }
            BlobRoute::Tls { url } => {
                Some(Chosen { source: Source::Cold { upstream }, tls: Some(url) })
            }
            // A layout's blob is presented before any source is looked for.
            BlobRoute::Local(_) => None,
        }
    }

    pub(super) fn asked(&self, key: LaneKey) -> Option<Asked> {
        self.flows.with_serial(&key.digest, key.serial, |flow| Asked {
            repository: flow.ask.repository.clone(),
            turn: flow.lane(key.lane).turn,
            credentials: flow.lane(key.lane).credentials.clone(),
        })
    }

    /// What comes after a source of the ring thread's was lost.
    pub(super) async fn after_loss(
        &self,
        key: LaneKey,
        cause: Lost,
    ) -> Result<Option<Chosen>, Refusal> {
        let LaneKey { digest, serial, .. } = key;
        if matches!(cause, Lost::Split | Lost::Moved) {
            return self.next_source(key).await;
        }
        let noted = self.flows.with_serial(&digest, serial, |flow| {
            let lane = flow.lane_mut(key.lane);
            let upstream = lane.upstream.clone();
            let refusal = refusal_of(&upstream, &digest, &cause);
            info!(%digest, at = lane.at, error = refusal.message, "source lost");
            if matches!(cause, Lost::Connect(_)) {
                self.trees.avoid(&upstream);
            }
            let no_ranges = matches!(cause, Lost::Range) && &*upstream == REGISTRY;
            if no_ranges {
                // What is here cannot be continued: the next request starts at the first byte.
                flow.received = 0;
            }
            flow.cause = Some(refusal.clone());
            (upstream, refusal, no_ranges)
        });
        let Some((upstream, refusal, no_ranges)) = noted else { return Ok(None) };
        if no_ranges {
            return Err(refusal);
        }
        if let (REGISTRY, Lost::Status(head)) = (&*upstream, &cause)
            && let Some(asked) = self.asked(key)
        {
            match head.status {
                301 | 302 | 303 | 307 | 308 if head.location.is_some() => {
                    let location = head.location.as_deref().unwrap_or_default();
                    return self.redirected(key, &asked, location).await;
                }
                // What a mirror has not, the next one or the registry may have.
                _ if asked.is_mirror() => {}
                401 if head.challenge.is_some() => {
                    let challenge = head.challenge.as_deref();
                    let refusal = refusal.challenged(challenge);
                    let challenge = challenge.unwrap_or_default();
                    return self.challenged(key, &asked, challenge, refusal).await;
                }
                400..=499 if head.status != 429 && head.status != 408 => return Err(refusal),
                _ => {}
            }
        }
        self.next_source(key).await
    }

    async fn redirected(
        &self,
        key: LaneKey,
        asked: &Asked,
        location: &str,
    ) -> Result<Option<Chosen>, Refusal> {
        let from = self.flows.with_lane(key, |lane| {
            lane.redirects += 1;
            (lane.redirects, lane.url.clone())
        });
        let (Some((redirects, Some(from))), Some(registry)) = (from, asked.endpoint()) else {
            return Ok(None);
        };
        if redirects > REDIRECTS_MAX {
            let message = format!("registry redirects more than {REDIRECTS_MAX} times");
            return Err(Refusal::new(502, "UNKNOWN", message));
        }
        let refused = |error| Refusal::origin(&error);
        let url = registry.redirect(&from, location).map_err(refused)?;
        let name = asked.repository.name();
        let route = registry.route(name, url.clone(), 0, &asked.credentials).await;
        let chosen = self.routed(key, route.map_err(refused)?);
        self.flows.with_lane(key, |lane| lane.url = Some(url));
        Ok(chosen)
    }

    /// The registry does not take what it was asked with: a token may have ended in mid-blob. The
    /// client's next request brings a new one; the node's own is asked for.
    pub(super) async fn challenged(
        &self,
        key: LaneKey,
        asked: &Asked,
        challenge: &str,
        refusal: Refusal,
    ) -> Result<Option<Chosen>, Refusal> {
        let from = self.flows.with_serial(&key.digest, key.serial, |flow| {
            let received = flow.received;
            let lane = flow.lane_mut(key.lane);
            lane.redirects += 1;
            (lane.redirects, received.max(lane.at))
        });
        let (Some((redirects, at)), Some(registry)) = (from, asked.endpoint()) else {
            return Ok(None);
        };
        let Asked { repository, credentials, .. } = asked;
        registry.forget_token(repository.name());
        if redirects > REDIRECTS_MAX {
            return Err(refusal);
        }
        let refused = |error| Refusal::origin(&error);
        if *credentials == Credentials::Node {
            registry.authorize(repository.name(), challenge).await.map_err(refused)?;
        } else {
            self.revoke(&key.digest);
            // Who has got nothing yet is told at once: it asks again with what is needed.
            let wait = if at > 0 { CREDENTIAL_WAIT_MS } else { 0 };
            let wait = Duration::from_millis(wait);
            if !self.renewed(repository, credentials, wait).await {
                return Err(refusal);
            }
        }
        let credentials = self.credentials_of(repository);
        let route = registry.blob(repository.name(), &key.digest, 0, &credentials).await;
        self.flows.with_lane(key, |lane| lane.credentials = credentials);
        Ok(self.routed(key, route.map_err(refused)?))
    }

    /// A registry inside TLS has refused. The node's own token was tried already.
    pub(super) async fn denied(
        &self,
        key: LaneKey,
        asked: &Asked,
        refusal: Refusal,
    ) -> Result<Option<Chosen>, Refusal> {
        if refusal.status != 401 || asked.credentials == Credentials::Node {
            return Err(refusal);
        }
        self.challenged(key, asked, "", refusal).await
    }

    /// Starts to read a source that is inside TLS.
    pub(super) fn feed_if_cold(self: &Rc<Self>, key: LaneKey, chosen: Chosen) {
        let Some(url) = chosen.tls else { return };
        let (sender, leases) = mpsc::channel(usize::from(SLOTS_MAX));
        let LaneKey { digest, serial, .. } = key;
        let started = self.flows.with_serial(&digest, serial, |flow| {
            let (repository, striped) = (flow.ask.repository.clone(), flow.striped);
            let lane = flow.lane_mut(key.lane);
            lane.feed = Some(sender);
            let (attempt, at, turn) = (lane.attempt, lane.at, lane.turn);
            let credentials = lane.credentials.clone();
            feed::Feed { digest, attempt, repository, turn, credentials, url, at, striped }
        });
        if let Some(feed) = started {
            tokio_uring::spawn(feed.run(self.clone(), leases));
        }
    }
}

/// The tree by which blobs come whole. All nodes agree on it, and it is the one in which a second
/// node is below the first: in the other it would be the root, and have the registry send again
/// what the first node has.
pub(super) const WHOLE_BRANCH: u8 = 0;

/// How the loss of a source is told, should there be no other.
fn refusal_of(upstream: &str, digest: &Digest, cause: &Lost) -> Refusal {
    let (status, code) = match cause {
        Lost::Status(head) if head.status == 404 => (404, "BLOB_UNKNOWN"),
        Lost::Status(head) if head.status == 401 => (401, "UNAUTHORIZED"),
        Lost::Status(head) if head.status == 403 => (403, "DENIED"),
        Lost::Status(head) if head.status == 429 => (429, "TOOMANYREQUESTS"),
        Lost::Stalled(_) => (504, "UNKNOWN"),
        _ => (502, "UNKNOWN"),
    };
    let message = match cause {
        Lost::Status(head) if head.status == 404 => format!("{upstream} has no {digest}"),
        cause => format!("{digest} from {upstream}: {}", chain(cause)),
    };
    Refusal::new(status, code, message)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The cause as a metric's label.
pub(super) const fn label(cause: &Lost) -> &'static str {
    match cause {
        Lost::Connect(_) => "connect",
        Lost::Broken(_) => "broken",
        Lost::Short => "short",
        Lost::Stalled(_) => "stalled",
        Lost::Status(_) => "status",
        Lost::Head(_) => "head",
        Lost::Range => "range",
        Lost::Split => "split",
        Lost::Moved => "moved",
    }
}
