//! Failures of many at once: a third of the nodes die, all restart in turn, control is cut off.
//! Whoever is left goes on, and nothing is fetched twice that need not be.

use anyhow::{Context, Result, ensure};

use super::parent::{Tree, received_bytes};
use super::{
    PULL, SLOW, STATE, finish, pull_everywhere, wait_for_full_tree, wait_for_mid_blob,
    with_cluster, with_hosts,
};
use crate::build::Binaries;
use crate::cluster::{CONTROL, Cluster, REGISTRY};
use crate::run;

const NODES: usize = 9;
const FEW: usize = 4;
/// What was on its way in the socket buffers of both parents when they died.
const LOST_BYTES_MAX: u64 = 8 << 20;

/// A third of the nodes are killed at once: a root and parents in the middle.
pub(super) fn third_of_the_nodes_die(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, SLOW, |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        let tree = wait_for_full_tree(cluster)?;
        let victims: Vec<String> = those_with_children(&tree).take(NODES / 3).collect();
        ensure!(victims.len() == NODES / 3, "only {victims:?} have children in {tree:?}");
        let last = tree.last().map(|(node, _)| node.clone()).context("an empty tree")?;
        wait_for_mid_blob(cluster, &last, &image)?;
        for victim in &victims {
            cluster.lab.end(victim, libc::SIGKILL)?;
        }
        pulls.retain(|pull| !victims.contains(&pull.node));
        finish(cluster, &mut pulls, &image)?;
        for pull in &pulls {
            let received = received_bytes(cluster, &pull.node)?;
            let more = received.saturating_sub(image.bytes());
            println!("    {} received {more} bytes more than the image has", pull.node);
            ensure!(more <= LOST_BYTES_MAX, "{} received {received} bytes", pull.node);
        }
        wait_for_tree_of(cluster, NODES - victims.len())
    })
}

/// Each node ends and starts again, one after the other, while all pull.
pub(super) fn nodes_restart_in_turn(programs: &Binaries) -> Result<()> {
    with_cluster(programs, FEW, SLOW, |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        let tree = wait_for_full_tree(cluster)?;
        wait_for_mid_blob(cluster, &tree[0].0, &image)?;
        for (index, node) in cluster.nodes().to_vec().iter().enumerate() {
            cluster.lab.end(node, libc::SIGTERM)?;
            cluster.start_node(node, &[])?;
            let pull = cluster.pull(node)?;
            // It has begun again, or had everything before, when the next one goes.
            run::wait_for(&format!("a new pull on {node}"), PULL, || {
                cluster.all_alive()?;
                let received = received_bytes(cluster, node)?;
                let (done_bytes, _) = pull.progress();
                Ok((received > 0 || done_bytes == image.body_bytes()).then_some(()))
            })?;
            pulls[index] = pull;
        }
        finish(cluster, &mut pulls, &image)?;
        for pull in &pulls {
            let received = received_bytes(cluster, &pull.node)?;
            let bound = image.bytes() + LOST_BYTES_MAX;
            ensure!(received <= bound, "{} received {received} bytes", pull.node);
        }
        wait_for_tree_of(cluster, FEW)
    })
}

/// Nobody reaches control: transfers go on, newcomers read the registry, and all come together
/// again afterwards.
pub(super) fn control_is_cut_off(programs: &Binaries) -> Result<()> {
    with_hosts(programs, FEW + 1, SLOW, |cluster| {
        cluster.start_registry()?;
        cluster.push()?;
        cluster.start_control()?;
        let nodes = cluster.nodes().to_vec();
        let (late, early) = nodes.split_last().context("no nodes")?;
        let mut pulls = Vec::new();
        for node in early {
            cluster.start_node(node, &[])?;
        }
        for node in early {
            pulls.push(cluster.pull(node)?);
        }
        let image = cluster.image()?;
        wait_for_tree_of(cluster, early.len())?;
        wait_for_mid_blob(cluster, &early[0], &image)?;
        cluster.lab.cut_off(CONTROL)?;
        cluster.start_node(late, &[])?;
        pulls.push(cluster.pull(late)?);
        finish(cluster, &mut pulls, &image)?;
        let hops = cluster.get(late, "/xylem/v1/hops")?;
        let hops = hops["hops"].as_array().context("no hops")?;
        let registry = hops.iter().filter(|hop| hop["parent"] == REGISTRY);
        let read: u64 = registry.filter_map(|hop| hop["relay_bytes"].as_u64()).sum();
        ensure!(read >= image.body_bytes(), "{late} read only {read} bytes from the registry");
        cluster.lab.connect(CONTROL)?;
        wait_for_tree_of(cluster, FEW + 1)
    })
}

fn those_with_children(tree: &Tree) -> impl Iterator<Item = String> + '_ {
    let has_child = |name: &String| tree.iter().any(|(_, up)| up.as_ref() == Some(name));
    tree.iter().map(|(name, _)| name.clone()).filter(move |name| has_child(name))
}

/// Waits until the tree has so many nodes, and each of their parents is one of them.
fn wait_for_tree_of(cluster: &Cluster, nodes: usize) -> Result<()> {
    run::wait_for(&format!("a whole tree of {nodes} nodes"), STATE, || {
        let Ok(tree) = super::parents(cluster) else { return Ok(None) };
        let is_in = |name: &String| tree.iter().any(|(own, _)| own == name);
        let whole = tree.iter().all(|(_, up)| up.as_ref().is_none_or(is_in));
        Ok((whole && tree.len() == nodes).then_some(()))
    })
}
