//! Twin trees from the claims of their nodes: who is interior where, and who is placed under whom,
//! in which order. Knows nothing of how nodes are found or told.
//!
//! A node is of the colour of the tree in which more nodes claim it as their parent. Who is claimed
//! by nobody, or in both trees alike, goes to the colour that has fewer; if they still differ by
//! more than one, those change colour whom the fewest claim. Then each tree is planted from its
//! claimed root down, every node under the parent that it claims if there is room and the depth
//! allows it, and remainders without a parent, the largest first, where the next interior node
//! belongs. Levels that must be full are filled from the last one, and leaves that are left get the
//! slots that are left: trees whose nodes all came back are restored edge by edge.

use super::super::{Above, Claim, Edge, Place, TreeError};
use super::Twin;
use super::half::{Half, NIL, level, levels_max};

/// What the claims say of one tree. Nodes are indices of claims.
#[derive(Debug)]
struct Claimed {
    /// Below each node of the tree's colour.
    below: Vec<Vec<usize>>,
    /// Nodes of the tree's colour, in the order in which they become the top of a remainder.
    tops: Vec<usize>,
}

/// Plants empty trees. See [`Shape::restore`](super::super::shape::Shape::restore).
pub(super) fn plant(
    twin: &mut Twin,
    claims: &[Claim],
    edges: &mut Vec<Edge>,
) -> Vec<Result<Place, TreeError>> {
    let placed: Vec<_> = claims.iter().map(|_| twin.admit().map(|(place, _)| place)).collect();
    let nodes: Vec<u32> = placed.iter().flatten().map(|place| place.index).collect();
    // A full tree refuses the last claims: what is left are indices still.
    let claims = &claims[..nodes.len()];
    // Somebody without children may have stood in either tree, where it matters: in the first one
    // unless that breaks more claims.
    let (empty, mut fewest) = (twin.halves.clone(), usize::MAX);
    for preferred in [0, 1] {
        let colours = colours(claims, preferred);
        let mut halves = empty.clone();
        for (tree, half) in halves.iter_mut().enumerate() {
            plant_half(half, &nodes, &colours, tree, &Claimed::new(claims, &colours, tree));
        }
        let broken = broken(&halves, claims, &nodes);
        if broken < fewest {
            (fewest, twin.halves) = (broken, halves);
        }
        if broken == 0 {
            break;
        }
    }
    for (tree, half) in twin.halves.iter().enumerate() {
        let tree = u8::from(tree == 1);
        for &place in placed.iter().flatten() {
            let parent = twin.place(half.parent(place.index));
            edges.push(Edge { tree, child: place, parent });
        }
    }
    placed
}

/// How many claims have not been kept that could have been by somebody.
fn broken(halves: &[Half; 2], claims: &[Claim], nodes: &[u32]) -> usize {
    let kept = |half: &Half, node: u32, above: Above| match above {
        Above::Registry => half.parent(node) == NIL,
        Above::Fellow(parent) => Some(&half.parent(node)) == nodes.get(parent as usize),
        Above::Member(_) | Above::Stranger => true,
    };
    let broken = |&(&node, &[first, second]): &(&u32, &Claim)| {
        !(kept(&halves[0], node, first) && kept(&halves[1], node, second))
    };
    nodes.iter().zip(claims).filter(broken).count()
}

