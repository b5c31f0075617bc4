//! The way to the ring thread: messages in order, none lost, nobody blocked when its queue is full.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use crossbeam::channel::TrySendError;
use tokio::sync::Notify;

use crate::link::{Outbox, ToHot};

/// Wait before a full queue is tried again: the ring thread empties it once a turn.
const RETRY: Duration = Duration::from_millis(1);

/// The outbox, and what does not fit in at the moment. The latter is bounded by what the ring
/// thread has asked for: one answer for each of its pending requests and flows.
#[derive(Debug)]
pub(super) struct Post {
    outbox: Outbox<ToHot>,
    backlog: RefCell<VecDeque<ToHot>>,
    waiting: Notify,
    gone: Cell<bool>,
}

impl Post {
    pub(super) fn new(outbox: Outbox<ToHot>) -> Self {
        let backlog = RefCell::new(VecDeque::new());
        Self { outbox, backlog, waiting: Notify::new(), gone: Cell::new(false) }
    }

    /// Sends, now or as soon as there is room. When the ring thread is gone nobody waits for it.
    pub(super) fn send(&self, message: ToHot) {
        let mut backlog = self.backlog.borrow_mut();
        backlog.push_back(message);
        self.flush(&mut backlog);
        if !backlog.is_empty() {
            self.waiting.notify_one();
        }
    }

    fn flush(&self, backlog: &mut VecDeque<ToHot>) {
        while let Some(message) = backlog.pop_front() {
            match self.outbox.send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    backlog.push_front(message);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.gone.set(true);
                    backlog.clear();
                }
            }
        }
    }

    /// Carries the backlog over; runs for as long as the agent.
    pub(super) async fn pump(&self) {
        loop {
            if self.backlog.borrow().is_empty() {
                self.waiting.notified().await;
            }
            self.flush(&mut self.backlog.borrow_mut());
            if !self.backlog.borrow().is_empty() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Whether everything is sent, or never will be.
    pub(super) fn is_empty(&self) -> bool {
        self.gone.get() || self.backlog.borrow().is_empty()
    }
}
