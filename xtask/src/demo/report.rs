//! The figures of a demo, as text and as JSON; takes them as they are measured.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cluster::{self, Hop};

const GIB: f64 = (1_u64 << 30) as f64;

/// What was measured.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) nodes: Vec<Node>,
    pub(super) makespan_s: f64,
    /// The same without the nodes whose uplinks were made slow, if any were.
    pub(super) others_s: Option<f64>,
    /// The nodes whose uplinks control takes for slow at the end.
    pub(super) slow_found: Vec<String>,
    pub(super) processors: usize,
    pub(super) goodput_bytes_s: f64,
    pub(super) image_bytes: u64,
    pub(super) nodes_cpu_s: f64,
    pub(super) machine_cpu_s: f64,
    pub(super) origin_wire_bytes: Option<u64>,
    pub(super) hops: Vec<Hop>,
    pub(super) origin: &'static str,
    pub(super) rate: Option<String>,
    pub(super) image: String,
}

/// How it went on one node.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) verified: bool,
    pub(super) seconds: f64,
}

/// What is reported: the names of the fields are the keys of the JSON.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    nodes: Vec<Node>,
    makespan_s: f64,
    limit_s: f64,
    ratio: f64,
    others_s: Option<f64>,
    others_ratio: Option<f64>,
    slow_found: Vec<String>,
    goodput_bytes_s: f64,
    rate: Option<String>,
    origin: &'static str,
    origin_bytes: u64,
    origin_ratio: f64,
    origin_wire_bytes: Option<u64>,
    image: String,
    image_bytes: u64,
    cpu_s_per_gib_node: f64,
    machine_cpu_s_per_gib_node: f64,
    machine_cpu_share: f64,
    counts_agree: bool,
    /// By which the kernel has more than the relay on all hops; none where it has not so on each.
    unread_bytes: Option<u64>,
    hops: Vec<Hop>,
}

impl Report {
    /// Derives what follows from the figures.
    #[expect(clippy::cast_precision_loss, reason = "ratios to three digits")]
    pub(super) fn new(it: Figures) -> Self {
        let image_bytes = it.image_bytes as f64;
        let limit_s = image_bytes / it.goodput_bytes_s;
        let origin_bytes = cluster::origin_bytes(&it.hops);
        let unread_bytes = cluster::unread_bytes(&it.hops).ok();
        let gib_nodes = image_bytes / GIB * it.nodes.len() as f64;
        Self {
            makespan_s: it.makespan_s,
            limit_s,
            ratio: it.makespan_s / limit_s,
            others_s: it.others_s,
            others_ratio: it.others_s.map(|seconds| seconds / limit_s),
            slow_found: it.slow_found,
            goodput_bytes_s: it.goodput_bytes_s,
            rate: it.rate,
            origin: it.origin,
            origin_bytes,
            origin_ratio: origin_bytes as f64 / image_bytes,
            origin_wire_bytes: it.origin_wire_bytes,
            image: it.image,
            image_bytes: it.image_bytes,
            cpu_s_per_gib_node: it.nodes_cpu_s / gib_nodes,
            machine_cpu_s_per_gib_node: it.machine_cpu_s / gib_nodes,
            machine_cpu_share: it.machine_cpu_s / (it.makespan_s * it.processors as f64),
            counts_agree: unread_bytes.is_some_and(|bytes| bytes == 0),
            unread_bytes,
            nodes: it.nodes,
            hops: it.hops,
        }
    }

    pub(super) fn all_verified(&self) -> bool {
        self.nodes.iter().all(|node| node.verified)
    }

    /// Prints everything on stdout.
    pub(super) fn print(&self, trees: &str) {
        println!("\n{}\n", trees.trim_end());
        print!("{}", hop_table(&self.hops));
        let sources: BTreeSet<&str> = self.hops.iter().map(|hop| hop.source.as_str()).collect();
        let sources = sources.into_iter().collect::<Vec<_>>().join(", ");
        let agreement = match self.unread_bytes {
            Some(0) => "agree on the bytes of the hops".to_owned(),
            Some(bytes) => format!("differ by {bytes} bytes of sources that were left, unread"),
            None => "DO NOT AGREE on the bytes of the hops".to_owned(),
        };
        println!("relay and kernel ({sources}) {agreement}\n");
        for node in &self.nodes {
            let verdict = if node.verified { "verified" } else { "NOT VERIFIED" };
            println!("{:>8}  {:8.3} s  {verdict}", node.name, node.seconds);
        }
        let mib_s = self.goodput_bytes_s / (1 << 20) as f64;
        let link = self.rate.as_deref().unwrap_or("unshaped, all on this machine");
        println!();
        println!("makespan          {:.3} s", self.makespan_s);
        println!("limit S/B         {:.3} s  ({link}: B = {mib_s:.1} MiB/s)", self.limit_s);
        println!("makespan / limit  {:.2}", self.ratio);
        if let Some((seconds, ratio)) = self.others_s.zip(self.others_ratio) {
            println!("  the others      {ratio:.2}  ({seconds:.3} s without the slow nodes)");
        }
        if !self.slow_found.is_empty() {
            println!("taken for slow    {}", self.slow_found.join(", "));
        }
        println!(
            "registry / S      {:.3}  ({} bytes of payload from the {} for an image of {})",
            self.origin_ratio, self.origin_bytes, self.origin, self.image_bytes
        );
        println!("CPU               {:.2} s per GiB and node", self.cpu_s_per_gib_node);
        println!(
            "  whole machine   {:.2} s per GiB and node, {:.0} % of what it has",
            self.machine_cpu_s_per_gib_node,
            self.machine_cpu_share * 100.0
        );
    }
}

