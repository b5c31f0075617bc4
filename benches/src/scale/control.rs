//! Who reads from whom: the forest of control, unchanged; and two shapes that no control plants,
//! for comparison. Counts what a leave moves. Knows no time.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use xylem_control::forest::{Assignment, Event, Forest, NodeId, TreeKey};
use xylem_control::limits::UPSTREAMS_MAX;
use xylem_control::tree::ShapeKind;
use xylem_protocol::Digest;

/// How nodes get a blob from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Shape {
    /// As control has it.
    Trees(ShapeKind),
    /// Each node reads from the one that came before it.
    Chain,
    /// Each node reads the registry.
    Registry,
    /// A model of a mesh that stores and forwards pieces.
    Mesh,
}

impl Shape {
    const ALL: [Self; 5] = [
        Self::Trees(ShapeKind::Ft),
        Self::Trees(ShapeKind::Twin),
        Self::Chain,
        Self::Registry,
        Self::Mesh,
    ];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trees(kind) => kind.name(),
            Self::Chain => "chain",
            Self::Registry => "registry",
            Self::Mesh => "mesh",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that is no shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no shape: there are {all}", all = Shape::ALL.map(Shape::name).join(", "))]
pub struct ShapeError(String);

impl FromStr for Shape {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let found = Self::ALL.into_iter().find(|shape| shape.name() == text);
        found.ok_or_else(|| ShapeError(text.to_owned()))
    }
}

impl TryFrom<String> for Shape {
    type Error = ShapeError;

    fn try_from(text: String) -> Result<Self, ShapeError> {
        text.parse()
    }
}

/// What a node is told: for each stripe whom to read from, parent first; nobody at a root.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: u32,
    pub(super) branches: Vec<Vec<u32>>,
}

#[derive(Debug)]
enum Plan {
    Forest(Forest),
    Chain(Vec<u32>),
    Registry,
}

/// Control, as far as places go.
#[derive(Debug)]
pub(super) struct Control {
    plan: Plan,
    /// By node: its parent for each stripe.
    parents: Vec<Vec<Option<u32>>>,
    /// Nodes that left.
    pub(super) leaves: u64,
    /// Edges to staying nodes that their leaving changed.
    pub(super) moved: u64,
}

impl Control {
    pub(super) fn new(shape: Shape) -> Self {
        let plan = match shape {
            Shape::Trees(kind) => Plan::Forest(Forest::new(kind, 0)),
            Shape::Chain => Plan::Chain(Vec::new()),
            // Nobody asks control for a place in a mesh.
            Shape::Registry | Shape::Mesh => Plan::Registry,
        };
        Self { plan, parents: Vec::new(), leaves: 0, moved: 0 }
    }

    /// A node comes.
    pub(super) fn join(&mut self, node: u32) -> Vec<Place> {
        let places = match &mut self.plan {
            Plan::Forest(forest) => told(forest, &Event::Join { node: NodeId(node), key: key() }),
            Plan::Chain(line) => {
                line.push(node);
                vec![above(line, line.len() - 1)]
            }
            Plan::Registry => vec![Place { node, branches: vec![Vec::new()] }],
        };
        self.note(&places);
        places
    }

    /// A node is gone.
    pub(super) fn leave(&mut self, node: u32) -> Vec<Place> {
        let places = match &mut self.plan {
            Plan::Forest(forest) => told(forest, &Event::Down { node: NodeId(node) }),
            Plan::Chain(line) => {
                let Some(at) = line.iter().position(|&other| other == node) else {
                    return Vec::new();
                };
                line.remove(at);
                let end = line.len().min(at + UPSTREAMS_MAX as usize);
                (at..end).map(|index| above(line, index)).collect()
            }
            Plan::Registry => Vec::new(),
        };
        self.leaves += 1;
        self.moved += self.note(&places);
        places
    }

    /// A node has all of the blob.
    pub(super) fn complete(&mut self, node: u32) -> Vec<Place> {
        let Plan::Forest(forest) = &mut self.plan else { return Vec::new() };
        let places = told(forest, &Event::Complete { node: NodeId(node), key: key() });
        self.note(&places);
        places
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now_ms: u64) -> Vec<Place> {
        let Plan::Forest(forest) = &mut self.plan else { return Vec::new() };
        let mut assignments = Vec::new();
        forest.tick(now_ms, &mut assignments);
        let places = places(assignments);
        self.note(&places);
        places
    }

    /// Remembers the parents; says how many are new.
    fn note(&mut self, places: &[Place]) -> u64 {
        let mut changed = 0;
        for place in places {
            let index = place.node as usize;
            if self.parents.len() <= index {
                self.parents.resize_with(index + 1, Vec::new);
            }
            let parents: Vec<Option<u32>> =
                place.branches.iter().map(|branch| branch.first().copied()).collect();
            let before = std::mem::replace(&mut self.parents[index], parents);
            let pairs = before.iter().zip(&self.parents[index]);
            changed += pairs.filter(|(before, after)| before != after).count() as u64;
        }
        changed
    }
}

/// There is one image.
const fn key() -> TreeKey {
    TreeKey { image: Digest::from_bytes([0; 32]) }
}

fn told(forest: &mut Forest, event: &Event<'_>) -> Vec<Place> {
    let mut assignments = Vec::new();
    forest.apply(event, &mut assignments).expect("the scenario keeps within control's bounds");
    places(assignments)
}

fn places(assignments: Vec<Assignment>) -> Vec<Place> {
    let numbers = |branch: Vec<NodeId>| branch.into_iter().map(|node| node.0).collect();
    assignments
        .into_iter()
        .map(|told| Place {
            node: told.node.0,
            branches: told.branches.into_iter().map(numbers).collect(),
        })
        .collect()
}

fn above(line: &[u32], index: usize) -> Place {
    let upstreams = line[..index].iter().rev().take(UPSTREAMS_MAX as usize).copied();
    Place { node: line[index], branches: vec![upstreams.collect()] }
}
