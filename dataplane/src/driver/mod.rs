//! The driver: one thread, one ring. It turns completions into the relay's events and the relay's
//! actions into submissions, and speaks HTTP with those above and below. It decides nothing about
//! slots, and touches no block.
//!
//! ```text
//! conns.rs   downstream: accept, read requests (requests.rs), answer, hand bodies to the relay
//! flow.rs    a blob in the table: its file, its feeds, who waits for it
//! fetch.rs   upstream: connect, ask, look at the answer, hand the body to the relay
//! uplink.rs  upstream connections: kept, watched, given up
//! act.rs     the relay's actions, one arm each
//! cold.rs    messages of the cold half, one arm each
//! hasher.rs  the hash thread
//! meter.rs   what is counted of each connection
//! ```

mod act;
mod cold;
mod conns;
mod fetch;
mod flow;
mod hasher;
mod meter;
mod pace;
mod table;
mod uplink;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use xylem_protocol::Digest;
use xylem_protocol::limits::{CONNECTIONS_MAX, FLOWS_MAX, OPEN_BLOBS_MAX, TICK_MS};

use crate::access::{Grantor, Grants, Vouchers};
use crate::link::{HotEnd, ToCold};
use crate::relay::{Action, Event, Relay};
use crate::ring::token::{Kind, Token};
use crate::ring::{Completion, Ring, RingError};
use conns::{Conn, Held};
use flow::Flow;
use hasher::Hasher;
use meter::Meter;
use pace::{IDLE_TICK_MS, Pace};
use table::Table;
use uplink::IdleUplink;

/// How the ring thread is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of slots; `None`: 8 MiB, or 4 MiB where no more can be locked.
    pub memory_bytes: Option<u64>,
    /// Whether the slots are locked and registered with the ring.
    pub lock: bool,
    /// This node's name: a request that has passed it does not wait for it.
    pub node: String,
    /// Whether blobs are hashed. Off only to measure what hashing costs: nothing is verified then.
    pub verify: bool,
    /// Tells whose right to what is known; `None`: whoever reaches the node may have everything.
    pub grantor: Option<Grantor>,
}

