//! What a completion is about, packed into the 64 bits of `user_data`: one encoder, one decoder.
//!
//! ```text
//! 63      56 55                    32 31            16 15             0
//! kind       generation               slot             index
//! ```
//!
//! Index is that of a connection or a flow in the driver's tables; the generation tells its tenants
//! apart.

use super::Slot;

/// Which operation has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A connection was accepted.
    Accept = 1,
    /// The bell has rung.
    Bell,
    /// The clock has ticked.
    Tick,
    /// Downstream: bytes of a request's head.
    RequestHead,
    /// Downstream: a response's head, or a whole answer, was sent.
    Answer,
    /// Downstream: bytes of a body were sent.
    Body,
    /// Downstream: the socket takes bytes again.
    Writable,
    /// Downstream: the file was read into a slot.
    FileRead,
    /// Upstream: connected.
    Connect,
    /// Upstream: the request was sent.
    Request,
    /// Upstream: the response's head can be looked at.
    ResponsePeek,
    /// Upstream: bytes of a body were received.
    Receive,
    /// The file got its space.
    Allocate,
    /// A slot was written.
    Write,
    /// A cancel request itself.
    Cancel,
    /// Head buffers were given to the kernel.
    Provide,
}

const KINDS: [Kind; 16] = [
    Kind::Accept,
    Kind::Bell,
    Kind::Tick,
    Kind::RequestHead,
    Kind::Answer,
    Kind::Body,
    Kind::Writable,
    Kind::FileRead,
    Kind::Connect,
    Kind::Request,
    Kind::ResponsePeek,
    Kind::Receive,
    Kind::Allocate,
    Kind::Write,
    Kind::Cancel,
    Kind::Provide,
];

/// Generations wrap at this.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Names one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Whose: index of a connection or a flow.
    pub index: u16,
    /// Which tenant of that index; 24 bits.
    pub generation: u32,
    /// Which slot, where one is involved.
    pub slot: Slot,
}

impl Token {
    /// An operation without a slot.
    pub const fn new(kind: Kind, index: u16, generation: u32) -> Self {
        Self { kind, index, generation, slot: Slot(0) }
    }

    /// An operation of the ring itself.
    pub const fn single(kind: Kind) -> Self {
        Self::new(kind, 0, 0)
    }

    /// The same, about a slot.
    pub const fn with_slot(self, slot: Slot) -> Self {
        Self { slot, ..self }
    }

    /// As `user_data`.
    pub fn encode(self) -> u64 {
        assert!(self.generation <= GENERATION_MASK, "a generation of more than 24 bits");
        (self.kind as u64) << 56
            | u64::from(self.generation) << 32
            | u64::from(self.slot.0) << 16
            | u64::from(self.index)
    }

    /// From `user_data`; `None` if we never encoded it.
    pub fn decode(bits: u64) -> Option<Self> {
        let [k, g2, g1, g0, s1, s0, i1, i0] = bits.to_be_bytes();
        let kind = *KINDS.get(usize::from(k).checked_sub(1)?)?;
        Some(Self {
            kind,
            generation: u32::from_be_bytes([0, g2, g1, g0]),
            slot: Slot(u16::from_be_bytes([s1, s0])),
            index: u16::from_be_bytes([i1, i0]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_come_back() {
        for (position, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, position + 1, "the table is in order");
            for index in [0, 1, u16::MAX] {
                for generation in [0, 1, GENERATION_MASK] {
                    for slot in [0, 1, u16::MAX] {
                        let token = Token { kind, index, generation, slot: Slot(slot) };
                        assert_eq!(Token::decode(token.encode()), Some(token));
                    }
                }
            }
        }
    }

    #[test]
    fn what_we_never_encoded() {
        assert_eq!(Token::decode(0), None);
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    #[should_panic(expected = "24 bits")]
    fn a_generation_does_not_spill() {
        Token::new(Kind::Body, 0, GENERATION_MASK + 1).encode();
    }
}
