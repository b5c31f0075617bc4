//! The function tree of FaaSNet: balanced, at most two children, joins at the first vacancy in
//! level order.
//!
//! A node joins under the first node in level order that has fewer than two children, on the left
//! if that is free. When a node leaves, a leaf is unlinked, an only child takes its parent's place,
//! and in place of a node with two children comes the first leaf in level order below it; then
//! rotations restore the balance from there up to the root, as in an AVL tree, except that the
//! nodes have no keys.
//!
//! The paper finds the vacancy and the leaf by walking the levels. Here every node knows of its
//! subtree how tall it is, and how far below the nearest vacancy and the nearest leaf are. "First
//! in level order" is "nearest, and leftmost among the nearest", so both are found by one walk
//! down, O(log n), and the numbers are mended by one walk up.
//!
//! A join cannot unbalance: all levels down to the shallowest vacancy are full, so on the way up
//! from there no sibling is shorter by more than the new level. Only [`Ft::join_under`] can, within
//! [`HEIGHT_MAX`]; rotations never make a tree taller, and each leave mends what it finds on its
//! way up.

use std::collections::VecDeque;

use super::{EDGES_MAX, Edge, HEIGHT_MAX, Place, TreeError};
use crate::limits::TREE_NODES_MAX;

const NIL: u32 = u32::MAX;
const LEFT: usize = 0;
const RIGHT: usize = 1;

/// What a node knows of the subtree below and including it. Distances in edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    /// Levels; 0 without a subtree.
    levels: u8,
    /// Distance to the nearest leaf.
    leaf: u8,
    /// Distance to the nearest node with fewer than two children.
    vacancy: u8,
}

impl Summary {
    const NONE: Self = Self { levels: 0, leaf: u8::MAX, vacancy: u8::MAX };

    fn above(left: Self, right: Self) -> Self {
        let vacant = left.levels == 0 || right.levels == 0;
        Self {
            levels: 1 + left.levels.max(right.levels),
            leaf: left.leaf.min(right.leaf).wrapping_add(1),
            vacancy: if vacant { 0 } else { 1 + left.vacancy.min(right.vacancy) },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Knot {
    up: u32,
    down: [u32; 2],
    generation: u32,
    occupied: bool,
    summary: Summary,
}

/// One function tree.
#[derive(Clone, Debug)]
pub struct Ft {
    knots: Vec<Knot>,
    free: Vec<u32>,
    root: u32,
    len: u32,
    /// Who got another parent in the change at hand, and which parent it had before.
    moved: Vec<(u32, u32)>,
}

impl Default for Ft {
    fn default() -> Self {
        Self::new()
    }
}

impl Ft {
    /// An empty tree.
    pub const fn new() -> Self {
        Self { knots: Vec::new(), free: Vec::new(), root: NIL, len: 0, moved: Vec::new() }
    }

    /// Nodes in the tree.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether nobody is in the tree.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The node that reads the registry.
    pub fn root(&self) -> Option<Place> {
        self.place(self.root)
    }

    /// Whether that place is in the tree.
    pub fn contains(&self, place: Place) -> bool {
        self.index(place).is_ok()
    }

    /// Whom a node reads from; `None` at the root and for places that are not in the tree.
    pub fn parent(&self, place: Place) -> Option<Place> {
        let index = self.index(place).ok()?;
        self.place(self.knots[index as usize].up)
    }

    /// Who reads from a node, left before right; none for places that are not in the tree.
    pub fn children(&self, place: Place) -> impl Iterator<Item = Place> + '_ {
        let down = self.index(place).map_or([NIL; 2], |index| self.knots[index as usize].down);
        down.into_iter().filter_map(|child| self.place(child))
    }

    /// All nodes with their level, level by level from the root, left to right.
    pub fn level_order(&self) -> impl Iterator<Item = (Place, u32)> + '_ {
        let mut queue: VecDeque<_> = self.root().map(|root| (root, 0)).into_iter().collect();
        std::iter::from_fn(move || {
            let (place, level) = queue.pop_front()?;
            queue.extend(self.children(place).map(|child| (child, level + 1)));
            Some((place, level))
        })
    }

    /// Adds a node at the first vacancy in level order and appends its edge to `edges`. O(log n).
    ///
    /// # Errors
    /// [`TreeError::Full`].
    pub fn join(&mut self, edges: &mut Vec<Edge>) -> Result<Place, TreeError> {
        let mut parent = self.root;
        if parent != NIL {
            while self.knots[parent as usize].summary.vacancy > 0 {
                let [left, right] = self.knots[parent as usize].down;
                let nearer = self.summary(left).vacancy <= self.summary(right).vacancy;
                parent = if nearer { left } else { right };
            }
        }
        self.add(parent, edges)
    }

    /// Adds a node under a chosen parent, where the two held together before this tree was built.
    /// O(log n).
    ///
    /// # Errors
    /// [`TreeError::NoRoom`] if the parent has two children or stands [`HEIGHT_MAX`] levels below
    /// the root;
    /// [`TreeError::Unknown`], [`TreeError::Full`].
    pub fn join_under(&mut self, parent: Place, edges: &mut Vec<Edge>) -> Result<Place, TreeError> {
        let index = self.index(parent)?;
        let full = !self.knots[index as usize].down.contains(&NIL);
        if full || self.depth(index) >= HEIGHT_MAX {
            return Err(TreeError::NoRoom);
        }
        self.add(index, edges)
    }

    /// Takes a node out and appends the edges that change because of it, at most [`EDGES_MAX`].
    /// O(log n).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn leave(&mut self, place: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        let gone = self.index(place)?;
        self.moved.clear();
        let Knot { up, down: [left, right], .. } = self.knots[gone as usize];
        let start = if left == NIL || right == NIL {
            self.swap_below(up, gone, if left == NIL { right } else { left });
            up
        } else {
            self.put_first_leaf_in_place_of(gone)
        };
        let knot = &mut self.knots[gone as usize];
        knot.occupied = false;
        knot.generation = knot.generation.wrapping_add(1);
        self.free.push(gone);
        self.len -= 1;
        self.rebalance(start);
        self.report_moved(edges);
        Ok(())
    }

