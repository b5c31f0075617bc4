//! `bench pull`: what it costs a client to have a node between itself and the registry when nobody
//! else has the image: the same pull in all ways in every round, cold, and single requests.

pub mod clients;
pub mod first;
pub mod requests;
pub mod site;
pub mod table;

use crate::harness::Bench;
use crate::harness::machine::{Window, seconds};
use anyhow::{Context, Result, ensure};
use clap::Args;
use clients::Client;
use requests::{REPOSITORY, ROWS, Requests};
use site::{Site, Way};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Times that the single requests are made per round: they are short.
const REQUESTS_PER_ROUND: usize = 5;
/// What is compared is measured while others take less of the CPUs than this share …
const QUIET: f64 = 0.05;
/// … which is looked for in spans of this length …
const QUIET_SPAN: Duration = Duration::from_millis(500);
/// … or after this time.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(10);
/// Times that it is measured until it was not disturbed meanwhile.
const ATTEMPTS_MAX: u32 = 3;

/// Options of `bench pull`.
#[derive(Debug, Args)]
pub struct Options {
    /// Rounds, after one that is not counted
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// An image to pull, an OCI layout with a tag `latest`; may be repeated
    #[arg(long = "image", value_name = "NAME=DIR", value_parser = parse_image)]
    pub images: Vec<Image>,
    /// Shape the link between registry and node, as in 1gbit
    #[arg(long)]
    pub rate: Option<String>,
    /// Write the results to this file as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// An image in a layout.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    layout: PathBuf,
}

fn parse_image(text: &str) -> Result<Image> {
    let (name, layout) = text.split_once('=').context("an image is NAME=DIR")?;
    Ok(Image { name: name.to_owned(), layout: layout.into() })
}

/// What one pull took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    seconds: f64,
    /// CPU time of the client, the node and the registry.
    cpu_s: [f64; 3],
}

/// All samples of one thing that was pulled, by way.
#[derive(Debug)]
pub struct Row {
    what: String,
    /// Whether the aim is about it.
    aim: bool,
    samples: [Vec<Sample>; Way::ALL.len()],
}

impl Row {
    fn new(what: String, aim: bool) -> Self {
        Self { what, aim, samples: Default::default() }
    }
}

/// A pull that is repeated.
struct Pull<'a> {
    client: Client,
    image: &'a Image,
    /// The largest blob, which the node must have in the end.
    largest: String,
}

/// The digest of the largest blob in a layout.
fn largest(layout: &Path) -> Result<String> {
    let mut largest = (0, String::new());
    for entry in fs::read_dir(layout.join("blobs/sha256")).context("not an OCI layout")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        largest = largest.max((entry.metadata()?.len(), name));
    }
    Ok(format!("sha256:{}", largest.1))
}

/// The ways, another one first in every turn.
fn ways(turn: usize) -> impl Iterator<Item = (usize, Way)> {
    let count = Way::ALL.len();
    (0..count).map(move |step| (step + turn) % count).map(|index| (index, Way::ALL[index]))
}

impl Pull<'_> {
    fn once(&self, bench: &Bench, site: &Site, way: Way) -> Result<Sample> {
        bench.go_on()?;
        let node = site.start(bench, way)?;
        let before_ns = site.registry_cpu_ns()?;
        let took = self.client.pull(bench, site, way, &self.image.name)?;
        let registry_cpu_s = seconds(site.registry_cpu_ns()? - before_ns);
        let mut node_cpu_s = 0.0;
        if let Some(node) = node {
            node.has(&self.largest)?;
            node_cpu_s = seconds(node.cpu_ns()?);
            node.stop()?;
        }
        let cpu_s = [took.client_cpu_s, node_cpu_s, registry_cpu_s];
        Ok(Sample { seconds: took.seconds, cpu_s })
    }
}

fn request(bench: &Bench, site: &Site, requests: &Requests, way: Way) -> Result<[f64; ROWS.len()]> {
    bench.go_on()?;
    let node = site.start(bench, way)?;
    let times = requests.time(site, way)?;
    if let Some(node) = node {
        node.has(requests.large())?;
        node.stop()?;
    }
    Ok(times)
}

/// Waits until others leave the machine alone, but not for ever.
fn wait_for_quiet(bench: &Bench) -> Result<()> {
    let deadline = Instant::now() + QUIET_WAIT_MAX;
    while Instant::now() < deadline {
        bench.go_on()?;
        let window = Window::open()?;
        thread::sleep(QUIET_SPAN);
        if window.close()?.foreign < QUIET {
            break;
        }
    }
    Ok(())
}

