//! `cargo xtask bench coldstart`: from nothing to the first output of a function in a container,
//! on many nodes at once, each with a containerd of its own; straight from the registry, and
//! through the trees.

mod table;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};

use super::image_layout;
use super::outcome::{FAILURES_MAX, Outcome};
use super::race::{Finish, Race, Until};
use super::report::{Common, Report};
use super::watch::{Spent, Watch};
use crate::build::{self, Binaries};
use crate::cluster::{self, Cluster, Origin};
use crate::labtest::containerd::Containerd;
use crate::labtest::mirror;
use crate::{image, run, setup, sys};

const PACKAGES: &[&str] = &["iproute2", "docker-registry", "skopeo", "containerd", "runc"];
const NODES_MAX: u64 = 50;
const IMAGE: &str = "big";
const QUICK_IMAGE: &str = "small";
/// The repository of the image whose layers are zstd.
const ZSTD: &str = "demo-zstd";
/// How long a node may take to reach control.
const STATE_MAX: Duration = Duration::from_secs(30);
/// How long a start may take: many nodes unpack on few processors.
const START_MAX: Duration = Duration::from_secs(900);
const LINES: &str = "coldstart.jsonl";
const FETCHED: &str = "bench: fetched";
const UNPACKED: &str = "bench: unpacked";
/// Fetches, unpacks what was fetched, and runs it: what `ctr images pull` does in one go, in steps
/// that can be told apart.
const SCRIPT: &str = "read -r go; \
    ctr --address \"$1\" content fetch --hosts-dir \"$2\" \"$6\" >&2 && echo 'bench: fetched' && \
    ctr --address \"$1\" images pull --hosts-dir \"$2\" \"$6\" >&2 && echo 'bench: unpacked' && \
    exec ctr --address \"$1\" run --rm --cgroup \"$3\" --fifo-dir \"$4\" --runc-root \"$5\" \
    \"$6\" \"$7\"";

/// What to start, and where.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    nodes: u64,
    /// The rate of every link, both ways, as `tc` writes it
    #[arg(long, default_value = "1gbit")]
    rate: String,
    /// small, big, or an OCI layout whose container prints something [default: big, quick: small]
    #[arg(long)]
    image: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// How the image comes, and how its layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    tree: bool,
    zstd: bool,
}

impl Variant {
    const ALL: [Self; 4] = [
        Self { tree: false, zstd: false },
        Self { tree: true, zstd: false },
        Self { tree: false, zstd: true },
        Self { tree: true, zstd: true },
    ];

    fn name(self) -> String {
        let way = if self.tree { "tree" } else { "registry" };
        format!("{way}, {}", if self.zstd { "zstd" } else { "gzip" })
    }

    fn repository(self) -> &'static str {
        if self.zstd { ZSTD } else { cluster::REPOSITORY }
    }
}

/// One start on all nodes: a line of the raw results. Lists are in the order of the nodes.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Run {
    variant: String,
    image: String,
    nodes: usize,
    rate: String,
    /// Of the image, as its layers are compressed.
    bytes: u64,
    round: u32,
    /// From nothing until containerd has every blob.
    download_s: Vec<f64>,
    /// From there until the layers are unpacked.
    unpack_s: Vec<f64>,
    /// From there until the function has printed its first line.
    start_s: Vec<f64>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs it all, and writes the report.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(sys::is_root(), "containers and the lab of this bench need root");
    setup::debian_packages(PACKAGES)?;
    let programs = build::all(true)?;
    let report = Report::open(&args.common)?;
    report.write_machine(&[])?;
    let runs = measure(args, &programs)?;
    let same =
        |old: &Run| runs.first().is_some_and(|new| table::setting(new) == table::setting(old));
    let all = report.add(LINES, &runs, same)?;
    for (file, picture) in table::pictures(&all) {
        report.write(&file, &picture)?;
    }
    report.publish("coldstart", "From nothing to the first output", &table::page(&all))?;
    println!("{}", report.directory().join("coldstart.md").display());
    let failed = runs.iter().filter(|run| run.outcome.has_failed()).count();
    if failed > 0 {
        bail!("{failed} runs failed");
    }
    Ok(())
}

fn measure(args: &Args, programs: &Binaries) -> Result<Vec<Run>> {
    let default = if args.common.quick { QUICK_IMAGE } else { IMAGE };
    let image = args.image.as_deref().unwrap_or(default);
    let layout = image_layout(image)?;
    let nodes = usize::try_from(args.nodes)?;
    let mut cluster = Cluster::new(programs, nodes, Some(&args.rate), Origin::DockerRegistry)?;
    let zstd = cluster.lab.disk().join("zstd");
    image::recompressed(&layout, &zstd)?;
    cluster.layout = layout;
    cluster.start_registry()?;
    cluster.push()?;
    let from = format!("oci:{}:latest", zstd.display());
    let to = format!("{ZSTD}:{}", cluster::TAG);
    cluster.push_as(&from, &to, &["--preserve-digests"])?;
    let (rounds, tries) = args.common.rounds();
    let mut runs: Vec<Run> = Vec::new();
    for round in 1..=tries {
        // Nobody is always the one after the heaviest.
        let mut variants = Variant::ALL;
        variants.rotate_left(usize::try_from(round)? % Variant::ALL.len());
        for variant in variants {
            let of = |wanted: fn(&Run) -> bool| {
                let own = runs.iter().filter(|run| run.variant == variant.name());
                own.filter(|run| wanted(run)).count()
            };
            let enough = of(|run| run.outcome.is_kept()) >= usize::try_from(rounds)?;
            if enough || of(|run| run.outcome.has_failed()) >= FAILURES_MAX {
                continue;
            }
            runs.push(one(&mut cluster, args, image, variant, round)?);
        }
    }
    Ok(runs)
}

