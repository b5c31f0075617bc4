//! One of the two trees: who is at which heap position, which slots are free, and which shapes are
//! allowed. Chooses nothing.
//!
//! The children of position h are 2h + 1 and 2h + 2. The two positions below an interior node that
//! no interior node takes are slots: each has a leaf or is free. Without an interior node, position
//! 0 is the only slot.
//!
//! Allowed is what has all levels of interior nodes full but the last two.

use super::super::{Edge, Place};

/// Nobody.
pub(super) const NIL: u32 = u32::MAX;
/// Parent of who is not in the tree, other than the root's.
const NOWHERE: u32 = NIL - 1;

/// Where a node is.
#[derive(Clone, Copy, Debug)]
struct Seat {
    /// Heap position, [`NIL`] if the node is not here.
    at: u32,
    interior: bool,
    /// How many interior nodes are right below it.
    heads: u8,
    /// Index among the interior nodes of its level with as many heads.
    rank: u32,
}

const NOT_HERE: Seat = Seat { at: NIL, interior: false, heads: 0, rank: 0 };

/// The interior nodes of one level, by how many interior nodes are right below them.
type Level = [Vec<u32>; 3];

/// One of two trees. Nodes are dense numbers.
#[derive(Clone, Debug)]
pub(super) struct Half {
    /// Who is at each position.
    nodes: Vec<u32>,
    seats: Vec<Seat>,
    levels: Vec<Level>,
    /// Slots without a leaf. A handful between changes: the colours are balanced.
    free: Vec<u32>,
    interior: u32,
    /// Levels with interior nodes.
    deep: u32,
    /// Whose parent may have changed since [`watch`](Self::watch), and who it was before.
    touched: Vec<(u32, u32)>,
    /// Whether a node is among them.
    is_touched: Vec<bool>,
    watching: bool,
}

pub(super) const fn level(position: u32) -> u32 {
    (position + 1).ilog2()
}

pub(super) const fn above(position: u32) -> u32 {
    (position - 1) / 2
}

pub(super) const fn below(position: u32) -> [u32; 2] {
    [2 * position + 1, 2 * position + 2]
}

/// Most levels that so many interior nodes may have: all but the last two full, and one on each of
/// these.
pub(super) const fn levels_max(interior: u32) -> u32 {
    if interior < 2 { interior } else { (interior - 1).ilog2() + 2 }
}