/// Does something while others leave the machine alone: again where they did not, but not for ever.
/// What came of it, and which share of the CPUs they had.
fn undisturbed<T>(bench: &Bench, mut work: impl FnMut() -> Result<T>) -> Result<(T, f64)> {
    let mut attempt = 1;
    loop {
        wait_for_quiet(bench)?;
        let window = Window::open()?;
        let done = work()?;
        let foreign = window.close()?.foreign;
        if foreign <= QUIET || attempt == ATTEMPTS_MAX {
            return Ok((done, foreign));
        }
        attempt += 1;
    }
}

/// One pull in all ways.
fn pull(bench: &Bench, site: &Site, pull: &Pull<'_>, turn: usize) -> Result<Vec<(usize, Sample)>> {
    ways(turn).map(|(index, way)| Ok((index, pull.once(bench, site, way)?))).collect()
}

/// The single requests in all ways, some times: a row, a way, and what it took.
fn ask(
    bench: &Bench,
    site: &Site,
    requests: &Requests,
    turn: usize,
) -> Result<Vec<(usize, usize, Sample)>> {
    let mut samples = Vec::new();
    for time in 0..REQUESTS_PER_ROUND {
        for (index, way) in ways(turn + time) {
            let times = request(bench, site, requests, way)?;
            let sample = |seconds| Sample { seconds, ..Sample::default() };
            samples.extend(times.into_iter().enumerate().map(|(row, s)| (row, index, sample(s))));
        }
    }
    Ok(samples)
}

/// All rounds; the first is not kept. The rows, and which share of the CPUs others had each time.
fn rounds(
    bench: &Bench,
    site: &Site,
    pulls: &[Pull<'_>],
    requests: &Requests,
    rounds: u32,
) -> Result<(Vec<Row>, Vec<f64>)> {
    let name = |pull: &Pull<'_>| format!("{}, {}", pull.client.name(), pull.image.name);
    let mut pulled: Vec<Row> = pulls.iter().map(|pull| Row::new(name(pull), true)).collect();
    let mut asked: Vec<Row> = ROWS.iter().map(|what| Row::new((*what).into(), false)).collect();
    let mut disturbed = Vec::new();
    let mut turn = 0;
    for round in 0..=rounds {
        for (row, it) in pulled.iter_mut().zip(pulls) {
            turn += 1;
            if round == 0 {
                pull(bench, site, it, turn)?;
                continue;
            }
            let (samples, foreign) = undisturbed(bench, || pull(bench, site, it, turn))?;
            samples.into_iter().for_each(|(way, sample)| row.samples[way].push(sample));
            disturbed.push(foreign);
        }
        turn += 1;
        if round == 0 {
            ask(bench, site, requests, turn)?;
            continue;
        }
        let (samples, foreign) = undisturbed(bench, || ask(bench, site, requests, turn))?;
        samples.into_iter().for_each(|(row, way, it)| asked[row].samples[way].push(it));
        disturbed.push(foreign);
    }
    pulled.extend(asked);
    Ok((pulled, disturbed))
}

/// Measures, prints, and writes the JSON.
///
/// # Errors
/// A missing program, no privilege, or a client that fails.
pub fn run(bench: &Bench, options: &Options) -> Result<()> {
    let xylemd = bench.xylemd();
    ensure!(xylemd.exists(), "{} is not there: build it first", xylemd.display());
    ensure!(options.rounds > 0, "no rounds to measure");
    let first = first::measure(bench, options.rounds)?;
    let site = Site::new(bench, options.rate.as_deref())?;
    let layout = bench.path("requests");
    let requests = Requests::write(&layout)?;
    site.push(&layout, REPOSITORY)?;
    let mut pulls = Vec::new();
    for image in &options.images {
        site.push(&image.layout, &image.name)?;
        let largest = largest(&image.layout)?;
        for client in Client::ALL {
            pulls.push(Pull { client, image, largest: largest.clone() });
        }
    }
    let (rows, foreign) = rounds(bench, &site, &pulls, &requests, options.rounds)?;
    let results = table::results(&rows, &foreign, first, options)?;
    table::print(&results);
    let Some(path) = &options.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(&results)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
