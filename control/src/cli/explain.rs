//! `xylem explain`: what the node remembers of the last pull of an image, blob by blob. Asks; pulls
//! nothing.

use std::fmt::Write;
use std::str::FromStr;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use xylem_protocol::Digest;
use xylem_protocol::names::{NameError, Reference};

use super::client::{Client, ClientError, Peer};
use super::table::{Align, bytes, duration, short, table};
use super::{CliError, print, print_json};

const PATH: &str = "/xylem/v1/images";

/// Which image.
#[derive(Clone, Debug)]
pub(super) enum Image {
    /// As `xylem pull` takes it.
    Named(Reference),
    /// Digest of its manifest, or of an index that names it.
    Digest(Digest),
}

impl FromStr for Image {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse() {
            Ok(digest) => Ok(Self::Digest(digest)),
            Err(_) => text.parse().map(Self::Named),
        }
    }
}

impl Image {
    fn path(&self) -> String {
        match self {
            Self::Digest(digest) => format!("{PATH}/{digest}"),
            // All three are of letters that a query takes as they are.
            Self::Named(Reference { registry, repository, target }) => {
                format!("{PATH}?ns={registry}&name={repository}&reference={target}")
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Explained {
    pull: Pull,
    tree: Option<Tree>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tree {
    epoch: u64,
    parent: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pull {
    image: String,
    name: String,
    tag: Option<String>,
    index: Option<String>,
    asked_by: String,
    state: String,
    start_ns: u64,
    end_ns: Option<u64>,
    age_s: f64,
    total_bytes: u64,
    peer_bytes: u64,
    registry_bytes: u64,
    disk_bytes: u64,
    parents: Vec<String>,
    blobs: Vec<Blob>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Blob {
    digest: String,
    size: u64,
    state: String,
    start_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    seconds: Option<f64>,
    retries: u32,
    limited_by: String,
    readers: u32,
    error: Option<String>,
    sources: Vec<Source>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    upstream: String,
    stripe: Option<u8>,
    from: u64,
    bytes: u64,
    lost: Option<String>,
}

pub(super) async fn run(
    client: &Client,
    node: &Peer,
    image: &Image,
    json: bool,
) -> Result<(), CliError> {
    let told: Value = client.json(node, &image.path()).await.map_err(|error| match error {
        ClientError::Refused { status: StatusCode::NOT_FOUND, reason, peer, .. } => {
            CliError::Unexplained { peer, reason }
        }
        error => error.into(),
    })?;
    if json {
        return print_json(&told);
    }
    print(&show(&Explained::deserialize(&told).unwrap_or_default()))
}

fn show(Explained { pull, tree }: &Explained) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("image", format!("{} {}", pull.name, pull.image));
    match (&pull.tag, &pull.index) {
        (Some(tag), Some(index)) => line("named by", format!("tag {tag}, index {}", short(index))),
        (Some(tag), None) => line("named by", format!("tag {tag}")),
        (None, Some(index)) => line("named by", format!("index {}", short(index))),
        (None, None) => {}
    }
    let age = std::time::Duration::try_from_secs_f64(pull.age_s).unwrap_or_default();
    let took = pull.end_ns.map(|end_ns| end_ns.saturating_sub(pull.start_ns));
    let took = took.map(|ns| std::time::Duration::from_nanos(ns).as_secs_f64());
    let took = took.map_or(String::new(), |seconds| format!(", {seconds:.2} s"));
    let state = match pull.state.as_str() {
        "partial" => "not all of it was asked for",
        state => state,
    };
    let age = duration(age.as_secs());
    line("pull", format!("by {}, {age} ago, {state}{took}", pull.asked_by));
    line(
        "bytes",
        format!(
            "{}: {} from peers, {} from the registry, {} were here",
            bytes(pull.total_bytes),
            bytes(pull.peer_bytes),
            bytes(pull.registry_bytes),
            bytes(pull.disk_bytes)
        ),
    );
    if !pull.parents.is_empty() {
        line("parents", pull.parents.join(", then "));
    }
    if let Some(Tree { epoch, parent }) = tree {
        let parent = parent.as_deref().unwrap_or("registry");
        line("tree", format!("{}, epoch {epoch}, now below {parent}", short(&pull.image)));
    }
    text.push_str(&blobs(&pull.blobs));
    for blob in &pull.blobs {
        let digest = short(&blob.digest);
        if blob.state != "here" {
            for source in &blob.sources {
                if let Some(reason) = &source.lost {
                    let at = source.from + source.bytes;
                    let _ = writeln!(text, "{digest}  {} lost at {at}: {reason}", source.upstream);
                }
            }
        }
        if let Some(error) = &blob.error {
            let _ = writeln!(text, "{digest}  {error}");
        }
    }
    text
}

fn blobs(blobs: &[Blob]) -> String {
    let columns = [
        ("BLOB", Align::Left),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
        ("FROM", Align::Left),
        ("START MS", Align::Right),
        ("FIRST BYTE MS", Align::Right),
        ("SECONDS", Align::Right),
        ("LOST", Align::Right),
        ("LIMITED BY", Align::Left),
        ("READERS", Align::Right),
    ];
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let row = |blob: &Blob| {
        let was_fetched = blob.start_ms.is_some();
        let count = |value: u32| if was_fetched { value.to_string() } else { "-".to_owned() };
        [
            short(&blob.digest),
            bytes(blob.size),
            blob.state.clone(),
            origin(blob),
            number(blob.start_ms, 0),
            number(blob.first_byte_ms, 1),
            number(blob.seconds, 3),
            count(blob.retries),
            if was_fetched { blob.limited_by.clone() } else { "-".to_owned() },
            count(blob.readers),
        ]
    };
    let rows: Vec<_> = blobs.iter().map(row).collect();
    table(columns, &rows)
}

/// Where it came from, in order; what brought its two stripes at once is joined by a plus.
fn origin(blob: &Blob) -> String {
    let mut names: Vec<String> = Vec::new();
    if blob.sources.first().is_some_and(|source| source.from > 0) || blob.state == "here" {
        names.push("disk".to_owned());
    }
    let of = |stripe: Option<u8>| {
        let sources = blob.sources.iter().filter(move |source| source.stripe == stripe);
        sources.map(|source| source.upstream.clone())
    };
    let mut stripes = Vec::new();
    if blob.state != "here" {
        names.extend(of(None));
        stripes.extend([0, 1].map(|stripe| of(Some(stripe)).collect::<Vec<_>>().join(" > ")));
        stripes.retain(|stripe| !stripe.is_empty());
    }
    if !stripes.is_empty() {
        names.push(stripes.join(" + "));
    }
    if names.is_empty() { "-".to_owned() } else { names.join(" > ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_by_name_and_by_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let path = |text: &str| text.parse::<Image>().map(|image| image.path());
        assert_eq!(path(&digest).unwrap(), format!("{PATH}/{digest}"));
        let named = path("r.example:5000/a/b:v1").unwrap();
        assert_eq!(named, format!("{PATH}?ns=r.example:5000&name=a/b&reference=v1"));
        let pinned = path(&format!("r/a@{digest}")).unwrap();
        assert_eq!(pinned, format!("{PATH}?ns=r&name=a&reference={digest}"));
        assert!(path("sha256:0").is_err() && path("a").is_err());
    }
}
