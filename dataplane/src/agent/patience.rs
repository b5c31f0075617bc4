//! How long control is waited for: as long as it has lately needed to answer, with room for more,
//! and not at all while it owes an answer. Arithmetic only: times come in.

use std::time::Duration;

use xylem_protocol::limits::{
    JOIN_WAIT_MIN_MS, JOIN_WAIT_MS, MANIFEST_JOIN_WAIT_MIN_MS, MANIFEST_JOIN_WAIT_MS,
};

/// What control has lately needed to answer, as RFC 6298 has it for round trips.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Smoothed time and its variation; none until the first answer.
    smoothed: Option<(Duration, Duration)>,
    /// Somebody has waited in vain, and nothing has come from control since.
    stalled: bool,
}

impl Patience {
    /// Control has answered after so long.
    pub(super) fn answered(&mut self, took: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => (took, took / 2),
            Some((time, variation)) => {
                let variation = (variation * 3 + time.abs_diff(took)) / 4;
                ((time * 7 + took) / 8, variation)
            }
        });
    }

    /// Control has said something, whatever it is.
    pub(super) const fn heard(&mut self) {
        self.stalled = false;
    }

    /// It has not answered in time.
    pub(super) const fn in_vain(&mut self) {
        self.stalled = true;
    }

    /// Whether it owes an answer that has been waited for.
    pub(super) const fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// How long blobs of an image wait for its place.
    pub(super) fn of_blobs(&self) -> Duration {
        self.within(JOIN_WAIT_MIN_MS, JOIN_WAIT_MS)
    }

    /// How long its manifest does.
    pub(super) fn of_manifest(&self) -> Duration {
        self.within(MANIFEST_JOIN_WAIT_MIN_MS, MANIFEST_JOIN_WAIT_MS)
    }

    fn within(&self, min_ms: u64, max_ms: u64) -> Duration {
        let max = Duration::from_millis(max_ms);
        let expected = self.smoothed.map_or(max, |(time, variation)| time + 4 * variation);
        expected.clamp(Duration::from_millis(min_ms), max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = ms(1);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn without_an_answer_the_wait_is_the_longest() {
        let patience = Patience::default();
        assert_eq!(patience.of_blobs(), ms(JOIN_WAIT_MS));
        assert_eq!(patience.of_manifest(), ms(MANIFEST_JOIN_WAIT_MS));
    }

    #[test]
    fn a_quick_control_is_given_the_shortest() {
        let mut patience = Patience::default();
        patience.answered(MS);
        assert_eq!(patience.of_blobs(), ms(JOIN_WAIT_MIN_MS));
        assert_eq!(patience.of_manifest(), ms(MANIFEST_JOIN_WAIT_MIN_MS));
    }

    #[test]
    fn one_late_answer_makes_room_for_others() {
        let mut patience = Patience::default();
        (0..20).for_each(|_| patience.answered(MS));
        patience.answered(40 * MS);
        let after = patience.of_blobs();
        assert!(after > 40 * MS && after < ms(JOIN_WAIT_MS), "{after:?}");
        (0..20).for_each(|_| patience.answered(MS));
        assert_eq!(patience.of_blobs(), ms(JOIN_WAIT_MIN_MS), "it is quick again");
    }

    #[test]
    fn the_wait_has_an_end_however_slow_control_is() {
        let mut patience = Patience::default();
        (0..20).for_each(|_| patience.answered(9000 * MS));
        assert_eq!(patience.of_blobs(), ms(JOIN_WAIT_MS));
        assert_eq!(patience.of_manifest(), ms(MANIFEST_JOIN_WAIT_MS));
    }

    #[test]
    fn who_owes_an_answer_is_stalled_until_anything_comes() {
        let mut patience = Patience::default();
        patience.answered(MS);
        assert!(!patience.is_stalled());
        patience.in_vain();
        assert!(patience.is_stalled());
        patience.heard();
        assert!(!patience.is_stalled());
    }
}
