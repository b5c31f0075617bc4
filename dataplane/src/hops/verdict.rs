//! What limited a hop: sender, network or receiver. Arithmetic on times, no clock.
//!
//! **At the sending end** the kernel keeps three clocks per socket (`TCP_INFO`): busy (something is
//! queued), of that limited by the receiver's window, and of that limited by the send buffer. With
//! the relay's two (a response is under way; nothing at hand to send) the active time splits up:
//!
//! ```text
//! sender   = max(relay had nothing, active - busy) + limited by the send buffer
//! receiver = limited by the receiver's window, of what is left
//! network  = the rest: queued, and waiting for the congestion window
//! ```
//!
//! The relay's own clock is needed beside the kernel's: bytes that trickle in and are passed on one
//! by one keep a socket "busy" until their acknowledgement, however slow the source is.
//!
//! **At the receiving end** nobody tells. What the relay knows for sure is when it withheld reads
//! for want of a slot: that is the receiver. For the rest the best interval seen is taken for what
//! the path can carry: moving all bytes at that rate would have taken `bytes / peak`, which counts
//! as network; longer than that, the first byte's wait included, the sender was slow. A sender that
//! is slow at a constant rate is taken for the network; where the parent is a node, its own report
//! knows better and control prefers it.

/// What limited a hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Too little was seen.
    #[default]
    Unknown,
    /// The sender had nothing to send.
    Sender,
    /// The congestion window.
    Network,
    /// The receiver's window was closed, or the receiver did not read.
    Receiver,
}

impl Verdict {
    /// The word in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Sender => "sender",
            Self::Network => "network",
            Self::Receiver => "receiver",
        }
    }
}

/// Less active time than this says nothing.
const ACTIVE_NS_MIN: u64 = 1_000_000;

/// Times of a sending end, nanoseconds; all sums over the hop's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SendingTimes {
    /// A response was under way.
    pub(super) active_ns: u64,
    /// Of it: the relay had nothing to send.
    pub(super) starved_ns: u64,
    /// The kernel had something queued; 0 also where it does not say.
    pub(super) busy_ns: u64,
    /// Of it: limited by the receiver's window.
    pub(super) window_ns: u64,
    /// Of it: limited by the send buffer.
    pub(super) buffer_ns: u64,
}

impl SendingTimes {
    pub(super) fn add(&mut self, other: &Self) {
        self.active_ns += other.active_ns;
        self.starved_ns += other.starved_ns;
        self.busy_ns += other.busy_ns;
        self.window_ns += other.window_ns;
        self.buffer_ns += other.buffer_ns;
    }

    pub(super) fn verdict(&self) -> Verdict {
        if self.active_ns < ACTIVE_NS_MIN {
            return Verdict::Unknown;
        }
        let active = self.active_ns;
        if self.busy_ns == 0 {
            // No clocks of the kernel: only the relay's own can be believed.
            let starved = self.starved_ns > active / 2;
            return if starved { Verdict::Sender } else { Verdict::Unknown };
        }
        let idle = active.saturating_sub(self.busy_ns);
        let sender = (self.starved_ns.max(idle) + self.buffer_ns).min(active);
        let receiver = self.window_ns.min(active - sender);
        largest(sender, active - sender - receiver, receiver)
    }
}

/// Times of a receiving end, nanoseconds; all sums over the hop's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReceivingTimes {
    /// A response was awaited or arriving.
    pub(super) active_ns: u64,
    /// Of it: the relay did not read for want of a slot.
    pub(super) withheld_ns: u64,
    /// Payload in that time.
    pub(super) bytes: u64,
    /// Bytes per second of the best interval.
    pub(super) peak_bytes_s: u64,
}

impl ReceivingTimes {
    pub(super) fn verdict(&self) -> Verdict {
        if self.active_ns < ACTIVE_NS_MIN || self.peak_bytes_s == 0 {
            return Verdict::Unknown;
        }
        let receiver = self.withheld_ns.min(self.active_ns);
        let at_peak = u128::from(self.bytes) * 1_000_000_000 / u128::from(self.peak_bytes_s);
        let rest = self.active_ns - receiver;
        let network = u64::try_from(at_peak).unwrap_or(u64::MAX).min(rest);
        largest(rest - network, network, receiver)
    }
}

/// The largest share; a tie goes to the network, then to the sender, as the usual cases.
fn largest(sender_ns: u64, network_ns: u64, receiver_ns: u64) -> Verdict {
    if network_ns >= sender_ns && network_ns >= receiver_ns {
        Verdict::Network
    } else if sender_ns >= receiver_ns {
        Verdict::Sender
    } else {
        Verdict::Receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sending(starved: u64, busy: u64, window: u64, buffer: u64) -> Verdict {
        SendingTimes {
            active_ns: 100 * MS,
            starved_ns: starved * MS,
            busy_ns: busy * MS,
            window_ns: window * MS,
            buffer_ns: buffer * MS,
        }
        .verdict()
    }

    #[test]
    fn a_full_queue_that_waits_for_acknowledgements_is_the_network() {
        assert_eq!(sending(0, 100, 0, 0), Verdict::Network);
        assert_eq!(sending(10, 95, 20, 5), Verdict::Network);
        // The kernel still drains after the relay's last send.
        assert_eq!(sending(0, 130, 0, 0), Verdict::Network);
    }

    #[test]
    fn an_empty_queue_is_the_sender() {
        assert_eq!(sending(0, 20, 0, 0), Verdict::Sender);
        // A trickle: busy all the time, and yet nothing more to send.
        assert_eq!(sending(80, 100, 0, 0), Verdict::Sender);
        // The relay's buffer in the kernel is too small for the path.
        assert_eq!(sending(0, 100, 0, 70), Verdict::Sender);
    }

    #[test]
    fn a_closed_window_is_the_receiver() {
        assert_eq!(sending(0, 100, 80, 0), Verdict::Receiver);
        assert_eq!(sending(20, 90, 50, 0), Verdict::Receiver);
        // Shares never exceed the whole.
        assert_eq!(sending(0, 500, 500, 0), Verdict::Receiver);
    }

    #[test]
    fn without_the_kernels_clocks_only_starving_is_believed() {
        assert_eq!(sending(80, 0, 0, 0), Verdict::Sender);
        assert_eq!(sending(20, 0, 0, 0), Verdict::Unknown);
        let short = SendingTimes { active_ns: MS / 2, starved_ns: MS / 2, ..Default::default() };
        assert_eq!(short.verdict(), Verdict::Unknown);
    }

    fn receiving(withheld: u64, bytes: u64, peak_bytes_s: u64) -> Verdict {
        ReceivingTimes { active_ns: 1000 * MS, withheld_ns: withheld * MS, bytes, peak_bytes_s }
            .verdict()
    }

    #[test]
    fn a_receiving_end_compares_with_its_best_interval() {
        // Near its peak all the time.
        assert_eq!(receiving(0, 110_000_000, 118_000_000), Verdict::Network);
        // Fast once, slow otherwise.
        assert_eq!(receiving(0, 30_000_000, 118_000_000), Verdict::Sender);
        // Did not read for most of the time.
        assert_eq!(receiving(700, 30_000_000, 118_000_000), Verdict::Receiver);
        assert_eq!(receiving(0, 0, 0), Verdict::Unknown);
        assert_eq!(receiving(0, u64::MAX, 1), Verdict::Network);
    }
}
