//! `xylem doctor`: all that a pull needs, as the node and this machine see it, and what to do about
//! each failure. Looks; changes nothing.

mod local;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::client::{Client, ClientError, Peer};
use super::install::{CERTS_DIR, CONF_DIR};
use super::table::{Align, table};
use super::{CliError, one_line, print, print_json};
use crate::limits::{CHECK_TEXT_MAX, CHECKS_MAX, CHECKS_WAIT_MAX_MS};

const PATH: &str = "/xylem/v1/doctor";

/// Where the runtimes look.
#[derive(Debug, Args)]
pub(super) struct Directories {
    /// containerd's directory of registries
    #[arg(long, value_name = "DIR", default_value = CERTS_DIR)]
    certs_dir: PathBuf,
    /// Directory of drop-ins for podman's registries.conf
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Check {
    name: String,
    /// `None`: not checked, or does not apply; with a remedy, a warning.
    ok: Option<bool>,
    detail: String,
    remedy: Option<String>,
}

impl Check {
    fn new(name: &str, ok: Option<bool>, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok, detail: detail.into(), remedy: None }
    }

    fn good(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, Some(true), detail)
    }

    fn bad(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(name, Some(false), detail) }
    }

    fn warning(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(name, None, detail) }
    }

    fn skipped(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, None, detail)
    }

    /// The check with texts that fit into a line each, whatever a node has put into them.
    fn legible(self) -> Self {
        let remedy = self.remedy.filter(|_| self.ok != Some(true)).map(|text| line(&text));
        let remedy = remedy.filter(|text| !text.is_empty());
        Self { name: line(&self.name), detail: line(&self.detail), remedy, ok: self.ok }
    }

    fn mark(&self) -> &'static str {
        match (self.ok, &self.remedy) {
            (Some(true), _) => "✓",
            (Some(false), _) => "✗",
            (None, Some(_)) => "!",
            (None, None) => "-",
        }
    }
}

fn line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(CHECK_TEXT_MAX as usize).collect::<String>().trim().to_owned()
}

#[derive(Deserialize)]
struct Checks {
    checks: Vec<Check>,
}

/// Looks at all and shows it.
pub(super) async fn run(
    client: &Client,
    node: &Peer,
    directories: &Directories,
    json: bool,
) -> Result<(), CliError> {
    let (reached, status) = local::node(client, node).await;
    let mut checks = vec![reached];
    if status.is_some() {
        checks.extend(of_node(client, node).await);
    }
    checks.extend(local::rest(client, node, status.as_ref(), directories).await);
    let checks: Vec<_> = checks.into_iter().map(Check::legible).collect();
    if json {
        print_json(&json!({ "checks": checks }))?;
    } else {
        print(&show(&checks))?;
    }
    match checks.iter().filter(|check| check.ok == Some(false)).count() {
        0 => Ok(()),
        failed => Err(CliError::Unwell { failed, of: checks.len() }),
    }
}

/// What the node says of itself.
async fn of_node(client: &Client, node: &Peer) -> Vec<Check> {
    const NAME: &str = "node's checks";
    let patience = Duration::from_millis(CHECKS_WAIT_MAX_MS);
    let remedy = "see the log of xylemd";
    match timeout(patience, client.json(node, PATH)).await {
        Ok(Ok(Checks { mut checks })) => {
            checks.truncate(CHECKS_MAX as usize);
            checks
        }
        Ok(Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. })) => {
            vec![Check::skipped(NAME, "the node is of an earlier version and has none")]
        }
        Ok(Err(error)) => vec![Check::bad(NAME, one_line(&error), remedy)],
        Err(_) => {
            let detail = format!("no answer within {} s", patience.as_secs());
            vec![Check::bad(NAME, detail, remedy)]
        }
    }
}

/// The table, with what to do below each check that wants it.
fn show(checks: &[Check]) -> String {
    let columns = [("", Align::Left), ("CHECK", Align::Left), ("DETAIL", Align::Left)];
    let row = |check: &Check| {
        let Check { name, detail, .. } = check;
        [check.mark().to_owned(), name.clone(), detail.clone()]
    };
    let rows: Vec<_> = checks.iter().map(row).collect();
    let drawn = table(columns, &rows);
    let mut lines = drawn.lines();
    let mut text = String::new();
    text.extend(lines.next().into_iter().flat_map(|headings| [headings, "\n"]));
    for (line, check) in lines.zip(checks) {
        text.extend([line, "\n"]);
        if let Some(remedy) = &check.remedy {
            text.extend(["   → ", remedy.as_str(), "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_remedies() {
        let checks = [
            Check::good("node", "n1"),
            Check::bad("io_uring", "not\nallowed\u{1b}[2J", "allow\tit"),
            Check::warning("podman", "not installed", "xylem install podman"),
            Check::skipped("clock", ""),
            Check { remedy: Some("none needed".to_owned()), ..Check::good("memory", "8 MiB") },
            Check { remedy: Some(" ".to_owned()), ..Check::skipped("probes", "off") },
        ];
        let checks: Vec<_> = checks.into_iter().map(Check::legible).collect();
        let expected = "   CHECK     DETAIL
✓  node      n1
✗  io_uring  not allowed [2J
   → allow it
!  podman    not installed
   → xylem install podman
-  clock
✓  memory    8 MiB
-  probes    off
";
        assert_eq!(show(&checks), expected);
        assert_eq!(line(&"x".repeat(2000)).len(), CHECK_TEXT_MAX as usize);
    }
}
