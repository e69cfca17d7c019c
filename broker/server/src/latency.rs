//! How long requests take, counted in buckets: two additions for a request, nothing else on its way.

use crate::wire::Api;
use crate::wire::versions::SERVED;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper ends of the buckets, in microseconds: from what an answer out of memory takes to what clients give up after.
const BOUNDS: [u64; 17] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// See the module's first line.
#[derive(Debug)]
pub(crate) struct Latency {
    by_api: [Counts; SERVED.len()],
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            by_api: std::array::from_fn(|_| Counts::default()),
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

/// What was counted of one API.
#[derive(Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) api: Api,
    pub(crate) seconds: f64,
    pub(crate) count: u64,
    /// Upper end in seconds, and how many are in this bucket alone; the last has no end.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Latency {
    /// A request was answered.
    pub(crate) fn observe(&self, api: Api, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let counts = &self.by_api[api.place()];
        counts.buckets[BOUNDS.partition_point(|bound| *bound < micros)].fetch_add(1, Relaxed);
        counts.micros.fetch_add(micros, Relaxed);
    }

    /// Those APIs that were asked for.
    pub(crate) fn times(&self) -> Vec<Times> {
        let times = SERVED.iter().zip(&self.by_api).map(|(served, counts)| {
            let ends = BOUNDS.iter().map(|micros| seconds(*micros)).chain([f64::MAX]);
            let buckets: Vec<_> = ends
                .zip(counts.buckets.iter().map(|bucket| bucket.load(Relaxed)))
                .collect();
            Times {
                api: served.api,
                seconds: seconds(counts.micros.load(Relaxed)),
                count: buckets.iter().map(|(_, count)| count).sum(),
                buckets,
            }
        });
        times.filter(|times| times.count > 0).collect()
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_where_it_belongs() {
        let latency = Latency::default();
        for micros in [1, 100, 101, 5_000, 40_000_000] {
            latency.observe(Api::Fetch, Duration::from_micros(micros));
        }

        let times = latency.times();

        let [fetch] = &times[..] else {
            panic!("only fetches were asked for: {times:?}")
        };
        assert_eq!((fetch.api, fetch.count), (Api::Fetch, 5));
        let filled: Vec<_> = fetch.buckets.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [&(0.0001, 2), &(0.00025, 1), &(0.005, 1), &(f64::MAX, 1)]);
        assert!((fetch.seconds - 40.005_202).abs() < 1e-9);
    }
}
