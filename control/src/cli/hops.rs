//! `xylem hops`: one line for each hop.

use super::client::{Client, Peer};
use super::table::{Align, table};
use super::{CliError, print, print_json};
use crate::api;

pub(super) async fn run(client: &Client, control: &Peer, json: bool) -> Result<(), CliError> {
    let hops: api::Hops = client.json(control, "/api/v1/hops").await?;
    if json { print_json(&hops) } else { print(&show(&hops.hops)) }
}

fn show(hops: &[api::Hop]) -> String {
    if hops.is_empty() {
        return "no hops yet\n".to_owned();
    }
    let columns = [
        ("PARENT", Align::Left),
        ("CHILD", Align::Left),
        ("RELAY BYTES", Align::Right),
        ("KERNEL BYTES", Align::Right),
        ("MBIT/S", Align::Right),
        ("SRTT MS", Align::Right),
        ("RETRANS", Align::Right),
        ("FIRST BYTE MS", Align::Right),
        ("P99", Align::Right),
        ("UNIT MS", Align::Right),
        ("P99", Align::Right),
        ("VERDICT", Align::Left),
        ("SOURCE", Align::Left),
    ];
    let rows: Vec<_> = hops.iter().map(row).collect();
    table(columns, &rows)
}

fn row(hop: &api::Hop) -> [String; 13] {
    // Without a source there is nothing to show, which is not the same as 0.
    let counted = hop.source != "none";
    let of_kernel = |text: String| if counted { text } else { "-".to_owned() };
    [
        hop.parent.clone(),
        hop.child.clone(),
        hop.relay_bytes.to_string(),
        of_kernel(hop.kernel_bytes.to_string()),
        format!("{:.1}", hop.mbit_s),
        of_kernel(format!("{:.3}", hop.srtt_ms)),
        of_kernel(hop.retransmits.to_string()),
        format!("{:.3}", hop.first_byte_ms),
        format!("{:.3}", hop.first_byte_p99_ms),
        format!("{:.3}", hop.unit_p50_ms),
        format!("{:.3}", hop.unit_p99_ms),
        hop.verdict.clone(),
        hop.source.clone(),
    ]
}
