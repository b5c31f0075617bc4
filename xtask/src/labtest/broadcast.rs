//! An image to several nodes at once: whole everywhere, once from the registry, counted twice.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{STATE, certificates, finish, pull_everywhere, with_cluster, with_hosts};
use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::{self, Cluster, Hop, REGISTRY};
use crate::lab::measure;

const NODES: usize = 4;
/// Heads beside the bodies, of all requests to one source: 8 KB of a registry's are usual here.
const HEADS_BYTES_MAX: u64 = 64 << 10;
/// What a source that is left for another can have sent without having been read: what the kernel
/// takes for a connection. 117 to 127 KB were seen, where a tree changed as a blob began.
const UNREAD_BYTES_MAX: u64 = 1 << 20;

/// How often each source was left.
type Left = BTreeMap<String, u64>;

/// Four nodes, one image: the registry sends it once; kernel and relay agree on every hop.
pub(super) fn costs_the_registry_once(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, "1gbit", |cluster| {
        let image = cluster.image()?;
        let mut pulls = pull_everywhere(cluster)?;
        finish(cluster, &mut pulls, &image)?;
        let hops = cluster.settled_hops(&image, STATE)?;
        let sent = cluster::origin_bytes(&hops);
        let left = check_counts(cluster, &image, &hops)?;
        let beside = sent.saturating_sub(image.bytes());
        println!("    the registry has sent {beside} bytes more than the image has");
        ensure!(sent >= image.body_bytes(), "the registry has sent only {sent} bytes");
        // What a node had not read of a source before it left it, or had read ahead: a stripe that
        // has another source brings that again.
        let bound = |left: u64| image.bytes() + HEADS_BYTES_MAX + left * UNREAD_BYTES_MAX;
        let registry_left = left.values().flatten().filter(|(source, _)| *source == REGISTRY);
        let bytes = bound(registry_left.map(|(_, times)| times).sum());
        ensure!(sent <= bytes, "the registry has sent {sent} bytes of {}", image.bytes());
        for (node, left) in left {
            let own = hops.iter().filter(|hop| hop.child == node);
            let received: u64 = own.map(|hop| hop.relay_bytes).sum();
            ensure!(received <= bound(left.values().sum()), "{node} has received {received} bytes");
        }
        Ok(())
    })
}

/// Fails unless kernel and relay have counted the same on every hop. What a source had sent when it
/// was left the kernel has counted and no relay has read: a hop may have that much more of it for
/// each time that its node tells of. Returns how often each node has left each of its sources.
pub(super) fn check_counts(
    cluster: &Cluster,
    image: &Image,
    hops: &[Hop],
) -> Result<BTreeMap<String, Left>> {
    let mut all = BTreeMap::new();
    for node in cluster.nodes() {
        let pull = cluster.get(node, &format!("/xylem/v1/images/{}", image.digest))?;
        let left = sources_left(&pull).with_context(|| format!("{node} tells {pull}"))?;
        for hop in hops.iter().filter(|hop| hop.child == *node) {
            let (parent, unread) = (&hop.parent, hop.unread_bytes()?);
            let left = left.get(parent.as_str()).copied().unwrap_or(0);
            if left > 0 {
                println!("    {node} has left {parent} {left} times, {unread} bytes unread");
            }
            let bound = left * UNREAD_BYTES_MAX;
            ensure!(
                unread <= bound,
                "{parent} to {node}: {unread} bytes unread, {left} times left"
            );
        }
        all.insert(node.clone(), left);
    }
    Ok(all)
}

/// How often each source of an image's blobs was left for another that brought the same.
fn sources_left(pull: &Value) -> Option<Left> {
    let mut left = Left::new();
    for blob in pull["pull"]["blobs"].as_array()? {
        let sources = blob["sources"].as_array()?;
        for (index, source) in sources.iter().enumerate() {
            let same = |later: &Value| {
                let stripes = [&source["stripe"], &later["stripe"]];
                stripes.iter().any(|stripe| stripe.is_null()) || stripes[0] == stripes[1]
            };
            if sources[index + 1..].iter().any(same) {
                *left.entry(source["upstream"].as_str()?.to_owned()).or_default() += 1;
            }
        }
    }
    Some(left)
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
