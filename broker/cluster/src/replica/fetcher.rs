//! All partitions that one broker follows at another, in one request after the other.
//!
//! A request names partitions in turn; the leader fills its answer in that order until the bytes are used up. Who
//! had its turn goes to the back of the queue, so that a partition with much to copy cannot starve one with little. A
//! partition that cannot go on backs off alone, twice as long each time. Bytes, and partitions per request, are
//! bounded. At most one request is out.

use std::collections::{BTreeMap, VecDeque};

/// Bounds; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `replica.fetch.response.max.bytes`.
    pub response_bytes: usize,
    /// `replica.fetch.max.bytes`: of one partition.
    pub partition_bytes: usize,
    /// Partitions in one request.
    pub partitions: usize,
    /// `replica.fetch.backoff.ms`: after a partition's first failure.
    pub backoff_ms: i64,
    pub backoff_max_ms: i64,
}

/// The next request: these partitions, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPlan<K> {
    pub partitions: Vec<K>,
    pub response_bytes: usize,
    pub partition_bytes: usize,
}

/// What a partition's part of an answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It got something, or is where the leader is.
    Took,
    /// The answer was full before its turn.
    Passed,
    /// It is busy with itself (a cut, a rebuild); [`ReplicaFetcher::ready`] ends that.
    Busy,
    /// It cannot go on now.
    Failed,
}

/// The partitions one broker follows at one other; `K` names a partition.
#[derive(Debug)]
pub struct ReplicaFetcher<K> {
    limits: Limits,
    /// Whose turn is next, first.
    queue: VecDeque<K>,
    partitions: BTreeMap<K, Condition>,
    in_flight: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    busy: bool,
    failures: u32,
    not_before: Option<i64>,
}

