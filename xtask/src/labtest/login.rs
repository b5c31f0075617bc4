//! `xylem pull` with a name and a password, for a registry that wants them.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::mirror::{NAME, reference};
use crate::cluster::Cluster;
use crate::cluster::image::Image;
use crate::run;

/// Without credentials and with wrong ones nothing is to be had; with the right ones the image is,
/// whole, from stdin at one node and from a file at the other.
pub(super) fn pulls(cluster: &Cluster, image: &Image, user: &str, right: &str) -> Result<()> {
    let [first, second] = [0, 1].map(|index| cluster.nodes()[index].clone());
    let stranger = xylem(cluster, &second, &[], None).err().context("nobody has to log in")?;
    let said = format!("{stranger:#}");
    let what = format!("{NAME} wants credentials");
    ensure!(said.contains(&what) && said.contains("--creds"), "who says nothing is told {said}");
    let wrong = Some(format!("{user}:not-{right}"));
    let refused = xylem(cluster, &second, &["--creds", "-"], wrong).err();
    let said = format!("{:#}", refused.context("any password will do")?);
    let is_told = ["401", "unauthorized", "credentials"].iter().any(|word| said.contains(word));
    ensure!(is_told && !said.contains(right), "a wrong password is told as {said}");
    xylem(cluster, &second, &["--creds", "-"], Some(format!("{user}:{right}\n")))?;
    let directory = cluster.lab.directory().join("login");
    fs::create_dir_all(&directory)?;
    let (file, copy) = (directory.join("auth.json"), cluster.lab.disk().join("login"));
    let auth = STANDARD.encode(format!("{user}:{right}"));
    fs::write(&file, format!(r#"{{"auths": {{"{NAME}": {{"auth": "{auth}"}}}}}}"#))?;
    let output = format!("oci:{}", copy.display());
    let file = file.display().to_string();
    xylem(cluster, &first, &["--authfile", &file, "--output", &output], None)?;
    image.check(&copy).context("in what xylem has written")
}

/// Pulls at a node; what is to be read from stdin is written there.
fn xylem(cluster: &Cluster, node: &str, more: &[&str], stdin: Option<String>) -> Result<String> {
    let mut xylem = Command::new(&cluster.programs.xylem);
    xylem.args(["--node-url", &cluster.node_url(node)?, "pull", &reference()]).args(more);
    // What stands in the files of who runs this is not to be used.
    let nowhere = cluster.lab.directory().join("nobody");
    xylem.env("HOME", &nowhere).env("XDG_RUNTIME_DIR", &nowhere).env_remove("REGISTRY_AUTH_FILE");
    cluster.lab.place(node, &mut xylem)?;
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(stdin.unwrap_or_default().as_bytes())?;
    drop(writer);
    run::output(xylem.stdin(Stdio::from(reader)))
}
