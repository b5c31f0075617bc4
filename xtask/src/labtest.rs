//! Tests with real processes in a lab of their own: the list, the runner, what they share.
//!
//! What has to happen in the middle of a blob is made certain by slow links and by waiting for
//! what a node says about itself; no test sleeps, and every wait has a bound.

mod badhttp;
mod badinput;
mod badstore;
mod badupstream;
mod broadcast;
mod byhand;
mod certificates;
mod conformance;
pub(crate) mod containerd;
mod control;
mod crowd;
mod demo;
mod falsehood;
mod kinds;
mod layout;
mod liar;
pub(crate) mod links;
mod login;
mod masses;
pub(crate) mod mirror;
mod noranges;
mod oddhttp;
mod outage;
mod parent;
mod podman;
mod private;
mod registries;
mod registry;
mod restart;
mod stuck;
mod tokens;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::pull::Pull;
use crate::cluster::{self, Cluster};
use crate::{build, image, run, sys};

/// What a small image is: it takes seconds on a slow link.
const IMAGE_BYTES: u64 = 24_000_000;
/// A link on which such an image can be met in the middle.
const SLOW: &str = "40mbit";
/// How long a pull may take here, with all that is done to it.
const PULL: Duration = Duration::from_secs(90);
/// What nodes log: whom they have left and why, for the story of a test that fails.
const LOG: &str = "info,xylem_dataplane::agent=debug";
/// How long a state may take to come about.
const STATE: Duration = Duration::from_secs(30);

/// Which tests to run.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Only tests whose name contains this
    name: Option<String>,
    /// With binaries built in release; else in debug
    #[arg(long)]
    release: bool,
    /// Print the names and run nothing
    #[arg(long)]
    list: bool,
}

