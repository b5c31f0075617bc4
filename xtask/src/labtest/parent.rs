//! A parent dies in the middle of a blob: its children go on elsewhere and fetch nothing twice.

use anyhow::{Context, Result, ensure};

use super::{
    SLOW, STATE, finish, pull_everywhere, wait_for_full_tree, wait_for_mid_blob, with_cluster,
};
use crate::build::Binaries;
use crate::cluster::Cluster;
use crate::run;

const NODES: usize = 4;
/// What was on its way, in socket buffers, when the parent died.
const LOST_BYTES_MAX: u64 = 4 << 20;

pub(super) type Tree = [(String, Option<String>)];

/// The parent that dies is in the middle of the tree.
pub(super) fn killed_in_mid_blob(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, SLOW, |cluster| {
        kill(cluster, |tree| {
            let inner = |name: &String| tree.iter().any(|(own, up)| own == name && up.is_some());
            tree.iter().find_map(|(_, up)| up.clone().filter(inner))
        })
    })
}

/// The parent that dies is the root, the only one that reads from the registry.
pub(super) fn root_killed_in_mid_blob(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, SLOW, |cluster| {
        kill(cluster, |tree| tree.iter().find(|(_, up)| up.is_none()).map(|(own, _)| own.clone()))
    })
}

fn kill(cluster: &mut Cluster, choose: impl Fn(&Tree) -> Option<String>) -> Result<()> {
    let image = cluster.image()?;
    let mut pulls = pull_everywhere(cluster)?;
    let tree = wait_for_full_tree(cluster)?;
    let victim = choose(&tree).context("no such parent in the tree")?;
    let orphans = tree.iter().filter(|(_, up)| up.as_ref() == Some(&victim));
    let orphans: Vec<String> = orphans.map(|(own, _)| own.clone()).collect();
    let orphan = orphans.first().context("a parent without children")?;
    wait_for_mid_blob(cluster, orphan, &image)?;
    cluster.lab.end(&victim, libc::SIGKILL)?;
    pulls.retain(|pull| pull.node != victim);
    finish(cluster, &mut pulls, &image)?;
    for orphan in &orphans {
        let bound = image.bytes() + LOST_BYTES_MAX;
        let received = received_bytes(cluster, orphan)?;
        ensure!(received <= bound, "{orphan} has received {received} bytes of {}", image.bytes());
        let gap_ms = &cluster.get(orphan, "/xylem/v1/status")?["gaps"]["max_ms"];
        println!("    {orphan} was without bytes for {gap_ms} ms");
    }
    run::wait_for("a tree without the dead node", STATE, || {
        let tree = super::parents(cluster)?;
        let gone = tree.iter().all(|(own, up)| *own != victim && up.as_ref() != Some(&victim));
        Ok((gone && tree.len() == NODES - 1).then_some(()))
    })
}

/// All bytes that a node itself says it has received from above.
pub(super) fn received_bytes(cluster: &Cluster, node: &str) -> Result<u64> {
    let answer = cluster.get(node, "/xylem/v1/hops")?;
    let hops = answer["hops"].as_array().context("no hops")?;
    let own = hops.iter().filter(|hop| hop["child"] == node);
    Ok(own.filter_map(|hop| hop["relay_bytes"].as_u64()).sum())
}
