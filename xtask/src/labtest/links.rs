//! The lab itself: links have their rate, labs coexist, and a killed one can be removed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::build::Binaries;
use crate::lab::{Lab, measure};
use crate::run;

const RATE: &str = "200mbit";
const RATE_BYTES_S: f64 = 25e6;
/// Headers take 4 %, and a measurement is not exact.
const TOLERANCE: f64 = 0.08;
/// How often a link is measured at most: a busy machine sends less than it takes, but never more.
const TRIES_MAX: usize = 4;
/// This program, whatever has happened to its file since it was started.
const OWN: &str = "/proc/self/exe";

/// Two labs at a time, and each link as fast as it was asked to be.
pub(super) fn are_shaped_and_labs_coexist(_: &Binaries) -> Result<()> {
    let names = ["a", "b"].map(str::to_owned);
    let labs = [Lab::new(&names, Some(RATE))?, Lab::new(&names, Some(RATE))?];
    for lab in &labs {
        let mut part = 0.0_f64;
        for _ in 0..TRIES_MAX {
            if part < 1.0 - TOLERANCE {
                part = part.max(measure::goodput(lab, "a", "b")? / RATE_BYTES_S);
            }
        }
        ensure!((part - 1.0).abs() < TOLERANCE, "a flow gets {part:.3} of the link");
    }
    let tags = labs.map(|lab| lab.tag.clone());
    ensure!(tags[0] != tags[1], "both labs are called {}", tags[0]);
    tags.iter().try_for_each(|tag| nothing_is_left(tag))
}

/// A lab whose owner was killed with SIGKILL goes with `cargo xtask clean`, and what is left of it
/// until then holds no lock by which somebody lets one lab run at a time.
pub(super) fn killed_lab_is_cleaned_up(_: &Binaries) -> Result<()> {
    let lock = std::env::temp_dir().join(format!("xylem-held-{}", std::process::id()));
    let killed = killed_lab(&lock);
    killed.and(fs::remove_file(&lock).context("cannot remove the lock"))
}

fn killed_lab(lock: &Path) -> Result<()> {
    // `flock` becomes the owner, which inherits the descriptor that has the lock.
    let mut hold = run::command("flock");
    hold.args(["--nonblock", "--no-fork"]).arg(lock);
    hold.arg(format!("/proc/{}/exe", std::process::id())).arg("lab-hold").stdout(Stdio::piped());
    let mut owner = hold.spawn().context("cannot start the owner")?;
    let stdout = owner.stdout.take().context("a piped stdout")?;
    let mut said = String::new();
    let read = BufReader::new(stdout).read_line(&mut said);
    let held = File::open(lock).map(|file| file.try_lock().is_err());
    owner.kill()?;
    owner.wait()?;
    read?;
    let (tag, pid) = said.trim().split_once(' ').context("the owner has not made its lab")?;
    ensure!(runs(pid), "the process of the lab did not outlive its owner");
    ensure!(held?, "the owner did not hold the lock");
    File::open(lock)?.try_lock().context("the lab holds a lock of whoever started its owner")?;
    run::output(run::command(OWN).arg("clean"))?;
    ensure!(!runs(pid), "process {pid} still runs");
    nothing_is_left(tag)
}

/// The hidden command that [`killed_lab_is_cleaned_up`] kills.
pub(crate) fn hold() -> Result<()> {
    let mut lab = Lab::new(&["a".to_owned()], None)?;
    let mut wait = run::command("sleep");
    wait.arg("600");
    lab.start("a", "wait", wait)?;
    let pid = lab.process("wait")?.pid();
    println!("{} {pid}", lab.tag);
    run::pace(std::time::Duration::from_secs(600))
}

/// A process that nobody has waited for has no command line any more.
fn runs(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn nothing_is_left(tag: &str) -> Result<()> {
    let directory = tag.replacen("xylem-", "xylem-lab-", 1);
    // Others may have the same digits in their names.
    let is_of_lab =
        |name: &str| name == directory || name == tag || name.starts_with(&format!("{tag}-"));
    let cgroups = crate::lab::cgroup_mount().unwrap_or_default();
    for place in ["/run/netns", "/tmp", "/var/tmp", &cgroups.to_string_lossy()] {
        for entry in fs::read_dir(place).into_iter().flatten().filter_map(|entry| entry.ok()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(!is_of_lab(&name), "{place}/{name} is left");
        }
    }
    Ok(())
}
