//! Who reads from whom: control's state, unchanged, told what nodes would say; and two shapes that
//! no control plants, for comparison. Counts what a leave moves. Time is told with what is said.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use xylem_control::forest::TreeKey;
use xylem_control::limits::{HEARTBEAT_MS, UPSTREAMS_MAX};
use xylem_control::state::{Event, Hello, Output, SessionId, Settings, State};
use xylem_control::tree::ShapeKind;
use xylem_protocol::pb::control_message::Kind;
use xylem_protocol::{Digest, pb};

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
    /// Blobs that are well on their way follow, too.
    pub(super) at_once: bool,
}

/// What a node says.
#[derive(Debug)]
pub(super) enum Word {
    /// It is there.
    Hello,
    /// It wants the blob.
    Join,
    /// It has all of it.
    Complete,
    /// It is still there.
    Heartbeat,
    /// What its hops have carried.
    Hops(Vec<pb::HopReport>),
    /// That node says nothing, and not whether it is alive either.
    Stuck(u32),
    /// It ends.
    Goodbye,
    /// Its stream has broken off.
    Lost,
}

#[derive(Debug)]
enum Plan {
    State(Box<State>),
    Chain(Vec<u32>),
    Registry,
}

/// Control, as far as places go.
#[derive(Debug)]
pub(super) struct Control {
    plan: Plan,
    out: Vec<Output>,
    /// By node: its parent for each stripe.
    parents: Vec<Vec<Option<u32>>>,
    /// Edges to staying nodes that changed because others left, or some time after.
    pub(super) moved: u64,
}

impl Control {
    pub(super) fn new(shape: Shape) -> Self {
        let plan = match shape {
            Shape::Trees(shape) => {
                let settings = Settings {
                    shape,
                    heartbeat_ms: HEARTBEAT_MS,
                    settle_ms: 0,
                    first_epoch: 1,
                    voucher_key: [0; 32],
                };
                Plan::State(Box::new(State::new(settings, 0)))
            }
            Shape::Chain => Plan::Chain(Vec::new()),
            // Nobody asks control for a place in a mesh.
            Shape::Registry | Shape::Mesh => Plan::Registry,
        };
        Self { plan, out: Vec::new(), parents: Vec::new(), moved: 0 }
    }

    /// Whether it wants to know more than who comes and who is gone.
    pub(super) const fn listens(&self) -> bool {
        matches!(self.plan, Plan::State(_))
    }

    /// Whether it looks at what hops have carried.
    pub(super) fn watches_hops(&self, shape: Shape) -> bool {
        self.listens() && shape != Shape::Trees(ShapeKind::Ft)
    }

    /// Hears a node; says who is to be told a place.
    pub(super) fn hear(&mut self, node: u32, word: Word, now_ms: u64) -> Vec<Place> {
        let gone = matches!(word, Word::Goodbye | Word::Lost);
        let places = match &mut self.plan {
            Plan::State(state) => {
                let session = SessionId(u64::from(node));
                state.apply(session, event(node, word), now_ms, &mut self.out);
                places(&mut self.out)
            }
            Plan::Chain(line) => match word {
                Word::Join => {
                    line.push(node);
                    vec![above(line, line.len() - 1)]
                }
                Word::Goodbye => left(line, node),
                _ => Vec::new(),
            },
            Plan::Registry => match word {
                Word::Join => vec![Place { node, branches: vec![Vec::new()], at_once: false }],
                _ => Vec::new(),
            },
        };
        let changed = self.note(&places);
        self.moved += if gone { changed } else { 0 };
        places
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now_ms: u64) -> Vec<Place> {
        let Plan::State(state) = &mut self.plan else { return Vec::new() };
        state.tick(now_ms, &mut self.out);
        let places = places(&mut self.out);
        self.moved += self.note(&places);
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
const KEY: TreeKey = TreeKey { image: Digest::from_bytes([0; 32]) };

/// A node's name.
pub(super) fn name(node: u32) -> String {
    format!("n{node}")
}

fn node_of(name: &str) -> u32 {
    name[1..].parse().expect("the name of a node")
}

fn event(node: u32, word: Word) -> Event {
    match word {
        Word::Hello => Event::Hello(Hello {
            node: name(node),
            address: format!("10.{}.{}.{}:4400", node >> 16, node >> 8 & 255, node & 255),
            zone: String::new(),
            version: String::new(),
            memberships: Vec::new(),
        }),
        Word::Join => Event::Join { key: KEY, name: "image".to_owned() },
        Word::Complete => Event::Complete { key: KEY },
        Word::Heartbeat => Event::Heartbeat(pb::Heartbeat::default()),
        Word::Hops(reports) => Event::Hops(reports),
        Word::Stuck(peer) => Event::Stuck { node: name(peer) },
        Word::Goodbye => Event::Goodbye,
        Word::Lost => Event::Lost,
    }
}

fn places(out: &mut Vec<Output>) -> Vec<Place> {
    let mut places = Vec::new();
    for output in out.drain(..) {
        let Output::Send { session, message } = output else { continue };
        let Kind::Assignment(told) = message else { continue };
        let numbers = |branch: &pb::Branch| {
            branch.upstreams.iter().map(|peer| node_of(&peer.node)).collect::<Vec<u32>>()
        };
        places.push(Place {
            node: u32::try_from(session.0).expect("the session of a node"),
            branches: told.branches.iter().map(numbers).collect(),
            at_once: told.at_once,
        });
    }
    places
}

fn above(line: &[u32], index: usize) -> Place {
    let upstreams = line[..index].iter().rev().take(UPSTREAMS_MAX as usize).copied();
    Place { node: line[index], branches: vec![upstreams.collect()], at_once: false }
}

/// Takes a node out of the line; those below it have others above them now.
fn left(line: &mut Vec<u32>, node: u32) -> Vec<Place> {
    let Some(at) = line.iter().position(|&other| other == node) else { return Vec::new() };
    line.remove(at);
    let end = line.len().min(at + UPSTREAMS_MAX as usize);
    (at..end).map(|index| above(line, index)).collect()
}
