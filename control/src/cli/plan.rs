//! `xylem plan`: trees of nodes that there are not, by the code that control plants them with.
//! Asks nobody and changes nothing.

mod estimate;
mod replay;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::table::{Align, bytes, table};
use super::{CliError, print, print_json};
use crate::limits::TREE_NODES_MAX;
use crate::tree::ShapeKind;
use crate::units::{Rate, Size};

/// The model's words, for `--help`.
const MODEL: &str = "\
The model of --nodes: all nodes want one image at once and nobody leaves. The trees are those that
control plants when the nodes join one after another; chain and registry have none. Links have the
same rate both ways, the registry's too, and nothing else limits. Whoever sends to several shares
its rate among them evenly; with twin, each tree carries half of the image. A node passes on what
has arrived, 0.3 ms later. MOVED PER LEAVE counts the nodes that stay and get another parent when
one leaves, once per tree; it is the mean over all nodes, or over 512 of them.";

/// What to plan: a replay, or an estimate.
#[derive(Debug, clap::Args)]
#[command(after_help = MODEL)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["ops", "nodes"]))]
pub(super) struct Order {
    /// Replay the lines `join ID` and `leave ID` of this file (-: stdin) and print the trees; IDs
    /// are integers, blank lines and those that begin with # are passed over
    #[arg(long, value_name = "FILE", requires = "shape", conflicts_with_all = ["size", "rate"])]
    ops: Option<PathBuf>,
    /// Tell how long an image takes to so many nodes
    #[arg(long, value_name = "N", requires_all = ["size", "rate"])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(TREE_NODES_MAX)))]
    nodes: Option<u32>,
    /// Of the image, as in 758MB or 1GiB
    #[arg(long, value_name = "SIZE", requires = "nodes")]
    size: Option<Size>,
    /// Of each link, as in 1gbit or 500mbit
    #[arg(long, value_name = "RATE", requires = "nodes")]
    rate: Option<Rate>,
    /// How nodes get the image from each other: ft, twin, chain or registry [default: all, but
    /// --ops wants ft or twin]
    #[arg(long, value_name = "SHAPE,…", value_delimiter = ',')]
    shape: Vec<Way>,
}

/// How nodes get an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through trees of that shape.
    Trees(ShapeKind),
    /// Each from the one before.
    Chain,
    /// Each from the registry.
    Registry,
}

impl Way {
    const ALL: [Self; 4] =
        [Self::Trees(ShapeKind::Twin), Self::Trees(ShapeKind::Ft), Self::Chain, Self::Registry];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Trees(kind) => kind.name(),
            Self::Chain => "chain",
            Self::Registry => "registry",
        })
    }
}

impl FromStr for Way {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ways = Self::ALL.into_iter();
        ways.into_iter()
            .find(|way| way.to_string() == text)
            .ok_or("must be ft, twin, chain or registry")
    }
}

/// Why there is no plan. What was typed, or what the file says, is wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("--ops wants one shape, ft or twin")]
    Shape,
    #[error(transparent)]
    Replay(#[from] replay::ReplayError),
}

pub(super) fn run(order: &Order, json: bool) -> Result<(), CliError> {
    if let Some(file) = &order.ops {
        let &[Way::Trees(kind)] = &order.shape[..] else { return Err(PlanError::Shape.into()) };
        let grown = replay::replay(file, kind).map_err(PlanError::from)?;
        return if json { print_json(&grown.levels()) } else { print(&grown.drawn()) };
    }
    let (Some(nodes), Some(size), Some(rate)) = (order.nodes, order.size, order.rate) else {
        // clap has seen to it.
        return Ok(());
    };
    let ways = if order.shape.is_empty() { &Way::ALL[..] } else { &order.shape };
    let estimates = ways.iter().map(|&way| estimate::estimate(way, nodes, size, rate));
    if json {
        return estimates.into_iter().try_for_each(|estimate| print_json(&estimate));
    }
    let rows: Vec<_> = estimates.map(|estimate| row(&estimate)).collect();
    let limit_s = size.0 as f64 / rate.0 as f64;
    let nodes = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
    let heading =
        format!("{size} to {nodes} over links of {rate}: over one link {limit_s:.3} s\n\n");
    print(&(heading + &table(COLUMNS, &rows)))
}

const COLUMNS: [(&str, Align); 9] = [
    ("SHAPE", Align::Left),
    ("MAKESPAN S", Align::Right),
    ("X S/B", Align::Right),
    ("FIRST BYTE MS", Align::Right),
    ("LAST MS", Align::Right),
    ("DEPTH", Align::Right),
    ("REGISTRY SENDS", Align::Right),
    ("X S", Align::Right),
    ("MOVED PER LEAVE", Align::Right),
];

fn row(estimate: &estimate::Estimate) -> [String; 9] {
    [
        estimate.shape.clone(),
        format!("{:.3}", estimate.makespan_s),
        format!("{:.3}", estimate.ratio),
        format!("{:.1}", estimate.first_byte_ms),
        format!("{:.1}", estimate.first_byte_last_ms),
        estimate.depth.to_string(),
        bytes(estimate.registry_bytes),
        format!("{:.2}", estimate.registry_ratio),
        format!("{:.2}", estimate.moved_per_leave),
    ]
}
