//! What a span of time has cost: the whole machine, each node's link and memory, and how much of
//! the machine went to somebody else; judges nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::measure::{self, MachineTicks};
use crate::lab::traffic::{Passed, Traffic};

/// Bytes on a node's link after which the first of the data is there: more than all that is said
/// before it, and little of any blob.
const FIRST_BYTES: u64 = 64 << 10;
/// How often the links are read until every node has its first bytes.
const LINKS_PERIOD: Duration = Duration::from_millis(4);
/// How often memory is read.
const MEMORY_PERIOD: Duration = Duration::from_millis(250);
/// Parent of all kernel threads.
const KTHREADD: u32 = 2;

/// A span that has begun.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    before: Vec<Passed>,
    machine: MachineTicks,
    foreign_ticks: u64,
    namespaces: BTreeMap<u64, usize>,
    enough: Arc<AtomicBool>,
    sampler: Option<JoinHandle<Result<Sampled>>>,
}

/// What a span has cost. Lists are in the order of the lab's hosts.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    /// CPU-seconds of the whole machine, without idling and waiting.
    pub(super) busy_s: f64,
    /// Share of the CPUs that was busy.
    pub(super) busy_share: f64,
    /// Share of the CPUs that other people's processes had.
    pub(super) foreign_share: f64,
    /// Share of the CPUs that the hypervisor gave to other machines.
    pub(super) stolen_share: f64,
    /// What passed on each link.
    pub(super) passed: Vec<Passed>,
    /// When each host had its first bytes, since the watch was opened.
    pub(super) first_s: Vec<Option<f64>>,
    /// Most memory of the processes of each host, code and page cache not counted.
    pub(super) memory_bytes: Vec<u64>,
}

#[derive(Debug)]
struct Sampled {
    after: Vec<Passed>,
    first_s: Vec<Option<f64>>,
    memory_bytes: Vec<u64>,
}

impl Watch {
    /// Begins a span.
    pub(super) fn open(lab: &Lab) -> Result<Self> {
        ensure!(lab.is_isolated(), "links are measured where hosts are namespaces: as root");
        let mut namespaces = BTreeMap::new();
        for (index, host) in lab.hosts().iter().enumerate() {
            let name = host.netns.as_deref().context("a host without namespace")?;
            namespaces.insert(fs::metadata(Path::new("/run/netns").join(name))?.ino(), index);
        }
        let foreign_ticks = foreign_ticks(&namespaces)?;
        let traffic = Traffic::open(lab)?;
        let before = traffic.read()?;
        let enough = Arc::new(AtomicBool::new(false));
        let machine = MachineTicks::read()?;
        let start = Instant::now();
        let mut watch = Self {
            start,
            before: before.clone(),
            machine,
            foreign_ticks,
            namespaces: namespaces.clone(),
            enough: Arc::clone(&enough),
            sampler: None,
        };
        let sampling = move || sample(&traffic, &before, &namespaces, start, &enough);
        watch.sampler = Some(thread::spawn(sampling));
        Ok(watch)
    }

