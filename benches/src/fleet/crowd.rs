//! All agents of a round, their heartbeats and reports, and what each was told last.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout_at};
use tonic::transport::Endpoint;
use xylem_protocol::pb;
use xylem_protocol::pb::control_message::Kind as Said;
use xylem_protocol::pb::node_message::Kind;

use super::agent::{Agent, Heard, Way, What, image, join, number};
use super::hops::Hops;
use super::process::Control;
use super::round::Streams;

/// How long anything that must happen may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Streams on a shared connection: fewer than servers allow.
const SHARED: u32 = 100;
/// Agents do not all speak at once: parts of a period in which some do.
const PARTS: u32 = 20;
/// Period of heartbeats and reports, ms: what control tells a site of more than a thousand nodes.
const PERIOD_MS: u32 = 1_000;

/// The image that all ask for at once, and whose hops they report.
pub(super) const FIRST: u8 = 1;
/// The image that they ask for later.
pub(super) const SECOND: u8 = 2;

/// What an agent was told last of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: u64,
    /// In each tree; `None`: the registry.
    pub(super) parents: Vec<Option<u32>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) agents: Vec<Option<Agent>>,
    pub(super) places: HashMap<(u8, u32), Place>,
    /// Of the first image.
    children: Vec<BTreeSet<u32>>,
    pub(super) hops: Hops,
    pub(super) reporting: bool,
    /// Reports come so often in a heartbeat.
    reports_per_beat: u32,
    heard: mpsc::UnboundedReceiver<Heard>,
    tell: mpsc::UnboundedSender<Heard>,
    pulse: Interval,
    part: u32,
}

