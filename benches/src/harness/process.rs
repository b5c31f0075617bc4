//! A program under the harness: started in a namespace, spoken to by lines, waited for with its
//! resource usage, and killed when the harness gives up.

use crate::harness::lab::Netns;
use crate::sys::{self, Exit};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a program may take to say its next line.
const LINE_MAX: Duration = Duration::from_secs(120);
/// How often the peak memory of a relay is read while it runs.
const RSS_PERIOD: Duration = Duration::from_millis(20);

/// A started program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    reaped: bool,
}

impl Process {
    /// Starts a command in a namespace; its stderr goes where ours goes.
    ///
    /// # Errors
    /// A program that is not there, or a namespace that cannot be entered.
    pub fn start(mut command: Command, netns: &Netns) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        sys::prepare(&mut command, Some(netns.descriptor()?));
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name, child, lines, reaped: false })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its stdout.
    ///
    /// # Errors
    /// It ended, or says nothing for two minutes.
    pub fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(LINE_MAX).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("{} said nothing for {LINE_MAX:?}", self.name),
            RecvTimeoutError::Disconnected => anyhow!("{} ended too early", self.name),
        })
    }

    /// Waits for a line that contains `text`.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn expect(&mut self, text: &str) -> Result<()> {
        while !self.line()?.contains(text) {}
        Ok(())
    }

    /// Opens its gate.
    ///
    /// # Errors
    /// It has ended.
    pub fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"\n").with_context(|| format!("{} has ended", self.name))
    }

    /// CPU time so far, in nanoseconds.
    ///
    /// # Errors
    /// It has ended and was waited for.
    pub fn cpu_ns(&self) -> Result<u64> {
        Ok(sys::process_cpu_ns(self.pid())?)
    }

    /// Waits for it to end well.
    ///
    /// # Errors
    /// Any exit code but 0.
    pub fn finish(mut self) -> Result<Exit> {
        let exit = sys::wait4(self.pid())?;
        self.reaped = true;
        match exit.code {
            Some(0) => Ok(exit),
            Some(code) => bail!("{} ended with code {code}", self.name),
            None => bail!("{} was killed", self.name),
        }
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn stop(self) -> Result<Exit> {
        sys::terminate(self.pid())?;
        self.finish()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            // Nothing is lost when it has ended already.
            drop(self.child.kill());
            drop(sys::wait4(self.child.id()));
        }
    }
}

/// Peak resident memory of a living process in bytes.
///
/// # Errors
/// It has ended.
pub fn peak_rss_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.context("process has no memory any more")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")?;
    Ok(kib * 1024)
}

/// Reads the peak memory of a process again and again until it ends: afterwards nobody can tell it
/// from what the process was before it became the program.
#[derive(Debug)]
pub struct RssWatch {
    stop: Arc<AtomicBool>,
    peak: JoinHandle<u64>,
}

impl RssWatch {
    /// Starts reading.
    #[must_use]
    pub fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let peak = thread::spawn(move || {
            let mut peak = 0;
            while let Ok(now) = peak_rss_bytes(pid) {
                peak = peak.max(now);
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                thread::park_timeout(RSS_PERIOD);
            }
            peak
        });
        Self { stop, peak }
    }

    /// Ends it; the peak in bytes.
    ///
    /// # Errors
    /// The process ended before its memory could be read once.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.peak.thread().unpark();
        let peak = self.peak.join().expect("reading a file does not panic");
        ensure!(peak > 0, "the relay ended before its memory could be read");
        Ok(peak)
    }
}
