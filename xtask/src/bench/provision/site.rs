//! The lab of one workload: what all variants share, and how each begins from nothing and is gone
//! when it ends; which processes a variant has is not known here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::variant::Workload;
use crate::build::Binaries;
use crate::cluster::image::{Image, hash};
use crate::cluster::{self, Cluster, Origin, REGISTRY, REGISTRY_PORT, TAG};
use crate::lab::measure;
use crate::run;

/// How long a server may take until it listens.
const LISTENS_MAX: Duration = Duration::from_secs(30);

/// Programs that are not of the lab.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    /// Ours.
    pub(super) programs: Binaries,
    /// The model that stores and forwards.
    pub(super) forward: PathBuf,
    /// A Python that has libtorrent, where it is wanted.
    pub(super) python: Option<PathBuf>,
}

/// The registry with the data in it, and nodes that have nothing.
#[derive(Debug)]
pub(super) struct Site {
    /// The lab and our own processes in it.
    pub(super) cluster: Cluster,
    /// The programs.
    pub(super) tools: Tools,
    /// What is brought.
    pub(super) workload: Workload,
    /// The images by their repositories, as the registry describes them; one, where not many are
    /// brought.
    pub(super) images: Vec<(String, Image)>,
    layout: PathBuf,
}

impl Site {
    /// Makes the lab and fills the registry from layouts.
    pub(super) fn new(
        tools: &Tools,
        workload: Workload,
        layouts: &dyn Fn(&Path) -> Result<Vec<PathBuf>>,
        nodes: usize,
        rate: &str,
    ) -> Result<Self> {
        let origin = Origin::DockerRegistry;
        let mut cluster = Cluster::new(&tools.programs, nodes, Some(rate), origin)?;
        let layouts = layouts(cluster.lab.disk())?;
        cluster.start_registry()?;
        let mut images = Vec::new();
        for (number, layout) in layouts.iter().enumerate() {
            let repository = match number {
                0 => cluster::REPOSITORY.to_owned(),
                number => format!("{}-{number}", cluster::REPOSITORY),
            };
            let (from, to) = (format!("oci:{}", layout.display()), format!("{repository}:{TAG}"));
            cluster.push_as(&from, &to, &["--preserve-digests"])?;
            let registry = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
            let image = cluster.lab.within(REGISTRY, || Image::ask(registry, &repository, TAG))?;
            images.push((repository, image));
        }
        let layout = layouts.into_iter().next().context("no image")?;
        Ok(Self { cluster, tools: tools.clone(), workload, images, layout })
    }

    /// Names of the nodes.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.cluster.nodes().to_vec()
    }

    /// What to pull: registry, name and tag of each image.
    pub(super) fn references(&self) -> Result<Vec<String>> {
        let registry = self.at(REGISTRY, REGISTRY_PORT)?;
        let reference = |repository: &String| format!("{registry}/{repository}:{TAG}");
        Ok(self.images.iter().map(|(repository, _)| reference(repository)).collect())
    }

    /// The image where there is one.
    pub(super) fn image(&self) -> &Image {
        &self.images[0].1
    }

    /// Bytes that have to reach every node.
    pub(super) fn bytes(&self) -> u64 {
        match self.workload {
            Workload::Blob => self.image().largest().1,
            Workload::Image | Workload::Images(_) => {
                self.images.iter().map(|(_, image)| image.bytes()).sum()
            }
        }
    }

    /// The digest of the blob, and the path by which the registry and its caches have it.
    pub(super) fn blob(&self) -> (String, String) {
        let digest = self.image().largest().0;
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest).to_owned();
        (hex, format!("/v2/{}/blobs/{digest}", cluster::REPOSITORY))
    }

    /// The blob as a file, beside the registry.
    pub(super) fn blob_file(&self) -> PathBuf {
        self.layout.join("blobs/sha256").join(self.blob().0)
    }

    /// A directory of a node for one run.
    pub(super) fn scratch(&self, node: &str) -> PathBuf {
        self.cluster.lab.disk().join("scratch").join(node)
    }

    /// Makes those directories, empty.
    pub(super) fn make_scratch(&self) -> Result<()> {
        for name in self.cluster.nodes() {
            fs::create_dir_all(self.scratch(name)).context("cannot make a node's directory")?;
        }
        fs::create_dir_all(self.scratch(REGISTRY))?;
        Ok(())
    }

    /// Where a port of a node is.
    pub(super) fn at(&self, node: &str, port: u16) -> Result<String> {
        Ok(self.cluster.lab.host(node)?.at(port).to_string())
    }

    /// Waits until a process listens at a port.
    pub(super) fn wait_until_listening(&self, pid: u32, port: u16) -> Result<()> {
        let what = format!("a listener at port {port} of process {pid}");
        run::wait_for(&what, LISTENS_MAX, || {
            let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))
                .with_context(|| format!("process {pid} is gone"))?;
            Ok(listens(&table, port).then_some(()))
        })
    }

    /// What one flow gets on the idle link, in bytes per second.
    pub(super) fn goodput(&self) -> Result<f64> {
        measure::goodput(&self.cluster.lab, REGISTRY, &self.nodes()[0])
    }

    /// Ends every process but the registry, and removes what nodes have stored. The disk is quiet
    /// afterwards: who is next waits for the end of its own writes, not of those before it.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.cluster.clear([self.cluster.lab.disk().join("scratch")])?;
        run::output(&mut run::command("sync")).map(drop)
    }

    /// Compares the files that nodes have with the blob's digest.
    pub(super) fn verify_files(&self, file: &str) -> Result<()> {
        self.on_all(|node| {
            let (found, bytes) = hash(&self.scratch(node).join(file))?;
            ensure!(bytes == self.bytes(), "{node} has {bytes} bytes");
            ensure!(found == self.blob().0, "{node} has a file with the SHA-256 {found}");
            Ok(())
        })
    }

    /// Does something for all nodes, as many at a time as there are processors.
    pub(super) fn on_all(&self, work: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
        run::with_each(self.cluster.nodes(), |name| work(name)).into_iter().collect()
    }
}

/// Whether a table of sockets has a listener at a port.
fn listens(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&end) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1F91 0100007F:0050 01 00000000:00000000\n";
        assert!(listens(table, 8080));
        assert!(!listens(table, 8081), "connected only");
        assert!(!listens(table, 80), "the other end's port");
    }
}
