//! An image to several nodes at once: whole everywhere, once from the registry, counted twice.

use anyhow::{Result, ensure};

use super::{STATE, finish, pull_everywhere, with_cluster};
use crate::build::Binaries;
use crate::cluster;

const NODES: usize = 4;
/// Manifests, heads of answers, HEAD requests: little beside the blobs.
const OVERHEAD_BYTES_MAX: u64 = 64 << 10;

/// Four nodes, one image: the registry sends it once; kernel and relay agree on every hop.
pub(super) fn costs_the_registry_once(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, "1gbit", |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        finish(cluster, &mut pulls, &image)?;
        let hops = cluster.settled_hops(&image, STATE)?;
        let sent = cluster::origin_bytes(&hops);
        let bound = image.bytes() + OVERHEAD_BYTES_MAX;
        ensure!(sent >= image.body_bytes(), "the registry has sent only {sent} bytes");
        ensure!(sent <= bound, "the registry has sent {sent} bytes of {}", image.bytes());
        for node in cluster.nodes() {
            let own = hops.iter().filter(|hop| hop.child == *node);
            let received: u64 = own.map(|hop| hop.relay_bytes).sum();
            ensure!(received <= bound, "{node} has received {received} bytes");
        }
        cluster::check_counts(&hops)
    })
}
