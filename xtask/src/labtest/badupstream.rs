//! An upstream that lies, stops early or says too much: never believed, never kept.

use std::fs;

use anyhow::{Result, ensure};

use super::badinput::xylemd;
use super::liar::{Fault, Liar};
use super::{PULL, with_hosts};
use crate::build::Binaries;
use crate::cluster::{Cluster, REGISTRY, REGISTRY_PORT};
use crate::image;

/// Other bytes than the digest says: retried once, then an error with both digests; not kept.
pub(super) fn wrong_digest(programs: &Binaries) -> Result<()> {
    with_liar(programs, Fault::WrongByte, |cluster, liar, error| {
        let victim = liar.victim();
        ensure!(error.contains(victim), "the error does not name {victim}: {error}");
        let other = liar.served_instead();
        ensure!(error.contains(&other), "the error does not name {other}: {error}");
        let times = liar.times_asked();
        ensure!(times == 2, "the blob was asked for {times} times, not twice");
        not_kept(cluster, victim)
    })
}

/// Fewer bytes than promised, again and again: an error in the end, and not kept.
pub(super) fn truncated(programs: &Binaries) -> Result<()> {
    with_liar(programs, Fault::Truncated, |cluster, liar, error| {
        let victim = liar.victim();
        ensure!(error.contains(victim), "the error does not name {victim}: {error}");
        not_kept(cluster, victim)
    })
}

/// A manifest beyond the bound is not read to its end.
pub(super) fn oversized_manifest(programs: &Binaries) -> Result<()> {
    with_liar(programs, Fault::HugeManifest, |_, _, error| {
        ensure!(error.contains("larger than 4194304 bytes"), "the bound is not named: {error}");
        Ok(())
    })
}

fn with_liar(
    programs: &Binaries,
    fault: Fault,
    test: impl FnOnce(&mut Cluster, &Liar, &str) -> Result<()>,
) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        let layout = image::cached(super::IMAGE_BYTES)?;
        let address = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
        let listener =
            cluster.lab.within(REGISTRY, || Ok(std::net::TcpListener::bind(address)?))?;
        let liar = Liar::start(listener, &layout, fault)?;
        let node = cluster.nodes()[0].clone();
        let command = xylemd(cluster, &cluster.store(&node))?;
        cluster.lab.start(&node, &node, command)?;
        cluster.lab.process(&node)?.wait_for_words(" listening on ")?;
        let outcome = cluster.pull(&node)?.wait(PULL);
        let error = outcome.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(!error.is_empty(), "the pull went well");
        ensure!(error.contains("failed"), "the pull came to no end: {error}");
        cluster.lab.process(&node)?.is_alive()?;
        test(cluster, &liar, &error)
    })
}

/// The blob lies in the store under no name, and the node does not serve it.
fn not_kept(cluster: &Cluster, digest: &str) -> Result<()> {
    let node = &cluster.nodes()[0];
    let hex = digest.trim_start_matches("sha256:");
    let committed = cluster.store(node).join("blobs/sha256").join(hex);
    ensure!(!fs::exists(&committed)?, "{digest} is in the store");
    let status = cluster.get(node, "/xylem/v1/status")?;
    let flowing = status["flows"].as_array().is_some_and(|flows| !flows.is_empty());
    ensure!(!flowing, "something still flows: {}", status["flows"]);
    Ok(())
}
