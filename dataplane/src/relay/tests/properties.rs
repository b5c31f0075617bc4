//! Random runs: whatever happens in whatever order, nothing wrong is sent or stored, and whoever
//! can finish does.

use proptest::collection::vec;
use proptest::prelude::*;
use xylem_protocol::limits::{SLOT_BYTES, UNIT_BYTES};
use xylem_protocol::stripe::{offset_in_stripe, place_in_blob};

use super::model::{Blob, End, How, Model, Op};
use crate::relay::{Event, FlowId, ReaderId};

/// Blobs and readers of one run, and everything that is left to chance.
#[derive(Debug, Clone)]
struct Scenario {
    slots: u16,
    blobs: Vec<BlobPlan>,
    readers: Vec<ReaderPlan>,
    /// Which misfortunes may happen: one bit each.
    faults: u8,
    choices: Vec<u32>,
}

#[derive(Debug, Clone)]
struct BlobPlan {
    size: u64,
    resume_units: u64,
    mismatches: u32,
    /// Already whole in the store.
    whole: bool,
    /// A source for each stripe from the start.
    striped: bool,
}

#[derive(Debug, Clone)]
struct ReaderPlan {
    blob: usize,
    stripe: Option<u8>,
    start: u64,
    end: u64,
    stalled: bool,
}

/// Cases of each property: about a second.
const CASES_MIN: u32 = 2000;

const FAULT_SHORT: u8 = 1;
const FAULT_SOURCE: u8 = 2;
const FAULT_READER: u8 = 4;
const FAULT_DISK: u8 = 8;
const FAULT_ABANDON: u8 = 16;
const FAULT_STALL: u8 = 32;

fn sizes() -> impl Strategy<Value = u64> {
    let (unit, slot) = (u64::from(UNIT_BYTES), u64::from(SLOT_BYTES));
    prop_oneof![
        0..=2u64,
        unit - 1..=unit + 1,
        slot - 1..=slot + 1,
        (1..=6u64).prop_map(move |slots| slots * slot),
        1..=8 * slot,
    ]
}

fn blobs() -> impl Strategy<Value = BlobPlan> {
    let resume = prop_oneof![2 => Just(0), 1 => 0..=16u64];
    let mismatches = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(2)];
    (sizes(), resume, mismatches, prop::bool::weighted(0.15), any::<bool>()).prop_map(
        |(size, resume, mismatches, whole, striped)| BlobPlan {
            size,
            resume_units: resume.min(size / u64::from(UNIT_BYTES)),
            mismatches,
            whole,
            // A source answers for a stripe only if there is something in it.
            striped: striped && size > u64::from(SLOT_BYTES),
        },
    )
}

/// A range in parts of 2^32 of the blob's size; half of the readers want all of it.
fn readers() -> impl Strategy<Value = ReaderPlan> {
    let range = prop_oneof![Just((0, u32::MAX)), any::<(u32, u32)>()];
    let stripe = prop_oneof![Just(None), Just(Some(0)), Just(Some(1))];
    (any::<prop::sample::Index>(), stripe, range, prop::bool::weighted(0.15)).prop_map(
        |(blob, stripe, (start, end), stalled)| ReaderPlan {
            blob: blob.index(1 << 16),
            stripe,
            start: u64::from(start),
            end: u64::from(end),
            stalled,
        },
    )
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let slots = prop_oneof![3 => Just(4u16), 2 => 5..=8u16, 1 => 9..=24u16];
    let faults = prop_oneof![Just(0), Just(FAULT_STALL), any::<u8>()];
    (slots, vec(blobs(), 1..8), vec(readers(), 0..24), faults, vec(any::<u32>(), 0..600)).prop_map(
        |(slots, blobs, readers, faults, choices)| Scenario {
            slots,
            blobs,
            readers,
            faults,
            choices,
        },
    )
}

impl Scenario {
    fn run(&self) -> Model {
        let mut run = Run { model: Model::new(self.slots), plan: self, fetched: 0, joined: 0 };
        for &choice in &self.choices {
            run.step(choice);
        }
        while run.fetched < self.blobs.len() {
            run.fetch();
        }
        run.model.settle();
        while run.joined < self.readers.len() {
            run.join();
        }
        run.model.finish_run()
    }
}

/// A range of a stripe: from its first byte at or behind `start` to its last before `end`.
fn within(stripe: Option<u8>, start: u64, end: u64) -> (u64, u64) {
    let Some(stripe) = stripe else { return (start, end) };
    let (from, to) = (offset_in_stripe(start, stripe), offset_in_stripe(end, stripe));
    if from == to {
        return (end, end);
    }
    (place_in_blob(from, stripe), place_in_blob(to - 1, stripe) + 1)
}

struct Run<'a> {
    model: Model,
    plan: &'a Scenario,
    fetched: usize,
    joined: usize,
}

