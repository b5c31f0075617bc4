//! A lab: hosts with an address and a shaped link each, processes on them, and its own removal.
//!
//! With root a host is a network namespace, wired to a bridge in a namespace of its own; nothing
//! is left in the namespace that we were started in. Without root a host is a loopback address.
//! Whatever a lab makes is removed when it is dropped, and written into a journal first, so that
//! `cargo xtask clean` can remove it when nobody was left to drop it.

pub(crate) mod clean;
mod journal;
pub(crate) mod measure;
mod network;
pub(crate) mod process;
pub(crate) mod traffic;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{run, setup, sys};
use journal::Journal;
use process::Process;

/// Hosts in one lab: what the addresses of a /24 leave, and far more than one machine carries.
pub(crate) const HOSTS_MAX: usize = 250;
/// How long a process may take to say goodbye before it is killed.
const GOODBYE: Duration = Duration::from_secs(5);

static LABS: AtomicU32 = AtomicU32::new(0);

/// One machine of the lab.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its name within the lab.
    pub(crate) name: String,
    /// Its address; every host has its own, so ports need not differ.
    pub(crate) address: Ipv4Addr,
    /// The name of its network namespace; none on loopback.
    pub(crate) netns: Option<String>,
    cgroup: Option<PathBuf>,
}

impl Host {
    /// A port of this host.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }
}

/// The lab. Dropping it removes everything, unless [`Lab::keep`] was called.
#[derive(Debug)]
pub(crate) struct Lab {
    /// What the names of its namespaces begin with.
    pub(crate) tag: String,
    directory: PathBuf,
    disk: PathBuf,
    hosts: Vec<Host>,
    processes: BTreeMap<String, Process>,
    journal: Journal,
    kept: bool,
}

impl Lab {
    /// Makes the hosts. `rate` is what `tc` understands (`1gbit`); it is ignored on loopback.
    pub(crate) fn new(names: &[String], rate: Option<&str>) -> Result<Self> {
        ensure!(names.len() <= HOSTS_MAX, "a lab has at most {HOSTS_MAX} hosts");
        clean::abandoned()?;
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let directory = PathBuf::from(format!("/tmp/xylem-lab-{id}"));
        let journal = Journal::create(&directory)?;
        // From here on the value exists, so that an error on the way removes what is there.
        let mut lab = Self {
            tag: format!("{}{id}", clean::TAG),
            disk: PathBuf::from(format!("/var/tmp/xylem-lab-{id}")),
            directory,
            hosts: Vec::new(),
            processes: BTreeMap::new(),
            journal,
            kept: false,
        };
        lab.journal.note("directory", &lab.disk.display().to_string())?;
        fs::create_dir(&lab.disk).context("cannot make the directory of the stores")?;
        if sys::is_root() {
            lab.make_hosts_of_namespaces(names, rate)?;
        } else {
            lab.make_hosts_of_loopback(names);
        }
        Ok(lab)
    }

    fn make_hosts_of_namespaces(&mut self, names: &[String], rate: Option<&str>) -> Result<()> {
        if !(run::has("ip") && run::has("tc")) {
            setup::debian_packages(&["iproute2"])?;
        }
        let cgroups = match cgroup_mount() {
            Some(mount) => {
                let root = mount.join(self.cgroup_name());
                self.journal.note("cgroup", &root.display().to_string())?;
                // A read-only hierarchy, as in a container, is the same as none.
                fs::create_dir(&root).is_ok().then_some(root)
            }
            None => None,
        };
        self.journal.note("netns", &self.tag)?;
        let switch = network::Switch::new(&self.tag)?;
        for (index, name) in names.iter().enumerate() {
            run::go_on()?;
            let cgroup = cgroups.as_ref().map(|root| root.join(name));
            if let Some(cgroup) = &cgroup {
                fs::create_dir(cgroup).context("cannot make a cgroup")?;
            }
            let address = network::address(index);
            let netns = switch.plug(index, name, address, rate)?;
            self.hosts.push(Host { name: name.clone(), address, netns: Some(netns), cgroup });
        }
        Ok(())
    }

    fn cgroup_name(&self) -> String {
        format!("xylem-lab-{}", &self.tag[clean::TAG.len()..])
    }

    /// The cgroup, as a runtime names it, below which the containers of a host are to be. A
    /// runtime makes it, in whatever hierarchies there are; the lab removes it.
    pub(crate) fn cgroup_for_containers(&mut self, host: &str) -> Result<String> {
        let name = self.cgroup_name();
        for mount in mounts_of(&["cgroup", "cgroup2"]) {
            self.journal.note("cgroup", &mount.join(&name).display().to_string())?;
        }
        Ok(format!("/{name}/{host}-containers"))
    }

    fn make_hosts_of_loopback(&mut self, names: &[String]) {
        // All of 127/8 is ours: two octets from the process id keep two labs apart.
        let [.., high, low] = std::process::id().to_be_bytes();
        for (last, name) in (1..=u8::MAX).zip(names) {
            let address = Ipv4Addr::new(127, high.max(1), low, last);
            self.hosts.push(Host { name: name.clone(), address, netns: None, cgroup: None });
        }
    }