impl<K: Clone + Ord> ReplicaFetcher<K> {
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            queue: VecDeque::new(),
            partitions: BTreeMap::new(),
            in_flight: false,
        }
    }

    /// Follows `partition` from now on, without what may have held it up before.
    pub fn add(&mut self, partition: K) {
        if self
            .partitions
            .insert(partition.clone(), Condition::default())
            .is_none()
        {
            self.queue.push_back(partition);
        }
    }

    /// Follows it no more. What an answer on its way says of it is ignored.
    pub fn remove(&mut self, partition: &K) {
        if self.partitions.remove(partition).is_some() {
            self.queue.retain(|other| other != partition);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The next request, without those that are `held`; `None` while one is out or nobody can go on. Until
    /// [`ReplicaFetcher::answered`] it is out.
    pub fn plan(&mut self, now: i64, held: impl Fn(&K) -> bool) -> Option<FetchPlan<K>> {
        if self.in_flight {
            return None;
        }
        let can_go = |name: &&K| {
            let condition = self.partitions.get(*name);
            condition.is_some_and(|one| !one.busy && one.not_before.is_none_or(|at| at <= now)) && !held(name)
        };
        let turn = self.queue.iter().filter(can_go).take(self.limits.partitions);
        let partitions: Vec<K> = turn.cloned().collect();
        if partitions.is_empty() {
            return None;
        }
        self.in_flight = true;
        Some(FetchPlan {
            partitions,
            response_bytes: self.limits.response_bytes,
            partition_bytes: self.limits.partition_bytes,
        })
    }

    /// The request is over: what each of its partitions came to. For a request that failed as a whole, all of them
    /// with [`Turn::Failed`].
    pub fn answered(&mut self, turns: impl IntoIterator<Item = (K, Turn)>, now: i64) {
        self.in_flight = false;
        let mut asked = Vec::new();
        for (name, turn) in turns {
            let Some(condition) = self.partitions.get_mut(&name) else {
                continue;
            };
            match turn {
                Turn::Took => {
                    *condition = Condition::default();
                    asked.push(name);
                }
                Turn::Passed => {}
                Turn::Busy => condition.busy = true,
                Turn::Failed => {
                    let doubled = self.limits.backoff_ms << condition.failures.min(16);
                    condition.failures = condition.failures.saturating_add(1);
                    condition.not_before = Some(now.saturating_add(doubled.min(self.limits.backoff_max_ms)));
                    asked.push(name);
                }
            }
        }
        self.queue.retain(|name| !asked.contains(name));
        self.queue.extend(asked);
    }

    /// It is done with itself and can go on.
    pub fn ready(&mut self, partition: &K) {
        if let Some(condition) = self.partitions.get_mut(partition) {
            condition.busy = false;
        }
    }

    /// When to ask for a plan again, if there is none now: the end of the next backoff. `None`: only when something
    /// else happens.
    #[must_use]
    pub fn next_at(&self) -> Option<i64> {
        if self.in_flight {
            return None;
        }
        let waiting = self.partitions.values().filter(|one| !one.busy);
        waiting.filter_map(|one| one.not_before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetcher(partitions: usize) -> ReplicaFetcher<u32> {
        let mut fetcher = ReplicaFetcher::new(Limits {
            response_bytes: 100,
            partition_bytes: 10,
            partitions,
            backoff_ms: 10,
            backoff_max_ms: 50,
        });
        (0..4).for_each(|name| fetcher.add(name));
        fetcher
    }

    fn planned(fetcher: &mut ReplicaFetcher<u32>, now: i64) -> Vec<u32> {
        fetcher
            .plan(now, |_| false)
            .map_or_else(Vec::new, |plan| plan.partitions)
    }

    #[test]
    fn who_had_its_turn_goes_to_the_back() {
        let mut fetcher = fetcher(10);
        assert_eq!(planned(&mut fetcher, 0), [0, 1, 2, 3]);
        assert_eq!(planned(&mut fetcher, 0), [0; 0], "one request is out");
        fetcher.answered(
            [
                (0, Turn::Took),
                (1, Turn::Passed),
                (2, Turn::Took),
                (3, Turn::Passed),
            ],
            0,
        );
        assert_eq!(planned(&mut fetcher, 0), [1, 3, 0, 2]);
    }

    #[test]
    fn nobody_starves_when_a_request_cannot_name_all() {
        let mut fetcher = fetcher(2);
        let mut seen = [0; 4];
        for _ in 0..20 {
            let turns = planned(&mut fetcher, 0);
            turns.iter().for_each(|name| seen[*name as usize] += 1);
            fetcher.answered(turns.into_iter().map(|name| (name, Turn::Took)), 0);
        }
        assert_eq!(seen, [10; 4]);
    }

    #[test]
    fn a_failing_partition_backs_off_alone_and_ever_longer() {
        let mut fetcher = fetcher(10);
        let mut waits = Vec::new();
        let mut now = 0;
        for _ in 0..5 {
            assert!(planned(&mut fetcher, now).contains(&2));
            fetcher.answered([(2, Turn::Failed)], now);
            assert_eq!(planned(&mut fetcher, now).len(), 3);
            fetcher.answered([], now);
            let next = fetcher.next_at().unwrap();
            waits.push(next - now);
            now = next;
        }
        assert_eq!(waits, [10, 20, 40, 50, 50]);
        planned(&mut fetcher, now);
        fetcher.answered([(2, Turn::Took)], now);
        assert_eq!(fetcher.next_at(), None);
    }

    #[test]
    fn who_is_held_keeps_its_place_and_holds_up_nobody() {
        let mut fetcher = fetcher(2);
        let plan = fetcher.plan(0, |name| *name < 2).unwrap();
        assert_eq!(plan.partitions, [2, 3]);
        fetcher.answered(plan.partitions.into_iter().map(|name| (name, Turn::Took)), 0);
        assert!(fetcher.plan(0, |_| true).is_none());
        assert_eq!(planned(&mut fetcher, 0), [0, 1]);
    }

    #[test]
    fn a_busy_or_removed_partition_is_not_asked_for() {
        let mut fetcher = fetcher(10);
        planned(&mut fetcher, 0);
        fetcher.remove(&1);
        fetcher.answered([(0, Turn::Busy), (1, Turn::Took)], 0);
        assert_eq!(planned(&mut fetcher, 0), [2, 3]);
        fetcher.answered([], 0);
        fetcher.ready(&0);
        assert_eq!(planned(&mut fetcher, 0), [0, 2, 3]);
    }
}
