//! `cargo xtask demo`: from a clone to an image on every node, with the figures; measures no rival.

mod progress;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::Binaries;
use crate::cluster::pull::{Done, Pull};
use crate::cluster::{self, Cluster, Origin};
use crate::lab::{HOSTS_MAX, measure};
use crate::{build, image, run, setup, sys};
use progress::Progress;
use report::{Node, Report};

/// How long the nodes may take: hundreds of megabytes over a slow link, and then some.
const PULLS: Duration = Duration::from_secs(1800);
/// How long the last hop reports may take to reach control.
const REPORTS: Duration = Duration::from_secs(15);
/// Registry and control have a host each.
const NODES_MAX: u64 = HOSTS_MAX as u64 - 2;

/// What nodes get for slots: several layers at once, in two stripes each, leave the 8 MiB that are
/// their default with one slot for each.
const MEMORY: &str = "32MiB";

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    nodes: u64,
    /// The rate of every link, both ways, as `tc` writes it
    #[arg(long, default_value = "1gbit")]
    rate: String,
    /// A node whose uplink has another rate, as `n3=20mbit`; as often as there are such nodes
    #[arg(long, value_name = "NODE=RATE", value_parser = slow)]
    slow: Vec<Slow>,
    /// The shape of the trees: `twin` or `ft`; else control's default
    #[arg(long, value_parser = ["twin", "ft"])]
    shape: Option<String>,
    /// Memory of each node for slots [default: 32MiB; without root the node's default]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// An OCI image layout (DIR or DIR:TAG) or a registry reference; else files of this machine
    #[arg(long)]
    image: Option<String>,
    /// Write the figures to this file as well, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the lab running, and print how to look into it
    #[arg(long)]
    keep: bool,
}

/// A node with an uplink of its own rate.
#[derive(Clone, Debug)]
struct Slow {
    node: String,
    rate: String,
}

fn slow(text: &str) -> Result<Slow, String> {
    let (node, rate) = text.split_once('=').ok_or("a node and a rate, as `n3=20mbit`")?;
    Ok(Slow { node: node.to_owned(), rate: rate.to_owned() })
}

/// Runs the demo. Fails unless every node has every byte.
pub(crate) fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let step = |what: &str| eprintln!("[{:6.1} s] {what}", start.elapsed().as_secs_f64());
    let privileged = sys::is_root();
    if privileged {
        step("set-up: packages and tools that are missing are named as they are installed");
        setup::for_demo()?;
    } else {
        step("not root: loopback instead of namespaces, links unshaped, hop figures from TCP_INFO");
    }
    let origin = cluster::choose_origin();
    if let Some(image) = &options.image {
        can_be_had(image)?;
    }
    step("building everything in release");
    let programs = build::all(true)?;
    bring(&programs, origin, options, &step)
}

/// An image to few nodes of a small lab, with programs that are built: for a test.
pub(crate) fn try_out(programs: &Binaries, origin: Origin, image: &str, json: &Path) -> Result<()> {
    let options = Options {
        nodes: 2,
        rate: "1gbit".to_owned(),
        slow: Vec::new(),
        shape: None,
        memory: None,
        image: Some(image.to_owned()),
        json: Some(json.to_path_buf()),
        keep: false,
    };
    can_be_had(image)?;
    bring(programs, origin, &options, &|_| ())
}

/// Makes the lab and all that happens in it; a failure shows the logs.
fn bring(
    programs: &Binaries,
    origin: Origin,
    options: &Options,
    step: &dyn Fn(&str),
) -> Result<()> {
    step(&format!("a lab of {} nodes, the registry and control", options.nodes));
    let privileged = sys::is_root();
    let rate = privileged.then_some(options.rate.as_str());
    let nodes = usize::try_from(options.nodes)?;
    let mut cluster = Cluster::new(programs, nodes, rate, origin)?;
    cluster.shape.clone_from(&options.shape);
    cluster.memory = options.memory.clone().or(privileged.then(|| MEMORY.to_owned()));
    for Slow { node, rate } in &options.slow {
        ensure!(cluster.nodes().contains(node), "there is no node {node}");
        cluster.lab.shape_uplink(node, rate)?;
    }
    step("the image");
    cluster.layout = layout(options.image.as_deref(), cluster.lab.disk())?;
    let shown = show(&mut cluster, options, step);
    if let Err(error) = shown {
        // The logs go with the lab: what they say last has to be said now.
        if run::go_on().is_ok() {
            eprint!("the logs end with\n{}", cluster.lab.story());
        }
        return Err(error);
    }
    if options.keep {
        keep(&mut cluster)?;
    }
    Ok(())
}

