//! AlterPartition: a leader asks for another set of in-sync replicas (KIP-497, KIP-903, KIP-704).
//!
//! The order of the checks is part of the protocol: whoever hears "ineligible" knows that partition epoch and
//! leadership were right, so nothing it asked for earlier in this partition epoch has been done.

use super::apply::{Outcome, Rejected};
use super::command::AlterPartition;
use super::state::{Partition, State};
use crate::{BrokerId, TopicId};

impl State {
    pub(super) fn alter_partition(&mut self, alter: &AlterPartition) -> Result<Outcome, Rejected> {
        let partition = self.led_by(
            (alter.topic_id, alter.partition),
            (alter.broker, alter.broker_epoch),
            alter.leader_epoch,
        )?;
        if partition.partition_epoch != alter.partition_epoch {
            return Err(Rejected::StalePartitionEpoch {
                current: partition.partition_epoch,
            });
        }
        self.check_isr(partition, alter)?;
        let isr = alter.isr.iter().map(|member| member.broker).collect();
        self.change_partition((alter.topic_id, alter.partition), |electorate, partition| {
            electorate.set_isr(partition, isr, alter.recovering);
            Ok(Outcome::Partition(partition.partition_epoch))
        })
    }

    fn check_isr(&self, partition: &Partition, alter: &AlterPartition) -> Result<(), Rejected> {
        for (at, member) in alter.isr.iter().enumerate() {
            let known = self.brokers.get(&member.broker);
            let reason = if !partition.replicas.contains(&member.broker) {
                "not a replica"
            } else if alter.isr[..at]
                .iter()
                .any(|earlier| earlier.broker == member.broker)
            {
                "named twice"
            } else if known.is_none_or(|known| known.epoch != member.epoch) {
                // KIP-903: a replica that restarted since the leader saw it catch up may have lost its tail.
                "restarted since"
            } else if !self.is_live(member.broker) {
                "fenced or shutting down"
            } else {
                continue;
            };
            return Err(ineligible(member.broker, reason));
        }
        if alter.isr.iter().all(|member| member.broker != alter.broker) {
            return Err(ineligible(alter.broker, "a leader is always in sync with itself"));
        }
        // KIP-704.
        if alter.recovering && !partition.recovering {
            return Err(ineligible(alter.broker, "a leader that has recovered stays so"));
        }
        if alter.recovering && alter.isr.len() > 1 {
            return Err(ineligible(
                alter.broker,
                "nobody is in sync with a leader that recovers",
            ));
        }
        Ok(())
    }

    pub(super) fn elect_preferred(&mut self, topic_id: TopicId, index: i32) -> Result<Outcome, Rejected> {
        self.change_partition((topic_id, index), |electorate, partition| {
            let Some(preferred) = partition.replicas.first().copied() else {
                return Err(Rejected::NoEligibleLeader {
                    reason: "the partition has no replicas".to_owned(),
                });
            };
            if partition.leader == Some(preferred) {
                return Err(Rejected::ElectionNotNeeded { leader: preferred });
            }
            if !partition.isr.contains(&preferred) || !(electorate.live)(preferred) {
                return Err(Rejected::PreferredLeaderUnavailable { preferred });
            }
            electorate.hand_over(partition, preferred);
            Ok(Outcome::Elected {
                leader: preferred,
                epoch: partition.leader_epoch,
            })
        })
    }
}

fn ineligible(broker: BrokerId, reason: &str) -> Rejected {
    Rejected::Ineligible {
        broker,
        reason: reason.to_owned(),
    }
}
