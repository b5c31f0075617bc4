//! `cargo xtask bench control`: builds control and the load on it, and becomes the load.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::run;

/// Handed over as they are.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(super) struct Options {
    /// As `cargo xtask bench control --help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Returns only on failure.
pub(super) fn run(options: &Options) -> Result<()> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--quiet", "--release"]);
    cargo.args(["--package", "xylem-benches", "--bin", "bench-control"]);
    cargo.args(["--package", "xylem-control", "--bin", "xylem-control"]);
    run::show(&mut cargo)?;
    let built = run::target_dir()?.join("release/bench-control");
    let error = Command::new(built).args(&options.arguments).exec();
    Err(error).context("cannot start the load on control")
}
