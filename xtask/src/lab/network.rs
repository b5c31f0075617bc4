//! Namespaces, a bridge, links and their shaping, by `ip` and `tc`; knows nothing of processes.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run;

/// Bytes the shaper lets pass at once. Below 128 KiB it misses its rate: a GSO packet is larger.
const BURST: &str = "256k";
/// How long a packet may wait in the shaper before it is dropped: a switch has shallow buffers.
const QUEUE: &str = "10ms";
/// Congestion control of every route: what a stock kernel uses, and on these links the cheaper.
const CONGESTION: &str = "cubic";
/// The network of every lab; it is known inside the lab's namespaces only.
const NETWORK: &str = "10.77.0.0/16";
const BRIDGE: &str = "br0";

/// The namespace with the bridge that all hosts are plugged into.
#[derive(Debug)]
pub(super) struct Switch {
    tag: String,
    netns: String,
}

impl Switch {
    /// The name of its namespace.
    pub(super) fn namespace(tag: &str) -> String {
        format!("{tag}-switch")
    }

    /// Makes the namespace and the bridge.
    pub(super) fn new(tag: &str) -> Result<Self> {
        let netns = Self::namespace(tag);
        ip(&["netns", "add", &netns])?;
        ip(&["-n", &netns, "link", "add", BRIDGE, "type", "bridge", "stp_state", "0"])?;
        ip(&["-n", &netns, "link", "set", BRIDGE, "up"])?;
        Ok(Self { tag: tag.to_owned(), netns })
    }

    /// Makes a host's namespace and its link, shaped at both ends. Returns the namespace's name.
    pub(super) fn plug(
        &self,
        index: usize,
        name: &str,
        address: Ipv4Addr,
        rate: Option<&str>,
    ) -> Result<String> {
        let host = format!("{}-{name}", self.tag);
        let port = port(index);
        ip(&["netns", "add", &host])?;
        let (port, host) = (port.as_str(), host.as_str());
        let switch = self.netns.as_str();
        // Both ends are born where they belong.
        ip(&["-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0"]
            .into_iter()
            .chain(["netns", host])
            .collect::<Vec<_>>())?;
        ip(&["-n", switch, "link", "set", port, "master", BRIDGE, "up"])?;
        ip(&["-n", host, "link", "set", "lo", "up"])?;
        ip(&["-n", host, "link", "set", "eth0", "up"])?;
        let own = format!("{address}/16");
        ip(&["-n", host, "addr", "add", &own, "dev", "eth0", "noprefixroute"])?;
        let source = address.to_string();
        ip(&["-n", host, "route", "add", NETWORK, "dev", "eth0", "src", &source]
            .into_iter()
            .chain(["congctl", CONGESTION])
            .collect::<Vec<_>>())?;
        if let Some(rate) = rate {
            shape(switch, port, rate)?;
            shape(host, "eth0", rate)?;
        }
        Ok(host.to_owned())
    }
}

/// Takes the host of that index off the bridge, or puts it back. Its own link stays up.
pub(super) fn plug(tag: &str, index: usize, plugged: bool) -> Result<()> {
    let (netns, port) = (Switch::namespace(tag), port(index));
    let master: &[&str] = if plugged { &["master", BRIDGE] } else { &["nomaster"] };
    ip(&[&["-n", &netns, "link", "set", &port], master].concat())
}

/// The address of the host of that index.
pub(super) fn address(index: usize) -> Ipv4Addr {
    let last = u8::try_from(index + 1).expect("HOSTS_MAX bounds the index");
    Ipv4Addr::new(10, 77, 0, last)
}

/// The bridge's end of the link of the host of that index.
pub(super) fn port(index: usize) -> String {
    format!("port{index}")
}

/// Opens a namespace by its name, to enter it.
pub(super) fn open(netns: &str) -> Result<File> {
    File::open(format!("/run/netns/{netns}")).with_context(|| format!("no namespace {netns}"))
}

/// Sets the rate at which a device sends.
pub(super) fn shape(netns: &str, device: &str, rate: &str) -> Result<()> {
    let shaper = ["root", "tbf", "rate", rate, "burst", BURST, "latency", QUEUE];
    let mut tc = run::command("tc");
    tc.args(["-n", netns, "qdisc", "replace", "dev", device]).args(shaper);
    finish(tc).with_context(|| format!("cannot shape to `{rate}`"))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let mut ip = run::command("ip");
    ip.args(arguments);
    finish(ip)
}

fn finish(mut command: Command) -> Result<()> {
    let said = run::output(&mut command)?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}