impl Run<'_> {
    /// One step by chance: the low byte says what, the rest whom and how.
    fn step(&mut self, choice: u32) {
        let (what, whom, how) = (choice & 0xff, choice as usize >> 8, choice >> 20);
        let may = |fault: u8| self.plan.faults & fault != 0;
        match what {
            0..=15 => self.fetch(),
            16..=39 => self.join(),
            40..=49 => self.model.apply(Event::Tick),
            50..=54 if may(FAULT_SOURCE) => self.lose_source(whom),
            55..=57 if may(FAULT_READER) => self.leave(whom),
            58 if may(FAULT_ABANDON) => self.abandon(whom),
            59..=64 if may(FAULT_STALL) => self.stall(whom),
            65..=86 => self.restart(whom),
            87..=90 => self.split(whom),
            _ => self.finish(whom, how),
        }
    }

    fn fetch(&mut self) {
        let Some(plan) = self.plan.blobs.get(self.fetched) else { return };
        let flow = FlowId(u16::try_from(self.fetched).expect("few flows"));
        self.fetched += 1;
        if plan.whole {
            return self.model.serve(flow, plan.size);
        }
        let resume = plan.resume_units * u64::from(UNIT_BYTES);
        self.model.fetch_as(flow, plan.size, resume, plan.mismatches, plan.striped);
    }

    fn join(&mut self) {
        let Some(plan) = self.plan.readers.get(self.joined) else { return };
        if self.fetched == 0 {
            return;
        }
        let flow = FlowId(u16::try_from(plan.blob % self.fetched).expect("few flows"));
        let known = self.model.blobs.get(&flow).filter(|blob| blob.known);
        let reader = ReaderId(u16::try_from(self.joined).expect("few readers"));
        let Some(size) = known.map(|blob| blob.size) else {
            // It would wait for the head; in a run that is over, for nothing.
            self.joined += usize::from(self.fetched == self.plan.blobs.len());
            return;
        };
        self.joined += 1;
        let place = |part: u64| (size * part).div_ceil(u64::from(u32::MAX));
        let (start, end) = (place(plan.start.min(plan.end)), place(plan.start.max(plan.end)));
        self.model.join_stripe(reader, flow, plan.stripe, within(plan.stripe, start, end));
        if let Some(stalled) = self.model.stalled.get_mut(&reader) {
            *stalled = plan.stalled && self.plan.faults & FAULT_STALL != 0;
        }
    }

    fn lose_source(&mut self, whom: usize) {
        let mut lanes = Vec::new();
        for (&flow, blob) in &self.model.blobs {
            lanes.extend((0..2u8).filter(|&l| blob.connected[usize::from(l)]).map(|l| (flow, l)));
        }
        if !lanes.is_empty() {
            let (flow, lane) = lanes[whom % lanes.len()];
            self.model.lose_source(flow, lane);
        }
    }

    /// Only of a blob that has two stripes: the cold half knows its size from the manifest.
    fn split(&mut self, whom: usize) {
        let two = |(_, blob): &(_, &Blob)| blob.size > u64::from(SLOT_BYTES);
        let flows: Vec<FlowId> =
            self.model.blobs.iter().filter(two).map(|(flow, _)| *flow).collect();
        if !flows.is_empty() {
            self.model.split(flows[whom % flows.len()]);
        }
    }

    fn leave(&mut self, whom: usize) {
        let readers: Vec<ReaderId> = self.model.stalled.keys().copied().collect();
        if !readers.is_empty() {
            self.model.leave(readers[whom % readers.len()]);
        }
    }

    fn abandon(&mut self, whom: usize) {
        let flows: Vec<FlowId> = self.model.blobs.keys().copied().collect();
        if !flows.is_empty() {
            self.model.abandon(flows[whom % flows.len()]);
        }
    }

    fn stall(&mut self, whom: usize) {
        let count = self.model.stalled.len();
        if let Some(stalled) = self.model.stalled.values_mut().nth(whom % count.max(1)) {
            *stalled = !*stalled;
        }
    }

    fn restart(&mut self, whom: usize) {
        let wrong = |blob: &&FlowId| self.model.blobs[*blob].wrong;
        let flows: Vec<FlowId> = self.model.blobs.keys().filter(wrong).copied().collect();
        if !flows.is_empty() {
            self.model.restart(flows[whom % flows.len()]);
        }
    }

    fn finish(&mut self, whom: usize, how: u32) {
        let model = &mut self.model;
        let ready: Vec<usize> = (0..model.ops.len()).filter(|&op| model.can_end(op)).collect();
        if ready.is_empty() {
            return;
        }
        let index = ready[whom % ready.len()];
        let may = |fault: u8| self.plan.faults & fault != 0;
        let fault = match model.ops[index] {
            Op::Recv { .. } => FAULT_SOURCE,
            Op::Write { .. } | Op::Read { .. } => FAULT_DISK,
            _ => FAULT_READER,
        };
        let how = match how & 0xf {
            0 if how & 0x30 == 0 && may(fault) => How::Failed,
            1..=3 if may(FAULT_SHORT) => How::Short(1 << (how >> 4 & 0x1f).min(20)),
            4 if may(FAULT_SHORT) => How::Short((how >> 4) * 4099 + 1),
            _ => How::Well,
        };
        model.finish(index, how);
    }
}

/// `PROPTEST_CASES` asks for more of them.
fn config() -> ProptestConfig {
    let standard = ProptestConfig::default();
    let cases = standard.cases.max(CASES_MIN);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..standard }
}

proptest! {
    #![proptest_config(config())]

    /// The audit looks at every step; `finish_run` at what must be reached.
    #[test]
    fn any_run_ends_well(scenario in scenarios()) {
        scenario.run();
    }

    /// Without misfortune every reader gets its whole range.
    #[test]
    fn without_faults_everybody_is_done(mut scenario in scenarios()) {
        scenario.faults = 0;
        for blob in &mut scenario.blobs {
            blob.mismatches = 0;
        }
        let model = scenario.run();
        prop_assert!(model.ends.values().all(|end| *end == End::Done));
    }
}
