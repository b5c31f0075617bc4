//! The cgroup v2 that holds this process and nothing else; made where there is none, removed after.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{ProbeError, mounts};

const PROCS: &str = "cgroup.procs";

/// Start of the name of a cgroup that a daemon makes for itself; its process id follows.
const NAME_PREFIX: &str = "xylem-";

/// Where the cgroup v2 hierarchy is mounted: `/sys/fs/cgroup`, or below it beside version 1.
pub(super) fn mount_point() -> Result<PathBuf, ProbeError> {
    mounts::of_type("cgroup2")?.into_iter().next().ok_or(ProbeError::NoCgroup2)
}

/// The cgroup v2 directory of this process.
pub(super) fn own_path() -> Result<PathBuf, ProbeError> {
    let root = mount_point()?;
    let text = mounts::read(Path::new("/proc/self/cgroup"))?;
    let path = parse_own(&text).ok_or(ProbeError::NoOwnCgroup)?;
    Ok(root.join(path.trim_start_matches('/')))
}

/// Opens a cgroup v2 directory to attach to.
pub(super) fn open(cgroup: &Path) -> Result<File, ProbeError> {
    let at = |source| ProbeError::Cgroup { path: cgroup.to_owned(), source };
    let dir = File::open(cgroup).map_err(at)?;
    // Version 1 and plain directories have no such file.
    std::fs::metadata(cgroup.join("cgroup.controllers")).map_err(at)?;
    Ok(dir)
}

/// The path of the line `0::/…`; none when it lies outside of the cgroup namespace.
fn parse_own(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    (!path.starts_with("/..")).then_some(path)
}

/// This process alone in a cgroup.
///
/// Under a service manager it already is, and nothing is done. Otherwise (a shell, a test, several
/// daemons on one machine) it gets a child cgroup `xylem-<pid>` and moves into it; dropping the
/// value moves it back and removes the child. A killed daemon leaves an empty directory; the next
/// one to start beside it removes that.
#[derive(Debug)]
pub struct OwnCgroup {
    path: PathBuf,
    /// The cgroup to go back to, when one was made.
    home: Option<PathBuf>,
}

impl OwnCgroup {
    /// Finds or makes it.
    ///
    /// # Errors
    ///
    /// When there is no cgroup v2, or it may not be written.
    pub fn enter() -> Result<Self, ProbeError> {
        let home = own_path()?;
        let procs = read_procs(&home)?;
        let me = std::process::id();
        if home != mount_point()? && procs == [me] {
            return Ok(Self { path: home, home: None });
        }
        remove_stale(&home);
        let path = home.join(format!("{NAME_PREFIX}{me}"));
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ProbeError::Cgroup { path, source: error });
            }
            _ => {}
        }
        // From here on dropping the value cleans up.
        let own = Self { path, home: Some(home) };
        move_to(&own.path)?;
        Ok(own)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let left = move_to(home).and_then(|()| remove(&self.path));
        if let Err(error) = left {
            tracing::warn!(cgroup = %self.path.display(), %error, "cgroup not removed");
        }
    }
}

fn read_procs(cgroup: &Path) -> Result<Vec<u32>, ProbeError> {
    let path = cgroup.join(PROCS);
    let text =
        std::fs::read_to_string(&path).map_err(|source| ProbeError::Cgroup { path, source })?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Moves this process, with all its threads.
fn move_to(cgroup: &Path) -> Result<(), ProbeError> {
    let path = cgroup.join(PROCS);
    std::fs::write(&path, std::process::id().to_string())
        .map_err(|source| ProbeError::Cgroup { path, source })
}

/// Removes an empty cgroup.
pub(super) fn remove(cgroup: &Path) -> Result<(), ProbeError> {
    std::fs::remove_dir(cgroup)
        .map_err(|source| ProbeError::Cgroup { path: cgroup.to_owned(), source })
}

/// Removes what killed daemons left in `parent`. The kernel refuses where a process still is.
fn remove_stale(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(NAME_PREFIX));
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_line_is_found_among_version_one() {
        let text = "9:name=systemd:/\n1:cpu:/\n0::/system.slice/xylemd.service\n";
        assert_eq!(parse_own(text), Some("/system.slice/xylemd.service"));
        assert_eq!(parse_own("0::/\n"), Some("/"));
        assert_eq!(parse_own("0::/a (deleted)\n"), Some("/a"));
    }

    #[test]
    fn outside_of_the_namespace_or_absent_is_none() {
        assert_eq!(parse_own("0::/../other\n"), None);
        assert_eq!(parse_own("3:cpu:/\n"), None);
    }
}