/// The tree in which each node is to be interior; `preferred` where nothing else decides it.
fn colours(claims: &[Claim], preferred: usize) -> Vec<usize> {
    let mut claimed = vec![[0_u32; 2]; claims.len()];
    for claim in claims {
        for (tree, &above) in claim.iter().enumerate() {
            if let Above::Fellow(parent) = above
                && let Some(counts) = claimed.get_mut(parent as usize)
            {
                counts[tree] += 1;
            }
        }
    }
    let mut counts = [0_usize; 2];
    let mut colours = vec![0; claims.len()];
    let decided = |[first, second]: [u32; 2]| first != second;
    for (colour, &claimed) in colours.iter_mut().zip(&claimed).filter(|(_, by)| decided(**by)) {
        *colour = usize::from(claimed[1] > claimed[0]);
        counts[*colour] += 1;
    }
    for (colour, _) in colours.iter_mut().zip(&claimed).filter(|(_, by)| !decided(**by)) {
        *colour = if counts[1 - preferred] < counts[preferred] { 1 - preferred } else { preferred };
        counts[*colour] += 1;
    }
    let more = usize::from(counts[1] > counts[0]);
    let mut excess = counts[more].abs_diff(counts[1 - more]) / 2;
    if excess > 0 {
        let mut ranked: Vec<usize> = (0..claims.len()).filter(|&at| colours[at] == more).collect();
        ranked.sort_by_key(|&at| claimed[at][more]);
        for at in ranked {
            if excess == 0 {
                break;
            }
            colours[at] = 1 - more;
            excess -= 1;
        }
    }
    colours
}

impl Claimed {
    fn new(claims: &[Claim], colours: &[usize], tree: usize) -> Self {
        let mut below: Vec<Vec<usize>> = vec![Vec::new(); claims.len()];
        let mut ranks = vec![1_u8; claims.len()];
        for (at, claim) in claims.iter().enumerate() {
            match claim[tree] {
                Above::Registry => ranks[at] = 0,
                Above::Fellow(parent) if colours.get(parent as usize) == Some(&tree) => {
                    below[parent as usize].push(at);
                    ranks[at] = 2;
                }
                Above::Fellow(_) | Above::Member(_) | Above::Stranger => {}
            }
        }
        let mut tops: Vec<usize> = (0..claims.len()).filter(|&at| colours[at] == tree).collect();
        // Whose own claim leads nowhere is on no circle, and so is nobody below.
        let size = |at: usize| if ranks[at] == 2 { 0 } else { count_below(at, &below) };
        tops.sort_by_cached_key(|&at| (ranks[at], usize::MAX - size(at)));
        Self { below, tops }
    }
}

fn count_below(top: usize, below: &[Vec<usize>]) -> usize {
    let (mut count, mut stack) = (0, vec![top]);
    while let Some(at) = stack.pop() {
        count += below[at].len();
        stack.extend(&below[at]);
    }
    count
}

fn plant_half(half: &mut Half, nodes: &[u32], colours: &[usize], tree: usize, claimed: &Claimed) {
    let levels = levels_max(u32::try_from(claimed.tops.len()).unwrap_or(NIL));
    let mut stack = Vec::new();
    for &top in &claimed.tops {
        if half.is_here(nodes[top]) {
            continue;
        }
        grow_next(half, nodes[top]);
        stack.push(top);
        while let Some(parent) = stack.pop() {
            for &child in &claimed.below[parent] {
                let Some(slot) = half.free_below(nodes[parent]) else { break };
                if half.is_here(nodes[child]) {
                    continue;
                }
                if colours[child] != tree {
                    half.hang(nodes[child], slot);
                } else if level(slot) < levels {
                    half.grow(nodes[child], slot);
                    stack.push(child);
                }
            }
        }
    }
    while half.has_hole() {
        let node = half.deepest();
        for leaf in half.children(node).into_iter().filter(|&leaf| leaf != NIL) {
            half.unhang(leaf);
        }
        half.splice(node);
        grow_next(half, node);
    }
    for &node in nodes {
        if !half.is_here(node)
            && let Some(&slot) = half.free().last()
        {
            half.hang(node, slot);
        }
    }
}

/// Puts an interior node where the next one belongs; a leaf there loses its slot.
fn grow_next(half: &mut Half, node: u32) {
    let slot = half.next_slot();
    if half.occupant(slot) != NIL {
        half.unhang(half.occupant(slot));
    }
    half.grow(node, slot);
}