impl Half {
    pub(super) const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            seats: Vec::new(),
            levels: Vec::new(),
            free: Vec::new(),
            interior: 0,
            deep: 0,
            touched: Vec::new(),
            is_touched: Vec::new(),
            watching: false,
        }
    }

    /// Makes room for nodes of numbers up to that one.
    pub(super) fn reserve(&mut self, node: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(NIL);
            self.free.push(0);
        }
        if node as usize >= self.seats.len() {
            self.seats.resize(node as usize + 1, NOT_HERE);
            self.is_touched.resize(node as usize + 1, false);
        }
    }

    /// From now on remembers whose parent changes.
    pub(super) fn watch(&mut self) {
        self.watching = true;
    }

    /// Appends the edges of all whose parent is another than when the watch began, and ends it.
    pub(super) fn report(
        &mut self,
        tree: u8,
        edges: &mut Vec<Edge>,
        place: impl Fn(u32) -> Option<Place>,
    ) {
        self.watching = false;
        for &(node, before) in &self.touched {
            self.is_touched[node as usize] = false;
            let now = self.parent(node);
            if now != before
                && now != NOWHERE
                && let Some(child) = place(node)
            {
                edges.push(Edge { tree, child, parent: place(now) });
            }
        }
        self.touched.clear();
    }

    /// How many nodes are interior here.
    pub(super) const fn interior(&self) -> u32 {
        self.interior
    }

    pub(super) fn occupant(&self, position: u32) -> u32 {
        self.nodes.get(position as usize).copied().unwrap_or(NIL)
    }

    pub(super) fn is_interior(&self, node: u32) -> bool {
        self.seats.get(node as usize).is_some_and(|seat| seat.interior)
    }

    pub(super) fn is_here(&self, node: u32) -> bool {
        self.seats.get(node as usize).is_some_and(|seat| seat.at != NIL)
    }

    pub(super) fn parent(&self, node: u32) -> u32 {
        match self.at(node) {
            0 => NIL,
            NIL => NOWHERE,
            position => self.occupant(above(position)),
        }
    }

    /// Who is at the two positions below an interior node; nobody below a leaf.
    pub(super) fn children(&self, node: u32) -> [u32; 2] {
        match self.seats[node as usize] {
            Seat { at, interior: true, .. } => below(at).map(|position| self.occupant(position)),
            _ => [NIL; 2],
        }
    }

    pub(super) fn count_children(&self, node: u32) -> u32 {
        self.children(node).into_iter().map(|child| u32::from(child != NIL)).sum()
    }

    pub(super) fn has_head(&self, node: u32) -> bool {
        self.seats[node as usize].heads > 0
    }

    pub(super) fn free(&self) -> &[u32] {
        &self.free
    }

    /// The free slot farthest from the root. Whoever is put there leaves the others for interior
    /// nodes.
    pub(super) fn deepest_free(&self) -> u32 {
        self.free.iter().copied().max().unwrap_or(NIL)
    }

    /// A free slot below a node.
    pub(super) fn free_below(&self, node: u32) -> Option<u32> {
        match self.seats.get(node as usize) {
            Some(&Seat { at, interior: true, .. }) => {
                below(at).into_iter().find(|&slot| self.occupant(slot) == NIL)
            }
            _ => None,
        }
    }

    /// Whether an interior node may be in that slot: on a level that there is, or on a new one if
    /// the one before the last is full and everybody on it has an interior node below it.
    pub(super) fn may_grow(&self, slot: u32) -> bool {
        let before_last = || {
            let level = self.deep - 2;
            self.count(level) == 1 << level && self.levels[level as usize][0].is_empty()
        };
        level(slot) < self.deep || self.deep < 2 || before_last()
    }

    /// Whether a leaf may become interior where it is, on a level that has interior nodes: that
    /// takes nobody else the right to go.
    pub(super) fn may_grow_in_place(&self, leaf: u32) -> bool {
        level(self.at(leaf)) < self.deep
    }

    /// Whether the shape stays allowed if an interior node is [spliced](Self::splice) out. With one
    /// interior node below it always: its level stays as full as it was.
    pub(super) fn may_splice(&self, node: u32) -> bool {
        match self.seats[node as usize].heads {
            0 => level(self.at(node)) + 2 >= self.deep,
            heads => heads == 1,
        }
    }

    /// Where the next interior node belongs: as near to the root as possible, and below who has the
    /// fewest heads. A slot, with a leaf or without; it [may grow](Self::may_grow).
    pub(super) fn next_slot(&self) -> u32 {
        let parent = self.levels.iter().find_map(|[none, one, _]| none.last().or(one.last()));
        let Some(&parent) = parent else { return 0 };
        let slots = below(self.at(parent)).into_iter();
        slots.into_iter().find(|&slot| !self.is_interior(self.occupant(slot))).unwrap_or(NIL)
    }

    /// An interior node on the last level.
    pub(super) fn deepest(&self) -> u32 {
        let last = (self.deep as usize).checked_sub(1).and_then(|last| self.levels.get(last));
        last.and_then(|[none, ..]| none.last()).copied().unwrap_or(NIL)
    }

    /// Whether a level that must be full is not.
    pub(super) fn has_hole(&self) -> bool {
        self.deep >= 3 && level(self.next_slot()) <= self.deep - 3
    }

    /// Puts a leaf into a free slot.
    pub(super) fn hang(&mut self, leaf: u32, slot: u32) {
        self.take(slot);
        self.put(slot, leaf, false);
    }

    /// Takes a leaf out of its slot; answers the slot.
    pub(super) fn unhang(&mut self, leaf: u32) -> u32 {
        let slot = self.at(leaf);
        self.clear(slot);
        self.free.push(slot);
        slot
    }

    /// Makes a free slot the position of an interior node, with two free slots below it.
    pub(super) fn grow(&mut self, node: u32, slot: u32) {
        self.take(slot);
        let level = level(slot);
        if self.levels.len() <= level as usize {
            self.levels.resize(level as usize + 1, Level::default());
            self.nodes.resize((4 << level) - 1, NIL);
        }
        self.put(slot, node, true);
        self.free.extend(below(slot));
        self.interior += 1;
        self.deep = self.deep.max(level + 1);
    }

    /// Takes out an interior node that has no leaves and at most one child; the child takes its
    /// place, with all that is below. Without a child a free slot is left, which is answered.
    pub(super) fn splice(&mut self, node: u32) -> Option<u32> {
        let position = self.at(node);
        let child = self.children(node).into_iter().find(|&child| child != NIL);
        for slot in below(position) {
            if self.occupant(slot) == NIL {
                self.take(slot);
            }
        }
        self.clear(position);
        match child {
            None => self.free.push(position),
            Some(child) => self.lift(self.at(child), position),
        }
        self.interior -= 1;
        while self.deep > 0 && self.count(self.deep - 1) == 0 {
            self.deep -= 1;
        }
        child.is_none().then_some(position)
    }

    /// Puts a node that is not here in the place of an interior one.
    pub(super) fn replace(&mut self, gone: u32, node: u32) {
        let position = self.at(gone);
        self.clear(position);
        self.put(position, node, true);
    }

    /// Exchanges two nodes.
    pub(super) fn swap(&mut self, a: u32, b: u32) {
        let (was_a, was_b) = (self.seats[a as usize], self.seats[b as usize]);
        self.clear(was_a.at);
        self.clear(was_b.at);
        self.put(was_b.at, a, was_b.interior);
        self.put(was_a.at, b, was_a.interior);
    }

    fn at(&self, node: u32) -> u32 {
        self.seats[node as usize].at
    }

    /// Interior nodes of a level.
    fn count(&self, level: u32) -> usize {
        self.levels[level as usize].iter().map(Vec::len).sum()
    }

    /// Moves all from one position down to another where nobody is, upper levels first: those below
    /// come where these were. At most three levels: the levels above are full.
    fn lift(&mut self, from: u32, to: u32) {
        let mut queue = vec![(from, to)];
        let mut next = 0;
        while let Some(&(from, to)) = queue.get(next) {
            next += 1;
            let node = self.occupant(from);
            if node == NIL {
                self.take(from);
                self.free.push(to);
                continue;
            }
            let interior = self.is_interior(node);
            self.clear(from);
            self.put(to, node, interior);
            if interior {
                queue.extend(below(from).into_iter().zip(below(to)));
            }
        }
    }

    fn take(&mut self, slot: u32) {
        let found = self.free.iter().rposition(|&free| free == slot);
        debug_assert!(found.is_some(), "the slot is free");
        if let Some(found) = found {
            self.free.swap_remove(found);
        }
    }

    fn clear(&mut self, position: u32) {
        let node = self.occupant(position);
        self.touch(node);
        self.touch_below(position);
        self.nodes[position as usize] = NIL;
        if self.is_interior(node) {
            self.unrank(node);
            self.count_head(position, false);
        }
        self.seats[node as usize] = NOT_HERE;
    }

    fn put(&mut self, position: u32, node: u32, interior: bool) {
        self.touch(node);
        self.touch_below(position);
        self.nodes[position as usize] = node;
        let heads = below(position).map(|below| u8::from(self.is_interior(self.occupant(below))));
        let heads = heads[0] + heads[1];
        self.seats[node as usize] = Seat { at: position, interior, heads, rank: 0 };
        if interior {
            self.rank(node);
            self.count_head(position, true);
        }
    }

    /// An interior node is, or is no longer, at that position: whoever is above it has a head more,
    /// or less.
    fn count_head(&mut self, position: u32, more: bool) {
        let node = if position == 0 { NIL } else { self.occupant(above(position)) };
        if self.is_interior(node) {
            self.unrank(node);
            let heads = &mut self.seats[node as usize].heads;
            *heads = if more { *heads + 1 } else { *heads - 1 };
            self.rank(node);
        }
    }

    fn rank(&mut self, node: u32) {
        let Seat { at, heads, .. } = self.seats[node as usize];
        let list = &mut self.levels[level(at) as usize][usize::from(heads)];
        self.seats[node as usize].rank = u32::try_from(list.len()).unwrap_or(NIL);
        list.push(node);
    }

    fn unrank(&mut self, node: u32) {
        let Seat { at, heads, rank, .. } = self.seats[node as usize];
        let list = &mut self.levels[level(at) as usize][usize::from(heads)];
        list.swap_remove(rank as usize);
        if let Some(&next) = list.get(rank as usize) {
            self.seats[next as usize].rank = rank;
        }
    }

    fn touch_below(&mut self, position: u32) {
        below(position).into_iter().for_each(|position| self.touch(self.occupant(position)));
    }

    fn touch(&mut self, node: u32) {
        if self.watching && node != NIL && !self.is_touched[node as usize] {
            self.is_touched[node as usize] = true;
            self.touched.push((node, self.parent(node)));
        }
    }
}
