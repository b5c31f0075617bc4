//! `xylem preheat`: has control tell nodes to pull an image, and shows how far they are. Pulls
//! nothing itself.

use std::collections::HashMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::StatusCode;
use serde_json::json;
use xylem_protocol::names::Reference;

use super::client::{Client, ClientError, Peer};
use super::table::{Align, bytes, table};
use super::{CliError, one_line, print, print_json};
use crate::api::{Preheat, PreheatNode, PreheatOrder, PreheatState, Preheated};
use crate::limits::BARS_MAX;
use crate::state::Selector;

const PATH: &str = "/api/v1/preheats";

/// How often control is asked how far they are.
const POLL: Duration = Duration::from_millis(250);

/// What was typed.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) image: Reference,
    pub(super) platforms: Vec<String>,
    pub(super) nodes: Selector,
    pub(super) detach: bool,
}

pub(super) async fn run(
    client: &Client,
    control: &Peer,
    order: Order,
    json: bool,
) -> Result<(), CliError> {
    let ended = preheat(client, control, &order, json).await;
    if let (true, Err(error)) = (json, &ended) {
        // What each node has is told already, where there was anything to tell.
        if !matches!(error, CliError::Preheat { .. }) {
            print_json(&json!({ "event": "failed", "error": one_line(error) }))?;
        }
    }
    ended
}

async fn preheat(
    client: &Client,
    control: &Peer,
    order: &Order,
    json: bool,
) -> Result<(), CliError> {
    let Reference { registry, repository, target } = &order.image;
    let request = PreheatOrder {
        registry: registry.clone(),
        name: repository.clone(),
        reference: target.to_string(),
        platforms: order.platforms.clone(),
        nodes: order.nodes.to_string(),
    };
    let started: Preheated = client.post(control, PATH, &request).await?;
    let Preheated { id, nodes, joined } = started;
    if order.detach {
        if json {
            let event = "started";
            return print_json(
                &json!({ "event": event, "id": id, "nodes": nodes, "joined": joined }),
            );
        }
        let state = if joined { "is running already" } else { "started" };
        return print(&format!("preheat {id} of {} {state}: {nodes} nodes\n", order.image));
    }
    let preheat = follow(client, control, id, json).await?;
    let event = if preheat.state == PreheatState::Done { "done" } else { "failed" };
    if json {
        let seconds = preheat.age_s;
        let nodes = &preheat.nodes;
        print_json(&json!({ "event": event, "id": id, "seconds": seconds, "nodes": nodes }))?;
    } else {
        print(&show(&preheat))?;
    }
    let lacking = preheat.nodes.iter().filter(|node| node.state != PreheatState::Done).count();
    match lacking {
        0 => Ok(()),
        lacking => Err(CliError::Preheat { lacking, of: preheat.nodes.len() }),
    }
}

/// Waits for the end, and shows what there is to see until then.
async fn follow(client: &Client, control: &Peer, id: u64, json: bool) -> Result<Preheat, CliError> {
    let path = format!("{PATH}/{id}");
    let mut bars = Bars::new(json);
    let mut ticks = tokio::time::interval(POLL);
    let mut told = None;
    loop {
        ticks.tick().await;
        let preheat: Preheat = match client.json(control, &path).await {
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                return Err(CliError::PreheatForgotten { peer: control.clone(), id });
            }
            other => other?,
        };
        bars.draw(&preheat.nodes);
        if json && told.as_ref() != Some(&preheat.nodes) {
            print_json(&json!({ "event": "progress", "id": id, "nodes": preheat.nodes }))?;
        }
        if preheat.state != PreheatState::Running {
            bars.clear();
            return Ok(preheat);
        }
        told = Some(preheat.nodes);
    }
}

/// A bar for each node, or one for all where they are many.
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

impl Bars {
    fn new(hidden: bool) -> Self {
        let all = MultiProgress::new();
        if hidden {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { all, bars: HashMap::new() }
    }

    fn draw(&mut self, nodes: &[PreheatNode]) {
        if nodes.len() <= BARS_MAX as usize {
            for node in nodes {
                self.set(&node.node, node.done_bytes, node.total_bytes);
            }
            return;
        }
        let over = nodes.iter().filter(|node| node.state == PreheatState::Done).count();
        let sum = |of: fn(&PreheatNode) -> u64| nodes.iter().map(of).sum();
        self.set("all", sum(|node| node.done_bytes), sum(|node| node.total_bytes));
        if let Some(bar) = self.bars.get("all") {
            bar.set_prefix(format!("{over} of {} nodes", nodes.len()));
        }
    }

    fn set(&mut self, name: &str, done_bytes: u64, total_bytes: u64) {
        let bar = self.bars.entry(name.to_owned()).or_insert_with(|| {
            let template = "{prefix} {bar:40} {binary_bytes}/{binary_total_bytes}";
            let bar = self.all.add(ProgressBar::new(0)).with_prefix(name.to_owned());
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_length(total_bytes);
        bar.set_position(done_bytes);
    }

    fn clear(&self) {
        // What cannot be wiped off a terminal stays there.
        let _ = self.all.clear();
    }
}

fn show(preheat: &Preheat) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("BYTES", Align::Right),
        ("REASON", Align::Left),
    ];
    let row = |node: &PreheatNode| {
        let state = match node.state {
            PreheatState::Waiting => "waiting",
            PreheatState::Running => "running",
            PreheatState::Done => "done",
            PreheatState::Failed => "failed",
            PreheatState::Left => "left",
        };
        let reason = node.error.clone().unwrap_or_default();
        [node.node.clone(), state.to_owned(), bytes(node.done_bytes), reason]
    };
    let rows: Vec<_> = preheat.nodes.iter().map(row).collect();
    let has_it = preheat.nodes.iter().filter(|node| node.state == PreheatState::Done).count();
    let (image, of, age) = (&preheat.image, preheat.nodes.len(), preheat.age_s);
    let drawn = table(columns, &rows);
    format!("{drawn}{image} is on {has_it} of {of} nodes after {age:.2} s\n")
}
