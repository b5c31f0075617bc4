//! The machines of `bench pull`: one with a `docker-registry`, one for a client and the node beside
//! it, and how a node is started cold in each of the ways that are compared.

use crate::harness::Bench;
use crate::harness::daemon::Daemon;
use crate::harness::lab::{Lab, Netns};
use crate::harness::process::Process;
use crate::http;
use crate::sys;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The registry as images name it: not where it is.
pub const NAME: &str = "registry.example.com";
/// Repositories are below this.
pub const OWNER: &str = "bench";
const REGISTRY_PORT: u16 = 5000;
const CONTROL_PORT: u16 = 4440;
/// How long a server may take until it serves.
const START_MAX: Duration = Duration::from_secs(30);
/// How often that is looked for.
const START_PERIOD: Duration = Duration::from_millis(5);

/// What stands between the client and the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    Direct,
    /// A node without control.
    Node,
    /// A node that control knows; it is alone in its tree.
    Control,
    /// The same, and control has stopped answering.
    Stalled,
}

impl Way {
    /// All, in the order of the table; the first is what the others are compared with.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Node, Self::Control, Self::Stalled];

    /// Name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Node => "node",
            Self::Control => "node, control",
            Self::Stalled => "node, control stalled",
        }
    }
}

/// A cold node, and its control if it has one.
#[derive(Debug)]
pub struct Node {
    daemon: Daemon,
    control: Option<Process>,
    cpu_ns: u64,
}

impl Node {
    /// CPU time since it was ready, in nanoseconds.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_ns(&self) -> Result<u64> {
        Ok(self.daemon.process.cpu_ns()? - self.cpu_ns)
    }

    /// Fails unless the node has that blob for good: the client has come this way.
    ///
    /// # Errors
    /// The client has gone past the node.
    pub fn has(&self, digest: &str) -> Result<()> {
        self.daemon.committed(digest).map(drop)
    }

    /// Ends it and removes its store.
    ///
    /// # Errors
    /// It does not end well.
    pub fn stop(self) -> Result<()> {
        self.daemon.stop()?;
        // Control keeps nothing, and one that is stalled cannot be asked.
        drop(self.control);
        Ok(())
    }
}

/// Two machines and a registry.
#[derive(Debug)]
pub struct Site {
    registry: Process,
    /// Where clients and nodes run.
    pub machine: Netns,
    /// Where the registry is.
    pub server: SocketAddr,
    server_machine: Netns,
    address: Ipv4Addr,
    _lab: Lab,
}

/// Waits until something is there, within a bound.
///
/// # Errors
/// It does not come.
pub fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_MAX;
    while !is_there() {
        if Instant::now() > deadline {
            bail!("no {what} after {START_MAX:?}");
        }
        thread::sleep(START_PERIOD);
    }
    Ok(())
}

impl Site {
    /// Makes both machines, the link between them of this rate (without one it is not shaped), and
    /// an empty registry.
    ///
    /// # Errors
    /// No privilege, or a missing program.
    pub fn new(bench: &Bench, rate: Option<&str>) -> Result<Self> {
        let mut lab = Lab::new()?;
        let (server_machine, machine) = (lab.netns("r")?, lab.netns("n")?);
        let (there, address) = lab.link(&server_machine, &machine, rate)?;
        let server: SocketAddr = (there, REGISTRY_PORT).into();
        let config = bench.path("registry.yml");
        let root = bench.path("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{server}\", secret: bench}}\n",
            root.display()
        );
        fs::write(&config, text).context("cannot write the registry's configuration")?;
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        serve.stderr(File::create(bench.path("registry.log"))?);
        let registry = Process::start(serve, &server_machine)?;
        machine.within(|| wait_for("registry", || TcpStream::connect(server).is_ok()))?;
        Ok(Self { registry, machine, server, server_machine, address, _lab: lab })
    }

    /// Puts an OCI layout into the registry; what is read of it later is in the page cache then.
    ///
    /// # Errors
    /// No skopeo, or what it says.
    pub fn push(&self, layout: &std::path::Path, repository: &str) -> Result<()> {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.args(["--preserve-digests", &format!("oci:{}", layout.display())]);
        skopeo.arg(format!("docker://{}/{OWNER}/{repository}:latest", self.server));
        Process::start(skopeo, &self.server_machine)?.finish().map(drop)
    }

    /// CPU time of the registry so far, in nanoseconds.
    ///
    /// # Errors
    /// It has ended.
    pub fn registry_cpu_ns(&self) -> Result<u64> {
        self.registry.cpu_ns()
    }

    /// Where a client finds the node on its machine.
    #[must_use]
    pub fn node(&self) -> SocketAddr {
        Daemon::at(Ipv4Addr::LOCALHOST)
    }

    /// Starts what stands in the way: a node with an empty store, or nothing.
    ///
    /// # Errors
    /// A program that does not start.
    pub fn start(&self, bench: &Bench, way: Way) -> Result<Option<Node>> {
        let at = Daemon::at(self.address).to_string();
        let registry = format!("{NAME}=http://{}", self.server);
        let mut arguments = vec!["--advertise", &at, "--registry", &registry];
        let control: SocketAddr = (self.server.ip(), CONTROL_PORT).into();
        let url = format!("http://{control}");
        let process = match way {
            Way::Direct => return Ok(None),
            Way::Node => None,
            Way::Control | Way::Stalled => {
                arguments.extend(["--control", &url]);
                Some(self.start_control(bench, control)?)
            }
        };
        let daemon = Daemon::start(bench, &self.machine, "n", self.server, &arguments)?;
        if let Some(control) = &process {
            let node = self.node();
            let known = || status(node).is_ok_and(|it| it["control"]["connected"] == true);
            self.machine.within(|| wait_for("connection to control", known))?;
            if way == Way::Stalled {
                sys::freeze(control.pid())?;
            }
        }
        let cpu_ns = daemon.process.cpu_ns()?;
        Ok(Some(Node { daemon, control: process, cpu_ns }))
    }

    fn start_control(&self, bench: &Bench, at: SocketAddr) -> Result<Process> {
        let mut command = Command::new(bench.program("xylem-control"));
        command.args(["--listen", &at.to_string()]);
        let mut control = Process::start(command, &self.server_machine)?;
        control.expect("listening on")?;
        Ok(control)
    }
}

/// What a node says of itself; to be called on its machine.
fn status(node: SocketAddr) -> Result<Value> {
    Ok(serde_json::from_slice(&http::fetch(node, "/xylem/v1/status")?)?)
}
