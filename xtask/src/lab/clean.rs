//! Removes labs by their journals; touches nothing that no journal names.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::journal;
use crate::{run, sys};

/// What the names of the namespaces of all labs begin with.
pub(super) const TAG: &str = "xylem-";
const DIRECTORIES: &str = "xylem-lab-";

/// `cargo xtask clean`: every lab whose owner is gone, kept ones too.
pub(crate) fn all() -> Result<()> {
    let mut removed = 0;
    for directory in labs()?.into_iter().filter(|directory| owner(directory).is_none()) {
        remove(&directory)?;
        println!("removed {}", directory.display());
        removed += 1;
    }
    if removed == 0 {
        println!("nothing to remove");
    }
    Ok(())
}

/// Removes what killed runs have left; kept labs stay. Called before a new lab is made.
pub(super) fn abandoned() -> Result<()> {
    for directory in labs()? {
        if owner(&directory).is_none() && !journal::is_kept(&directory) {
            remove(&directory)?;
        }
    }
    Ok(())
}

/// Removes one lab: its processes, namespaces, cgroups, directories, and last its journal.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let journal = journal::read(directory).unwrap_or_default();
    let of = |kind: &'static str| {
        journal.iter().filter(move |(found, _)| found == kind).map(|(_, what)| what.as_str())
    };
    of("process").for_each(kill);
    // Daemons start others: a runtime's shims and containers outlive it.
    of("netns").for_each(kill_inhabitants);
    of("cgroup").for_each(|root| kill_members(Path::new(root)));
    of("netns").try_for_each(remove_namespaces)?;
    of("cgroup").try_for_each(|root| remove_cgroup(Path::new(root)))?;
    for stores in of("directory").map(Path::new).chain([directory]) {
        if stores.exists() {
            fs::remove_dir_all(stores)
                .with_context(|| format!("cannot remove {}", stores.display()))?;
        }
    }
    Ok(())
}

/// The lab directories that this user can remove.
fn labs() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir("/tmp").context("cannot read /tmp")?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| is_lab(path)).collect())
}

fn is_lab(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with(DIRECTORIES) && (sys::is_root() || is_own(path))
}

fn is_own(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = fs::metadata("/proc/self").map(|own| own.uid()).ok();
    fs::metadata(path).map(|found| found.uid()).ok() == own
}

/// Who made a lab, if that process still runs.
fn owner(directory: &Path) -> Option<u32> {
    let journal = journal::read(directory).unwrap_or_default();
    let stamp = journal.iter().find(|(kind, _)| kind == "owner").map(|(_, stamp)| stamp);
    // A lab that is being made has no journal yet, but its directory names the maker.
    stamp.map_or_else(|| named_owner(directory), |stamp| journal::alive(stamp))
}

fn named_owner(directory: &Path) -> Option<u32> {
    let id = directory.file_name()?.to_str()?.strip_prefix(DIRECTORIES)?;
    let pid = id.split('-').next()?.parse().ok()?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
}

fn kill(stamp: &str) {
    let Some(pid) = journal::alive(stamp) else { return };
    // It may end by itself in between: that is what is wanted.
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = poll_gone(Duration::from_secs(5), || journal::alive(stamp).is_none());
}

/// Kills whatever lives in the namespaces of a lab.
fn kill_inhabitants(tag: &str) {
    let namespaces: Vec<u64> = namespaces(tag).iter().filter_map(|path| inode(path)).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid: &u32| *pid != std::process::id()) {
        let network = inode(Path::new(&format!("/proc/{pid}/ns/net")));
        if network.is_some_and(|network| namespaces.contains(&network)) {
            kill(&journal::stamp(pid));
        }
    }
}

/// Kills whatever is in a cgroup or below it.
fn kill_members(root: &Path) {
    let members = fs::read_to_string(root.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0) {
        kill(&journal::stamp(pid));
    }
    subdirectories(root).iter().for_each(|below| kill_members(below));
}

/// The number by which the kernel knows what lies behind a path.
fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| found.ino())
}

fn namespaces(tag: &str) -> Vec<PathBuf> {
    let prefix = format!("{tag}-");
    let own = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
    };
    let entries = fs::read_dir("/run/netns").into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(own).collect()
}

fn remove_namespaces(tag: &str) -> Result<()> {
    for name in namespaces(tag).iter().filter_map(|path| path.file_name()) {
        uninterrupted(run::command("ip").args(["netns", "delete"]).arg(name))?;
    }
    Ok(())
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.is_dir()).collect()
}

/// Removes a cgroup and all below it, the innermost first.
fn remove_cgroup(root: &Path) -> Result<()> {
    subdirectories(root).iter().try_for_each(|below| remove_cgroup(below))?;
    // The kernel lets go of a cgroup a moment after its last process.
    let gone = poll_gone(Duration::from_secs(5), || fs::remove_dir(root).is_ok() || !root.exists());
    gone.with_context(|| format!("cannot remove {}", root.display()))
}

/// Waits like [`run::wait_for`], but goes on after a signal: that is when cleaning happens.
fn poll_gone(bound: Duration, mut gone: impl FnMut() -> bool) -> Result<()> {
    let start = std::time::Instant::now();
    while !gone() {
        anyhow::ensure!(start.elapsed() < bound, "still there after {} s", bound.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn uninterrupted(command: &mut std::process::Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let output = command.process_group(0).output().context("cannot start `ip`")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
