//! A `xylemd` of a bench: how it is started, and how to tell that it has a blob for good.

use crate::harness::Bench;
use crate::harness::lab::Netns;
use crate::harness::process::Process;
use crate::harness::variants::MEMORY_BYTES;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Port of every daemon of a bench; each has a namespace of its own.
const PORT: u16 = 4400;
/// How long a daemon may take to commit a blob that its readers have.
const COMMIT_MAX: Duration = Duration::from_secs(60);
/// How often that is looked for.
const COMMIT_PERIOD: Duration = Duration::from_millis(2);

/// A running daemon with a store of its own.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub process: Process,
    store: PathBuf,
}

impl Daemon {
    /// Starts one on all addresses of a namespace, with an empty store, and waits until it serves.
    ///
    /// # Errors
    /// It does not start; its stderr says why.
    pub fn start(
        bench: &Bench,
        netns: &Netns,
        name: &str,
        upstream: SocketAddr,
        arguments: &[&str],
    ) -> Result<Self> {
        let store = bench.path(&format!("store-{name}"));
        std::fs::create_dir_all(&store)?;
        let mut command = Command::new(bench.xylemd());
        command.args(["--node", name, "--listen", &format!("0.0.0.0:{PORT}")]);
        command.args(["--upstream", &format!("http://{upstream}")]).arg("--store").arg(&store);
        command.args(["--probes", "off", "--memory", &format!("{}MiB", MEMORY_BYTES >> 20)]);
        command.args(arguments);
        let mut process = Process::start(command, netns)?;
        process.expect("listening on")?;
        Ok(Self { process, store })
    }

    /// Where it listens, seen from a neighbour that knows its address.
    #[must_use]
    pub fn at(address: std::net::Ipv4Addr) -> SocketAddr {
        (address, PORT).into()
    }

    /// Waits until a blob is committed; the path of its file.
    ///
    /// # Errors
    /// It is not there after a minute.
    pub fn committed(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("not a digest")?;
        let path = self.store.join("blobs/sha256").join(hex);
        let deadline = Instant::now() + COMMIT_MAX;
        while !path.exists() {
            if Instant::now() > deadline {
                bail!("{} does not appear", path.display());
            }
            thread::sleep(COMMIT_PERIOD);
        }
        Ok(path)
    }

    /// Ends it and removes its store.
    ///
    /// # Errors
    /// It does not end well.
    pub fn stop(self) -> Result<()> {
        self.process.stop()?;
        remove(&self.store)
    }
}

fn remove(store: &Path) -> Result<()> {
    std::fs::remove_dir_all(store).with_context(|| format!("cannot remove {}", store.display()))
}
