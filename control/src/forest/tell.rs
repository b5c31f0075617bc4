//! What each node of an image is to be told, and who may have to be told after a change.
//!
//! # Upstreams, and why they make no circle
//!
//! For the stripe of tree *i* a node is told its parent, grandparent and so on in that tree, beyond
//! the root of its group those above the node that feeds the group. Who has nobody of its group
//! below it there, a leaf, is told its parent in the other tree last: it reads from that one
//! already, whatever has happened in tree *i*.
//!
//! However many nodes have lost their parents and read from any of those that they were told,
//! nobody waits for itself. What leads out of a group leads to a group that does not depend on it:
//! feeders are chosen so. Within a group, who has children in tree *i* reads from above in tree
//! *i*, from nodes that have children there too, and so on to the root. A leaf of tree *i* reads
//! from such a node, or from its parent in the other tree; that one may be a leaf of tree *i* as
//! well and read from its own parent in the other tree, but that way leads up in the other tree and
//! ends at its root. A node with children in tree *i* must not be told its parent in the other
//! tree: it may stand below it.
//!
//! The node itself sees to the times in which some have heard of a change and others have not.

use std::collections::BTreeSet;

use super::planted::{Changed, Planted};
use super::{NodeId, Standing};
use crate::limits::{BRANCHES_MAX, UPSTREAMS_MAX};

/// Upstreams for one stripe, nearest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Upstreams {
    nodes: [NodeId; UPSTREAMS_MAX as usize],
    len: u8,
}

impl Upstreams {
    pub(super) fn as_slice(&self) -> &[NodeId] {
        &self.nodes[..usize::from(self.len)]
    }

    fn push(&mut self, node: NodeId) {
        if let Some(slot) = self.nodes.get_mut(usize::from(self.len)) {
            *slot = node;
            self.len += 1;
        }
    }
}

/// What a node is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Number of its group.
    pub(super) group: u64,
    /// Upstreams in each tree; none in trees that there are not.
    pub(super) branches: [Upstreams; BRANCHES_MAX as usize],
}

impl Planted {
    /// What a node is to be told, if that is something new or if it has asked; remembered as told.
    pub(super) fn news(&mut self, node: NodeId, asked: bool) -> Option<News> {
        let member = self.members.get(&node)?;
        let mut news = News { group: self.group(member.group)?.number, ..News::default() };
        for (tree, branch) in self.trees().zip(&mut news.branches) {
            *branch = self.upstreams(tree, node);
        }
        let told = &mut self.members.get_mut(&node)?.told;
        let is_new = *told != Some(news);
        *told = Some(news);
        (is_new || asked).then_some(news)
    }

    fn upstreams(&self, tree: u8, node: NodeId) -> Upstreams {
        let mut upstreams = Upstreams::default();
        let aside = self.aside(tree, node);
        let most = UPSTREAMS_MAX as usize - usize::from(aside.is_some());
        let above =
            std::iter::successors(self.parent(tree, node), |&above| self.parent(tree, above));
        above.take(most).for_each(|above| upstreams.push(above));
        if let Some(aside) = aside.filter(|aside| !upstreams.as_slice().contains(aside)) {
            upstreams.push(aside);
        }
        upstreams
    }

    /// The parent in the other tree of who is a leaf in this one.
    fn aside(&self, tree: u8, node: NodeId) -> Option<NodeId> {
        let member = self.members.get(&node)?;
        let group = self.group(member.group)?;
        let is_leaf = group.shape.parent(tree, member.place).is_some()
            && group.shape.children(tree, member.place).next().is_none();
        let other = self.trees().find(|&other| is_leaf && other != tree)?;
        group.shape.parent(other, member.place).map(|aside| group.node(aside))
    }

    /// Whom a node reads from in a tree, inside its group or outside.
    fn parent(&self, tree: u8, node: NodeId) -> Option<NodeId> {
        self.members.get(&node)?.parents[usize::from(tree)]
    }

    /// Who reads from a node in a tree: first those of its own group.
    pub(super) fn children(&self, tree: u8, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let member = self.members.get(&node);
        let own = member.and_then(|member| Some((self.group(member.group)?, member.place)));
        let own = own.into_iter().flat_map(move |(group, place)| {
            group.shape.children(tree, place).map(|child| group.node(child))
        });
        let fed = member.into_iter().flat_map(|member| &member.feeds);
        let fed = fed.filter_map(move |&index| {
            let group = self.group(index)?;
            let root = group.shape.root(tree)?;
            (group.feeders[usize::from(tree)] == Some(node)).then(|| group.node(root))
        });
        own.chain(fed)
    }

    /// All whose upstreams the changes so far may have changed: who moved, who is below within
    /// reach, and who has got or lost a child.
    pub(super) fn take_near(&mut self) -> BTreeSet<NodeId> {
        let mut near = BTreeSet::new();
        for Changed { tree, node, before, after } in std::mem::take(&mut self.changed) {
            self.add_below(tree, node, &mut near);
            near.extend(before.into_iter().chain(after));
        }
        near.retain(|node| self.members.contains_key(node));
        near
    }

    /// A node and those below it in whose upstreams for that tree it or its parent may stand.
    fn add_below(&self, tree: u8, node: NodeId, all: &mut BTreeSet<NodeId>) {
        let mut level = vec![node];
        for _ in 0..UPSTREAMS_MAX {
            all.extend(level.iter().copied());
            level = level.iter().flat_map(|&node| self.children(tree, node)).collect();
        }
    }

    /// Those who were told of a node.
    pub(super) fn readers(&self, node: NodeId) -> Vec<NodeId> {
        let mut below = BTreeSet::new();
        for tree in self.trees() {
            self.children(tree, node).for_each(|child| self.add_below(tree, child, &mut below));
        }
        let reads = |reader: &NodeId| {
            let told = self.members.get(reader).and_then(|member| member.told);
            let mut branches = told.iter().flat_map(|told| &told.branches);
            branches.any(|branch| branch.as_slice().contains(&node))
        };
        below.into_iter().filter(reads).collect()
    }

    /// One tree, level by level from those who read the registry.
    pub(super) fn level_order(&self, tree: u8) -> impl Iterator<Item = Standing> + '_ {
        let tops = self.groups().filter(move |group| group.feeders[usize::from(tree)].is_none());
        let tops = tops.filter_map(move |group| Some((group.node(group.shape.root(tree)?), 0)));
        let mut queue: std::collections::VecDeque<(NodeId, u32)> = tops.collect();
        std::iter::from_fn(move || {
            let (node, level) = queue.pop_front()?;
            let member = self.members.get(&node)?;
            let children: Vec<_> = self.children(tree, node).collect();
            queue.extend(children.iter().map(|&child| (child, level + 1)));
            Some(Standing {
                node,
                parent: self.parent(tree, node),
                children,
                level,
                group: self.group(member.group)?.number,
                complete: member.complete,
            })
        })
    }
}
