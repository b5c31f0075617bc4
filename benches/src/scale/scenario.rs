//! What to simulate, as it is written in a file or on the command line: becomes runs, one for each
//! shape and number of nodes.

use serde::Deserialize;
use xylem_control::tree::ShapeKind;

use super::control::Shape;
use super::fate::{Churn, Failure, Late, Slow};
use super::mesh::Mesh;
use super::profile::{Named, Profile};
use super::run::{MS_NS, Run, ns};
use super::units::{Rate, Size};

/// Most nodes: what control takes.
pub const NODES_MAX: u32 = xylem_control::limits::TREE_NODES_MAX;

/// How many where nothing is said.
const NODES_USUAL: u32 = 1000;

/// A scenario. What it leaves out is as usual.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// How many nodes ask at once; one run for each number [default: 1000].
    pub nodes: Option<Vec<u32>>,
    /// How nodes get the blob from each other; one run for each.
    pub shapes: Vec<Shape>,
    /// Of the blob.
    pub size: Size,
    /// Of each node's link, both ways.
    pub rate: Rate,
    /// Of the registry's link [default: that of the nodes].
    pub registry_rate: Option<Rate>,
    /// What chance is drawn from.
    pub seed: u64,
    /// One way between two hosts, ms.
    pub delay_ms: f64,
    /// From a message to control to its answer, ms.
    pub control_ms: f64,
    /// Nodes beside those that have the blob already.
    pub warm: u32,
    /// Slower uplinks.
    pub slow: Option<Slow>,
    /// When nodes fail.
    pub failures: Vec<Failure>,
    /// Who comes in the middle.
    pub late: Vec<Late>,
    /// How nodes come and go.
    pub churn: Option<Churn>,
    /// How a mesh works.
    pub mesh: Mesh,
    /// Load over time, in place of a number of nodes.
    pub profile: Option<Named>,
    /// What its file says.
    #[serde(skip)]
    pub load: Option<Profile>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "burst".to_owned(),
            nodes: None,
            shapes: vec![Shape::Trees(ShapeKind::default())],
            size: Size(758_000_000),
            rate: Rate(125_000_000),
            registry_rate: None,
            seed: 1,
            delay_ms: 0.2,
            control_ms: 1.0,
            warm: 0,
            slow: None,
            failures: Vec::new(),
            late: Vec::new(),
            churn: None,
            mesh: Mesh::default(),
            profile: None,
            load: None,
        }
    }
}

