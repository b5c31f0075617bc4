//! A node dies in the middle of a blob and comes back: it keeps what it had and fetches the rest.

use anyhow::{Result, ensure};

use super::{SLOW, finish, parent, wait_for_mid_blob};
use crate::build::Binaries;

/// At most this much of what was received may not have reached the disk.
const LOST_BYTES_MAX: u64 = 1 << 20;

/// After the restart fewer bytes arrive than the image has: the partial blob is resumed.
pub(super) fn in_mid_blob_resumes(programs: &Binaries) -> Result<()> {
    super::with_cluster(programs, 1, SLOW, |cluster| {
        let image = cluster.image()?;
        let node = cluster.nodes()[0].clone();
        let first = cluster.pull(&node)?;
        let had = wait_for_mid_blob(cluster, &node, &image)?;
        cluster.lab.end(&node, libc::SIGKILL)?;
        drop(first);
        cluster.start_node(&node, &[])?;
        let mut pulls = [cluster.pull(&node)?];
        finish(cluster, &mut pulls, &image)?;
        let received = parent::received_bytes(cluster, &node)?;
        let bound = image.bytes() - had + LOST_BYTES_MAX;
        ensure!(had > LOST_BYTES_MAX, "only {had} bytes were there before the restart");
        ensure!(received <= bound, "{received} bytes came again, {had} were there already");
        Ok(())
    })
}
