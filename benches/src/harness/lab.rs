//! A few network namespaces joined by veth pairs, which go away with the value that made them;
//! general topologies and cgroups are the lab's of `cargo xtask demo`.

use crate::sys;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::thread;

/// Prefix of the names of all namespaces of a bench; the process id follows.
const TAG: &str = "xyb";
/// Where iproute2 keeps the names of namespaces.
const NETNS_DIR: &str = "/run/netns";
/// Most links a lab can have: each takes one network of 10.201.0.0/16.
const LINKS_MAX: u8 = 64;
/// Bytes a shaped link may send at once. Below 128 KiB tbf cuts GSO packets up and misses its rate.
const BURST: &str = "256k";
/// Bytes a shaped link queues, as time.
const QUEUE: &str = "50ms";

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// A descriptor to enter it with.
    ///
    /// # Errors
    /// Too many open files.
    pub fn descriptor(&self) -> Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Does something in there, on a thread of its own.
    ///
    /// # Errors
    /// No privilege, and what `work` fails with.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::enter(self.file.as_fd()).context("cannot enter a network namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread in a namespace panicked"))?
        })
    }
}

/// The namespaces of this process.
#[derive(Debug)]
pub struct Lab {
    tag: String,
    names: Vec<String>,
    links: u8,
    /// Namespace and name of both ends of all links.
    ends: Vec<(String, String)>,
}

fn ip(words: &str) -> Result<()> {
    run("ip", words)
}

fn run(program: &str, words: &str) -> Result<()> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .with_context(|| format!("cannot run {program} (Debian package iproute2)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {words}: {}", said.trim());
    Ok(())
}

/// Removes namespaces of benches that were killed before they could.
fn remove_stale() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(TAG).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            ip(&format!("netns del {name}"))?;
        }
    }
    Ok(())
}

impl Lab {
    /// An empty lab.
    ///
    /// # Errors
    /// No privilege, or no iproute2.
    pub fn new() -> Result<Self> {
        remove_stale()?;
        Ok(Self {
            tag: format!("{TAG}{}", std::process::id()),
            names: Vec::new(),
            links: 0,
            ends: Vec::new(),
        })
    }

    /// Adds a namespace with its loopback up.
    ///
    /// # Errors
    /// No privilege, or no iproute2.
    pub fn netns(&mut self, name: &str) -> Result<Netns> {
        let name = format!("{}-{name}", self.tag);
        ip(&format!("netns add {name}"))
            .context("cannot create a network namespace; the lab needs root")?;
        self.names.push(name.clone());
        ip(&format!("-n {name} link set lo up"))?;
        let file = File::open(Path::new(NETNS_DIR).join(&name))?;
        Ok(Netns { name, file })
    }

    /// Joins two namespaces; with a rate (`1gbit`), both directions are shaped to it. The addresses
    /// of the ends.
    ///
    /// # Errors
    /// Too many links, or the kernel's.
    pub fn link(
        &mut self,
        left: &Netns,
        right: &Netns,
        rate: Option<&str>,
    ) -> Result<(Ipv4Addr, Ipv4Addr)> {
        if self.links == LINKS_MAX {
            bail!("a lab has at most {LINKS_MAX} links");
        }
        let number = self.links;
        self.links += 1;
        let device = format!("x{number}");
        ip(&format!(
            "link add {device} netns {} type veth peer name {device} netns {}",
            left.name, right.name
        ))?;
        let addresses = (Ipv4Addr::new(10, 201, number, 1), Ipv4Addr::new(10, 201, number, 2));
        for (netns, address) in [(left, addresses.0), (right, addresses.1)] {
            let name = &netns.name;
            ip(&format!("-n {name} address add {address}/24 dev {device}"))?;
            ip(&format!("-n {name} link set {device} up"))?;
            self.ends.push((name.clone(), device.clone()));
            if let Some(rate) = rate {
                let shape = format!("rate {rate} burst {BURST} latency {QUEUE}");
                run("tc", &format!("-n {name} qdisc add dev {device} root tbf {shape}"))?;
            }
        }
        Ok(addresses)
    }

    /// Has TCP cut up what it sends by itself (TSO off) on all links that there are.
    ///
    /// # Errors
    /// No ethtool, or a device that goes on as before.
    pub fn stop_offload(&self) -> Result<()> {
        for (netns, device) in &self.ends {
            let within = format!("netns exec {netns} ethtool");
            ip(&format!("{within} -K {device} tso off")).context("ethtool (Debian) is needed")?;
            let words = format!("{within} -k {device}");
            let output = Command::new("ip").args(words.split_whitespace()).output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            let off = said.contains("tcp-segmentation-offload: off");
            ensure!(off, "{device} in {netns} still cuts packets up: {said}");
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = ip(&format!("netns del {name}")) {
                eprintln!("cannot remove namespace {name}: {error:#}");
            }
        }
    }
}
