//! How each variant is put to the start: its servers run, its clients wait for the gate; and how
//! it is proved afterwards that every node has the data.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::shape;
use super::site::Site;
use super::variant::{Variant, Workload};
use crate::bench::race::{Race, Until};
use crate::cluster::{self, NODE_PORT, REGISTRY, REGISTRY_PORT, nginx};
use crate::lab::traffic::Traffic;
use crate::run;

/// Where caches and models listen.
const CACHE_PORT: u16 = 8080;
/// Where mbuffer listens.
const PUSH_PORT: u16 = 7000;
/// The file in a node's directory.
const FILE: &str = "blob";
/// The layout in a node's directory.
const COPY: &str = "copy";
/// What a registry may say when a cache asks only whether something is still so.
const CHATTER_BYTES_MAX: u64 = 1 << 20;
const TORRENT: &str = include_str!("torrent.py");

/// Starts a variant; the race it is to run, and how to know that a client is done.
pub(super) fn prepare(site: &mut Site, variant: Variant) -> Result<(Race, Until)> {
    site.make_scratch()?;
    let mut race = Race::new()?;
    let until = match variant {
        Variant::Ours { shape, verified, memory_mib } => {
            site.cluster.shape = Some(shape.to_owned());
            site.cluster.memory = memory_mib.map(|mib| format!("{mib}MiB"));
            ours(site, &mut race, verified)?
        }
        Variant::Forward { unit_bytes } => forward(site, &mut race, unit_bytes)?,
        Variant::Registry => from_servers(site, &mut race, REGISTRY_PORT, Some(REGISTRY), FILE)?,
        Variant::RegistryCache => {
            start_caches(site, registry_cache)?;
            from_servers(site, &mut race, CACHE_PORT, None, FILE)?
        }
        Variant::Nginx { slices } => {
            start_caches(site, |site, node, upstream| nginx_cache(site, node, upstream, slices))?;
            // The cache's file is the node's copy.
            from_servers(site, &mut race, CACHE_PORT, None, "/dev/null")?
        }
        Variant::Torrent { piece_bytes } => torrent(site, &mut race, piece_bytes)?,
        Variant::Mbuffer { tree } => mbuffer(site, &mut race, tree)?,
    };
    Ok((race, until))
}

/// Fails unless every node has the data, all of it and right. Servers still run.
pub(super) fn verify(site: &Site, variant: Variant) -> Result<()> {
    match (variant, site.workload) {
        (Variant::Ours { .. }, _) => site.on_all(|node| {
            site.images.iter().try_for_each(|(_, image)| site.cluster.verify(node, image))
        }),
        (_, Workload::Image | Workload::Images(_)) => site.on_all(|node| {
            let checked = site.image().check(&site.scratch(node).join(COPY));
            checked.with_context(|| format!("what skopeo has stored on {node}"))
        }),
        (Variant::Nginx { .. }, Workload::Blob) => verify_caches(site),
        (Variant::Torrent { .. }, Workload::Blob) => site.verify_files(&site.blob().0),
        (_, Workload::Blob) => site.verify_files(FILE),
    }
}

fn ours(site: &mut Site, race: &mut Race, verified: bool) -> Result<Until> {
    site.cluster.start_control()?;
    let more: &[&str] = if verified { &[] } else { &["--verify", "none"] };
    for node in site.nodes() {
        site.cluster.start_node(&node, more)?;
    }
    for node in site.nodes() {
        site.cluster.wait_for_status(&node, "control", super::STATE_MAX, |status| {
            status["control"]["connected"] == true
        })?;
        let url = format!("http://{}", site.at(&node, NODE_PORT)?);
        for reference in site.references()? {
            let mut pull = race.gated(&site.tools.programs.xylem.to_string_lossy())?;
            pull.args(["--node-url", &url, "pull", &reference, "--json"]);
            race.enter(&mut site.cluster.lab, &node, pull, true)?;
        }
    }
    Ok(Until::Exit)
}

