//! Registration, fencing and in-sync replicas: what changes as brokers come and go.

use std::sync::Arc;

use super::apply::{Outcome, Rejected};
use super::command::{AlterPartition, RegisterBroker};
use super::election::{Departure, Electorate};
use super::state::{Broker, Partition, State};
use crate::{BrokerEpoch, BrokerId, TopicId};

impl State {
    pub(super) fn register_broker(
        &mut self,
        index: u64,
        register: &RegisterBroker,
    ) -> Result<Outcome, Rejected> {
        let before = self.brokers.get(&register.broker);
        if let Some(known) = before
            && known.incarnation == register.incarnation
        {
            return Ok(Outcome::Registered(known.epoch));
        }
        let departure = match before {
            Some(known) if register.clean_shutdown_of != Some(known.epoch) => Departure::Unclean,
            Some(_) | None => Departure::Fenced,
        };
        let epoch = BrokerEpoch::new(index);
        self.brokers.insert(
            register.broker,
            Broker {
                id: register.broker,
                epoch,
                incarnation: register.incarnation,
                listeners: register.listeners.clone(),
                rack: register.rack.clone(),
                directories: register.directories.clone(),
                fenced: true,
            },
        );
        self.each_partition(|electorate, partition| electorate.depart(partition, register.broker, departure));
        Ok(Outcome::Registered(epoch))
    }

    pub(super) fn unfence_broker(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
    ) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        self.set_fenced(broker, false);
        self.each_partition(|electorate, partition| {
            partition.leader.is_none() && partition.replicas.contains(&broker) && electorate.elect(partition)
        });
        Ok(Outcome::Done)
    }

    pub(super) fn fence_broker(&mut self, broker: BrokerId, epoch: BrokerEpoch) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        self.set_fenced(broker, true);
        self.each_partition(|electorate, partition| electorate.depart(partition, broker, Departure::Fenced));
        Ok(Outcome::Done)
    }

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
        let topic = self
            .topics
            .get(&alter.topic_id)
            .ok_or(Rejected::UnknownTopic(alter.topic_id))?;
        let min_isr = self.min_insync_replicas(topic);
        let isr = alter.isr.iter().map(|member| member.broker).collect();
        let view = self.clone();
        let live = |id| view.is_live(id);
        let partition = self.known_partition_mut(alter.topic_id, alter.partition)?;
        Electorate { live: &live, min_isr }.set_isr(partition, isr);
        Ok(Outcome::Partition(partition.partition_epoch))
    }

    fn check_isr(&self, partition: &Partition, alter: &AlterPartition) -> Result<(), Rejected> {
        let ineligible = |broker, reason: &str| {
            Err(Rejected::Ineligible {
                broker,
                reason: reason.to_owned(),
            })
        };
        for (at, member) in alter.isr.iter().enumerate() {
            if !partition.replicas.contains(&member.broker) {
                return ineligible(member.broker, "not a replica");
            }
            if alter.isr[..at]
                .iter()
                .any(|earlier| earlier.broker == member.broker)
            {
                return ineligible(member.broker, "named twice");
            }
            // KIP-903: a replica that restarted since the leader saw it catch up may have lost its tail.
            self.check_broker(member.broker, member.epoch)?;
            if !self.is_live(member.broker) {
                return ineligible(member.broker, "fenced");
            }
        }
        if alter.isr.iter().all(|member| member.broker != alter.broker) {
            return ineligible(alter.broker, "a leader is always in sync with itself");
        }
        Ok(())
    }

    pub(super) fn allocate_producer_ids(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
        count: u32,
    ) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        let first = self.next_producer_id;
        self.next_producer_id = first
            .checked_add(i64::from(count))
            .ok_or(Rejected::ProducerIdsExhausted)?;
        Ok(Outcome::ProducerIds { first, count })
    }

    fn set_fenced(&mut self, broker: BrokerId, fenced: bool) {
        if let Some(known) = self.brokers.get_mut(&broker) {
            known.fenced = fenced;
        }
    }

    /// Runs `change` over every partition; only topics in which it changed something are written.
    fn each_partition(&mut self, change: impl Fn(&Electorate<'_>, &mut Partition) -> bool) {
        let view = self.clone();
        let live = |id| view.is_live(id);
        let mut changed: Vec<(TopicId, Arc<super::state::Topic>)> = Vec::new();
        for (id, topic) in &view.topics {
            let electorate = Electorate {
                live: &live,
                min_isr: view.min_insync_replicas(topic),
            };
            let mut next = None;
            for (index, partition) in topic.partitions.iter().enumerate() {
                let mut candidate = partition.clone();
                if change(&electorate, &mut candidate) {
                    next.get_or_insert_with(|| topic.as_ref().clone())
                        .partitions
                        .set(index, candidate);
                }
            }
            changed.extend(next.map(|topic| (*id, Arc::new(topic))));
        }
        self.topics.extend(changed);
    }
}
