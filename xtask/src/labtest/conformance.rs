//! The pull side of the OCI distribution specification (1.1), row by row: the same requests to
//! Debian's registry and to a node in front of it, and the table of how they answered.
//!
//! The expectation of a row comes from the section that it names; where the two differ, the row
//! says whose choice that is.

mod blobs;
mod discovery;
mod fixture;
mod manifests;
mod mirror;
mod modern;
mod refused;
mod row;
mod wire;

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::badinput::xylemd;
use crate::build::Binaries;
use crate::cluster::{self, Cluster, NODE_PORT, Origin, REGISTRY, REGISTRY_PORT};
use crate::lab::Lab;
use fixture::Fixture;
use modern::Modern;
use row::{Row, Verdict};
use wire::Reply;

/// More than any list of pages here has.
const PAGES_MAX: usize = 100;

/// Debian's registry and a node, which has nothing at first; then again, when it has everything.
pub(super) fn as_docker_registry(programs: &Binaries) -> Result<()> {
    in_front_of_docker_registry(programs, |cluster, servers, fixture| {
        let mut rows = blobs::rows(fixture);
        rows.extend(manifests::rows(fixture));
        rows.extend(discovery::rows(fixture));
        rows.extend(refused::rows());
        let cold = servers.ask_all(&cluster.lab, &rows, "cold")?;
        let warm = servers.ask_all(&cluster.lab, &rows, "warm")?;
        ensure!(cold + warm == 0, "{} rows differ without a reason", cold + warm);
        Ok(())
    })
}

fn in_front_of_docker_registry(
    programs: &Binaries,
    test: impl FnOnce(&Cluster, &Servers, &Fixture) -> Result<()>,
) -> Result<()> {
    let origin = cluster::choose_origin();
    ensure!(origin == Origin::DockerRegistry, "there is no docker-registry to compare with");
    let mut cluster = Cluster::new(programs, 1, None, origin)?;
    let compare = |cluster: &mut Cluster| {
        cluster.start_registry()?;
        let fixture = Fixture::new();
        let registry = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
        cluster.lab.within(REGISTRY, || fixture.push(registry))?;
        let servers = start_node(cluster)?;
        test(cluster, &servers, &fixture)?;
        cluster.all_alive()
    };
    compare(&mut cluster).map_err(|error| error.context(format!("logs:\n{}", cluster.lab.story())))
}

fn in_front_of_modern_registry(
    programs: &Binaries,
    test: impl FnOnce(&Cluster, &Servers) -> Result<()>,
) -> Result<()> {
    let mut cluster = Cluster::new(programs, 1, None, Origin::Embedded)?;
    let compare = |cluster: &mut Cluster| {
        let registry = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
        let listener = cluster.lab.within(REGISTRY, || Ok(TcpListener::bind(registry)?))?;
        let _modern = Modern::start(listener)?;
        let servers = start_node(cluster)?;
        test(cluster, &servers)?;
        cluster.all_alive()
    };
    compare(&mut cluster).map_err(|error| error.context(format!("logs:\n{}", cluster.lab.story())))
}

/// A node answers for its own registries only, and gives a blob under the names that have it.
pub(super) fn as_mirror_of_one(programs: &Binaries) -> Result<()> {
    in_front_of_docker_registry(programs, |cluster, servers, fixture| {
        let rows = mirror::registries(fixture, servers.registry);
        // The node has everything: what it refuses, it refuses in spite of that.
        servers.ask_all(&cluster.lab, &blobs::rows(fixture)[..2], "filled")?;
        let wrong = servers.ask_all(&cluster.lab, &rows, "cold")?;
        ensure!(wrong == 0, "{wrong} rows differ without a reason");
        Ok(())
    })
}

/// A registry that has referrers, and a node in front of it.
pub(super) fn with_referrers(programs: &Binaries) -> Result<()> {
    in_front_of_modern_registry(programs, |cluster, servers| {
        let wrong = servers.ask_all(&cluster.lab, &mirror::referrers(), "cold")?;
        ensure!(wrong == 0, "{wrong} rows differ without a reason");
        Ok(())
    })
}

