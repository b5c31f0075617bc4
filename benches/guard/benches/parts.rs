//! `cargo bench --package xylem-guard`: how long the pure parts take for one operation. To look at
//! while working on one: the guard counts the instructions of the same parts and is what judges.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use xylem_guard::parts::Part;

/// Before anything is measured, for each part.
const WARM_UP: Duration = Duration::from_millis(500);
/// In which all samples of a part are taken.
const MEASURED: Duration = Duration::from_secs(2);

fn main() {
    let criterion = Criterion::default().warm_up_time(WARM_UP).measurement_time(MEASURED);
    let mut criterion = criterion.configure_from_args();
    let mut group = criterion.benchmark_group("operation");
    // A part takes up to a millisecond: with growing samples the slow ones would take minutes.
    group.sampling_mode(SamplingMode::Flat);
    for name in Part::NAMES {
        group.bench_function(name, |bencher| bencher.iter_custom(|times| measure(name, times)));
    }
    group.finish();
    criterion.final_summary();
}

/// What as many operations take as there are `times`, from so many runs of a part; to make it
/// ready is not measured.
fn measure(name: &str, times: u64) -> Duration {
    let mut took = Duration::ZERO;
    let mut operations = 1;
    for _ in 0..times {
        let part = Part::ready(name).expect("a part that has a name");
        let start = Instant::now();
        operations = part.counted();
        took += start.elapsed();
    }
    took / operations
}
