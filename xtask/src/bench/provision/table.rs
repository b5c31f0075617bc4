//! The page and the pictures of `bench provision`, made of the raw lines alone.

use std::collections::BTreeMap;

use super::Run;
use crate::bench::outcome::dropped_cell;
use crate::bench::plot::{self, Bar};
use crate::bench::report::{self, BUSY_SHARE};
use crate::bench::stats::{Spread, percentile};

const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

/// What has to be the same for two runs to be compared.
pub(super) fn setting(run: &Run) -> (String, usize, String, u64) {
    (run.workload.clone(), run.nodes, run.rate.clone(), run.bytes)
}

/// All that is known of one variant in one setting.
#[derive(Debug)]
struct Row<'a> {
    variant: &'a str,
    kept: Vec<&'a Run>,
    disturbed: usize,
    failed: usize,
}

impl Row<'_> {
    fn of(&self, value: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.kept.iter().map(|run| value(run)))
    }

    fn ratio(&self) -> Option<Spread> {
        self.of(ratio)
    }

    fn is_limited_by_cpu(&self) -> bool {
        self.of(|run| run.outcome.cpu_share).is_some_and(|share| share.median >= BUSY_SHARE)
    }
}

fn slowest_s(run: &Run) -> f64 {
    run.seconds.iter().copied().fold(0.0, f64::max)
}

fn ratio(run: &Run) -> f64 {
    slowest_s(run) / run.limit_s
}

#[expect(clippy::cast_precision_loss, reason = "ratios to three digits")]
fn part_of(bytes: u64, run: &Run) -> f64 {
    bytes as f64 / run.bytes as f64
}

/// CPU-seconds of the whole machine for each GiB that each node got.
#[expect(clippy::cast_precision_loss, reason = "ratios to three digits")]
fn cpu_s_per_gib(run: &Run) -> f64 {
    run.outcome.machine_cpu_s / (run.bytes as f64 / GIB * run.nodes as f64)
}

/// The rows of each setting, the fastest first.
fn settings<'a>(runs: &'a [Run]) -> Vec<Vec<Row<'a>>> {
    let mut settings: BTreeMap<_, BTreeMap<&str, Vec<&Run>>> = BTreeMap::new();
    for run in runs {
        let of = settings.entry(setting(run)).or_default();
        of.entry(&run.variant).or_default().push(run);
    }
    let rows = settings.into_values().map(|variants| {
        let row = |(variant, runs): (&'a str, Vec<&'a Run>)| {
            let all = runs.len();
            let failed = runs.iter().filter(|run| run.outcome.has_failed()).count();
            let kept: Vec<_> = runs.into_iter().filter(|run| run.outcome.is_kept()).collect();
            let disturbed = all - failed - kept.len();
            Row { variant, kept, disturbed, failed }
        };
        let mut rows: Vec<Row> = variants.into_iter().map(row).collect();
        let median = |row: &Row| row.ratio().map_or(f64::INFINITY, |ratio| ratio.median);
        rows.sort_by(|a, b| median(a).total_cmp(&median(b)));
        rows
    });
    rows.collect()
}

/// A run of a setting, for what all of them share.
fn any<'a>(rows: &[Row<'a>], runs: &'a [Run]) -> Option<&'a Run> {
    let variant = rows.first()?.variant;
    let kept = rows.iter().find_map(|row| row.kept.first().copied());
    kept.or_else(|| runs.iter().find(|run| run.variant == variant))
}

fn name(run: &Run) -> String {
    format!("{}-{}-{}", run.workload, run.nodes, run.rate)
}

/// What the page says before its tables.
const HEAD: &str = "\
Every node ends with all of the data, its SHA-256 checked after the clock has stopped. All begin at
one moment. `× S/B` is the slowest node over the time that one flow on the idle link of the same
round takes for one copy; origin, busiest and idlest are bytes on the link over the data's size;
CPU is that of the whole machine, in seconds for each GiB and node; `first` is when the slowest node
had its first 64 KiB; memory is that of the node with most, without code and page cache. Median
(least to greatest) of the runs that were not disturbed; p50 and p99 are over all nodes of all those
runs. `CPU!`: the processors were 90 % busy or more, and the figure is theirs.
";

