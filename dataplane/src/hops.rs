//! What is known of each hop: connection samples of the ring thread, merged with the kernel's counters.

/// One connection's counters, as the ring thread has them.
#[derive(Debug, Clone, Default)]
pub struct ConnSample {
    /// Number of the connection.
    pub conn: u64,
}
