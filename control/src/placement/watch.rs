//! Which uplinks are slow, from the counts that both ends of each hop report. Pure: the time comes
//! in with the reports. Moves nobody.
//!
//! A node is *suspected* when all that it sent since its last report, over all its hops together,
//! is less than a third of what the better quarter of its fellows send, and the network is what
//! limited it: a node that has nothing to send because its own parent is slow is not. Where the
//! slow ones are on top, all below them are as slow. So what a node receives itself counts as well,
//! but to few nodes only: where downlinks are faster than uplinks it says nothing.
//!
//! Its children bear witness, for their downlinks could be at fault: two of them, or one that
//! receives well from somebody else; or one alone, but that only once. A node that is suspected in
//! two reports one after the other, a moment apart, is slow. It stays so for some minutes, and
//! longer each time that it is found so again; then it gets another try.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::forest::NodeId;
use crate::limits::{
    HOP_ACTIVE_US_MIN, HOP_FRESH_MS, HOPS_PER_NODE_MAX, SLOW_AFTER_MS, SLOW_BY_INTAKE_MAX,
    SLOW_KEPT_DOUBLED_MAX, SLOW_KEPT_MS, SLOW_PER_MINUTE_MIN, SLOW_SHARE, WITNESS_MS,
};

const MINUTE_MS: u64 = 60_000;

/// What one end of a hop has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The other end; `None`: the registry, or nobody known.
    pub peer: Option<NodeId>,
    /// Whether the receiving end counts.
    pub from_child: bool,
    /// Payload.
    pub bytes: u64,
    /// How long the hop was active, µs.
    pub active_us: u64,
    /// How long the sender limited it, µs, summed over its connections as the next two.
    pub sender_us: u64,
    /// How long the network did.
    pub network_us: u64,
    /// How long the receiver did.
    pub receiver_us: u64,
}

#[derive(Clone, Copy, Debug)]
struct Track {
    last: Count,
    /// When it was last active.
    seen_ms: Option<u64>,
    /// Bytes per second of activity, since the report before.
    rate: u64,
    /// The same, one report earlier.
    rate_before: u64,
    by_network: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    until_ms: u64,
    /// How often it was found to be slow.
    times: u32,
}

#[derive(Debug, Default)]
struct Seen {
    /// By child.
    sends: HashMap<NodeId, Track>,
    /// By parent.
    takes: HashMap<Option<NodeId>, Track>,
    /// Since when it is suspected, and in how many reports.
    suspected: Option<(u64, u32)>,
    /// When it last bore witness alone.
    witness_ms: Option<u64>,
    mark: Option<Mark>,
}

/// What is known of all uplinks.
#[derive(Debug, Default)]
pub struct Watch {
    nodes: BTreeMap<NodeId, Seen>,
    /// When nodes were found to be slow in the last minute.
    found_ms: VecDeque<u64>,
    /// When nodes were, of late, by nothing but what they receive.
    by_intake_ms: VecDeque<u64>,
    marked: u32,
}

impl Watch {
    /// Takes in what a node has counted.
    pub fn heard(&mut self, node: NodeId, counts: &[Count], now_ms: u64) {
        let seen = self.nodes.entry(node).or_default();
        for &count in counts {
            match (count.from_child, count.peer) {
                (true, peer) => put(&mut seen.takes, peer, count, now_ms),
                (false, Some(child)) => put(&mut seen.sends, child, count, now_ms),
                (false, None) => {}
            }
        }
    }

    /// Bytes per second that a node sends over all its hops; `None` if it has sent nothing lately.
    pub fn rate(&self, node: NodeId, now_ms: u64) -> Option<u64> {
        let seen = self.nodes.get(&node)?;
        let fresh = seen.sends.values().filter(|track| track.is_fresh(now_ms));
        fresh.map(|track| track.rate).reduce(u64::saturating_add)
    }