/// One start everywhere, from nothing to nothing. What fails is part of the results.
fn one(
    cluster: &mut Cluster,
    args: &Args,
    image: &str,
    variant: Variant,
    round: u32,
) -> Result<Run> {
    let image = if image.contains('/') { "given" } else { image };
    let mut run = Run::new(variant, image, cluster.nodes().len(), &args.rate, round);
    let outcome = race(cluster, variant, &mut run.bytes);
    clear(cluster)?;
    match outcome {
        Ok((finishes, spent)) => {
            for finish in &finishes {
                run.split(finish)?;
            }
            run.outcome = Outcome::of(&spent, &args.common);
        }
        Err(error) => {
            run::go_on()?;
            run.outcome = Outcome::failed(&error);
        }
    }
    let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    eprintln!(
        "round {round} {:16} download {:6.2} s  unpack {:6.2} s  start {:6.2} s  CPU {:3.0} %  {}",
        run.variant,
        most(&run.download_s),
        most(&run.unpack_s),
        most(&run.start_s),
        run.outcome.cpu_share * 100.0,
        run.outcome.dropped.as_deref().unwrap_or(""),
    );
    Ok(run)
}

impl Run {
    /// One that has not begun.
    fn new(variant: Variant, image: &str, nodes: usize, rate: &str, round: u32) -> Self {
        Self {
            variant: variant.name(),
            image: image.to_owned(),
            nodes,
            rate: rate.to_owned(),
            bytes: 0,
            round,
            download_s: Vec::new(),
            unpack_s: Vec::new(),
            start_s: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    /// Takes a node's times apart.
    fn split(&mut self, finish: &Finish) -> Result<()> {
        let at = |word: &str| {
            let line = finish.lines.iter().position(|(_, line)| line == word);
            line.with_context(|| format!("a node has not said `{word}`"))
        };
        let (fetched, unpacked) = (at(FETCHED)?, at(UNPACKED)?);
        let first = finish.lines.get(unpacked + 1).context("the function has printed nothing")?;
        let (fetched_s, unpacked_s) = (finish.lines[fetched].0, finish.lines[unpacked].0);
        self.download_s.push(fetched_s);
        self.unpack_s.push(unpacked_s - fetched_s);
        self.start_s.push(first.0 - unpacked_s);
        Ok(())
    }
}

/// Starts what the variant needs, and has all nodes begin.
fn race(cluster: &mut Cluster, variant: Variant, bytes: &mut u64) -> Result<(Vec<Finish>, Spent)> {
    let registry = cluster.lab.host(cluster::REGISTRY)?.at(cluster::REGISTRY_PORT);
    let image = cluster.lab.within(cluster::REGISTRY, || {
        cluster::image::Image::ask(registry, variant.repository(), cluster::TAG)
    })?;
    *bytes = image.bytes();
    if variant.tree {
        mirror::start_nodes(cluster)?;
    }
    let reference = format!("{}/{}:{}", mirror::NAME, variant.repository(), cluster::TAG);
    let mut race = Race::new()?;
    for node in cluster.nodes().to_vec() {
        if variant.tree {
            cluster.wait_for_status(&node, "control", STATE_MAX, |status| {
                status["control"]["connected"] == true
            })?;
        }
        let runtime = Containerd::start(cluster, &node)?;
        let server = cluster.registry_url()?;
        let host = match variant.tree {
            true => cluster.node_url(&node)?,
            // containerd wants one, even if it is the server itself.
            false => server.clone(),
        };
        runtime.set_hosts(cluster, mirror::NAME, &server, &host)?;
        let mut client: Command = race.waiting("sh")?;
        client.args(["-c", SCRIPT, "sh"]).args(runtime.places());
        client.args([&reference, &format!("{node}-container")]);
        race.enter(&mut cluster.lab, &node, client, true)?;
    }
    let watch = Watch::open(&cluster.lab)?;
    let finishes = race.run(Until::Exit, START_MAX, || cluster.all_alive())?;
    let spent = watch.close()?;
    if variant.tree {
        // Else a mirror that refused would look like one that is as fast as the registry.
        for node in cluster.nodes() {
            cluster.verify(node, &image)?;
        }
    }
    Ok((finishes, spent))
}

/// Ends every process but the registry, and removes what nodes have stored.
fn clear(cluster: &mut Cluster) -> Result<()> {
    let of = |node: &String| {
        [Containerd::root(&cluster.lab, node), Containerd::directory(&cluster.lab, node)]
    };
    let more: Vec<PathBuf> = cluster.nodes().iter().flat_map(of).collect();
    cluster.clear(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_split_at_what_was_said() {
        let line = |at: f64, text: &str| (at, text.to_owned());
        let mut lines = vec![line(1.0, FETCHED), line(3.0, UNPACKED)];
        let mut run = Run::new(Variant::ALL[0], "small", 1, "1gbit", 1);
        let silent = Finish { at_s: 4.0, lines: lines.clone() };
        assert!(run.split(&silent).unwrap_err().to_string().contains("nothing"));
        lines.extend([line(3.5, "handler ran"), line(9.0, "more")]);
        run.split(&Finish { at_s: 9.5, lines }).unwrap();
        assert_eq!((run.download_s[0], run.unpack_s[0], run.start_s[0]), (1.0, 2.0, 0.5));
    }
}
