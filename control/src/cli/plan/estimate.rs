//! How long an image takes to many nodes, by arithmetic over the trees that would be planted. Pure;
//! the model is told in `MODEL`.

use serde::Serialize;

use super::Way;
use crate::limits::{HOP_US, LEAVES_TRIED_MAX};
use crate::tree::shape::Shape;
use crate::tree::{Place, ShapeKind};
use crate::units::{Rate, Size};

/// What is to be expected.
#[derive(Debug, Serialize)]
pub(super) struct Estimate {
    pub(super) shape: String,
    pub(super) nodes: u32,
    /// S.
    pub(super) size_bytes: u64,
    /// B.
    pub(super) rate_bytes_per_s: u64,
    /// Until the last node has all.
    pub(super) makespan_s: f64,
    /// S/B: what one copy takes over one link.
    pub(super) limit_s: f64,
    /// Makespan divided by S/B.
    pub(super) ratio: f64,
    /// Until a node has its first byte: the median.
    pub(super) first_byte_ms: f64,
    /// Until the last node has its first byte.
    pub(super) first_byte_last_ms: f64,
    /// Hops from the registry to the farthest node.
    pub(super) depth: u32,
    pub(super) registry_bytes: u64,
    /// What the registry sends, divided by S.
    pub(super) registry_ratio: f64,
    /// Nodes that stay and get another parent when one leaves, once per tree: the mean.
    pub(super) moved_per_leave: f64,
}

/// One node in one tree.
#[derive(Clone, Copy, Debug)]
struct Position {
    node: usize,
    /// Index of the parent's position, which stands before; `None` below the registry.
    parent: Option<usize>,
}

/// Who reads from whom: trees that carry equal parts of the image.
#[derive(Debug)]
struct Plan {
    /// Of each tree, parents before their children.
    trees: Vec<Vec<Position>>,
    moved_per_leave: f64,
}

pub(super) fn estimate(way: Way, nodes: u32, size: Size, rate: Rate) -> Estimate {
    let plan = match way {
        Way::Trees(kind) => planted(kind, nodes),
        // Only who reads from the leaver gets another parent, and nobody reads from the last one.
        Way::Chain => {
            Plan::single(nodes, |at| at.checked_sub(1), f64::from(nodes - 1) / f64::from(nodes))
        }
        Way::Registry => Plan::single(nodes, |_| None, 0.0),
    };
    let hop_s = HOP_US as f64 / 1e6;
    let parts = plan.trees.len() as f64;
    let limit_s = size.0 as f64 / rate.0 as f64;
    let sent = plan.sent(nodes);
    let fed = plan.trees.iter().flatten().filter(|position| position.parent.is_none()).count();
    let (mut makespan_s, mut depth) = (0.0_f64, 0);
    let mut hops = vec![u32::MAX; nodes as usize];
    for tree in &plan.trees {
        // Share of a link's rate at which each position receives, and hops from the registry.
        let mut flows: Vec<(f64, u32)> = Vec::with_capacity(tree.len());
        for position in tree {
            let (share, level) = match position.parent {
                None => (1.0 / fed as f64, 0),
                Some(parent) => {
                    let (above, level) = flows[parent];
                    (above.min(1.0 / f64::from(sent[tree[parent].node])), level)
                }
            };
            let (share, level) = (share.min(1.0 / parts), level + 1);
            flows.push((share, level));
            makespan_s = makespan_s.max(limit_s / parts / share + f64::from(level) * hop_s);
            depth = depth.max(level);
            hops[position.node] = hops[position.node].min(level);
        }
    }
    hops.sort_unstable();
    let first_byte_ms = |hops: Option<&u32>| rounded(f64::from(*hops.unwrap_or(&0)) * hop_s * 1e3);
    Estimate {
        shape: way.to_string(),
        nodes,
        size_bytes: size.0,
        rate_bytes_per_s: rate.0,
        makespan_s: rounded(makespan_s),
        limit_s: rounded(limit_s),
        ratio: rounded(makespan_s / limit_s),
        first_byte_ms: first_byte_ms(hops.get((hops.len() - 1) / 2)),
        first_byte_last_ms: first_byte_ms(hops.last()),
        depth,
        registry_bytes: (fed as u64).saturating_mul(size.0) / plan.trees.len() as u64,
        registry_ratio: rounded(fed as f64 / parts),
        moved_per_leave: rounded(plan.moved_per_leave),
    }
}