/// Everything that happens in the lab.
fn show(cluster: &mut Cluster, options: &Options, step: &dyn Fn(&str)) -> Result<()> {
    let (from, to) = (cluster::REGISTRY, cluster.nodes()[0].clone());
    let is_slow = |name: &str| options.slow.iter().any(|slow| slow.node == name);
    step("what one plain TCP flow gets on an idle link");
    let goodput_bytes_s = measure::goodput(&cluster.lab, from, &to)?;
    step("registry, control and nodes");
    cluster.start()?;
    let image = cluster.image()?;
    let names = cluster.nodes().to_vec();
    step(&format!("{:.1} MB to {} nodes at once", image.bytes() as f64 / 1e6, names.len()));
    let before = Spent::now(cluster)?;
    let done = pull_everywhere(cluster, &names)?;
    let after = Spent::now(cluster)?;
    let found = cluster.slow_uplinks()?;
    step("the clock has stopped: every file of every store against its SHA-256");
    let verified = run::with_each(&names, |name| cluster.verify(name, &image));
    let hops = cluster.settled_hops(&image, REPORTS)?;
    let nodes = names.iter().zip(&done).zip(&verified).map(|((name, done), verified)| Node {
        name: name.clone(),
        verified: verified.is_ok() && done.image == image.digest,
        seconds: done.seconds,
    });
    let others = done.iter().zip(&names).filter(|(_, name)| !is_slow(name));
    let report = Report::new(report::Figures {
        nodes: nodes.collect(),
        makespan_s: makespan_s(&done),
        others_s: (!options.slow.is_empty()).then(|| makespan_s(others.map(|(done, _)| done))),
        slow_found: found,
        processors: thread::available_parallelism().map_or(1, usize::from),
        goodput_bytes_s,
        image_bytes: image.bytes(),
        nodes_cpu_s: after.nodes_cpu_s - before.nodes_cpu_s,
        machine_cpu_s: after.machine_cpu_s - before.machine_cpu_s,
        origin_wire_bytes: after.wire_bytes.zip(before.wire_bytes).map(|(now, then)| now - then),
        hops,
        origin: match cluster.origin {
            Origin::DockerRegistry => "docker-registry",
            Origin::Embedded => "xylemd",
        },
        rate: cluster.lab.is_isolated().then(|| options.rate.clone()),
        image: image.digest.clone(),
    });
    report.print(&cluster.ask_control("trees")?);
    if let Some(file) = &options.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for outcome in verified {
        outcome?;
    }
    ensure!(report.all_verified(), "a node has another image than the registry");
    Ok(())
}

/// What has been spent so far.
struct Spent {
    nodes_cpu_s: f64,
    machine_cpu_s: f64,
    wire_bytes: Option<u64>,
}

impl Spent {
    fn now(cluster: &mut Cluster) -> Result<Self> {
        let mut nodes_cpu_s = 0.0;
        for node in cluster.nodes().to_vec() {
            nodes_cpu_s += measure::process_cpu_s(cluster.lab.process(&node)?.pid())?;
        }
        let wire_bytes = measure::wire_bytes_sent(&cluster.lab, cluster::REGISTRY)?;
        Ok(Self { nodes_cpu_s, machine_cpu_s: measure::machine_cpu_s()?, wire_bytes })
    }
}

