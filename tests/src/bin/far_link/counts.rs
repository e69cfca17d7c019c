//! What passed the link, by method and kind, and how many requests were on their way at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Count {
    requests: u64,
    bytes_up: u64,
    bytes_down: u64,
    /// Answers of 400 and above, and requests that got none.
    failed: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Table {
    connections: u64,
    in_flight: u64,
    in_flight_max: u64,
    /// Added up over all requests, from the head to the last byte: divided by a run's seconds, the mean in flight.
    request_seconds: f64,
    kinds: BTreeMap<String, Count>,
}

#[derive(Default)]
pub(crate) struct Counts(Mutex<Table>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connected(&self) {
        self.lock().connections += 1;
    }

    pub(crate) fn begin(&self, kind: String) -> Passage<'_> {
        let mut table = self.lock();
        table.in_flight += 1;
        table.in_flight_max = table.in_flight_max.max(table.in_flight);
        Passage {
            counts: self,
            kind,
            began: Instant::now(),
            count: Count {
                requests: 1,
                failed: 1,
                ..Count::default()
            },
        }
    }

    pub(crate) fn so_far(&self) -> Table {
        self.lock().clone()
    }

    pub(crate) fn reset(&self) -> Table {
        let mut table = self.lock();
        let fresh = Table {
            in_flight: table.in_flight,
            in_flight_max: table.in_flight,
            ..Table::default()
        };
        std::mem::replace(&mut table, fresh)
    }
}

/// A request on its way. Dropped without an end it counts as failed.
pub(crate) struct Passage<'a> {
    counts: &'a Counts,
    kind: String,
    began: Instant,
    count: Count,
}

impl Passage<'_> {
    pub(crate) fn end(mut self, status: u16, bytes_up: u64, bytes_down: u64) {
        let failed = u64::from(status == 0 || status >= 400);
        self.count = Count {
            requests: 1,
            bytes_up,
            bytes_down,
            failed,
        };
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut table = self.counts.lock();
        table.in_flight -= 1;
        table.request_seconds += self.began.elapsed().as_secs_f64();
        let count = table.kinds.entry(std::mem::take(&mut self.kind)).or_default();
        count.requests += self.count.requests;
        count.bytes_up += self.count.bytes_up;
        count.bytes_down += self.count.bytes_down;
        count.failed += self.count.failed;
    }
}
