//! How often the ring thread looks at its clock: often while something moves, once a second else.

use std::time::{Duration, Instant};

use xylem_protocol::limits::{OWN_STALL_MS, TICK_MS};

/// Period of the tick while nothing moves, ms.
pub(super) const IDLE_TICK_MS: u64 = 1000;

/// When the last tick came, and when the next one is to.
#[derive(Debug)]
pub(super) struct Pace {
    last: Instant,
    /// Until the next tick, ms.
    period_ms: u64,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { last: now, period_ms: TICK_MS }
    }

    /// A tick has come. Whether it is so late that this thread stood still: then nobody else is to
    /// blame for a silence.
    pub(super) fn ticked(&mut self, now: Instant) -> bool {
        let late = Duration::from_millis(self.period_ms + OWN_STALL_MS);
        now.duration_since(std::mem::replace(&mut self.last, now)) > late
    }

    /// Until the next tick, ms.
    pub(super) const fn next_ms(&mut self, is_busy: bool) -> u64 {
        self.period_ms = if is_busy { TICK_MS } else { IDLE_TICK_MS };
        self.period_ms
    }

    /// Something happens. Whether the next tick has to come at once: it was to come when nothing
    /// moved, and watchdogs and turns wait for it.
    pub(super) const fn hasten(&mut self, now: Instant) -> bool {
        if self.period_ms == TICK_MS {
            return false;
        }
        (self.last, self.period_ms) = (now, TICK_MS);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that had nothing to do saw only up to a second later that a blob stood still.
    #[test]
    fn what_happens_in_idleness_brings_the_tick_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(!pace.hasten(start), "the first tick is soon");
        assert_eq!(pace.next_ms(false), IDLE_TICK_MS);
        let later = start + Duration::from_millis(900);
        assert!(pace.hasten(later));
        assert!(!pace.hasten(later), "asked for once");
        assert!(!pace.ticked(later), "a tick that is early is not late");
        assert_eq!(pace.next_ms(true), TICK_MS);
        assert!(!pace.hasten(later));
    }

    #[test]
    fn a_thread_that_stood_still_is_told_so() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let late = start + Duration::from_millis(TICK_MS + OWN_STALL_MS + 1);
        assert!(pace.ticked(late));
        assert_eq!(pace.next_ms(false), IDLE_TICK_MS);
        assert!(!pace.ticked(late + Duration::from_millis(IDLE_TICK_MS)));
    }
}
