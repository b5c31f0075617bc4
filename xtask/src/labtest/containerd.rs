//! containerd as it is packaged, told of its node by a `hosts.toml` and nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::mirror::{self, at_once, client, reference, with_fixture};
use crate::build::Binaries;
use crate::cluster::Cluster;
use crate::image::fixture;
use crate::lab::Lab;
use crate::run;

const NODES: usize = 4;
pub(super) const PACKAGES: &[&str] = &["containerd", "runc"];

/// A containerd on a host, with root, state and sockets of its own.
#[derive(Debug)]
pub(crate) struct Containerd {
    host: String,
    directory: PathBuf,
    cgroup: String,
}

impl Containerd {
    /// Starts it, and waits until it serves. It takes its mounts with it when it goes.
    pub(crate) fn start(cluster: &mut Cluster, host: &str) -> Result<Self> {
        let name = format!("containerd-{host}");
        let directory = Self::directory(&cluster.lab, host);
        let root = Self::root(&cluster.lab, host);
        fs::create_dir(&directory)?;
        let path = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            path("state"),
            path("sock"),
            path("sock.ttrpc"),
            path("opt"),
        );
        fs::write(directory.join("config.toml"), config)?;
        // What it keeps in its usual place, sockets of shims, several would share.
        let script = "mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && \
                      exec containerd --config \"$1\"";
        let mut containerd = Command::new("unshare");
        containerd.args(["--mount", "sh", "-c", script, "sh", &path("config.toml")]);
        cluster.lab.start(host, &name, containerd)?;
        cluster.lab.process(&name)?.wait_for_words("containerd successfully booted")?;
        let cgroup = cluster.lab.cgroup_for_containers(host)?;
        Ok(Self { host: host.to_owned(), directory, cgroup })
    }

    /// Where the one on a host has its configuration, sockets and state.
    pub(crate) fn directory(lab: &Lab, host: &str) -> PathBuf {
        lab.directory().join(format!("containerd-{host}"))
    }

    /// Where the one on a host keeps blobs and what it has unpacked.
    pub(crate) fn root(lab: &Lab, host: &str) -> PathBuf {
        lab.disk().join(format!("containerd-{host}"))
    }

    /// Writes the `hosts.toml` of a registry, as a user does, or `xylem install containerd` for
    /// them: where it is, and who is asked before it.
    pub(crate) fn set_hosts(
        &self,
        cluster: &Cluster,
        registry: &str,
        server: &str,
        mirror: &str,
    ) -> Result<()> {
        let directory = self.directory.join("certs.d").join(registry);
        fs::create_dir_all(&directory)?;
        let authority = cluster.settings.authority.as_ref();
        let ca = authority.map(|file| format!("ca = {:?}\n", file.display().to_string()));
        let ca = ca.unwrap_or_default();
        let text = format!(
            "server = {server:?}\n{ca}\n[host.{mirror:?}]\n  \
             capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(directory.join("hosts.toml"), text).context("cannot name a mirror")
    }

    /// What a `ctr` of one's own has to be told: the socket, `--hosts-dir`, and of `run`
    /// `--cgroup`, `--fifo-dir` and `--runc-root`.
    pub(crate) fn places(&self) -> [PathBuf; 5] {
        let cgroup = PathBuf::from(format!("{}/{}-container", self.cgroup, self.host));
        let in_own = |name: &str| self.directory.join(name);
        [in_own("sock"), in_own("certs.d"), cgroup, in_own("fifo"), in_own("runc")]
    }

    fn ctr(&self, cluster: &Cluster) -> Result<Command> {
        let mut ctr = client(cluster, &self.host, "ctr")?;
        ctr.arg("--address").arg(self.directory.join("sock"));
        Ok(ctr)
    }

    /// `ctr images pull` with a `hosts.toml` that names a mirror before the registry.
    pub(super) fn pull(&self, cluster: &Cluster, image: &str, more: &[&str]) -> Result<Command> {
        self.pull_from(cluster, &cluster.registry_url()?, image, more)
    }

    /// The same where the registry that the image names is there.
    pub(super) fn pull_from(
        &self,
        cluster: &Cluster,
        server: &str,
        image: &str,
        more: &[&str],
    ) -> Result<Command> {
        let (registry, _) = image.split_once('/').context("a reference without a registry")?;
        self.set_hosts(cluster, registry, server, &cluster.node_url(&self.host)?)?;
        let [_, hosts, ..] = self.places();
        let mut ctr = self.ctr(cluster)?;
        ctr.args(["images", "pull", "--hosts-dir"]).arg(hosts).args(more).arg(image);
        Ok(ctr)
    }

    /// `ctr run` of an image that was pulled, removed when it has ended.
    pub(super) fn run(&self, cluster: &Cluster, image: &str) -> Result<Command> {
        let mut ctr = self.ctr(cluster)?;
        let [_, _, cgroup, fifo, runc] = self.places();
        ctr.args(["run", "--rm", "--cgroup"]).arg(cgroup).arg("--fifo-dir").arg(fifo);
        ctr.arg("--runc-root").arg(runc).args([image, &format!("{}-container", self.host)]);
        Ok(ctr)
    }
}

/// Four nodes pull the same image at once and run it; the registry has sent it once.
pub(super) fn pulls_once_for_all(programs: &Binaries) -> Result<()> {
    with_fixture(programs, NODES, &fixture::SMALL, PACKAGES, |cluster| {
        mirror::start(cluster)?;
        let image = cluster.image()?;
        let nodes = cluster.nodes().to_vec();
        let runtimes = nodes.iter().map(|node| Containerd::start(cluster, node));
        let runtimes: Vec<Containerd> = runtimes.collect::<Result<_>>()?;
        let reference = reference();
        let pulls = runtimes.iter().map(|runtime| runtime.pull(cluster, &reference, &[]));
        at_once(pulls.collect::<Result<_>>()?)?;
        let runs = runtimes.iter().map(|runtime| runtime.run(cluster, &reference));
        for said in at_once(runs.collect::<Result<_>>()?)? {
            ensure!(said.contains("handler ran"), "the container says `{said}`");
        }
        cluster.all_alive()?;
        nodes.iter().try_for_each(|node| cluster.verify(node, &image))?;
        mirror::sent_once(cluster, &image)
    })
}

/// Where no node runs the image comes from the registry itself.
pub(super) fn pulls_without_a_node(programs: &Binaries) -> Result<()> {
    with_fixture(programs, 1, &fixture::TINY, PACKAGES, |cluster| {
        cluster.start_registry()?;
        cluster.push()?;
        let node = cluster.nodes()[0].clone();
        let runtime = Containerd::start(cluster, &node)?;
        let reference = reference();
        run::output(&mut runtime.pull(cluster, &reference, &[])?)?;
        let said = run::output(&mut runtime.run(cluster, &reference)?)?;
        ensure!(said.contains("uid=0"), "the container says `{said}`");
        mirror::gone_past(cluster)
    })
}
