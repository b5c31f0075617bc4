//! What tests of unmodified clients share: a registry that logs, clients side by side, one name.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::registry::{Served, served};
use crate::cluster::{Cluster, Origin, REGISTRY, REPOSITORY, TAG};
use crate::image::fixture::{self, Recipe};
use crate::{run, setup};

/// The registry as image references name it: not where it is.
pub(crate) const NAME: &str = "registry.example.com";
/// What clients accept, all of it.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json";
/// How long a client may take: unpacking many layers on a busy machine does.
const CLIENT: Duration = Duration::from_secs(240);
const RATE: &str = "1gbit";

/// The image as a client names it.
pub(super) fn reference() -> String {
    format!("{NAME}/{REPOSITORY}:{TAG}")
}

/// Runs a test against a lab with a real registry and an image of real packages, nothing started.
pub(super) fn with_fixture(
    programs: &Binaries,
    nodes: usize,
    recipe: &Recipe,
    packages: &[&str],
    test: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    with_fixture_at(RATE, programs, nodes, recipe, packages, test)
}

/// The same with links of a rate.
pub(super) fn with_fixture_at(
    rate: &str,
    programs: &Binaries,
    nodes: usize,
    recipe: &Recipe,
    packages: &[&str],
    test: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    setup::debian_packages(&["docker-registry", "skopeo"])?;
    setup::debian_packages(packages)?;
    let layout = fixture::cached(recipe)?;
    let mut cluster = Cluster::new(programs, nodes, Some(rate), Origin::DockerRegistry)?;
    cluster.layout = layout;
    cluster.settings.access_log = true;
    cluster.log = Some(super::LOG);
    test(&mut cluster).map_err(|error| error.context(format!("logs:\n{}", cluster.lab.story())))
}

/// Starts everything, with the image in the registry.
pub(super) fn start(cluster: &mut Cluster) -> Result<()> {
    cluster.start_registry()?;
    cluster.push()?;
    start_nodes(cluster)
}

/// Starts control and all nodes, which know the registry by its name.
pub(crate) fn start_nodes(cluster: &mut Cluster) -> Result<()> {
    cluster.start_control()?;
    let url = cluster.registry_url()?;
    let named = format!("{NAME}={url}");
    for node in cluster.nodes().to_vec() {
        let Some(authority) = &cluster.settings.authority else {
            cluster.start_node(&node, &["--registry", &named])?;
            continue;
        };
        let config = cluster.lab.directory().join(format!("{node}.toml"));
        let ca = authority.display().to_string();
        let text = format!("[[registry]]\nhost = {NAME:?}\nurl = {url:?}\nca = {ca:?}\n");
        fs::write(&config, text).context("cannot write a node's configuration")?;
        cluster.start_node(&node, &["--config", &config.to_string_lossy()])?;
    }
    Ok(())
}

/// A client's command on a host; one that hangs is ended.
pub(super) fn client(cluster: &Cluster, host: &str, program: &str) -> Result<Command> {
    let mut command = run::command("timeout");
    command.args(["--kill-after=5", &CLIENT.as_secs().to_string(), program]);
    cluster.lab.place(host, &mut command)?;
    Ok(command)
}

/// Runs commands at once, to their ends; what each printed, or the first failure.
pub(super) fn at_once(commands: Vec<Command>) -> Result<Vec<String>> {
    thread::scope(|scope| {
        let start = |mut command| scope.spawn(move || run::output(&mut command));
        let threads: Vec<_> = commands.into_iter().map(start).collect();
        let outputs = threads.into_iter().map(|thread| thread.join().expect("no panic in there"));
        outputs.collect()
    })
}

/// What the registry has answered since it was filled, save what this program has asked it.
pub(super) fn asked_of_registry(cluster: &mut Cluster) -> Result<Vec<Served>> {
    let own = cluster.lab.host(REGISTRY)?.address.to_string();
    let mut served = served(&cluster.lab.process(REGISTRY)?.said())?;
    served.retain(|it| it.client != own);
    Ok(served)
}

/// Fails unless the registry has sent every blob of the image once, and to nodes only.
pub(super) fn sent_once(cluster: &mut Cluster, image: &Image) -> Result<()> {
    let served = asked_of_registry(cluster)?;
    let strangers = served.iter().find(|it| it.is_good() && !it.agent.starts_with("xylem"));
    ensure!(strangers.is_none(), "a client has gone past its node: {strangers:?}");
    let sent: u64 = served.iter().filter(|it| it.is_blob()).map(|it| it.bytes).sum();
    let (all, blobs) = (image.body_bytes(), image.blobs().count());
    ensure!(sent == all, "the registry has sent {sent} bytes of {blobs} blobs of {all} bytes");
    Ok(())
}

/// Fails unless somebody other than a node was served a blob: a client by itself.
pub(super) fn gone_past(cluster: &mut Cluster) -> Result<()> {
    let served = asked_of_registry(cluster)?;
    let direct = served.iter().find(|it| it.is_blob() && !it.agent.starts_with("xylem"));
    direct.map(|_| ()).context("no client has asked the registry itself")
}