    /// Ends it.
    pub(super) fn close(mut self) -> Result<Spent> {
        let machine = MachineTicks::read()?;
        let wall_s = self.start.elapsed().as_secs_f64();
        self.enough.store(true, Ordering::Relaxed);
        let sampler = self.sampler.take().context("no sampler")?;
        let sampled = sampler.join().expect("the sampler does not panic")?;
        let foreign = foreign_ticks(&self.namespaces)?;
        #[expect(clippy::cast_precision_loss, reason = "a handful of processors")]
        let capacity_s = wall_s * thread::available_parallelism()?.get() as f64;
        let stolen_s = measure::seconds(machine.stolen - self.machine.stolen);
        let idle_s = measure::seconds(machine.idle.saturating_sub(self.machine.idle));
        let busy_s = (capacity_s - idle_s - stolen_s).max(0.0);
        let foreign_s = measure::seconds(foreign.saturating_sub(self.foreign_ticks));
        let passed = self.before.iter().zip(&sampled.after).map(|(before, after)| Passed {
            sent_bytes: after.sent_bytes - before.sent_bytes,
            received_bytes: after.received_bytes - before.received_bytes,
        });
        Ok(Spent {
            busy_s,
            busy_share: busy_s / capacity_s,
            foreign_share: foreign_s / capacity_s,
            stolen_share: stolen_s / capacity_s,
            passed: passed.collect(),
            first_s: sampled.first_s,
            memory_bytes: sampled.memory_bytes,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
    }
}

fn sample(
    traffic: &Traffic,
    before: &[Passed],
    namespaces: &BTreeMap<u64, usize>,
    start: Instant,
    enough: &AtomicBool,
) -> Result<Sampled> {
    let mut first_s = vec![None; before.len()];
    let mut memory_bytes = vec![0; before.len()];
    let mut next_memory = Instant::now();
    while !enough.load(Ordering::Relaxed) {
        // The first host is the registry: it is given nothing.
        if first_s.iter().skip(1).any(Option::is_none) {
            let at_s = start.elapsed().as_secs_f64();
            for ((first, before), now) in first_s.iter_mut().zip(before).zip(traffic.read()?) {
                if first.is_none() && now.received_bytes - before.received_bytes >= FIRST_BYTES {
                    *first = Some(at_s);
                }
            }
        }
        if Instant::now() >= next_memory {
            next_memory = Instant::now() + MEMORY_PERIOD;
            for (most, now) in memory_bytes.iter_mut().zip(memory(namespaces, before.len())?) {
                *most = now.max(*most);
            }
        }
        thread::sleep(LINKS_PERIOD);
    }
    Ok(Sampled { after: traffic.read()?, first_s, memory_bytes })
}

fn pids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The host in whose namespace a process lives, if it still does.
fn home(pid: u32, namespaces: &BTreeMap<u64, usize>) -> Option<usize> {
    let found = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    namespaces.get(&found.ino()).copied()
}

/// Memory of each host's processes.
fn memory(namespaces: &BTreeMap<u64, usize>, hosts: usize) -> Result<Vec<u64>> {
    let mut bytes = vec![0; hosts];
    for pid in pids()? {
        if let Some(host) = home(pid, namespaces) {
            // It may end between the listing and the reading.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            bytes[host] += own_memory(&status);
        }
    }
    Ok(bytes)
}

/// What is a process's own: neither code nor mapped files.
fn own_memory(status: &str) -> u64 {
    let kib = status.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let counts = ["RssAnon", "RssShmem"].contains(&name);
        counts.then(|| value.split_whitespace().next()?.parse::<u64>().ok())?
    });
    kib.sum::<u64>() << 10
}

/// CPU time of everybody who is neither of the lab, nor we, nor the kernel, with that of the
/// children they have waited for: it moves to the parent when a child ends, so none is lost.
fn foreign_ticks(namespaces: &BTreeMap<u64, usize>) -> Result<u64> {
    let own = std::process::id();
    let mut ticks = 0;
    for pid in pids()? {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<u64> =
            rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // From the third of proc_pid_stat(5): state ppid ... utime stime cutime cstime.
        let parent = fields.get(1).copied().unwrap_or(0);
        let kernel = pid == KTHREADD || parent == u64::from(KTHREADD);
        let ours = pid == own || parent == u64::from(own) || home(pid, namespaces).is_some();
        if !kernel && !ours {
            ticks += fields.iter().skip(11).take(4).sum::<u64>();
        }
    }
    Ok(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_files_are_not_a_process_s_own_memory() {
        let status = "VmHWM:\t  9000 kB\nRssAnon:\t   100 kB\nRssFile:\t 5000 kB\n\
                      RssShmem:\t     4 kB\n";
        assert_eq!(own_memory(status), 104 << 10);
        assert_eq!(own_memory(""), 0);
    }

    #[test]
    fn this_process_is_not_foreign() {
        assert!(foreign_ticks(&BTreeMap::new()).is_ok());
    }
}
