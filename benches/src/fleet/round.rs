//! One round with one control process, from nothing to the loss of a third.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use xylem_protocol::pb::control_message::Kind as Said;

use super::agent::{What, image};
use super::check;
use super::crowd::{Crowd, FIRST, PATIENCE, SECOND};
use super::process::Control;
use crate::harness::machine::Window;

/// How long the steady state is watched.
const STEADY: Duration = Duration::from_secs(5);
/// The same in a quick run.
const STEADY_QUICK: Duration = Duration::from_secs(2);
/// Agents that ask one after the other, at most, and at most one in so many.
const ASKING_MAX: u32 = 500;
/// See [`ASKING_MAX`].
const ASKING_SHARE: u32 = 4;
/// How long nothing must have been heard before the trees are compared: messages are on their way.
const QUIET: Duration = Duration::from_millis(300);

/// How agents are connected.
#[derive(Clone, Copy, Debug)]
pub(super) enum Streams {
    /// Each by a connection of its own, as daemons are.
    Own,
    /// A hundred on each connection.
    Shared,
}

impl Streams {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Own => "own connections",
            Self::Shared => "shared connections",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) nodes: u32,
    pub(super) streams: Streams,
    pub(super) core: u32,
    pub(super) quick: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// From nothing until all have a place, s, and control's CPU time in it.
    pub(super) burst_s: f64,
    pub(super) burst_cpu_s: f64,
    /// Resident memory per agent that is attached and in one image, KiB.
    pub(super) node_kib: f64,
    /// Places per second when all ask for a further image at once, and CPU time of each, µs.
    pub(super) joins_per_s: f64,
    pub(super) join_cpu_us: f64,
    /// From one wish to its answer, while nobody else asks, ms; one for each that was asked.
    #[serde(skip)]
    pub(super) answers_ms: Vec<f64>,
    /// Share of the core while there are but heartbeats, and with hop reports.
    pub(super) beats_cpu: f64,
    pub(super) reports_cpu: f64,
    /// From a slow link to the word to the last of its children, s.
    pub(super) slow_s: f64,
    /// From the loss of a third to the word to the last of the others, s, and CPU time in it.
    pub(super) loss_s: f64,
    pub(super) loss_cpu_s: f64,
    /// Share of the CPUs that went to other processes during the round.
    pub(super) foreign: f64,
    /// Levels of the deepest tree.
    pub(super) levels: u32,
}

/// Runs it.
pub(super) async fn run(program: &Path, plan: Plan) -> Result<Figures> {
    let control = Control::start(program, plan.core)?;
    let mut crowd = Crowd::new(plan.nodes);
    let nodes = f64::from(plan.nodes);
    let machine = Window::open()?;

    let empty_bytes = control.rss_bytes()?;
    let (start, cpu) = (Instant::now(), control.cpu()?);
    crowd.start(&control, plan.streams).await?;
    let placed = crowd.placed(FIRST, plan.nodes as usize).await?;
    let burst_s = last(&placed, start)?;
    let burst_cpu_s = (control.cpu()? - cpu).as_secs_f64();
    let levels = settled(&control, &mut crowd, FIRST).await?;
    let node_kib = kib(control.rss_bytes()?.saturating_sub(empty_bytes)) / nodes;

    let asking = (plan.nodes / ASKING_SHARE).min(ASKING_MAX);
    let many = plan.nodes - asking;
    let (start, cpu) = (Instant::now(), control.cpu()?);
    for agent in asking..plan.nodes {
        crowd.join_second(agent)?;
    }
    let placed = crowd.placed(SECOND, many as usize).await?;
    let joins_per_s = f64::from(many) / last(&placed, start)?;
    let join_cpu_us = (control.cpu()? - cpu).as_secs_f64() * 1e6 / f64::from(many);
    quiet(&mut crowd).await?;

    let mut answers_ms = Vec::new();
    for agent in 0..asking {
        let asked = Instant::now();
        crowd.join_second(agent)?;
        let answered = crowd.answer(agent).await?;
        answers_ms.push(seconds(answered - asked) * 1e3);
    }
    settled(&control, &mut crowd, SECOND).await?;

    let steady = if plan.quick { STEADY_QUICK } else { STEADY };
    let beats_cpu = share(&control, &mut crowd, steady).await?;
    crowd.reporting = true;
    let reports_cpu = share(&control, &mut crowd, steady).await?;
    let slow_s = slow(&mut crowd).await?;
    crowd.reporting = false;
    settled(&control, &mut crowd, FIRST).await?;

    let cpu = control.cpu()?;
    let loss_s = loss(&control, &mut crowd).await?;
    let loss_cpu_s = (control.cpu()? - cpu).as_secs_f64();
    Ok(Figures {
        burst_s,
        burst_cpu_s,
        node_kib,
        joins_per_s,
        join_cpu_us,
        answers_ms,
        beats_cpu,
        reports_cpu,
        slow_s,
        loss_s,
        loss_cpu_s,
        foreign: machine.close()?.foreign,
        levels,
    })
}

