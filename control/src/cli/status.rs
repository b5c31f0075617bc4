//! `xylem status`: control's nodes, or the node itself where that was named or control does not
//! answer.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, Peer};
use super::table::{Align, bytes, duration, short, table};
use super::{CliError, one_line, print, print_json};
use crate::api;

/// What is shown of a node's own status; more may be there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    node: String,
    version: String,
    upstream: Option<String>,
    control: Option<Link>,
    store: Store,
    probes: Probes,
    flows: Vec<Flow>,
    images: Vec<Image>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    address: String,
    connected: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Store {
    blobs: u64,
    bytes: u64,
    partial: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Probes {
    mode: String,
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Flow {
    digest: String,
    received_bytes: u64,
    size: u64,
    source: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Image {
    image: String,
    parent: Option<String>,
}

pub(super) async fn run(
    client: &Client,
    control: &Peer,
    node: &Peer,
    node_named: bool,
    json: bool,
) -> Result<(), CliError> {
    let of_control: Result<api::Status, _> = client.json(control, "/api/v1/status").await;
    let asked = node_named || of_control.as_ref().is_err_and(|error| error.is_unreachable());
    let of_node: Option<Result<Value, _>> =
        if asked { Some(client.json(node, "/xylem/v1/status").await) } else { None };
    if json {
        let of_node = of_node.as_ref().and_then(|answer| answer.as_ref().ok());
        if of_control.is_ok() || of_node.is_some() {
            print_json(&json!({ "control": of_control.as_ref().ok(), "node": of_node }))?;
        }
    } else {
        if let Ok(status) = &of_control {
            print(&show_control(control, status))?;
        }
        if let Some(Ok(status)) = &of_node {
            print(&show_node(node, &NodeStatus::deserialize(status).unwrap_or_default()))?;
        }
    }
    match (of_control, of_node) {
        (Ok(_), None | Some(Ok(_))) => Ok(()),
        (Err(error), Some(Ok(_))) => {
            eprintln!("xylem: {}", one_line(&error));
            Ok(())
        }
        (Err(error), Some(Err(of_node))) => {
            eprintln!("xylem: {}", one_line(&of_node));
            Err(error.into())
        }
        (Err(error), None) | (Ok(_), Some(Err(error))) => Err(error.into()),
    }
}

fn show_control(control: &Peer, status: &api::Status) -> String {
    let up = std::time::Duration::try_from_secs_f64(status.uptime_s).unwrap_or_default();
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    let mut text = format!(
        "{control}: version {}, up {}, {}, {} ({})\n",
        status.version,
        duration(up.as_secs()),
        count(status.nodes.len(), "node"),
        count(status.trees as usize, "tree"),
        status.shape,
    );
    if status.nodes.is_empty() {
        return text;
    }
    let columns = [
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("ZONE", Align::Left),
        ("STATE", Align::Left),
        ("SEEN", Align::Right),
        ("HELD", Align::Right),
        ("FREE", Align::Right),
        ("FLOWS", Align::Right),
        ("VERSION", Align::Left),
    ];
    let row = |node: &api::Node| {
        [
            node.node.clone(),
            node.address.clone(),
            if node.zone.is_empty() { "-".to_owned() } else { node.zone.clone() },
            if node.connected { "connected" } else { "gone" }.to_owned(),
            format!("{} ago", duration(node.last_seen_ms / 1000)),
            bytes(node.held_bytes),
            bytes(node.free_bytes),
            node.active_flows.to_string(),
            node.version.clone(),
        ]
    };
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    text.push_str(&table(columns, &rows));
    text
}

fn show_node(peer: &Peer, status: &NodeStatus) -> String {
    let mut text = format!("{peer}: {}, version {}\n", status.node, status.version);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    line("upstream", status.upstream.clone().unwrap_or_else(|| "none".to_owned()));
    let link = status.control.as_ref().map(|Link { address, connected }| {
        format!("{address}, {}", if *connected { "connected" } else { "not connected" })
    });
    line("control", link.unwrap_or_else(|| "none".to_owned()));
    let Store { blobs, bytes: held, partial } = status.store;
    line("store", format!("{blobs} blobs, {}, {partial} partial", bytes(held)));
    let reason = status.probes.reason.as_ref().filter(|reason| !reason.is_empty());
    line(
        "probes",
        match reason {
            Some(reason) => format!("{} ({reason})", status.probes.mode),
            None => status.probes.mode.clone(),
        },
    );
    for Image { image, parent } in &status.images {
        let parent = parent.as_deref().filter(|parent| !parent.is_empty()).unwrap_or("registry");
        line("image", format!("{} from {parent}", short(image)));
    }
    for Flow { digest, received_bytes, size, source } in &status.flows {
        let source = source.as_deref().unwrap_or("nobody yet");
        let (done, all) = (bytes(*received_bytes), bytes(*size));
        line("flow", format!("{} {done} of {all} from {source}", short(digest)));
    }
    text
}
