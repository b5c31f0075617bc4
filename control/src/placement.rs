//! What decides where a node goes, over all images: how busy its uplink is, its zone, whether it is
//! slow; and of one image the seeds that are idle and the groups that take newcomers. Holds and
//! orders, moves nobody.

pub mod watch;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::forest::NodeId;
use crate::limits::SEEDS_LOOKED_AT_MAX;

/// Where a node stands, as its operator labels it. Traffic between zones is dear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(pub u64);

impl Zone {
    /// The zone of that label. Two labels are one zone once in 2^64.
    pub fn labelled(label: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        label.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// What an uplink sends, in stripes: one of the two halves of an image, to one node that has not
/// all of it yet. Two are as much as a node receives.
pub(crate) type Load = u32;

/// What fills an uplink as long as the downlinks are filled.
pub(crate) const FULL: Load = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    zone: Zone,
    slow: bool,
    load: Load,
}

/// What all images have in common.
#[derive(Debug)]
pub(crate) struct Nodes {
    traits: Vec<Traits>,
    /// The time, as it was told last.
    pub(crate) now_ms: u64,
    next_group: u64,
}

impl Nodes {
    /// Groups are numbered from `first_group` on.
    pub(crate) fn new(first_group: u64) -> Self {
        Self { traits: Vec::new(), now_ms: 0, next_group: first_group }
    }

    fn of(&self, node: NodeId) -> Traits {
        self.traits.get(node.0 as usize).copied().unwrap_or_default()
    }

    fn of_mut(&mut self, node: NodeId) -> &mut Traits {
        let index = node.0 as usize;
        if index >= self.traits.len() {
            self.traits.resize(index + 1, Traits::default());
        }
        &mut self.traits[index]
    }

    pub(crate) fn zone(&self, node: NodeId) -> Zone {
        self.of(node).zone
    }

    pub(crate) fn set_zone(&mut self, node: NodeId, zone: Zone) {
        self.of_mut(node).zone = zone;
    }

    /// Whether a node's uplink was found to be slow.
    pub(crate) fn is_slow(&self, node: NodeId) -> bool {
        self.of(node).slow
    }

    pub(crate) fn set_slow(&mut self, node: NodeId, slow: bool) {
        self.of_mut(node).slow = slow;
    }

    /// What a node sends of all images.
    pub(crate) fn load(&self, node: NodeId) -> Load {
        self.of(node).load
    }

    pub(crate) fn add_load(&mut self, node: NodeId, more: Load) {
        self.of_mut(node).load += more;
    }

    pub(crate) fn take_load(&mut self, node: NodeId, less: Load) {
        let traits = self.of_mut(node);
        debug_assert!(traits.load >= less);
        traits.load = traits.load.saturating_sub(less);
    }

    /// A number that no other group has, or had under an earlier control.
    pub(crate) fn group_number(&mut self) -> u64 {
        self.next_group += 1;
        self.next_group
    }
}

/// Where newcomers of one image may go.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Those who have all of the image and send nothing of it, and are not slow.
    idle: BTreeSet<(Zone, NodeId)>,
    /// Groups that take newcomers: zone, size, index.
    open: BTreeSet<(Zone, u32, u32)>,
    /// Where the search for a seed begins: behind the one found last.
    from: NodeId,
}

impl Pool {
    pub(crate) fn set_idle(&mut self, zone: Zone, node: NodeId, idle: bool) {
        if idle {
            self.idle.insert((zone, node));
        } else {
            self.idle.remove(&(zone, node));
        }
    }

    pub(crate) fn open(&mut self, zone: Zone, len: u32, group: u32) {
        self.open.insert((zone, len, group));
    }

    pub(crate) fn close(&mut self, zone: Zone, len: u32, group: u32) {
        self.open.remove(&(zone, len, group));
    }

    /// The smallest group of a zone that takes newcomers.
    pub(crate) fn smallest(&self, zone: Zone) -> Option<u32> {
        let of_zone = (zone, 0, 0)..=(zone, u32::MAX, u32::MAX);
        self.open.range(of_zone).next().map(|&(_, _, group)| group)
    }