/// One line per hop, in columns.
fn hop_table(hops: &[Hop]) -> String {
    let head = [
        "hop",
        "relay bytes",
        "kernel bytes",
        "Mbit/s",
        "srtt ms",
        "retrans",
        "1st byte ms",
        "limited by",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(hops.iter().map(|hop| {
        let number = |value: Option<f64>, digits| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let count = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        [
            format!("{} -> {}", hop.parent, hop.child),
            hop.relay_bytes.to_string(),
            count(hop.kernel_bytes()),
            number(hop.mbit_s, 0),
            number(hop.srtt_ms, 2),
            count(hop.retransmits),
            number(hop.first_byte_ms, 2),
            hop.verdict.clone(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let words = column == 0 || column == head.len() - 1;
            if words { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(parent: &str, child: &str, kernel_bytes: Option<u64>) -> Hop {
        Hop {
            parent: parent.into(),
            child: child.into(),
            relay_bytes: 1000,
            kernel_bytes: kernel_bytes.unwrap_or_default(),
            source: if kernel_bytes.is_some() { "bpf" } else { "none" }.into(),
            mbit_s: Some(941.4),
            srtt_ms: None,
            retransmits: Some(0),
            first_byte_ms: Some(0.25),
            verdict: "network".into(),
            more: std::collections::BTreeMap::new(),
        }
    }

    fn figures() -> Figures {
        let node = |name: &str| Node { name: name.into(), verified: true, seconds: 2.0 };
        Figures {
            nodes: vec![node("n1"), node("n2")],
            makespan_s: 2.0,
            others_s: None,
            slow_found: Vec::new(),
            processors: 2,
            goodput_bytes_s: 1000.0,
            image_bytes: 1000,
            nodes_cpu_s: 0.0,
            machine_cpu_s: 0.0,
            origin_wire_bytes: None,
            hops: vec![hop("registry", "n1", Some(1000)), hop("n1", "n2", Some(1000))],
            origin: "docker-registry",
            rate: None,
            image: "sha256:aa".into(),
        }
    }

    #[test]
    fn only_the_registry_s_own_hops_are_origin_bytes() {
        let report = Report::new(figures());
        assert_eq!((report.origin_bytes, report.ratio, report.limit_s), (1000, 2.0, 1.0));
        assert!(report.counts_agree && report.all_verified());
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let json = serde_json::to_value(Report::new(figures())).unwrap();
        for key in ["nodes", "makespan_s", "limit_s", "ratio", "origin_bytes", "image_bytes"] {
            assert!(!json[key].is_null(), "{key}");
        }
        for key in ["origin_ratio", "cpu_s_per_gib_node", "hops"] {
            assert!(!json[key].is_null(), "{key}");
        }
        for key in ["parent", "child", "relay_bytes", "kernel_bytes", "mbit_s", "srtt_ms"] {
            assert!(json["hops"][0].get(key).is_some(), "{key}");
        }
        for key in ["retransmits", "first_byte_ms", "verdict"] {
            assert!(json["hops"][0].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn counts_that_are_missing_or_differ_do_not_agree() {
        for kernel in [None, Some(999)] {
            let mut figures = figures();
            figures.hops[1] = hop("n1", "n2", kernel);
            assert!(!Report::new(figures).counts_agree);
        }
    }

    #[test]
    fn the_table_shows_what_is_not_known_as_a_dash() {
        let table = hop_table(&[hop("registry", "n1", None)]);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        let expected = ["registry", "->", "n1", "1000", "-", "941", "-", "0", "0.25", "network"];
        assert_eq!(row, expected);
    }
}
