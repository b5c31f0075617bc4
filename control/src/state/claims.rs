//! Places that nodes claim, and the trees that are built of them when control has settled.

use super::{Membership, Output, State, refuse};
use crate::forest::{self, Assignment, Claim, Claimed, NodeId, TreeKey};
use crate::limits::{BRANCHES_MAX, UPSTREAMS_MAX};
use crate::state::SessionId;

/// Claims to one tree, and newcomers that wait for it to be built.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) places: Vec<(NodeId, Membership)>,
    pub(super) newcomers: Vec<NodeId>,
}

impl State {
    pub(super) fn claim(
        &mut self,
        session: SessionId,
        node: NodeId,
        held: Membership,
        out: &mut Vec<Output>,
    ) {
        let key = held.key;
        if let Some(claimed) = &mut self.claimed
            && !self.forest.is_member(node, key)
        {
            let claims = claimed.entry(key).or_default();
            if claims.places.iter().all(|(other, _)| *other != node) {
                self.names.entry(key).or_insert_with(|| held.name.clone());
                claims.places.push((node, held));
            }
            return;
        }
        let claim = self.resolve(node, &held);
        self.names.entry(key).or_insert(held.name);
        self.change_surely(&forest::Event::Restore { key, claims: &[claim] }, out);
        if !self.forest.is_member(node, key) {
            self.drop_name(key);
            refuse(session, Some(key), "there is no room for this place", out);
        }
    }

    /// What a node claims. For trees that it does not speak of, because it comes from
    /// a control with fewer of them, it means nobody.
    fn resolve(&self, node: NodeId, held: &Membership) -> Claim {
        let mut parents = [Claimed::Stranger; BRANCHES_MAX as usize];
        for (name, claimed) in held.parents.iter().zip(&mut parents) {
            *claimed = match name.as_str() {
                "" => Claimed::Registry,
                name => self.roster.by_name(name).map_or(Claimed::Stranger, Claimed::Node),
            };
        }
        Claim { node, parents, group: held.group, complete: held.complete }
    }

    /// Builds trees of what was claimed, then lets the newcomers in.
    pub(super) fn settle(&mut self, out: &mut Vec<Output>) {
        for (key, Claims { places, newcomers }) in self.claimed.take().unwrap_or_default() {
            let claims: Vec<_> =
                places.iter().map(|(node, held)| self.resolve(*node, held)).collect();
            self.change_surely(&forest::Event::Restore { key, claims: &claims }, out);
            for node in newcomers {
                self.join_or_refuse(node, key, out);
            }
            self.drop_name(key);
        }
    }

    /// Names to a newcomer, until the tree is built, some who claim to be in it: nobody reads from
    /// the newcomer yet, so they cannot read from it either. Newcomers are spread over them.
    pub(super) fn lodge(&self, node: NodeId, key: TreeKey, out: &mut Vec<Output>) {
        let Some(claims) = self.claimed.as_ref().and_then(|claimed| claimed.get(&key)) else {
            return;
        };
        let skipped = claims.newcomers.len() % claims.places.len().max(1);
        let hosts = claims.places.iter().cycle().skip(skipped).take(claims.places.len());
        let mut hosts: Vec<_> = hosts.collect();
        // Those who have all of it first.
        hosts.sort_by_key(|(_, held)| !held.complete);
        let hosts = hosts.into_iter().take(UPSTREAMS_MAX as usize).map(|&(host, _)| host).collect();
        let epoch = self.settings.first_epoch;
        // One branch: the node takes blobs whole.
        self.tell(
            &Assignment { node, key, epoch, group: 0, at_once: false, branches: vec![hosts] },
            out,
        );
    }

    pub(super) fn forget_claims(&mut self, node: NodeId) {
        let keys: Vec<_> =
            self.claimed.iter().flat_map(|claimed| claimed.keys().copied()).collect();
        for key in keys {
            self.forget_claim(node, key);
        }
    }

    /// Whether the node had claimed a place, or waited for one, in that tree.
    pub(super) fn forget_claim(&mut self, node: NodeId, key: TreeKey) -> bool {
        let Some(claimed) = &mut self.claimed else { return false };
        let Some(claims) = claimed.get_mut(&key) else { return false };
        let before = claims.places.len() + claims.newcomers.len();
        claims.places.retain(|(other, _)| *other != node);
        claims.newcomers.retain(|other| *other != node);
        before > claims.places.len() + claims.newcomers.len()
    }
}
