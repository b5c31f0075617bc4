//! `cargo xtask bench provision`: the same data to many nodes at once, by us and by what a user
//! would take instead, in the same rounds over the same shaped links.

mod blob;
mod shape;
mod site;
mod start;
mod table;
mod variant;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use serde::{Deserialize, Serialize};

use super::outcome::{FAILURES_MAX, Outcome};
use super::report::{Common, Report};
use super::watch::{Spent, Watch};
use super::{image_layout, provision_programs};
use crate::lab::HOSTS_MAX;
use crate::{cluster, run, setup, sys};
use site::{Site, Tools};
use variant::{Variant, Workload};

const NODES_MAX: u64 = HOSTS_MAX as u64 - 2;
const SIZE: &str = "512MiB";
const QUICK_SIZE: &str = "32MiB";
/// Of each image, where there are many.
const SIZE_OF_MANY: &str = "16MiB";
/// A client for each on each node.
const IMAGES_MAX: u64 = 64;
const IMAGE: &str = "big";
const QUICK_IMAGE: &str = "small";
/// How long a node may take to reach control.
const STATE_MAX: Duration = Duration::from_secs(30);
/// Beside what the links allow: how long a run may take.
const SLACK: Duration = Duration::from_secs(60);
/// How many times the slowest way there is, one copy after the other from the registry.
const SLOWEST: f64 = 3.0;
/// The one release of libtorrent that is compared.
const LIBTORRENT: &str = "libtorrent==2.1.1";
/// The file with the lines.
const LINES: &str = "provision.jsonl";

/// What is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// One blob of random data
    Blob,
    /// An image of several layers
    Image,
    /// One after the other
    Both,
}

/// What to compare.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// How many nodes
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    nodes: u64,
    /// The rate of every link, both ways, as `tc` writes it
    #[arg(long, default_value = "1gbit")]
    rate: String,
    /// The size of the blob: a number with MiB [default: 512MiB, quick: 32MiB]
    #[arg(long, value_parser = parse_mib)]
    size: Option<u64>,
    /// tiny, small, big, default, or an OCI layout [default: big, quick: small]
    #[arg(long)]
    image: Option<String>,
    /// What to bring
    #[arg(long, value_enum, default_value = "both")]
    what: What,
    /// Bring so many images at once instead, each of one layer of `--size` [default: 16MiB]
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["what", "image"],
          value_parser = clap::value_parser!(u64).range(1..=IMAGES_MAX))]
    images: Option<u64>,
    /// Only variants whose names begin so, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// One run of one variant: a line of the raw results.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Run {
    workload: String,
    variant: String,
    nodes: usize,
    rate: String,
    bytes: u64,
    round: u32,
    /// What one flow got on the idle link in this round.
    goodput_bytes_s: f64,
    /// `bytes` over that.
    limit_s: f64,
    /// When each node was done.
    seconds: Vec<f64>,
    /// When each node had its first 64 KiB.
    first_s: Vec<f64>,
    nodes_sent_bytes: Vec<u64>,
    /// Most memory of any node.
    memory_bytes: u64,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Runs it all, and writes the report also of what did not fail.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(sys::is_root(), "the lab of this bench needs root: namespaces and shaped links");
    let variants = variant::choose(&args.only);
    ensure!(!variants.is_empty(), "no variant is called so: {}", args.only.join(", "));
    let (tools, versions) = install(&variants)?;
    let report = Report::open(&args.common)?;
    report.write_machine(&versions)?;
    let workloads = match (args.images, args.what) {
        (Some(number), _) => vec![Workload::Images(number)],
        (None, What::Blob) => vec![Workload::Blob],
        (None, What::Image) => vec![Workload::Image],
        (None, What::Both) => vec![Workload::Blob, Workload::Image],
    };
    let mut failed = Vec::new();
    for workload in workloads {
        let variants: Vec<Variant> =
            variants.iter().copied().filter(|it| it.can(workload)).collect();
        if variants.is_empty() {
            continue;
        }
        let runs = measure(args, &tools, workload, &variants)?;
        let broken = runs.iter().filter(|run| run.outcome.has_failed());
        failed.extend(broken.map(|run| run.variant.clone()));
        // Of the same experiment the last run counts; other numbers of nodes stay.
        let same = |old: &Run| {
            let new = runs.iter().any(|run| run.variant == old.variant);
            let setting =
                runs.first().is_some_and(|run| table::setting(run) == table::setting(old));
            new && setting
        };
        let all = report.add(LINES, &runs, same)?;
        for (file, picture) in table::pictures(&all) {
            report.write(&file, &picture)?;
        }
        report.publish("provision", "The same data to many nodes at once", &table::page(&all))?;
    }
    println!("{}", report.directory().join("provision.md").display());
    if !failed.is_empty() {
        bail!("{} runs failed: {}", failed.len(), failed.join("; "));
    }
    Ok(())
}

