//! Hands the seeds to the simulator of `benches`; simulates nothing itself.

use anyhow::Result;
use clap::Args;

use crate::run;

/// What to simulate.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How many seeds to try, from the first one on
    #[arg(long, default_value_t = 200)]
    pub(crate) seeds: u64,
    /// Only this seed, with its story told
    #[arg(long, conflicts_with = "seeds")]
    pub(crate) seed: Option<u64>,
}

/// Builds the simulator and runs it; fails with the command of the first bad seed. In release it
/// is faster by far, but building that takes longer than the few seeds of the tests.
pub(crate) fn run(options: &Options, release: bool) -> Result<()> {
    let mut cargo = run::cargo();
    cargo.args(["run", "--quiet", "-p", "xylem-benches", "--bin", "sim"]);
    if release {
        cargo.arg("--release");
    }
    cargo.arg("--");
    match options.seed {
        Some(seed) => cargo.args(["--seed", &seed.to_string()]),
        None => cargo.args(["--seeds", &options.seeds.to_string()]),
    };
    run::show(&mut cargo)
}
