//! Readers that take bytes all the time, but too few.

use xylem_protocol::limits::SLOT_BYTES;

use super::model::{How, Model, Op};
use crate::relay::{Event, FlowId, ReaderId};

const A: FlowId = FlowId(0);
const SLOT: u64 = SLOT_BYTES as u64;
const SIZE: u64 = 200 * SLOT;
const FAST: ReaderId = ReaderId(0);
const SLOW: ReaderId = ReaderId(1);

/// A blob that flows to these readers.
fn flowing(readers: &[ReaderId]) -> Model {
    let mut model = Model::new(8);
    model.fetch(A, SIZE, 0, 0);
    model.run(|op| matches!(op, Op::Connect { .. }));
    for &reader in readers {
        model.join(reader, A, 0, SIZE);
    }
    model
}

fn sends_to(reader: ReaderId) -> impl Fn(&Op) -> bool {
    move |op| matches!(op, Op::Send { reader: other, .. } if *other == reader)
}

/// Everything that takes no time: all but the source and the readers.
fn is_at_once(op: &Op) -> bool {
    !matches!(op, Op::Recv { .. } | Op::Send { .. })
}

/// A reader takes what there is for it up to the next slot's end.
fn take_a_slot(model: &mut Model, reader: ReaderId) {
    let place = |model: &Model| model.audit.position(reader).map(|at| at / SLOT);
    let begin = place(model);
    model.run(is_at_once);
    while place(model) == begin && model.ops.iter().any(sends_to(reader)) {
        model.finish_one(sends_to(reader), How::Well);
        model.run(is_at_once);
    }
}

/// A reader of half of the links' speed took a slot from time to time: its flow stood still for
/// less than a tick each time, and its sibling got half of its bytes.
#[test]
fn a_slow_but_steady_reader_slows_neither_its_sibling_nor_the_disk() {
    let mut model = flowing(&[FAST, SLOW]);
    for tick in 0.. {
        take_a_slot(&mut model, SLOW);
        let slow = sends_to(SLOW);
        model.run(|op| !slow(op));
        if model.blobs[&A].stored {
            break;
        }
        assert!(tick < 20, "at {} of 200 slots", model.relay.received_bytes(A) / SLOT);
        model.apply(Event::Tick);
    }
    assert_eq!(model.relay.totals().detached, 1);
    model.finish_run();
}

/// Two readers of one speed: now one is last, now the other.
#[test]
fn of_readers_alike_none_is_taken_off() {
    let mut model = flowing(&[FAST, SLOW]);
    let is_at_once = |op: &Op| is_at_once(op) || matches!(op, Op::Recv { .. });
    model.run(is_at_once);
    take_a_slot(&mut model, FAST);
    for tick in 0..150 {
        let last = if tick % 2 == 0 { SLOW } else { FAST };
        take_a_slot(&mut model, last);
        take_a_slot(&mut model, last);
        model.run(is_at_once);
        assert!(model.relay.is_starved(A, 0), "tick {tick}");
        model.apply(Event::Tick);
    }
    assert_eq!(model.relay.totals().detached, 0);
    model.finish_run();
}

/// A source that is no faster than the reader, but sends ahead while there is memory: without the
/// reader the flow goes as it went before, and the next trial needs more evidence.
#[test]
fn a_reader_whose_going_helps_nobody_is_tried_less_and_less_often() {
    let mut model = flowing(&[SLOW]);
    let (mut trials, mut ticks) = (Vec::new(), 0);
    while !model.blobs[&A].stored {
        let detached = model.relay.totals().detached;
        take_a_slot(&mut model, SLOW);
        if model.relay.readers_behind() > 0 {
            // From the file it gets on a little faster, until it is at the edge again.
            take_a_slot(&mut model, SLOW);
        }
        if model.relay.readers_behind() == 0 {
            model.run(|op| is_at_once(op) || matches!(op, Op::Recv { .. }));
        } else {
            model.receive(A, SLOT_BYTES);
            model.run(is_at_once);
        }
        model.apply(Event::Tick);
        ticks += 1;
        if model.relay.totals().detached > detached {
            trials.push(ticks);
        }
    }
    let pauses: Vec<_> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(trials.len() >= 3 && pauses.is_sorted(), "{trials:?}");
    assert!(pauses[1] > pauses[0] + 8, "{trials:?}");
    model.finish_run();
}
