//! What the whole machine did in a span of time, and how much of it was somebody else's doing.

use crate::sys::monotonic_ns;
use anyhow::{Context, Result};
use std::fs;
use std::thread::available_parallelism;

/// `USER_HZ`, the unit of CPU times under /proc; fixed in Linux's interface to user space.
const TICKS_PER_S: f64 = 100.0;
/// Parent of all kernel threads.
const KTHREADD: u32 = 2;

/// A span that has begun.
#[derive(Debug)]
pub struct Window {
    start_ns: u64,
    idle_ticks: u64,
    foreign_ticks: u64,
}

/// What was used in a span.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU-seconds of the whole machine: CPUs times wall clock, without idle and iowait.
    pub busy_s: f64,
    /// Share of the CPUs that went to processes that are neither ours nor the kernel's.
    pub foreign: f64,
}

/// Idle and iowait of all CPUs so far.
fn idle_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
    // cpu user nice system idle iowait …
    Ok(fields.iter().skip(3).take(2).sum())
}

/// CPU time of everybody else so far, with that of the children they waited for: a child's time
/// moves to its parent when it ends, so none is lost between two readings.
fn foreign_ticks() -> Result<u64> {
    let own = std::process::id();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<u64> =
            rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // Fields from the third of proc_pid_stat(5): state ppid ... utime stime cutime cstime at
        // 11..15.
        let parent = fields.get(1).copied().unwrap_or(0);
        let kernel = pid == KTHREADD || parent == u64::from(KTHREADD);
        if !kernel && pid != own && parent != u64::from(own) {
            ticks += fields.iter().skip(11).take(4).sum::<u64>();
        }
    }
    Ok(ticks)
}

impl Window {
    /// Begins a span.
    ///
    /// # Errors
    /// No /proc.
    pub fn open() -> Result<Self> {
        let foreign_ticks = foreign_ticks()?;
        Ok(Self { foreign_ticks, idle_ticks: idle_ticks()?, start_ns: monotonic_ns() })
    }

    /// Ends it.
    ///
    /// # Errors
    /// No /proc.
    pub fn close(self) -> Result<Usage> {
        let idle_ticks = idle_ticks()?.saturating_sub(self.idle_ticks);
        let wall_s = seconds(monotonic_ns() - self.start_ns);
        let foreign_ticks = foreign_ticks()?.saturating_sub(self.foreign_ticks);
        let capacity_s = wall_s * available_parallelism()?.get() as f64;
        Ok(Usage {
            busy_s: (capacity_s - idle_ticks as f64 / TICKS_PER_S).max(0.0),
            foreign: foreign_ticks as f64 / TICKS_PER_S / capacity_s,
        })
    }
}

/// Nanoseconds as seconds.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
