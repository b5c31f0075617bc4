//! Pulls that control asks for, and what control hears of them. The pulling is pulls.rs's; a pull
//! goes on when the link to control breaks, and control asks again when it is back.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::info;
use xylem_protocol::limits::{PLATFORMS_MAX, PREHEAT_REPORT_MS, PREHEATS_MAX};
use xylem_protocol::pb;
use xylem_protocol::pb::node_message::Kind;

use super::Agent;
use super::flows::Refusal;
use super::history::Asker;
use super::pulls::PullAsk;
use crate::origin::Credentials;

/// Preheats that control is told of: the link that asked, and control's number.
#[derive(Debug, Default)]
pub(super) struct Preheats(RefCell<BTreeSet<(u64, u64)>>);

impl Agent {
    /// Control wants an image in the store.
    pub(super) fn preheat(self: &Rc<Self>, order: pb::Preheat) {
        let Some(link) = self.control.as_ref().map(|control| control.number()) else { return };
        let key = (link, order.id);
        {
            let mut preheats = self.preheats.0.borrow_mut();
            // What an earlier link asked for is over as soon as it is looked at.
            if preheats.contains(&key) {
                return;
            }
            if preheats.iter().filter(|(of, _)| *of == link).count() >= PREHEATS_MAX {
                let message = format!("{PREHEATS_MAX} preheats are running already");
                return self.say(order.id, &failed(message));
            }
            preheats.insert(key);
        }
        info!(id = order.id, name = order.name, reference = order.reference, "preheat");
        let agent = self.clone();
        tokio_uring::spawn(async move {
            agent.follow(link, order).await;
            agent.preheats.0.borrow_mut().remove(&key);
        });
    }

    /// Starts the pulls and tells how far they are until they end, or the link does.
    async fn follow(self: &Rc<Self>, link: u64, order: pb::Preheat) {
        let id = order.id;
        let pulls = match self.start_all(order) {
            Ok(pulls) => pulls,
            Err(refusal) => return self.say(id, &failed(refusal.message)),
        };
        let mut ticks = interval(Duration::from_millis(PREHEAT_REPORT_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            ticks.tick().await;
            if self.control.as_ref().is_none_or(|control| control.number() != link) {
                return;
            }
            let progress = self.progress(&pulls);
            if told.as_ref() != Some(&progress) {
                self.say(id, &progress);
            }
            if progress.state() != pb::PreheatState::Running {
                return;
            }
            told = Some(progress);
        }
    }

    /// One pull for each platform; running ones of the same image are joined.
    fn start_all(self: &Rc<Self>, order: pb::Preheat) -> Result<Vec<u64>, Refusal> {
        let pb::Preheat { registry, name, reference, platforms, .. } = order;
        if platforms.len() > PLATFORMS_MAX {
            let message = format!("{} platforms, at most {PLATFORMS_MAX}", platforms.len());
            return Err(Refusal::new(400, "UNSUPPORTED", message));
        }
        let mut wanted: Vec<Option<String>> = platforms.into_iter().map(Some).collect();
        if wanted.is_empty() {
            wanted.push(None);
        }
        let start = |platform| {
            let (registry, name, reference) = (registry.clone(), name.clone(), reference.clone());
            let ask = PullAsk { name, reference, registry, platform };
            self.start_pull(ask, Credentials::Node, Asker::Preheat)
        };
        wanted.into_iter().map(start).collect()
    }

    /// How far some pulls are together.
    fn progress(&self, pulls: &[u64]) -> pb::PreheatProgress {
        let mut sum = pb::PreheatProgress::default();
        let mut running = false;
        for &id in pulls {
            let Some(pull) = self.pull_json(id) else {
                return failed("too many other pulls have come since".to_owned());
            };
            sum.done_bytes += pull.done_bytes;
            sum.total_bytes += pull.total_bytes;
            sum.images.extend(pull.image);
            running |= pull.state == "running";
            if let Some(error) = pull.error.filter(|_| sum.error.is_empty()) {
                sum.error = error;
            }
        }
        sum.set_state(match (running, sum.error.is_empty()) {
            (true, _) => pb::PreheatState::Running,
            (false, true) => pb::PreheatState::Done,
            (false, false) => pb::PreheatState::Failed,
        });
        sum
    }

    fn say(&self, id: u64, progress: &pb::PreheatProgress) {
        if let Some(control) = &self.control {
            control.send(Kind::Preheat(pb::PreheatProgress { id, ..progress.clone() }));
        }
    }
}

fn failed(error: String) -> pb::PreheatProgress {
    let state = pb::PreheatState::Failed.into();
    pb::PreheatProgress { state, error, ..Default::default() }
}
