//! One `xylem pull --json` on a host: its progress while it runs, its outcome; judges nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::lab::Lab;
use crate::run;

/// A line that the command prints.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    Progress { done_bytes: u64, total_bytes: u64 },
    Done(Done),
    Failed { error: String },
}

/// What a pull that went well says at its end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Done {
    /// The digest of the manifest.
    pub(crate) image: String,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// `CLOCK_MONOTONIC` when the node began.
    pub(crate) start_ns: u64,
    /// `CLOCK_MONOTONIC` when the node had everything.
    pub(crate) end_ns: u64,
}

#[derive(Debug, Default)]
struct State {
    done_bytes: u64,
    total_bytes: u64,
    outcome: Option<Result<Done, String>>,
}

/// A running pull. Dropping it kills the command; what the node fetches is the node's affair.
#[derive(Debug)]
pub(crate) struct Pull {
    /// The node that pulls.
    pub(crate) node: String,
    child: Child,
    state: Arc<Mutex<State>>,
    reader: Option<JoinHandle<()>>,
}

impl Pull {
    pub(crate) fn start(lab: &mut Lab, node: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = lab.spawn(node, &format!("pull-{node}"), command)?;
        let stdout = child.stdout.take().context("a piped stdout")?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                note(&mut lock(&shared), &line);
            }
        });
        Ok(Self { node: node.to_owned(), child, state, reader: Some(reader) })
    }

    /// Bytes that are there and bytes in all; zero in all while the manifest is on its way.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.done_bytes, state.total_bytes)
    }

    /// The outcome, once there is one.
    pub(crate) fn outcome(&mut self) -> Result<Option<Done>> {
        if let Some(status) = self.child.try_wait()? {
            // All of its lines count, also those that were still in the pipe.
            if let Some(reader) = self.reader.take() {
                let _ = reader.join();
            }
            let outcome = lock(&self.state).outcome.clone();
            return match outcome {
                Some(Ok(done)) if status.success() => Ok(Some(done)),
                Some(Err(error)) => bail!("the pull on {} failed: {error}", self.node),
                _ => bail!("the pull on {} ended without a result ({status})", self.node),
            };
        }
        Ok(None)
    }

    /// Waits for the outcome.
    pub(crate) fn wait(&mut self, bound: Duration) -> Result<Done> {
        let what = format!("the pull on {}", self.node);
        run::wait_for(&what, bound, || self.outcome())
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn note(state: &mut State, line: &str) {
    match serde_json::from_str(line) {
        Ok(Event::Progress { done_bytes, total_bytes }) => {
            (state.done_bytes, state.total_bytes) = (done_bytes, total_bytes);
        }
        Ok(Event::Done(done)) => {
            state.done_bytes = state.total_bytes;
            state.outcome = Some(Ok(done));
        }
        Ok(Event::Failed { error }) => state.outcome = Some(Err(error)),
        Err(error) => state.outcome = Some(Err(format!("cannot read `{line}`: {error}"))),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing in here panics while it holds the lock in a half-done state.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_progress_and_outcome() {
        let mut state = State::default();
        note(&mut state, r#"{"event":"progress","done_bytes":3,"total_bytes":9}"#);
        assert_eq!((state.done_bytes, state.total_bytes), (3, 9));
        note(
            &mut state,
            r#"{"event":"done","image":"sha256:aa","bytes":9,"seconds":0.5,"start_ns":1,"end_ns":2,
                "verified":true}"#,
        );
        assert_eq!(state.outcome.clone().unwrap().unwrap().image, "sha256:aa");
        note(&mut state, r#"{"event":"failed","error":"why"}"#);
        assert_eq!(state.outcome.clone().unwrap().unwrap_err(), "why");
        note(&mut state, "nonsense");
        assert!(state.outcome.unwrap().unwrap_err().contains("cannot read"));
    }
}
