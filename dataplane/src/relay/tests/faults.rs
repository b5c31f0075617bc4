//! What once went wrong, found by the properties: one small run each.

use xylem_protocol::limits::SLOT_BYTES;

use super::model::{End, How, Model, Op};
use crate::relay::{Action, Event, FlowId, ReaderId, Reason};

const A: FlowId = FlowId(0);
const B: FlowId = FlowId(1);
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

/// A reader that came between a mismatch and the restart was sent the wrong bytes.
#[test]
fn a_reader_of_a_wrong_blob_is_cut_at_once() {
    let mut model = Model::new(4);
    model.fetch(A, SLOT, 0, 1);
    model.run(|op| !matches!(op, Op::Write { .. }));
    assert!(model.blobs[&A].wrong);
    model.join(ReaderId(0), A, 0, SLOT);
    assert_eq!(model.ends[&ReaderId(0)], End::Cut(Reason::Flow));
    model.restart(A);
    // The last write of the wrong bytes is still in flight.
    model.join(ReaderId(1), A, 0, SLOT);
    assert_eq!(model.ends[&ReaderId(1)], End::Cut(Reason::Flow));
    model.run(|op| !matches!(op, Op::Recv { .. }));
    model.join(ReaderId(2), A, 0, SLOT);
    let model = model.finish_run();
    assert_eq!(model.ends[&ReaderId(2)], End::Done);
}

/// A stalled reader of a blob that is stored kept its slots, and another blob starved: only flows
/// that are being fetched were asked to let go.
#[test]
fn a_stalled_reader_of_a_stored_blob_starves_no_other_blob() {
    let mut model = Model::new(4);
    model.fetch(A, 3 * SLOT, 0, 0);
    model.run(|op| matches!(op, Op::Connect { .. }));
    model.join(ReaderId(0), A, 0, 3 * SLOT);
    model.stalled.insert(ReaderId(0), true);
    model.run(|_| true);
    assert!(model.blobs[&A].stored);
    assert_eq!(model.relay.slots_used(), 3);
    model.fetch(B, 2 * SLOT, 0, 0);
    model.finish_run();
}

/// A reader whose last send was asked to end, but had brought all, was done only when its client
/// read on.
#[test]
fn a_cancelled_send_that_brought_everything_is_the_last() {
    let mut model = Model::new(4);
    model.fetch(A, 8 * SLOT, 0, 0);
    model.run(|op| matches!(op, Op::Connect { .. }));
    model.join(ReaderId(0), A, 0, SLOT);
    model.receive(A, SLOT_BYTES / 2);
    let sending = |op: &Op| matches!(op, Op::Send { .. });
    model.run(sending);
    model.run(|op| !sending(op));
    for _ in 0..2 {
        model.apply(Event::Tick);
    }
    model.finish_one(sending, How::Well);
    assert_eq!(model.ends.get(&ReaderId(0)), Some(&End::Done));
    model.finish_run();
}

/// A blob that is whole in the file, but was never verified, asked its source for bytes behind its
/// end.
#[test]
fn a_blob_resumed_at_its_end_needs_no_source() {
    let mut model = Model::new(4);
    model.fetch(A, SLOT, SLOT, 0);
    model.run(|op| {
        assert!(!matches!(op, Op::Connect { .. }));
        true
    });
    assert!(model.blobs[&A].stored);
    model.finish_run();
}

/// Two nodes had given their turns to different blobs, each half of which came from the other node:
/// both stood still until their watchdogs left sources that were alive.
#[test]
fn when_nothing_moves_the_first_of_those_who_wait_has_its_turn() {
    let (c, mut model) = (FlowId(2), Model::new(8));
    model.fetch_as(A, 20 * SLOT, 0, 0, true);
    model.fetch_as(c, 20 * SLOT, 0, 0, true);
    model.fetch_as(FlowId(1), 20 * SLOT, 0, 0, true);
    // One of its stripes comes, as far as there is memory; the other does not.
    let is_first = |op: &Op| match op {
        Op::Connect { flow, .. } => *flow == A,
        Op::Recv { lane, .. } => *lane == 0,
        _ => true,
    };
    model.run(is_first);
    assert!(model.relay.is_starved(A, 0), "it is far ahead");
    model.take_log();
    for _ in 0..16 {
        model.apply(Event::Tick);
    }
    let turns: Vec<FlowId> = model
        .take_log()
        .iter()
        .filter_map(|action| match action {
            Action::Connect { flow, .. } => Some(*flow),
            _ => None,
        })
        .collect();
    assert_eq!(turns[..2], [FlowId(1); 2], "by rank, and not by arrival");
    model.finish_run();
}

