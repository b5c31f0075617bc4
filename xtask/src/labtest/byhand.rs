//! What a user does by hand: the commands of the walk-through, and clients that know no Xylem.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{PULL, STATE, with_cluster};
use crate::build::Binaries;
use crate::cluster::{CONTROL, CONTROL_PORT, Cluster, NODE_PORT};
use crate::run;

/// `xylem pull --output`, `trees`, `hops` and `status`, as text and as JSON.
pub(super) fn commands(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 2, "1gbit", |cluster| {
        let image = cluster.image()?;
        let node = cluster.nodes()[0].clone();
        let out = cluster.lab.disk().join("out");
        let output = format!("oci:{}", out.display());
        let pulled = xylem(cluster, &["pull", &cluster.reference()?, "--output", &output])?;
        ensure!(pulled.contains(&image.digest), "pull says `{pulled}`");
        image.check(&out).context("in the layout that was written")?;
        cluster.verify(&node, &image)?;
        let copy = format!("dir:{}", cluster.lab.disk().join("copy").display());
        skopeo(cluster, &[&output, &copy])?;
        cluster.settled_hops_of(std::slice::from_ref(&node), &image, STATE)?;
        for command in ["trees", "hops", "status"] {
            let text = xylem(cluster, &[command])?;
            ensure!(text.contains(&node), "{command} does not show {node}: {text}");
            let json = xylem(cluster, &[command, "--json"])?;
            let json: Value = serde_json::from_str(&json)
                .with_context(|| format!("{command} --json says `{json}`"))?;
            ensure!(json.to_string().contains(&node), "{command} --json does not show {node}");
        }
        Ok(())
    })
}

/// `xylem preheat` brings an image to every node, `explain` says from where, and `doctor` finds
/// nothing amiss.
pub(super) fn preheated_and_explained(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 3, "1gbit", |cluster| {
        let (image, reference) = (cluster.image()?, cluster.reference()?);
        for _ in 0..2 {
            let told = xylem(cluster, &["preheat", &reference])?;
            ensure!(told.contains("on 3 of 3 nodes"), "preheat says `{told}`");
        }
        for node in cluster.nodes().to_vec() {
            cluster.verify(&node, &image)?;
        }
        let hops = cluster.settled_hops(&image, STATE)?;
        ensure!(crate::cluster::origin_bytes(&hops) < image.bytes() * 3 / 2, "more than once");
        let told = xylem(cluster, &["explain", &reference, "--json"])?;
        let told: Value = serde_json::from_str(&told)?;
        ensure!(told.to_string().contains(&image.digest), "explain says {told}");
        let told = xylem(cluster, &["explain", &reference])?;
        ensure!(told.contains("preheat"), "explain says `{told}`");
        let told = xylem(cluster, &["doctor"])?;
        for check in ["io_uring", "store", "control", "mirror"] {
            ensure!(told.contains(check), "doctor does not tell of {check}: `{told}`");
        }
        Ok(())
    })
}

/// `skopeo` copies from a node that has nothing yet, as from any registry.
pub(super) fn skopeo_pulls_through_a_node(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 2, "1gbit", |cluster| {
        let image = cluster.image()?;
        for node in cluster.nodes().to_vec() {
            let from = format!("docker://{}/demo:latest", cluster.lab.host(&node)?.at(NODE_PORT));
            let out = cluster.lab.disk().join(format!("copy-{node}"));
            skopeo(cluster, &[&from, &format!("oci:{}:latest", out.display())])?;
            image.check(&out).with_context(|| format!("in what {node} gave to skopeo"))?;
        }
        cluster.all_alive()
    })
}

/// Runs `xylem` on the first node, with its node and control named.
fn xylem(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let node = &cluster.nodes()[0];
    let node_url = cluster.node_url(node)?;
    let control = format!("http://{}", cluster.lab.host(CONTROL)?.at(CONTROL_PORT));
    let mut xylem = Command::new(&cluster.programs.xylem);
    xylem.args(arguments).args(["--control", &control]);
    // The status of a node is asked for by naming it: here it is the status of all that is wanted.
    if ["pull", "explain", "doctor"].contains(&arguments[0]) {
        xylem.args(["--node-url", &node_url]);
    }
    cluster.lab.place(node, &mut xylem)?;
    run::output(&mut xylem)
}

fn skopeo(cluster: &Cluster, from_to: &[&str]) -> Result<()> {
    let mut skopeo = run::command("timeout");
    skopeo.arg(PULL.as_secs().to_string());
    skopeo.args(["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"]);
    skopeo.arg("--src-tls-verify=false").args(from_to);
    cluster.lab.place(&cluster.nodes()[0], &mut skopeo)?;
    run::output(&mut skopeo).map(|_| ())
}
