//! The cold half: everything that is not a blob's body. One thread, one runtime; takes the ring
//! thread's messages, answers them, and talks to the registry, to control and to the store. Moves
//! no block but those out of TLS.

mod access;
mod alive;
mod answers;
mod control;
mod doctor;
mod explain;
mod feed;
mod flows;
mod history;
mod hops;
mod manifests;
mod patience;
mod post;
mod preheat;
mod pulls;
mod status;
mod tags;
#[cfg(test)]
mod tests;
mod tokens;
mod trees;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crossbeam::channel::{Receiver, TryRecvError};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use xylem_protocol::limits::GOODBYE_MS;

use crate::link::{ColdEnd, FlowProgress, Report, ToCold, ToHot};
use crate::metrics::Metrics;
use crate::origin::{OriginError, PeerClient, Registries};
use crate::ring::watch;
use crate::store::Store;

use crate::probes::Availability;
use access::Access;
pub use access::AccessSettings;
use alive::Alive;
use control::ControlLink;
use flows::Flows;
use history::History;
use hops::HopFeed;
use manifests::Manifests;
use post::Post;
use preheat::Preheats;
use pulls::Pulls;
use tags::Tags;
use trees::Trees;

/// Name of the hop's upper end when that is no node.
const REGISTRY: &str = "registry";

/// Messages taken before other tasks get their turn.
const TURN_MAX: usize = 256;

