//! Which tree a blob belongs to, and who is above this node in it. Asks control; decides nothing.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};
use xylem_protocol::limits::{
    BLOB_IMAGES_MAX, BRANCHES_MAX, JOIN_STEP_MS, JOIN_WAIT_MS, PEER_AVOID_MS, PEER_STUCK_MS,
    TREES_MAX, UPSTREAMS_MAX,
};
use xylem_protocol::names::check_node;
use xylem_protocol::{Digest, pb};

use super::control::ControlLink;
use crate::lru::Lru;

/// A node above this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upstream {
    /// Its name.
    pub(super) node: Arc<str>,
    /// Its data port.
    pub(super) address: SocketAddr,
}

/// Who is above this node for each stripe, parent first; one branch where blobs come whole. Nobody:
/// the registry.
pub(super) type Branches = Rc<[Rc<[Upstream]>]>;

/// This node's place among those that want an image.
#[derive(Debug)]
struct Tree {
    /// Repository, for people.
    name: String,
    epoch: u64,
    /// `None` until control has said.
    branches: Option<Branches>,
    /// As control numbers it.
    group: u64,
    /// Blobs of the image; none until its manifest is known.
    contents: Rc<[Digest]>,
    /// Control knows that all of them are here.
    told_complete: bool,
    /// When control was asked for a place, if it was when it was to answer.
    asked: Option<Instant>,
    /// Requests wait for it to answer.
    waits: bool,
}

/// A tree, for `status`.
#[derive(Debug, Clone)]
pub(super) struct TreeView {
    pub(super) image: Digest,
    pub(super) epoch: u64,
    pub(super) parent: Option<Arc<str>>,
}

/// All trees that this node is in.
#[derive(Debug)]
pub(super) struct Trees {
    node: String,
    control: Option<Rc<ControlLink>>,
    trees: RefCell<Lru<Digest, Tree>>,
    /// Image and size of each blob that a manifest has named.
    blobs: RefCell<Lru<Digest, (Digest, u64)>>,
    changed: Notify,
    /// Nodes that could not be connected to, and until when they are not asked again.
    avoided: RefCell<Lru<Arc<str>, Instant>>,
}

impl Trees {
    pub(super) fn new(node: &str, control: Option<Rc<ControlLink>>) -> Self {
        Self {
            node: node.to_owned(),
            control,
            trees: RefCell::new(Lru::new(TREES_MAX)),
            blobs: RefCell::new(Lru::new(BLOB_IMAGES_MAX)),
            changed: Notify::new(),
            avoided: RefCell::new(Lru::new(UPSTREAMS_MAX * TREES_MAX)),
        }
    }

    /// Remembers that blobs of these sizes belong to an image.
    pub(super) fn learn(&self, image: Digest, blobs: impl Iterator<Item = (Digest, u64)>) {
        let mut map = self.blobs.borrow_mut();
        for (blob, size) in blobs {
            map.insert(blob, (image, size));
        }
    }

    /// Remembers what an image consists of.
    pub(super) fn learn_contents(&self, image: &Digest, blobs: impl Iterator<Item = Digest>) {
        if let Some(tree) = self.trees.borrow_mut().get(image) {
            tree.contents = blobs.collect();
        }
    }

    /// Tells control of images of which all blobs are here now.
    pub(super) fn tell_complete(&self, is_here: impl Fn(&Digest) -> bool) {
        let Some(control) = &self.control else { return };
        for (image, tree) in self.trees.borrow_mut().iter_mut() {
            if !tree.told_complete && tree.is_complete(&is_here) {
                tree.told_complete = true;
                let image = image.to_string();
                control.send(pb::node_message::Kind::Complete(pb::Complete { image }));
            }
        }
    }

    /// The image that a blob was last named by.
    pub(super) fn image_of(&self, blob: &Digest) -> Option<Digest> {
        self.blobs.borrow_mut().get(blob).map(|(image, _)| *image)
    }

    /// The size that it was given there, bytes.
    pub(super) fn size_of(&self, blob: &Digest) -> Option<u64> {
        self.blobs.borrow_mut().get(blob).map(|(_, size)| *size)
    }

    /// Who is above this node in an image's tree; nobody when control does not say in time, which
    /// a blob and a manifest wait for differently.
    pub(super) async fn upstreams(
        self: &Rc<Self>,
        image: Digest,
        name: &str,
        is_manifest: bool,
    ) -> Rc<[Upstream]> {
        let Some(control) = &self.control else { return Rc::from([]) };
        self.join(image, name);
        let of_manifest = steps(control.patience().of_manifest());
        let mut steps = if is_manifest { of_manifest } else { u64::MAX };
        loop {
            let changed = self.changed.notified();
            match self.trees.borrow_mut().get(&image) {
                Some(Tree { branches: Some(branches), .. }) => return first(branches),
                Some(tree) if tree.waits && steps > 0 => {}
                _ => break,
            }
            let step = timeout(Duration::from_millis(JOIN_STEP_MS), changed);
            steps -= u64::from(step.await.is_err());
        }
        debug!(%image, "control has not answered; going on with the registry");
        Rc::from([])
    }

