//! A reader that is slow but steady: it lets go of a slot now and then, so its flow never stands
//! still for long, and yet everybody else goes at its pace.
//!
//! That a flow waits for memory says little: between links of the same speed it does so most of the
//! time. So the reader that alone is waited for is taken off on trial, and whether the flow became
//! faster says whether it was to blame. If it did not, the next trial needs more evidence.

use super::reader::Mode;
use super::{FlowId, ReaderId, Relay};

/// Ticks by which a flow has to be held up by one reader more often than not, at first.
const EVIDENCE_TICKS: u32 = 8;

/// Trials in vain that each double this.
const DOUBLINGS_MAX: u32 = 6;

/// Ticks of a trial that do not count: what waits in the sockets comes as quickly as memory takes.
const SETTLING_TICKS: u32 = 8;

/// Ticks of a trial that count.
const TRIAL_TICKS: u32 = 8;

/// How much faster a flow has to become, percent of its speed before: its reader's part is read
/// from the disk from then on.
const GAIN_PERCENT: u64 = 125;

/// How long a flow has been held up, and by whom.
#[derive(Debug, Default)]
pub(super) struct Lag {
    laggard: Option<ReaderId>,
    /// Ticks at which it held the flow up, less those at which it did not.
    evidence: u32,
    /// Ticks since the evidence or the trial began.
    ticks: u32,
    /// Bytes that the flow had then.
    begin: u64,
    /// During a trial: bytes per tick before it.
    before: Option<u64>,
    /// Trials in a row after which the flow was no faster.
    in_vain: u32,
}

impl Lag {
    /// Counts a tick at which the flow had `received` bytes and was held up by `laggard`, if by
    /// anybody. Whether that one is to be taken off now.
    fn tick(&mut self, received: u64, laggard: Option<ReaderId>) -> bool {
        self.ticks += 1;
        if let Some(before) = self.before {
            self.judge(before, received);
            return false;
        }
        self.evidence = match laggard {
            None => self.evidence.saturating_sub(1),
            Some(_) if laggard == self.laggard => self.evidence + 1,
            Some(_) => 1,
        };
        self.laggard = laggard.or(self.laggard);
        if self.evidence <= 1 {
            (self.ticks, self.begin) = (0, received);
        }
        if self.evidence < EVIDENCE_TICKS << self.in_vain.min(DOUBLINGS_MAX) {
            return false;
        }
        self.before = Some((received - self.begin) / u64::from(self.ticks));
        (self.ticks, self.evidence) = (0, 0);
        true
    }

    /// Ends a trial when its time is over.
    fn judge(&mut self, before: u64, received: u64) {
        if self.ticks == SETTLING_TICKS {
            self.begin = received;
        }
        if self.ticks < SETTLING_TICKS + TRIAL_TICKS {
            return;
        }
        let (gained, usual) = (received - self.begin, before * u64::from(TRIAL_TICKS));
        self.in_vain = if gained * 100 >= usual * GAIN_PERCENT { 0 } else { self.in_vain + 1 };
        self.before = None;
    }
}

impl Relay {
    /// Counts a tick of a flow; `is_held_up`: it waits for memory, and has got little. Who is to be
    /// taken off the edge, if anybody.
    pub(super) fn find_laggard(&mut self, id: FlowId, is_held_up: bool) -> Option<ReaderId> {
        let laggard = if is_held_up { self.last_of(id) } else { None };
        let flow = self.flow_mut(id);
        let is_found = flow.lag.tick(flow.received, laggard);
        laggard.filter(|_| is_found)
    }

    /// The only one who still needs a window's oldest slot: it is in the file and hashed.
    fn last_of(&self, id: FlowId) -> Option<ReaderId> {
        let flow = self.flow(id);
        let is_last = |reader: &&ReaderId, begin, end| {
            let reader = self.reader(**reader);
            reader.mode == Mode::Live && reader.position < end && reader.covers(begin)
        };
        flow.lanes.iter().find_map(|lane| {
            let held = self.pool.held(*lane.window.front()?);
            let is_free = held.stored && flow.hashed >= held.end() && held.pins == 1;
            let mut readers = flow.readers.iter().filter(|_| is_free);
            readers.find(|reader| is_last(reader, held.begin, held.end())).copied()
        })
    }
}