    /// Groups that take newcomers.
    pub(crate) fn open_groups(&self) -> impl Iterator<Item = u32> + '_ {
        self.open.iter().map(|&(_, _, group)| group)
    }

    /// An idle seed of a zone, or of any: the first one that sends nothing of other images either,
    /// else the one that sends least.
    pub(crate) fn seed(
        &mut self,
        zone: Option<Zone>,
        nodes: &Nodes,
        may: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let (lowest, highest) = match zone {
            Some(zone) => ((zone, NodeId(0)), (zone, NodeId(u32::MAX))),
            None => ((Zone(0), NodeId(0)), (Zone(u64::MAX), NodeId(u32::MAX))),
        };
        let from = (zone.unwrap_or_default(), self.from).max(lowest);
        let behind = self.idle.range(from..=highest);
        let before = self.idle.range(lowest..from);
        let mut best: Option<(Load, NodeId)> = None;
        for &(_, node) in behind.chain(before).take(SEEDS_LOOKED_AT_MAX as usize) {
            let load = nodes.load(node);
            if may(node) && best.is_none_or(|(least, _)| load < least) {
                best = Some((load, node));
                if load == 0 {
                    break;
                }
            }
        }
        let (_, node) = best?;
        self.from = NodeId(node.0.wrapping_add(1));
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Zone = Zone(1);
    const THERE: Zone = Zone(2);

    fn pool(idle: &[(Zone, u32)]) -> Pool {
        let mut pool = Pool::default();
        idle.iter().for_each(|&(zone, node)| pool.set_idle(zone, NodeId(node), true));
        pool
    }

    #[test]
    fn seeds_are_taken_in_turn() {
        let (mut pool, nodes) = (pool(&[(HERE, 1), (HERE, 2), (HERE, 3)]), Nodes::new(0));
        let mut next = || pool.seed(Some(HERE), &nodes, |_| true).unwrap().0;
        assert_eq!([next(), next(), next(), next()], [1, 2, 3, 1]);
    }

    #[test]
    fn who_sends_least_elsewhere_is_taken() {
        let (mut pool, mut nodes) = (pool(&[(HERE, 1), (HERE, 2), (HERE, 3)]), Nodes::new(0));
        nodes.add_load(NodeId(1), 2);
        nodes.add_load(NodeId(2), 1);
        assert_eq!(pool.seed(Some(HERE), &nodes, |_| true), Some(NodeId(3)));
        nodes.add_load(NodeId(3), 2);
        assert_eq!(pool.seed(Some(HERE), &nodes, |_| true), Some(NodeId(2)));
        assert_eq!(pool.seed(Some(HERE), &nodes, |node| node.0 == 1), Some(NodeId(1)));
        nodes.take_load(NodeId(1), 2);
        assert_eq!(pool.seed(Some(HERE), &nodes, |_| true), Some(NodeId(1)));
    }

    #[test]
    fn zones_are_kept_apart() {
        let (mut pool, nodes) = (pool(&[(HERE, 1), (THERE, 2)]), Nodes::new(0));
        assert_eq!(pool.seed(Some(THERE), &nodes, |_| true), Some(NodeId(2)));
        pool.set_idle(THERE, NodeId(2), false);
        assert_eq!(pool.seed(Some(THERE), &nodes, |_| true), None);
        assert_eq!(pool.seed(None, &nodes, |_| true), Some(NodeId(1)));
        pool.open(HERE, 3, 7);
        pool.open(HERE, 2, 8);
        pool.open(THERE, 1, 9);
        assert_eq!((pool.smallest(HERE), pool.smallest(THERE)), (Some(8), Some(9)));
        pool.close(HERE, 2, 8);
        assert_eq!(pool.smallest(HERE), Some(7));
        assert_eq!(pool.open_groups().count(), 2);
    }
}
