//! What a lab has made, written down before it is made, so that anyone can remove it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const JOURNAL: &str = "journal";
const KEPT: &str = "kept";

/// The journal of one lab, open for writing.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    file: File,
}

impl Journal {
    /// Makes the lab's directory and the journal in it, owned by this process.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        fs::create_dir(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = directory.join(JOURNAL);
        let file = File::create(&path).with_context(|| format!("no {}", path.display()))?;
        let mut journal = Self { directory: directory.to_path_buf(), file };
        journal.note("owner", &stamp(std::process::id()))?;
        Ok(journal)
    }

    /// Adds a line: what kind of thing, and which.
    pub(super) fn note(&mut self, kind: &str, what: &str) -> Result<()> {
        writeln!(self.file, "{kind} {what}").context("cannot write the lab's journal")
    }

    /// Marks the lab as one that outlives its maker on purpose.
    pub(super) fn keep(&self) -> Result<()> {
        File::create(self.directory.join(KEPT)).context("cannot mark the lab as kept")?;
        Ok(())
    }
}

/// Whether the lab was left standing on purpose.
pub(super) fn is_kept(directory: &Path) -> bool {
    directory.join(KEPT).exists()
}

/// The journal's lines as (kind, what). A line cut by a kill is left out.
pub(super) fn read(directory: &Path) -> Result<Vec<(String, String)>> {
    let path = directory.join(JOURNAL);
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let pairs = whole.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(kind, what)| (kind.to_owned(), what.to_owned())).collect())
}

/// A process as `PID STARTTIME`: a number that is used again later is another process.
pub(super) fn stamp(pid: u32) -> String {
    format!("{pid} {}", start_time(pid).unwrap_or_default())
}

/// The pid in a stamp, if that very process still runs.
pub(super) fn alive(stamp: &str) -> Option<u32> {
    let (pid, started) = stamp.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid)? == started).then_some(pid)
}

fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; what follows the last one is numbers. A
    // zombie counts as gone.
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let own = stamp(std::process::id());
        assert_eq!(alive(&own), Some(std::process::id()));
        assert_eq!(alive(&format!("{own}9")), None);
        assert_eq!(alive("nonsense"), None);
    }
}
