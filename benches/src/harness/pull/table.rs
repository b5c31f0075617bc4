//! The results of `bench pull` as a table for people and as JSON; all ratios are of samples of the
//! same round, and their median is not the ratio of medians.

use crate::harness::pull::first::FirstByte;
use crate::harness::pull::site::Way;
use crate::harness::pull::{Options, Row, Sample};
use crate::harness::stats::Spread;
use crate::harness::table::surroundings;
use anyhow::{Context, Result};
use serde::Serialize;

/// Time of a client's pull through a node, over the same without: the aim.
const RATIO_MAX: f64 = 1.05;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    rounds: u32,
    rate: Option<String>,
    /// Which share of the CPUs others had while something was compared.
    foreign: Spread,
    first_byte: FirstByte,
    rows: Vec<Line>,
    aims: Vec<Aim>,
}

#[derive(Debug, Serialize)]
struct Line {
    what: String,
    way: &'static str,
    ms: Spread,
    /// Over direct.
    ratio: Spread,
    /// Median CPU time of the client, the node and the registry; of pulls only.
    cpu_ms: Option<[f64; 3]>,
}

#[derive(Debug, Serialize)]
struct Aim {
    what: String,
    ratio: f64,
    limit: f64,
    met: bool,
}

fn spread(samples: &[Sample], pick: impl Fn(&Sample) -> f64) -> Result<Spread> {
    Spread::of(samples.iter().map(pick)).context("nothing was measured")
}

fn ratio(of: &[Sample], over: &[Sample]) -> Result<Spread> {
    let ratios = of.iter().zip(over).map(|(of, over)| of.seconds / over.seconds);
    Spread::of(ratios).context("nothing was measured")
}

fn line(row: &Row, index: usize) -> Result<Line> {
    let samples = &row.samples[index];
    let cpu =
        |who: usize| Ok::<_, anyhow::Error>(spread(samples, |it| it.cpu_s[who] * 1e3)?.median);
    Ok(Line {
        what: row.what.clone(),
        way: Way::ALL[index].name(),
        ms: spread(samples, |it| it.seconds * 1e3)?,
        ratio: ratio(samples, &row.samples[0])?,
        cpu_ms: if row.aim { Some([cpu(0)?, cpu(1)?, cpu(2)?]) } else { None },
    })
}

/// Through a node against without, and with control against a node alone.
fn aims(row: &Row) -> Result<Vec<Aim>> {
    let [direct, node, control, stalled] = &row.samples;
    let compare = [
        ("a node, over direct", node, direct),
        ("a node with control, over direct", control, direct),
        ("a node with control, over a node without", control, node),
        ("a node with control stalled, over a node without", stalled, node),
    ];
    let aim = |(what, of, over): (&str, &Vec<Sample>, &Vec<Sample>)| {
        let ratio = ratio(of, over)?.median;
        let what = format!("{}: {what}", row.what);
        Ok(Aim { what, ratio, limit: RATIO_MAX, met: ratio <= RATIO_MAX })
    };
    compare.into_iter().map(aim).collect()
}

/// Sums samples up.
///
/// # Errors
/// Nothing was measured.
pub fn results(
    rows: &[Row],
    foreign: &[f64],
    first_byte: FirstByte,
    options: &Options,
) -> Result<Results> {
    let mut lines = Vec::new();
    for row in rows {
        for index in 0..Way::ALL.len() {
            lines.push(line(row, index)?);
        }
    }
    let aims = rows.iter().filter(|row| row.aim).map(aims).collect::<Result<Vec<_>>>()?;
    Ok(Results {
        rounds: options.rounds,
        rate: options.rate.clone(),
        foreign: Spread::of(foreign.iter().copied()).context("no rounds")?,
        first_byte,
        rows: lines,
        aims: aims.into_iter().flatten().collect(),
    })
}

fn range(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} ({min:.decimals$}-{max:.decimals$})")
}

/// Prints the table and how the aims stand.
pub fn print(results: &Results) {
    let link = results.rate.as_ref().map_or("not shaped".to_owned(), |rate| format!("of {rate}"));
    println!("one node, cold, on the client's machine; its link to the registry {link}");
    let foreign = Spread {
        median: results.foreign.median * 100.0,
        min: results.foreign.min * 100.0,
        max: results.foreign.max * 100.0,
    };
    println!(
        "{} rounds; median (min-max); other processes had {} % of the CPUs",
        results.rounds,
        range(foreign, 1)
    );
    println!("{}\n", surroundings());
    println!(
        "{:<32} {:<22} {:>22} {:>18}   CPU ms: client/node/registry",
        "", "way", "ms", "/direct"
    );
    for line in &results.rows {
        let first = line.way == Way::Direct.name();
        let what = if first { line.what.as_str() } else { "" };
        let decimals = if line.ms.median < 100.0 { 2 } else { 0 };
        let ratio = if first { String::new() } else { range(line.ratio, 2) };
        let cpu = line
            .cpu_ms
            .map(|[client, node, registry]| format!("{client:>6.0} {node:>5.0} {registry:>5.0}"));
        println!(
            "{what:<32} {:<22} {:>22} {ratio:>18}   {}",
            line.way,
            range(line.ms, decimals),
            cpu.unwrap_or_default()
        );
    }
    print_first(&results.first_byte);
    for aim in &results.aims {
        let verdict = if aim.met { "met" } else { "NOT met" };
        println!("{verdict:<8} {}: {:.3}, limit {:.2}", aim.what, aim.ratio, aim.limit);
    }
}

fn print_first(first: &FirstByte) {
    println!("\nfirst byte of a cold blob of 64 MiB on a link of 1gbit, ms:");
    println!("{:<46} {:>20} {:>20}", "", "direct", "node");
    for (what, [direct, node]) in [
        ("request, until the upstream has read it", first.request_ms),
        ("answer, from upstream's first byte to reader's", first.answer_ms),
    ] {
        println!("{what:<46} {:>20} {:>20}", range(direct, 2), range(node, 2));
    }
    println!("the reader has it {:.2} ms after the node\n", first.added_ms);
}
