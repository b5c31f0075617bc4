//! The registry dies in the middle of a blob and comes back: the root goes on at its offset.

use anyhow::{Result, ensure};

use super::{SLOW, finish, parent, pull_everywhere, wait_for_full_tree, wait_for_mid_blob};
use crate::build::Binaries;
use crate::cluster::REGISTRY;

const NODES: usize = 3;
/// What was on its way, in socket buffers, when the registry died.
const LOST_BYTES_MAX: u64 = 4 << 20;

/// Nothing is lost, and nothing is fetched twice.
pub(super) fn killed_in_mid_blob(programs: &Binaries) -> Result<()> {
    super::with_cluster(programs, NODES, SLOW, |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        let tree = wait_for_full_tree(cluster)?;
        let root = tree.iter().find(|(_, up)| up.is_none()).map(|(own, _)| own.clone());
        let root = root.unwrap_or_default();
        wait_for_mid_blob(cluster, &root, &image)?;
        cluster.lab.end(REGISTRY, libc::SIGKILL)?;
        cluster.start_registry()?;
        finish(cluster, &mut pulls, &image)?;
        let received = parent::received_bytes(cluster, &root)?;
        let bound = image.bytes() + LOST_BYTES_MAX;
        ensure!(received <= bound, "{root} has received {received} bytes of {}", image.bytes());
        Ok(())
    })
}