    /// Who is above this node as far as is known, without waiting.
    pub(super) fn known_upstreams(&self, image: &Digest) -> Rc<[Upstream]> {
        first(&self.branches(image))
    }

    /// Who is above this node for each stripe as far as is known, without waiting.
    pub(super) fn branches(&self, image: &Digest) -> Branches {
        let mut trees = self.trees.borrow_mut();
        trees.get(image).and_then(|tree| tree.branches.clone()).unwrap_or_default()
    }

    /// Who is above this node in one branch; in the only one if there is but one.
    pub(super) fn branch(&self, image: &Digest, branch: u8) -> Rc<[Upstream]> {
        let branches = self.branches(image);
        let index = usize::from(branch) % branches.len().max(1);
        branches.get(index).cloned().unwrap_or_default()
    }

    /// A node could not be connected to: others are asked for a while.
    pub(super) fn avoid(&self, node: &Arc<str>) {
        self.avoid_for(node, PEER_AVOID_MS);
    }

    /// A node is stuck: others are asked for longer.
    pub(super) fn avoid_stuck(&self, node: &Arc<str>) {
        self.avoid_for(node, PEER_STUCK_MS);
    }

    fn avoid_for(&self, node: &Arc<str>, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        self.avoided.borrow_mut().insert(node.clone(), until);
    }

    /// Whether a node is worth asking.
    pub(super) fn is_usable(&self, node: &Arc<str>) -> bool {
        self.avoided.borrow().peek(node).is_none_or(|until| Instant::now() >= *until)
    }

    /// Tells control of an interest in an image, once.
    pub(super) fn join(self: &Rc<Self>, image: Digest, name: &str) {
        let Some(control) = &self.control else { return };
        let mut trees = self.trees.borrow_mut();
        if trees.get(&image).is_some() {
            return;
        }
        let asked = control.is_expected_to_answer().then(Instant::now);
        let tree = Tree {
            name: name.to_owned(),
            epoch: 0,
            branches: None,
            group: 0,
            contents: Rc::default(),
            told_complete: false,
            asked,
            waits: asked.is_some(),
        };
        if let Some((gone, _)) = trees.insert(image, tree) {
            control.send(pb::node_message::Kind::Leave(pb::Leave { image: gone.to_string() }));
        }
        let join = pb::Join { image: image.to_string(), name: name.to_owned() };
        control.send(pb::node_message::Kind::Join(join));
        if let Some(asked) = asked {
            let wait = control.patience().of_blobs();
            tokio_uring::spawn(self.clone().count_down(control.clone(), image, (asked, wait)));
        }
    }

    /// Ends the wait for a place. Counted in steps that this thread has seen: where it stood still
    /// on a busy machine, the answer may have come; but not beyond the longest wait.
    async fn count_down(
        self: Rc<Self>,
        control: Rc<ControlLink>,
        image: Digest,
        (asked, wait): (Instant, Duration),
    ) {
        let last = asked + Duration::from_millis(JOIN_WAIT_MS);
        for _ in 0..steps(wait) {
            sleep(Duration::from_millis(JOIN_STEP_MS)).await;
            if Instant::now() >= last {
                break;
            }
        }
        let mut trees = self.trees.borrow_mut();
        // It may have been left and joined again.
        let Some(tree) = trees.get(&image).filter(|tree| tree.asked == Some(asked)) else { return };
        tree.waits = false;
        drop(trees);
        control.patience().in_vain();
        self.changed.notify_waiters();
    }

    /// An image turned out to be none (an index): there is no tree for it.
    pub(super) fn leave(&self, image: &Digest) {
        if self.trees.borrow_mut().remove(image).is_some()
            && let Some(control) = &self.control
        {
            control.send(pb::node_message::Kind::Leave(pb::Leave { image: image.to_string() }));
        }
    }