/// A test: a name and a function that fails.
type Test = (&'static str, fn(&Binaries) -> Result<()>);

const TESTS: &[Test] = &[
    ("links_are_shaped_and_labs_coexist", links::are_shaped_and_labs_coexist),
    ("killed_lab_is_cleaned_up", links::killed_lab_is_cleaned_up),
    ("broadcast_costs_the_registry_once", broadcast::costs_the_registry_once),
    ("broadcast_out_of_tls_costs_it_once", broadcast::costs_a_registry_inside_tls_once),
    ("registry_without_ranges_is_enough", noranges::all_pull_through_it),
    ("commands_of_the_walk_through", byhand::commands),
    ("demo_of_an_image_in_a_registry", demo::of_a_registry),
    ("demo_of_an_image_in_a_directory", demo::of_a_directory),
    ("image_is_preheated_and_explained", byhand::preheated_and_explained),
    ("skopeo_pulls_through_a_node", byhand::skopeo_pulls_through_a_node),
    ("node_conforms_as_docker_registry", conformance::as_docker_registry),
    ("node_conforms_as_paging_registry", conformance::as_paging_registry),
    ("node_mirrors_its_registry_alone", conformance::as_mirror_of_one),
    ("node_passes_referrers", conformance::with_referrers),
    ("every_request_has_an_answer", badhttp::every_request_has_an_answer),
    ("requests_in_one_write_are_answered", oddhttp::in_one_write),
    ("older_and_half_closed_clients", oddhttp::older_and_half_closed),
    ("refusals_are_read", oddhttp::refusals_are_read),
    ("slow_requests_are_cut", oddhttp::slow_requests_are_cut),
    ("idle_connections_cost_little", crowd::ten_thousand_idle_connections),
    ("unfinished_heads_are_bounded", crowd::unfinished_heads),
    ("node_without_descriptors_waits", crowd::without_descriptors),
    ("wrong_arguments_are_refused", badinput::wrong_arguments),
    ("unreachable_peers_are_named", badinput::unreachable_peers),
    ("missing_kernel_features_are_named", badinput::missing_kernel_features),
    ("read_only_store_is_refused", badstore::read_only),
    ("full_store_fails_one_blob", badstore::full),
    ("wrong_digest_is_never_kept", badupstream::wrong_digest),
    ("truncated_upstream_is_an_error", badupstream::truncated),
    ("oversized_manifest_is_refused", badupstream::oversized_manifest),
    ("parent_killed_in_mid_blob", parent::killed_in_mid_blob),
    ("root_killed_in_mid_blob", parent::root_killed_in_mid_blob),
    ("parent_stopped_in_mid_blob", stuck::stopped_in_mid_blob),
    ("parent_cut_off_in_mid_blob", stuck::cut_off_in_mid_blob),
    ("control_killed_in_mid_blob", control::killed_in_mid_blob),
    ("control_is_cut_off_in_mid_blob", masses::control_is_cut_off),
    ("third_of_the_nodes_die_in_mid_blob", masses::third_of_the_nodes_die),
    ("nodes_restart_in_turn_in_mid_blob", masses::nodes_restart_in_turn),
    ("node_lies_about_what_it_has", falsehood::of_what_it_has),
    ("registry_killed_in_mid_blob", registry::killed_in_mid_blob),
    ("restart_in_mid_blob_resumes", restart::in_mid_blob_resumes),
    ("containerd_pulls_once_for_all", containerd::pulls_once_for_all),
    ("containerd_pulls_without_a_node", containerd::pulls_without_a_node),
    ("skopeo_copies_by_the_registry_s_name", podman::skopeo_copies_by_the_registry_s_name),
    ("buildah_begins_from_it", podman::buildah_begins_from_it),
    ("podman_pulls_and_runs", podman::podman_pulls_and_runs),
    ("kinds_of_images_can_all_be_pulled", kinds::all_can_be_pulled),
    ("hundreds_of_blobs_are_copied", kinds::hundreds_of_blobs),
    ("platforms_are_trees_of_their_own", kinds::platforms_are_apart),
    ("artifacts_pass_through", kinds::artifacts_pass_through),
    ("containerd_goes_on_without_its_node", outage::containerd_goes_on),
    ("podman_begins_again_without_its_node", outage::podman_begins_again),
    ("tag_outlives_its_registry", outage::tag_outlives_its_registry),
    ("clients_pull_without_control", outage::clients_pull_without_control),
    ("private_registry_with_passwords", private::with_passwords),
    ("private_registry_with_tokens", private::with_tokens),
    ("tokens_end_in_mid_layer", private::with_short_tokens),
    ("registries_are_kept_apart", registries::are_kept_apart),
    ("registry_that_is_unknown_is_left_alone", registries::unknown_is_left_alone),
    ("registry_with_an_authority_of_its_own", private::with_own_authority),
];

/// How many tests passed and were skipped, and which failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) skipped: u64,
    /// A line for each, with the name first.
    pub(crate) failed: Vec<String>,
}

impl Tally {
    /// Notes a failure by its name and the first line of what is known about it.
    pub(crate) fn fail(&mut self, name: &str, why: &str) {
        let line = why.lines().next().unwrap_or_default();
        self.failed.push(format!("{name}: {line}"));
    }

    /// Says how many there were, after what failed: of a long run the end is read first.
    pub(crate) fn conclude(&self) -> Result<()> {
        for line in &self.failed {
            println!("FAILED: {line}");
        }
        let failed = self.failed.len();
        println!("{} passed, {failed} failed, {} skipped", self.passed, self.skipped);
        ensure!(failed == 0, "{failed} failed");
        Ok(())
    }
}

/// `cargo xtask lab-test`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        TESTS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    all(options.name.as_deref(), options.release)?.conclude()
}

/// Builds what is needed and runs the tests whose name contains `filter`.
pub(crate) fn all(filter: Option<&str>, release: bool) -> Result<Tally> {
    let chosen = TESTS.iter().filter(|(name, _)| filter.is_none_or(|part| name.contains(part)));
    let chosen: Vec<&Test> = chosen.collect();
    ensure!(!chosen.is_empty(), "no lab test has that name; `--list` prints them");
    let mut tally = Tally::default();
    if !sys::is_root() {
        println!("skipped {} lab tests: namespaces need root", chosen.len());
        tally.skipped = chosen.len() as u64;
        return Ok(tally);
    }
    let programs = build::all(release)?;
    for (name, test) in chosen {
        let start = Instant::now();
        let outcome = test(&programs);
        let seconds = start.elapsed().as_secs_f64();
        run::go_on()?;
        match outcome {
            Ok(()) => {
                println!("lab test {name} ... ok ({seconds:.1} s)");
                tally.passed += 1;
            }
            Err(error) => {
                println!("lab test {name} ... FAILED ({seconds:.1} s)\n    {error:#}");
                tally.fail(&format!("lab test {name}"), &error.root_cause().to_string());
            }
        }
    }
    Ok(tally)
}

