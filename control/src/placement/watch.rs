//! Which uplinks are slow, from the counts that both ends of each hop report. Pure: the time comes
//! in with the reports. Moves nobody.
//!
//! What a node sends at the moment does not tell: whoever waits for a slow node, because it is
//! below it, or because the two halves of a blob must not run too far from each other, is as slow
//! as that. But all have sent something before they had to wait. So the *best* that nodes have sent
//! lately is compared, from one report to the next, as their kernels got rid of it. Where slow
//! nodes are at the top of both trees nobody has; so what roots had from the registry counts as
//! well, but against few nodes only: where downlinks are faster than uplinks it says nothing, and
//! many are suspected at once.
//!
//! A node is *suspected* when all its hops are *held*, by the network and nearly all of the time,
//! when it sends less than a third of what the better quarter of its fellows have sent at their
//! best, and has not lately sent half as much either. Acknowledgements come late from a child whose
//! own uplink is slow, so hops to suspected nodes say nothing. Those to nodes that were found to be
//! slow, and so send nothing, do if these have received well: else a slow steward would stay one.
//! Nor do hops to nodes that others fill say anything, with many images at once, nor those to nodes
//! that took nothing. Children bear witness, for their downlinks could be at fault: two of them, or
//! one that receives well from somebody else; or one alone, but that only once.
//!
//! Of an uplink that was fast its own best says so for a while. What tells is who is held *now*. If
//! few of the fellows *crawl*, send little though they have something to send, the others are done
//! with what they get, and it is they who wait; then of a node's own best no more than the last
//! seconds count. If many crawl, the memory of some time ago has to speak as well. To crawl is less
//! than to be suspected: held for half of the time, whatever the hops are.
//!
//! Where many are suspected at once, the machine is what is slow, or the network in the middle, and
//! nobody is to blame. Else a node that is suspected in three reports one after the other is slow.
//! It stays so for some minutes, and longer each time that it is found so again; then it gets
//! another try.

mod field;

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::forest::NodeId;
use crate::limits::{
    BEST_COUNTS_MS, BEST_KEPT_MS, HOP_FIRST_US, HOP_FRESH_MS, HOP_NEW_US_MAX, HOP_PERIOD_US_MIN,
    HOPS_PER_NODE_MAX, SLOW_AFTER_MS, SLOW_BY_INTAKE_MAX, SLOW_KEPT_DOUBLED_MAX, SLOW_KEPT_MS,
    SLOW_PER_MINUTE_MIN, SLOW_REPORTS_MIN, SLOW_SHARE, WITNESS_MS,
};

pub use field::Field;

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
    /// When, by a clock of the node's that does not jump, µs.
    pub at_us: u64,
    /// Sending: for how long bytes waited for the network, µs.
    pub held_us: u64,
}

/// What a hop did between two counts.
#[derive(Clone, Copy, Debug)]
struct Step {
    bytes: u64,
    passed_us: u64,
    /// The network held it up.
    held_us: u64,
    /// There was no count before.
    is_first: bool,
}

#[derive(Clone, Copy, Debug)]
struct Track {
    last: Count,
    /// When it last told something.
    seen_ms: Option<u64>,
    /// Bytes per second, since the report before.
    rate: u64,
}

/// The best of late: of this period and of the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Best<const KEPT_MS: u64> {
    since_ms: u64,
    now: u64,
    before: u64,
}

/// What a node's latest report tells of its uplink.
#[derive(Clone, Debug, Default)]
struct Latest {
    at_ms: u64,
    /// Bytes per second, over all hops.
    rate: u64,
    rate_before: u64,
    /// Children that something was sent to, and whether the network held it up.
    hops: Vec<(NodeId, bool)>,
    /// Whether it had something to send for most of the time, to each of them.
    is_busy: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    until_ms: u64,
    /// How often it was found to be slow.
    times: u32,
}

#[derive(Clone, Copy, Debug)]
struct Suspected {
    since_ms: u64,
    last_ms: u64,
    reports: u32,
}

#[derive(Debug, Default)]
struct Seen {
    /// By child.
    sends: HashMap<NodeId, Track>,
    /// By parent.
    takes: HashMap<Option<NodeId>, Track>,
    latest: Option<Latest>,
    /// Bytes per second that it has sent.
    rates: Best<BEST_KEPT_MS>,
    /// The same of the last seconds.
    lately: Best<BEST_COUNTS_MS>,
    /// Bytes per second that it had from the registry.
    intake: Best<BEST_KEPT_MS>,
    /// Bytes per second that it had from all together.
    received: Best<BEST_KEPT_MS>,
    suspected: Option<Suspected>,
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
    /// When others than roots and roots were, of late, by nothing but what came from the registry.
    by_intake_ms: [VecDeque<u64>; 2],
    marked: u32,
}

