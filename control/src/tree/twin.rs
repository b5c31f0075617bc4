//! Two trees over the same nodes in which nobody has children twice, so that each carries half of
//! the data and every uplink is used.
//!
//! Nodes have one of two colours, and their counts differ by at most one. In tree *c* the R nodes
//! of colour *c* are interior, each with two positions below it. So there are R + 1 slots for
//! leaves, and every node of the other colour, at most R + 1 of them, is in one. A single node is
//! the root of both trees.
//!
//! # Depth
//!
//! All levels of interior nodes but the last two are full. If they are the levels 0 to L > 0, there
//! are at least 2^(L − 1) − 1 + 2 of them, so at least 2^L + 1 nodes, and leaves are on level L + 1
//! at the deepest: at most ⌈log₂(n + 1)⌉ + 1 levels.
//!
//! # Who moves
//!
//! Counted are the nodes that stay and get another parent, once per tree.
//!
//! A join moves at most one. If both colours are as many, each tree has a free slot: the newcomer
//! becomes interior in one of them if the depth allows it. Else it takes a leaf's slot, and the
//! leaf moves to a free one. In the other tree it takes a free slot.
//!
//! A leave moves at most five, [`LEAVE_MOVES_MAX`]. In the other tree the slot of who leaves is
//! freed. In its own tree
//!
//! - if at most one interior node is below it, that node takes its place with all that it has, and
//!   the leaves find other slots: two moves;
//! - else another node takes its place. Its children, two, have another parent then, and so has it,
//!   and so have up to two nodes that were below it: five moves. It is looked for among those with
//!   a free slot first, then on the last level. One of the same colour comes from elsewhere in the
//!   tree. One of the other colour was a leaf here and interior in the other tree, where it becomes
//!   a leaf at the same place. If the other colour would be ahead by two, it must be of that one.
//!
//! Of all that is possible the plan with the fewest moves is taken. Under churn a leave moves 2.6
//! to 2.8 on average; the children of who leaves alone are two.

mod half;
mod restore;

use half::{Half, NIL, above};

use super::{Above, Claim, Edge, Place, TreeError};
use crate::limits::TREE_NODES_MAX;

/// Most nodes that stay and get another parent when one joins, counted once per tree.
pub const JOIN_MOVES_MAX: u32 = 1;

/// Most nodes that stay and get another parent when one leaves, counted once per tree: two children
/// of who leaves, who takes its place, and two children of that one.
pub const LEAVE_MOVES_MAX: u32 = 2 + 1 + 2;

#[derive(Clone, Copy, Debug)]
struct Member {
    generation: u32,
    occupied: bool,
}

/// Two interior-disjoint trees.
#[derive(Clone, Debug)]
pub struct Twin {
    members: Vec<Member>,
    unused: Vec<u32>,
    halves: [Half; 2],
    len: u32,
    /// Leaves that have lost their slot: in which tree, and below whom they were.
    loose: Vec<(usize, u32, u32)>,
}

/// How a leaver's tree goes on without it.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// What is below it moves up.
    Out,
    /// Another node of its colour takes its place.
    Move(u32),
    /// A node of the other colour takes its place.
    Recolour(u32),
    /// What is below it moves up, and a node of the other colour becomes interior where it is.
    Grow(u32),
}

impl Default for Twin {
    fn default() -> Self {
        Self::new()
    }
}

impl Twin {
    /// Empty trees.
    pub const fn new() -> Self {
        Self {
            members: Vec::new(),
            unused: Vec::new(),
            halves: [Half::new(), Half::new()],
            len: 0,
            loose: Vec::new(),
        }
    }

    /// Nodes in each of the trees.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether nobody is in them.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The node that reads its half from the registry in that tree.
    pub fn root(&self, tree: u8) -> Option<Place> {
        self.place(self.halves.get(usize::from(tree))?.occupant(0))
    }

    /// Whom a node reads from in that tree; `None` at its root and for places that are not in it.
    pub fn parent(&self, tree: u8, place: Place) -> Option<Place> {
        let node = self.index(place).ok()?;
        self.place(self.halves.get(usize::from(tree))?.parent(node))
    }

    /// Who reads from a node in that tree, left before right.
    pub fn children(&self, tree: u8, place: Place) -> [Option<Place>; 2] {
        let (Ok(node), Some(half)) = (self.index(place), self.halves.get(usize::from(tree))) else {
            return [None; 2];
        };
        half.children(node).map(|child| self.place(child))
    }

    /// The tree in which a node may have children; in the other it has none. `None` for places that
    /// are not in the trees.
    pub fn colour(&self, place: Place) -> Option<u8> {
        let node = self.index(place).ok()?;
        Some(u8::from(self.halves[1].is_interior(node)))
    }