    /// Exchanges the positions of two nodes: each gets the parent and the children of the other.
    /// Appends the edges that change, at most [`SWAP_EDGES_MAX`]. O(1).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn swap(&mut self, a: Place, b: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        let (a, b) = (self.index(a)?, self.index(b)?);
        let other = |index| match index {
            index if index == a => b,
            index if index == b => a,
            index => index,
        };
        let (was_a, was_b) = (self.knots[a as usize], self.knots[b as usize]);
        self.moved.clear();
        // Everybody around, each once: a place that saw both would be put back by the second look.
        let mut around = [NIL; 8];
        let near = [a, b, was_a.up, was_b.up].into_iter().chain(was_a.down).chain(was_b.down);
        for (index, slot) in near.zip(0..) {
            if index != NIL && !around.contains(&index) {
                around[slot] = index;
            }
        }
        for index in around.into_iter().filter(|&index| index != NIL) {
            let (new, was) = match index {
                index if index == a => (b, was_a),
                index if index == b => (a, was_b),
                index => (index, self.knots[index as usize]),
            };
            self.set_up(new, other(was.up));
            let knot = &mut self.knots[new as usize];
            knot.down = was.down.map(other);
            knot.summary = was.summary;
        }
        self.root = other(self.root);
        self.report_moved(edges);
        Ok(())
    }

    fn index(&self, place: Place) -> Result<u32, TreeError> {
        match self.knots.get(place.index as usize) {
            Some(knot) if knot.occupied && knot.generation == place.generation => Ok(place.index),
            _ => Err(TreeError::Unknown),
        }
    }

    fn place(&self, index: u32) -> Option<Place> {
        let knot = self.knots.get(index as usize)?;
        Some(Place { index, generation: knot.generation })
    }

    fn summary(&self, index: u32) -> Summary {
        self.knots.get(index as usize).map_or(Summary::NONE, |knot| knot.summary)
    }

    /// Left subtree's levels less the right one's.
    fn lean(&self, index: u32) -> i16 {
        let [left, right] = self.knots[index as usize].down;
        i16::from(self.summary(left).levels) - i16::from(self.summary(right).levels)
    }

    fn refresh(&mut self, index: u32) {
        let [left, right] = self.knots[index as usize].down;
        self.knots[index as usize].summary =
            Summary::above(self.summary(left), self.summary(right));
    }

    /// Edges between a node and the root.
    fn depth(&self, index: u32) -> u32 {
        let (mut depth, mut at) = (0, self.knots[index as usize].up);
        while at != NIL {
            depth += 1;
            at = self.knots[at as usize].up;
        }
        depth
    }

    fn add(&mut self, parent: u32, edges: &mut Vec<Edge>) -> Result<Place, TreeError> {
        if self.len == TREE_NODES_MAX {
            return Err(TreeError::Full);
        }
        let summary = Summary::above(Summary::NONE, Summary::NONE);
        let index = if let Some(index) = self.free.pop() {
            let generation = self.knots[index as usize].generation;
            self.knots[index as usize] =
                Knot { up: parent, down: [NIL; 2], generation, occupied: true, summary };
            index
        } else {
            self.knots.push(Knot {
                up: parent,
                down: [NIL; 2],
                generation: 0,
                occupied: true,
                summary,
            });
            self.len
        };
        self.len += 1;
        if parent == NIL {
            self.root = index;
        } else {
            let down = &mut self.knots[parent as usize].down;
            let side = if down[LEFT] == NIL { LEFT } else { RIGHT };
            debug_assert_eq!(down[side], NIL);
            down[side] = index;
        }
        let mut at = parent;
        while at != NIL {
            let before = self.knots[at as usize].summary;
            self.refresh(at);
            if self.knots[at as usize].summary == before {
                break;
            }
            at = self.knots[at as usize].up;
        }
        let child = Place { index, generation: self.knots[index as usize].generation };
        edges.push(Edge { tree: 0, child, parent: self.place(parent) });
        Ok(child)
    }

    /// Puts the first leaf in level order below `gone` in its place; answers where the balance is
    /// to be mended from.
    fn put_first_leaf_in_place_of(&mut self, gone: u32) -> u32 {
        let mut leaf = gone;
        while self.summary(leaf).levels > 1 {
            let [left, right] = self.knots[leaf as usize].down;
            leaf = if self.summary(left).leaf <= self.summary(right).leaf { left } else { right };
        }
        let from = self.knots[leaf as usize].up;
        self.swap_below(from, leaf, NIL);
        let Knot { up, down: [left, right], summary, .. } = self.knots[gone as usize];
        self.knots[leaf as usize].summary = summary;
        self.hang(leaf, LEFT, left);
        self.hang(leaf, RIGHT, right);
        self.swap_below(up, gone, leaf);
        if from == gone { leaf } else { from }
    }

    /// Makes `child` the child of `parent` on that side, and remembers whose parent it was that
    /// changed.
    fn hang(&mut self, parent: u32, side: usize, child: u32) {
        self.knots[parent as usize].down[side] = child;
        self.set_up(child, parent);
    }

    /// Puts `new` where `old` hangs below `parent`; below nothing it becomes the root.
    fn swap_below(&mut self, parent: u32, old: u32, new: u32) {
        if parent == NIL {
            self.root = new;
        } else {
            let down = &mut self.knots[parent as usize].down;
            let side = if down[LEFT] == old { LEFT } else { RIGHT };
            debug_assert_eq!(down[side], old);
            down[side] = new;
        }
        self.set_up(new, parent);
    }

    fn set_up(&mut self, child: u32, parent: u32) {
        let Some(knot) = self.knots.get_mut(child as usize) else { return };
        if knot.up != parent {
            if !self.moved.iter().any(|&(index, _)| index == child) {
                self.moved.push((child, knot.up));
            }
            knot.up = parent;
        }
    }

    /// Mends numbers and balance from `at` up to the root, or to where nothing changes any more.
    fn rebalance(&mut self, mut at: u32) {
        while at != NIL {
            let before = self.knots[at as usize].summary;
            self.refresh(at);
            let top = match self.lean(at) {
                2.. => self.lower(at, LEFT),
                ..=-2 => self.lower(at, RIGHT),
                _ => at,
            };
            if self.knots[top as usize].summary == before {
                break;
            }
            at = self.knots[top as usize].up;
        }
    }

    /// Rotates so that the heavy side of `at` loses a level; answers who is on top now.
    fn lower(&mut self, at: u32, heavy: usize) -> u32 {
        let child = self.knots[at as usize].down[heavy];
        let inward = if heavy == LEFT { self.lean(child) < 0 } else { self.lean(child) > 0 };
        if inward {
            self.rotate(child, 1 - heavy);
        }
        self.rotate(at, heavy)
    }

    /// Lifts the child on that side above `at`; answers that child.
    fn rotate(&mut self, at: u32, side: usize) -> u32 {
        let child = self.knots[at as usize].down[side];
        let inner = self.knots[child as usize].down[1 - side];
        self.swap_below(self.knots[at as usize].up, at, child);
        self.hang(at, side, inner);
        self.hang(child, 1 - side, at);
        self.refresh(at);
        self.refresh(child);
        child
    }

    /// Appends the edges of all whose parent is another than before the change.
    fn report_moved(&mut self, edges: &mut Vec<Edge>) {
        debug_assert!(self.moved.len() <= EDGES_MAX as usize);
        for &(index, before) in &self.moved {
            let knot = &self.knots[index as usize];
            if knot.up != before {
                let child = Place { index, generation: knot.generation };
                edges.push(Edge { tree: 0, child, parent: self.place(knot.up) });
            }
        }
    }
}

#[cfg(test)]
mod tests;
