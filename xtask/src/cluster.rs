//! Registry, control and nodes on the hosts of a lab, and what can be asked of them by HTTP.
//!
//! The demo and the lab tests stand on this; it decides nothing about what is good or bad.

pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod nginx;
pub(crate) mod pull;
pub(crate) mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::Binaries;
use crate::lab::Lab;
use crate::{http, run};
use image::Image;
use pull::Pull;

/// The data port of every node.
pub(crate) const NODE_PORT: u16 = 4400;
/// The port of control.
pub(crate) const CONTROL_PORT: u16 = 4440;
/// The port of the registry.
pub(crate) const REGISTRY_PORT: u16 = 5000;
/// The host and the process of the registry; hops call it so too.
pub(crate) const REGISTRY: &str = "registry";
/// The host and the process of control.
pub(crate) const CONTROL: &str = "control";
/// The name under which the image is pushed.
pub(crate) const REPOSITORY: &str = "demo";
/// The tag under which the image is pushed.
pub(crate) const TAG: &str = "latest";

/// How long hop reports have to stay the same: a node reports each second.
const REPORTS_STILL: Duration = Duration::from_millis(2500);

/// Who serves the image at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Debian's `docker-registry`, filled by `skopeo`.
    DockerRegistry,
    /// An `xylemd` whose upstream is the image layout.
    Embedded,
}

/// One edge of a tree, as control tells it. What nobody could measure is none.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Hop {
    /// Who sends: a node or [`REGISTRY`].
    pub(crate) parent: String,
    /// Who receives.
    pub(crate) child: String,
    /// Payload bytes counted by the relay.
    pub(crate) relay_bytes: u64,
    /// Payload bytes counted by the kernel; nothing is known where `source` is `none`.
    pub(crate) kernel_bytes: u64,
    /// Where the kernel's figures come from: `bpf`, `tcp_info` or `none`.
    pub(crate) source: String,
    /// Megabits per second while it flowed.
    pub(crate) mbit_s: Option<f64>,
    /// Smoothed round trip time.
    pub(crate) srtt_ms: Option<f64>,
    /// Segments sent again.
    pub(crate) retransmits: Option<u64>,
    /// Median time from the request to the first byte of an answer.
    pub(crate) first_byte_ms: Option<f64>,
    /// What limits the hop.
    pub(crate) verdict: String,
    /// Everything else that the report has.
    #[serde(flatten)]
    pub(crate) more: BTreeMap<String, Value>,
}

impl Hop {
    /// What the kernel counted, if it did.
    pub(crate) fn kernel_bytes(&self) -> Option<u64> {
        (self.source != "none").then_some(self.kernel_bytes)
    }

    /// The same for one hop as [`unread_bytes`].
    pub(crate) fn unread_bytes(&self) -> Result<u64> {
        let (parent, child, relay) = (&self.parent, &self.child, self.relay_bytes);
        let kernel = self.kernel_bytes();
        let kernel =
            kernel.with_context(|| format!("{parent} to {child}: the kernel counted nothing"))?;
        let unread = kernel.checked_sub(relay);
        unread.with_context(|| format!("{parent} to {child}: relay {relay}, kernel {kernel} bytes"))
    }
}

/// The processes of one lab, and the image they are about.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The hosts and processes. Dropped last of all: it takes everything down.
    pub(crate) lab: Lab,
    /// The programs.
    pub(crate) programs: Binaries,
    /// Who serves the image at first.
    pub(crate) origin: Origin,
    /// The image as an OCI layout, `DIR` or `DIR:TAG`; to be set before the registry starts.
    pub(crate) layout: PathBuf,
    /// How a `docker-registry` is to be; to be set before it starts.
    pub(crate) settings: registry::Settings,
    /// The shape of the trees, if it is not to be control's default; to be set before it starts.
    pub(crate) shape: Option<String>,
    /// What nodes are to log, if it is not to be their default; to be set before they start.
    pub(crate) log: Option<&'static str>,
    /// Memory of a node for slots, if it is not to be its default; to be set before they start.
    pub(crate) memory: Option<String>,
    nodes: Vec<String>,
}

impl Cluster {
    /// Makes the hosts `registry`, `control` and `n1` and so on; starts nothing yet.
    pub(crate) fn new(
        programs: &Binaries,
        nodes: usize,
        rate: Option<&str>,
        origin: Origin,
    ) -> Result<Self> {
        let nodes: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
        let servers = [REGISTRY, CONTROL].map(str::to_owned);
        let hosts: Vec<String> = servers.into_iter().chain(nodes.iter().cloned()).collect();
        let lab = Lab::new(&hosts, rate)?;
        let (layout, settings) = (PathBuf::new(), registry::Settings::default());
        let programs = programs.clone();
        Ok(Self {
            lab,
            programs,
            origin,
            layout,
            settings,
            shape: None,
            log: None,
            memory: None,
            nodes,
        })
    }