    /// Adds a node and appends the edges that change: its own two, and [`JOIN_MOVES_MAX`] others at
    /// most. O(log n): it looks through the levels.
    ///
    /// # Errors
    /// [`TreeError::Full`].
    pub fn join(&mut self, edges: &mut Vec<Edge>) -> Result<Place, TreeError> {
        self.halves.iter_mut().for_each(Half::watch);
        let place = self.join_below([NIL; 2]);
        self.report(edges);
        place
    }

    /// Takes a node out and appends the edges that change because of it, at most
    /// [`LEAVE_MOVES_MAX`]. O(1).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn leave(&mut self, place: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        let gone = self.index(place)?;
        self.halves.iter_mut().for_each(Half::watch);
        let own = usize::from(self.halves[1].is_interior(gone));
        self.halves[1 - own].unhang(gone);
        match self.plan(own, gone) {
            Plan::Out => drop(self.splice(own, gone)),
            Plan::Move(node) => {
                self.splice(own, node);
                self.halves[own].replace(gone, node);
            }
            Plan::Recolour(node) => {
                self.halves[own].unhang(node);
                self.halves[own].replace(gone, node);
                self.demote(1 - own, node);
            }
            Plan::Grow(node) => {
                let slot = self.halves[own].unhang(node);
                self.halves[own].grow(node, slot);
                self.splice(own, gone);
                self.demote(1 - own, node);
            }
        }
        self.rehang();
        self.report(edges);
        let member = &mut self.members[gone as usize];
        member.occupied = false;
        member.generation = member.generation.wrapping_add(1);
        self.unused.push(gone);
        self.len -= 1;
        Ok(())
    }

    /// Exchanges the positions of two nodes in both trees. Appends the edges that change, at most
    /// [`SWAP_EDGES_MAX`](super::SWAP_EDGES_MAX). O(1).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn swap(&mut self, a: Place, b: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        let (a, b) = (self.index(a)?, self.index(b)?);
        if a != b {
            for half in &mut self.halves {
                half.watch();
                half.swap(a, b);
            }
            self.report(edges);
        }
        Ok(())
    }

    /// Adds nodes that come with places from before. See
    /// [`Shape::restore`](super::shape::Shape::restore). Into empty trees they come under the
    /// parents that they claim, as far as colours and depth allow it; where nodes are already, like
    /// newcomers, below who they claim if there is a choice.
    pub fn restore(
        &mut self,
        claims: &[Claim],
        edges: &mut Vec<Edge>,
    ) -> Vec<Result<Place, TreeError>> {
        if self.is_empty() {
            return restore::plant(self, claims, edges);
        }
        self.halves.iter_mut().for_each(Half::watch);
        let mut placed: Vec<Result<Place, TreeError>> = Vec::with_capacity(claims.len());
        for claim in claims {
            let parents = claim.map(|above| match above {
                Above::Member(place) => self.index(place).unwrap_or(NIL),
                Above::Fellow(fellow) => match placed.get(fellow as usize) {
                    Some(Ok(place)) => place.index,
                    _ => NIL,
                },
                Above::Registry | Above::Stranger => NIL,
            });
            placed.push(self.join_below(parents));
        }
        self.report(edges);
        placed
    }

    /// A join, in each tree below that node if it is there and there is a choice.
    fn join_below(&mut self, parents: [u32; 2]) -> Result<Place, TreeError> {
        let (place, node) = self.admit()?;
        let (colour, slot) = self.choose_colour();
        let half = &mut self.halves[colour];
        if let Some(slot) = slot {
            half.grow(node, slot);
        } else {
            // A free slot below somebody else is better than one below the newcomer, who has
            // nothing yet, and leaves two below one node, who can then be spared at no cost.
            let free = half.free().first().copied();
            let leaf = half.occupant(half.next_slot());
            let slot = half.unhang(leaf);
            half.grow(node, slot);
            let free = free.unwrap_or_else(|| half.deepest_free());
            half.hang(leaf, free);
        }
        let half = &mut self.halves[1 - colour];
        let slot = half.free_below(parents[1 - colour]).unwrap_or_else(|| half.deepest_free());
        half.hang(node, slot);
        Ok(place)
    }

    /// Makes a place for a node that is in no tree yet.
    fn admit(&mut self) -> Result<(Place, u32), TreeError> {
        if self.len == TREE_NODES_MAX {
            return Err(TreeError::Full);
        }
        let node = self.unused.pop().unwrap_or(self.len);
        if node as usize == self.members.len() {
            self.members.push(Member { generation: 0, occupied: true });
        }
        let member = &mut self.members[node as usize];
        member.occupied = true;
        self.len += 1;
        self.halves.iter_mut().for_each(|half| half.reserve(node));
        Ok((Place { index: node, generation: member.generation }, node))
    }

    fn index(&self, place: Place) -> Result<u32, TreeError> {
        match self.members.get(place.index as usize) {
            Some(member) if member.occupied && member.generation == place.generation => {
                Ok(place.index)
            }
            _ => Err(TreeError::Unknown),
        }
    }

    fn place(&self, node: u32) -> Option<Place> {
        let member = self.members.get(node as usize)?;
        Some(Place { index: node, generation: member.generation })
    }

    /// The tree in which a newcomer becomes interior, and the free slot for it there, if one will
    /// do.
    fn choose_colour(&self) -> (usize, Option<u32>) {
        let [first, second] = &self.halves;
        if first.interior() != second.interior() {
            return (usize::from(second.interior() < first.interior()), None);
        }
        let slot = |half: &Half| half.free().iter().copied().find(|&slot| half.may_grow(slot));
        match (slot(first), slot(second)) {
            (None, Some(slot)) => (1, Some(slot)),
            (slot, _) => (0, slot),
        }
    }

    /// The plan with the fewest moves. Whoever leaves is not in the other tree any more.
    fn plan(&self, own: usize, gone: u32) -> Plan {
        let (half, other) = (&self.halves[own], &self.halves[1 - own]);
        let children = half.children(gone);
        let count = half.count_children(gone);
        let may_splice = half.may_splice(gone);
        let mut best = (u32::MAX, Plan::Out);
        let mut consider = |moves: u32, plan: Plan| {
            if moves < best.0 {
                best = (moves, plan);
            }
        };
        if other.interior() <= half.interior() {
            if may_splice {
                consider(count, Plan::Out);
            }
            let heads = children.into_iter().filter(|&child| half.is_interior(child));
            for node in heads.chain(spare(half)).filter(|&node| half.may_splice(node)) {
                let below = half.count_children(node);
                if children.contains(&node) {
                    // It moves as a child anyway, and one of its own can stay below it.
                    consider(count + below.saturating_sub(1), Plan::Move(node));
                } else if node != gone {
                    consider(1 + count + below, Plan::Move(node));
                }
            }
        }
        if other.interior() >= half.interior() {
            for node in spare(other).filter(|&node| other.may_splice(node)) {
                // It stays where it is in the other tree, unless somebody moves up there.
                let moves = count + other.count_children(node) + u32::from(other.has_head(node));
                let child = children.contains(&node);
                let sibling = half.parent(node) == half.parent(gone);
                consider(moves + u32::from(!child && !sibling), Plan::Recolour(node));
                if may_splice && !child && half.may_grow_in_place(node) {
                    consider(moves, Plan::Grow(node));
                }
            }
        }
        debug_assert!(best.0 <= LEAVE_MOVES_MAX);
        best.1
    }

    /// Takes out an interior node; its leaves are loose. Answers the slot that it leaves, if it
    /// does.
    fn splice(&mut self, tree: usize, node: u32) -> Option<u32> {
        let half = &mut self.halves[tree];
        for child in half.children(node) {
            if child != NIL && !half.is_interior(child) {
                half.unhang(child);
                self.loose.push((tree, child, node));
            }
        }
        half.splice(node)
    }

    /// Makes an interior node a leaf, where it is if nobody moves up there.
    fn demote(&mut self, tree: usize, node: u32) {
        match self.splice(tree, node) {
            None => self.loose.push((tree, node, NIL)),
            Some(slot) => self.halves[tree].hang(node, slot),
        }
    }

    /// Finds slots for the loose leaves, below their old parents where that can be.
    fn rehang(&mut self) {
        self.loose.retain(|&(tree, leaf, parent)| {
            let half = &mut self.halves[tree];
            let slot = half.free_below(parent);
            if let Some(slot) = slot {
                half.hang(leaf, slot);
            }
            slot.is_none()
        });
        while let Some((tree, leaf, _)) = self.loose.pop() {
            let half = &mut self.halves[tree];
            half.hang(leaf, half.deepest_free());
        }
    }

    fn report(&mut self, edges: &mut Vec<Edge>) {
        let members = &self.members;
        for (half, tree) in self.halves.iter_mut().zip(0..) {
            half.report(tree, edges, |node| {
                let generation = members.get(node as usize)?.generation;
                Some(Place { index: node, generation })
            });
        }
    }
}

/// Who may be spared in that tree at the least cost: whoever has a free slot, and somebody of the
/// last level.
fn spare(half: &Half) -> impl Iterator<Item = u32> + '_ {
    let slots = half.free().iter().filter(|&&slot| slot > 0);
    slots
        .map(|&slot| half.occupant(above(slot)))
        .chain([half.deepest()])
        .filter(|&node| node != NIL)
}
