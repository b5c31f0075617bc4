//! `cargo xtask bench --guard`: counts the instructions of the pure parts under valgrind, and
//! compares with what they were. Time plays no part: a busy machine says the same as an idle one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{run, setup};

/// How much dearer a part may become, percent: what differs between machines is far below.
const TOLERANCE_PERCENT: u64 = 3;
/// The same for what takes the CPU's own instructions where valgrind lets it.
const TOLERANCE_HASH_PERCENT: u64 = 25;
/// The function whose instructions are counted, with all that it calls.
const COUNTED: &str = "xylem_guard::parts::Part::counted";

/// What was counted, and by which compiler: another makes other code.
#[derive(Debug, Deserialize, Serialize)]
struct Baseline {
    rustc: String,
    instructions: BTreeMap<String, u64>,
}

/// Compares, or takes the counts of now for the baseline.
///
/// Without valgrind or with another compiler there is nothing to compare: exit code 2.
pub(crate) fn run(update: bool) -> Result<()> {
    let rustc = compiler()?;
    let path = run::repository().join("benches/guard/baseline.json");
    let baseline: Option<Baseline> = match fs::read_to_string(&path) {
        Ok(text) if !update => Some(serde_json::from_str(&text).context("the baseline")?),
        _ => None,
    };
    if let Some(baseline) = &baseline
        && baseline.rustc != rustc
    {
        bail!(run::Exit {
            code: 2,
            message: format!("the baseline is of rustc {}, this is {rustc}", baseline.rustc),
        });
    }
    if !run::has("valgrind") {
        setup::debian_packages(&["valgrind"])
            .map_err(|error| run::Exit { code: 2, message: format!("no valgrind: {error:#}") })?;
    }
    let now = Baseline { rustc, instructions: count()? };
    match baseline {
        Some(baseline) => compare(&baseline.instructions, &now.instructions),
        None if update => {
            fs::write(&path, serde_json::to_string_pretty(&now)? + "\n")?;
            println!("written: {}", path.display());
            Ok(())
        }
        None => bail!("there is no baseline; `cargo xtask bench --guard --update` writes it"),
    }
}

/// Of each part.
fn count() -> Result<BTreeMap<String, u64>> {
    let mut cargo = run::cargo();
    // The code is another one without, by up to 8 %, and some machines say so for all they build.
    cargo.env("CARGO_INCREMENTAL", "1");
    run::show(cargo.args(["build", "--quiet", "--package", "xylem-guard"]))?;
    let target = run::target_dir()?;
    let program = target.join("debug/xylem-guard");
    let program = program.to_str().context("path is not text")?;
    let parts = run::output(&mut run::command(program))?;
    let out = target.join("guard.callgrind");
    parts.lines().map(|part| Ok((part.to_owned(), instructions(program, part, &out)?))).collect()
}

fn instructions(program: &str, part: &str, out: &Path) -> Result<u64> {
    let mut valgrind = run::command("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--toggle-collect={COUNTED}"));
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    run::output(valgrind.args([program, part]))?;
    let text = fs::read_to_string(out).context("valgrind has written nothing")?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = total.context("valgrind gives no total")?.trim().parse()?;
    anyhow::ensure!(total > 0, "{part}: nothing was counted, is {COUNTED} still there?");
    Ok(total)
}

/// One line for each part; fails with one line that names those that have become dearer.
fn compare(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Result<()> {
    let mut dearer = Vec::new();
    for (part, &count) in now {
        let Some(&was) = before.get(part) else {
            dearer.push(format!("{part} has no baseline"));
            continue;
        };
        let change = percent(was, count);
        println!("{part:<14} {count:>10} instructions, {change:+.2} %");
        let tolerance = tolerance(part);
        if count * 100 > was * (100 + tolerance) {
            dearer.push(format!("{part} by {change:.1} % (allowed: {tolerance})"));
        } else if count * (100 + tolerance) < was * 100 {
            println!("{part:<14} is cheaper: `cargo xtask bench --guard --update` keeps it so");
        }
    }
    for part in before.keys().filter(|part| !now.contains_key(*part)) {
        dearer.push(format!("{part} is not counted any more"));
    }
    if dearer.is_empty() {
        return Ok(());
    }
    bail!(
        "dearer than the baseline: {}; if that is wanted, `cargo xtask bench --guard --update`",
        dearer.join(", ")
    )
}

fn tolerance(part: &str) -> u64 {
    if part == "hash" { TOLERANCE_HASH_PERCENT } else { TOLERANCE_PERCENT }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn percent(was: u64, count: u64) -> f64 {
    100.0 * (count as f64 - was as f64) / was.max(1) as f64
}

/// The compiler's version, such as 1.95.0.
fn compiler() -> Result<String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let said = run::output(run::command(&rustc).arg("--version"))?;
    let version = said.split_whitespace().nth(1);
    Ok(version.context("rustc does not tell its version")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(parts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        parts.iter().map(|&(part, count)| (part.to_owned(), count)).collect()
    }

    #[test]
    fn what_has_become_dearer_is_named_in_one_line() {
        let before = counts(&[("relay", 1000), ("hash", 1000)]);
        assert!(compare(&before, &counts(&[("relay", 1030), ("hash", 1250)])).is_ok());
        assert!(compare(&before, &counts(&[("relay", 10), ("hash", 1000)])).is_ok());
        let error = compare(&before, &counts(&[("relay", 1031), ("hash", 1000)])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("relay by 3.1 % (allowed: 3)") && !text.contains("hash"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn parts_do_not_come_or_go_unseen() {
        let both = counts(&[("relay", 1), ("hash", 1)]);
        let one = counts(&[("relay", 1)]);
        assert!(compare(&both, &one).unwrap_err().to_string().contains("not counted any more"));
        assert!(compare(&one, &both).unwrap_err().to_string().contains("has no baseline"));
    }
}