fn forward(site: &mut Site, race: &mut Race, unit_bytes: Option<u64>) -> Result<Until> {
    let nodes = site.nodes();
    let (path, bytes) = (site.blob().1, site.bytes());
    let unit_bytes = unit_bytes.unwrap_or(bytes.div_ceil(2));
    for (node, parents) in nodes.iter().zip(shape::twin(nodes.len())) {
        let mut command = race.waiting(&site.tools.forward.to_string_lossy())?;
        command.args(["--listen", &site.at(node, CACHE_PORT)?]);
        command.arg("--file").arg(site.scratch(node).join(FILE));
        command.arg(format!("--size={bytes}")).arg(format!("--unit={unit_bytes}"));
        command.arg(format!("--path={path}"));
        for parent in parents {
            let from = match parent {
                Some(parent) => site.at(&nodes[parent], CACHE_PORT)?,
                None => site.at(REGISTRY, REGISTRY_PORT)?,
            };
            command.args(["--parent", &from]);
        }
        race.enter(&mut site.cluster.lab, node, command, true)?;
    }
    race.wait_until_ready("ready")?;
    Ok(Until::Line("done"))
}

/// Clients that take the data from a server on their own host, or all from one.
fn from_servers(
    site: &mut Site,
    race: &mut Race,
    port: u16,
    host: Option<&str>,
    file: &str,
) -> Result<Until> {
    for node in site.nodes() {
        let server = site.at(host.unwrap_or(&node), port)?;
        let scratch = site.scratch(&node);
        let client = match site.workload {
            Workload::Blob => {
                let mut curl = race.gated("curl")?;
                curl.args(["--silent", "--show-error", "--fail", "--location", "--output"]);
                // An absolute name stays what it is.
                curl.arg(scratch.join(file)).arg(format!("http://{server}{}", site.blob().1));
                curl
            }
            Workload::Image | Workload::Images(_) => {
                let (name, tag) = (cluster::REPOSITORY, cluster::TAG);
                let mut skopeo = race.gated("skopeo")?;
                skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
                skopeo.args(["--preserve-digests", &format!("docker://{server}/{name}:{tag}")]);
                skopeo.arg(format!("oci:{}:{tag}", scratch.join(COPY).display()));
                skopeo
            }
        };
        race.enter(&mut site.cluster.lab, &node, client, true)?;
    }
    Ok(Until::Exit)
}

/// A server on every node, whose upstream is its parent in a binary tree.
fn start_caches(
    site: &mut Site,
    server: impl Fn(&Site, &str, &str) -> Result<Command>,
) -> Result<()> {
    let nodes = site.nodes();
    for (node, parent) in nodes.iter().zip(shape::binary(nodes.len())) {
        let upstream = match parent {
            Some(parent) => site.at(&nodes[parent], CACHE_PORT)?,
            None => site.at(REGISTRY, REGISTRY_PORT)?,
        };
        let command = server(site, node, &upstream)?;
        site.cluster.lab.start(node, node, command)?;
        let pid = site.cluster.lab.process(node)?.pid();
        site.wait_until_listening(pid, CACHE_PORT)?;
    }
    Ok(())
}

fn registry_cache(site: &Site, node: &str, upstream: &str) -> Result<Command> {
    let scratch = site.scratch(node);
    let config = scratch.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\n\
         proxy: {{remoteurl: \"http://{upstream}\"}}\n\
         http: {{addr: \"{}\", secret: bench}}\n",
        scratch.join("cache").display(),
        site.at(node, CACHE_PORT)?,
    );
    fs::write(&config, text).context("cannot write a cache's configuration")?;
    let mut serve = run::command("docker-registry");
    serve.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
    Ok(serve)
}

fn nginx_cache(site: &Site, node: &str, upstream: &str, slices: bool) -> Result<Command> {
    let scratch = site.scratch(node);
    let around = format!(
        "  sendfile on;\n  tcp_nopush on;\n\
         \x20 proxy_cache_path {}/cache keys_zone=blobs:1m max_size=100g inactive=1d\n\
         \x20   use_temp_path=off;\n",
        scratch.display()
    );
    let ends = (&*site.at(node, CACHE_PORT)?, upstream);
    nginx::proxy(&scratch, ends, &around, &format!("      {}\n{CACHE}", cache_key(slices)))
}

/// One request for all who want the same; whoever waits waits as long as it takes.
const CACHE: &str = "      proxy_set_header Accept $http_accept;
      proxy_cache blobs;
      proxy_cache_valid 200 206 1d;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 600s;
      proxy_cache_lock_age 600s;
      proxy_read_timeout 600s;
";

const fn cache_key(slices: bool) -> &'static str {
    match slices {
        true => "slice 1m; proxy_set_header Range $slice_range; proxy_cache_key $uri$slice_range;",
        false => "proxy_cache_key $uri;",
    }
}

