//! The command line of the load on control; `cargo xtask bench control` builds it and becomes it.

use std::process::ExitCode;

use clap::Parser;
use xylem_benches::fleet;

/// Thousands of agents on real streams against one control process on one core
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    options: fleet::Options,
}

fn main() -> ExitCode {
    match fleet::run(&Arguments::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench control: {error:#}");
            ExitCode::FAILURE
        }
    }
}