/// What the names mean.
const NAMES: &str = "
`twin`, `ft`: ours, hashed before it counts; `-unhashed`: with `--verify none`; `-32m`: with 32 MiB
for slots instead of 8. `images-20`: so many images at once, each with trees of its own, S the sum
of them; p50 and p99 are over all pulls. `forward-*`: models,
not products: whole units of that size (`whole`: half of the blob) over twin trees, never hashed.
`registry`: every node asks `docker-registry`; `registry-cache`: the same as pull-through caches in
a binary tree; `nginx-*`: `proxy_cache` in a binary tree, locked, whole or in slices of 1 MiB; the
client throws away what the cache keeps. `torrent-*`: libtorrent, full mesh, TCP, that piece size.
`mbuffer-*`: pushed along a chain or a binary tree, never hashed, never repaired. Rivals leave their
files in the page cache; ours are on the disk when they count. Images are taken by `xylem pull` from
ours, and by `skopeo copy` from the others, which hashes too.
";

/// The page: a table for each setting.
pub(super) fn page(runs: &[Run]) -> String {
    let mut text = HEAD.to_owned();
    for rows in settings(runs) {
        let Some(run) = any(&rows, runs) else { continue };
        let goodput = Spread::of(
            rows.iter().flat_map(|row| row.kept.iter().map(|run| run.goodput_bytes_s / MIB)),
        );
        let goodput = goodput.map_or("-".to_owned(), |it| it.cell(1));
        #[expect(clippy::cast_precision_loss, reason = "megabytes to a tenth")]
        let size = run.bytes as f64 / 1e6;
        text += &format!(
            "\n## {}: {size:.1} MB to {} nodes, {}\n\nB: {goodput} MiB/s.\n\n{}\n\
             ![times S/B](provision-{name}.svg)\n![CPU](provision-{name}-cpu.svg)\n",
            run.workload,
            run.nodes,
            run.rate,
            report::table(&table(&rows)),
            name = name(run),
        );
    }
    text + NAMES
}

const COLUMNS: [&str; 14] = [
    "variant",
    "× S/B",
    "origin / S",
    "CPU s/GiB/node",
    "first s",
    "p50 s",
    "p99 s",
    "max s",
    "CPU share",
    "memory MiB",
    "busiest / S",
    "idlest / S",
    "runs",
    "dropped",
];

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let mut table = vec![COLUMNS.map(str::to_owned).to_vec()];
    table.extend(rows.iter().map(cells));
    table
}

#[expect(clippy::cast_precision_loss, reason = "mebibytes to a tenth")]
fn cells(row: &Row) -> Vec<String> {
    let spread = |value: &dyn Fn(&Run) -> f64, digits| {
        row.of(value).map_or("-".to_owned(), |spread| spread.cell(digits))
    };
    let median = |value: &dyn Fn(&Run) -> f64, digits: usize| {
        row.of(value).map_or("-".to_owned(), |it| format!("{:.digits$}", it.median))
    };
    let pooled = |percent| {
        let all = row.kept.iter().flat_map(|run| run.seconds.iter().copied());
        percentile(all, percent).map_or("-".to_owned(), |seconds| format!("{seconds:.2}"))
    };
    let sent = |run: &Run, pick: fn(&[u64]) -> Option<u64>| {
        part_of(pick(&run.nodes_sent_bytes).unwrap_or(0), run)
    };
    let limited = if row.is_limited_by_cpu() { " CPU!" } else { "" };
    vec![
        row.variant.to_owned(),
        spread(&ratio, 2) + limited,
        spread(&|run| part_of(run.outcome.origin_sent_bytes, run), 2),
        spread(&cpu_s_per_gib, 2),
        median(&|run| run.first_s.iter().copied().fold(0.0, f64::max), 3),
        pooled(50),
        pooled(99),
        spread(&slowest_s, 2),
        median(&|run| run.outcome.cpu_share * 100.0, 0) + " %",
        median(&|run| run.memory_bytes as f64 / MIB, 1),
        median(&|run| sent(run, |all| all.iter().copied().max()), 2),
        median(&|run| sent(run, |all| all.iter().copied().min()), 2),
        row.kept.len().to_string(),
        dropped_cell(row.disturbed, row.failed),
    ]
}

