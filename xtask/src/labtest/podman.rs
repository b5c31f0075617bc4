//! podman, skopeo and buildah as they are packaged: what they share is a `registries.conf`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::mirror::{self, NAME, client, reference, with_fixture};
use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::{Cluster, NODE_PORT, REGISTRY, REGISTRY_PORT};
use crate::image::fixture;
use crate::run;

pub(super) const PACKAGES: &[&str] = &["podman", "runc", "conmon", "skopeo", "buildah"];

/// What these clients are told on a host, and where they keep what they have.
#[derive(Debug)]
pub(super) struct Setting {
    host: String,
    directory: PathBuf,
    storage: PathBuf,
    cgroup: String,
}

impl Setting {
    /// Writes their configuration: the host's node is a mirror of the registry.
    pub(super) fn new(cluster: &mut Cluster, host: &str) -> Result<Self> {
        let name = format!("containers-{host}");
        let directory = cluster.lab.directory().join(&name);
        fs::create_dir(&directory)?;
        let cgroup = cluster.lab.cgroup_for_containers(host)?;
        let storage = cluster.lab.disk().join(&name);
        fs::create_dir(&storage)?;
        let setting = Self { host: host.to_owned(), directory, storage, cgroup };
        setting.mirror(cluster, &[(NAME, REGISTRY_PORT)])?;
        setting.write("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
        setting.write("auth.json", "{}")?;
        // The defaults are limits that a machine may not let its root set.
        let limits = r#"default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]"#;
        setting.write("containers.conf", &format!("[containers]\n{limits}\n"))?;
        Ok(setting)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.directory.join(name), text).with_context(|| format!("cannot write {name}"))
    }

    /// Makes the host's node a mirror of these registries: their names, and the ports where they
    /// really are.
    pub(super) fn mirror(&self, cluster: &Cluster, registries: &[(&str, u16)]) -> Result<()> {
        let node = cluster.lab.host(&self.host)?.at(NODE_PORT);
        let servers = cluster.lab.host(REGISTRY)?;
        let entry = |(name, port): &(&str, u16)| registries_conf(name, servers.at(*port), node);
        self.write("registries.conf", &registries.iter().map(entry).collect::<String>())
    }

    /// Writes credentials as `podman login` does: for the node, which is whom the client asks.
    pub(super) fn log_in(&self, cluster: &Cluster, user: &str, password: &str) -> Result<()> {
        let node = cluster.lab.host(&self.host)?.at(NODE_PORT).to_string();
        let auth = STANDARD.encode(format!("{user}:{password}"));
        self.write("auth.json", &json!({"auths": {node: {"auth": auth}}}).to_string())
    }

    /// A client that finds all this; its mounts go when it ends.
    fn command(&self, cluster: &Cluster, program: &str) -> Result<Command> {
        // They share a cache of where which blob was seen, and a directory of runc's.
        let script = "mkdir -p /var/lib/containers /run/runc && \
                      mount -t tmpfs tmpfs /var/lib/containers && \
                      mount -t tmpfs tmpfs /run/runc && exec \"$@\"";
        let mut command = client(cluster, &self.host, "unshare")?;
        command.args(["--mount", "sh", "-c", script, "sh", program]);
        command.env("CONTAINERS_REGISTRIES_CONF", self.directory.join("registries.conf"));
        command.env("CONTAINERS_CONF", self.directory.join("containers.conf"));
        command.env("TMPDIR", &self.storage);
        command.env("REGISTRY_AUTH_FILE", self.directory.join("auth.json"));
        Ok(command)
    }

    /// `skopeo copy`; its destination follows.
    pub(super) fn skopeo(&self, cluster: &Cluster, image: &str) -> Result<Command> {
        let mut skopeo = self.command(cluster, "skopeo")?;
        skopeo.arg("--policy").arg(self.directory.join("policy.json"));
        skopeo.arg("--registries-conf").arg(self.directory.join("registries.conf"));
        skopeo.args(["copy", "--quiet", &format!("docker://{image}")]);
        Ok(skopeo)
    }