/// Why the ring thread ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The ring broke.
    #[error("io_uring refuses to go on")]
    Turn(#[source] io::Error),
    /// The hash thread cannot be started.
    #[error("cannot start the hash thread")]
    Hasher(#[source] io::Error),
}

/// How long the thread stays awake for the cold half's answer.
const AWAKE: Duration = Duration::from_micros(300);

pub(crate) struct Driver {
    ring: Ring,
    relay: Relay,
    settings: Settings,
    listener: TcpListener,
    hot: HotEnd,
    hasher: Hasher,
    conns: Table<Conn>,
    /// What they hold.
    held: Held,
    flows: Table<Flow>,
    by_digest: HashMap<Digest, u16>,
    /// Upstream connections that are kept for the next blob.
    idle: VecDeque<IdleUplink>,
    /// Events for the relay that came up while it was busy.
    events: VecDeque<Event>,
    actions: Vec<Action>,
    /// Messages that found the queue to the cold half full.
    unsent: VecDeque<ToCold>,
    meter: Meter,
    grants: Grants,
    vouchers: Vouchers,
    /// Whether the cold half was asked for a blob in this turn.
    asked: bool,
    /// Whether an accept is in flight: not while there is no room for a connection.
    accepting: bool,
    /// Whether the last accept has failed.
    accept_failed: bool,
    /// The time at the last completion; good enough for everything here.
    now: Instant,
    last_sweep: Instant,
    pace: Pace,
    last_report: Instant,
    finished: bool,
}

/// Drives a ring until the cold half says `Shutdown`. To be called on a thread of its own; `ready`
/// is called with the memory that the slots take once requests are served.
///
/// # Errors
/// There is no ring, or it broke.
pub fn run(
    settings: Settings,
    listener: TcpListener,
    hot: HotEnd,
    ready: impl FnOnce(u64),
) -> Result<(), DriverError> {
    let ring = Ring::open(settings.memory_bytes, settings.lock)?;
    let hasher = Hasher::start(hot.bell.clone()).map_err(DriverError::Hasher)?;
    let slots = ring.arena().slots();
    let now = Instant::now();
    let mut driver = Driver {
        ring,
        relay: Relay::new(slots),
        settings,
        listener,
        hot,
        hasher,
        conns: Table::new(CONNECTIONS_MAX),
        held: Held::default(),
        flows: Table::new(FLOWS_MAX + OPEN_BLOBS_MAX),
        by_digest: HashMap::new(),
        idle: VecDeque::new(),
        events: VecDeque::new(),
        actions: Vec::new(),
        unsent: VecDeque::new(),
        meter: Meter::new(slots),
        grants: Grants::default(),
        vouchers: Vouchers::default(),
        asked: false,
        accepting: true,
        accept_failed: false,
        now,
        last_sweep: now,
        pace: Pace::new(now),
        last_report: now,
        finished: false,
    };
    driver.arm();
    ready(u64::from(slots) * u64::from(xylem_protocol::limits::SLOT_BYTES));
    let mut completions = Vec::new();
    while !driver.finished {
        driver.await_answer();
        driver.ring.turn(&mut completions).map_err(DriverError::Turn)?;
        driver.now = Instant::now();
        for completion in completions.drain(..) {
            driver.complete(&completion);
            driver.settle();
        }
    }
    Ok(())
}

impl Driver {
    fn arm(&mut self) {
        self.ring.accept(self.listener.as_fd(), Token::single(Kind::Accept));
        self.watch_bell();
        self.ring.timeout(TICK_MS, Token::single(Kind::Tick));
    }

    fn watch_bell(&mut self) {
        self.ring.watch(self.hot.bell.as_fd(), Token::single(Kind::Bell));
    }

    /// The cold half answers a question for a blob within a fraction of a millisecond, and a reader
    /// waits for it: stays awake that long. Going to sleep and being woken would take as long
    /// again.
    fn await_answer(&mut self) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        self.ring.submit();
        let until = Instant::now() + AWAKE;
        while self.hot.from_cold.is_empty() && Instant::now() < until {
            std::thread::yield_now();
        }
        self.hear_all();
    }

    fn complete(&mut self, completion: &Completion) {
        let Token { kind, index, generation, slot } = completion.token;
        match kind {
            Kind::Accept => self.accepted(completion),
            Kind::Bell => self.bell_rang(completion.more),
            Kind::Tick => self.ticked(),
            Kind::RequestHead | Kind::Answer | Kind::Body | Kind::Writable | Kind::FileRead => {
                debug_assert!(self.conns.is_current(index, generation), "a stray {kind:?}");
                self.conn_completed(kind, index, completion);
            }
            Kind::Connect
            | Kind::Request
            | Kind::ResponsePeek
            | Kind::Receive
            | Kind::Allocate
            | Kind::Write => {
                debug_assert!(self.flows.is_current(index, generation), "a stray {kind:?}");
                self.flow_completed(kind, index, slot, completion);
            }
            Kind::Cancel => {}
            Kind::Provide => {
                if let Err(error) = completion.outcome() {
                    tracing::error!(%error, "a head buffer could not be given back");
                }
            }
        }
    }

    /// Lets the relay have its events until nothing more follows from them.
    fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let mut actions = std::mem::take(&mut self.actions);
            self.relay.apply(event, &mut actions);
            for action in actions.drain(..) {
                self.act(action);
            }
            self.actions = actions;
        }
    }

    fn happen(&mut self, event: Event) {
        if event != Event::Tick && self.pace.hasten(self.now) {
            // It completes at once, as cancelled: that is a tick.
            self.ring.cancel(Token::single(Kind::Tick));
        }
        self.events.push_back(event);
    }

    /// Tells the cold half, or keeps the message until its queue has room.
    fn tell(&mut self, message: ToCold) {
        if self.unsent.is_empty() {
            if let Err(error) = self.hot.to_cold.send(message) {
                self.unsent.push_back(error.into_inner());
            }
        } else {
            self.unsent.push_back(message);
        }
    }

    fn tell_unsent(&mut self) {
        while let Some(message) = self.unsent.pop_front() {
            if let Err(error) = self.hot.to_cold.send(message) {
                self.unsent.push_front(error.into_inner());
                return;
            }
        }
    }

    fn bell_rang(&mut self, more: bool) {
        self.hot.bell.silence();
        if !more {
            self.watch_bell();
        }
        while let Some(hashed) = self.hasher.next() {
            self.hashed(hashed);
            self.settle();
        }
        self.hear_all();
    }

    fn hear_all(&mut self) {
        while let Ok(message) = self.hot.from_cold.try_recv() {
            self.hear(message);
            self.settle();
        }
    }

    fn ticked(&mut self) {
        if self.pace.ticked(self.now) {
            self.forgive_silence();
        }
        self.tell_unsent();
        self.happen(Event::Tick);
        self.watch_uplinks();
        if self.now - self.last_sweep >= Duration::from_millis(IDLE_TICK_MS) {
            self.last_sweep = self.now;
            self.sweep_conns();
            self.sweep_idle();
        }
        if self.now - self.last_report >= meter::REPORT_PERIOD {
            self.last_report = self.now;
            self.report();
        }
        let busy = !self.unsent.is_empty() || self.meter.is_moving() || self.is_serving();
        self.ring.timeout(self.pace.next_ms(busy), Token::single(Kind::Tick));
    }

    fn is_serving(&self) -> bool {
        self.flows.iter().any(|(_, flow)| flow.is_busy())
            || self.conns.iter().any(|(_, conn)| conn.is_busy())
    }
}

/// A token of a connection.
fn conn_token(kind: Kind, conns: &Table<Conn>, index: u16) -> Token {
    Token::new(kind, index, conns.generation(index))
}

/// A token of a flow.
fn flow_token(kind: Kind, flows: &Table<Flow>, index: u16) -> Token {
    Token::new(kind, index, flows.generation(index))
}
