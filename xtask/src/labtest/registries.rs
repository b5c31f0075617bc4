//! Several registries behind one node, and registries that a node is not to know.

use anyhow::{Context, Result, ensure};

use super::containerd::{self, Containerd};
use super::layout::{Layout, archive, first_layer};
use super::mirror::{self, ACCEPT, NAME, reference, with_fixture};
use super::podman::{self, Setting};
use crate::build::Binaries;
use crate::cluster::registry::served;
use crate::cluster::{Cluster, NODE_PORT, REGISTRY, REGISTRY_PORT, REPOSITORY, TAG};
use crate::image::fixture;
use crate::{http, run};

/// The other registry: its process, where it is, and its name, with a port that leads nowhere.
const OTHER: &str = "other";
const OTHER_PORT: u16 = 5002;
const OTHER_NAME: &str = "other.example.com:5443";

/// Two registries with an image of the same name and tag: each client gets the one that it names.
pub(super) fn are_kept_apart(programs: &Binaries) -> Result<()> {
    let packages = [containerd::PACKAGES, podman::PACKAGES].concat();
    with_fixture(programs, 1, &fixture::TINY, &packages, |cluster| {
        cluster.start_registry()?;
        cluster.start_docker_registry(OTHER, OTHER_PORT)?;
        let base = first_layer(&cluster.layout)?;
        let registries = [(NAME, REGISTRY_PORT), (OTHER_NAME, OTHER_PORT)];
        for (name, port) in registries {
            let layout = Layout::create(&cluster.lab.disk().join(format!("image-{port}")))?;
            let tars = [base.clone(), archive(&[("said", name)])?];
            let layers = tars.iter().map(|tar| layout.layer(tar, true));
            let layers = layers.collect::<Result<Vec<_>>>()?;
            let command = ["/bin/busybox", "cat", "/said"];
            let image = layout.image(crate::image::architecture(), &layers, &command)?;
            let more = ["--preserve-digests"];
            cluster.push_to(port, &layout.tag(image, TAG)?, &repository(), &more)?;
        }
        cluster.lab.process(REGISTRY)?.forget();
        cluster.lab.process(OTHER)?.forget();
        let node = start_node_of_both(cluster)?;
        let runtime = Containerd::start(cluster, &node)?;
        let setting = Setting::new(cluster, &node)?;
        setting.mirror(cluster, &registries)?;
        for (name, port) in registries {
            pulls_its_own(cluster, &runtime, &setting, name, port)?;
        }
        cluster.all_alive()?;
        [REGISTRY, OTHER].iter().try_for_each(|name| only_nodes_have_asked(cluster, name))
    })
}

/// A registry that the node is not configured for: refused, and the client asks there itself.
pub(super) fn unknown_is_left_alone(programs: &Binaries) -> Result<()> {
    let packages = [containerd::PACKAGES, podman::PACKAGES].concat();
    with_fixture(programs, 2, &fixture::TINY, &packages, |cluster| {
        // These know their registry by where it is, and by no other name.
        cluster.start()?;
        let nodes = cluster.nodes().to_vec();
        let to = cluster.lab.host(&nodes[0])?.at(NODE_PORT);
        let path = format!("/v2/{REPOSITORY}/manifests/{TAG}?ns={NAME}");
        let headers = [("Accept", ACCEPT)];
        let answer = cluster.lab.within(&nodes[0], || http::get(to, &path, &headers))?;
        let code = answer.json()?.pointer("/errors/0/code").cloned();
        let refused = answer.status == 403 && code == Some("DENIED".into());
        ensure!(refused, "{path} gets {} {code:?}", answer.status);
        let runtime = Containerd::start(cluster, &nodes[0])?;
        run::output(&mut runtime.pull(cluster, &reference(), &[])?)?;
        mirror::gone_past(cluster).context("containerd")?;
        cluster.lab.process(REGISTRY)?.forget();
        let setting = Setting::new(cluster, &nodes[1])?;
        let mut skopeo = setting.skopeo(cluster, &reference())?;
        skopeo.arg(format!("dir:{}", cluster.lab.disk().join("copy").display()));
        run::output(&mut skopeo)?;
        mirror::gone_past(cluster).context("skopeo")
    })
}

fn repository() -> String {
    format!("{REPOSITORY}:{TAG}")
}

fn start_node_of_both(cluster: &mut Cluster) -> Result<String> {
    cluster.start_control()?;
    let node = cluster.nodes()[0].clone();
    let one = format!("{NAME}={}", cluster.registry_url()?);
    let other = format!("{OTHER_NAME}={}", cluster.registry_url_at(OTHER_PORT)?);
    cluster.start_node(&node, &["--registry", &one, "--registry", &other])?;
    Ok(node)
}

fn pulls_its_own(
    cluster: &Cluster,
    runtime: &Containerd,
    setting: &Setting,
    name: &str,
    port: u16,
) -> Result<()> {
    let image = format!("{name}/{}", repository());
    let server = cluster.registry_url_at(port)?;
    run::output(&mut runtime.pull_from(cluster, &server, &image, &[])?)?;
    let said = run::output(&mut runtime.run(cluster, &image)?)?;
    ensure!(said == name, "containerd has the image of {said} instead of {name}");
    let mut pull = setting.podman(cluster)?;
    run::output(pull.args(["pull", "--quiet", &setting.policy(), &image]))?;
    let said = run::output(&mut setting.run(cluster, &image)?)?;
    ensure!(said == name, "podman has the image of {said} instead of {name}");
    Ok(())
}

fn only_nodes_have_asked(cluster: &mut Cluster, process: &str) -> Result<()> {
    let served = served(&cluster.lab.process(process)?.said())?;
    let stranger = served.iter().find(|it| it.is_good() && !it.agent.starts_with("xylem"));
    ensure!(stranger.is_none(), "a client has gone past its node: {stranger:?}");
    ensure!(served.iter().any(|it| it.is_blob()), "nobody has asked {process} for a blob");
    Ok(())
}
