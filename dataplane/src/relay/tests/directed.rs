//! What the relay does, one promise at a time.

use xylem_protocol::limits::{DIRECT_ALIGN, SLOT_BYTES, UNIT_BYTES};

use super::model::{End, How, Model, Op};
use crate::relay::{Action, Event, FlowId, ReaderId, Reason};

const A: FlowId = FlowId(0);
const B: FlowId = FlowId(1);
const UNIT: u64 = UNIT_BYTES as u64;
const SLOT: u64 = SLOT_BYTES as u64;
const FAST: ReaderId = ReaderId(0);
const SLOW: ReaderId = ReaderId(1);

fn is_connect(op: &Op) -> bool {
    matches!(op, Op::Connect { .. })
}

/// A flow whose source has just answered.
fn flowing(slots: u16, size: u64) -> Model {
    let mut model = Model::new(slots);
    model.fetch(A, size, 0, 0);
    model.run(is_connect);
    model
}

/// Everything but the source and one reader's sends.
fn not_recv_nor(reader: ReaderId) -> impl Fn(&Op) -> bool {
    move |op| match op {
        Op::Recv { .. } => false,
        Op::Send { reader: other, .. } => *other != reader,
        _ => true,
    }
}

fn sends(log: &[Action]) -> Vec<(ReaderId, u64, u32)> {
    let send = |action: &Action| match *action {
        Action::Send { reader, at, bytes, .. } => Some((reader, at, bytes)),
        _ => None,
    };
    log.iter().filter_map(send).collect()
}

fn reads(log: &[Action]) -> Vec<(u64, u32)> {
    let read = |action: &Action| match *action {
        Action::Read { at, bytes, .. } => Some((at, bytes)),
        _ => None,
    };
    log.iter().filter_map(read).collect()
}

#[test]
fn bytes_leave_to_every_reader_before_anything_else_is_done_with_them() {
    let mut model = flowing(8, 4 * SLOT);
    model.join(FAST, A, 0, 4 * SLOT);
    model.join(SLOW, A, 0, 4 * SLOT);
    model.take_log();
    model.receive(A, 1000);
    let log = model.take_log();
    assert!(matches!(log[..2], [Action::Send { .. }, Action::Send { .. }]));
    // From the same memory: one slot, no copy.
    let from = |action: &Action| match *action {
        Action::Send { slot, offset, bytes, .. } => (slot, offset, bytes),
        _ => unreachable!("two sends"),
    };
    assert_eq!(from(&log[0]), from(&log[1]));
    assert!(matches!(log[2..], [Action::Recv { at: 1000, .. }]), "the slot is filled further");
    let model = model.finish_run();
    assert_eq!(model.ends.values().filter(|end| **end == End::Done).count(), 2);
    assert!(reads(&model.log).is_empty(), "nobody needed the file");
}

#[test]
fn a_reader_has_one_send_in_flight_and_gets_what_has_gathered_by_the_next() {
    let mut model = flowing(8, 4 * SLOT);
    model.join(FAST, A, 0, 4 * SLOT);
    model.receive(A, 1000);
    model.receive(A, 500);
    model.receive(A, 700);
    assert_eq!(sends(&model.take_log()), [(FAST, 0, 1000)]);
    model.finish_one(|op| matches!(op, Op::Send { .. }), How::Short(400));
    assert_eq!(sends(&model.take_log()), [(FAST, 400, 1800)]);
    model.finish_run();
}

#[test]
fn whole_units_are_hashed_as_they_come_and_whole_slots_are_written() {
    let mut model = flowing(4, SLOT + 10);
    model.take_log();
    let given = |log: Vec<Action>| -> Vec<(char, u64, u32)> {
        let work = |action: &Action| match *action {
            Action::Hash { at, bytes, .. } => Some(('h', at, bytes)),
            Action::Write { at, bytes, .. } => Some(('w', at, bytes)),
            Action::Finalize { .. } => Some(('f', 0, 0)),
            _ => None,
        };
        log.iter().filter_map(work).collect()
    };
    model.receive(A, UNIT_BYTES - 1);
    assert!(given(model.take_log()).is_empty());
    model.receive(A, 1);
    assert_eq!(given(model.take_log()), [('h', 0, UNIT_BYTES)]);
    model.receive(A, UNIT_BYTES);
    assert_eq!(given(model.take_log()), [('h', UNIT, UNIT_BYTES), ('w', 0, SLOT_BYTES)]);
    model.receive(A, 10);
    assert_eq!(given(model.take_log()), [('h', SLOT, 10), ('w', SLOT, 10), ('f', 0, 0)]);
    model.finish_run();
}

