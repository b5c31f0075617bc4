//! The function tree from the claims of its nodes: who is placed under whom, in which order. Knows
//! nothing of how nodes are found or told.
//!
//! It walks the claimed edges level by level from the nodes that are placed already, or from a
//! claimed root if there are none, and puts each child under the parent that it claims, if there is
//! room for it ([`Ft::join_under`]): a tree whose nodes all came back is restored edge by edge. Who
//! is left, because the parent is gone, or has no room, or because the claims run in a circle,
//! joins like a newcomer, the largest remainder first, and keeps below it what can be kept. Each
//! node is placed once, under a node that is placed already: whatever is claimed, no circle can
//! come of it.

use std::collections::{HashMap, VecDeque};

use super::ft::Ft;
use super::{Above, Claim, Edge, Place, TreeError};

/// Who claims whom, by index of the claim.
#[derive(Debug, Default)]
struct Claimed {
    /// Below each fellow.
    below: Vec<Vec<u32>>,
    /// Below the members of the tree.
    below_members: HashMap<Place, Vec<u32>>,
}

/// See [`Shape::restore`](super::shape::Shape::restore).
pub(super) fn ft(
    tree: &mut Ft,
    claims: &[Claim],
    edges: &mut Vec<Edge>,
) -> Vec<Result<Place, TreeError>> {
    let claimed = claimed(claims);
    let mut placed: Vec<Option<Result<Place, TreeError>>> = vec![None; claims.len()];
    let mut tops: VecDeque<u32> = tops(claims, &claimed).into();
    let mut grown: VecDeque<(Place, &[u32])> = members_top_down(tree, &claimed).into();
    loop {
        while let Some((parent, below)) = grown.pop_front() {
            for &child in below {
                if placed[child as usize].is_some() {
                    continue;
                }
                match tree.join_under(parent, edges) {
                    Ok(place) => {
                        placed[child as usize] = Some(Ok(place));
                        grown.push_back((place, &claimed.below[child as usize]));
                    }
                    Err(_) => tops.push_back(child),
                }
            }
        }
        let Some(top) = tops.pop_front() else { break };
        if placed[top as usize].is_none() {
            let result = tree.join(edges);
            placed[top as usize] = Some(result);
            grown.extend(result.ok().map(|place| (place, &*claimed.below[top as usize])));
        }
    }
    placed.into_iter().map(|result| result.unwrap_or(Err(TreeError::Unknown))).collect()
}

fn claimed(claims: &[Claim]) -> Claimed {
    let mut claimed =
        Claimed { below: vec![Vec::new(); claims.len()], below_members: HashMap::new() };
    for (&[above, _], child) in claims.iter().zip(0..) {
        match above {
            Above::Fellow(parent) => {
                if let Some(below) = claimed.below.get_mut(parent as usize) {
                    below.push(child);
                }
            }
            Above::Member(parent) => claimed.below_members.entry(parent).or_default().push(child),
            Above::Registry | Above::Stranger => {}
        }
    }
    claimed
}

/// Those in the tree whom somebody claims, upper levels first.
fn members_top_down<'a>(tree: &Ft, claimed: &'a Claimed) -> Vec<(Place, &'a [u32])> {
    let level = |place| std::iter::successors(Some(place), |&at| tree.parent(at)).count();
    let mut found: Vec<_> = claimed
        .below_members
        .iter()
        .map(|(&place, below)| (level(place), place, below.as_slice()))
        .collect();
    found.sort_unstable_by_key(|&(level, place, _)| (level, place.index));
    found.into_iter().map(|(_, place, below)| (place, below)).collect()
}

/// The order in which nodes become the top of a remainder: claimed roots, then the parentless,
/// larger remainders first; then all others, of which only those matter whose claims run in a
/// circle.
fn tops(claims: &[Claim], claimed: &Claimed) -> Vec<u32> {
    let mut ranked: Vec<(u8, u64, u32)> = Vec::with_capacity(claims.len());
    for (&[above, _], node) in claims.iter().zip(0..) {
        let rank = match above {
            Above::Registry => 0,
            Above::Fellow(parent) if (parent as usize) < claims.len() => 2,
            Above::Fellow(_) | Above::Member(_) | Above::Stranger => 1,
        };
        let below = if rank == 2 { 0 } else { count_below(node, claimed) };
        ranked.push((rank, u64::MAX - below, node));
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

/// How many claims hang below a node whose own claim does not lead back to itself.
fn count_below(node: u32, claimed: &Claimed) -> u64 {
    let (mut count, mut stack) = (0, vec![node]);
    while let Some(node) = stack.pop() {
        let below = &claimed.below[node as usize];
        count += below.len() as u64;
        stack.extend(below);
    }
    count
}