/// What every cache gives has the digest, and the registry is not asked for it again.
fn verify_caches(site: &Site) -> Result<()> {
    let traffic = Traffic::open(&site.cluster.lab)?;
    let before = traffic.read()?;
    let (hex, path) = site.blob();
    site.on_all(|node| {
        let url = format!("http://{}{path}", site.at(node, CACHE_PORT)?);
        let script = "curl --silent --show-error --fail \"$1\" | sha256sum";
        let mut command = run::command("sh");
        command.args(["-c", script, "sh", &url]);
        site.cluster.lab.place(node, &mut command)?;
        let said = run::output(&mut command)?;
        ensure!(said.starts_with(&hex), "the cache of {node} gives `{}`", said.trim());
        Ok(())
    })?;
    for (now, before) in traffic.read()?.iter().zip(before) {
        let sent = now.sent_bytes - before.sent_bytes;
        ensure!(sent < CHATTER_BYTES_MAX, "a cache has asked for {sent} bytes again");
    }
    Ok(())
}

fn torrent(site: &mut Site, race: &mut Race, piece_bytes: u64) -> Result<Until> {
    let python = site.tools.python.clone().context("no Python with libtorrent")?;
    let scratch = site.scratch(REGISTRY);
    let (script, torrent) = (scratch.join("torrent.py"), scratch.join("torrent"));
    fs::write(&script, TORRENT)?;
    let file = site.blob_file();
    let mut make = run::command(&python.to_string_lossy());
    make.arg(&script).arg("make").arg(&file).arg(piece_bytes.to_string()).arg(&torrent);
    run::output(&mut make)?;
    let address =
        |site: &Site, host: &str| site.cluster.lab.host(host).map(|host| host.address.to_string());
    let directory = file.parent().context("a blob without a directory")?;
    let mut seed = Command::new(&python);
    seed.arg(&script).args(["seed", &address(site, REGISTRY)?]).arg(&torrent).arg(directory);
    site.cluster.lab.start(REGISTRY, "seed", seed)?;
    site.cluster.lab.process("seed")?.wait_for_words("seeding")?;
    let hosts: Vec<String> = [REGISTRY.to_owned()].into_iter().chain(site.nodes()).collect();
    for node in site.nodes() {
        let mut peer = race.waiting(&python.to_string_lossy())?;
        peer.arg(&script).args(["take", &address(site, &node)?]).arg(&torrent);
        peer.arg(site.scratch(&node));
        for other in hosts.iter().filter(|host| **host != node) {
            peer.arg(address(site, other)?);
        }
        race.enter(&mut site.cluster.lab, &node, peer, true)?;
    }
    race.wait_until_ready("ready")?;
    Ok(Until::Line("done"))
}

fn mbuffer(site: &mut Site, race: &mut Race, tree: bool) -> Result<Until> {
    let nodes = site.nodes();
    let command = |race: &Race, gated: bool| -> Result<Command> {
        let mut command = if gated { race.gated("mbuffer")? } else { run::command("mbuffer") };
        command.args(["-q", "-s", "128k", "-m", "16M"]);
        Ok(command)
    };
    // Who sends has to find a listener: the last first.
    for index in (0..nodes.len()).rev() {
        let node = &nodes[index];
        let mut relay = command(race, false)?;
        relay.arg("-I").arg(PUSH_PORT.to_string());
        relay.arg("-o").arg(site.scratch(node).join(FILE));
        let next = index + 1;
        let children = if tree {
            shape::children(index, nodes.len())
        } else {
            (next..nodes.len()).take(1).collect()
        };
        for child in children {
            relay.arg("-O").arg(site.at(&nodes[child], PUSH_PORT)?);
        }
        let pid = race.enter(&mut site.cluster.lab, node, relay, true)?;
        site.wait_until_listening(pid, PUSH_PORT)?;
    }
    let mut source = command(race, true)?;
    source.arg("-i").arg(site.blob_file()).args(["-O", &site.at(&nodes[0], PUSH_PORT)?]);
    race.enter(&mut site.cluster.lab, REGISTRY, source, false)?;
    Ok(Until::Exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_part_of_the_key() {
        assert!(
            cache_key(true).contains("$uri$slice_range") && cache_key(true).contains("slice 1m")
        );
        assert!(!cache_key(false).contains("slice"));
    }
}
