//! `cargo xtask test`: every test there is, the cheap ones first, and one count at the end.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::labtest::{self, Tally};
use crate::{bench, object, run, sim, tidy};

/// Seeds of the simulation where nothing else is asked for: enough for every fault to occur.
const SEEDS: u64 = 40;

/// What to leave out.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Leave out the tests that need real processes in namespaces
    #[arg(long)]
    no_lab: bool,
    /// How many seeds the simulation tries
    #[arg(long, default_value_t = SEEDS)]
    seeds: u64,
}

/// Runs all of it, to the end, and fails if anything did.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut all = Tally::default();
    let mut step = |name: &str, work: &mut dyn FnMut() -> Result<Tally>| -> Result<()> {
        run::go_on()?;
        println!("== {name}");
        let start = Instant::now();
        let tally = work().unwrap_or_else(|error| {
            println!("{name} FAILED: {error:#}");
            let mut tally = Tally::default();
            tally.fail(name, &format!("{error:#}"));
            tally
        });
        println!("== {name}: {:.0} s", start.elapsed().as_secs_f64());
        all.passed += tally.passed;
        all.failed.extend(tally.failed);
        all.skipped += tally.skipped;
        Ok(())
    };
    step("tidy", &mut || one(tidy::run()))?;
    step("fmt", &mut || one(run::show(run::cargo().args(["fmt", "--all", "--check"]))))?;
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step("clippy", &mut || one(run::show(run::cargo().args(clippy))))?;
    step("kernel programs", &mut programs)?;
    step("unit and property tests", &mut || {
        counted(run::cargo().args(["test", "--workspace", "--no-fail-fast"]))
    })?;
    step("instruction counts", &mut || can_be_skipped(bench::guard::run(false)))?;
    step("simulation", &mut || one(sim::seeds(options.seeds)))?;
    if !options.no_lab {
        // Links, not processors, set the pace in a lab: binaries in debug do.
        step("lab tests, binaries in debug", &mut || labtest::all(None, false))?;
    }
    all.conclude()?;
    if all.skipped > 0 && env::var_os("CI").is_some() {
        bail!("{} skipped, and in CI nothing may be", all.skipped);
    }
    Ok(())
}

/// Builds the kernel programs, which some tests load; a machine that cannot is one test short.
fn programs() -> Result<Tally> {
    can_be_skipped(object::build())
}

/// A check that some machines lack something for, and say so by an exit code.
fn can_be_skipped(outcome: Result<()>) -> Result<Tally> {
    match outcome {
        Err(error) if error.is::<run::Exit>() => {
            println!("skipped: {error:#}");
            Ok(Tally { skipped: 1, ..Tally::default() })
        }
        outcome => one(outcome),
    }
}

/// A check that is one test by itself.
fn one(outcome: Result<()>) -> Result<Tally> {
    outcome.map(|()| Tally { passed: 1, ..Tally::default() })
}

/// Runs `cargo test`, passes its output on, and adds up what it says.
///
/// A test that cannot run here writes `skipped: <reason>` to stderr past the test harness, which
/// would swallow it, and returns.
fn counted(command: &mut Command) -> Result<Tally> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo")?;
    let stderr = child.stderr.take().context("a piped stderr")?;
    let skipping = thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.inspect(|line| eprintln!("{line}")).filter(|line| skips(line)).count()
    });
    let stdout = child.stdout.take().context("a piped stdout")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what cargo says")?;
        println!("{line}");
        add(&mut tally, &line);
    }
    let skipped = skipping.join().map_or(0, |count| count as u64);
    tally.skipped += skipped;
    tally.passed = tally.passed.saturating_sub(skipped);
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() && tally.failed.is_empty() {
        bail!("`cargo test` failed ({status})");
    }
    Ok(tally)
}

fn skips(line: &str) -> bool {
    // The harness may have begun a line of its own.
    line.contains("skipped: ")
}

/// Adds what a `test result:` line says, and the name out of a line such as
/// `test store::tests::is_kept ... FAILED`.
fn add(tally: &mut Tally, line: &str) {
    if let Some(name) = line.strip_prefix("test ").and_then(|it| it.strip_suffix(" ... FAILED")) {
        tally.fail(name, "what it said is further up");
    }
    let Some(counts) = line.strip_prefix("test result: ") else { return };
    let counts = counts.split_once(". ").map_or("", |(_, counts)| counts);
    for count in counts.split(';') {
        let mut words = count.split_whitespace();
        let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match words.next() {
            Some("passed") => tally.passed += number,
            Some("ignored") => tally.skipped += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "test relay::tests::bytes_are_kept ... FAILED",
            "test relay::tests::bytes_are_sent ... ok",
            "test result: ok. 22 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished",
            "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; 1 s",
            "running 5 tests",
        ] {
            add(&mut tally, line);
        }
        assert_eq!((tally.passed, tally.skipped), (25, 1));
        assert_eq!(tally.failed, ["relay::tests::bytes_are_kept: what it said is further up"]);
    }
}