impl Plan {
    /// One tree in which each node reads from an earlier one.
    fn single(nodes: u32, parent: impl Fn(usize) -> Option<usize>, moved_per_leave: f64) -> Self {
        let position = |node| Position { node, parent: parent(node) };
        Self { trees: vec![(0..nodes as usize).map(position).collect()], moved_per_leave }
    }

    /// To how many each node sends, over all trees.
    fn sent(&self, nodes: u32) -> Vec<u32> {
        let mut sent = vec![0; nodes as usize];
        for tree in &self.trees {
            for parent in tree.iter().filter_map(|position| position.parent) {
                sent[tree[parent].node] += 1;
            }
        }
        sent
    }
}

/// The trees that control plants for so many nodes.
fn planted(kind: ShapeKind, nodes: u32) -> Plan {
    let (mut shape, mut edges) = (Shape::new(kind), Vec::new());
    // Typed numbers are no higher than what fits.
    let places: Vec<Place> = (0..nodes).filter_map(|_| shape.join(&mut edges).ok()).collect();
    let tree = |tree| {
        let mut at = vec![0; places.len()];
        let order = shape.level_order(tree).map(|(place, _)| place);
        let mut positions: Vec<Position> = Vec::with_capacity(places.len());
        for place in order {
            let parent = shape.parent(tree, place).map(|parent| at[parent.index() as usize]);
            at[place.index() as usize] = positions.len();
            positions.push(Position { node: place.index() as usize, parent });
        }
        positions
    };
    Plan {
        trees: (0..shape.trees()).map(tree).collect(),
        moved_per_leave: moved_per_leave(&shape, &places),
    }
}

/// How many nodes get another parent when one leaves: the mean over all, or over so many of them at
/// equal distances.
fn moved_per_leave(shape: &Shape, places: &[Place]) -> f64 {
    let step = places.len().div_ceil(LEAVES_TRIED_MAX as usize).max(1);
    let (mut leaves, mut moved, mut edges) = (0, 0, Vec::new());
    for &place in places.iter().step_by(step) {
        edges.clear();
        if shape.clone().leave(place, &mut edges).is_ok() {
            leaves += 1;
            moved += edges.len();
        }
    }
    moved as f64 / f64::from(leaves.max(1))
}

/// With four digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size(758_000_000);
    const RATE: Rate = Rate(125_000_000);

    #[test]
    fn a_thousand_nodes() {
        let [twin, ft, chain, registry] = Way::ALL.map(|way| estimate(way, 1000, SIZE, RATE));
        assert_eq!(twin.limit_s, 6.064);
        // One hop of 0.3 ms per level.
        assert_eq!((twin.depth, twin.makespan_s), (11, 6.0673));
        assert_eq!((ft.depth, ft.makespan_s), (10, 12.131));
        assert_eq!((chain.depth, chain.makespan_s), (1000, 6.364));
        assert_eq!((registry.depth, registry.ratio), (1, 1000.0));
        assert_eq!([&twin, &ft, &chain].map(|it| it.registry_bytes), [SIZE.0; 3]);
        assert_eq!(registry.registry_bytes, 1000 * SIZE.0);
        assert!((1.2..1.4).contains(&ft.moved_per_leave), "{ft:?}");
        assert!((2.0..3.0).contains(&twin.moved_per_leave), "{twin:?}");
        assert_eq!((chain.moved_per_leave, registry.moved_per_leave), (0.999, 0.0));
    }

    #[test]
    fn few_nodes() {
        for way in Way::ALL {
            let one = estimate(way, 1, SIZE, RATE);
            assert_eq!((one.makespan_s, one.depth, one.registry_ratio), (6.0643, 1, 1.0), "{way}");
            assert_eq!((one.first_byte_ms, one.moved_per_leave), (0.3, 0.0));
        }
        let [twin, ft, chain, registry] = Way::ALL.map(|way| estimate(way, 2, SIZE, RATE));
        let ratios = [twin, ft, chain, registry].map(|it| it.ratio.round());
        assert_eq!(ratios, [1.0, 1.0, 1.0, 2.0]);
        assert_eq!(estimate(Way::Trees(ShapeKind::Ft), 3, SIZE, RATE).ratio.round(), 2.0);
    }
}
