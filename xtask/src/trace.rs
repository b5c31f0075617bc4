//! `cargo xtask trace`: what the kernel and the daemons did during a run: where the CPU time went,
//! what became of each io_uring operation, and the way of one unit through the nodes.

mod record;
mod rings;
mod script;
mod unit;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cluster::pull::Pull;
use crate::cluster::{self, Cluster, NODE_PORT, Origin, REGISTRY_PORT};
use crate::{build, image, run, setup, sys};
use record::Recording;

/// Nodes of the chain: a unit passes all of them.
const CHAIN: usize = 3;
/// Nodes of the trees.
const TREES: usize = 7;
/// The links' rate.
const RATE: &str = "1gbit";
/// How long the pulls may take.
const PULLS: Duration = Duration::from_secs(120);
/// Debian's packages for it.
const PACKAGES: &[&str] = &["iproute2", "linux-perf", "binutils"];

/// What to record.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// A chain of three nodes, each the next one's source [default]
    #[arg(long)]
    hop: bool,
    /// Seven nodes in control's trees, all at once
    #[arg(long, conflicts_with = "hop")]
    provision: bool,
    /// Where to write [default: trace in the target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Records a run and writes what it shows. Needs root.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(sys::is_root(), "tracing needs root");
    setup::debian_packages(PACKAGES)?;
    let programs = build::all(true)?;
    let out = match &options.out {
        Some(out) => out.clone(),
        None => run::target_dir()?.join("trace"),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let nodes = if options.provision { TREES } else { CHAIN };
    let mut cluster = Cluster::new(&programs, nodes, Some(RATE), Origin::Embedded)?;
    cluster.layout = image::cached(image::default_size())?;
    if options.provision {
        cluster.start()?;
    } else {
        start_chain(&mut cluster)?;
    }
    let names = cluster.nodes().to_vec();
    let mut pids = BTreeMap::new();
    for name in &names {
        pids.insert(cluster.lab.process(name)?.pid(), name.clone());
    }
    let recording = Recording::start(&programs.xylemd, &out)?;
    let pulled = if options.provision {
        let pulls = names.iter().map(|name| cluster.pull(name)).collect::<Result<Vec<_>>>();
        pulls
            .and_then(|pulls| pulls.into_iter().try_for_each(|mut pull| pull.wait(PULLS).map(drop)))
    } else {
        pull_chain(&mut cluster).map(drop)
    };
    let data = recording.stop()?;
    pulled?;
    drop(cluster);

    let samples = script::samples(&data)?;
    let flame = out.join("flame.svg");
    script::flame_graph(&samples, &pids, &flame)?;
    let events = script::events(&data, &pids)?;
    let (rings, unit) = (rings::table(&events), unit::timeline(&events)?);
    print!("{rings}\n{unit}");
    fs::write(out.join("rings.txt"), rings)?;
    fs::write(out.join("unit.txt"), unit)?;
    println!("\nwritten to {}: flame.svg, rings.txt, unit.txt, perf.data", out.display());
    Ok(())
}

/// Where node number `index` of the chain reads.
fn source(cluster: &Cluster, index: usize) -> Result<String> {
    let nodes = cluster.nodes();
    Ok(match index.checked_sub(1) {
        None => cluster.lab.host(cluster::REGISTRY)?.at(REGISTRY_PORT).to_string(),
        Some(before) => cluster.lab.host(&nodes[before])?.at(NODE_PORT).to_string(),
    })
}

fn start_chain(cluster: &mut Cluster) -> Result<()> {
    cluster.start_registry()?;
    for (index, node) in cluster.nodes().to_vec().into_iter().enumerate() {
        let address = cluster.lab.host(&node)?.at(NODE_PORT).to_string();
        let mut xylemd = Command::new(&cluster.programs.xylemd);
        xylemd.args(["--node", &node, "--listen", &address, "--probes", "off"]);
        xylemd.args(["--upstream", &format!("http://{}", source(cluster, index)?)]);
        xylemd.arg("--store").arg(cluster.store(&node));
        cluster.lab.start(&node, &node, xylemd)?;
        cluster.lab.process(&node)?.wait_for_words(" listening on ")?;
    }
    Ok(())
}

/// The last one pulls, and so all do.
fn pull_chain(cluster: &mut Cluster) -> Result<cluster::pull::Done> {
    let index = CHAIN - 1;
    let node = cluster.nodes()[index].clone();
    let url = cluster.node_url(&node)?;
    let reference = format!("{}/{}:{}", source(cluster, index)?, cluster::REPOSITORY, cluster::TAG);
    let mut xylem = Command::new(&cluster.programs.xylem);
    xylem.args(["--node-url", &url, "pull", &reference, "--json"]);
    Pull::start(&mut cluster.lab, &node, xylem)?.wait(PULLS)
}