fn pull_everywhere(cluster: &mut Cluster, names: &[String]) -> Result<Vec<Done>> {
    let mut pulls = Vec::new();
    for name in names {
        pulls.push(cluster.pull(name)?);
    }
    let mut progress = Progress::new(names);
    let mut outcomes: Vec<Option<Done>> = vec![None; pulls.len()];
    run::wait_for("the image on every node", PULLS, || {
        for (pull, outcome) in pulls.iter_mut().zip(&mut outcomes) {
            if outcome.is_none() {
                *outcome = pull.outcome()?;
            }
        }
        let states: Vec<(u64, u64)> = pulls.iter().map(Pull::progress).collect();
        progress.show(&states);
        cluster.all_alive()?;
        Ok(outcomes.iter().all(Option::is_some).then_some(()))
    })?;
    Ok(outcomes.into_iter().flatten().collect())
}

/// From the first node's start to the last node's end, all by one clock.
fn makespan_s<'a>(done: impl IntoIterator<Item = &'a Done>) -> f64 {
    let span =
        |(start, end): (u64, u64), done: &Done| (start.min(done.start_ns), end.max(done.end_ns));
    let (start, end) = done.into_iter().fold((u64::MAX, 0), span);
    Duration::from_nanos(end.saturating_sub(start)).as_secs_f64()
}

/// Whether a reference names a registry of this machine.
fn is_local(image: &str) -> bool {
    let host = image.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with("127.") || name == "[::1]"
}

/// Fails where an image cannot be had, whatever it is, before much has been done for it.
fn can_be_had(image: &str) -> Result<()> {
    let path = Path::new(image);
    if cluster::layout::split(path).is_some() {
        return Ok(());
    }
    ensure!(!path.exists(), "{image} is no OCI image layout: there is no file oci-layout in it");
    ensure!(
        run::has("skopeo"),
        "{image} is no OCI image layout, and without skopeo none is fetched"
    );
    Ok(())
}

/// The image to bring, as a layout: `skopeo` understands it with and without a tag.
fn layout(image: Option<&str>, disk: &Path) -> Result<PathBuf> {
    let Some(image) = image else { return image::cached(image::default_size()) };
    if cluster::layout::split(Path::new(image)).is_some() {
        return Ok(PathBuf::from(image));
    }
    let copy = disk.join("image");
    let fetch = |more: &[&str]| {
        let mut skopeo = run::command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet"]).args(more);
        if is_local(image) {
            // As container runtimes have it: no TLS is asked of this machine's own registries.
            skopeo.arg("--src-tls-verify=false");
        }
        skopeo.args([&format!("docker://{image}"), &format!("oci:{}:latest", copy.display())]);
        run::output(&mut skopeo)
    };
    // Else it packs layers as it likes, and another image is brought than the one that was named.
    if let Err(error) = fetch(&["--preserve-digests"]) {
        run::go_on()?;
        fetch(&[])
            .with_context(|| format!("{image} is no OCI image layout and cannot be pulled"))?;
        eprintln!("{image} is brought with other digests, as an OCI image: {error:#}");
    }
    Ok(copy)
}

fn keep(cluster: &mut Cluster) -> Result<()> {
    let lab = &cluster.lab;
    let node = &cluster.nodes()[0];
    let host = lab.host(node)?;
    let enter = |netns: &Option<String>| {
        netns.as_ref().map_or(String::new(), |it| format!("nsenter --net=/run/netns/{it} "))
    };
    let control = lab.host(cluster::CONTROL)?;
    let xylem = cluster.programs.xylem.display();
    println!("\nThe lab is left running. Look into it:");
    println!(
        "  {}curl -s http://{}/xylem/v1/status",
        enter(&host.netns),
        host.at(cluster::NODE_PORT)
    );
    println!(
        "  {}{xylem} --control http://{} hops",
        enter(&control.netns),
        control.at(cluster::CONTROL_PORT)
    );
    println!("  logs: {}    stores: {}", lab.directory().display(), lab.disk().display());
    println!("Remove it:\n  cargo xtask clean");
    cluster.lab.keep()
}