#[test]
fn without_a_free_slot_nothing_is_received() {
    let mut model = flowing(4, 8 * SLOT);
    // The disk takes nothing: three quarters of the slots fill up.
    model.run(|op| !matches!(op, Op::Write { .. }));
    assert_eq!(model.relay.received_bytes(A), 3 * SLOT);
    assert!(model.relay.is_starved(A, 0));
    model.finish_one(|op| matches!(op, Op::Write { .. }), How::Well);
    assert!(!model.relay.is_starved(A, 0));
    model.finish_run();
}

#[test]
fn a_late_joiner_is_served_from_the_file_until_it_meets_the_edge() {
    let mut model = flowing(4, 8 * SLOT);
    for _ in 0..8 {
        model.receive(A, UNIT_BYTES);
        model.run(|op| !matches!(op, Op::Recv { .. }));
    }
    assert_eq!(model.relay.received_bytes(A), 4 * SLOT);
    model.take_log();
    model.join(FAST, A, 0, 8 * SLOT);
    model.run(|op| !matches!(op, Op::Recv { .. }));
    let from_file: Vec<_> = (0..4).map(|slot| (slot * SLOT, SLOT_BYTES)).collect();
    assert_eq!(reads(&model.take_log()), from_file);
    // At the edge it is like any other.
    model.receive(A, 77);
    assert_eq!(sends(&model.take_log()), [(FAST, 4 * SLOT, 77)]);
    let model = model.finish_run();
    assert!(reads(&model.log).is_empty());
}

#[test]
fn a_reader_that_makes_the_flow_stand_still_is_taken_off_the_edge_and_comes_back() {
    let mut model = flowing(4, 16 * SLOT);
    model.join(SLOW, A, 0, 16 * SLOT);
    model.stalled.insert(SLOW, true);
    model.run(|_| true);
    assert!(model.relay.is_starved(A, 0), "it holds every slot of the window");
    model.apply(Event::Tick);
    assert!(!model.log.contains(&Action::CancelSend { reader: SLOW }), "it may be a little late");
    model.apply(Event::Tick);
    assert!(model.log.contains(&Action::CancelSend { reader: SLOW }));
    model.run(|op| !matches!(op, Op::Recv { .. }));
    assert!(!model.relay.is_starved(A, 0));
    assert_eq!(model.relay.totals().detached, 1);
    // Its socket takes bytes again: first from the file, then at the edge.
    model.take_log();
    for _ in 0..6 {
        model.receive(A, UNIT_BYTES);
        model.run(|op| !matches!(op, Op::Recv { .. } | Op::Poll { .. }));
    }
    assert!(sends(&model.take_log()).is_empty(), "parked until its socket is writable");
    model.stalled.insert(SLOW, false);
    model.run(|op| !matches!(op, Op::Recv { .. }));
    assert!(!reads(&model.take_log()).is_empty());
    model.receive(A, 5);
    assert_eq!(sends(&model.take_log()).len(), 1);
    let model = model.finish_run();
    assert_eq!(model.ends[&SLOW], End::Done);
    assert!(reads(&model.log).is_empty());
}

