//! All that control knows, behind one function: an event of one stream in, messages to streams out.
//! Time comes in with the events; sockets, tasks and clocks are the server's. Kept in memory, and
//! rebuilt from the nodes' own reports: an engine that replicates the events would stand behind the
//! same function.
//!
//! A node is *attached* while its stream is open, *lost* for a short while after that, keeping its
//! places, and then *gone*: out of all trees, still shown for some minutes. In the first heartbeats
//! after the start control *settles*: places that nodes report are collected, and trees are built
//! of them when the time is over. Only joins to trees that somebody has claimed wait for that.

mod claims;
mod hops;
mod preheat;
mod roster;
mod uplinks;
mod view;

use std::collections::{BTreeMap, HashMap};

use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind;

use crate::api;
use crate::forest::{self, Assignment, Forest, ForestError, NodeId, TreeKey};
use crate::limits::{HEARTBEATS_MISSED_MAX, LOST_HEARTBEATS_MAX, STUCK_HEARTBEATS_MAX};
use crate::placement::Zone;
use crate::tree::ShapeKind;
use claims::Claims;
pub(crate) use hops::REGISTRY;
use preheat::Preheats;
pub use preheat::{Order, PreheatError, Selector, SelectorError};
use roster::{Node, Phase, Roster};
use uplinks::Uplinks;
pub use view::Totals;

/// One stream of one node; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of all trees.
    pub shape: ShapeKind,
    /// Period of the heartbeat, ms.
    pub heartbeat_ms: u32,
    /// For how long after the start claims to places are collected, ms.
    pub settle_ms: u64,
    /// Must be above the epoch of any earlier control that nodes have heard of.
    pub first_epoch: u64,
    /// By which nodes vouch to each other for their callers; not to be known to others.
    pub voucher_key: [u8; 32],
}

/// A node introduces itself.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Unique name.
    pub node: String,
    /// `ip:port` of its data port.
    pub address: String,
    /// Free label.
    pub zone: String,
    /// Of its software.
    pub version: String,
    /// Places that it holds already.
    pub memberships: Vec<Membership>,
}

/// A place that a node holds already.
#[derive(Clone, Debug)]
pub struct Membership {
    /// In which tree.
    pub key: TreeKey,
    /// Repository name, for people.
    pub name: String,
    /// Name of the parent in each tree; empty at the root.
    pub parents: Vec<String>,
    /// As its assignment said.
    pub group: u64,
    /// Whether it has all of the image.
    pub complete: bool,
}

/// What a node can say. All of it is checked for form, none of it for sense.
#[derive(Clone, Debug)]
pub enum Event {
    /// First message.
    Hello(Hello),
    /// Interest in an image.
    Join {
        /// Which.
        key: TreeKey,
        /// Repository name, for people.
        name: String,
    },
    /// No interest any more.
    Leave {
        /// In which.
        key: TreeKey,
    },
    /// It has all of an image.
    Complete {
        /// Of which.
        key: TreeKey,
    },
    /// Another node is silent, and was left.
    Stuck {
        /// Its name.
        node: String,
    },
    /// Still there.
    Heartbeat(pb::Heartbeat),
    /// Counters of hops.
    Hops(Vec<pb::HopReport>),
    /// How far a preheat is.
    Preheat(pb::PreheatProgress),
    /// The node ends.
    Goodbye,
    /// The stream broke off.
    Lost,
}

/// What the server is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message.
    Send {
        /// On which stream.
        session: SessionId,
        /// What.
        message: Kind,
    },
    /// Close a stream after what was sent on it.
    End {
        /// Which.
        session: SessionId,
    },
}

/// All that control knows.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    started_ms: u64,
    forest: Forest,
    roster: Roster,
    /// Repository names of trees, for people.
    names: HashMap<TreeKey, String>,
    /// While settling: what is claimed. `None` afterwards.
    claimed: Option<BTreeMap<TreeKey, Claims>>,
    preheats: Preheats,
    uplinks: Uplinks,
    /// Scratch for the assignments of one event.
    assignments: Vec<Assignment>,
}

