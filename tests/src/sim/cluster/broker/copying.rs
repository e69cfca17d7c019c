//! Copying: what a leader gives to followers, and how a broker follows; one request at a time to each leader, and the way
//! of a replica out of the bucket.

use std::collections::BTreeMap;

use bytes::Bytes;
use varve_cluster::BrokerId;
use varve_cluster::replica::fetcher::{Limits, Turn};
use varve_cluster::replica::{Answer, Ask, Durability, Rebuild, Refusal, ReplicaFetcher};
use varve_log::{Offset, Seed};

use super::{Broker, FETCH_PATIENCE_MS, FETCH_WAIT_MS, Fetcher, Out, PROPOSAL_PATIENCE_MS, report};
use crate::sim::cluster::bug::Bug;
use crate::sim::cluster::message::{Body, Object, broker, node};
use crate::sim::cluster::node::TOPIC;
use crate::sim::cluster::replica::Role;
use crate::sim::cluster::upload::{Restoring, object_ending, seed_from};

impl Broker {
    /// Follows what the roles say, and nothing else.
    pub(super) fn agree_with_roles(&mut self, now: i64) {
        let mut wanted: BTreeMap<BrokerId, Vec<i32>> = BTreeMap::new();
        for (index, replica) in &self.replicas {
            if let Role::Following(follower) = &replica.role {
                wanted.entry(follower.leader()).or_default().push(*index);
            }
        }
        for (leader, partitions) in &wanted {
            let limits = Limits {
                response_bytes: 1_500,
                partition_bytes: 900,
                partitions: 10,
                backoff_ms: 10,
                backoff_max_ms: 100,
            };
            let fetcher = self.fetchers.entry(*leader).or_insert_with(|| Fetcher {
                plan: ReplicaFetcher::new(limits),
                out: None,
                settles: None,
                not_before: now,
            });
            for partition in partitions {
                fetcher.plan.add(*partition);
                fetcher.not_before = now;
            }
        }
        for (leader, fetcher) in &mut self.fetchers {
            for index in 0..self.setup.partitions {
                if !wanted.get(leader).is_some_and(|those| those.contains(&index)) {
                    fetcher.plan.remove(&index);
                }
            }
        }
        let replicas = &self.replicas;
        self.restoring.retain(|index, _| {
            replicas
                .get(index)
                .is_some_and(|replica| replica.rebuild.is_some())
        });
    }

    pub(super) fn serve(
        &mut self,
        now: i64,
        from: usize,
        (number, asks): (u64, Vec<(i32, Ask)>),
        out: &mut Out,
    ) {
        let mut answers = vec![];
        for (index, ask) in asks {
            let max = 1 + self.chance.index(1_200);
            let answer = match self.replicas.get_mut(&index) {
                Some(replica) => replica.serve(&ask, max, now),
                None => Answer::Refused(Refusal::NotLeader),
            };
            self.advance(index, out);
            answers.push((index, ask, answer));
        }
        self.send(from, Body::Fetched { number, answers }, out);
    }

    pub(super) fn copy(&mut self, now: i64, out: &mut Out) {
        let leaders: Vec<BrokerId> = self.fetchers.keys().copied().collect();
        for leader in leaders {
            self.finish_fetch(now, leader, out);
            let Some(fetcher) = self.fetchers.get_mut(&leader) else {
                continue;
            };
            if fetcher.settles.is_some() || now < fetcher.not_before {
                continue;
            }
            fetcher.not_before = now + FETCH_WAIT_MS;
            let Some(plan) = fetcher.plan.plan(now, |_| false) else {
                continue;
            };
            let asks = self.questions(now, &plan.partitions, out);
            let number = self.number();
            let failed = asks.is_empty();
            if !failed {
                self.send(node(leader), Body::Fetch { number, asks }, out);
            }
            let Some(fetcher) = self.fetchers.get_mut(&leader) else {
                continue;
            };
            if failed {
                let turns = plan.partitions.into_iter().map(|index| (index, Turn::Failed));
                fetcher.plan.answered(turns, now);
            } else {
                fetcher.out = Some((number, plan.partitions, now + FETCH_PATIENCE_MS));
            }
        }
        self.go_on_restoring(now, out);
    }

    pub(super) fn questions(&mut self, now: i64, partitions: &[i32], out: &mut Out) -> Vec<(i32, Ask)> {
        let mut asks = vec![];
        for index in partitions {
            let Some(replica) = self.replicas.get_mut(index) else {
                continue;
            };
            let prepare = replica.prepare();
            if let Some(rebuild) = replica.rebuild.or(prepare) {
                self.restore(now, *index, rebuild, out);
            } else if let Some((_, ask)) = replica.ask() {
                asks.push((*index, ask));
            }
        }
        asks
    }

    /// A request is given up when nothing came; an answer has been dealt with when it is on the disk.
    pub(super) fn finish_fetch(&mut self, now: i64, leader: BrokerId, out: &mut Out) {
        let Some(fetcher) = self.fetchers.get_mut(&leader) else {
            return;
        };
        if let Some((_, partitions, _)) = fetcher.out.take_if(|(_, _, deadline)| *deadline <= now) {
            let turns = partitions.into_iter().map(|index| (index, Turn::Failed));
            fetcher.plan.answered(turns, now);
        }
        let Some((_, turns)) = fetcher.settles.take_if(|(at, _)| *at <= now) else {
            return;
        };
        fetcher.plan.answered(turns.clone(), now);
        fetcher.not_before = now;
        for (index, _) in turns {
            let settled = match self.replicas.get_mut(&index) {
                Some(replica) if self.setup.has(Bug::AckQueued) => {
                    let done = replica.write();
                    done.and_then(|()| replica.settle())
                }
                Some(_) if self.setup.has(Bug::DurableBeforeSync) => Ok(()),
                Some(replica) => replica.settle(),
                None => Ok(()),
            };
            self.judge(settled, out);
            self.advance(index, out);
        }
    }