    /// All hosts, in the order in which they were made.
    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its name.
    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).with_context(|| format!("no host {name}"))
    }

    /// Changes the rate at which a host sends; what it receives keeps its own. Nothing on loopback.
    pub(crate) fn shape_uplink(&self, name: &str, rate: &str) -> Result<()> {
        match &self.host(name)?.netns {
            Some(netns) => network::shape(netns, "eth0", rate),
            None => Ok(()),
        }
    }

    /// Parts a host from all others: nothing that is sent to it or by it arrives. Namespaces only.
    pub(crate) fn cut_off(&self, name: &str) -> Result<()> {
        self.plug(name, false)
    }

    /// Brings a host that was cut off back.
    pub(crate) fn connect(&self, name: &str) -> Result<()> {
        self.plug(name, true)
    }

    fn plug(&self, name: &str, plugged: bool) -> Result<()> {
        ensure!(self.is_isolated(), "hosts on loopback cannot be parted");
        let index = self.hosts.iter().position(|host| host.name == name);
        network::plug(&self.tag, index.with_context(|| format!("no host {name}"))?, plugged)
    }

    /// A directory of the lab for small files: configuration and logs.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory of the lab on a real file system: stores, which want `O_DIRECT`.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    /// Whether links are shaped and hosts separate.
    pub(crate) fn is_isolated(&self) -> bool {
        self.hosts.iter().all(|host| host.netns.is_some())
    }

    /// Runs `work` on a thread inside the network of a host.
    pub(crate) fn within<T: Send>(
        &self,
        host: &str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        let host = self.host(host)?;
        let namespace = host.netns.as_deref().map(network::open).transpose()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                if let Some(namespace) = &namespace {
                    sys::enter_netns(namespace).context("cannot enter the namespace")?;
                }
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Prepares a command so that it starts on a host: in its network and in its cgroup.
    pub(crate) fn place(&self, host: &str, command: &mut Command) -> Result<()> {
        let host = self.host(host)?;
        let netns = host.netns.as_deref().map(network::open).transpose()?;
        let procs = host.cgroup.as_ref().map(|cgroup| {
            File::options().write(true).open(cgroup.join("cgroup.procs")).context("no cgroup.procs")
        });
        sys::confine(command, netns, procs.transpose()?);
        Ok(())
    }

    /// Starts a daemon on a host under a name of its own; its output goes to a file of that name.
    pub(crate) fn start(&mut self, host: &str, name: &str, mut command: Command) -> Result<()> {
        ensure!(!self.processes.contains_key(name), "{name} runs already");
        self.place(host, &mut command)?;
        let log = self.directory.join(format!("{name}.log"));
        let process = Process::start(name, command, log)?;
        self.journal.note("process", &journal::stamp(process.pid()))?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Starts a command on a host that the caller will wait for; its stderr goes to a file.
    pub(crate) fn spawn(&mut self, host: &str, name: &str, mut command: Command) -> Result<Child> {
        self.place(host, &mut command)?;
        let log = self.directory.join(format!("{name}.log"));
        command.stderr(File::create(&log).context("cannot write a log")?);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        self.journal.note("process", &journal::stamp(child.id()))?;
        Ok(child)
    }

    /// The names of all running processes.
    pub(crate) fn process_names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// A process by its name.
    pub(crate) fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("no process {name}"))
    }

    /// Ends a process with a signal and waits until it is gone.
    pub(crate) fn end(&mut self, name: &str, signal: i32) -> Result<()> {
        let mut process = self.processes.remove(name).with_context(|| format!("no {name}"))?;
        process.end(signal, GOODBYE)
    }

    /// The last lines of every log, for whoever has to find out what went wrong.
    pub(crate) fn story(&self) -> String {
        let tails = self.processes.values().map(|process| {
            format!("--- {} (pid {})\n{}", process.name(), process.pid(), process.tail())
        });
        tails.collect()
    }

    /// Leaves everything as it is when this value is dropped; `cargo xtask clean` removes it.
    pub(crate) fn keep(&mut self) -> Result<()> {
        self.journal.keep()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for process in self.processes.values_mut() {
            process.ask_to_end();
        }
        for process in self.processes.values_mut() {
            let _ = process.end(libc::SIGTERM, GOODBYE);
        }
        if let Err(error) = clean::remove(&self.directory) {
            eprintln!("warning: {error:#}; try `cargo xtask clean`");
        }
    }
}

/// Where the cgroup v2 hierarchy is mounted, if anywhere: never assume a path.
pub(crate) fn cgroup_mount() -> Option<PathBuf> {
    mounts_of(&["cgroup2"]).into_iter().next()
}

/// Where file systems of these types are mounted.
fn mounts_of(types: &[&str]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        let path = fields.nth(1)?;
        types.contains(&fields.next()?).then(|| PathBuf::from(path))
    };
    mounts.lines().filter_map(mount).collect()
}