    /// The names of the nodes.
    pub(crate) fn nodes(&self) -> &[String] {
        &self.nodes
    }

    /// Starts everything: the registry with the image in it, control, all nodes.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_registry()?;
        self.push()?;
        self.start_control()?;
        for node in self.nodes.clone() {
            self.start_node(&node, &[])?;
        }
        Ok(())
    }

    /// Starts the registry, or starts it again over what it had stored.
    pub(crate) fn start_registry(&mut self) -> Result<()> {
        match self.origin {
            Origin::DockerRegistry => self.start_docker_registry(REGISTRY, REGISTRY_PORT),
            Origin::Embedded => {
                let address = self.lab.host(REGISTRY)?.at(REGISTRY_PORT).to_string();
                let mut serve = self.xylemd(REGISTRY, &address);
                let (directory, _) = self.layout_and_tag()?;
                serve.args(["--upstream", &format!("oci:{}", directory.display())]);
                serve.args(["--probes", "off"]);
                self.lab.start(REGISTRY, REGISTRY, serve)?;
                self.lab.process(REGISTRY)?.wait_for_words(" listening on ")
            }
        }
    }

    /// Starts a registry on the registry's host, under a name and at a port of its own.
    pub(crate) fn start_docker_registry(&mut self, name: &str, port: u16) -> Result<()> {
        let address = self.lab.host(REGISTRY)?.at(port);
        let config = self.lab.directory().join(format!("{name}.yml"));
        let text = self.settings.text(&address.to_string(), &self.lab.disk().join(name));
        fs::write(&config, text).context("cannot write the registry's configuration")?;
        let mut serve = run::command("docker-registry");
        serve.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        self.lab.start(REGISTRY, name, serve)?;
        // It says nothing when it is ready: it is when it answers.
        let what = format!("an answer of {name} (pid {})", self.lab.process(name)?.pid());
        run::wait_for(&what, Duration::from_secs(20), || {
            self.lab.process(name)?.is_alive()?;
            Ok(self.lab.within(REGISTRY, || http::get(address, "/v2/", &[])).ok().map(|_| ()))
        })
    }

    /// Puts the image into the registry; the embedded one has it already.
    pub(crate) fn push(&mut self) -> Result<()> {
        if self.origin == Origin::Embedded {
            return Ok(());
        }
        let layout = format!("oci:{}", self.layout.display());
        self.push_as(&layout, &format!("{REPOSITORY}:{TAG}"), &["--preserve-digests"])?;
        // It was asked for every blob before it had it, and has said so: that is no news.
        self.lab.process(REGISTRY)?.forget();
        Ok(())
    }

    /// Where the registry is.
    pub(crate) fn registry_url(&self) -> Result<String> {
        self.registry_url_at(REGISTRY_PORT)
    }

    /// Where the registry at that port is.
    pub(crate) fn registry_url_at(&self, port: u16) -> Result<String> {
        let scheme = if self.settings.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.lab.host(REGISTRY)?.at(port)))
    }

    /// Copies an image into the registry, with what `skopeo copy` needs to know more.
    pub(crate) fn push_as(&self, from: &str, name_and_tag: &str, more: &[&str]) -> Result<()> {
        self.push_to(REGISTRY_PORT, from, name_and_tag, more)
    }

    /// The same for the registry at that port.
    pub(crate) fn push_to(
        &self,
        port: u16,
        from: &str,
        name_and_tag: &str,
        more: &[&str],
    ) -> Result<()> {
        let registry = self.lab.host(REGISTRY)?.at(port);
        let mut skopeo = run::command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.args(more).args([from, &format!("docker://{registry}/{name_and_tag}")]);
        self.lab.place(REGISTRY, &mut skopeo)?;
        run::output(&mut skopeo).map(|_| ()).with_context(|| format!("cannot push {name_and_tag}"))
    }

    /// What to pull: registry, name and tag.
    pub(crate) fn reference(&self) -> Result<String> {
        let registry = self.lab.host(REGISTRY)?.at(REGISTRY_PORT);
        Ok(format!("{registry}/{REPOSITORY}:{}", self.tag()?))
    }

    /// The image's tag in the registry: the embedded one has it as the layout does.
    fn tag(&self) -> Result<String> {
        match self.origin {
            Origin::DockerRegistry => Ok(TAG.to_owned()),
            Origin::Embedded => Ok(self.layout_and_tag()?.1),
        }
    }

    fn layout_and_tag(&self) -> Result<(PathBuf, String)> {
        let found = layout::split(&self.layout);
        let (directory, tag) =
            found.with_context(|| format!("{} is no OCI image layout", self.layout.display()))?;
        let tag = tag.map_or_else(|| layout::only_tag(&directory), Ok)?;
        Ok((directory, tag))
    }

    /// What the registry says the image is.
    pub(crate) fn image(&self) -> Result<Image> {
        let registry = self.lab.host(REGISTRY)?.at(REGISTRY_PORT);
        let tag = self.tag()?;
        self.lab.within(REGISTRY, || Image::ask(registry, REPOSITORY, &tag))
    }

    /// Starts control.
    pub(crate) fn start_control(&mut self) -> Result<()> {
        let address = self.lab.host(CONTROL)?.at(CONTROL_PORT).to_string();
        let mut control = Command::new(&self.programs.control);
        control.args(["--listen", &address]);
        if let Some(shape) = &self.shape {
            control.args(["--shape", shape]);
        }
        self.lab.start(CONTROL, CONTROL, control)?;
        self.lab.process(CONTROL)?.wait_for_words(" listening on ")
    }

    /// Starts a node, or starts it again over its store, with more arguments at the end.
    pub(crate) fn start_node(&mut self, node: &str, more: &[&str]) -> Result<()> {
        let address = self.lab.host(node)?.at(NODE_PORT).to_string();
        let control = self.lab.host(CONTROL)?.at(CONTROL_PORT);
        let mut xylemd = self.xylemd(node, &address);
        xylemd.args(["--upstream", &self.registry_url()?]);
        xylemd.args(["--control", &format!("http://{control}")]);
        if let Some(object) = &self.programs.object {
            xylemd.arg("--probe-object").arg(object);
        }
        xylemd.args(more);
        self.lab.start(node, node, xylemd)?;
        self.lab.process(node)?.wait_for_words(" listening on ")
    }

    fn xylemd(&self, name: &str, address: &str) -> Command {
        let mut xylemd = Command::new(&self.programs.xylemd);
        xylemd.args(["--node", name, "--listen", address]).arg("--store").arg(self.store(name));
        if let Some(log) = self.log {
            xylemd.args(["--log", log]);
        }
        if let Some(memory) = &self.memory {
            xylemd.args(["--memory", memory]);
        }
        if !self.lab.is_isolated() {
            // Without root all nodes share what their user may lock.
            xylemd.args(["--lock", "off"]);
        }
        xylemd
    }

    /// The store of a node.
    pub(crate) fn store(&self, node: &str) -> PathBuf {
        self.lab.disk().join(format!("{node}-store"))
    }

    /// Where a node serves.
    pub(crate) fn node_url(&self, node: &str) -> Result<String> {
        Ok(format!("http://{}", self.lab.host(node)?.at(NODE_PORT)))
    }

    /// Starts a pull of the image on a node, with the command line that a user would type.
    pub(crate) fn pull(&mut self, node: &str) -> Result<Pull> {
        let url = self.node_url(node)?;
        let mut xylem = Command::new(&self.programs.xylem);
        xylem.args(["--node-url", &url, "pull", &self.reference()?, "--json"]);
        Pull::start(&mut self.lab, node, xylem)
    }

    /// `GET` from a node or from control, as JSON.
    pub(crate) fn get(&self, host: &str, path: &str) -> Result<Value> {
        let port = if host == CONTROL { CONTROL_PORT } else { NODE_PORT };
        let to = self.lab.host(host)?.at(port);
        let answer = self.lab.within(host, || http::get(to, path, &[]))?;
        let status = answer.status;
        ensure!(status == 200, "{host} answers {status} to GET {path}");
        answer.json()
    }

    /// The nodes whose uplinks control takes for slow.
    pub(crate) fn slow_uplinks(&self) -> Result<Vec<String>> {
        let status = self.get(CONTROL, "/api/v1/status")?;
        let nodes = status["nodes"].as_array().context("a status without nodes")?;
        let slow = nodes.iter().filter(|node| node["slow_uplink"] == true);
        Ok(slow.filter_map(|node| node["node"].as_str().map(str::to_owned)).collect())
    }

    /// All hops that control knows.
    pub(crate) fn hops(&self) -> Result<Vec<Hop>> {
        let mut answer = self.get(CONTROL, "/api/v1/hops")?;
        serde_json::from_value(answer["hops"].take()).context("cannot read the hops")
    }

    /// The hops once reports have caught up: every node has the image's bytes on its hops.
    pub(crate) fn settled_hops(&self, image: &Image, bound: Duration) -> Result<Vec<Hop>> {
        self.settled_hops_of(&self.nodes, image, bound)
    }

    /// The same where only these nodes have pulled.
    pub(crate) fn settled_hops_of(
        &self,
        nodes: &[String],
        image: &Image,
        bound: Duration,
    ) -> Result<Vec<Hop>> {
        let all_in = |hops: &[Hop]| {
            nodes.iter().all(|node| {
                let own = hops.iter().filter(|hop| hop.child == *node);
                own.map(|hop| hop.relay_bytes).sum::<u64>() >= image.body_bytes()
            })
        };
        // One end's report can come a round before the other's: what has stopped to change is all.
        let mut seen: Option<(Vec<Hop>, Instant)> = None;
        let settled = run::wait_for("the hop reports of all nodes", bound, || {
            let hops = self.hops()?;
            let same = seen.as_ref().is_some_and(|(before, _)| same_counts(before, &hops));
            match &seen {
                Some((_, since)) if same && since.elapsed() >= REPORTS_STILL => Ok(Some(hops)),
                Some(_) if same => Ok(None),
                _ => {
                    seen = all_in(&hops).then(|| (hops, Instant::now()));
                    Ok(None)
                }
            }
        });
        settled.or_else(|late| {
            let hops = self.hops()?;
            ensure!(!hops.is_empty(), late);
            eprintln!("warning: {late}");
            Ok(hops)
        })
    }

    /// What `xylem` prints for a command that asks control.
    pub(crate) fn ask_control(&self, command: &str) -> Result<String> {
        let url = format!("http://{}", self.lab.host(CONTROL)?.at(CONTROL_PORT));
        let mut xylem = Command::new(&self.programs.xylem);
        xylem.args(["--control", &url, command]);
        self.lab.place(CONTROL, &mut xylem)?;
        run::output(&mut xylem)
    }

    /// Reads a node's store and compares every blob of the image with its digest.
    pub(crate) fn verify(&self, node: &str, image: &Image) -> Result<()> {
        image.check(&self.store(node)).with_context(|| format!("in the store of {node}"))
    }

    /// Fails if a process that ought to run has ended, with the end of its log.
    pub(crate) fn all_alive(&mut self) -> Result<()> {
        for name in self.lab.process_names() {
            self.lab.process(&name)?.is_alive()?;
        }
        Ok(())
    }

    /// Ends every process but the registry, and removes what nodes have stored, and more.
    pub(crate) fn clear(&mut self, more: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        for name in self.lab.process_names() {
            if name != REGISTRY {
                self.lab.end(&name, libc::SIGTERM)?;
            }
        }
        let stores = self.nodes.iter().map(|node| self.store(node));
        for directory in stores.chain(more).filter(|directory| directory.exists()) {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        Ok(())
    }

    /// Waits for something a node's status says.
    pub(crate) fn wait_for_status(
        &mut self,
        node: &str,
        what: &str,
        bound: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        run::wait_for(&format!("{what} on {node}"), bound, || {
            self.lab.process(node)?.is_alive()?;
            Ok(self.get(node, "/xylem/v1/status").ok().filter(&is_so))
        })
    }
}