    /// Control has said where this node's place is; tells in which image's trees, if that is news.
    pub(super) fn assign(&self, assignment: &pb::Assignment) -> Option<Digest> {
        let Ok(image) = assignment.image.parse::<Digest>() else {
            warn!(image = assignment.image, "control assigned a place in no tree");
            return None;
        };
        let upstreams = |branch: &pb::Branch| -> Rc<[Upstream]> {
            let named = branch.upstreams.iter().filter_map(upstream);
            named.filter(|upstream| *upstream.node != *self.node).take(UPSTREAMS_MAX).collect()
        };
        let branches: Branches =
            assignment.branches.iter().take(BRANCHES_MAX).map(upstreams).collect();
        let mut trees = self.trees.borrow_mut();
        let tree = trees.get(&image)?;
        if tree.branches.is_some() && assignment.epoch < tree.epoch {
            return None;
        }
        let above: Vec<_> = parents(&branches).collect();
        debug!(%image, epoch = assignment.epoch, parents = ?above, "assigned");
        tree.epoch = assignment.epoch;
        tree.branches = Some(branches);
        tree.group = assignment.group;
        let asked = tree.asked.take();
        drop(trees);
        if let (Some(control), Some(asked)) = (&self.control, asked) {
            control.patience().answered(asked.elapsed());
            debug!(%image, took = ?asked.elapsed(), "control has answered");
        }
        self.changed.notify_waiters();
        Some(image)
    }

    /// Control will not have this node in a tree: the registry it is.
    pub(super) fn refused(&self, image: &Digest) {
        if let Some(tree) = self.trees.borrow_mut().get(image) {
            tree.branches.get_or_insert_default();
            tree.asked = None;
        }
        self.changed.notify_waiters();
    }

    /// The places to claim at a control process that may be new, and the trees to join there.
    /// Epochs start anew.
    pub(super) fn rejoin(
        &self,
        size_of: impl Fn(&Digest) -> Option<u64>,
    ) -> (Vec<pb::Membership>, Vec<pb::Join>) {
        let images: Vec<Digest> = self.trees.borrow().iter().map(|(image, _)| *image).collect();
        let (mut memberships, mut joins) = (Vec::new(), Vec::new());
        for image in images {
            let held_bytes = self.held(&image, |blob| size_of(blob).unwrap_or(0));
            let mut trees = self.trees.borrow_mut();
            let Some(tree) = trees.get(&image) else { continue };
            // What another link owed says nothing of this one.
            (tree.epoch, tree.asked, tree.waits) = (0, None, false);
            let (name, image) = (tree.name.clone(), image.to_string());
            let (group, complete) = (tree.group, tree.is_complete(|blob| size_of(blob).is_some()));
            tree.told_complete = complete && tree.branches.is_some();
            match &tree.branches {
                Some(branches) => {
                    let name_of = |parent: Option<Arc<str>>| {
                        parent.map_or(String::new(), |parent| parent.to_string())
                    };
                    let parents = parents(branches).map(name_of).collect();
                    let held = pb::Membership { image, name, parents, held_bytes, complete, group };
                    memberships.push(held);
                }
                None => joins.push(pb::Join { image, name }),
            }
        }
        (memberships, joins)
    }

    fn held(&self, image: &Digest, bytes_of: impl Fn(&Digest) -> u64) -> u64 {
        let blobs = self.blobs.borrow();
        blobs.iter().filter(|(_, (of, _))| of == image).map(|(blob, _)| bytes_of(blob)).sum()
    }

    /// All trees.
    pub(super) fn view(&self) -> Vec<TreeView> {
        let trees = self.trees.borrow();
        let view = |(image, tree): (&Digest, &Tree)| TreeView {
            image: *image,
            epoch: tree.epoch,
            parent: tree.branches.as_ref().and_then(|branches| parents(branches).next()?),
        };
        let mut all: Vec<TreeView> = trees.iter().map(view).collect();
        all.sort_by_key(|tree| tree.image);
        all
    }
}

impl Tree {
    fn is_complete(&self, is_here: impl Fn(&Digest) -> bool) -> bool {
        !self.contents.is_empty() && self.contents.iter().all(is_here)
    }
}

/// The first branch, by which blobs come whole.
fn first(branches: &Branches) -> Rc<[Upstream]> {
    branches.first().cloned().unwrap_or_default()
}

/// Who is next above in each branch; `None` where that is the registry.
fn parents(branches: &Branches) -> impl Iterator<Item = Option<Arc<str>>> {
    branches.iter().map(|upstreams| upstreams.first().map(|up| up.node.clone()))
}

/// In how many steps a wait is counted.
fn steps(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).div_ceil(JOIN_STEP_MS)
}

fn upstream(peer: &pb::Peer) -> Option<Upstream> {
    let address = peer.address.parse().ok();
    if check_node(&peer.node).is_err() || address.is_none() {
        warn!(node = peer.node, address = peer.address, "control named an upstream that is none");
        return None;
    }
    Some(Upstream { node: peer.node.as_str().into(), address: address? })
}
