//! One process of the lab: its log, its readiness, its end; not where it runs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::{run, sys};

/// How long a daemon may take until it says that it serves.
const READY: Duration = Duration::from_secs(20);
const TAIL_LINES: usize = 60;
const TAIL_COLUMNS: usize = 300;

/// A running process. Its owner ends it; dropping it alone does not.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where in the log this run began: a restarted process continues the file.
    began: usize,
}

impl Process {
    pub(super) fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let began = usize::try_from(file.metadata()?.len())?;
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Self { name: name.to_owned(), child, log, began })
    }

    /// Its name in the lab.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has written since it was started.
    pub(crate) fn said(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.began..).unwrap_or_default()).into_owned()
    }

    /// The end of what it has written.
    pub(crate) fn tail(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        let cut = |line: &str| line.chars().take(TAIL_COLUMNS).collect::<String>();
        tail.iter().map(|line| format!("    {}\n", cut(line))).collect()
    }

    /// Leaves what it has written so far out of [`Self::said`] and [`Self::tail`].
    pub(crate) fn forget(&mut self) {
        let written = fs::metadata(&self.log).map_or(0, |log| log.len());
        self.began = usize::try_from(written).unwrap_or(self.began);
    }

    /// Waits until it has written `words`. A process that ends before is an error with its log.
    pub(crate) fn wait_for_words(&mut self, words: &str) -> Result<()> {
        let what = format!("`{words}` from {}", self.name);
        let waited = run::wait_for(&what, READY, || {
            if self.said().contains(words) {
                return Ok(Some(()));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at its start ({status})", self.name);
            }
            Ok(None)
        });
        waited.map_err(|error| anyhow!("{error:#}; its log ends with\n{}", self.tail()))
    }

    /// Fails, with its log, if it has ended.
    pub(crate) fn is_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.tail()),
            None => Ok(()),
        }
    }

    pub(super) fn ask_to_end(&self) {
        let _ = sys::kill(self.pid(), libc::SIGTERM);
    }

    /// Ends it with a signal; one that does not go in time is killed. Ignores interruptions.
    pub(super) fn end(&mut self, signal: i32, bound: Duration) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            sys::kill(self.pid(), signal)?;
        }
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > bound {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
