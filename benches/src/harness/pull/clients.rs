//! The clients of `bench pull` as they are packaged, each with nothing kept from an earlier pull;
//! they fetch and do not unpack, which would take longer than all the rest.

use crate::harness::Bench;
use crate::harness::machine::seconds;
use crate::harness::process::Process;
use crate::harness::pull::site::{NAME, OWNER, Site, Way, wait_for};
use crate::sys::monotonic_ns;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a client is started by: a place of its own where it would share one with others, then a
/// gate, so that the time of a pull has neither in it.
const SCRIPT: &str = "mkdir -p \"$1\" && mount -t tmpfs tmpfs \"$1\" && shift && \
                      echo ready && read -r go && exec \"$@\"";
/// Where skopeo keeps a cache of where which blob was seen.
const SKOPEO_SHARES: &str = "/var/lib/containers";
/// Where containerd has sockets beside those that it is told of.
const CONTAINERD_SHARES: &str = "/run/containerd";

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// `skopeo copy` into a directory: up to six blobs at once.
    Skopeo,
    /// `ctr content fetch`: containerd's own fetching, into its content store.
    Containerd,
}

/// What a pull took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From the start of the client's program to its end.
    pub seconds: f64,
    /// CPU time of the client.
    pub client_cpu_s: f64,
}

impl Client {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Skopeo, Self::Containerd];

    /// Name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Skopeo => "skopeo copy",
            Self::Containerd => "ctr content fetch",
        }
    }

    /// Pulls an image in one of the ways, and throws away what came.
    ///
    /// # Errors
    /// The client's: it says why on stderr.
    pub fn pull(self, bench: &Bench, site: &Site, way: Way, repository: &str) -> Result<Took> {
        let image = format!("{NAME}/{OWNER}/{repository}:latest");
        let own = bench.path("client");
        fs::create_dir_all(&own)?;
        let took = match self {
            Self::Skopeo => skopeo(site, way, &image, &own),
            Self::Containerd => containerd(site, way, &image, &own),
        };
        fs::remove_dir_all(&own).context("cannot remove what a client was given")?;
        took.with_context(|| format!("{} of {image}, {}", self.name(), way.name()))
    }
}

fn gated(script_for: &str, program: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh", script_for]).args(program);
    command
}

/// Starts a client, lets it go when it is ready, and waits for its end.
fn timed(site: &Site, command: Command) -> Result<Took> {
    let mut client = Process::start(command, &site.machine)?;
    client.expect("ready")?;
    let start_ns = monotonic_ns();
    client.go()?;
    let exit = client.finish()?;
    let seconds_taken = seconds(monotonic_ns() - start_ns);
    Ok(Took { seconds: seconds_taken, client_cpu_s: seconds(exit.cpu_ns) })
}

/// What a user writes, or `xylem install podman` for them.
fn registries_conf(site: &Site, way: Way) -> String {
    let (registry, node) = (site.server, site.node());
    let direct =
        format!("[[registry]]\nprefix = {NAME:?}\nlocation = \"{registry}\"\ninsecure = true\n");
    match way {
        Way::Direct => direct,
        _ => {
            format!("{direct}[[registry.mirror]]\nlocation = \"{node}/{NAME}\"\ninsecure = true\n")
        }
    }
}

fn skopeo(site: &Site, way: Way, image: &str, own: &Path) -> Result<Took> {
    let (config, out) = (own.join("registries.conf"), own.join("out"));
    fs::write(&config, registries_conf(site, way))?;
    let (from, to) = (format!("docker://{image}"), format!("dir:{}", out.display()));
    let config = config.display().to_string();
    let mut skopeo = gated(SKOPEO_SHARES, &["skopeo", "--insecure-policy"]);
    skopeo.args(["--registries-conf", &config, "copy", "--quiet", &from, &to]);
    timed(site, skopeo)
}

/// What a user writes, or `xylem install containerd` for them; without a node, for want of TLS.
fn hosts_toml(site: &Site, way: Way) -> String {
    let host = if way == Way::Direct { site.server } else { site.node() };
    format!(
        "server = \"http://{}\"\n[host.\"http://{host}\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n",
        site.server
    )
}

/// A containerd with root, state and sockets of its own.
fn start_containerd(site: &Site, own: &Path) -> Result<(Process, PathBuf)> {
    let path = |name: &str| own.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
        path("root"),
        path("state"),
        path("sock"),
        path("sock.ttrpc"),
        path("opt"),
    );
    fs::write(own.join("config.toml"), config)?;
    let mut command = gated(CONTAINERD_SHARES, &["containerd", "--config", &path("config.toml")]);
    command.stderr(File::create(own.join("log"))?);
    let mut containerd = Process::start(command, &site.machine)?;
    containerd.expect("ready")?;
    containerd.go()?;
    let socket = own.join("sock");
    let served = wait_for("containerd", || UnixStream::connect(&socket).is_ok());
    served.with_context(|| fs::read_to_string(own.join("log")).unwrap_or_default())?;
    Ok((containerd, socket))
}

fn containerd(site: &Site, way: Way, image: &str, own: &Path) -> Result<Took> {
    let hosts = own.join("certs.d");
    fs::create_dir_all(hosts.join(NAME))?;
    fs::write(hosts.join(NAME).join("hosts.toml"), hosts_toml(site, way))?;
    let (containerd, socket) = start_containerd(site, own)?;
    let (socket, hosts) = (socket.display().to_string(), hosts.display().to_string());
    // Its progress display looks every 100 ms whether it may end: there is none with --debug.
    let mut ctr = gated(CONTAINERD_SHARES, &["ctr", "--debug", "--address", &socket]);
    ctr.args(["content", "fetch", "--hosts-dir", &hosts, image]);
    let said = own.join("ctr.log");
    ctr.stderr(File::create(&said)?);
    let before_ns = containerd.cpu_ns()?;
    let took = timed(site, ctr);
    let mut took = took.with_context(|| fs::read_to_string(&said).unwrap_or_default())?;
    took.client_cpu_s += seconds(containerd.cpu_ns()? - before_ns);
    containerd.stop()?;
    Ok(took)
}
