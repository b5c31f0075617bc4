//! The one place where the ring thread's samples and the kernel's counters come in and hop reports
//! go out.

use std::cell::RefCell;
use std::collections::HashMap;

use xylem_protocol::pb;

use crate::clock::monotonic_ns;
use crate::hops::{HopFigures, Hops};
use crate::link::Report;
use crate::probes::Availability;

/// What was said last of each hop over one link to control.
#[derive(Debug, Default)]
pub(super) struct Said(HashMap<(String, String, bool), pb::HopReport>);

impl Said {
    /// The reports that say something new; they are said now.
    pub(super) fn news(&mut self, reports: Vec<pb::HopReport>) -> Vec<pb::HopReport> {
        let mut news = Vec::new();
        for report in reports {
            let hop = (report.parent.clone(), report.child.clone(), report.from_child);
            if self.0.get(&hop) != Some(&report) {
                self.0.insert(hop, report.clone());
                news.push(report);
            }
        }
        news
    }
}

/// What is known of this node's hops.
#[derive(Debug)]
pub(super) struct HopFeed {
    node: String,
    hops: RefCell<Hops>,
    probes: RefCell<Availability>,
}

impl HopFeed {
    pub(super) fn new(node: &str, probes: Availability) -> Self {
        let (hops, probes) = (RefCell::new(Hops::new()), RefCell::new(probes));
        Self { node: node.to_owned(), hops, probes }
    }

    /// Takes in what the ring thread has counted.
    pub(super) fn take(&self, report: &Report) {
        let mut hops = self.hops.borrow_mut();
        for sample in &report.connections {
            hops.record(sample.clone());
        }
    }

    /// This node's ends of its hops, as the kernel has them at this moment.
    pub(super) fn figures(&self) -> Vec<HopFigures> {
        let (mut hops, mut probes) = (self.hops.borrow_mut(), self.probes.borrow_mut());
        let read = |cookie| probes.probes().and_then(|probes| probes.read(cookie));
        let done = hops.settle(monotonic_ns(), read);
        if let Availability::Attached(probes) = &mut *probes {
            for cookie in done {
                probes.forget(cookie);
            }
        }
        hops.reports(&self.node)
    }

    /// The same, as messages to control.
    pub(super) fn reports(&self) -> Vec<pb::HopReport> {
        self.figures().into_iter().map(Into::into).collect()
    }

    /// Where the kernel's figures come from, and why from there.
    pub(super) fn probes(&self) -> (&'static str, String) {
        let probes = self.probes.borrow();
        (probes.mode(), probes.reason())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_changed_is_not_said_again() {
        let report = |child: &str, relay_bytes| pb::HopReport {
            parent: "a".into(),
            child: child.into(),
            relay_bytes,
            ..pb::HopReport::default()
        };
        let mut said = Said::default();
        assert_eq!(said.news(vec![report("b", 1), report("c", 1)]).len(), 2);
        assert_eq!(said.news(vec![report("b", 1), report("c", 2)]), [report("c", 2)]);
        assert!(said.news(vec![report("b", 1), report("c", 2)]).is_empty());
    }
}