impl Watch {
    /// Takes in what a node has counted.
    pub fn heard(&mut self, node: NodeId, counts: &[Count], now_ms: u64) {
        let seen = self.nodes.entry(node).or_default();
        let mut sent = Vec::new();
        for &count in counts {
            match (count.from_child, count.peer) {
                (true, peer) => {
                    let step = put(&mut seen.takes, peer, count, now_ms);
                    if let (None, Some(step)) = (peer, step) {
                        seen.intake.put(per_second(step.bytes, step.passed_us), now_ms);
                    }
                }
                (false, Some(child)) => {
                    let step = put(&mut seen.sends, child, count, now_ms);
                    sent.extend(step.map(|step| (child, step)));
                }
                (false, None) => {}
            }
        }
        seen.received.put(seen.receives(now_ms), now_ms);
        if !sent.is_empty() {
            seen.sent(&sent, now_ms);
        }
    }

    /// Bytes per second that a node sent at its best lately; `None` if it sent nothing.
    pub fn best(&self, node: NodeId, now_ms: u64) -> Option<u64> {
        let best = self.nodes.get(&node)?.rates.get(now_ms);
        (best > 0).then_some(best)
    }

    /// Bytes per second that a node had from the registry at its best lately.
    pub fn intake(&self, node: NodeId, now_ms: u64) -> u64 {
        self.nodes.get(&node).map_or(0, |seen| seen.intake.get(now_ms))
    }

