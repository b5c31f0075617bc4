//! The page and the pictures of `bench coldstart`, made of the raw lines alone.

use std::collections::BTreeMap;

use super::{Run, Variant};
use crate::bench::outcome::dropped_cell;
use crate::bench::plot::{self, Bar};
use crate::bench::report::{self, BUSY_SHARE};
use crate::bench::stats::Spread;

/// What has to be the same for two runs to be compared.
pub(super) fn setting(run: &Run) -> (String, usize, String) {
    (run.image.clone(), run.nodes, run.rate.clone())
}

/// Of one start: the longest of all nodes, and what its parts are on that node.
fn slowest(run: &Run) -> [f64; 3] {
    let nodes = run.download_s.iter().zip(&run.unpack_s).zip(&run.start_s);
    let nodes = nodes.map(|((download, unpack), start)| [*download, *unpack, *start]);
    let total = |parts: &[f64; 3]| parts.iter().sum::<f64>();
    nodes.max_by(|a, b| total(a).total_cmp(&total(b))).unwrap_or_default()
}

fn total(run: &Run) -> f64 {
    slowest(run).iter().sum()
}

/// The runs of one variant in one setting.
type Row<'a> = (String, Vec<&'a Run>);

/// The runs of each setting by variant, in the order of the variants.
fn settings(runs: &[Run]) -> Vec<Vec<Row<'_>>> {
    let mut settings: BTreeMap<_, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        settings.entry(setting(run)).or_default().push(run);
    }
    settings.into_values().map(|runs| by_variant(&runs)).collect()
}

fn by_variant<'a>(runs: &[&'a Run]) -> Vec<Row<'a>> {
    let of = |variant: Variant| {
        let name = variant.name();
        let own = runs.iter().copied().filter(|run| run.variant == name).collect();
        (name, own)
    };
    Variant::ALL.into_iter().map(of).filter(|(_, runs): &Row| !runs.is_empty()).collect()
}

fn kept<'a>(runs: &[&'a Run]) -> Vec<&'a Run> {
    runs.iter().copied().filter(|run| run.outcome.is_kept()).collect()
}

fn spread(runs: &[&Run], value: impl Fn(&Run) -> f64) -> Option<Spread> {
    Spread::of(runs.iter().map(|run| value(run)))
}

/// What the page says before its tables.
const HEAD: &str = "\
Every node has a containerd of its own and nothing else; all begin at one moment, and a start is
over when the function in the container has printed its first line. Seconds are those of the slowest
node of each run, split into what containerd did one after the other (`ctr content fetch`, `ctr
images pull` of what is there, `ctr run`); the ratio is to the first row. Median (least to greatest)
of the runs that were not disturbed. `CPU!`: the processors were 90 % busy or more, and the figure
is theirs.
";

/// The page: a table for each setting.
pub(super) fn page(runs: &[Run]) -> String {
    let mut text = HEAD.to_owned();
    for rows in settings(runs) {
        let Some(run) = rows.first().and_then(|(_, runs)| runs.first()) else { continue };
        text += &format!(
            "\n## {} on {} nodes, {}\n\n{}\n![seconds]({})\n",
            run.image,
            run.nodes,
            run.rate,
            report::table(&table(&rows)),
            file(run),
        );
    }
    text
}

const COLUMNS: [&str; 11] = [
    "variant",
    "ratio",
    "total s",
    "download s",
    "unpack s",
    "start s",
    "origin / S",
    "S, MB",
    "CPU share",
    "runs",
    "dropped",
];

fn table(rows: &[Row]) -> Vec<Vec<String>> {
    let mut table = vec![COLUMNS.map(str::to_owned).to_vec()];
    let first = rows.first().and_then(|(_, runs)| spread(&kept(runs), total));
    for (name, all) in rows {
        let runs = kept(all);
        let cell = |value: &dyn Fn(&Run) -> f64| {
            spread(&runs, value).map_or("-".to_owned(), |spread| spread.cell(2))
        };
        let one = |value: &dyn Fn(&Run) -> f64, digits: usize| {
            spread(&runs, value).map_or("-".to_owned(), |it| format!("{:.digits$}", it.median))
        };
        let ratio = spread(&runs, total).zip(first).map(|(own, first)| own.median / first.median);
        let busy =
            spread(&runs, |run| run.outcome.cpu_share).is_some_and(|it| it.median >= BUSY_SHARE);
        let limited = if busy { " CPU!" } else { "" };
        let failed = all.iter().filter(|run| run.outcome.has_failed()).count();
        let disturbed = all.len() - runs.len() - failed;
        table.push(vec![
            name.clone(),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}{limited}")),
            cell(&total),
            cell(&|run| slowest(run)[0]),
            cell(&|run| slowest(run)[1]),
            cell(&|run| slowest(run)[2]),
            one(&origin, 2),
            one(&megabytes, 1),
            one(&|run| run.outcome.cpu_share * 100.0, 0) + " %",
            runs.len().to_string(),
            dropped_cell(disturbed, failed),
        ]);
    }
    table
}

#[expect(clippy::cast_precision_loss, reason = "ratios to two digits")]
fn origin(run: &Run) -> f64 {
    run.outcome.origin_sent_bytes as f64 / run.bytes as f64
}

#[expect(clippy::cast_precision_loss, reason = "megabytes to a tenth")]
fn megabytes(run: &Run) -> f64 {
    run.bytes as f64 / 1e6
}

fn file(run: &Run) -> String {
    format!("coldstart-{}-{}-{}.svg", run.image, run.nodes, run.rate)
}

/// One picture for each setting, by the name of its file.
pub(super) fn pictures(runs: &[Run]) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    for rows in settings(runs) {
        let Some(run) = rows.first().and_then(|(_, runs)| runs.first()) else { continue };
        let bar = |(name, runs): &Row| {
            let runs = kept(runs);
            let part = |index: usize| Some(spread(&runs, |run| slowest(run)[index])?.median);
            let parts = (0..3).map(part).collect::<Option<_>>()?;
            Some(Bar { label: name.clone(), parts, spread: spread(&runs, total) })
        };
        let bars: Vec<Bar> = rows.iter().filter_map(bar).collect();
        let title = format!("{} on {} nodes, {}: seconds", run.image, run.nodes, run.rate);
        let legend = ["download", "unpack", "start"];
        pictures.push((file(run), plot::bars(&title, &legend, &bars, None)));
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::outcome::Outcome;

    #[test]
    fn the_slowest_node_is_shown_with_its_own_parts() {
        let run = |variant: Variant, download_s: f64| Run {
            bytes: 1_000_000,
            download_s: vec![download_s, 1.0],
            unpack_s: vec![1.0, 1.0],
            start_s: vec![0.5, 0.25],
            outcome: Outcome {
                origin_sent_bytes: 2_000_000,
                machine_cpu_s: 1.0,
                cpu_share: 0.5,
                ..Outcome::default()
            },
            ..Run::new(variant, "big", 2, "1gbit", 1)
        };
        let direct = run(Variant::ALL[0], 6.5);
        assert_eq!(slowest(&direct), [6.5, 1.0, 0.5]);
        let runs = [direct, run(Variant::ALL[1], 2.5)];
        let page = page(&runs);
        assert!(page.contains("| tree, gzip | 0.50 | 4.00 | 2.50 | 1.00 | 0.50 | 2.00 | 1.0 |"));
        assert!(page.contains("](coldstart-big-2-1gbit.svg)"));
        assert_eq!(pictures(&runs).len(), 1);
    }
}
