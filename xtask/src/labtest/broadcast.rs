//! An image to several nodes at once: whole everywhere, once from the registry, counted twice.

use anyhow::{Context, Result, ensure};

use super::{STATE, certificates, finish, pull_everywhere, with_cluster, with_hosts};
use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::{self, Cluster, REGISTRY};
use crate::lab::measure;

const NODES: usize = 4;
/// What part of the image may come beside it: a blob that gets a source for each stripe leaves
/// unread what its first source has sent already, and a busy machine reads late. Less than a stripe
/// of the largest blob that is sent twice.
const UNREAD_PART: u64 = 8;

/// Four nodes, one image: the registry sends it once; kernel and relay agree on every hop.
pub(super) fn costs_the_registry_once(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, "1gbit", |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        finish(cluster, &mut pulls, &image)?;
        let hops = cluster.settled_hops(&image, STATE)?;
        let sent = cluster::origin_bytes(&hops);
        let bound = image.bytes() + image.bytes() / UNREAD_PART;
        let beside = sent.saturating_sub(image.bytes());
        println!("    the registry has sent {beside} bytes more than the image has");
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

/// The same from a registry inside TLS, whose stripes two nodes take out of it, piece by piece.
pub(super) fn costs_a_registry_inside_tls_once(programs: &Binaries) -> Result<()> {
    with_hosts(programs, NODES, "1gbit", |cluster| {
        let address = cluster.lab.host(REGISTRY)?.address.to_string();
        let files = certificates::for_server(cluster.lab.directory(), &[address])?;
        cluster.settings.tls = Some((files.certificate, files.key));
        cluster.start_registry()?;
        cluster.push()?;
        cluster.start_control()?;
        let authority = files.authority.to_string_lossy();
        for node in cluster.nodes().to_vec() {
            cluster.start_node(&node, &["--upstream-ca", &authority])?;
        }
        let image = Image::read(&cluster.layout)?;
        let sent = |cluster: &Cluster| measure::wire_bytes_sent(&cluster.lab, REGISTRY);
        let before = sent(cluster)?.context("no counter of the registry's link")?;
        let mut pulls = pull_everywhere(cluster)?;
        finish(cluster, &mut pulls, &image)?;
        let sent = sent(cluster)?.context("no counter of the registry's link")? - before;
        let bound = image.bytes() + image.bytes() / 5;
        ensure!(sent <= bound, "the registry has sent {sent} bytes for {}", image.bytes());
        Ok(())
    })
}
