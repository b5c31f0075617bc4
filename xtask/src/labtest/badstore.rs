//! Stores that cannot be written to: refused at the start, or one blob fails and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::badinput::{refused, xylemd};
use super::{PULL, with_hosts};
use crate::build::Binaries;
use crate::cluster::Cluster;

/// A store on a file system that is mounted read-only.
pub(super) fn read_only(programs: &Binaries) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        let node = cluster.nodes()[0].clone();
        let (store, command) = mounted(cluster, "ro")?;
        refused(cluster, &node, command, 1, &[&store, "ead-only"])
    })
}

/// A store with room for the small blobs: the large ones fail, the small ones are served.
pub(super) fn full(programs: &Binaries) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        cluster.start_registry()?;
        cluster.push()?;
        let image = cluster.image()?;
        let node = cluster.nodes()[0].clone();
        let (_, command) = mounted(cluster, &format!("size={}", image.largest().1 / 2))?;
        cluster.lab.start(&node, &node, command)?;
        cluster.lab.process(&node)?.wait_for_words(" listening on ")?;
        let failed = cluster.pull(&node)?.wait(PULL);
        let said = failed.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(said.contains("space"), "a full file system is told as `{said}`");
        cluster.lab.process(&node)?.is_alive()?;
        let (small, _) = image.blobs().min_by_key(|(_, bytes)| *bytes).unwrap_or(("", 0));
        let to = cluster.lab.host(&node)?.at(crate::cluster::NODE_PORT);
        let path = format!("/v2/demo/blobs/{small}");
        let answer = cluster.lab.within(&node, || crate::http::get(to, &path, &[]))?;
        ensure!(answer.status == 200, "then {path} gets {}", answer.status);
        Ok(())
    })
}

/// A node's command inside a mount namespace of its own, its store a tmpfs with these options.
fn mounted(cluster: &Cluster, options: &str) -> Result<(String, Command)> {
    let store = cluster.lab.disk().join("tmpfs");
    fs::create_dir(&store)?;
    let store = store.to_string_lossy().into_owned();
    let daemon = xylemd(cluster, Path::new(&store))?;
    let mut unshare = Command::new("unshare");
    let script = "mount -t tmpfs -o \"$1\" tmpfs \"$2\" && shift 2 && exec \"$@\"";
    unshare.args(["--mount", "sh", "-c", script, "sh", options, &store]);
    unshare.arg(daemon.get_program()).args(daemon.get_args());
    Ok((store, unshare))
}
