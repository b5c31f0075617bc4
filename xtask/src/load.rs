//! Loads the kernel programs for a look at them, and takes them away again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{self, Exit};
use crate::{build, lab, object, sys};

const BPF_FS: &str = "/sys/fs/bpf";
const PIN_DIR: &str = "/sys/fs/bpf/xylem";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What a file system that was mounted here is called in `/proc/mounts`, so that `unload` knows it.
const MOUNT_SOURCE: &str = "xylem-bpf";

/// Builds all, loads and attaches the kernel programs, prints a table of them.
pub(crate) fn build_and_load() -> Result<()> {
    check(&missing())?;
    object::build()?;
    let xylemd = build::all(true)?.xylemd;
    let mounted = mount()?;
    let loaded = probes(&xylemd, &["load", "--pin", PIN_DIR]);
    if loaded.is_err() && mounted {
        unmount()?;
    }
    loaded?;
    println!("\nremove them with `cargo xtask unload`");
    Ok(())
}

/// Detaches and removes what [`build_and_load`] loaded.
pub(crate) fn unload() -> Result<()> {
    if Path::new(PIN_DIR).is_dir() {
        check(&[not_root()].into_iter().flatten().collect::<Vec<_>>())?;
        probes(&daemon()?, &["unload", "--pin", PIN_DIR])?;
    } else {
        println!("nothing is loaded");
    }
    if mounted_by_us()? && fs::read_dir(BPF_FS).is_ok_and(only_kernel_files) {
        unmount()?;
    }
    Ok(())
}

/// The daemon that knows how to remove the pins; any build of it does.
fn daemon() -> Result<PathBuf> {
    let target = run::target_dir()?;
    let built = ["release", "debug"].map(|profile| target.join(profile).join("xylemd"));
    match built.into_iter().find(|binary| binary.is_file()) {
        Some(binary) => Ok(binary),
        None => Ok(build::all(true)?.xylemd),
    }
}

/// Everything that is missing on this machine, each with its remedy.
fn missing() -> Vec<String> {
    let btf = (!Path::new(BTF).exists())
        .then(|| format!("{BTF}: a kernel built with CONFIG_DEBUG_INFO_BTF is needed"));
    let cgroup = lab::cgroup_mount().is_none().then(|| {
        "no cgroup v2 in /proc/mounts: `mount -t cgroup2 none DIR`, or boot with \
         systemd.unified_cgroup_hierarchy=1"
            .to_owned()
    });
    [not_root(), btf, cgroup].into_iter().flatten().collect()
}

fn not_root() -> Option<String> {
    (!sys::is_root()).then(|| "not root: loading programs needs it, use sudo".to_owned())
}

fn check(missing: &[String]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Exit { code: 2, message: format!("missing: {}", missing.join("; ")) }.into())
}

fn probes(xylemd: &Path, args: &[&str]) -> Result<()> {
    let program = xylemd.to_str().context("a path in UTF-8")?;
    let status = run::command(program).arg("probes").args(args).status();
    let status = status.with_context(|| format!("cannot start {program}"))?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said what is wrong.
        code => {
            let code = if code == Some(2) { 2 } else { 1 };
            Err(Exit { code, message: format!("xylemd probes {} failed", args[0]) }.into())
        }
    }
}

/// Mounts the bpf file system where there is none. Whether it did.
fn mount() -> Result<bool> {
    if source()?.is_some() {
        return Ok(false);
    }
    println!("mounting the bpf file system at {BPF_FS}");
    run::output(run::command("mount").args(["-t", "bpf", MOUNT_SOURCE, BPF_FS])).map_err(
        |error| {
            let message =
                format!("no bpf file system: `mount -t bpf bpf {BPF_FS}` as root ({error:#})");
            Exit { code: 2, message }
        },
    )?;
    Ok(true)
}

fn unmount() -> Result<()> {
    println!("unmounting the bpf file system, which was mounted for this");
    run::output(run::command("umount").arg(BPF_FS)).map(|_| ())
}

fn mounted_by_us() -> Result<bool> {
    Ok(source()?.as_deref() == Some(MOUNT_SOURCE))
}

/// The name by which the bpf file system was mounted, if it is.
fn source() -> Result<Option<String>> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok(bpf_source(&mounts))
}

fn bpf_source(mounts: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (source, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (point == BPF_FS && kind == "bpf").then(|| source.to_owned())
    })
}

/// Whether nobody has pinned anything: the kernel itself keeps two files there.
fn only_kernel_files(entries: fs::ReadDir) -> bool {
    entries.flatten().all(|entry| entry.file_name().to_string_lossy().ends_with(".debug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_known_by_its_source() {
        let mounts = "proc /proc proc rw 0 0\nxylem-bpf /sys/fs/bpf bpf rw,relatime 0 0\n";
        assert_eq!(bpf_source(mounts).as_deref(), Some(MOUNT_SOURCE));
        assert_eq!(bpf_source("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"), None);
        assert_eq!(bpf_source(""), None);
    }

    #[test]
    fn what_is_missing_exits_with_two_and_names_all() {
        let error = check(&["a".to_owned(), "b".to_owned()]).unwrap_err();
        let exit = error.downcast_ref::<Exit>().unwrap();
        assert_eq!((exit.code, exit.message.as_str()), (2, "missing: a; b"));
        assert!(check(&[]).is_ok());
    }
}
