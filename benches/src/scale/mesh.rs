//! A model of a mesh that stores and forwards pieces, to compare with: what peer-to-peer helpers of
//! registries and BitTorrent do, at its best. It is none of our code and no copy of theirs.
//!
//! Each node has some neighbours of chance, the registry is one of them to a few. A node asks each
//! neighbour for one piece at a time: of those that it knows the neighbour to have, the one that
//! the fewest neighbours have. A neighbour sends a few pieces at once and lets other requests wait.
//! A piece that is whole and verified is offered, and the neighbours know of it a little later.
//! Nobody is ever choked, lies, leaves or asks for a piece twice.

use std::collections::VecDeque;

use serde::Deserialize;

use super::agenda::Agenda;
use super::net::{Host, Link, Net, StreamId, Wire, ns_of};
use super::run::{Outcome, Run, share, sorted};
use super::units::Size;
use crate::sim::chance::Chance;

/// The registry's host; that of node `n` is `n + 1`.
const REGISTRY: Host = 0;

/// How a mesh works.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mesh {
    /// What is sent and offered as a whole.
    pub piece: Size,
    /// Most neighbours of a node.
    pub peers: u32,
    /// Most pieces that a node sends at once.
    pub uploads: u32,
    /// From having a piece to the neighbours' knowing of it, ms.
    pub announce_ms: u32,
    /// From a node's coming to its knowing its neighbours, ms.
    pub tracker_ms: u32,
}

impl Default for Mesh {
    fn default() -> Self {
        let piece = Size(4 << 20);
        Self { piece, peers: 10, uploads: 4, announce_ms: 10, tracker_ms: 50 }
    }
}

#[derive(Clone, Copy, Debug)]
enum Item {
    Wire(Wire),
    /// A host knows its neighbours.
    Met(Host),
    /// A request is at its host.
    Asked {
        of: Host,
        by: Host,
        piece: u32,
    },
    /// A host knows that a neighbour has a piece.
    Offered {
        to: Host,
        by: Host,
        piece: u32,
    },
    /// A piece is verified.
    Whole {
        at: Host,
        from: Host,
        piece: u32,
    },
}

impl From<Wire> for Item {
    fn from(wire: Wire) -> Self {
        Self::Wire(wire)
    }
}

/// What a host knows of a neighbour.
#[derive(Debug)]
struct Neighbour {
    host: Host,
    /// By piece: whether it is known to have it.
    has: Vec<bool>,
    /// Whether it owes a piece.
    busy: bool,
}

#[derive(Debug, Default)]
struct Peer {
    neighbours: Vec<Neighbour>,
    /// By piece: whether it is here or asked for.
    taken: Vec<bool>,
    /// By piece: whether it is here.
    here: Vec<bool>,
    /// By piece: neighbours that are known to have it.
    copies: Vec<u32>,
    missing: usize,
    sending: u32,
    /// Requests that wait: by whom, for what.
    queue: VecDeque<(Host, u32)>,
    hash_free_ns: u64,
    first_byte_ns: Option<u64>,
    stored_ns: Option<u64>,
    slow: bool,
}

/// A piece on its way.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    from: Host,
    to: Host,
    piece: u32,
    left: u64,
}

#[derive(Debug)]
struct Swarm {
    run: Run,
    agenda: Agenda<Item>,
    net: Net,
    chance: Chance,
    peers: Vec<Peer>,
    /// By stream.
    transfers: Vec<Transfer>,
    pieces: u32,
    waiting: u32,
}

/// Plays a run of a mesh to its end.
///
/// # Panics
/// If nobody can get on any more.
pub(super) fn play(run: Run) -> Outcome {
    let mut swarm = Swarm::new(run);
    while swarm.waiting > 0 {
        let item = swarm.agenda.next().expect("somebody gets on");
        swarm.happen(item);
    }
    swarm.outcome()
}

