//! Two trees over the same nodes in which nobody has children twice, so that each carries half of
//! the data and every uplink is used.
//!
//! Nodes have one of two colours, and their counts differ by at most one. In tree *c* the R nodes
//! of colour *c* fill the heap positions 0 to R − 1 (the children of h are 2h + 1 and 2h + 2), so
//! that R to 2R are R + 1 slots for leaves; every node of the other colour is in one of them, in
//! any order. A single node is the root of both.

use super::{Claim, Edge, Place, TreeError};
use crate::limits::TREE_NODES_MAX;

const NIL: u32 = u32::MAX;
/// Parent of who is not in the tree, other than the root's.
const NOWHERE: u32 = NIL - 1;

#[derive(Clone, Copy, Debug)]
struct Member {
    generation: u32,
    occupied: bool,
    /// The tree in which it has children.
    colour: u8,
    /// Heap position in each tree.
    at: [u32; 2],
}

/// One of the two trees.
#[derive(Debug)]
struct Tree {
    /// Who is at each heap position; as long as there are positions and slots.
    nodes: Vec<u32>,
    /// Nodes with children here.
    interior: u32,
}

impl Tree {
    const fn new() -> Self {
        Self { nodes: Vec::new(), interior: 0 }
    }
}

/// Two interior-disjoint trees.
#[derive(Debug)]
pub struct Twin {
    members: Vec<Member>,
    unused: Vec<u32>,
    trees: [Tree; 2],
    len: u32,
    /// Whose parent may have changed in the change at hand, in which tree, and who it was before.
    touched: Vec<(u8, u32, u32)>,
    /// Leaves that have lost their slot, and in which tree.
    loose: Vec<(u8, u32)>,
}

impl Default for Twin {
    fn default() -> Self {
        Self::new()
    }
}

const fn above(position: u32) -> u32 {
    (position - 1) / 2
}

impl Twin {
    /// Empty trees.
    pub const fn new() -> Self {
        Self {
            members: Vec::new(),
            unused: Vec::new(),
            trees: [Tree::new(), Tree::new()],
            len: 0,
            touched: Vec::new(),
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
        self.place(self.occupant(tree, 0))
    }

    /// Whom a node reads from in that tree; `None` at its root and for places that are not in it.
    pub fn parent(&self, tree: u8, place: Place) -> Option<Place> {
        let node = self.index(place).ok()?;
        if tree > 1 { None } else { self.place(self.parent_of(tree, node)) }
    }

    /// Who reads from a node in that tree, left before right.
    pub fn children(&self, tree: u8, place: Place) -> [Option<Place>; 2] {
        let Ok(node) = self.index(place) else { return [None; 2] };
        let member = self.members[node as usize];
        if member.colour != tree {
            return [None; 2];
        }
        let first = 2 * member.at[tree as usize] + 1;
        [first, first + 1].map(|position| self.place(self.occupant(tree, position)))
    }

    /// Adds a node and appends the edges that change: its own, and at most one other. O(1).
    ///
    /// # Errors
    /// [`TreeError::Full`].
    pub fn join(&mut self, edges: &mut Vec<Edge>) -> Result<Place, TreeError> {
        if self.len == TREE_NODES_MAX {
            return Err(TreeError::Full);
        }
        let colour = u8::from(self.trees[1].interior < self.trees[0].interior);
        let node = self.unused.pop().unwrap_or(self.len);
        if node as usize == self.members.len() {
            self.members.push(Member { generation: 0, occupied: true, colour, at: [NIL; 2] });
        }
        let member = &mut self.members[node as usize];
        (member.occupied, member.colour, member.at) = (true, colour, [NIL; 2]);
        self.len += 1;
        self.touched.clear();
        self.grow(colour, node);
        self.hang(1 - colour, node);
        self.report(edges);
        Ok(Place { index: node, generation: self.members[node as usize].generation })
    }

    /// Takes a node out and appends the edges that change because of it. O(1).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn leave(&mut self, place: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        let gone = self.index(place)?;
        self.touched.clear();
        let Member { colour, at, .. } = self.members[gone as usize];
        let other = 1 - colour;
        self.put(other, at[usize::from(other)], NIL);
        self.shrink(colour, gone);
        if self.trees[usize::from(other)].interior > self.trees[usize::from(colour)].interior + 1 {
            let next = self.trees[usize::from(colour)].interior;
            let node = match self.occupant(colour, next) {
                NIL => self.occupant(other, self.trees[usize::from(other)].interior - 1),
                leaf => leaf,
            };
            match self.members[node as usize].at[usize::from(colour)] {
                NIL => self.loose.retain(|&(_, leaf)| leaf != node),
                slot => self.put(colour, slot, NIL),
            }
            self.shrink(other, node);
            self.members[node as usize].colour = colour;
            self.grow(colour, node);
            self.loose.push((other, node));
        }
        while let Some((tree, leaf)) = self.loose.pop() {
            self.hang(tree, leaf);
        }
        let member = &mut self.members[gone as usize];
        member.occupied = false;
        member.generation = member.generation.wrapping_add(1);
        self.unused.push(gone);
        self.len -= 1;
        self.report(edges);
        Ok(())
    }