/// A scenario that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file is no scenario; the first line says where and why.
    #[error("{0}")]
    Form(String),
    /// A number is out of its range.
    #[error("{what} must be between {min} and {max}")]
    Range {
        /// Which.
        what: &'static str,
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// The model of a mesh knows no failures.
    #[error("no node of the mesh's model comes later, fails or leaves: take it out of shapes")]
    Mesh,
    /// The profile says how many nodes there are.
    #[error("a profile says itself how many nodes there are, come and go: no nodes, churn or slow")]
    Profile,
    /// A list is empty.
    #[error("no {0} to simulate")]
    Empty(&'static str),
}

fn within(
    what: &'static str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<(), ScenarioError> {
    let (min, max) = (*range.start(), *range.end());
    if range.contains(&value) { Ok(()) } else { Err(ScenarioError::Range { what, min, max }) }
}

fn ms(ms: f64) -> u64 {
    ns(ms * MS_NS as f64)
}

impl Scenario {
    /// Reads a scenario; unknown keys are errors.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            ScenarioError::Form(format!("line {line}: {}", error.message().replace('\n', "; ")))
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Whether it can be played.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn check(&self) -> Result<(), ScenarioError> {
        let numbers = self.numbers();
        if numbers.is_empty() {
            return Err(ScenarioError::Empty("number of nodes"));
        }
        if self.shapes.is_empty() {
            return Err(ScenarioError::Empty("shape"));
        }
        for nodes in numbers {
            within("nodes", f64::from(nodes), 1.0..=f64::from(NODES_MAX))?;
        }
        within("delay_ms", self.delay_ms, 0.0..=1_000.0)?;
        within("control_ms", self.control_ms, 0.0..=10_000.0)?;
        let Mesh { piece, peers, uploads, announce_ms, tracker_ms } = self.mesh;
        within("mesh.piece in bytes", piece.0 as f64, 65_536.0..=f64::from(1 << 30))?;
        within("mesh.peers", f64::from(peers), 2.0..=1_000.0)?;
        within("mesh.uploads", f64::from(uploads), 1.0..=1_000.0)?;
        within("mesh.announce_ms", f64::from(announce_ms), 0.0..=60_000.0)?;
        within("mesh.tracker_ms", f64::from(tracker_ms), 0.0..=60_000.0)?;
        let comes = self.churn.is_some() || !self.late.is_empty();
        let changing = comes || !self.failures.is_empty() || self.profile.is_some();
        if self.shapes.contains(&Shape::Mesh) && changing {
            return Err(ScenarioError::Mesh);
        }
        if let Some(named) = &self.profile {
            within("profile.rps_per_node", named.rps_per_node, 0.001..=1e6)?;
            if self.nodes.is_some() || self.churn.is_some() || self.slow.is_some() {
                return Err(ScenarioError::Profile);
            }
        }
        self.check_fate()
    }

    fn check_fate(&self) -> Result<(), ScenarioError> {
        let nodes = self.numbers().into_iter().max().unwrap_or(0);
        within("warm", f64::from(self.warm), 0.0..=f64::from(NODES_MAX - nodes))?;
        if let Some(slow) = self.slow {
            within("slow.uplinks", f64::from(slow.uplinks), 1.0..=f64::from(nodes))?;
            within("slow.share", slow.share, 0.001..=1.0)?;
        }
        let late: u32 = self.late.iter().map(|late| late.nodes).sum();
        within("late.nodes", f64::from(late), 0.0..=f64::from(NODES_MAX - nodes - self.warm))?;
        for late in &self.late {
            within("late.at", late.at, 0.0..=1_000.0)?;
        }
        for failure in &self.failures {
            within("failures.at", failure.at, 0.0..=1_000.0)?;
            within("failures.share", failure.share, 0.0..=1.0)?;
        }
        let Some(churn) = &self.churn else { return Ok(()) };
        within("churn.per_s", churn.per_s, 0.0001..=1.0)?;
        within("churn.for_s", churn.for_s, 0.0..=3_600.0)?;
        if churn.ends.is_empty() {
            Err(ScenarioError::Empty("way for churn to end"))
        } else {
            Ok(())
        }
    }

    /// How many nodes: the most at once, where a profile says it.
    fn numbers(&self) -> Vec<u32> {
        let peak = self.load.as_ref().map(|load| vec![load.peak()]);
        peak.or_else(|| self.nodes.clone()).unwrap_or_else(|| vec![NODES_USUAL])
    }

    /// One run for each number of nodes and each shape.
    pub fn runs(&self) -> Vec<Run> {
        let numbers = self.numbers();
        let pairs = numbers.iter().flat_map(|&n| self.shapes.iter().map(move |&s| (n, s)));
        pairs.map(|(nodes, shape)| self.run(nodes, shape)).collect()
    }

    fn run(&self, nodes: u32, shape: Shape) -> Run {
        Run {
            registry_rate: self.registry_rate.unwrap_or(self.rate).0,
            seed: self.seed,
            warm: self.warm,
            slow: self.slow,
            failures: self.failures.clone(),
            late: self.late.clone(),
            churn: self.churn.clone(),
            mesh: self.mesh,
            profile: self.load.clone(),
            delay_ns: ms(self.delay_ms),
            control_ns: ms(self.control_ms),
            ..Run::new(shape, nodes, self.size.0, self.rate.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FT: Shape = Shape::Trees(ShapeKind::Ft);

    #[test]
    fn a_scenario_is_read_and_becomes_runs() {
        let text = "name = \"two\"\nnodes = [8, 64]\nshapes = [\"ft\", \"chain\"]\n\
                    size = \"1GiB\"\n\
                    rate = \"500mbit\"\nseed = 7\ndelay_ms = 0.5\n";
        let scenario = Scenario::parse(text).unwrap();
        let runs = scenario.runs();
        let pairs: Vec<_> = runs.iter().map(|run| (run.nodes, run.shape)).collect();
        assert_eq!(pairs, [(8, FT), (8, Shape::Chain), (64, FT), (64, Shape::Chain)]);
        assert!(runs.iter().all(|run| run.size == 1 << 30 && run.registry_rate == 62_500_000));
        assert!(runs.iter().all(|run| run.delay_ns == 500_000 && run.seed == 7));
    }

    #[test]
    fn what_is_no_scenario_is_refused_in_one_line() {
        for (text, why) in [
            ("nodes = [8]\nmodes = 1\n", "line 2: unknown field `modes`"),
            ("size = 12", "line 1: invalid type"),
            ("\nsize = \"12\"", "line 2: `12` is not a size"),
            ("shapes = [\"star\"]", "`star` is no shape: there are ft"),
            ("nodes = []", "no number of nodes to simulate"),
            ("nodes = [0]", "nodes must be between 1 and 16384"),
            ("delay_ms = -1.0", "delay_ms must be between 0 and 1000"),
            ("delay_ms = nan", "delay_ms must be between 0 and 1000"),
            ("nodes = [", "line 1: "),
            ("[[failures]]\nat = 1\nshare = 2\nend = \"silent\"", "failures.share must be"),
            ("[[failures]]\nat = 1\nshare = 1\nend = \"loud\"", "line 4: unknown variant `loud`"),
            ("[churn]\nper_s = 0.1\nfor_s = 9\nends = []", "no way for churn to end"),
        ] {
            let error = Scenario::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
