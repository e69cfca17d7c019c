//! Where a fetch finds its bytes: decided from the partition's offsets alone, under the lock; read outside it.

use super::Partition;
use std::sync::Arc;
use tokio::sync::Notify;
use varve_cluster::controller::TierPointer;
use varve_log::{Offset, ReadPlan};

/// What a partition's reader sees beside the records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visible {
    pub(crate) log_start: Offset,
    pub(crate) last_stable: Offset,
    pub(crate) high_watermark: Offset,
}

/// Where the bytes are.
#[derive(Debug)]
pub(crate) enum Read {
    /// On this disk.
    Local(ReadPlan),
    /// Only in the bucket.
    Tier { pointer: TierPointer, from: Offset },
    /// Nothing yet: at the end of what may be seen.
    Wait,
    /// Below the log's start or beyond its end.
    OutOfRange,
    /// The log is dead, or its committed tier state is not known yet: ask again.
    Unavailable,
}

/// A decision together with what was true when it was taken.
#[derive(Debug)]
pub(crate) struct ReadOutcome {
    pub(crate) visible: Visible,
    pub(crate) read: Read,
}

impl Partition {
    /// Plans a read of at most `bytes_max` from `from`; at least one whole batch if `at_least_one`.
    pub(crate) fn plan_read(&self, from: Offset, bytes_max: usize, at_least_one: bool) -> ReadOutcome {
        let state = self.state.lock();
        let offsets = state.offsets();
        let visible = Visible {
            log_start: offsets.log_start,
            last_stable: offsets.last_stable,
            high_watermark: offsets.high_watermark,
        };
        let read = if state.dead {
            Read::Unavailable
        } else if from < offsets.log_start || from > offsets.log_end {
            Read::OutOfRange
        } else if from >= offsets.high_watermark {
            Read::Wait
        } else if from < offsets.local_start {
            match &state.tier {
                Some(pointer) if from < pointer.end => Read::Tier {
                    pointer: pointer.clone(),
                    from,
                },
                Some(_) | None => Read::Unavailable,
            }
        } else {
            match state
                .log
                .plan_read(from, offsets.high_watermark, bytes_max, at_least_one)
            {
                Ok(Some(plan)) => Read::Local(plan),
                Ok(None) => Read::Wait,
                Err(_) => Read::Unavailable,
            }
        };
        ReadOutcome { visible, read }
    }

    /// Wakes `fetch` when there is more to see. The high watermark is looked at again under the same lock: `false`
    /// if it has already moved past `seen`, and then nothing was registered.
    pub(crate) fn watch(&self, fetch: &Arc<Notify>, seen: Offset) -> bool {
        let mut state = self.state.lock();
        if state.role.high_watermark() > seen || state.dead || state.role.leading().is_none() {
            return false;
        }
        state.waiters.watch(fetch);
        true
    }

    /// Takes [`Self::watch`] back.
    pub(crate) fn unwatch(&self, fetch: &Arc<Notify>) {
        self.state.lock().waiters.unwatch(fetch);
    }
}