fn same_counts(before: &[Hop], now: &[Hop]) -> bool {
    let counts = |hops: &[Hop]| {
        let count = |hop: &Hop| (hop.relay_bytes, hop.kernel_bytes, hop.first_byte_ms);
        hops.iter().map(count).collect::<Vec<_>>()
    };
    counts(before) == counts(now)
}

/// Which origin this machine can have: installs the registry where that is possible.
pub(crate) fn choose_origin() -> Origin {
    let is_here = || run::has("docker-registry") && run::has("skopeo");
    if is_here() {
        return Origin::DockerRegistry;
    }
    let installed = crate::setup::debian_packages(&["docker-registry", "skopeo"]);
    if installed.is_ok() && is_here() {
        return Origin::DockerRegistry;
    }
    let why = installed.err().map_or("not where it is looked for".to_owned(), |e| format!("{e:#}"));
    eprintln!("no docker-registry ({why}): an xylemd serves the image instead");
    Origin::Embedded
}

/// The sum of the payload bytes of the hops that begin at the registry.
pub(crate) fn origin_bytes(hops: &[Hop]) -> u64 {
    let own = hops.iter().filter(|hop| hop.parent == REGISTRY);
    own.map(|hop| hop.kernel_bytes().unwrap_or(hop.relay_bytes)).sum()
}

/// Bytes that the kernel has taken and no relay has read: what sources had sent when they were left
/// for others. Fails where the kernel has counted nothing, or less than the relay.
pub(crate) fn unread_bytes(hops: &[Hop]) -> Result<u64> {
    hops.iter().map(Hop::unread_bytes).sum()
}
