//! Control dies in the middle of a blob: nobody waits for it, and a new one learns the trees.

use anyhow::{Result, ensure};

use super::{SLOW, STATE, finish, pull_everywhere, wait_for_full_tree, wait_for_mid_blob};
use crate::build::Binaries;
use crate::cluster::CONTROL;
use crate::run;

const NODES: usize = 4;

/// Transfers go on without control; control that comes back has the same tree again.
pub(super) fn killed_in_mid_blob(programs: &Binaries) -> Result<()> {
    super::with_cluster(programs, NODES, SLOW, |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        let tree = wait_for_full_tree(cluster)?;
        // Where a leaf is in the middle of a blob, so are those above it, or a little further.
        let leaf = tree.last().map(|(node, _)| node.clone()).unwrap_or_default();
        wait_for_mid_blob(cluster, &leaf, &image)?;
        // What has changed until now was told to the nodes, and they will claim it.
        let mut before = super::parents(cluster)?;
        cluster.lab.end(CONTROL, libc::SIGKILL)?;
        finish(cluster, &mut pulls, &image)?;
        cluster.start_control()?;
        before.sort();
        let mut last = Vec::new();
        let same = run::wait_for("the tree as it was", STATE, || {
            last = super::parents(cluster).unwrap_or_default();
            last.sort();
            Ok((last == before).then_some(()))
        });
        ensure!(same.is_ok(), "the tree was {before:?} and is {last:?}");
        Ok(())
    })
}
