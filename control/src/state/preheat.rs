//! Preheats: which nodes were told to pull which image, and what has become of it. Sends nothing by
//! itself: says which node is to be told what.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use xylem_protocol::names::{Target, check_node};
use xylem_protocol::pb;

use super::roster::{Node, Phase, Roster};
use crate::api;
use crate::limits::{
    PREHEAT_ERROR_MAX, PREHEAT_NODES_MAX, PREHEAT_SILENCE_MS, PREHEATS_MAX, SELECTOR_MAX,
    SELECTOR_PARTS_MAX,
};

/// Which nodes are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All that are attached.
    All,
    /// Those of a zone.
    Zone(String),
    /// Those of these names, in which `*` stands for any letters and `?` for one.
    Names(Vec<String>),
}

/// A selector that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nodes are all, zone=ZONE, or names separated by commas, in which * and ? may stand")]
pub struct SelectorError;

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > SELECTOR_MAX as usize {
            return Err(SelectorError);
        }
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(zone) = text.strip_prefix("zone=") {
            return Ok(Self::Zone(zone.to_owned()));
        }
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        let is_name = |name: &String| check_node(&name.replace(['*', '?'], "x")).is_ok();
        let valid = names.len() <= SELECTOR_PARTS_MAX as usize && names.iter().all(is_name);
        if valid { Ok(Self::Names(names)) } else { Err(SelectorError) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Zone(zone) => write!(f, "zone={zone}"),
            Self::Names(names) => f.write_str(&names.join(",")),
        }
    }
}

impl Selector {
    fn takes(&self, node: &Node) -> bool {
        match self {
            Self::All => true,
            Self::Zone(zone) => node.zone == *zone,
            Self::Names(names) => names.iter().any(|name| fits(name, &node.name)),
        }
    }

    /// The names in it that stand for themselves.
    fn plain(&self) -> impl Iterator<Item = &String> {
        let names = if let Self::Names(names) = self { names.as_slice() } else { &[] };
        names.iter().filter(|name| !name.contains(['*', '?']))
    }
}

/// Whether a name is of a pattern's form. Goes back to the latest `*` only, so that no pattern
/// takes long.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut here) = (0, 0);
    let mut star = None;
    while here < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(&letter) if letter == b'?' || letter == name[here] => {
                at += 1;
                here += 1;
            }
            _ => {
                let Some((before, taken)) = star else { return false };
                star = Some((before, taken + 1));
                (at, here) = (before + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|&letter| letter == b'*')
}

/// An image and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// `host[:port]`, as image references name it.
    pub registry: String,
    /// Repository.
    pub name: String,
    /// Tag or digest.
    pub target: Target,
    /// `os/architecture`; none: each node's own.
    pub platforms: Vec<String>,
    /// Which nodes.
    pub nodes: Selector,
}

impl Order {
    fn is_same_image(&self, other: &Self) -> bool {
        let Self { registry, name, target, platforms, .. } = self;
        (registry, name, target, platforms)
            == (&other.registry, &other.name, &other.target, &other.platforms)
    }

    fn image(&self) -> String {
        let mark = if matches!(self.target, Target::Tag(_)) { ':' } else { '@' };
        format!("{}/{}{mark}{}", self.registry, self.name, self.target)
    }

    fn message(&self, id: u64) -> pb::Preheat {
        pb::Preheat {
            id,
            registry: self.registry.clone(),
            name: self.name.clone(),
            reference: self.target.to_string(),
            platforms: self.platforms.clone(),
        }
    }
}

/// Why there is no preheat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreheatError {
    /// Nobody is meant.
    #[error("no node that is connected is of {0}")]
    Nobody(Selector),
    /// There is no room, and nothing that is over to make some.
    #[error("too many preheats are running already; wait for one to end")]
    TooMany,
}

/// How far one node is.
#[derive(Debug)]
struct Part {
    state: api::PreheatState,
    done_bytes: u64,
    total_bytes: u64,
    images: Vec<String>,
    error: String,
    /// When it was told.
    told_ms: u64,
}

impl Part {
    fn told(now_ms: u64) -> Self {
        Self {
            state: api::PreheatState::Waiting,
            done_bytes: 0,
            total_bytes: 0,
            images: Vec::new(),
            error: String::new(),
            told_ms: now_ms,
        }
    }

    fn is_over(&self) -> bool {
        !matches!(self.state, api::PreheatState::Waiting | api::PreheatState::Running)
    }

    fn end(&mut self, state: api::PreheatState, error: String) {
        (self.state, self.error) = (state, error);
    }
}

#[derive(Debug)]
struct Preheat {
    order: Order,
    started_ms: u64,
    parts: BTreeMap<String, Part>,
}

impl Preheat {
    fn is_over(&self) -> bool {
        self.parts.values().all(Part::is_over)
    }
}

/// All preheats, the latest ones.
#[derive(Debug, Default)]
pub(super) struct Preheats {
    all: BTreeMap<u64, Preheat>,
    last: u64,
}

