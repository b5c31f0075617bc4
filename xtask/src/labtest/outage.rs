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
use crate::cluster::{CONTROL, Cluster};
use crate::image::fixture;
use crate::run;

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