/// The first nodes of a burst stand alone in their trees: three blobs had their turn whole there,
/// and one, striped, at those who came later. Each waited for what the other had not begun.
#[test]
fn a_blob_that_will_be_split_has_room_for_both_lanes_at_first() {
    let (c, mut model) = (FlowId(2), Model::new(8));
    model.splits = true;
    for flow in [A, B, c] {
        model.fetch(flow, 40 * SLOT, 0, 0);
    }
    model.run(|op| matches!(op, Op::Connect { .. }));
    let turns = |model: &Model| {
        let is_turn = |op: &&Op| matches!(op, Op::Connect { .. } | Op::Recv { .. });
        model.ops.iter().filter(is_turn).count()
    };
    for tick in 0..12 {
        assert_eq!(turns(&model), 1, "tick {tick}");
        model.receive(A, 1);
        model.apply(Event::Tick);
    }
    assert_eq!(turns(&model), 3, "nobody came");
    model.finish_run();
}

/// Three blobs had their turn whole and were then striped: six lanes with a slot each, of which the
/// three that were ahead waited for the three that were behind. The links stood still half of the
/// time.
#[test]
fn of_blobs_striped_in_their_turn_the_first_goes_on() {
    let (first, others) = (A, [FlowId(1), FlowId(2)]);
    let mut model = Model::new(8);
    for flow in [others[1], first, others[0]] {
        model.fetch(flow, 40 * SLOT, 0, 0);
    }
    model.run(|op| matches!(op, Op::Connect { .. }));
    for flow in [others[1], first, others[0]] {
        model.receive(flow, SLOT_BYTES / 4);
        model.split(flow);
    }
    // Everything comes that is asked for, but the disk takes nothing.
    model.run(|op| matches!(op, Op::Connect { .. } | Op::Recv { .. } | Op::Hash { .. }));
    let received = |model: &Model, flow| model.relay.received_bytes(flow) / SLOT;
    assert!(received(&model, first) >= 4, "it has what the others leave");
    assert!(others.iter().all(|&flow| received(&model, flow) <= 1), "what they had begun");
    // Now it does: the others come when the first is whole.
    model.run(|op| !matches!(op, Op::Finalize { .. }));
    assert_eq!(received(&model, first), 40);
    model.finish_run();
}

/// Twenty images at once, each node's clients in an order of their own: turns were given by
/// arrival, so neighbours fetched different blobs and waited for each other, 1.7 times as long as
/// the links took. Who comes before at all nodes has its turn at once, though early ones have all
/// memory.
#[test]
fn a_blob_that_comes_before_others_does_not_wait_for_them() {
    let (first, early) = (A, [FlowId(4), FlowId(3), FlowId(2)]);
    let mut model = Model::new(8);
    for flow in early {
        model.fetch(flow, 40 * SLOT, 0, 0);
    }
    model.run(|op| matches!(op, Op::Connect { .. }));
    model.fetch(FlowId(5), 40 * SLOT, 0, 0);
    let asks = |model: &Model, which: FlowId| {
        model.ops.iter().any(|op| matches!(op, Op::Connect { flow, .. } if *flow == which))
    };
    assert!(!asks(&model, FlowId(5)), "it is the last at all nodes");
    model.fetch_as(first, 40 * SLOT, 0, 0, true);
    assert!(asks(&model, first), "it is the first at all nodes");
    // The disk takes nothing: what is received shows who goes on.
    let is_body = |op: &Op| matches!(op, Op::Connect { .. } | Op::Recv { .. } | Op::Hash { .. });
    model.run(is_body);
    let received = |model: &Model, flow| model.relay.received_bytes(flow) / SLOT;
    assert!(received(&model, first) >= 2, "a slot for each lane");
    assert!(received(&model, FlowId(4)) <= 1 && received(&model, FlowId(3)) <= 1);
    model.finish_run();
}

/// Whoever has waited for long comes before younger ones of lower ranks: those that went on coming
/// would keep it for ever.
#[test]
fn an_old_blob_comes_before_young_ones() {
    let (old, mut model) = (FlowId(9), Model::new(8));
    for flow in [A, B, FlowId(2), old] {
        model.fetch(flow, 40 * SLOT, 0, 0);
    }
    model.run(|op| matches!(op, Op::Connect { .. }));
    let waits = |model: &Model| {
        !model.ops.iter().any(|op| matches!(op, Op::Recv { flow, .. } if *flow == old))
    };
    for _ in 0..800 {
        assert!(waits(&model), "others have the memory");
        model.receive(A, 1);
        model.apply(Event::Tick);
    }
    for flow in [FlowId(3), FlowId(4)] {
        model.fetch(flow, 40 * SLOT, 0, 0);
    }
    let done = |op: &Op| !matches!(op, Op::Recv { flow, .. } if *flow != A);
    model.run(done);
    assert!(!waits(&model), "the first is done: the old one is next, and not the third");
    model.finish_run();
}