    /// `buildah`; its command follows.
    pub(super) fn buildah(&self, cluster: &Cluster) -> Result<Command> {
        let mut buildah = self.command(cluster, "buildah")?;
        buildah.arg("--root").arg(self.storage.join("root"));
        buildah.arg("--runroot").arg(self.storage.join("run"));
        buildah.args(["--storage-driver", "overlay"]);
        Ok(buildah)
    }

    /// `podman`; its command follows.
    pub(super) fn podman(&self, cluster: &Cluster) -> Result<Command> {
        let mut podman = self.command(cluster, "podman")?;
        podman.arg("--root").arg(self.storage.join("root"));
        podman.arg("--runroot").arg(self.storage.join("run"));
        podman.arg("--tmpdir").arg(self.directory.join("tmp"));
        podman.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        podman.args(["--storage-driver", "overlay", "--runtime", "runc"]);
        Ok(podman)
    }

    /// `--signature-policy` for the commands that take it.
    pub(super) fn policy(&self) -> String {
        format!("--signature-policy={}", self.directory.join("policy.json").display())
    }

    /// `podman run` of an image that was pulled, removed when it has ended.
    pub(super) fn run(&self, cluster: &Cluster, image: &str) -> Result<Command> {
        let mut podman = self.podman(cluster)?;
        podman.args(["run", "--rm", "--pull=never", "--net=none"]);
        podman.args([&format!("--cgroup-parent={}", self.cgroup), image]);
        Ok(podman)
    }
}

/// What a user writes, or `xylem install podman` for them. The clients do not say which registry
/// they mean: the path of the mirror does, in which a port follows two underscores.
fn registries_conf(name: &str, registry: SocketAddr, node: SocketAddr) -> String {
    let path = name.replace(':', "__");
    format!(
        "[[registry]]\nprefix = \"{name}\"\nlocation = \"{registry}\"\ninsecure = true\n\n\
         [[registry.mirror]]\nlocation = \"{node}/{path}\"\ninsecure = true\n\n"
    )
}

fn with_setting(
    programs: &Binaries,
    test: impl FnOnce(&mut Cluster, &Setting, &Image) -> Result<()>,
) -> Result<()> {
    with_fixture(programs, 2, &fixture::TINY, PACKAGES, |cluster| {
        mirror::start(cluster)?;
        let image = cluster.image()?;
        let node = cluster.nodes()[0].clone();
        let setting = Setting::new(cluster, &node)?;
        test(cluster, &setting, &image)?;
        cluster.all_alive()?;
        cluster.verify(&node, &image)?;
        mirror::sent_once(cluster, &image)
    })
}

/// `skopeo copy` by a name that the node is a mirror of.
pub(super) fn skopeo_copies_by_the_registry_s_name(programs: &Binaries) -> Result<()> {
    with_setting(programs, |cluster, setting, image| {
        let out = cluster.lab.disk().join("copy");
        let mut skopeo = setting.skopeo(cluster, &reference())?;
        run::output(skopeo.arg(format!("oci:{}:latest", out.display())))?;
        image.check(&out).context("in what skopeo was given")
    })
}

/// `buildah from`: a working container of the image.
pub(super) fn buildah_begins_from_it(programs: &Binaries) -> Result<()> {
    with_setting(programs, |cluster, setting, image| {
        let mut from = setting.buildah(cluster)?;
        let container =
            run::output(from.args(["from", "--quiet", &setting.policy(), &reference()]))?;
        let mut inspect = setting.buildah(cluster)?;
        inspect.args(["inspect", "--format", "{{.FromImageDigest}}", container.trim()]);
        let digest = run::output(&mut inspect)?;
        ensure!(digest.trim() == image.digest, "buildah has begun from {digest}");
        run::output(setting.buildah(cluster)?.args(["rm", container.trim()])).map(|_| ())
    })
}

/// `podman pull` and `podman run`.
pub(super) fn podman_pulls_and_runs(programs: &Binaries) -> Result<()> {
    with_setting(programs, |cluster, setting, _| {
        let mut pull = setting.podman(cluster)?;
        run::output(pull.args(["pull", "--quiet", &setting.policy(), &reference()]))?;
        let said = run::output(&mut setting.run(cluster, &reference())?)?;
        ensure!(said.contains("uid=0"), "the container says `{said}`");
        Ok(())
    })
}