    /// Whether a node is suspected, and not marked yet.
    pub fn is_suspected(&self, node: NodeId, now_ms: u64) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.is_suspected(now_ms))
    }

    /// Whether a node that is not marked sends little by that measure, though it has something to
    /// send.
    pub fn crawls(&self, node: NodeId, usual: u64, now_ms: u64) -> bool {
        let seen = self.nodes.get(&node).filter(|seen| !seen.is_marked(now_ms));
        seen.and_then(|seen| seen.latest.as_ref()).is_some_and(|latest| {
            let is_fresh = now_ms <= latest.at_ms + HOP_FRESH_MS;
            is_fresh && latest.is_busy && latest.rate.saturating_mul(SLOW_SHARE) < usual
        })
    }

    /// Whether a node that has just been heard is found to be slow now.
    pub fn judge(&mut self, node: NodeId, field: Field, now_ms: u64) -> bool {
        let suspicion = self.suspicion(node, field, now_ms);
        let Some(seen) = self.nodes.get_mut(&node) else { return false };
        let Suspicion::Some { witness, by_intake } = suspicion else {
            if matches!(suspicion, Suspicion::None) {
                seen.suspected = None;
            }
            return false;
        };
        if seen.is_marked(now_ms) {
            return false;
        }
        let going_on = seen.suspected.filter(|it| now_ms <= it.last_ms + HOP_FRESH_MS);
        let (since_ms, reports) = going_on.map_or((now_ms, 0), |it| (it.since_ms, it.reports));
        let suspected = Suspected { since_ms, last_ms: now_ms, reports: reports + 1 };
        seen.suspected = Some(suspected);
        let sure = suspected.reports >= SLOW_REPORTS_MIN && now_ms >= since_ms + SLOW_AFTER_MS;
        if !sure {
            return false;
        }
        let slow = field.slow_fellows + field.suspects.max(1);
        if slow > field.few() || !self.may_find(node, by_intake, now_ms) {
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

    fn suspicion(&self, node: NodeId, field: Field, now_ms: u64) -> Suspicion {
        let Some(seen) = self.nodes.get(&node) else { return Suspicion::Unclear };
        let Some(latest) = seen.latest.as_ref().filter(|latest| latest.at_ms == now_ms) else {
            return Suspicion::Unclear;
        };
        let best = match field.slow_fellows + field.crawl <= field.few() {
            true => seen.lately.get(now_ms),
            false => seen.rates.get(now_ms),
        };
        let is_low = |than: u64| {
            latest.rate.saturating_mul(SLOW_SHARE) < than && best.saturating_mul(2) < than
        };
        let by_intake = !is_low(field.usual);
        let usual = if by_intake { field.intake.max(seen.intake.get(now_ms)) } else { field.usual };
        let tells = |&&(child, _): &&(NodeId, bool)| {
            let is_full = |child: &Seen| child.is_full(usual, now_ms);
            !self.is_in_doubt(child, usual, now_ms) && !self.nodes.get(&child).is_some_and(is_full)
        };
        let hops: Vec<_> = latest.hops.iter().filter(tells).collect();
        if hops.is_empty() {
            return Suspicion::Unclear;
        }
        if !is_low(usual) || !hops.iter().all(|(_, is_held)| *is_held) {
            return Suspicion::None;
        }
        let before = latest.rate_before;
        if before > 0 && latest.rate > before.saturating_add(before / 2) {
            // It is getting under way.
            return Suspicion::Unclear;
        }
        let [(witness, _)] = hops.as_slice() else {
            return Suspicion::Some { witness: None, by_intake };
        };
        match self.nodes.get(witness) {
            Some(child) if child.takes_well(node, usual, now_ms) => {
                Suspicion::Some { witness: None, by_intake }
            }
            Some(child) if child.witness_ms.is_none_or(|at| now_ms >= at + WITNESS_MS) => {
                Suspicion::Some { witness: Some(*witness), by_intake }
            }
            _ => Suspicion::None,
        }
    }

    /// Whether what a node takes says little of who sends it: it may be slow itself. Of one that is
    /// known to be, and so sends nothing, it tells if it has lately received well.
    fn is_in_doubt(&self, node: NodeId, usual: u64, now_ms: u64) -> bool {
        self.nodes.get(&node).is_some_and(|seen| {
            let receives_well = seen.received.get(now_ms).saturating_mul(2) >= usual;
            seen.is_suspected(now_ms) || seen.is_marked(now_ms) && !receives_well
        })
    }

    fn may_find(&mut self, node: NodeId, by_intake: bool, now_ms: u64) -> bool {
        self.found_ms.retain(|at| now_ms < at + MINUTE_MS);
        let by_intake_ms = self.by_intake_ms(node, now_ms);
        by_intake_ms.retain(|at| now_ms < at + WITNESS_MS);
        let by_intake_found = by_intake_ms.len();
        let most = (SLOW_PER_MINUTE_MIN as usize).max(self.nodes.len() / 32);
        self.found_ms.len() < most && (!by_intake || by_intake_found < SLOW_BY_INTAKE_MAX as usize)
    }

    /// Roots and others are counted apart: a root that is slow must be found in any case.
    fn by_intake_ms(&mut self, node: NodeId, now_ms: u64) -> &mut VecDeque<u64> {
        let is_root = self.intake(node, now_ms) > 0;
        &mut self.by_intake_ms[usize::from(is_root)]
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
            self.by_intake_ms(node, now_ms).push_back(now_ms);
        }
    }
}

enum Suspicion {
    None,
    /// Nothing that tells.
    Unclear,
    Some {
        /// The child that bears witness alone.
        witness: Option<NodeId>,
        /// Only what it had from the registry speaks against it.
        by_intake: bool,
    },
}

impl<const KEPT_MS: u64> Best<KEPT_MS> {
    fn put(&mut self, value: u64, now_ms: u64) {
        *self = Self { now: self.now_at(now_ms).max(value), ..self.at(now_ms) };
    }

    fn get(&self, now_ms: u64) -> u64 {
        let it = self.at(now_ms);
        it.now.max(it.before)
    }

    fn now_at(&self, now_ms: u64) -> u64 {
        self.at(now_ms).now
    }

    /// The same as it is at that time.
    fn at(&self, now_ms: u64) -> Self {
        match now_ms.saturating_sub(self.since_ms) {
            age if age < KEPT_MS => *self,
            age if age < 2 * KEPT_MS => {
                Self { since_ms: self.since_ms + KEPT_MS, now: 0, before: self.now }
            }
            _ => Self { since_ms: now_ms, ..Self::default() },
        }
    }
}