/// Runs a test against a lab in which everything has been started; a failure shows the logs.
fn with_cluster(
    programs: &Binaries,
    nodes: usize,
    rate: &str,
    test: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    with_hosts(programs, nodes, rate, |cluster| {
        cluster.start()?;
        test(cluster)
    })
}

/// The same with nothing started yet.
fn with_hosts(
    programs: &Binaries,
    nodes: usize,
    rate: &str,
    test: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let layout = image::cached(IMAGE_BYTES)?;
    let origin = cluster::choose_origin();
    let mut cluster = Cluster::new(programs, nodes, Some(rate), origin)?;
    cluster.layout = layout;
    cluster.log = Some(LOG);
    test(&mut cluster).map_err(|error| error.context(format!("logs:\n{}", cluster.lab.story())))
}

/// Starts a pull on every node at once.
fn pull_everywhere(cluster: &mut Cluster) -> Result<Vec<Pull>> {
    let nodes = cluster.nodes().to_vec();
    nodes.iter().map(|node| cluster.pull(node)).collect()
}

/// Waits for pulls and verifies the stores of their nodes.
fn finish(cluster: &mut Cluster, pulls: &mut [Pull], image: &Image) -> Result<()> {
    for pull in pulls.iter_mut() {
        let done = pull.wait(PULL)?;
        ensure!(done.image == image.digest, "{} has pulled {}", pull.node, done.image);
    }
    cluster.all_alive()?;
    pulls.iter().try_for_each(|pull| cluster.verify(&pull.node, image))
}

/// Waits until a node is well inside the image's largest blob; returns the bytes it has of it.
fn wait_for_mid_blob(cluster: &mut Cluster, node: &str, image: &Image) -> Result<u64> {
    let (digest, bytes) = image.largest();
    let received = |status: &serde_json::Value| {
        let flows = status["flows"].as_array()?;
        let flow = flows.iter().find(|flow| flow["digest"] == digest)?;
        flow["received_bytes"].as_u64()
    };
    let inside = |received: u64| received > bytes / 4;
    let status = cluster.wait_for_status(node, "the middle of a blob", PULL, |status| {
        received(status).is_some_and(inside)
    })?;
    let found = received(&status).context("a flow without received_bytes")?;
    ensure!(found < bytes / 8 * 7, "{node} was too fast: {found} of {bytes} bytes");
    Ok(found)
}

/// The parent of every node of the only tree, or of that for the first stripe, as control tells it;
/// none for the root.
fn parents(cluster: &Cluster) -> Result<Vec<(String, Option<String>)>> {
    let answer = cluster.get(cluster::CONTROL, "/api/v1/trees")?;
    let trees = answer["trees"].as_array().context("no trees")?;
    let first: Vec<_> = trees.iter().filter(|tree| tree["stripe"] == 0).collect();
    let [tree] = first.as_slice() else { bail!("trees of {} images, not of one", first.len()) };
    let nodes = tree["nodes"].as_array().context("a tree without nodes")?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    nodes
        .iter()
        .map(|node| Ok((text(&node["node"]).context("a nameless node")?, text(&node["parent"]))))
        .collect()
}

/// Waits until the only tree has all nodes in it; returns their parents.
fn wait_for_full_tree(cluster: &Cluster) -> Result<Vec<(String, Option<String>)>> {
    let nodes = cluster.nodes().len();
    run::wait_for("a tree of all nodes", STATE, || {
        Ok(parents(cluster).ok().filter(|tree| tree.len() == nodes))
    })
}