impl Crowd {
    /// Nobody yet.
    pub(super) fn new(nodes: u32) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let mut pulse = interval(Duration::from_millis(u64::from(PERIOD_MS / PARTS)));
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let count = nodes as usize;
        Self {
            agents: std::iter::repeat_with(|| None).take(count).collect(),
            places: HashMap::with_capacity(2 * count),
            children: vec![BTreeSet::new(); count],
            hops: Hops::default(),
            reporting: false,
            reports_per_beat: 1,
            heard,
            tell,
            pulse,
            part: 0,
        }
    }

    /// Starts all agents; all ask for the first image as soon as they are attached.
    pub(super) async fn start(&mut self, control: &Control, streams: Streams) -> Result<()> {
        let endpoint = Endpoint::from_shared(format!("http://{}", control.address))?;
        let endpoint = endpoint.tcp_nodelay(true);
        let mut shared = None;
        for agent in 0..self.count() {
            let way = match streams {
                Streams::Own => Way::Own(Box::new(endpoint.clone())),
                Streams::Shared if agent % SHARED == 0 => {
                    let channel = endpoint.connect().await.context("cannot connect")?;
                    Way::Shared(shared.insert(channel).clone())
                }
                Streams::Shared => Way::Shared(shared.clone().context("a connection")?),
            };
            let started = Agent::start(agent, way, FIRST, self.tell.clone())?;
            self.agents[agent as usize] = Some(started);
        }
        Ok(())
    }

    /// Asks for the second image.
    pub(super) fn join_second(&self, agent: u32) -> Result<()> {
        let agent = self.agents.get(agent as usize).and_then(Option::as_ref);
        agent.context("an agent that is gone")?.say(join(SECOND))
    }

    /// How many there were at the start.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.agents.len()).unwrap_or(u32::MAX)
    }

    /// Those who are not gone.
    pub(super) fn present(&self) -> impl Iterator<Item = u32> + use<'_> {
        let agents = (0..).zip(&self.agents);
        agents.filter(|(_, agent)| agent.is_some()).map(|(number, _)| number)
    }

    /// Who reads the first image from this one.
    pub(super) fn children(&self, agent: u32) -> &BTreeSet<u32> {
        &self.children[agent as usize]
    }

    /// The next thing that an agent hears; heartbeats go on meanwhile. `None` at the deadline.
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<Option<Heard>> {
        loop {
            let step = async {
                tokio::select! {
                    heard = self.heard.recv() => heard,
                    _ = self.pulse.tick() => None,
                }
            };
            match timeout_at(deadline.into(), step).await {
                Err(_) => return Ok(None),
                Ok(None) => self.beat()?,
                Ok(Some(heard)) => {
                    self.take(&heard)?;
                    return Ok(Some(heard));
                }
            }
        }
    }

    /// Waits for the first word on an image to each of so many agents; when each came, in the order
    /// in which they came.
    pub(super) async fn placed(&mut self, number: u8, count: usize) -> Result<Vec<(u32, Instant)>> {
        let deadline = Instant::now() + PATIENCE;
        let wanted = image(number);
        let mut first: HashMap<u32, Instant> = HashMap::with_capacity(count);
        let mut order = Vec::with_capacity(count);
        while order.len() < count {
            let heard = self.next(deadline).await?;
            let heard = heard.with_context(|| format!("{} of {count} have places", order.len()))?;
            if let What::Said(Said::Assignment(place)) = &heard.what
                && place.image == wanted
                && first.insert(heard.agent, heard.at).is_none()
            {
                order.push((heard.agent, heard.at));
            }
        }
        Ok(order)
    }

    /// Goes on for a while.
    pub(super) async fn rest(&mut self, span: Duration) -> Result<()> {
        let deadline = Instant::now() + span;
        while self.next(deadline).await?.is_some() {}
        Ok(())
    }

    fn take(&mut self, heard: &Heard) -> Result<()> {
        let agent = heard.agent;
        let said = match &heard.what {
            What::Said(said) => said,
            What::Ended(why) => bail!("the stream of agent {agent} ended: {why}"),
        };
        match said {
            Said::Assignment(place) => self.told(agent, place),
            Said::Refusal(refusal) => bail!("agent {agent} was refused: {}", refusal.reason),
            Said::Welcome(welcome) => {
                ensure!(welcome.heartbeat_ms == PERIOD_MS, "heartbeats are not of a second");
                self.reports_per_beat = (PERIOD_MS / welcome.report_ms.max(1)).max(1);
                Ok(())
            }
            Said::Preheat(_) => bail!("agent {agent} is to preheat something"),
        }
    }

    fn told(&mut self, agent: u32, said: &pb::Assignment) -> Result<()> {
        let of = [FIRST, SECOND].into_iter().find(|&number| image(number) == said.image);
        let of = of.context("a place in an image that nobody asked for")?;
        let first = |branch: &pb::Branch| branch.upstreams.first().map(|peer| number(&peer.node));
        let parents: Vec<_> =
            said.branches.iter().map(|branch| first(branch).transpose()).collect::<Result<_>>()?;
        let place = self.places.entry((of, agent)).or_default();
        ensure!(said.epoch > place.epoch, "agent {agent} was told an older place after a newer");
        if of == FIRST {
            for parent in place.parents.iter().flatten() {
                self.children[*parent as usize].remove(&agent);
            }
            for parent in parents.iter().flatten() {
                self.children[*parent as usize].insert(agent);
            }
        }
        *place = Place { epoch: said.epoch, parents };
        Ok(())
    }

    /// Some agents send what is due; each does once in a period.
    fn beat(&mut self) -> Result<()> {
        self.part = (self.part + 1) % PARTS;
        let now = Instant::now();
        for agent in 0..self.count() {
            let Some(link) = &self.agents[agent as usize] else { continue };
            if !link.is_idle() {
                continue;
            }
            if agent % PARTS == self.part {
                link.say(Kind::Heartbeat(pb::Heartbeat::default()))?;
            }
            let often = PARTS / self.reports_per_beat.min(PARTS);
            if !self.reporting || agent % often != self.part % often {
                continue;
            }
            let Some(place) = self.places.get(&(FIRST, agent)) else { continue };
            let above = place.parents.iter().map(|&parent| ((parent, agent), true));
            let below = self.children[agent as usize].iter();
            let below = below.map(|&child| ((Some(agent), child), false));
            let hops: BTreeSet<_> = above.chain(below).collect();
            let report = |(hop, from_child)| self.hops.report(hop, from_child, now);
            let reports = hops.into_iter().map(report).collect();
            link.say(Kind::Hops(pb::HopReports { reports }))?;
        }
        Ok(())
    }
}
