//! `cargo xtask bench all`: every bench that compares us with others, one after the other, each as
//! the command that one would type; a failure of one does not keep the others from running.

use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::report::{Common, Report};
use crate::{run, sys};

/// How often a bench is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// The benches that write one file as JSON, by their names.
const WITH_JSON: [&str; 4] = ["hop", "latency", "pull", "control"];
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
    let mut failed = Vec::new();
    for name in WITH_JSON {
        let json = report.directory().join(format!("{name}.json"));
        let mut bench = bench(args, &[name])?;
        bench.arg("--json").arg(json);
        failed.extend((!wait(bench)?.success()).then_some(name));
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
        failed.extend((!wait(bench)?.success()).then_some(arguments[0]));
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

/// Waits for a bench; one that is to stop is asked to, so that it takes its lab down.
fn wait(mut bench: Command) -> Result<ExitStatus> {
    let mut child: Child = bench.spawn().context("cannot start the bench")?;
    loop {
        if let Some(status) = child.try_wait()? {
            run::go_on()?;
            return Ok(status);
        }
        if let Err(interrupted) = run::pace(LOOK) {
            // At a terminal it has heard of it already.
            let _ = sys::kill(child.id(), libc::SIGTERM);
            child.wait()?;
            return Err(interrupted);
        }
    }
}
