//! Where results go: raw lines, the machine, tables and pictures in one directory, and the block
//! of `docs/benchmarks.md` that shows the latest; knows nothing of what is measured.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::machine::Machine;
use crate::run;

/// Rounds of a full bench.
const ROUNDS: u32 = 5;
/// Rounds of a quick one.
const QUICK_ROUNDS: u32 = 2;
/// Of the rounds that are wanted, how many times as many are tried at most.
const TRIES: u32 = 2;
/// Share of the CPUs that others may have before a run is dropped, in percent.
const FOREIGN: f64 = 3.0;
/// From this share of busy processors on a figure is limited by them.
pub(super) const BUSY_SHARE: f64 = 0.9;
/// The page that shows the latest results.
const PAGE: &str = "docs/benchmarks.md";

/// What all benches of this kind can be told.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Rounds to measure [default: 5]
    #[arg(long)]
    pub(super) rounds: Option<u32>,
    /// A few small rounds, whatever else runs: shows that everything works, not how fast it is
    #[arg(long)]
    pub(super) quick: bool,
    /// Drop runs in which other processes, or other machines of the host, had more than this share
    /// of the CPUs, in percent [default: 3]
    #[arg(long)]
    pub(super) foreign: Option<f64>,
    /// Where results go [default: docs/benchmarks/DATE-MACHINE, and into docs/benchmarks.md; of a
    /// quick bench: below the target directory]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

impl Common {
    /// Rounds that are wanted, and rounds that are tried at most.
    pub(super) fn rounds(&self) -> (u32, u32) {
        let rounds = self.rounds.unwrap_or(if self.quick { QUICK_ROUNDS } else { ROUNDS });
        (rounds, rounds.saturating_mul(TRIES))
    }

    /// The share of the CPUs that may be others' before a run is dropped.
    fn foreign_share(&self) -> f64 {
        self.foreign.unwrap_or(if self.quick { 100.0 } else { FOREIGN }) / 100.0
    }

    /// Why a run does not count, if it does not.
    pub(super) fn disturbed(&self, foreign_share: f64, stolen_share: f64) -> Option<String> {
        let most = self.foreign_share();
        let percent = |share: f64| share * 100.0;
        if foreign_share > most {
            return Some(format!("others had {:.1} % of the CPUs", percent(foreign_share)));
        }
        (stolen_share > most)
            .then(|| format!("the host took {:.1} % of the CPUs", percent(stolen_share)))
    }
}

/// The directory of one machine and day.
#[derive(Debug)]
pub(super) struct Report {
    directory: PathBuf,
    machine: Machine,
    page: Option<PathBuf>,
}