/// When the last of them came.
fn last(placed: &[(u32, Instant)], start: Instant) -> Result<f64> {
    let (_, at) = placed.last().context("nobody was placed")?;
    Ok(seconds(at.saturating_duration_since(start)))
}

/// Waits until nobody hears anything any more.
async fn quiet(crowd: &mut Crowd) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while crowd.next(Instant::now() + QUIET).await?.is_some() {
        ensure!(Instant::now() < deadline, "control does not become quiet");
    }
    Ok(())
}

/// Control's share of a core over a while.
async fn share(control: &Control, crowd: &mut Crowd, span: Duration) -> Result<f64> {
    let (start, cpu) = (Instant::now(), control.cpu()?);
    crowd.rest(span).await?;
    Ok(seconds(control.cpu()? - cpu) / seconds(start.elapsed()))
}

/// Makes a node slow that has children and a parent, and waits until it has none any more.
async fn slow(crowd: &mut Crowd) -> Result<f64> {
    let inner = |agent: &u32| {
        let place = crowd.places.get(&(FIRST, *agent));
        let is_root = place.is_none_or(|place| place.parents.contains(&None));
        !is_root && crowd.children(*agent).len() >= 2
    };
    let node = crowd.present().find(inner).context("no node has a parent and two children")?;
    let start = Instant::now();
    crowd.hops.make_slow(node, start);
    let mut last = start;
    while !crowd.children(node).is_empty() {
        let heard = crowd.next(start + PATIENCE).await?;
        last = heard.context("control does not see that a link is slow")?.at;
    }
    Ok(seconds(last - start))
}

/// Breaks the streams of every third, and waits until the others were told that.
async fn loss(control: &Control, crowd: &mut Crowd) -> Result<f64> {
    let start = Instant::now();
    for agent in (0..crowd.count()).step_by(3) {
        crowd.agents[agent as usize] = None;
    }
    let left = crowd.present().count() as u64;
    let mut last = start;
    // The rest may be told until control holds nobody else and all has been heard.
    while control.metric("xylem_control_places")? != 2 * left {
        ensure!(start.elapsed() < PATIENCE, "control keeps those who are gone");
        while let Some(heard) = crowd.next(Instant::now() + QUIET / 10).await? {
            last = heard.at;
        }
    }
    while let Some(heard) = crowd.next(Instant::now() + QUIET).await? {
        last = heard.at;
    }
    for of in [FIRST, SECOND] {
        settled(control, crowd, of).await.with_context(|| format!("image {of}, a third lost"))?;
    }
    Ok(seconds(last - start))
}

/// Compares an image's trees with what agents were told last, until both are the same: while one
/// asks, the other may change once more. The levels of the deeper tree.
async fn settled(control: &Control, crowd: &mut Crowd, of: u8) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        quiet(crowd).await?;
        match check::trees(control, crowd, of) {
            Ok(shape) => return Ok(shape.levels),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}

impl Crowd {
    /// Waits for the next word to one agent on the second image.
    async fn answer(&mut self, agent: u32) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        let wanted = image(SECOND);
        loop {
            let heard = self.next(deadline).await?.context("a wish was not answered")?;
            if let What::Said(Said::Assignment(place)) = &heard.what
                && heard.agent == agent
                && place.image == wanted
            {
                return Ok(heard.at);
            }
        }
    }
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "memory of one process, far below 2^53")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}