    /// Whether a node that has just been heard is found to be slow now.
    pub fn judge(&mut self, node: NodeId, field: Field, now_ms: u64) -> bool {
        let suspicion = self.suspicion(node, field.usual, now_ms);
        let Some(seen) = self.nodes.get_mut(&node) else { return false };
        let Suspicion::Some { witness, by_intake } = suspicion else {
            if matches!(suspicion, Suspicion::None) {
                seen.suspected = None;
            }
            return false;
        };
        let (since_ms, reports) = match seen.suspected {
            Some((since_ms, reports)) if now_ms <= since_ms + HOP_FRESH_MS => {
                (since_ms, reports + 1)
            }
            _ => (now_ms, 1),
        };
        seen.suspected = Some((since_ms, reports));
        let sure = reports >= 2 && now_ms >= since_ms + SLOW_AFTER_MS;
        if !sure || seen.mark.is_some_and(|mark| mark.until_ms > now_ms) {
            return false;
        }
        // Where a quarter of them are slow, slow is what they are.
        if field.slow_fellows >= field.fellows.div_ceil(4) || !self.may_find(by_intake, now_ms) {
            return false;
        }
        if let Some(witness) = witness.and_then(|witness| self.nodes.get_mut(&witness)) {
            witness.witness_ms = Some(now_ms);
        }
        self.mark(node, by_intake, now_ms);
        true
    }

    /// Ends marks whose time is over; appends whose.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<NodeId>) {
        if self.marked == 0 {
            return;
        }
        let before = out.len();
        for (&node, seen) in &mut self.nodes {
            if let Some(mark) = seen.mark.filter(|mark| mark.until_ms != 0)
                && mark.until_ms <= now_ms
            {
                seen.mark = Some(Mark { until_ms: 0, ..mark });
                out.push(node);
            }
        }
        self.marked -= u32::try_from(out.len() - before).unwrap_or(0);
    }

    /// A number stands for another node from now on.
    pub fn forget(&mut self, node: NodeId) {
        let seen = self.nodes.remove(&node);
        let mark = seen.and_then(|seen| seen.mark);
        self.marked -= u32::from(mark.is_some_and(|mark| mark.until_ms != 0));
    }

    /// How many nodes are marked as slow.
    pub fn marked(&self) -> u32 {
        self.marked
    }

    fn suspicion(&self, node: NodeId, usual: u64, now_ms: u64) -> Suspicion {
        let Some(seen) = self.nodes.get(&node) else { return Suspicion::Unclear };
        let fresh: Vec<_> = seen.sends.iter().filter(|(_, track)| track.is_fresh(now_ms)).collect();
        let rate: u64 = fresh.iter().map(|(_, track)| track.rate).sum();
        let rate_before: u64 = fresh.iter().map(|(_, track)| track.rate_before).sum();
        let intake = seen.taken(now_ms);
        let is_low = |others| rate.saturating_mul(SLOW_SHARE) < others;
        if fresh.is_empty() {
            return Suspicion::Unclear;
        }
        if !is_low(usual.max(intake)) || !fresh.iter().all(|(_, track)| track.by_network) {
            return Suspicion::None;
        }
        if rate_before > 0 && rate > rate_before.saturating_add(rate_before / 2) {
            // It is getting under way.
            return Suspicion::Unclear;
        }
        let by_intake = !is_low(usual);
        let others = usual.max(rate.saturating_mul(SLOW_SHARE));
        let witness = match fresh.as_slice() {
            [(witness, _)] => self.nodes.get(witness).map(|child| (**witness, child)),
            _ => return Suspicion::Some { witness: None, by_intake },
        };
        match witness {
            Some((_, child)) if child.takes_well(node, others, now_ms) => {
                Suspicion::Some { witness: None, by_intake }
            }
            Some((_, child)) if child.witness_ms.is_some_and(|at| now_ms < at + WITNESS_MS) => {
                Suspicion::None
            }
            Some((witness, _)) => Suspicion::Some { witness: Some(witness), by_intake },
            None => Suspicion::None,
        }
    }

    fn may_find(&mut self, by_intake: bool, now_ms: u64) -> bool {
        self.found_ms.retain(|at| now_ms < at + MINUTE_MS);
        self.by_intake_ms.retain(|at| now_ms < at + WITNESS_MS);
        let most = (SLOW_PER_MINUTE_MIN as usize).max(self.nodes.len() / 32);
        self.found_ms.len() < most
            && (!by_intake || self.by_intake_ms.len() < SLOW_BY_INTAKE_MAX as usize)
    }

    fn mark(&mut self, node: NodeId, by_intake: bool, now_ms: u64) {
        let Some(seen) = self.nodes.get_mut(&node) else { return };
        let times = seen.mark.map_or(0, |mark| mark.times);
        let kept_ms = SLOW_KEPT_MS << times.min(SLOW_KEPT_DOUBLED_MAX);
        seen.mark = Some(Mark { until_ms: now_ms + kept_ms, times: times + 1 });
        seen.suspected = None;
        self.marked += 1;
        self.found_ms.push_back(now_ms);
        if by_intake {
            self.by_intake_ms.push_back(now_ms);
        }
    }
}