/// Pictures by the names of their files: times S/B, and CPU, for each setting.
pub(super) fn pictures(runs: &[Run]) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for rows in settings(runs) {
        let Some(run) = any(&rows, runs) else { continue };
        let bars = |value: fn(&Run) -> f64| -> Vec<Bar> {
            let bar = |row: &Row| {
                let spread = row.of(value)?;
                let parts = vec![spread.median];
                Some(Bar { label: row.variant.to_owned(), parts, spread: Some(spread) })
            };
            rows.iter().filter_map(bar).collect()
        };
        let title = format!("{} to {} nodes, {}", run.workload, run.nodes, run.rate);
        let time =
            plot::bars(&format!("{title}: slowest node, × S/B"), &[], &bars(ratio), Some(1.0));
        let cpu = bars(cpu_s_per_gib);
        let cpu = plot::bars(&format!("{title}: CPU-seconds per GiB and node"), &[], &cpu, None);
        pictures.push((format!("provision-{}.svg", name(run)), time));
        pictures.push((format!("provision-{}-cpu.svg", name(run)), cpu));
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::outcome::Outcome;

    fn run(variant: &str, slowest_s: f64, dropped: Option<&str>) -> Run {
        Run {
            workload: "blob".into(),
            variant: variant.into(),
            nodes: 2,
            rate: "1gbit".into(),
            bytes: 1 << 30,
            round: 1,
            goodput_bytes_s: GIB,
            limit_s: 1.0,
            seconds: vec![slowest_s / 2.0, slowest_s],
            first_s: vec![0.1, 0.2],
            nodes_sent_bytes: vec![0, 1 << 30],
            memory_bytes: 3 << 20,
            outcome: Outcome {
                dropped: dropped.map(str::to_owned),
                origin_sent_bytes: 2 << 30,
                machine_cpu_s: 4.0,
                cpu_share: 0.95,
                ..Outcome::default()
            },
        }
    }

    #[test]
    fn the_fastest_comes_first_and_what_was_dropped_is_counted() {
        let runs = [
            run("slow", 4.0, None),
            run("fast", 1.5, None),
            run("fast", 1.7, None),
            run("fast", 90.0, Some("others had 50 % of the CPUs")),
            run("broken", 0.0, Some("failed: why")),
        ];
        let page = page(&runs);
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
        assert!(rows[2].starts_with("| fast | 1.60 (1.50–1.70) CPU! | 2.00 | 2.00 | 0.200 |"));
        assert!(rows[2].ends_with("| 95 % | 3.0 | 1.00 | 0.00 | 2 | 1 |"), "{}", rows[2]);
        assert!(rows[3].starts_with("| slow | 4.00 "));
        assert!(rows[4].starts_with("| broken | - |") && rows[4].ends_with("| 0 | 0, 1 failed |"));
        assert!(page.contains("](provision-blob-2-1gbit.svg)"), "{page}");
        assert!(page.contains("](provision-blob-2-1gbit-cpu.svg)"), "{page}");
    }

    #[test]
    fn lines_are_flat_and_read_again() {
        let line = serde_json::to_string(&run("x", 1.0, Some("failed: why"))).unwrap();
        for flat in ["\"dropped\":\"failed: why\"", "\"cpu_share\":0.95", "\"round\":1"] {
            assert!(line.contains(flat), "{line}");
        }
        let again: Run = serde_json::from_str(&line).unwrap();
        assert!(again.outcome.has_failed() && again.outcome.origin_sent_bytes == 2 << 30);
        let kept = serde_json::to_string(&run("x", 1.0, None)).unwrap();
        assert!(serde_json::from_str::<Run>(&kept).unwrap().outcome.is_kept());
    }

    #[test]
    fn settings_have_tables_and_pictures_of_their_own() {
        let mut other = run("fast", 1.0, None);
        other.nodes = 15;
        let runs = [run("fast", 1.0, None), other];
        assert_eq!(page(&runs).matches("\n## ").count(), 2);
        let names: Vec<String> = pictures(&runs).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 4);
        assert!(names.contains(&"provision-blob-15-1gbit-cpu.svg".to_owned()));
    }
}
