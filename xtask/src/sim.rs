//! Hands a command line to the simulators of `benches`; simulates nothing itself.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::run;

/// What to simulate.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// As `cargo xtask sim --help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the simulators in release, then becomes them; returns only on failure.
pub(crate) fn run(options: &Options) -> Result<()> {
    build(true)?;
    let built = run::target_dir()?.join("release/sim");
    let error = Command::new(built).args(&options.arguments).exec();
    Err(error).context("cannot start the simulator")
}

/// Tries some seeds; fails with the command of the first bad one. In release it is faster by far,
/// but building that takes longer than the few seeds of the tests.
pub(crate) fn seeds(count: u64) -> Result<()> {
    build(false)?;
    let built = run::target_dir()?.join("debug/sim");
    let program = built.to_str().context("path is not text")?;
    run::show(run::command(program).args(["--seeds", &count.to_string()]))
}

fn build(release: bool) -> Result<()> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--quiet", "-p", "xylem-benches", "--bin", "sim"]);
    if release {
        cargo.arg("--release");
    }
    run::show(&mut cargo)
}