#[test]
fn a_stalled_reader_slows_neither_its_sibling_nor_the_disk() {
    let mut model = flowing(4, 32 * SLOT);
    model.join(FAST, A, 0, 32 * SLOT);
    model.join(SLOW, A, 0, 32 * SLOT);
    model.stalled.insert(SLOW, true);
    let mut ticks = 0;
    while !model.blobs[&A].stored {
        model.run(|_| true);
        model.apply(Event::Tick);
        ticks += 1;
        assert!(ticks < 8, "one standstill, not one for each slot");
    }
    model.run(|_| true);
    assert_eq!(model.ends.get(&FAST), Some(&End::Done));
    model.finish_run();
}

#[test]
fn a_stuck_reader_of_the_file_gives_its_slot_to_those_who_wait() {
    let mut model = Model::new(4);
    model.serve(A, 8 * SLOT);
    for reader in 0..3 {
        model.join(ReaderId(reader), A, 0, 8 * SLOT);
    }
    // Half of the slots are for reading; two take them, and stall.
    model.stalled.insert(ReaderId(0), true);
    model.stalled.insert(ReaderId(1), true);
    model.run(|_| true);
    assert!(model.ends.is_empty());
    model.settle();
    assert_eq!(model.ends.get(&ReaderId(2)), Some(&End::Done));
    assert_eq!(model.relay.slots_used(), 0, "parked readers hold nothing");
    model.finish_run();
}

#[test]
fn readers_of_files_leave_half_of_the_slots_to_receive_into() {
    let mut model = Model::new(8);
    model.serve(B, 8 * SLOT);
    for reader in 0..4 {
        model.join(ReaderId(reader), B, 0, 8 * SLOT);
        model.stalled.insert(ReaderId(reader), true);
    }
    model.run(|_| true);
    assert_eq!(model.relay.slots_used(), 4);
    model.fetch(A, 8 * SLOT, 0, 0);
    // Nobody asks them to let go: nobody waits for a slot.
    model.run(|_| true);
    assert!(model.blobs[&A].stored);
    model.finish_run();
}

#[test]
fn a_range_reader_gets_its_range_from_aligned_reads() {
    let mut model = Model::new(4);
    model.serve(A, 3 * SLOT + 77);
    let (start, end) = (SLOT - 1, 3 * SLOT + 5);
    model.join(FAST, A, start, end);
    let model = model.finish_run();
    let align = u64::from(DIRECT_ALIGN);
    assert_eq!(model.ends[&FAST], End::Done);
    assert_eq!(reads(&model.log)[0], (SLOT - align, SLOT_BYTES));
    let sent: u64 = sends(&model.log).iter().map(|&(.., bytes)| u64::from(bytes)).sum();
    assert_eq!(sent, end - start);
}

#[test]
fn the_last_byte_waits_for_the_verdict() {
    let mut model = flowing(4, SLOT);
    model.join(FAST, A, 0, SLOT);
    model.join(SLOW, A, 0, SLOT - 1);
    model.run(|op| !matches!(op, Op::Finalize { .. }));
    assert_eq!(model.audit.position(FAST), Some(SLOT - 1));
    assert_eq!(model.ends.get(&SLOW), Some(&End::Done), "a part is nobody's whole body");
    assert!(!model.blobs[&A].stored);
    model.take_log();
    model.run(|op| matches!(op, Op::Finalize { .. }));
    assert_eq!(sends(&model.take_log()), [(FAST, SLOT - 1, 1)]);
    assert!(model.blobs[&A].stored);
    model.finish_run();
}

#[test]
fn a_wrong_digest_cuts_the_readers_and_the_blob_begins_again() {
    let mut model = Model::new(4);
    model.fetch(A, 2 * SLOT, 0, 1);
    model.run(is_connect);
    model.join(FAST, A, 0, 2 * SLOT);
    model.run(|_| true);
    assert_eq!(model.ends.get(&FAST), Some(&End::Cut(Reason::Flow)));
    assert!(!model.blobs[&A].stored && model.blobs[&A].wrong);
    model.take_log();
    model.restart(A);
    assert_eq!(model.take_log(), [Action::Connect { flow: A, lane: 0, at: 0 }]);
    model.join(SLOW, A, 0, 2 * SLOT);
    let model = model.finish_run();
    assert_eq!(model.ends[&SLOW], End::Done);
}

