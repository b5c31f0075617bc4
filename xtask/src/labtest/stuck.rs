//! A parent that says nothing any more, and does not hang up either: stopped, or cut off. Its
//! children notice by themselves, go on elsewhere, and leave what is alive alone.

use anyhow::{Context, Result, ensure};

use super::parent::{Tree, received_bytes};
use super::{SLOW, finish, pull_everywhere, wait_for_full_tree, wait_for_mid_blob, with_cluster};
use crate::build::Binaries;
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::{run, sys};

const NODES: usize = 4;
/// What was on its way, in socket buffers, when the parent fell silent.
const LOST_BYTES_MAX: u64 = 4 << 20;

/// The parent is stopped: its kernel still takes what is sent to it.
pub(super) fn stopped_in_mid_blob(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, SLOW, |cluster| {
        silence(cluster, |lab, victim| {
            let pid = lab.process(victim)?.pid();
            Ok(sys::kill(pid, libc::SIGSTOP)?)
        })
    })
}

/// The parent's link is cut: nothing comes back, not even a refusal.
pub(super) fn cut_off_in_mid_blob(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, SLOW, |cluster| {
        silence(cluster, |lab, victim| {
            let mut ip = run::command("ip");
            ip.args(["link", "set", "dev", "eth0", "down"]);
            lab.place(victim, &mut ip)?;
            run::output(&mut ip).map(drop)
        })
    })
}

fn silence(cluster: &mut Cluster, act: impl Fn(&mut Lab, &str) -> Result<()>) -> Result<()> {
    let image = cluster.image()?;
    let mut pulls = pull_everywhere(cluster)?;
    let tree = wait_for_full_tree(cluster)?;
    let victim = inner(&tree).context("no parent in the middle of the tree")?;
    let orphans = tree.iter().filter(|(_, up)| up.as_ref() == Some(&victim));
    let orphans: Vec<String> = orphans.map(|(own, _)| own.clone()).collect();
    let orphan = orphans.first().context("a parent without children")?;
    wait_for_mid_blob(cluster, orphan, &image)?;
    act(&mut cluster.lab, &victim)?;
    // It is not waited for: what comes from it would never end.
    pulls.retain(|pull| pull.node != victim);
    finish(cluster, &mut pulls, &image)?;
    for orphan in &orphans {
        let bound = image.bytes() + LOST_BYTES_MAX;
        let received = received_bytes(cluster, orphan)?;
        ensure!(received <= bound, "{orphan} has received {received} bytes of {}", image.bytes());
        let status = cluster.get(orphan, "/xylem/v1/status")?;
        let gaps = status["gaps"]["count"].as_u64().context("no gaps")?;
        ensure!(gaps > 0, "{orphan} has not noticed that its parent is silent");
        println!("    {orphan} was without bytes for {} ms", status["gaps"]["max_ms"]);
    }
    for (own, up) in &tree {
        if up.as_ref() != Some(&victim) && *own != victim {
            let status = cluster.get(own, "/xylem/v1/status")?;
            let gaps = &status["gaps"]["count"];
            ensure!(gaps == 0, "{own} has left a source that was alive ({gaps} times)");
        }
    }
    // Who is stopped does not hear that it is to end, and would be waited for.
    cluster.lab.end(&victim, libc::SIGKILL)
}

/// A node with a parent and a child.
fn inner(tree: &Tree) -> Option<String> {
    let has_parent = |name: &String| tree.iter().any(|(own, up)| own == name && up.is_some());
    tree.iter().find_map(|(_, up)| up.clone().filter(has_parent))
}