/// What the agent has to know of the settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// Data port, as bound.
    pub listen: SocketAddr,
    /// Data port as other nodes reach it.
    pub advertise: SocketAddr,
    /// Label of the node's place.
    pub zone: String,
    /// URL of control.
    pub control: Option<String>,
    /// Bytes of the slots.
    pub memory_bytes: u64,
    /// Whether they are locked and registered with the ring.
    pub locked: bool,
    /// Whether there are fewer than were wanted, because no more can be locked.
    pub is_memory_reduced: bool,
    /// Who may have what.
    pub access: AccessSettings,
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No io_uring for the runtime.
    #[error(
        "cannot start the runtime; is io_uring forbidden here (kernel.io_uring_disabled, seccomp)?"
    )]
    Runtime(#[source] std::io::Error),
    /// No signals, or no bell.
    #[error("cannot wait for events")]
    Events(#[source] std::io::Error),
    /// No client for the upstream.
    #[error("cannot use the upstream")]
    Origin(#[from] OriginError),
    /// The other half has ended by itself.
    #[error("the ring thread has ended")]
    RingGone,
}

/// The cold half's state; one thread, so plain cells.
#[derive(Debug)]
struct Agent {
    settings: Settings,
    store: Store,
    registries: Registries,
    access: Access,
    peers: PeerClient,
    post: Post,
    control: Option<Rc<ControlLink>>,
    trees: Rc<Trees>,
    flows: Flows,
    manifests: Manifests,
    tags: Tags,
    pulls: Pulls,
    alive: Alive,
    preheats: Preheats,
    hops: HopFeed,
    history: RefCell<History>,
    report: RefCell<Report>,
    /// Sources that were lost and replaced: how many, and the longest gap, ms.
    gaps: Cell<(u64, u32)>,
    metrics: Metrics,
}

impl Agent {
    fn new(
        settings: Settings,
        store: Store,
        registries: Registries,
        probes: Availability,
        post: Post,
    ) -> Result<Rc<Self>, OriginError> {
        let control = settings.control.as_deref().map(|address| Rc::new(ControlLink::new(address)));
        Ok(Rc::new(Self {
            peers: PeerClient::new()?,
            trees: Rc::new(Trees::new(&settings.node, control.clone())),
            metrics: Metrics::new(&settings.node),
            flows: Flows::default(),
            manifests: Manifests::new(),
            tags: Tags::new(if settings.access.offline.is_zero() {
                Vec::new()
            } else {
                store.kept_tags()
            }),
            pulls: Pulls::default(),
            alive: Alive::default(),
            preheats: Preheats::default(),
            hops: HopFeed::new(&settings.node, probes),
            history: RefCell::default(),
            report: RefCell::default(),
            gaps: Cell::default(),
            access: Access::new(settings.access.clone()),
            settings,
            store,
            registries,
            post,
            control,
        }))
    }

    /// Takes one message of the ring thread.
    fn take(self: &Rc<Self>, message: ToCold) {
        match message {
            ToCold::Ask { ticket, request, body } => self.ask(ticket, *request, body),
            ToCold::Admit { ticket, request } => self.admit_blob(ticket, *request),
            ToCold::Want { digest, request } => self.want(digest, *request),
            ToCold::Lost { digest, attempt, at, cause } => self.lost(digest, attempt, at, cause),
            ToCold::Silent { digest, attempt, late } => self.silent(digest, attempt, late),
            ToCold::Mismatch { digest, attempt, actual } => self.mismatch(digest, attempt, actual),
            ToCold::Stored { digest, size, first_byte_ns, readers } => {
                self.stored(digest, size, (first_byte_ns, readers));
            }
            ToCold::StoreFailed { digest, cause } => self.store_failed(digest, cause),
            ToCold::Fill { digest, attempt, at, lease } => {
                self.fill(digest, attempt, feed::Lent { at, lease })
            }
            ToCold::Units { digest, size, first, crc } => self.units(digest, size, first, &crc),
            ToCold::Report(report) => self.reported(*report),
        }
    }

    fn fill(&self, digest: xylem_protocol::Digest, attempt: u32, lent: feed::Lent) {
        let feed = self.flows.with(&digest, |flow| flow.feed_of(attempt)).flatten();
        let refused = match feed {
            Some(feed) => {
                feed.try_send(lent).err().map(tokio::sync::mpsc::error::TrySendError::into_inner)
            }
            None => Some(lent),
        };
        if let Some(lent) = refused {
            feed::give_back(self, digest, attempt, lent.lease);
        }
    }

    fn reported(&self, report: Report) {
        for progress in &report.flows {
            let FlowProgress { digest, received_bytes, edges, readers, first_byte_ns, .. } =
                progress;
            let mut history = self.history.borrow_mut();
            history.moved(digest, (*received_bytes, *edges), *readers, *first_byte_ns);
            self.flows.with(&progress.digest, |flow| {
                flow.received = progress.received_bytes;
                flow.size = progress.size_bytes;
            });
        }
        self.hops.take(&report);
        for &gap_ms in &report.gaps_ms {
            self.metrics.gap(gap_ms);
            let (count, max_ms) = self.gaps.get();
            self.gaps.set((count + 1, max_ms.max(gap_ms)));
        }
        *self.report.borrow_mut() = report;
    }

    /// Takes all messages that lie there. False when the ring thread has gone.
    async fn drain(self: &Rc<Self>, inbox: &Receiver<ToCold>) -> bool {
        loop {
            for _ in 0..TURN_MAX {
                match inbox.try_recv() {
                    Ok(message) => self.take(message),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Tells control and the ring thread that this is the end.
    async fn leave(&self) {
        self.keep_tags().await;
        if let Some(control) = &self.control {
            control.leave().await;
        }
        self.post.send(ToHot::Shutdown);
        let sent = async {
            while !self.post.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(GOODBYE_MS), sent).await.is_err() {
            warn!("the ring thread does not take its shutdown");
        }
    }
}

/// Runs the cold half on this thread until SIGTERM or SIGINT, or until the ring thread has gone.
///
/// # Errors
/// [`AgentError`]: it cannot start, or [`AgentError::RingGone`].
pub fn run(
    settings: Settings,
    store: Store,
    registries: Registries,
    probes: Availability,
    cold: ColdEnd,
) -> Result<(), AgentError> {
    let runtime =
        tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(AgentError::Runtime)?;
    let stop = async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    };
    runtime.block_on(serve(settings, store, registries, probes, cold, stop))
}

async fn serve(
    settings: Settings,
    store: Store,
    registries: Registries,
    probes: Availability,
    cold: ColdEnd,
    stop: impl Future<Output = std::io::Result<()>>,
) -> Result<(), AgentError> {
    let ColdEnd { to_hot, from_hot, bell } = cold;
    let agent = Agent::new(settings, store, registries, probes, Post::new(to_hot))?;
    let bell = watch(bell).map_err(AgentError::Events)?;
    let posting = agent.clone();
    tokio_uring::spawn(async move { posting.post.pump().await });
    if let Some(control) = &agent.control {
        tokio_uring::spawn(control.clone().run(agent.clone()));
    }
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            rung = bell.readable() => {
                // Cleared before the queue is looked at: what comes after that rings again.
                rung.map_err(AgentError::Events)?.clear_ready();
                bell.get_ref().silence();
                if !agent.drain(&from_hot).await {
                    return Err(AgentError::RingGone);
                }
            }
            stopped = &mut stop => {
                stopped.map_err(AgentError::Events)?;
                info!("stopping");
                agent.leave().await;
                return Ok(());
            }
        }
    }
}