impl Preheats {
    /// A new preheat, or the running one of the same image for the same nodes, and who is to be
    /// told.
    pub(super) fn start(
        &mut self,
        order: Order,
        roster: &Roster,
        now_ms: u64,
    ) -> Result<(api::Preheated, Vec<String>), PreheatError> {
        let is_meant =
            |node: &&Node| matches!(node.phase, Phase::Attached(_)) && order.nodes.takes(node);
        let names: Vec<String> =
            roster.iter().filter(is_meant).map(|node| node.name.clone()).collect();
        if names.is_empty() {
            return Err(PreheatError::Nobody(order.nodes));
        }
        let mut parts: BTreeMap<String, Part> =
            names.iter().map(|name| (name.clone(), Part::told(now_ms))).collect();
        for name in order.nodes.plain() {
            parts.entry(name.clone()).or_insert_with(|| {
                let mut part = Part::told(now_ms);
                part.end(api::PreheatState::Left, "it is not connected to control".to_owned());
                part
            });
        }
        let is_same = |(_, preheat): &(&u64, &Preheat)| {
            !preheat.is_over()
                && preheat.order.is_same_image(&order)
                && preheat.parts.keys().eq(parts.keys())
        };
        let nodes = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        if let Some((&id, _)) = self.all.iter().find(is_same) {
            return Ok((api::Preheated { id, nodes, joined: true }, Vec::new()));
        }
        self.make_room(parts.len())?;
        self.last += 1;
        let id = self.last;
        self.all.insert(id, Preheat { order, started_ms: now_ms, parts });
        Ok((api::Preheated { id, nodes, joined: false }, names))
    }

    fn make_room(&mut self, nodes: usize) -> Result<(), PreheatError> {
        let held = |all: &BTreeMap<u64, Preheat>| -> usize {
            all.values().map(|preheat| preheat.parts.len()).sum()
        };
        while self.all.len() >= PREHEATS_MAX as usize
            || held(&self.all) + nodes > PREHEAT_NODES_MAX as usize
        {
            let over = self.all.iter().find(|(_, preheat)| preheat.is_over());
            let oldest = over.map(|(&id, _)| id).ok_or(PreheatError::TooMany)?;
            self.all.remove(&oldest);
        }
        Ok(())
    }

    /// What a preheat's nodes are told.
    pub(super) fn message(&self, id: u64) -> Option<pb::Preheat> {
        self.all.get(&id).map(|preheat| preheat.order.message(id))
    }

    /// A node says how far it is.
    pub(super) fn moved(&mut self, node: &str, said: pb::PreheatProgress) {
        let Some(part) = self.all.get_mut(&said.id).and_then(|all| all.parts.get_mut(node)) else {
            return;
        };
        if part.is_over() {
            return;
        }
        part.state = match said.state() {
            pb::PreheatState::Running => api::PreheatState::Running,
            pb::PreheatState::Done => api::PreheatState::Done,
            pb::PreheatState::Failed => api::PreheatState::Failed,
        };
        (part.done_bytes, part.total_bytes) = (said.done_bytes, said.total_bytes);
        (part.images, part.error) = (said.images, one_line(&said.error));
    }

    /// A node has a new stream: what it is to be told again.
    pub(super) fn attached(&mut self, node: &str, now_ms: u64) -> Vec<pb::Preheat> {
        let mut again = Vec::new();
        for (&id, preheat) in &mut self.all {
            let Some(part) = preheat.parts.get_mut(node) else { continue };
            if matches!(part.state, api::PreheatState::Waiting | api::PreheatState::Running) {
                *part = Part { images: std::mem::take(&mut part.images), ..Part::told(now_ms) };
                again.push(preheat.order.message(id));
            }
        }
        again
    }

    /// A node has gone.
    pub(super) fn left(&mut self, node: &str) {
        for preheat in self.all.values_mut() {
            if let Some(part) = preheat.parts.get_mut(node).filter(|part| !part.is_over()) {
                part.end(api::PreheatState::Left, "it left before it had all".to_owned());
            }
        }
    }

    /// Gives up nodes that were told and say nothing.
    pub(super) fn tick(&mut self, now_ms: u64) {
        for part in self.all.values_mut().flat_map(|preheat| preheat.parts.values_mut()) {
            if part.state == api::PreheatState::Waiting
                && now_ms > part.told_ms + PREHEAT_SILENCE_MS
            {
                let error = "no word from it; is its xylemd of an earlier version?".to_owned();
                part.end(api::PreheatState::Failed, error);
            }
        }
    }

    /// One preheat as the HTTP API shows it.
    pub(super) fn view(&self, id: u64, now_ms: u64) -> Option<api::Preheat> {
        let preheat = self.all.get(&id)?;
        let nodes = preheat.parts.iter().map(|(name, part)| api::PreheatNode {
            node: name.clone(),
            state: part.state,
            done_bytes: part.done_bytes,
            total_bytes: part.total_bytes,
            images: part.images.clone(),
            error: Some(part.error.clone()).filter(|error| !error.is_empty()),
        });
        let has_all = preheat.parts.values().all(|part| part.state == api::PreheatState::Done);
        let age = std::time::Duration::from_millis(now_ms.saturating_sub(preheat.started_ms));
        Some(api::Preheat {
            id,
            image: preheat.order.image(),
            platforms: preheat.order.platforms.clone(),
            selector: preheat.order.nodes.to_string(),
            state: match (preheat.is_over(), has_all) {
                (false, _) => api::PreheatState::Running,
                (true, true) => api::PreheatState::Done,
                (true, false) => api::PreheatState::Failed,
            },
            age_s: age.as_secs_f64(),
            nodes: nodes.collect(),
        })
    }
}

fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(PREHEAT_ERROR_MAX as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns() {
        for (pattern, name, expected) in [
            ("gpu-1", "gpu-1", true),
            ("gpu-1", "gpu-12", false),
            ("gpu-*", "gpu-12", true),
            ("gpu-*", "gpu-", true),
            ("*", "", true),
            ("*-1?", "a-b-12", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("?", "", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        // A pattern made to be slow is not.
        assert!(!fits(&"a*".repeat(30), &format!("{}b", "a".repeat(28))));
    }

    #[test]
    fn selectors_come_back_as_they_were_written() {
        for text in ["all", "zone=", "zone=eu 1", "n1", "n1,gpu-*,?"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        let many = vec!["n"; SELECTOR_PARTS_MAX as usize + 1].join(",");
        for bad in ["", "n1,", "a b", "a/b", &"x".repeat(5000), &many] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