/// Among whom a node is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// What the better quarter of the senders of its trees send at least, bytes per second.
    pub usual: u64,
    /// Nodes in its trees.
    pub fellows: u32,
    /// Those of them that are slow already.
    pub slow_fellows: u32,
}

enum Suspicion {
    None,
    /// Nothing that tells.
    Unclear,
    Some {
        /// The child that bears witness alone.
        witness: Option<NodeId>,
        /// Only what the node receives speaks against it.
        by_intake: bool,
    },
}

impl Track {
    fn is_fresh(&self, now_ms: u64) -> bool {
        self.seen_ms.is_some_and(|at| now_ms <= at + HOP_FRESH_MS)
    }
}

impl Seen {
    /// The best rate at which it receives.
    fn taken(&self, now_ms: u64) -> u64 {
        let fresh = self.takes.values().filter(|track| track.is_fresh(now_ms));
        fresh.map(|track| track.rate).max().unwrap_or(0)
    }

    /// Whether it receives from somebody else at such a rate as others send.
    fn takes_well(&self, parent: NodeId, others: u64, now_ms: u64) -> bool {
        let well = |(peer, track): (&Option<NodeId>, &Track)| {
            *peer != Some(parent)
                && track.is_fresh(now_ms)
                && track.rate.saturating_mul(SLOW_SHARE) >= others
        };
        self.takes.iter().any(well)
    }
}

/// Keeps a count in place of the one before, with the rate since then.
fn put<K: Copy + Eq + std::hash::Hash>(
    tracks: &mut HashMap<K, Track>,
    peer: K,
    count: Count,
    now_ms: u64,
) {
    let known = tracks.get(&peer).copied();
    let last = match known {
        Some(track) if track.last.active_us <= count.active_us => track.last,
        // A hop that has just begun tells from its first report on.
        None if count.active_us < 4 * HOP_ACTIVE_US_MIN => Count::default(),
        // Of a history nothing can be told, nor of a node that counts anew.
        _ => count,
    };
    let active_us = count.active_us - last.active_us;
    if active_us < HOP_ACTIVE_US_MIN && known.is_some_and(|track| track.last == last) {
        return;
    }
    if known.is_none() && tracks.len() >= HOPS_PER_NODE_MAX as usize {
        let oldest = tracks.iter().min_by_key(|(_, track)| track.seen_ms);
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            tracks.remove(&oldest);
        }
    }
    let (mut rate, mut by_network, mut seen_ms) = (0, false, None);
    if active_us >= HOP_ACTIVE_US_MIN {
        let bytes = u128::from(count.bytes.saturating_sub(last.bytes));
        rate = u64::try_from(bytes * 1_000_000 / u128::from(active_us)).unwrap_or(u64::MAX);
        let network_us = count.network_us.saturating_sub(last.network_us);
        by_network = network_us > count.sender_us.saturating_sub(last.sender_us)
            && network_us > count.receiver_us.saturating_sub(last.receiver_us);
        seen_ms = Some(now_ms);
    }
    let rate_before = known.map_or(0, |track| track.rate);
    tracks.insert(peer, Track { last: count, seen_ms, rate, rate_before, by_network });
}

#[cfg(test)]
mod tests;
