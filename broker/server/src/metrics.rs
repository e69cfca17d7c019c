//! What the broker counts, and how it is told: one table of metrics, read by `/metrics` and by
//! `docs/metrics.md`. Names that Kafka dashboards know are kept (jmx_exporter's spelling); ours start with `varve_`.

use crate::latency::Latency;
use crate::wire::Api;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Counters the data plane moves; everything else is looked up when asked.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) records_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out_local: AtomicU64,
    pub(crate) bytes_out_tier: AtomicU64,
    pub(crate) copied_in: AtomicU64,
    pub(crate) copied_out: AtomicU64,
    pub(crate) fetches: AtomicU64,
    pub(crate) produces: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) connections_opened: AtomicU64,
    pub(crate) latency: Latency,
    connections: Arc<AtomicI64>,
}

/// One open connection; counts itself out when dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    /// Counted from 0 since the start: no two connections share one.
    pub(crate) number: u64,
    open: Arc<AtomicI64>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    /// A request has been read.
    pub(crate) fn request(&self, api: Api) {
        self.requests.fetch_add(1, Relaxed);
        match api {
            Api::Produce => self.produces.fetch_add(1, Relaxed),
            Api::Fetch => self.fetches.fetch_add(1, Relaxed),
            _ => return,
        };
    }

    /// A batch has been appended.
    pub(crate) fn produced(&self, bytes: usize, records: i32) {
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.records_in
            .fetch_add(u64::try_from(records).unwrap_or(0), Relaxed);
    }

    /// Record bytes have been answered, by where they came from.
    pub(crate) fn fetched(&self, local: usize, tier: usize) {
        self.bytes_out_local.fetch_add(local as u64, Relaxed);
        self.bytes_out_tier.fetch_add(tier as u64, Relaxed);
    }

    /// Record bytes have come from a leader.
    pub(crate) fn copied_in(&self, bytes: usize) {
        self.copied_in.fetch_add(bytes as u64, Relaxed);
    }

    /// Record bytes go to a follower.
    pub(crate) fn copied_out(&self, bytes: usize) {
        self.copied_out.fetch_add(bytes as u64, Relaxed);
    }

    /// A connection has been accepted.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.fetch_add(1, Relaxed);
        OpenConnection {
            number: self.connections_opened.fetch_add(1, Relaxed),
            open: Arc::clone(&self.connections),
        }
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> i64 {
        self.connections.load(Relaxed)
    }
}
