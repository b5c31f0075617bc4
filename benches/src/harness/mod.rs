//! The harness of `cargo xtask bench`: builds a lab of network namespaces, runs one relay after the
//! other in it and says what each cost; what is sent and what relays are in the other modules and
//! programs.

pub mod daemon;
pub mod hop;
pub mod lab;
pub mod latency;
pub mod machine;
pub mod process;
pub mod pull;
pub mod settings;
pub mod stats;
pub mod table;
pub mod variants;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Prefix of the name of a run's directory; the process id follows.
const RUN: &str = "run-";

/// Removes what benches that were killed have left.
fn remove_stale(dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(RUN).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The programs of the bench, a directory for files, and whether to go on.
#[derive(Debug)]
pub struct Bench {
    programs: PathBuf,
    xylemd: PathBuf,
    dir: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Bench {
    /// Finds the programs beside this one, makes a directory for the files in `dir`, and takes
    /// SIGINT and SIGTERM as a wish to stop and clean up.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn new(dir: Option<PathBuf>, xylemd: Option<PathBuf>) -> Result<Self> {
        let exe = std::env::current_exe().context("cannot find the running program")?;
        let programs = exe.parent().context("the running program has no directory")?.to_owned();
        let dir = dir.unwrap_or_else(|| programs.join("bench-data"));
        remove_stale(&dir)?;
        let dir = dir.join(format!("{RUN}{}", std::process::id()));
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let xylemd = xylemd.unwrap_or_else(|| programs.join("xylemd"));
        Ok(Self { programs, xylemd, dir, interrupted })
    }

    /// Path of a program of the bench.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Path of the daemon.
    #[must_use]
    pub fn xylemd(&self) -> &Path {
        &self.xylemd
    }

    /// Path of a file or directory in this run's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Fails once the user has asked to stop.
    ///
    /// # Errors
    /// After SIGINT or SIGTERM.
    pub fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}
