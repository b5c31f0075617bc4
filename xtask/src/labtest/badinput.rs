//! Wrong arguments, absent peers, a kernel that refuses: one clear line, the right code.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::with_hosts;
use crate::build::Binaries;
use crate::cluster::{CONTROL, CONTROL_PORT, Cluster, NODE_PORT, REGISTRY, REGISTRY_PORT};
use crate::{run, sys};

/// Longer than any refusal may take.
const REFUSAL: Duration = Duration::from_secs(60);
const NOBODY: &str = "65534";

/// Runs a command on a host that has to fail: with this code, and these words on stderr.
pub(super) fn refused(
    cluster: &mut Cluster,
    host: &str,
    mut command: Command,
    code: i32,
    words: &[&str],
) -> Result<()> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = cluster.lab.spawn(host, "refused", command)?;
    let ended = run::wait_for("a refusal", REFUSAL, || Ok(child.try_wait()?));
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let status = ended.with_context(|| shown.clone())?;
    let said = fs::read_to_string(cluster.lab.directory().join("refused.log"))?;
    let said = said.trim();
    ensure!(status.code() == Some(code), "{shown} ends with {status}, not {code}: {said}");
    for word in words {
        ensure!(said.contains(word), "{shown} does not say `{word}`: {said}");
    }
    // A misuse may show the usage as well; everything else is one line.
    ensure!(code == 2 || said.lines().count() == 1, "{shown} says more than a line: {said}");
    Ok(())
}

/// A node's command with everything right, for a test to add what is wrong.
pub(super) fn xylemd(cluster: &Cluster, store: &Path) -> Result<Command> {
    let node = cluster.lab.host(&cluster.nodes()[0])?;
    let registry = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT);
    let mut xylemd = Command::new(&cluster.programs.xylemd);
    xylemd.args(["--node", &node.name, "--listen", &node.at(NODE_PORT).to_string()]);
    xylemd.args(["--upstream", &format!("http://{registry}"), "--probes", "off"]);
    xylemd.arg("--store").arg(store);
    Ok(xylemd)
}

/// Flags, configuration, addresses.
pub(super) fn wrong_arguments(programs: &Binaries) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        let node = cluster.nodes()[0].clone();
        let store = cluster.store(&node);
        let mut flag = xylemd(cluster, &store)?;
        flag.arg("--no-such-flag");
        refused(cluster, &node, flag, 2, &["--no-such-flag"])?;
        let config = cluster.lab.directory().join("node.toml");
        fs::write(&config, "no_such_key = 1\n")?;
        let mut unknown = xylemd(cluster, &store)?;
        unknown.arg("--config").arg(&config);
        refused(cluster, &node, unknown, 2, &["no_such_key"])?;
        cluster.start_node(&node, &[])?;
        let other = cluster.lab.disk().join("other");
        let taken = xylemd(cluster, &other)?;
        let address = cluster.lab.host(&node)?.at(NODE_PORT).to_string();
        refused(cluster, &node, taken, 1, &[&address, "in use"])
    })
}

/// A registry, a control and an image that are not there.
pub(super) fn unreachable_peers(programs: &Binaries) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        let node = cluster.nodes()[0].clone();
        let control = cluster.lab.host(CONTROL)?.at(CONTROL_PORT).to_string();
        let mut trees = Command::new(&cluster.programs.xylem);
        trees.args(["--control", &format!("http://{control}"), "trees"]);
        refused(cluster, &node, trees, 1, &[&control])?;
        // A node needs neither control nor registry to start, and says what it cannot reach.
        cluster.start_node(&node, &[])?;
        let registry = cluster.lab.host(REGISTRY)?.at(REGISTRY_PORT).to_string();
        let pull = |cluster: &Cluster, reference: &str| -> Result<Command> {
            let url = cluster.node_url(&node)?;
            let mut xylem = Command::new(&cluster.programs.xylem);
            xylem.args(["--node-url", &url, "pull", reference]);
            Ok(xylem)
        };
        let reference = cluster.reference()?;
        let command = pull(cluster, &reference)?;
        refused(cluster, &node, command, 1, &[&registry])?;
        cluster.start_registry()?;
        let command = pull(cluster, &format!("{registry}/no/such:image"))?;
        refused(cluster, &node, command, 1, &["no/such"])?;
        let command = pull(cluster, "not a reference")?;
        refused(cluster, &node, command, 2, &["not a reference"])
    })
}

/// io_uring forbidden, locked memory too small: the cause is named.
pub(super) fn missing_kernel_features(programs: &Binaries) -> Result<()> {
    with_hosts(programs, 1, "1gbit", |cluster| {
        let node = cluster.nodes()[0].clone();
        let store = cluster.store(&node);
        let mut forbidden = xylemd(cluster, &store)?;
        sys::forbid_io_uring(&mut forbidden);
        refused(cluster, &node, forbidden, 1, &["io_uring", "seccomp"])?;
        // Root may lock what it wants: the limit is for others.
        let open = cluster.lab.disk().join("open");
        fs::create_dir(&open)?;
        let id: u32 = NOBODY.parse()?;
        std::os::unix::fs::chown(&open, Some(id), Some(id))?;
        let daemon = xylemd(cluster, &open.join("store"))?;
        let mut limited = Command::new("prlimit");
        limited.args(["--memlock=65536:65536", "setpriv", "--reuid", NOBODY, "--regid", NOBODY]);
        limited.args(["--clear-groups", "--inh-caps=-all"]);
        // The repository may lie where only root can read.
        let program = open.join("xylemd");
        fs::copy(daemon.get_program(), &program).context("cannot copy the daemon")?;
        limited.arg(program).args(daemon.get_args());
        refused(cluster, &node, limited, 1, &["cannot lock", "limit", "--memory"])
    })
}
