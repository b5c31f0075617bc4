//! A registry that knows no ranges, as one behind a proxy that takes them away: it is asked for
//! pieces, answers with all of the blob, and every node has the right bytes all the same.

use anyhow::{Result, ensure};

use super::broadcast::check_counts;
use super::{STATE, finish, pull_everywhere};
use crate::build::Binaries;
use crate::cluster::{self, Cluster, Origin, REGISTRY, REGISTRY_PORT, REPOSITORY, nginx};
use crate::{http, image, run, setup};

const NODES: usize = 4;
const RATE: &str = "1gbit";
/// The registry behind the proxy, which has its host and its port.
const BEHIND: &str = "behind";
const BEHIND_PORT: u16 = 5001;
/// How often such a registry sends the image: once for the root of each tree.
const ROOTS: u64 = 2;

/// Everything is passed on, to the registry all but what asks for a range.
const SITE: &str = "  client_max_body_size 0;\n  max_ranges 0;\n";
const PLACE: &str = "      proxy_set_header Host $http_host;
      proxy_set_header Range \"\";
      proxy_hide_header Accept-Ranges;
      proxy_buffering off;
      proxy_request_buffering off;
";

/// Four nodes at once: the registry sends the image to the root of each tree, and to nobody else.
pub(super) fn all_pull_through_it(programs: &Binaries) -> Result<()> {
    setup::debian_packages(&["docker-registry", "skopeo", "nginx-light"])?;
    let mut cluster = Cluster::new(programs, NODES, Some(RATE), Origin::DockerRegistry)?;
    cluster.layout = image::cached(super::IMAGE_BYTES)?;
    cluster.log = Some(super::LOG);
    let pulled = pull(&mut cluster);
    pulled.map_err(|error| error.context(format!("logs:\n{}", cluster.lab.story())))
}

fn pull(cluster: &mut Cluster) -> Result<()> {
    cluster.start_docker_registry(BEHIND, BEHIND_PORT)?;
    start_proxy(cluster)?;
    cluster.push()?;
    cluster.start_control()?;
    for node in cluster.nodes().to_vec() {
        cluster.start_node(&node, &[])?;
    }
    let image = cluster.image()?;
    let path = format!("/v2/{REPOSITORY}/blobs/{}", image.largest().0);
    let registry = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
    let part = [("Range", "bytes=0-1023")];
    let answer = cluster.lab.within(REGISTRY, || http::get(registry, &path, &part))?;
    ensure!(answer.status == 200, "a part of {path} gets {}", answer.status);
    let mut pulls = pull_everywhere(cluster)?;
    finish(cluster, &mut pulls, &image)?;
    let hops = cluster.settled_hops(&image, STATE)?;
    let sent = cluster::origin_bytes(&hops);
    println!("    the registry has sent {sent} bytes of an image of {}", image.bytes());
    ensure!(sent <= ROOTS * image.bytes(), "the registry has sent {sent} bytes");
    check_counts(cluster, &image, &hops).map(drop)
}

/// Puts nginx where nodes and clients look for the registry.
fn start_proxy(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.lab.host(REGISTRY)?;
    let ends = (host.at(REGISTRY_PORT).to_string(), host.at(BEHIND_PORT).to_string());
    let ends = (ends.0.as_str(), ends.1.as_str());
    let nginx = nginx::proxy(cluster.lab.directory(), ends, SITE, PLACE)?;
    cluster.lab.start(REGISTRY, REGISTRY, nginx)?;
    let address = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
    run::wait_for("an answer of nginx", STATE, || {
        cluster.lab.process(REGISTRY)?.is_alive()?;
        Ok(cluster.lab.within(REGISTRY, || http::get(address, "/v2/", &[])).ok().map(drop))
    })
}
