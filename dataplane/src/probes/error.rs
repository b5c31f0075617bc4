//! What can be missing or refused when the programs are loaded, each with its remedy.

use std::io;
use std::path::{Path, PathBuf};

use super::mounts;

/// Why the kernel's counters are not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// No file with the programs.
    #[error("no probe object at {}; build it with `cargo xtask build-and-load`", paths(tried))]
    NoObject {
        /// The places that were tried.
        tried: Vec<PathBuf>,
    },
    /// The capabilities are missing.
    #[error(
        "loading programs needs CAP_BPF and CAP_NET_ADMIN; run as root or grant them to the service"
    )]
    Privilege,
    /// The kernel has no type information.
    #[error(
        "no kernel type information at {}; a kernel built with CONFIG_DEBUG_INFO_BTF is needed",
        path.display()
    )]
    NoBtf {
        /// Where it should be.
        path: PathBuf,
    },
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup2 file system in /proc/mounts; mount one (`mount -t cgroup2 none DIR`), and \
         enter network namespaces by `nsenter --net=`, as `ip netns exec` hides it"
    )]
    NoCgroup2,
    /// The process is in no cgroup v2.
    #[error("/proc/self/cgroup names no cgroup v2 (a line `0::/…`)")]
    NoOwnCgroup,
    /// A cgroup directory could not be used.
    #[error("cannot use {} as a cgroup v2", path.display())]
    Cgroup {
        /// The directory or the file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No bpf file system where the pins are to be.
    #[error(
        "no bpf file system at {}; mount it with `mount -t bpf bpf /sys/fs/bpf`",
        path.display()
    )]
    NoBpfFs {
        /// Where the pins were to be.
        path: PathBuf,
    },
    /// A file of `/proc` could not be read.
    #[error("cannot read {}", path.display())]
    Proc {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The object could not be read, or its maps not be made.
    #[error("cannot load {}", path.display())]
    Load {
        /// The object.
        path: PathBuf,
        /// What the loader said.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The object lacks a program or map; it is another one, or of another version.
    #[error("the probe object has no `{name}`; build it again with `cargo xtask build-and-load`")]
    NotOurs {
        /// Name of the program or map.
        name: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// What it said.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The map is not what it should be.
    #[error("cannot open the map of socket counters")]
    Map(#[source] Box<aya::maps::MapError>),
    /// A pin could not be made or removed.
    #[error("cannot pin at {}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: aya::pin::PinError,
    },
    /// A file or directory of pins could not be made, read or removed.
    #[error("cannot use {}", path.display())]
    PinDir {
        /// The directory or the pin.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl From<aya::maps::MapError> for ProbeError {
    fn from(error: aya::maps::MapError) -> Self {
        Self::Map(Box::new(error))
    }
}

impl ProbeError {
    /// The kernel refused this program.
    pub(super) fn program(name: &'static str) -> impl FnOnce(aya::programs::ProgramError) -> Self {
        move |source| Self::Program { name, source: Box::new(source) }
    }

    /// Whether something is missing that the caller can provide, rather than something failed.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::NoObject { .. }
                | Self::Privilege
                | Self::NoBtf { .. }
                | Self::NoCgroup2
                | Self::NoOwnCgroup
                | Self::NoBpfFs { .. }
        )
    }
}

fn paths(tried: &[PathBuf]) -> String {
    tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_BPF: u64 = 1 << 39;

/// Whether this process may load and attach the programs.
pub(super) fn check_privilege() -> Result<(), ProbeError> {
    let status = mounts::read(Path::new("/proc/self/status"))?;
    if may_load(&status) { Ok(()) } else { Err(ProbeError::Privilege) }
}

/// Reads the effective capabilities; a kernel that does not show them is left to refuse by itself.
fn may_load(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_none_or(|caps| {
        caps & (CAP_BPF | CAP_SYS_ADMIN) != 0 && caps & (CAP_NET_ADMIN | CAP_SYS_ADMIN) != 0
    })
}

/// Whether the kernel shows its types.
pub(super) fn check_btf() -> Result<(), ProbeError> {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    if path.exists() { Ok(()) } else { Err(ProbeError::NoBtf { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oneline::chain;

    #[test]
    fn capabilities_decide() {
        assert!(may_load("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_load("CapEff:\t0000008000001000\n"));
        assert!(may_load("CapEff:\t0000000000200000\n"));
        assert!(!may_load("CapEff:\t0000008000000000\n"));
        assert!(!may_load("CapEff:\t0000000000001000\n"));
        assert!(!may_load("CapEff:\t0000000000000000\n"));
        assert!(may_load("Name:\tx\n"));
    }

    #[test]
    fn a_chain_is_one_line_without_repetition() {
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = ProbeError::Cgroup { path: PathBuf::from("/x"), source };
        assert_eq!(chain(&error), "cannot use /x as a cgroup v2: entity not found");
    }
}
