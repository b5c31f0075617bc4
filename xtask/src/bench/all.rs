//! `cargo xtask bench all`: every bench that compares us with others, one after the other, each as
//! the command that one would type; a failure of one does not keep the others from running.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::report::{Common, Report};
use crate::{run, sys};

/// How often a bench is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long one bench may take before it is ended and has failed.
const BENCH_MAX: Duration = Duration::from_hours(3);
/// The same of a quick one.
const BENCH_QUICK_MAX: Duration = Duration::from_mins(20);
/// How long one that was asked to stop may take to remove its lab.
const GOODBYE_MAX: Duration = Duration::from_secs(60);

/// The benches that write one file as JSON: the file's name, and how they are asked for.
const WITH_JSON: [(&str, &[&str]); 5] = [
    ("hop", &["hop"]),
    ("hop-variants", &["hop", "--variants"]),
    ("latency", &["latency"]),
    ("pull", &["pull"]),
    ("control", &["control"]),
];
/// Those that write a report, and what else they are told.
const WITH_REPORT: [&[&str]; 4] = [
    &["provision"],
    &["provision", "--nodes=15", "--rate=300mbit", "--size=256MiB", "--what=blob"],
    &["provision", "--nodes=31", "--rate=100mbit", "--size=128MiB", "--what=blob"],
    &["coldstart"],
];
/// The same of a quick round: that they work with more nodes is shown by one of them.
const WITH_REPORT_QUICK: [&[&str]; 2] = [&["provision"], &["coldstart"]];

/// How thorough to be.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
}

/// Runs them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = Report::open(&args.common)?;
    let bound = if args.common.quick { BENCH_QUICK_MAX } else { BENCH_MAX };
    let mut failed = Vec::new();
    for (name, arguments) in WITH_JSON {
        let json = report.directory().join(format!("{name}.json"));
        let mut bench = bench(args, arguments)?;
        bench.arg("--json").arg(json);
        failed.extend((!succeeds(bench, bound)?).then_some(name));
    }
    let reports: &[&[&str]] = if args.common.quick { &WITH_REPORT_QUICK } else { &WITH_REPORT };
    for arguments in reports {
        let mut bench = bench(args, arguments)?;
        if let Some(foreign) = args.common.foreign {
            bench.arg(format!("--foreign={foreign}"));
        }
        if let Some(out) = &args.common.out {
            bench.arg("--out").arg(out);
        }
        failed.extend((!succeeds(bench, bound)?).then_some(arguments[0]));
    }
    if !failed.is_empty() {
        bail!("these benches failed: {}", failed.join(", "));
    }
    Ok(())
}

fn bench(args: &Args, arguments: &[&str]) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find the own executable")?;
    let mut bench = Command::new(own);
    bench.arg("bench").args(arguments).stdin(Stdio::null());
    if args.common.quick {
        bench.arg("--quick");
    }
    if let Some(rounds) = args.common.rounds {
        bench.arg(format!("--rounds={rounds}"));
    }
    eprintln!("bench {}", arguments.join(" "));
    Ok(bench)
}

/// Waits for a bench; whether it ended well. One that is to stop, or takes too long, is asked to,
/// so that it takes its lab down.
fn succeeds(mut bench: Command, bound: Duration) -> Result<bool> {
    let start = Instant::now();
    let mut child = bench.spawn().context("cannot start the bench")?;
    loop {
        if let Some(status) = child.try_wait()? {
            run::go_on()?;
            eprintln!("{status} after {:.0} s", start.elapsed().as_secs_f64());
            return Ok(status.success());
        }
        let interrupted = run::pace(LOOK).err();
        let late = start.elapsed() > bound;
        if interrupted.is_none() && !late {
            continue;
        }
        // At a terminal it has heard of an interruption already.
        let _ = sys::kill(child.id(), libc::SIGTERM);
        let asked = Instant::now();
        while child.try_wait()?.is_none() {
            if asked.elapsed() > GOODBYE_MAX {
                child.kill()?;
            }
            std::thread::sleep(LOOK);
        }
        let Some(interrupted) = interrupted else {
            eprintln!("ended: not done after {} s", bound.as_secs());
            return Ok(false);
        };
        return Err(interrupted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_and_what_does_not_end_has_not_succeeded() {
        let long = Duration::from_secs(60);
        assert!(succeeds(Command::new("true"), long).unwrap());
        assert!(!succeeds(Command::new("false"), long).unwrap());
        let mut endless = Command::new("tail");
        endless.args(["-f", "/dev/null"]);
        let start = Instant::now();
        assert!(!succeeds(endless, Duration::from_millis(100)).unwrap());
        assert!(start.elapsed() < GOODBYE_MAX, "it was asked to end");
    }
}
