//! What once went wrong, found by the properties: one small run each.

use xylem_protocol::limits::SLOT_BYTES;

use super::model::{End, Model, Op};
use crate::relay::{FlowId, ReaderId};

const A: FlowId = FlowId(0);
const SLOT: u64 = SLOT_BYTES as u64;

/// A range that begins behind the edge pinned every slot before it, for ever.
#[test]
fn a_range_ahead_of_the_edge_pins_nothing_before_it() {
    let mut model = Model::new(4);
    model.fetch(A, 8 * SLOT, 0, 0);
    model.run(|op| matches!(op, Op::Connect { .. }));
    model.join(ReaderId(0), A, 6 * SLOT, 7 * SLOT);
    // No tick comes to the rescue.
    model.run(|_| true);
    assert!(model.blobs[&A].stored);
    assert_eq!(model.ends[&ReaderId(0)], End::Done);
    model.finish_run();
}
