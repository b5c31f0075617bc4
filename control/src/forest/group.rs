//! A group: nodes of one image in trees of their own, and who feeds their roots. Knows nothing of
//! other groups.

use crate::forest::NodeId;
use crate::limits::BRANCHES_MAX;
use crate::placement::Zone;
use crate::tree::shape::Shape;
use crate::tree::{Place, ShapeKind};

/// Index of a group in its image.
pub(super) type Index = u32;

/// The group of a node that is being moved: none.
pub(super) const NOWHERE: Index = Index::MAX;

/// Who feeds the root of each tree; nobody: the registry.
pub(super) type Feeders = [Option<NodeId>; BRANCHES_MAX as usize];

/// Whether newcomers may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Yes, until that time.
    Open { until_ms: u64 },
    /// No more.
    Closed,
    /// Never: one node by itself, which is slow, or feeds those that are.
    Aside,
}

#[derive(Debug)]
pub(super) struct Group {
    /// Unlike that of any other group.
    pub(super) number: u64,
    pub(super) zone: Zone,
    pub(super) door: Door,
    pub(super) shape: Shape,
    pub(super) feeders: Feeders,
    /// How many have not all of the image yet.
    pub(super) incomplete: u32,
    /// When it last got another feeder because its own sent too much.
    pub(super) refed_ms: u64,
    /// Its size, as the pool knows it; `None` while it is not in there.
    pub(super) listed: Option<u32>,
    /// By [`Place::index`].
    nodes: Vec<NodeId>,
}

impl Group {
    pub(super) fn new(kind: ShapeKind, number: u64, zone: Zone, door: Door) -> Self {
        Self {
            number,
            zone,
            door,
            shape: Shape::new(kind),
            feeders: Feeders::default(),
            incomplete: 0,
            refed_ms: 0,
            listed: None,
            nodes: Vec::new(),
        }
    }

    pub(super) fn node(&self, place: Place) -> NodeId {
        self.nodes[place.index() as usize]
    }

    /// Remembers who has a place.
    pub(super) fn seat(&mut self, place: Place, node: NodeId) {
        let index = place.index() as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, node);
        }
        self.nodes[index] = node;
    }

    pub(super) fn takes_newcomers(&self) -> bool {
        matches!(self.door, Door::Open { .. })
    }
}
