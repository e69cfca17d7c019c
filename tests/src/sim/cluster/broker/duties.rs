//! What a leader sees to: the ISR, uploads, the log's start; and what every replica lets go.

use std::sync::Arc;

use varve_cluster::controller::command::{AdvanceLogStart, AlterPartition};
use varve_cluster::controller::{Command, IsrMember};
use varve_cluster::replica::{IsrAnswer, IsrChange};
use varve_cluster::{BrokerEpoch, BrokerId};

use super::{Broker, Out, PROPOSAL_PATIENCE_MS, TIME};
use crate::sim::cluster::bug::Bug;
use crate::sim::cluster::message::Body;
use crate::sim::cluster::node::TOPIC;
use crate::sim::cluster::replica::Role;
use crate::sim::cluster::upload::Sends;

impl Broker {
    pub(super) fn look_at_isrs(&mut self, now: i64, out: &mut Out) {
        let late: Vec<u64> = self
            .changes
            .iter()
            .filter(|(_, (_, _, deadline))| *deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            if let Some((partition, change, _)) = self.changes.remove(&number) {
                let answer = match self.setup.has(Bug::UnknownIsrChangeForgotten) {
                    true => IsrAnswer::Refused,
                    false => IsrAnswer::Unknown,
                };
                self.isr_answered(partition, &change, answer, out);
            }
        }
        let (seen, stale) = (Arc::clone(&self.seen), self.setup.has(Bug::StaleFetchJoinsIsr));
        let eligible = |id: BrokerId, epoch: BrokerEpoch| {
            let known = seen.brokers.get(&id);
            known.is_some_and(|broker| broker.is_active() && (stale || broker.epoch == epoch))
        };
        for index in self.partitions() {
            let Some(Role::Leading(leader)) = self.replicas.get_mut(&index).map(|one| &mut one.role) else {
                continue;
            };
            let Some(change) = leader.ask(now, eligible) else {
                continue;
            };
            if self.setup.has(Bug::HighWatermarkOverCommittedIsr) {
                leader.answered(&change, IsrAnswer::Refused);
            }
            let Some(broker_epoch) = self.epoch else { continue };
            let member = |(id, epoch): &(BrokerId, Option<BrokerEpoch>)| IsrMember {
                broker: *id,
                epoch: epoch.unwrap_or(broker_epoch),
            };
            let alter = AlterPartition {
                topic_id: TOPIC,
                partition: index,
                broker: self.me,
                broker_epoch,
                leader_epoch: change.leader_epoch,
                partition_epoch: change.partition_epoch,
                isr: change.isr.iter().map(member).collect(),
                recovering: false,
            };
            let number = self.propose(Command::AlterPartition(alter), out);
            self.changes
                .insert(number, (index, change, now + PROPOSAL_PATIENCE_MS));
        }
    }

    pub(super) fn isr_answered(
        &mut self,
        partition: i32,
        change: &IsrChange,
        answer: IsrAnswer,
        out: &mut Out,
    ) {
        if let Some(Role::Leading(leader)) = self.replicas.get_mut(&partition).map(|one| &mut one.role) {
            leader.answered(change, answer);
        }
        self.advance(partition, out);
    }

    pub(super) fn upload(&mut self, now: i64, out: &mut Out) {
        let Some(_) = self.epoch.filter(|_| self.setup.tiered) else {
            return;
        };
        let seen = Arc::clone(&self.seen);
        for index in self.partitions() {
            let number = self.number();
            let Some(partition) = seen.partition(TOPIC, index) else {
                continue;
            };
            let Some(replica) = self.replicas.get_mut(&index) else {
                continue;
            };
            let sends = replica.upload(&self.setup, self.me, partition, (now, number));
            self.carry(sends, out);
        }
    }

    pub(super) fn carry(&self, sends: Option<Sends>, out: &mut Out) {
        match sends {
            None => {}
            Some(Sends::Store(body)) => self.send(self.setup.store(), body, out),
            Some(Sends::Controller(number, command)) => {
                self.send(self.setup.controller(), Body::Propose { number, command }, out);
            }
        }
    }

    pub(super) fn put_done(&mut self, now: i64, answered: u64, done: bool, out: &mut Out) {
        let seen = Arc::clone(&self.seen);
        let Some(epoch) = self.epoch else { return };
        for index in self.partitions() {
            let number = self.number();
            let (Some(partition), Some(replica)) =
                (seen.partition(TOPIC, index), self.replicas.get_mut(&index))
            else {
                continue;
            };
            let me = (self.me, epoch);
            let sends = replica.put_done(&self.setup, me, partition, (answered, done), (now, number));
            self.carry(sends, out);
        }
    }

    pub(super) fn delete_records(&mut self, partition: i32, percent: u8, out: &mut Out) {
        let (Some(replica), Some(broker_epoch)) = (self.replicas.get(&partition), self.epoch) else {
            return;
        };
        let Some(leader) = replica.leading() else { return };
        let (start, end) = (replica.log.log_start(), leader.high_watermark());
        let to = start.plus(end.since(start).max(0) * i64::from(percent) / 100);
        let advance = AdvanceLogStart {
            topic_id: TOPIC,
            partition,
            broker: self.me,
            broker_epoch,
            leader_epoch: leader.epoch(),
            log_start: to,
        };
        self.propose(Command::AdvanceLogStart(advance), out);
    }

    pub(super) fn keep_house(&mut self, out: &mut Out) {
        let seen = Arc::clone(&self.seen);
        for index in self.partitions() {
            let drops = self.chance.one_in(3);
            let checkpoints = self.chance.one_in(10);
            let sweeps = self.chance.one_in(8);
            let rolls = self.chance.one_in(self.setup.rolls_one_in);
            let Some(replica) = self.replicas.get_mut(&index) else {
                continue;
            };
            let mut done = Ok(());
            // As `segment.ms` has it.
            if rolls && replica.leading().is_some() && replica.log.force_roll(TIME) {
                done = replica.write();
            }
            if drops {
                done = done.and_then(|()| replica.drop_local());
            }
            if checkpoints && let Some(checkpoint) = replica.log.checkpoint() {
                done = done.and_then(|()| checkpoint.write());
            }
            let leads = replica.leading().map(|leader| leader.epoch());
            let kept = seen
                .partition(TOPIC, index)
                .filter(|one| Some(one.leader_epoch) == leads)
                .and_then(|one| replica.kept(one));
            self.judge(done, out);
            if let (true, Some(keep), Some(epoch)) = (sweeps, kept, leads) {
                let all = self.setup.has(Bug::CollectUnreferenced);
                let body = Body::Sweep {
                    partition: index,
                    keep,
                    below: if all { i32::MAX } else { epoch.value() },
                };
                self.send(self.setup.store(), body, out);
            }
        }
    }
}