/// Builds ours, installs the rest; and the versions of what is not asked for it elsewhere.
fn install(variants: &[Variant]) -> Result<(Tools, Vec<(String, String)>)> {
    let mut packages = vec!["iproute2", "docker-registry", "skopeo"];
    packages.extend(variants.iter().flat_map(|variant| variant.packages()));
    packages.sort_unstable();
    packages.dedup();
    setup::debian_packages(&packages)?;
    let (programs, forward) = provision_programs()?;
    let mut tools = Tools { programs, forward, python: None };
    let mut versions = Vec::new();
    if variants.iter().any(|variant| matches!(variant, Variant::Torrent { .. })) {
        let venv = run::target_dir()?.join("bench-python");
        tools.python = Some(setup::python_with(&venv, &[LIBTORRENT])?);
        versions.push(("libtorrent".to_owned(), LIBTORRENT.to_owned()));
    }
    Ok((tools, versions))
}

/// All rounds of one workload.
fn measure(
    args: &Args,
    tools: &Tools,
    workload: Workload,
    variants: &[Variant],
) -> Result<Vec<Run>> {
    let quick = args.common.quick;
    let size = match (workload, quick) {
        (Workload::Images(_), _) => SIZE_OF_MANY,
        (_, true) => QUICK_SIZE,
        (_, false) => SIZE,
    };
    let size = args.size.map_or_else(|| parse_mib(size), Ok)?;
    let image = args.image.as_deref().unwrap_or(if quick { QUICK_IMAGE } else { IMAGE });
    let layout = |disk: &Path| -> Result<Vec<PathBuf>> {
        let number = match workload {
            Workload::Image => return Ok(vec![image_layout(image)?]),
            Workload::Blob => 1,
            Workload::Images(number) => number,
        };
        let build = |number| {
            let out = disk.join(format!("layout-{number}"));
            blob::build(&out, size, number)?;
            Ok(out)
        };
        (0..number).map(build).collect()
    };
    let nodes = usize::try_from(args.nodes)?;
    let mut site = Site::new(tools, workload, &layout, nodes, &args.rate)?;
    eprintln!("{}: {} bytes to {nodes} nodes, {}", workload.name(), site.bytes(), args.rate);
    let (rounds, tries) = args.common.rounds();
    let mut runs = Vec::new();
    let rounds = usize::try_from(rounds)?;
    let mut kept: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    for round in 1..=tries {
        let is_open = |variant: &&Variant| {
            let of = |counts: &BTreeMap<String, usize>| counts.get(&variant.name()).copied();
            of(&kept).unwrap_or(0) < rounds && of(&failures).unwrap_or(0) < FAILURES_MAX
        };
        let mut open: Vec<Variant> = variants.iter().filter(is_open).copied().collect();
        if open.is_empty() {
            break;
        }
        // Nobody is always the one after the heaviest.
        let first = usize::try_from(round)? % open.len();
        open.rotate_left(first);
        let goodput_bytes_s = site.goodput()?;
        for variant in open {
            let run = one(&mut site, args, variant, round, goodput_bytes_s)?;
            show(&run);
            if run.outcome.is_kept() {
                *kept.entry(run.variant.clone()).or_default() += 1;
            } else if run.outcome.has_failed() {
                *failures.entry(run.variant.clone()).or_default() += 1;
            }
            runs.push(run);
        }
    }
    Ok(runs)
}

