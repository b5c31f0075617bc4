//! Whether the trees that control shows are trees, hold everybody, and are what agents were told.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::agent::{image, number};
use super::crowd::Crowd;
use super::process::Control;

/// Children that a node may have in one tree.
const CHILDREN_MAX: usize = 2;

#[derive(Debug, Deserialize)]
struct Trees {
    trees: Vec<Tree>,
}

#[derive(Debug, Deserialize)]
struct Tree {
    image: String,
    stripe: usize,
    nodes: Vec<Standing>,
}

#[derive(Debug, Deserialize)]
struct Standing {
    node: String,
    parent: Option<String>,
    children: Vec<String>,
    level: u32,
}

/// What the trees of one image look like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Levels of the deepest.
    pub(super) levels: u32,
}

/// Compares the trees of an image with what its agents were told last.
pub(super) fn trees(control: &Control, crowd: &Crowd, of: u8) -> Result<Shape> {
    let shown: Trees = serde_json::from_slice(&control.get("/api/v1/trees")?)?;
    let wanted = image(of);
    let told: BTreeMap<u32, _> = crowd
        .present()
        .filter_map(|agent| Some((agent, &crowd.places.get(&(of, agent))?.parents)))
        .collect();
    let mut shape = Shape { levels: 0 };
    let trees: Vec<_> = shown.trees.iter().filter(|tree| tree.image == wanted).collect();
    ensure!(trees.len() == 2, "{} trees instead of 2", trees.len());
    for tree in trees {
        let stripe = tree.stripe;
        ensure!(
            tree.nodes.len() == told.len(),
            "tree {stripe} holds {} of {} agents",
            tree.nodes.len(),
            told.len()
        );
        let mut above: HashSet<&str> = HashSet::new();
        for standing in &tree.nodes {
            let Standing { node, parent, children, level } = standing;
            let parents = told.get(&number(node)?);
            let parents = parents.with_context(|| format!("{node} should not be there"))?;
            let parent_told = *parents.get(stripe).context("a place in both trees")?;
            let parent_shown = parent.as_deref().map(number).transpose()?;
            ensure!(
                parent_told == parent_shown,
                "{node} was told {parent_told:?} and stands below {parent_shown:?}"
            );
            // Level by level: nobody stands before the parent, so there is no ring.
            let stands = parent.as_deref().is_none_or(|parent| above.contains(parent));
            ensure!(stands, "{node} stands above its parent");
            ensure!(children.len() <= CHILDREN_MAX, "{node} has {} children", children.len());
            ensure!(above.insert(node), "{node} stands twice in tree {stripe}");
            shape.levels = shape.levels.max(level + 1);
        }
    }
    Ok(shape)
}
