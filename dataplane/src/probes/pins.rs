//! Pins: programs, links and map of one cgroup in one directory of the bpf file system.
//!
//! Layout: `PIN_DIR/cgroup-<id>/{SOCKETS, xylem_…, link_xylem_…}`. The id is the cgroup's inode
//! number, so that a daemon finds out by looking at its own cgroup whether the pins are about it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ProbeError, mounts};

const CGROUP_PREFIX: &str = "cgroup-";
pub(super) const LINK_PREFIX: &str = "link_";

/// Directory of the pins of `cgroup`.
pub(super) fn dir_for(pin_dir: &Path, cgroup: &Path) -> Result<PathBuf, ProbeError> {
    let id = cgroup_id(cgroup)?;
    Ok(pin_dir.join(format!("{CGROUP_PREFIX}{id}")))
}

fn cgroup_id(cgroup: &Path) -> Result<u64, ProbeError> {
    let metadata = std::fs::metadata(cgroup)
        .map_err(|source| ProbeError::Cgroup { path: cgroup.to_owned(), source })?;
    Ok(metadata.ino())
}

/// Fails unless `pin_dir` lies in a bpf file system.
pub(super) fn check_bpffs(pin_dir: &Path) -> Result<(), ProbeError> {
    if mounts::of_type("bpf")?.iter().any(|point| pin_dir.starts_with(point)) {
        return Ok(());
    }
    Err(ProbeError::NoBpfFs { path: pin_dir.to_owned() })
}

/// Makes the directory of pins of one cgroup.
pub(super) fn create(dir: &Path) -> Result<(), ProbeError> {
    std::fs::create_dir_all(dir).map_err(at(dir))
}

/// Removes the pins of one cgroup: with the last reference the kernel detaches and unloads.
pub(super) fn remove(dir: &Path) -> Result<(), ProbeError> {
    for entry in std::fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        std::fs::remove_file(&path).map_err(at(&path))?;
    }
    std::fs::remove_dir(dir).map_err(at(dir))
}

/// Removes all pins below `pin_dir` and the directory. Returns the ids of the cgroups they were
/// about; none when there is no such directory.
pub(super) fn remove_all(pin_dir: &Path) -> Result<Vec<u64>, ProbeError> {
    let entries = match std::fs::read_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at(pin_dir))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(pin_dir))?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(CGROUP_PREFIX));
        let Some(id) = id.and_then(|id| id.parse().ok()) else { continue };
        remove(&entry.path())?;
        ids.push(id);
    }
    std::fs::remove_dir(pin_dir).map_err(at(pin_dir))?;
    Ok(ids)
}

/// Whether the cgroup directory is the one with this id.
pub(super) fn is_cgroup(path: &Path, id: u64) -> bool {
    cgroup_id(path).is_ok_and(|own| own == id)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ProbeError + '_ {
    move |source| ProbeError::PinDir { path: path.to_owned(), source }
}