impl Swarm {
    fn new(run: Run) -> Self {
        let pieces = u32::try_from(run.size.div_ceil(run.mesh.piece.0)).expect("few pieces");
        let mut swarm = Self {
            agenda: Agenda::new(),
            net: Net::new(run.buffers()),
            chance: Chance::new(run.seed),
            peers: Vec::new(),
            transfers: Vec::new(),
            pieces,
            waiting: run.nodes,
            run,
        };
        let Run { warm, nodes, registry_rate, rate, .. } = swarm.run;
        for host in 0..=warm + nodes {
            let rate = if host == REGISTRY { registry_rate } else { rate };
            swarm.net.add(Link { up: rate, down: rate });
            swarm.peers.push(Peer::new(pieces, host <= warm));
        }
        swarm.slow_down();
        swarm.meet();
        let tracker_ns = u64::from(swarm.run.mesh.tracker_ms) * super::run::MS_NS;
        for host in warm + 1..=warm + nodes {
            swarm.agenda.at(tracker_ns, Item::Met(host));
        }
        swarm
    }

    fn slow_down(&mut self) {
        let Some(slow) = self.run.slow else { return };
        let first = self.run.warm as usize + 1;
        for _ in 0..slow.uplinks.min(self.run.nodes) {
            let hosts = (first..self.peers.len()).filter(|&host| !self.peers[host].slow);
            let usual: Vec<usize> = hosts.collect();
            let chosen = usual[self.chance.index(usual.len())];
            self.peers[chosen].slow = true;
            let (up, down) = (share(slow.share, self.run.rate).max(1), self.run.rate);
            self.net.set_link(super::net::index(chosen), Link { up, down });
        }
    }

    /// Who is whose neighbour: each host in turn chooses among those that have room, so that half
    /// of its places are its own choice and half that of others. Each has at least one.
    fn meet(&mut self) {
        let most = self.run.mesh.peers as usize;
        let count = self.peers.len();
        for host in 0..count {
            let wanted = most.div_ceil(2).max(1);
            let mut tries = 0;
            while self.peers[host].neighbours.len() < wanted && tries < 8 * wanted {
                tries += 1;
                // One of those before keeps the mesh in one part.
                let other = match host {
                    1.. if tries == 1 => self.chance.index(host),
                    _ => self.chance.index(count),
                };
                let is_new = self.peers[host].neighbours.iter().all(|n| n.host as usize != other);
                let has_room = self.peers[other].neighbours.len() < most || tries == 1;
                if other != host && is_new && has_room {
                    self.introduce(host, other);
                    self.introduce(other, host);
                }
            }
        }
    }

