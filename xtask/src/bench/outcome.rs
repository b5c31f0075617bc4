//! How one run went, as the raw lines of all benches say it; what was run is not known here.

use anyhow::Error;
use serde::{Deserialize, Serialize};

use super::report::Common;
use super::watch::Spent;

/// A variant that has failed so often in a bench is not tried again.
pub(super) const FAILURES_MAX: usize = 2;
/// How the reason begins of what was dropped because it failed.
const FAILED: &str = "failed: ";

/// What a run has cost, and whether it counts.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Outcome {
    /// Why it does not count: it was disturbed, or it failed.
    pub(super) dropped: Option<String>,
    /// By the registry, which is the first host.
    pub(super) origin_sent_bytes: u64,
    pub(super) machine_cpu_s: f64,
    pub(super) cpu_share: f64,
    pub(super) foreign_share: f64,
    pub(super) stolen_share: f64,
}

impl Outcome {
    /// Of a run that came to its end.
    pub(super) fn of(spent: &Spent, common: &Common) -> Self {
        Self {
            dropped: common.disturbed(spent.foreign_share, spent.stolen_share),
            origin_sent_bytes: spent.passed.first().map_or(0, |passed| passed.sent_bytes),
            machine_cpu_s: spent.busy_s,
            cpu_share: spent.busy_share,
            foreign_share: spent.foreign_share,
            stolen_share: spent.stolen_share,
        }
    }

    /// Of one that came to none, or to a wrong one.
    pub(super) fn failed(error: &Error) -> Self {
        Self { dropped: Some(format!("{FAILED}{error:#}")), ..Self::default() }
    }

    /// Whether it counts.
    pub(super) fn is_kept(&self) -> bool {
        self.dropped.is_none()
    }

    /// Whether it was dropped because it failed.
    pub(super) fn has_failed(&self) -> bool {
        self.dropped.as_ref().is_some_and(|why| why.starts_with(FAILED))
    }
}

/// A cell that says how many runs were dropped: disturbed, and failed.
pub(super) fn dropped_cell(disturbed: usize, failed: usize) -> String {
    match failed {
        0 => disturbed.to_string(),
        failed => format!("{disturbed}, {failed} failed"),
    }
}
