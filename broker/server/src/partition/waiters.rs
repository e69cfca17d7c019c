//! Who waits for bytes or for commitment. Woken once for each advance, never polled.

use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};
use varve_log::Offset;

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// In the leader's log (`acks=1`).
    Written,
    /// Below the high watermark (`acks=all`).
    Committed,
}

/// The log died before the goal was reached; whether the records are there is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogDead;

/// Resolves when the goal is reached.
pub(crate) type Settled = oneshot::Receiver<Result<(), LogDead>>;

/// A partition's waiters. Offsets are given out in order, so each queue is sorted by itself.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    written: VecDeque<Waiting>,
    committed: VecDeque<Waiting>,
    fetches: Vec<Arc<Notify>>,
    /// Fetches of followers: they want what is written, committed or not.
    copies: Vec<Arc<Notify>>,
}

#[derive(Debug)]
struct Waiting {
    until: Offset,
    done: oneshot::Sender<Result<(), LogDead>>,
}

impl Waiters {
    /// Waits until every offset below `until` has reached the goal.
    pub(crate) fn park(&mut self, goal: Goal, until: Offset) -> Settled {
        let (done, settled) = oneshot::channel();
        let queue = match goal {
            Goal::Written => &mut self.written,
            Goal::Committed => &mut self.committed,
        };
        // A duplicate waits for an offset given out earlier; it takes its place in the order.
        let place = queue.partition_point(|waiting| waiting.until <= until);
        queue.insert(place, Waiting { until, done });
        settled
    }

    /// Wakes a fetch at the next advance, once.
    pub(crate) fn watch(&mut self, fetch: &Arc<Notify>) {
        self.fetches.push(Arc::clone(fetch));
    }

    /// Takes back [`Self::watch`].
    pub(crate) fn unwatch(&mut self, fetch: &Arc<Notify>) {
        self.fetches.retain(|other| !Arc::ptr_eq(other, fetch));
    }

    /// Wakes a follower's fetch at the next write, once.
    pub(crate) fn watch_copy(&mut self, fetch: &Arc<Notify>) {
        self.copies.push(Arc::clone(fetch));
    }

    /// Takes back [`Self::watch_copy`].
    pub(crate) fn unwatch_copy(&mut self, fetch: &Arc<Notify>) {
        self.copies.retain(|other| !Arc::ptr_eq(other, fetch));
    }

    /// There is more to copy.
    pub(crate) fn wake_copies(&mut self) {
        for fetch in self.copies.drain(..) {
            fetch.notify_one();
        }
    }

    /// Releases whoever waited for less than these.
    pub(crate) fn release(&mut self, written_end: Offset, high_watermark: Offset) {
        release(&mut self.written, written_end);
        release(&mut self.committed, high_watermark);
    }

    /// Something readers can see has moved.
    pub(crate) fn wake_fetches(&mut self) {
        for fetch in self.fetches.drain(..) {
            fetch.notify_one();
        }
    }

    /// Nobody's goal will be reached any more.
    pub(crate) fn fail(&mut self) {
        for waiting in self.written.drain(..).chain(self.committed.drain(..)) {
            // A receiver that is gone has given up waiting.
            let _ = waiting.done.send(Err(LogDead));
        }
        self.wake_fetches();
        self.wake_copies();
    }
}

fn release(queue: &mut VecDeque<Waiting>, reached: Offset) {
    while queue.front().is_some_and(|waiting| waiting.until <= reached) {
        if let Some(waiting) = queue.pop_front() {
            let _ = waiting.done.send(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goal_is_released_by_its_own_mark() {
        let mut waiters = Waiters::default();
        let mut written = waiters.park(Goal::Written, Offset::new(5));
        let mut committed = waiters.park(Goal::Committed, Offset::new(5));

        waiters.release(Offset::new(5), Offset::new(4));

        assert_eq!(written.try_recv(), Ok(Ok(())));
        assert!(committed.try_recv().is_err());
    }

    #[test]
    fn a_dead_log_fails_everyone() {
        let mut waiters = Waiters::default();
        let mut committed = waiters.park(Goal::Committed, Offset::new(9));
        waiters.fail();
        assert_eq!(committed.try_recv(), Ok(Err(LogDead)));
    }
}
