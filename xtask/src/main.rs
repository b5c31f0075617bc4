//! `cargo xtask`: reads the command line and calls the module that does the work; does none itself.

mod bench;
mod build;
mod cluster;
mod demo;
mod http;
mod image;
mod lab;
mod labtest;
mod load;
mod object;
mod run;
mod setup;
mod sim;
mod sys;
mod test;
mod tidy;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that is done to this repository.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build all, make a lab, bring an image to every node at once, show how it went, clean up
    Demo(demo::Options),
    /// Build everything, load and attach the kernel programs, print what was loaded
    BuildAndLoad,
    /// Detach and remove what `build-and-load` loaded
    Unload,
    /// All tests: tidy, fmt, clippy, unit and property tests, simulation, real processes in the lab
    Test(test::Options),
    /// Check the house rules
    Tidy,
    /// Make a container image out of this machine's own files
    Image(image::Options),
    /// The tests that need real processes and namespaces: all, or those whose name contains NAME
    LabTest(labtest::Options),
    /// Relays and trees under virtual time: many seeds, or one blob to thousands of nodes
    Sim(sim::Options),
    /// Measure our relay beside other ways to relay
    Bench(bench::Args),
    /// Record a run: flame graph, io_uring's operations, the way of one unit through the nodes
    Trace(trace::Options),
    /// Remove what a killed or kept lab has left: processes, namespaces, cgroups, directories
    Clean,
    /// Hold a lab until killed: a test kills it
    #[command(hide = true)]
    LabHold,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = run::catch_signals() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let done = match cli.command {
        Command::Demo(options) => demo::run(&options),
        Command::BuildAndLoad => load::build_and_load(),
        Command::Unload => load::unload(),
        Command::Test(options) => test::run(&options),
        Command::Tidy => tidy::run(),
        Command::Image(options) => image::run(&options),
        Command::LabTest(options) => labtest::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::LabHold => labtest::links::hold(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Trace(options) => trace::run(&options),
        Command::Clean => lab::clean::all(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // A tool that knows a better exit code than 1 attaches it to its error.
            error.downcast_ref::<run::Exit>().map_or(ExitCode::FAILURE, |exit| exit.code())
        }
    }
}
