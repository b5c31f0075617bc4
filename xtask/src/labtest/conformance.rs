//! The pull side of the OCI distribution specification (1.1), row by row: the same requests to
//! Debian's registry and to a node in front of it, and the table of how they answered.
//!
//! The expectation of a row comes from the section that it names; where the two differ, the row
//! says whose choice that is.

mod blobs;
mod discovery;
mod fixture;
mod manifests;
mod refused;
mod row;
mod wire;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use super::badinput::xylemd;
use crate::build::Binaries;
use crate::cluster::{self, Cluster, NODE_PORT, Origin, REGISTRY, REGISTRY_PORT};
use crate::lab::Lab;
use fixture::Fixture;
use row::{Row, Verdict};
use wire::Reply;

/// Debian's registry and a node, which has nothing at first; then again, when it has everything.
pub(super) fn as_docker_registry(programs: &Binaries) -> Result<()> {
    let origin = cluster::choose_origin();
    ensure!(origin == Origin::DockerRegistry, "there is no docker-registry to compare with");
    let mut cluster = Cluster::new(programs, 1, None, origin)?;
    let compared = compare(&mut cluster);
    compared.map_err(|error| error.context(format!("logs:\n{}", cluster.lab.story())))
}

fn compare(cluster: &mut Cluster) -> Result<()> {
    cluster.start_registry()?;
    let fixture = Fixture::new();
    let node = cluster.nodes()[0].clone();
    let servers = Servers {
        registry: cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT),
        node: cluster.lab.host(&node)?.at(NODE_PORT),
        from: node.clone(),
    };
    cluster.lab.within(REGISTRY, || fixture.push(servers.registry))?;
    let command = xylemd(cluster, &cluster.store(&node))?;
    cluster.lab.start(&node, &node, command)?;
    cluster.lab.process(&node)?.wait_for_words(" listening on ")?;
    let mut rows = blobs::rows(&fixture);
    rows.extend(manifests::rows(&fixture));
    rows.extend(discovery::rows(&fixture));
    rows.extend(refused::rows());
    let cold = servers.ask_all(&cluster.lab, &rows, "cold")?;
    let warm = servers.ask_all(&cluster.lab, &rows, "warm")?;
    cluster.all_alive()?;
    ensure!(cold + warm == 0, "{} rows differ without a reason", cold + warm);
    Ok(())
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

    fn ask(&self, lab: &Lab, row: &Row, method: &str) -> Result<(Reply, Reply)> {
        let ask = |to| wire::ask(to, method, &row.path, &row.headers, row.body);
        let both = || Ok((ask(self.registry)?, ask(self.node)?));
        lab.within(&self.from, both).with_context(|| format!("in the row {}", row.what))
    }
}

fn print(row: &Row, method: &str, registry: &Reply, node: &Reply, verdict: &Verdict) {
    let verdict = match verdict {
        Verdict::Same => "same".to_owned(),
        Verdict::RegistryDeparts => format!("registry departs: {}", row.reason()),
        Verdict::ByDesign => format!("by design: {}", row.reason()),
        Verdict::Wrong(how) => format!("WRONG: {how}"),
    };
    println!(
        "    {} | {method} {} | {} | {} | {verdict}",
        row.section,
        row.what,
        registry.summary(),
        node.summary()
    );
}