impl State {
    /// An empty state that settles from `now_ms` on.
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        Self {
            settings,
            started_ms: now_ms,
            forest: Forest::new(settings.shape, settings.first_epoch),
            roster: Roster::default(),
            names: HashMap::new(),
            claimed: Some(BTreeMap::new()),
            preheats: Preheats::default(),
            uplinks: Uplinks::default(),
            assignments: Vec::new(),
        }
    }

    /// Applies what a node said on a stream and appends what is to be sent.
    pub fn apply(&mut self, session: SessionId, event: Event, now_ms: u64, out: &mut Vec<Output>) {
        self.forest.set_time(now_ms);
        let node = self.roster.by_session(session);
        if let Some(node) = node.and_then(|node| self.roster.get_mut(node)) {
            (node.last_seen_ms, node.stuck_ms) = (now_ms, None);
        }
        match (node, event) {
            (None, Event::Hello(hello)) => self.hello(session, hello, now_ms, out),
            (Some(_), Event::Hello(_)) => refuse(session, None, "hello was said already", out),
            (None, Event::Lost | Event::Goodbye) => {}
            (None, _) => refuse(session, None, "the first message must be hello", out),
            (Some(node), Event::Join { key, name }) => self.join(node, key, name, out),
            (Some(node), Event::Leave { key }) => self.leave(session, node, key, out),
            (Some(node), Event::Complete { key }) => self.complete(node, key, out),
            (Some(_), Event::Stuck { node }) => {
                let stuck = self.roster.by_name(&node);
                if let Some(stuck) = stuck.and_then(|stuck| self.roster.get_mut(stuck)) {
                    stuck.stuck_ms = Some(now_ms);
                }
            }
            (Some(node), Event::Heartbeat(heartbeat)) => {
                if let Some(node) = self.roster.get_mut(node) {
                    node.heartbeat = heartbeat;
                }
            }
            (Some(node), Event::Hops(reports)) => self.hops(session, node, reports, now_ms, out),
            (Some(node), Event::Preheat(progress)) => {
                if let Some(node) = self.roster.get(node) {
                    self.preheats.moved(&node.name, progress);
                }
            }
            (Some(node), Event::Goodbye) => {
                self.down(node, now_ms, out);
                self.roster.remove(node);
                out.push(Output::End { session });
            }
            (Some(node), Event::Lost) => {
                self.roster.detach(node, Phase::Lost { since_ms: now_ms });
            }
        }
    }

    /// Lets time pass: ends settling, takes out nodes that are silent or lost, forgets those long
    /// gone.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        if self.claimed.is_some() && now_ms >= self.started_ms + self.settings.settle_ms {
            self.settle(out);
        }
        let heartbeat_ms = self.settings.heartbeat_ms;
        let lost_ms = u64::from(LOST_HEARTBEATS_MAX * heartbeat_ms);
        for node in self.roster.ids() {
            let Some(known) = self.roster.get(node) else { continue };
            // Half a period is for the way: a heartbeat is missed when it is that late.
            let (missed, late_ms) = match known.stuck_ms {
                Some(_) => (STUCK_HEARTBEATS_MAX, heartbeat_ms / 2),
                None => (HEARTBEATS_MISSED_MAX, 0),
            };
            let silence_ms = u64::from(missed * heartbeat_ms + late_ms);
            match known.phase {
                Phase::Attached(session) if now_ms > known.last_seen_ms + silence_ms => {
                    let plural = if missed == 1 { "" } else { "s" };
                    let reason = format!("no message for {missed} heartbeat{plural}");
                    refuse(session, None, reason, out);
                    out.push(Output::End { session });
                    self.down(node, now_ms, out);
                }
                Phase::Lost { since_ms } if now_ms > since_ms + lost_ms => {
                    self.down(node, now_ms, out);
                }
                Phase::Attached(_) | Phase::Lost { .. } | Phase::Gone { .. } => {}
            }
        }
        self.assignments.clear();
        self.forest.tick(now_ms, &mut self.assignments);
        self.tell_all(out);
        self.tick_uplinks(now_ms, out);
        self.roster.forget_long_gone(now_ms);
        self.preheats.tick(now_ms);
    }

    /// Tells nodes to pull an image into their stores.
    ///
    /// # Errors
    /// [`PreheatError`].
    pub fn preheat(
        &mut self,
        order: Order,
        now_ms: u64,
        out: &mut Vec<Output>,
    ) -> Result<api::Preheated, PreheatError> {
        let (started, names) = self.preheats.start(order, &self.roster, now_ms)?;
        let Some(message) = self.preheats.message(started.id) else { return Ok(started) };
        for name in names {
            let node = self.roster.by_name(&name).and_then(|node| self.roster.get(node));
            if let Some(Phase::Attached(session)) = node.map(|node| node.phase) {
                out.push(Output::Send { session, message: Kind::Preheat(message.clone()) });
            }
        }
        Ok(started)
    }

    fn hello(&mut self, session: SessionId, hello: Hello, now_ms: u64, out: &mut Vec<Output>) {
        let Hello { node: name, address, zone, version, memberships } = hello;
        let known = self.roster.by_name(&name).and_then(|node| self.roster.get(node));
        let moved = known.is_some_and(|known| known.address != address);
        if let Some(Phase::Attached(old)) = known.map(|known| known.phase) {
            let reason = format!("node {name} attached again from {address}, this stream ends");
            refuse(old, None, reason, out);
            out.push(Output::End { session: old });
        }
        let (is_new, zone_of) = (known.is_none(), Zone::labelled(&zone));
        let attached = Node::attached(name, address, zone, version, session, now_ms);
        let Some(node) = self.roster.attach(attached) else {
            refuse(session, None, "control knows too many nodes already", out);
            out.push(Output::End { session });
            return;
        };
        let heartbeat_ms = self.settings.heartbeat_ms;
        let message = Kind::Welcome(pb::Welcome {
            heartbeat_ms,
            report_ms: self.report_ms(),
            voucher_key: self.settings.voucher_key.to_vec(),
        });
        out.push(Output::Send { session, message });
        self.forest.set_zone(node, zone_of);
        if is_new {
            self.uplinks.forget(node);
            self.change_surely(&forest::Event::Uplink { node, slow: false }, out);
        }
        if moved {
            self.change_surely(&forest::Event::Moved { node }, out);
        }
        // The node's word is final: from trees that it does not name it has gone.
        self.forget_claims(node);
        let held: Vec<_> = self.forest.memberships(node).collect();
        for key in held.into_iter().filter(|key| memberships.iter().all(|held| held.key != *key)) {
            self.change_surely(&forest::Event::Leave { node, key }, out);
            self.drop_name(key);
        }
        for held in memberships {
            self.claim(session, node, held, out);
        }
        let Some(name) = self.roster.get(node).map(|node| &node.name) else { return };
        for message in self.preheats.attached(name, now_ms) {
            out.push(Output::Send { session, message: Kind::Preheat(message) });
        }
    }

    fn join(&mut self, node: NodeId, key: TreeKey, name: String, out: &mut Vec<Output>) {
        if let Some(claims) = self.claimed.as_mut().and_then(|claimed| claimed.get_mut(&key))
            && !self.forest.is_member(node, key)
            && !claims.places.is_empty()
        {
            let known = claims.places.iter().any(|(other, _)| *other == node);
            if !known && !claims.newcomers.contains(&node) {
                claims.newcomers.push(node);
                self.lodge(node, key, out);
            }
            return;
        }
        self.names.entry(key).or_insert(name);
        self.join_or_refuse(node, key, out);
        self.drop_name(key);
    }

    /// A node that has all of an image may have claimed its place just now.
    fn complete(&mut self, node: NodeId, key: TreeKey, out: &mut Vec<Output>) {
        let claims = self.claimed.as_mut().and_then(|claimed| claimed.get_mut(&key));
        let mut places = claims.into_iter().flat_map(|claims| &mut claims.places);
        if let Some((_, held)) = places.find(|(other, _)| *other == node) {
            held.complete = true;
        }
        self.change_surely(&forest::Event::Complete { node, key }, out);
    }

    fn join_or_refuse(&mut self, node: NodeId, key: TreeKey, out: &mut Vec<Output>) {
        let Err(error) = self.change(&forest::Event::Join { node, key }, out) else { return };
        if let Some(Phase::Attached(session)) = self.roster.get(node).map(|node| node.phase) {
            refuse(session, Some(key), error.to_string(), out);
        }
    }

    fn leave(&mut self, session: SessionId, node: NodeId, key: TreeKey, out: &mut Vec<Output>) {
        if self.forget_claim(node, key) {
            return;
        }
        match self.change(&forest::Event::Leave { node, key }, out) {
            Ok(()) => self.drop_name(key),
            Err(error) => refuse(session, Some(key), error.to_string(), out),
        }
    }

    /// Takes a node out of all trees.
    fn down(&mut self, node: NodeId, now_ms: u64, out: &mut Vec<Output>) {
        self.roster.detach(node, Phase::Gone { since_ms: now_ms });
        if let Some(node) = self.roster.get(node) {
            self.preheats.left(&node.name);
        }
        self.forget_claims(node);
        let keys: Vec<_> = self.forest.memberships(node).collect();
        self.change_surely(&forest::Event::Down { node }, out);
        for key in keys {
            self.drop_name(key);
        }
    }

    fn drop_name(&mut self, key: TreeKey) {
        let claimed = self.claimed.as_ref().is_some_and(|claimed| claimed.contains_key(&key));
        if !claimed && !self.forest.contains(key) {
            self.names.remove(&key);
        }
    }

    /// Changes the forest by an event that it never refuses.
    fn change_surely(&mut self, event: &forest::Event<'_>, out: &mut Vec<Output>) {
        let result = self.change(event, out);
        debug_assert!(result.is_ok(), "{event:?}: {result:?}");
    }

    /// Changes the forest and tells all attached nodes of their new places.
    fn change(
        &mut self,
        event: &forest::Event<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), ForestError> {
        self.assignments.clear();
        self.forest.apply(event, &mut self.assignments)?;
        self.tell_all(out);
        Ok(())
    }

    fn tell_all(&self, out: &mut Vec<Output>) {
        for assignment in &self.assignments {
            self.tell(assignment, out);
        }
    }

    /// Tells a node its place, if its stream is open.
    fn tell(&self, assignment: &Assignment, out: &mut Vec<Output>) {
        let Some(node) = self.roster.get(assignment.node) else { return };
        let Phase::Attached(session) = node.phase else { return };
        let branch = |upstreams: &Vec<NodeId>| {
            let upstreams = upstreams.iter().filter_map(|&node| self.roster.get(node));
            pb::Branch { upstreams: upstreams.map(Node::peer).collect() }
        };
        let message = Kind::Assignment(pb::Assignment {
            image: assignment.key.image.to_string(),
            epoch: assignment.epoch,
            branches: assignment.branches.iter().map(branch).collect(),
            group: assignment.group,
            at_once: assignment.at_once,
        });
        out.push(Output::Send { session, message });
    }
}

/// Tells a node that a message of its was not accepted.
fn refuse(
    session: SessionId,
    key: Option<TreeKey>,
    reason: impl Into<String>,
    out: &mut Vec<Output>,
) {
    let image = key.map(|key| key.image.to_string()).unwrap_or_default();
    let message = Kind::Refusal(pb::Refusal { image, reason: reason.into() });
    out.push(Output::Send { session, message });
}