    /// Exchanges the positions of two nodes in both trees. Appends the edges that change, at most
    /// [`SWAP_EDGES_MAX`](super::SWAP_EDGES_MAX). O(1).
    ///
    /// # Errors
    /// [`TreeError::Unknown`].
    pub fn swap(&mut self, a: Place, b: Place, edges: &mut Vec<Edge>) -> Result<(), TreeError> {
        let (a, b) = (self.index(a)?, self.index(b)?);
        self.touched.clear();
        let (was_a, was_b) = (self.members[a as usize], self.members[b as usize]);
        for (tree, (at_a, at_b)) in was_a.at.into_iter().zip(was_b.at).enumerate() {
            let tree = u8::from(tree == 1);
            self.put(tree, at_a, b);
            self.put(tree, at_b, a);
        }
        self.members[a as usize].colour = was_b.colour;
        self.members[b as usize].colour = was_a.colour;
        self.report(edges);
        Ok(())
    }

    /// Adds nodes that come with places from before. See
    /// [`Shape::restore`](super::shape::Shape::restore).
    pub fn restore(
        &mut self,
        claims: &[Claim],
        edges: &mut Vec<Edge>,
    ) -> Vec<Result<Place, TreeError>> {
        claims.iter().map(|_| self.join(edges)).collect()
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

    fn occupant(&self, tree: u8, position: u32) -> u32 {
        let tree = self.trees.get(usize::from(tree));
        tree.and_then(|tree| tree.nodes.get(position as usize)).copied().unwrap_or(NIL)
    }

    fn parent_of(&self, tree: u8, node: u32) -> u32 {
        match self.members[node as usize].at[usize::from(tree)] {
            0 => NIL,
            NIL => NOWHERE,
            position => self.occupant(tree, above(position)),
        }
    }

    /// Makes a node the last one with children in that tree; a leaf there moves below it.
    fn grow(&mut self, tree: u8, node: u32) {
        let position = self.trees[usize::from(tree)].interior;
        let leaf = self.occupant(tree, position);
        self.trees[usize::from(tree)].interior += 1;
        self.trees[usize::from(tree)].nodes.resize(2 * position as usize + 3, NIL);
        self.put(tree, position, node);
        if leaf != NIL {
            self.put(tree, 2 * position + 1, leaf);
        }
    }

    /// Takes out a node with children in that tree; the last such node takes its position.
    fn shrink(&mut self, tree: u8, node: u32) {
        let last = self.trees[usize::from(tree)].interior - 1;
        for slot in [2 * last + 1, 2 * last + 2] {
            match self.occupant(tree, slot) {
                NIL => {}
                leaf => {
                    self.put(tree, slot, NIL);
                    self.loose.push((tree, leaf));
                }
            }
        }
        let replacement = self.occupant(tree, last);
        let position = self.members[node as usize].at[usize::from(tree)];
        self.put(tree, last, NIL);
        if replacement != node {
            self.put(tree, position, replacement);
        }
        self.trees[usize::from(tree)].interior = last;
        self.trees[usize::from(tree)].nodes.truncate(2 * last as usize + 1);
    }

    /// Puts a leaf into a free slot of that tree.
    fn hang(&mut self, tree: u8, leaf: u32) {
        let slots = &mut self.trees[usize::from(tree)];
        if slots.nodes.is_empty() {
            slots.nodes.push(NIL);
        }
        let first = slots.interior;
        let free = (first..=2 * first).find(|&slot| slots.nodes[slot as usize] == NIL);
        debug_assert!(free.is_some(), "there are more slots than leaves");
        if let Some(free) = free {
            self.put(tree, free, leaf);
        }
    }

    /// Puts a node, or nobody, at a position.
    fn put(&mut self, tree: u8, position: u32, node: u32) {
        let before = self.occupant(tree, position);
        let below = [2 * position + 1, 2 * position + 2].map(|below| self.occupant(tree, below));
        for node in [before, node].into_iter().chain(below).filter(|&node| node != NIL) {
            if !self.touched.iter().any(|&(in_tree, at, _)| (in_tree, at) == (tree, node)) {
                self.touched.push((tree, node, self.parent_of(tree, node)));
            }
        }
        self.trees[usize::from(tree)].nodes[position as usize] = node;
        if let Some(member) = self.members.get_mut(before as usize)
            && member.at[usize::from(tree)] == position
        {
            member.at[usize::from(tree)] = NIL;
        }
        if let Some(member) = self.members.get_mut(node as usize) {
            member.at[usize::from(tree)] = position;
        }
    }

    /// Appends the edges of all whose parent is another than before the change.
    fn report(&mut self, edges: &mut Vec<Edge>) {
        for &(tree, node, before) in &self.touched {
            let now = self.parent_of(tree, node);
            if self.members[node as usize].occupied && now != before {
                let child =
                    Place { index: node, generation: self.members[node as usize].generation };
                edges.push(Edge { tree, child, parent: self.place(now) });
            }
        }
    }
}