/// A registry that has pages of tags, and a node in front of it.
pub(super) fn as_paging_registry(programs: &Binaries) -> Result<()> {
    in_front_of_modern_registry(programs, |cluster, servers| {
        let wrong = servers.ask_all(&cluster.lab, &discovery::paged(), "cold")?;
        ensure!(wrong == 0, "{wrong} rows differ without a reason");
        for name in [modern::NAME, modern::ABSOLUTE] {
            let tags = servers.walk(&cluster.lab, &format!("/v2/{name}/tags/list?n=2"))?;
            ensure!(tags == modern::TAGS, "the pages of {name} lead through {tags:?}");
        }
        Ok(())
    })
}

/// Starts the node, its registry being there already.
fn start_node(cluster: &mut Cluster) -> Result<Servers> {
    let node = cluster.nodes()[0].clone();
    let command = xylemd(cluster, &cluster.store(&node))?;
    cluster.lab.start(&node, &node, command)?;
    cluster.lab.process(&node)?.wait_for_words(" listening on ")?;
    Ok(Servers {
        registry: cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT),
        node: cluster.lab.host(&node)?.at(NODE_PORT),
        from: node,
    })
}

/// The two that are compared.
#[derive(Debug)]
struct Servers {
    registry: SocketAddr,
    node: SocketAddr,
    /// The host to ask from.
    from: String,
}

impl Servers {
    /// Asks both for every row. Prints the table of a node that has nothing yet, of any other only
    /// what is wrong; returns how many rows that are.
    fn ask_all(&self, lab: &Lab, rows: &[Row], state: &str) -> Result<usize> {
        let mut wrong = 0;
        let mut counts = [0; 3];
        for row in rows {
            for method in row.methods {
                let (registry, node) = self.ask(lab, row, method)?;
                let verdict = row.judge(method, &registry, &node);
                match &verdict {
                    Verdict::Same => counts[0] += 1,
                    Verdict::ByDesign => counts[1] += 1,
                    Verdict::RegistryDeparts => counts[2] += 1,
                    Verdict::Wrong(_) => wrong += 1,
                }
                if state == "cold" || matches!(verdict, Verdict::Wrong(_)) {
                    print(row, method, &registry, &node, &verdict);
                }
            }
        }
        let [same, by_design, departs] = counts;
        println!(
            "    {state} node: {same} the same, {by_design} other by design, {departs} where the \
             registry departs from the specification, {wrong} wrong"
        );
        Ok(wrong)
    }

    /// Follows the node's links from page to page; returns the tags of all.
    fn walk(&self, lab: &Lab, first: &str) -> Result<Vec<String>> {
        let (mut tags, mut next) = (Vec::new(), Some(first.to_owned()));
        while let Some(path) = next {
            ensure!(tags.len() < PAGES_MAX, "the pages have no end");
            let ask = || wire::ask(self.node, "GET", &path, &[], b"");
            let page = lab.within(&self.from, ask)?;
            let body: Value = serde_json::from_slice(&page.body).context("a page of tags")?;
            let found = body["tags"].as_array().context("a page without tags")?;
            tags.extend(found.iter().filter_map(|tag| tag.as_str().map(str::to_owned)));
            let link = page.header("link").map(|link| link.split(['<', '>']).nth(1));
            next = link
                .map(|target| target.context("a link to nowhere").map(str::to_owned))
                .transpose()?;
        }
        Ok(tags)
    }

    fn ask(&self, lab: &Lab, row: &Row, method: &str) -> Result<(Reply, Reply)> {
        let ask = |to| wire::ask(to, method, &row.path, &row.headers, row.body);
        let both = || Ok((ask(self.registry)?, ask(self.node)?));
        lab.within(&self.from, both).with_context(|| format!("in the row {}", row.what))
    }
}

fn print(row: &Row, method: &str, registry: &Reply, node: &Reply, verdict: &Verdict) {
    let (section, what, words) = (row.section, &row.what, row.in_words(verdict));
    let (registry, node) = (registry.summary(), node.summary());
    println!("    {section} | {method} {what} | {registry} | {node} | {words}");
}