impl Report {
    /// Makes the directory, or goes on with it.
    pub(super) fn open(common: &Common) -> Result<Self> {
        let machine = Machine::look()?;
        let name = format!("{}-{}", today()?, machine.name());
        let repository = run::repository();
        let directory = match &common.out {
            Some(out) => out.clone(),
            None if common.quick => run::target_dir()?.join("benchmarks").join(name),
            None => repository.join("docs/benchmarks").join(name),
        };
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let page = (!common.quick && common.out.is_none()).then(|| repository.join(PAGE));
        Ok(Self { directory, machine, page })
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds measured lines to a file; those of an earlier run that `replaced` names go.
    pub(super) fn add<T: Serialize + DeserializeOwned>(
        &self,
        file: &str,
        new: &[T],
        replaced: impl Fn(&T) -> bool,
    ) -> Result<Vec<T>> {
        let path = self.directory.join(file);
        let old = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
        let mut text = String::new();
        for line in old.lines() {
            let found = serde_json::from_str(line);
            let found: T = found.with_context(|| format!("cannot read a line of {file}"))?;
            if !replaced(&found) {
                text += &format!("{line}\n");
            }
        }
        for line in new {
            text += &format!("{}\n", serde_json::to_string(line)?);
        }
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        let all = text.lines().map(|line| Ok(serde_json::from_str(line)?));
        all.collect()
    }

    /// Writes what the figures were made on; what other benches of the day have found stays.
    pub(super) fn write_machine(&self, versions: &[(String, String)]) -> Result<()> {
        let path = self.directory.join("machine.json");
        let mut json = self.machine.json(versions);
        if let Ok(before) = fs::read(&path) {
            let before: Value = serde_json::from_slice(&before)?;
            for (program, version) in before["versions"].as_object().into_iter().flatten() {
                if json["versions"].get(program).is_none() {
                    json["versions"][program] = version.clone();
                }
            }
        }
        self.write("machine.json", &(serde_json::to_string_pretty(&json)? + "\n"))
    }

    /// Writes a file of the report.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the page of a bench, and shows it in `docs/benchmarks.md`, between its marks.
    pub(super) fn publish(&self, bench: &str, title: &str, body: &str) -> Result<()> {
        let sentence = self.machine.sentence();
        let dirty = self.machine.revision().ends_with("-dirty");
        let note = if dirty { "\nThe sources had changes that were not committed." } else { "" };
        self.write(&format!("{bench}.md"), &format!("# {title}\n\n{sentence}{note}\n\n{body}"))?;
        let Some(page) = &self.page else { return Ok(()) };
        let name = self.directory.file_name().context("a directory without a name")?;
        let name = name.to_string_lossy();
        // Links of the page are seen from the directory above.
        let body = body.replace("](", &format!("](benchmarks/{name}/"));
        let body = body.replace("\n## ", "\n#### ");
        let raw = format!("Raw lines, pictures, machine: [benchmarks/{name}](benchmarks/{name}).");
        let text = fs::read_to_string(page).with_context(|| format!("no {PAGE}"))?;
        let block = format!("{sentence}{note}\n{raw}\n\n{}", body.trim_end());
        fs::write(page, between_marks(&text, bench, &block)?).context("cannot write the page")
    }
}

/// Replaces what stands between the marks of a bench.
fn between_marks(page: &str, bench: &str, block: &str) -> Result<String> {
    let marks = [format!("<!-- {bench}: begin -->\n"), format!("<!-- {bench}: end -->")];
    let begin = page.find(&marks[0]).map(|at| at + marks[0].len());
    let end = page.find(&marks[1]);
    let (begin, end) =
        begin.zip(end).with_context(|| format!("{PAGE} has no place for {bench}"))?;
    ensure!(begin <= end, "the marks of {bench} in {PAGE} are the wrong way round");
    Ok(format!("{}{block}\n{}", &page[..begin], &page[end..]))
}

fn today() -> Result<String> {
    let date = run::output(run::command("date").args(["--utc", "+%F"]))?;
    Ok(date.trim().to_owned())
}

/// A table of Markdown: the first row is its head.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let line = |row: &[String]| format!("| {} |\n", row.join(" | "));
    let Some((head, rest)) = rows.split_first() else { return String::new() };
    let rule: Vec<String> =
        (0..head.len()).map(|column| if column == 0 { "---" } else { "--:" }.to_owned()).collect();
    let rest: String = rest.iter().map(|row| line(row)).collect();
    format!("{}{}{rest}", line(head), line(&rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_replaces_what_was_between_its_marks() {
        let page = "# A\n<!-- x: begin -->\nold\n<!-- x: end -->\nrest\n";
        let expected = "# A\n<!-- x: begin -->\nnew\n<!-- x: end -->\nrest\n";
        assert_eq!(between_marks(page, "x", "new").unwrap(), expected);
        assert_eq!(between_marks(expected, "x", "new").unwrap(), expected);
        assert!(between_marks(page, "y", "new").is_err());
    }

    #[test]
    fn lines_are_replaced_by_what_they_are_of() {
        let directory = std::env::temp_dir().join(format!("xylem-rep-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let machine = Machine::look().unwrap();
        let report = Report { directory: directory.clone(), machine, page: None };
        report.add("a.jsonl", &[1, 2, 3], |_| true).unwrap();
        assert_eq!(report.add("a.jsonl", &[4], |it: &i32| *it < 3).unwrap(), [3, 4]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn disturbed_runs_are_told_why() {
        let common = Common { rounds: None, quick: false, foreign: None, out: None };
        assert_eq!(common.disturbed(0.01, 0.01), None);
        assert!(common.disturbed(0.2, 0.0).unwrap().contains("others had 20.0 %"));
        assert!(common.disturbed(0.0, 0.2).unwrap().contains("host"));
        assert_eq!(common.rounds(), (5, 10));
        let quick = Common { quick: true, ..common };
        assert_eq!(quick.disturbed(0.9, 0.0), None);
    }

    #[test]
    fn the_first_row_is_the_head() {
        let rows = [vec!["a".to_owned(), "b".to_owned()], vec!["1".to_owned(), "2".to_owned()]];
        assert_eq!(table(&rows), "| a | b |\n| --- | --: |\n| 1 | 2 |\n");
    }
}