/// One run of one variant, from nothing to nothing. What fails is part of the results; only an
/// interruption, and a lab that cannot be cleared, end the bench.
fn one(
    site: &mut Site,
    args: &Args,
    variant: Variant,
    round: u32,
    goodput_bytes_s: f64,
) -> Result<Run> {
    #[expect(clippy::cast_precision_loss, reason = "a time to milliseconds")]
    let limit_s = site.bytes() as f64 / goodput_bytes_s;
    let mut run = Run {
        workload: site.workload.name(),
        variant: variant.name(),
        nodes: site.nodes().len(),
        rate: args.rate.clone(),
        bytes: site.bytes(),
        round,
        goodput_bytes_s,
        limit_s,
        seconds: Vec::new(),
        first_s: Vec::new(),
        nodes_sent_bytes: Vec::new(),
        memory_bytes: 0,
        outcome: Outcome::default(),
    };
    let outcome = race(site, variant, limit_s);
    let story = if outcome.is_err() { site.cluster.lab.story() } else { String::new() };
    site.clear()?;
    match outcome {
        Ok((seconds, spent)) => {
            run.seconds = seconds;
            run.fill(&spent);
            run.outcome = Outcome::of(&spent, &args.common);
        }
        Err(error) => {
            run::go_on()?;
            eprintln!("{}: {error:#}\n{story}", run.variant);
            run.outcome = Outcome::failed(&error);
        }
    }
    Ok(run)
}

impl Run {
    /// Takes over what the watch has seen. The first hosts are the registry and control.
    fn fill(&mut self, spent: &Spent) {
        let nodes = [cluster::REGISTRY, cluster::CONTROL].len();
        self.nodes_sent_bytes = spent.passed[nodes..].iter().map(|it| it.sent_bytes).collect();
        self.first_s = spent.first_s[nodes..].iter().flatten().copied().collect();
        self.memory_bytes = spent.memory_bytes[nodes..].iter().copied().max().unwrap_or(0);
    }
}

/// Starts a variant, lets it run, and checks what the nodes have then.
fn race(site: &mut Site, variant: Variant, limit_s: f64) -> Result<(Vec<f64>, Spent)> {
    let (mut race, until) = start::prepare(site, variant)?;
    #[expect(clippy::cast_precision_loss, reason = "a bound")]
    let slowest = limit_s * site.nodes().len() as f64 * SLOWEST;
    let bound = SLACK + Duration::from_secs_f64(slowest);
    let watch = Watch::open(&site.cluster.lab)?;
    let finishes = race.run(until, bound, || site.cluster.all_alive())?;
    let spent = watch.close()?;
    start::verify(site, variant).context("the clock has stopped, but the data is not there")?;
    Ok((finishes.iter().map(|finish| finish.at_s).collect(), spent))
}

/// One line for whoever waits.
fn show(run: &Run) {
    let slowest = run.seconds.iter().copied().fold(0.0, f64::max);
    let verdict = run.outcome.dropped.as_deref().unwrap_or("");
    eprintln!(
        "round {} {:16} {:7.2} s {:6.2} x S/B  CPU {:3.0} %  {verdict}",
        run.round,
        run.variant,
        slowest,
        slowest / run.limit_s,
        run.outcome.cpu_share * 100.0,
    );
}

fn parse_mib(text: &str) -> Result<u64> {
    let mib = text.strip_suffix("MiB").and_then(|mib| mib.parse::<u64>().ok());
    let mib = mib.filter(|mib| (1..=64 << 10).contains(mib));
    Ok(mib.context("a size is a number with MiB, as in 512MiB")? << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_mebibytes() {
        assert_eq!(parse_mib("32MiB").unwrap(), 32 << 20);
        for bad in ["0MiB", "32", "MiB", "32MB", "99999999MiB"] {
            assert!(parse_mib(bad).is_err(), "{bad}");
        }
    }
}
