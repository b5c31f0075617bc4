//! Builds the binaries and finds them; starts nothing.

use std::path::PathBuf;

use anyhow::Result;

use crate::{object, run};

/// Where the things that were built lie.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// The node daemon.
    pub(crate) xylemd: PathBuf,
    /// The control process.
    pub(crate) control: PathBuf,
    /// The command line.
    pub(crate) xylem: PathBuf,
    /// The kernel programs, where they could be built.
    pub(crate) object: Option<PathBuf>,
}

/// Builds every binary and, where a toolchain for it is there or can be installed, the kernel
/// object. Without the object everything works but the kernel's own counts, and that is said.
pub(crate) fn all(release: bool) -> Result<Binaries> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--quiet", "--bins", "-p", "xylem-dataplane", "-p", "xylem-control"]);
    if release {
        cargo.arg("--release");
    }
    run::show(&mut cargo)?;
    if let Err(error) = object::build() {
        eprintln!("kernel programs not built, hop figures come from TCP_INFO: {error:#}");
    }
    let directory = run::target_dir()?.join(if release { "release" } else { "debug" });
    Ok(Binaries {
        xylemd: directory.join("xylemd"),
        control: directory.join("xylem-control"),
        xylem: directory.join("xylem"),
        object: Some(directory.join("xylem.bpf.o")).filter(|object| object.exists()),
    })
}
