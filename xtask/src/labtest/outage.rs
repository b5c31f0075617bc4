//! What a client sees when its node dies under it, or when the node has lost its control.

use std::process::Command;
use std::thread;

use anyhow::{Result, ensure};

use super::containerd::{self, Containerd};
use super::mirror::{self, reference, with_fixture, with_fixture_at};
use super::podman::{self, Setting};
use super::{SLOW, wait_for_mid_blob};
use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::{CONTROL, Cluster, NODE_PORT, REGISTRY, REPOSITORY, TAG};
use crate::image::fixture;
use crate::{http, run};

/// containerd goes on at the registry, where its node has left it.
pub(super) fn containerd_goes_on(programs: &Binaries) -> Result<()> {
    with_fixture_at(SLOW, programs, 1, &fixture::SMALL, containerd::PACKAGES, |cluster| {
        mirror::start(cluster)?;
        let image = cluster.image()?;
        let node = cluster.nodes()[0].clone();
        let runtime = Containerd::start(cluster, &node)?;
        let pull = runtime.pull(cluster, &reference(), &[])?;
        dies_in_mid_blob(cluster, &image, pull)??;
        let said = run::output(&mut runtime.run(cluster, &reference())?)?;
        ensure!(said.contains("handler ran"), "the container says `{said}`");
        mirror::gone_past(cluster)
    })
}

/// podman gives up a blob that ends early, wherever it comes from; its next pull goes past.
pub(super) fn podman_begins_again(programs: &Binaries) -> Result<()> {
    with_fixture_at(SLOW, programs, 1, &fixture::SMALL, podman::PACKAGES, |cluster| {
        mirror::start(cluster)?;
        let image = cluster.image()?;
        let node = cluster.nodes()[0].clone();
        let setting = Setting::new(cluster, &node)?;
        let pull = |cluster: &Cluster| {
            let mut pull = setting.podman(cluster)?;
            pull.args(["pull", "--quiet", &setting.policy(), &reference()]);
            anyhow::Ok(pull)
        };
        let first = pull(cluster)?;
        if let Err(error) = dies_in_mid_blob(cluster, &image, first)? {
            let said = format!("{error:#}");
            ensure!(said.contains("unexpected EOF"), "a cut blob is told as {said}");
        }
        run::output(&mut pull(cluster)?)?;
        let said = run::output(&mut setting.run(cluster, &reference())?)?;
        ensure!(said.contains("handler ran"), "the container says `{said}`");
        mirror::gone_past(cluster)
    })
}

/// Without control every node is alone, and its clients still pull through it.
pub(super) fn clients_pull_without_control(programs: &Binaries) -> Result<()> {
    with_fixture(programs, 2, &fixture::TINY, containerd::PACKAGES, |cluster| {
        mirror::start(cluster)?;
        let image = cluster.image()?;
        cluster.lab.end(CONTROL, libc::SIGKILL)?;
        for node in cluster.nodes().to_vec() {
            let runtime = Containerd::start(cluster, &node)?;
            run::output(&mut runtime.pull(cluster, &reference(), &[])?)?;
            cluster.verify(&node, &image)?;
        }
        let served = mirror::asked_of_registry(cluster)?;
        let stranger = served.iter().find(|it| it.is_good() && !it.agent.starts_with("xylem"));
        ensure!(stranger.is_none(), "a client has gone past its node: {stranger:?}");
        cluster.all_alive()
    })
}

/// With the registry gone, a tag still names what it named last, and the node says so.
pub(super) fn tag_outlives_its_registry(programs: &Binaries) -> Result<()> {
    with_fixture(programs, 1, &fixture::TINY, podman::PACKAGES, |cluster| {
        cluster.start_registry()?;
        cluster.push()?;
        cluster.start_control()?;
        let named = format!("{}={}", mirror::NAME, cluster.registry_url()?);
        let node = cluster.nodes()[0].clone();
        cluster.start_node(&node, &["--registry", &named, "--offline", "1h"])?;
        let image = cluster.image()?;
        let setting = Setting::new(cluster, &node)?;
        let copy = |cluster: &Cluster, to: &str| {
            let out = cluster.lab.disk().join(to);
            let mut skopeo = setting.skopeo(cluster, &reference())?;
            run::output(skopeo.arg(format!("oci:{}:latest", out.display())))?;
            image.check(&out)
        };
        copy(cluster, "before")?;
        let path = format!("/v2/{REPOSITORY}/manifests/{TAG}?ns={}", mirror::NAME);
        let tag = |cluster: &Cluster| {
            let address = cluster.lab.host(&node)?.at(NODE_PORT);
            cluster.lab.within(&node, || http::get(address, &path, &[("Accept", mirror::ACCEPT)]))
        };
        let fresh = tag(cluster)?;
        ensure!(fresh.status == 200 && fresh.header("warning").is_none(), "{}", fresh.head);
        cluster.lab.end(REGISTRY, libc::SIGKILL)?;
        copy(cluster, "after")?;
        let stale = tag(cluster)?;
        let warning = stale.header("warning").unwrap_or_default();
        ensure!(stale.status == 200 && warning.starts_with("110 "), "{}", stale.head);
        let status = cluster.get(&node, "/xylem/v1/status")?;
        let known = status["stale_tags"].to_string();
        ensure!(known.contains(&image.digest), "the status tells of {known}");
        Ok(())
    })
}

/// Kills the only node while a client reads from it. Returns what came of the client.
fn dies_in_mid_blob(
    cluster: &mut Cluster,
    image: &Image,
    mut pull: Command,
) -> Result<Result<String>> {
    let node = cluster.nodes()[0].clone();
    let client = thread::spawn(move || run::output(&mut pull));
    let killed = wait_for_mid_blob(cluster, &node, image)
        .and_then(|_| cluster.lab.end(&node, libc::SIGKILL));
    let pulled = client.join().expect("no panic in there");
    killed.map(|()| pulled)
}