    pub(super) fn fetched(
        &mut self,
        now: i64,
        from: usize,
        (number, answers): (u64, Vec<(i32, Ask, Answer<Bytes>)>),
        out: &mut Out,
    ) {
        let leader = broker(from);
        let Some(fetcher) = self.fetchers.get_mut(&leader) else {
            return;
        };
        if fetcher.out.take_if(|(asked, _, _)| *asked == number).is_none() {
            return;
        }
        let mut turns = vec![];
        let mut any = false;
        for (index, ask, answer) in answers {
            let refused = matches!(answer, Answer::Refused(_));
            any |= matches!(&answer, Answer::Batches { read: Some(_), .. });
            let Some(replica) = self.replicas.get_mut(&index) else {
                continue;
            };
            let mut reports = vec![];
            let taken = replica.take(&ask, answer, &mut reports);
            let rebuild = self.judge(taken, out);
            report(reports, out);
            if let Some(rebuild) = rebuild {
                self.restore(now, index, rebuild, out);
            }
            let turn = if refused { Turn::Failed } else { Turn::Took };
            turns.push((index, turn));
        }
        let groups = self.setup.durability == Durability::Group;
        let takes = match groups && any {
            true => 1 + self.chance.between(0..self.setup.sync_max_ms.max(1)),
            false => 0,
        };
        let waits = if any { 0 } else { FETCH_WAIT_MS };
        let Some(fetcher) = self.fetchers.get_mut(&leader) else {
            return;
        };
        if groups || self.setup.has(Bug::AckQueued) {
            fetcher.settles = Some((now + takes + waits, turns));
        } else {
            fetcher.plan.answered(turns, now);
            fetcher.not_before = now + waits;
        }
    }

    pub(super) fn got(&mut self, now: i64, answered: u64, object: Option<&Object>, out: &mut Out) {
        for replica in self.replicas.values_mut() {
            replica.manifest_came(answered, object);
        }
        let found = self
            .restoring
            .iter()
            .find(|(_, one)| one.number == answered)
            .map(|(index, one)| (*index, one.rebuild));
        let (Some((index, rebuild)), Some(object)) = (found, object) else {
            return;
        };
        let log_start = self
            .seen
            .partition(TOPIC, index)
            .map_or(Offset::ZERO, |partition| partition.log_start);
        if let Some(key) = object_ending(object, rebuild.at()) {
            let number = self.number();
            self.restoring.insert(
                index,
                Restoring {
                    rebuild,
                    number,
                    deadline: now + PROPOSAL_PATIENCE_MS,
                },
            );
            self.send(self.setup.store(), Body::Get { number, key }, out);
        } else if let Some(seed) = seed_from(object, log_start).filter(|seed| seed.at == rebuild.at()) {
            self.restoring.remove(&index);
            self.begin_anew(index, seed, out);
        }
    }

    pub(super) fn begin_anew(&mut self, index: i32, seed: Seed, out: &mut Out) {
        let Some(replica) = self.replicas.get_mut(&index) else {
            return;
        };
        let mut reports = vec![];
        let done = replica.begin_anew(seed, &mut reports);
        self.judge(done, out);
        report(reports, out);
    }

    /// What is needed for the new beginning is fetched before the old log is touched.
    pub(super) fn restore(&mut self, now: i64, index: i32, rebuild: Rebuild, out: &mut Out) {
        if let Some(seed) = rebuild.seed() {
            return self.begin_anew(index, seed, out);
        }
        if self.restoring.contains_key(&index) {
            return;
        }
        if let Some(replica) = self.replicas.get_mut(&index) {
            replica.rebuild = Some(rebuild);
        }
        let deadline = now;
        self.restoring.insert(
            index,
            Restoring {
                rebuild,
                number: 0,
                deadline,
            },
        );
        self.go_on_restoring(now, out);
    }

    pub(super) fn go_on_restoring(&mut self, now: i64, out: &mut Out) {
        let due: Vec<i32> = self
            .restoring
            .iter()
            .filter(|(_, one)| one.deadline <= now)
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            self.restoring.remove(&index);
            let Some(replica) = self.replicas.get_mut(&index) else {
                continue;
            };
            let tier = self
                .seen
                .partition(TOPIC, index)
                .and_then(|partition| partition.tier.clone());
            // The tier may have grown since: the newest end is as good, and its manifest is still there.
            let (Some(tier), Some(_)) = (tier, replica.rebuild.take()) else {
                continue;
            };
            if tier.end <= replica.log.log_end() && replica.log.local_base() < replica.log.log_end() {
                continue;
            }
            let rebuild = Rebuild::FromTier { at: tier.end };
            replica.rebuild = Some(rebuild);
            let number = self.number();
            let deadline = now + PROPOSAL_PATIENCE_MS;
            self.restoring.insert(
                index,
                Restoring {
                    rebuild,
                    number,
                    deadline,
                },
            );
            let key = tier.manifest_key;
            self.send(self.setup.store(), Body::Get { number, key }, out);
        }
    }
}