#[test]
fn a_lost_source_is_replaced_at_the_own_offset_unnoticed_by_readers() {
    let mut model = flowing(4, 4 * SLOT);
    model.join(FAST, A, 0, 4 * SLOT);
    model.receive(A, 123_456);
    model.take_log();
    model.lose_source(A, 0);
    assert!(model.take_log().is_empty());
    assert!(model.relay.is_waiting_for_source(A, 0));
    model.run(is_connect);
    let again = model.take_log();
    assert!(matches!(again[..], [Action::Recv { at: 123_456, offset: 123_456, .. }]));
    let model = model.finish_run();
    assert_eq!(model.ends[&FAST], End::Done);
    assert_eq!(model.relay.totals().received, 4 * SLOT, "nothing was fetched twice");
}

#[test]
fn a_resumed_blob_is_fetched_from_where_it_ends_and_served_from_the_file_before() {
    let mut model = Model::new(4);
    model.fetch(A, 4 * SLOT, 3 * UNIT, 0);
    assert_eq!(model.take_log(), [Action::Connect { flow: A, lane: 0, at: 3 * UNIT }]);
    // Its size is known, so readers need not wait for a source.
    model.join(FAST, A, 0, 4 * SLOT);
    model.run(|op| !is_connect(op));
    assert_eq!(model.audit.position(FAST), Some(3 * UNIT));
    let model = model.finish_run();
    assert_eq!(model.ends[&FAST], End::Done);
    assert_eq!(model.relay.totals().received, 4 * SLOT - 3 * UNIT);
}

#[test]
fn an_empty_blob_is_stored_without_a_byte() {
    let mut model = flowing(4, 0);
    model.join(FAST, A, 0, 0);
    assert_eq!(model.ends.get(&FAST), Some(&End::Done));
    model.run(|_| true);
    assert!(model.blobs[&A].stored);
    model.finish_run();
}

#[test]
fn a_full_disk_fails_one_blob_and_nothing_else() {
    let mut model = Model::new(8);
    model.fetch(A, 8 * SLOT, 0, 0);
    model.fetch(B, 8 * SLOT, 0, 0);
    model.run(is_connect);
    model.join(FAST, A, 0, 8 * SLOT);
    model.join(SLOW, B, 0, 8 * SLOT);
    model.receive(A, SLOT_BYTES);
    let write = |op: &Op| matches!(op, Op::Write { flow, .. } if *flow == A);
    model.finish_one(write, How::Failed);
    let model = model.finish_run();
    assert_eq!(model.ends[&FAST], End::Cut(Reason::Flow));
    assert_eq!(model.ends[&SLOW], End::Done);
}

#[test]
fn a_blob_given_up_hands_its_slots_to_one_that_waits() {
    let mut model = flowing(8, 8 * SLOT);
    model.fetch(B, 8 * SLOT, 0, 0);
    model.run(is_connect);
    // A fills its share and the disk takes nothing of it; B finds no slot.
    let of_a = |op: &Op| matches!(op, Op::Recv { flow, .. } if *flow == A);
    model.run(of_a);
    model.run(|op| matches!(op, Op::Recv { flow, .. } if *flow == B));
    assert!(model.relay.is_starved(B, 0));
    model.abandon(A);
    model.run(|op| {
        matches!(op, Op::Write { flow, .. } | Op::Hash { flow, .. } | Op::Recv { flow, .. }
            if *flow == A)
    });
    assert!(!model.relay.is_starved(B, 0));
    model.finish_run();
}

#[test]
fn sibling_sends_go_on_while_one_is_stuck() {
    let mut model = flowing(8, 8 * SLOT);
    model.join(FAST, A, 0, 8 * SLOT);
    model.join(SLOW, A, 0, 8 * SLOT);
    for received in 1..=4u64 {
        model.receive(A, 300_000);
        model.run(not_recv_nor(SLOW));
        assert_eq!(model.audit.position(FAST), Some(received * 300_000));
        assert_eq!(model.audit.position(SLOW), Some(0));
    }
    model.finish_run();
}