impl Seen {
    /// Takes in what happened on all its hops since the report before.
    fn sent(&mut self, steps: &[(NodeId, Step)], now_ms: u64) {
        let bytes = steps.iter().map(|(_, step)| step.bytes).sum();
        let passed_us = steps.iter().map(|(_, step)| step.passed_us).max().unwrap_or(0);
        let rate = per_second(bytes, passed_us);
        self.rates.put(rate, now_ms);
        self.lately.put(rate, now_ms);
        if steps.iter().any(|(_, step)| step.is_first) {
            // When they began nobody knows.
            self.latest = None;
            return;
        }
        let is_active = |step: &Step| step.bytes > 0 || step.held_us > 0;
        let active = || steps.iter().filter(|(_, step)| is_active(step));
        // Whoever takes nothing at all may be gone: even a slow link brings something.
        let moved = steps.iter().filter(|(_, step)| step.bytes > 0);
        let hops = moved.map(|(child, step)| (*child, step.is_held())).collect();
        let is_busy = active().next().is_some() && active().all(|(_, step)| step.is_busy());
        let rate_before = self.latest.as_ref().map_or(0, |latest| latest.rate);
        self.latest = Some(Latest { at_ms: now_ms, rate, rate_before, hops, is_busy });
    }

    fn is_suspected(&self, now_ms: u64) -> bool {
        self.suspected.is_some_and(|it| now_ms <= it.last_ms + HOP_FRESH_MS)
    }

    fn is_marked(&self, now_ms: u64) -> bool {
        self.mark.is_some_and(|mark| mark.until_ms > now_ms)
    }

    /// Whether it receives nearly as much in all as the best send: who sends to it has to wait for
    /// its downlink.
    fn is_full(&self, usual: u64, now_ms: u64) -> bool {
        self.receives(now_ms).saturating_mul(4) >= usual.saturating_mul(3)
    }

    /// Bytes per second that come from all together.
    fn receives(&self, now_ms: u64) -> u64 {
        let is_fresh = |track: &&Track| track.seen_ms.is_some_and(|at| now_ms <= at + HOP_FRESH_MS);
        let rates = self.takes.values().filter(is_fresh).map(|track| track.rate);
        rates.fold(0_u64, u64::saturating_add)
    }

    /// Whether it receives from somebody else at such a rate as others send.
    fn takes_well(&self, parent: NodeId, others: u64, now_ms: u64) -> bool {
        let well = |(peer, track): (&Option<NodeId>, &Track)| {
            *peer != Some(parent)
                && track.seen_ms.is_some_and(|at| now_ms <= at + HOP_FRESH_MS)
                && track.rate.saturating_mul(SLOW_SHARE) >= others
        };
        self.takes.iter().any(well)
    }
}

impl Step {
    /// Whether there was something to send for half of the time.
    fn is_busy(&self) -> bool {
        self.held_us >= self.passed_us / 2
    }

    /// Whether the network held it up for four fifths of the time.
    fn is_held(&self) -> bool {
        self.held_us >= self.passed_us / 5 * 4
    }
}

/// Keeps a count in place of the one before; answers what happened since then.
fn put<K: Copy + Eq + std::hash::Hash>(
    tracks: &mut HashMap<K, Track>,
    peer: K,
    count: Count,
    now_ms: u64,
) -> Option<Step> {
    let known = tracks.get(&peer).copied();
    let last = match known {
        Some(Track { last, .. }) if last.at_us <= count.at_us && last.bytes <= count.bytes => last,
        // A hop that has just begun tells from its first report on.
        None if count.held_us <= HOP_NEW_US_MAX => {
            let passed_us = count.held_us.max(HOP_FIRST_US);
            Count { at_us: count.at_us.saturating_sub(passed_us), ..Count::default() }
        }
        // Of a history nothing can be told, nor of a node that counts anew.
        _ => count,
    };
    let passed_us = count.at_us - last.at_us;
    if passed_us < HOP_PERIOD_US_MIN && known.is_some_and(|track| track.last == last) {
        return None;
    }
    if known.is_none() && tracks.len() >= HOPS_PER_NODE_MAX as usize {
        let oldest = tracks.iter().min_by_key(|(_, track)| track.seen_ms);
        if let Some(oldest) = oldest.map(|(key, _)| *key) {
            tracks.remove(&oldest);
        }
    }
    let bytes = count.bytes - last.bytes;
    let held_us = count.held_us.saturating_sub(last.held_us);
    let rate = if passed_us > 0 { per_second(bytes, passed_us) } else { 0 };
    let seen_ms = (bytes > 0).then_some(now_ms).or(known.and_then(|track| track.seen_ms));
    tracks.insert(peer, Track { last: count, seen_ms, rate });
    let is_first = known.is_none_or(|it| it.last != last);
    Some(Step { bytes, passed_us, held_us, is_first })
}

fn per_second(bytes: u64, us: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000_000 / u128::from(us.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
