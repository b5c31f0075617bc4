//! A node that says it has an image, and has not: one blob is missing in its store, one is another.
//! Nobody below it keeps anything wrong, and all get what they want from elsewhere.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{STATE, finish, with_cluster};
use crate::build::Binaries;
use crate::cluster::image::Image;
use crate::cluster::{CONTROL, Cluster};
use crate::run;

const NODES: usize = 4;

/// It has said `Complete`. Then one blob is gone, and another one has other bytes.
pub(super) fn of_what_it_has(programs: &Binaries) -> Result<()> {
    with_cluster(programs, NODES, "200mbit", |cluster| {
        let image = cluster.image()?;
        let nodes = cluster.nodes().to_vec();
        let (liar, others) = nodes.split_first().context("no nodes")?;
        let mut first = [cluster.pull(liar)?];
        finish(cluster, &mut first, &image)?;
        wait_until_complete(cluster, liar)?;
        let [largest, second] = two_largest(cluster, liar, &image)?;
        spoil(&largest)?;
        fs::remove_file(second).context("cannot remove the blob")?;
        let mut pulls = others.iter().map(|node| cluster.pull(node)).collect::<Result<Vec<_>>>()?;
        finish(cluster, &mut pulls, &image)?;
        let asked = others.iter().any(|node| {
            let hops = cluster.get(node, "/xylem/v1/hops").unwrap_or_default();
            let of_liar =
                |hop: &serde_json::Value| hop["parent"] == *liar && hop["child"] == **node;
            hops["hops"].as_array().is_some_and(|hops| hops.iter().any(of_liar))
        });
        ensure!(asked, "nobody has asked {liar}, so nothing was shown");
        Ok(())
    })
}

/// Another byte in the middle of a file, so that its digest is wrong and its length right.
fn spoil(blob: &Path) -> Result<()> {
    let mut file = fs::File::options().read(true).write(true).open(blob)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(middle))?;
    file.write_all(&[byte[0] ^ 1])?;
    file.sync_all().context("cannot write the blob")
}

fn two_largest(cluster: &Cluster, node: &str, image: &Image) -> Result<[PathBuf; 2]> {
    let mut blobs: Vec<_> = image.blobs().collect();
    blobs.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let [first, second, ..] = blobs.as_slice() else { bail!("an image of one blob") };
    let path = |(digest, _): &(&str, u64)| {
        let hex = digest.strip_prefix("sha256:").context("a digest of another kind")?;
        anyhow::Ok(cluster.store(node).join("blobs/sha256").join(hex))
    };
    Ok([path(first)?, path(second)?])
}

/// Waits until control knows that a node has all of the only image.
fn wait_until_complete(cluster: &Cluster, node: &str) -> Result<()> {
    run::wait_for(&format!("control to know that {node} is complete"), STATE, || {
        let trees = cluster.get(CONTROL, "/api/v1/trees")?;
        let nodes = trees["trees"][0]["nodes"].as_array();
        let is_it = |it: &serde_json::Value| it["node"] == node && it["complete"] == true;
        Ok(nodes.is_some_and(|nodes| nodes.iter().any(is_it)).then_some(()))
    })
}
