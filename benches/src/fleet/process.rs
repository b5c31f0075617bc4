//! The control process that is measured: kept on one core, asked over HTTP, its CPU and memory read
//! from /proc.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{http, sys};

/// A control that serves; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Control {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Control {
    /// Starts it on one core, on a free port of loopback.
    pub(super) fn start(program: &Path, core: u32) -> Result<Self> {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program).args(["--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start taskset")?;
        let stdout = child.stdout.take().context("a piped stdout")?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let address = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        // From here on it is killed with this.
        let mut started = Self { child, address: ([127, 0, 0, 1], 0).into() };
        read.context("control says nothing")?;
        started.address = address.with_context(|| format!("control does not serve: {line}"))?;
        Ok(started)
    }

    /// CPU time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        Ok(Duration::from_nanos(sys::process_cpu_ns(self.child.id())?))
    }

    /// Resident memory now, bytes.
    pub(super) fn rss_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).context("control has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.context("control has no memory any more")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
        Ok(kib * 1024)
    }

    /// The answer to a request; waits for it, and for nothing else.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>> {
        http::fetch(self.address, path)
    }

    /// One of its metrics.
    pub(super) fn metric(&self, name: &str) -> Result<u64> {
        let text = String::from_utf8(self.get("/metrics")?)?;
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("no metric {name}"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Nothing is lost when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
