//! `xylem pull`: has the node pull, shows how far it is, and writes the image out if that was asked
//! for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use xylem_protocol::Digest;
use xylem_protocol::names::Reference;

use super::authorize::{Authorization, Door};
use super::client::{Client, Peer};
use super::layout::Layout;
use super::login::{self, Credentials, Found};
use super::table::bytes;
use super::{CliError, one_line, print, print_json};

/// How often the node is asked how far it is. It answers sooner once it has all.
const POLL_MS: u64 = 250;

/// What was typed.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) image: Reference,
    pub(super) output: Option<PathBuf>,
    pub(super) platform: Option<String>,
    pub(super) login: login::Options,
}

#[derive(Debug, Serialize)]
struct PullOrder<'a> {
    name: &'a str,
    reference: String,
    registry: &'a str,
    platform: &'a str,
}

#[derive(Debug, Deserialize)]
struct Accepted {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct PullStatus {
    state: PullState,
    error: Option<String>,
    image: Option<String>,
    #[serde(default)]
    done_bytes: u64,
    #[serde(default)]
    total_bytes: u64,
    start_ns: Option<u64>,
    end_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PullState {
    Running,
    Done,
    Failed,
}

/// An image that is whole in the node's store. Times are the node's, CLOCK_MONOTONIC.
#[derive(Debug)]
struct Pulled {
    image: Digest,
    bytes: u64,
    start_ns: u64,
    end_ns: u64,
}

pub(super) async fn run(
    client: &Client,
    node: &Peer,
    order: Order,
    json: bool,
) -> Result<(), CliError> {
    match pull(client, node, &order, json).await {
        Ok(pulled) => show(&order, &pulled, json),
        Err(error) => {
            if json {
                print_json(&json!({ "event": "failed", "error": one_line(&error) }))?;
            }
            Err(error)
        }
    }
}

async fn pull(client: &Client, node: &Peer, order: &Order, json: bool) -> Result<Pulled, CliError> {
    // A directory that cannot be written is better known before than after the pull.
    let layout = order.output.as_deref().map(Layout::open).transpose()?;
    let door = Door { client, node, image: &order.image };
    let found = order.login.find(&order.image, &node.endpoint().authority())?;
    let key = match &found {
        // Whoever has none asks without a word more than before.
        Found::Helper { .. } | Found::Nothing => None,
        Found::Credentials(credentials) => {
            let opened = door.open(credentials).await?;
            opened.map(|authorization| Key::new(client, credentials, &authorization))
        }
    };
    let is_stranger = key.is_none();
    let pulled = match to_store(door, order, key, json).await {
        Err(error @ CliError::Pull { .. }) if is_stranger => {
            return Err(door.want(found).await.map_or(error, CliError::from));
        }
        pulled => pulled?,
    };
    if let Some(layout) = layout {
        layout.write(client, node, &order.image, pulled.image).await?;
    }
    Ok(pulled)
}

/// With what a pull asks, and until when.
#[derive(Debug)]
struct Key<'a> {
    credentials: &'a Credentials,
    renew_at: Option<Instant>,
}

impl<'a> Key<'a> {
    fn new(client: &Client, credentials: &'a Credentials, given: &Authorization) -> Self {
        client.authorize(&given.header);
        let renew_at = given.renew_after.map(|after| Instant::now() + after);
        Self { credentials, renew_at }
    }

    /// Gets another token where this one ends before the pull does.
    async fn keep(&mut self, door: Door<'_>) -> Result<(), CliError> {
        if self.renew_at.is_none_or(|at| Instant::now() < at) {
            return Ok(());
        }
        self.renew_at = None;
        if let Some(given) = door.renew(self.credentials).await? {
            *self = Self::new(door.client, self.credentials, &given);
        }
        Ok(())
    }
}

async fn to_store(
    door: Door<'_>,
    order: &Order,
    mut key: Option<Key<'_>>,
    json: bool,
) -> Result<Pulled, CliError> {
    let Door { client, node, .. } = door;
    let this_machine = this_machine();
    let request = PullOrder {
        name: &order.image.repository,
        reference: order.image.target.to_string(),
        registry: &order.image.registry,
        platform: order.platform.as_ref().unwrap_or(&this_machine),
    };
    let started = Instant::now();
    let Accepted { id } = client.post(node, "/xylem/v1/pulls", &request).await?;
    let path = format!("/xylem/v1/pulls/{id}?wait_ms={POLL_MS}");
    let bar = progress_bar(json);
    let mut ticks = tokio::time::interval(Duration::from_millis(POLL_MS));
    loop {
        ticks.tick().await;
        if let Some(key) = &mut key {
            key.keep(door).await?;
        }
        let status: PullStatus = client.json(node, &path).await?;
        bar.set_length(status.total_bytes);
        bar.set_position(status.done_bytes);
        if json && status.state != PullState::Failed {
            let (done, total) = (status.done_bytes, status.total_bytes);
            print_json(&json!({ "event": "progress", "done_bytes": done, "total_bytes": total }))?;
        }
        let failed = |reason: Option<String>| CliError::Pull {
            peer: node.clone(),
            image: order.image.to_string(),
            reason: reason.unwrap_or_else(|| "no reason given".to_owned()),
        };
        match status.state {
            PullState::Running => {}
            PullState::Failed => return Err(failed(status.error)),
            PullState::Done => {
                bar.finish_and_clear();
                let named = status.image.and_then(|image| image.parse().ok());
                let nameless = || failed(Some("it named no digest of the image".to_owned()));
                let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let start_ns = status.start_ns.unwrap_or_default();
                return Ok(Pulled {
                    image: named.ok_or_else(nameless)?,
                    bytes: status.total_bytes,
                    start_ns,
                    end_ns: status.end_ns.unwrap_or(start_ns.saturating_add(took)),
                });
            }
        }
    }
}

fn show(order: &Order, pulled: &Pulled, json: bool) -> Result<(), CliError> {
    let &Pulled { image, bytes: size, start_ns, end_ns } = pulled;
    let took = Duration::from_nanos(end_ns.saturating_sub(start_ns));
    if json {
        return print_json(&json!({
            "event": "done",
            "image": image.to_string(),
            "bytes": size,
            "seconds": took.as_secs_f64(),
            "start_ns": start_ns,
            "end_ns": end_ns,
            // The node hashes every blob before it calls it whole, and so does the writer of the
            // layout.
            "verified": true,
        }));
    }
    let mut text =
        format!("{} {image}\n{} in {:.2} s", order.image, bytes(size), took.as_secs_f64());
    if let Some(rate) = u128::from(size).saturating_mul(1_000_000_000).checked_div(took.as_nanos())
    {
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        text.push_str(&format!(", {}/s", bytes(rate)));
    }
    text.push_str(", verified by SHA-256\n");
    if let Some(directory) = &order.output {
        text.push_str(&format!("written to oci:{}\n", directory.display()));
    }
    print(&text)
}

/// Draws on stderr, and nothing where that is no terminal.
fn progress_bar(json: bool) -> ProgressBar {
    if json {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The platform as images name it.
fn this_machine() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    format!("{}/{architecture}", std::env::consts::OS)
}