    fn introduce(&mut self, to: usize, host: usize) {
        let has = self.peers[host].here.clone();
        let peer = &mut self.peers[to];
        for (copies, &has) in peer.copies.iter_mut().zip(&has) {
            *copies += u32::from(has);
        }
        peer.neighbours.push(Neighbour { host: super::net::index(host), has, busy: false });
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Wire(Wire::Next(host)) => self.net.next(host, &mut self.agenda),
            Item::Wire(Wire::Arrived(stream, bytes)) => self.arrived(stream, bytes),
            Item::Met(host) => {
                for index in 0..self.peers[host as usize].neighbours.len() {
                    self.ask(host, index);
                }
            }
            Item::Asked { of, by, piece } => {
                self.peers[of as usize].queue.push_back((by, piece));
                self.send(of);
            }
            Item::Offered { to, by, piece } => {
                let peer = &mut self.peers[to as usize];
                let known = peer.neighbours.iter().position(|n| n.host == by);
                let index = known.expect("offers go to neighbours");
                peer.neighbours[index].has[piece as usize] = true;
                peer.copies[piece as usize] += 1;
                self.ask(to, index);
            }
            Item::Whole { at, from, piece } => self.whole(at, from, piece),
        }
    }

    /// Asks a neighbour for the rarest piece that it has.
    fn ask(&mut self, by: Host, index: usize) {
        let peer = &mut self.peers[by as usize];
        let neighbour = &mut peer.neighbours[index];
        if neighbour.busy || peer.missing == 0 {
            return;
        }
        let (mut best, mut fewest, mut equals) = (None, u32::MAX, 0);
        for piece in 0..self.pieces {
            let at = piece as usize;
            if peer.taken[at] || !neighbour.has[at] || peer.copies[at] > fewest {
                continue;
            }
            equals = if peer.copies[at] < fewest { 1 } else { equals + 1 };
            fewest = peer.copies[at];
            if self.chance.within(1, equals) == 1 {
                best = Some(piece);
            }
        }
        let Some(piece) = best else { return };
        neighbour.busy = true;
        peer.taken[piece as usize] = true;
        let of = neighbour.host;
        self.agenda.after(self.run.delay_ns, Item::Asked { of, by, piece });
    }

    /// Sends what is asked for, as much as at once may be.
    fn send(&mut self, from: Host) {
        let peer = &mut self.peers[from as usize];
        while peer.sending < self.run.mesh.uploads {
            let Some((to, piece)) = peer.queue.pop_front() else { return };
            peer.sending += 1;
            let begin = u64::from(piece) * self.run.mesh.piece.0;
            let left = self.run.mesh.piece.0.min(self.run.size - begin);
            let stream = self.net.open(from, to);
            self.transfers.push(Transfer { from, to, piece, left });
            self.net.supply(stream, left, &mut self.agenda);
        }
    }

    fn arrived(&mut self, stream: StreamId, bytes: u32) {
        self.net.land(stream, bytes, self.agenda.now_ns());
        let taken = self.net.take(stream, u64::MAX, &mut self.agenda);
        let now_ns = self.agenda.now_ns();
        let transfer = &mut self.transfers[stream as usize];
        transfer.left -= taken;
        let Transfer { from, to, piece, left } = *transfer;
        let peer = &mut self.peers[to as usize];
        peer.first_byte_ns.get_or_insert(now_ns);
        if left > 0 {
            return;
        }
        let hash_ns = ns_of(self.run.mesh.piece.0, self.run.hash_rate);
        peer.hash_free_ns = peer.hash_free_ns.max(now_ns) + hash_ns;
        self.agenda.at(peer.hash_free_ns, Item::Whole { at: to, from, piece });
        self.peers[from as usize].sending -= 1;
        self.send(from);
    }

    fn whole(&mut self, at: Host, from: Host, piece: u32) {
        let announce_ns = u64::from(self.run.mesh.announce_ms) * super::run::MS_NS;
        let now_ns = self.agenda.now_ns();
        let peer = &mut self.peers[at as usize];
        peer.here[piece as usize] = true;
        peer.missing -= 1;
        if peer.missing == 0 {
            peer.stored_ns = Some(now_ns);
            self.waiting -= 1;
        }
        for neighbour in &peer.neighbours {
            let offer = Item::Offered { to: neighbour.host, by: at, piece };
            self.agenda.after(announce_ns, offer);
        }
        let known = peer.neighbours.iter().position(|neighbour| neighbour.host == from);
        let index = known.expect("pieces come from neighbours");
        peer.neighbours[index].busy = false;
        self.ask(at, index);
    }

    fn outcome(self) -> Outcome {
        let usual = self.peers.iter().filter(|peer| !peer.slow);
        Outcome {
            first_bytes_ns: sorted(self.peers.iter().filter_map(|peer| peer.first_byte_ns)),
            stored_ns: sorted(self.peers.iter().filter_map(|peer| peer.stored_ns)),
            usual_ns: sorted(usual.filter_map(|peer| peer.stored_ns)),
            staying: self.peers.len() - 1,
            registry_bytes: self.net.sent(REGISTRY),
            steps: self.agenda.steps(),
            ..Outcome::nothing(self.run)
        }
    }
}

impl Peer {
    fn new(pieces: u32, has_all: bool) -> Self {
        let pieces = pieces as usize;
        Self {
            taken: vec![has_all; pieces],
            here: vec![has_all; pieces],
            copies: vec![0; pieces],
            missing: if has_all { 0 } else { pieces },
            ..Self::default()
        }
    }
}
