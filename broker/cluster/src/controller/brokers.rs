//! Brokers: registered, fenced, unfenced, stopped, taken out; and what that means for every partition.

use std::sync::Arc;

use super::apply::{Outcome, Rejected};
use super::command::RegisterBroker;
use super::election::{Departure, Electorate};
use super::state::{Broker, Partition, State, Topic};
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
        let departure = before.map_or(Departure::Fenced, |known| departure_of(known, register));
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
                shutting_down: None,
            },
        );
        self.depart(register.broker, departure);
        Ok(Outcome::Registered(epoch))
    }

    pub(super) fn unfence_broker(
        &mut self,
        broker: BrokerId,
        epoch: BrokerEpoch,
    ) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        if self.known_broker_mut(broker)?.shutting_down.is_some() {
            return Err(Rejected::ShuttingDown(broker));
        }
        self.known_broker_mut(broker)?.fenced = false;
        self.each_partition(
            |partition| partition.leader.is_none() && partition.replicas.contains(&broker),
            |electorate, partition| electorate.review(partition),
        );
        Ok(Outcome::Done)
    }

    pub(super) fn fence_broker(&mut self, broker: BrokerId, epoch: BrokerEpoch) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        self.known_broker_mut(broker)?.fenced = true;
        self.depart(broker, Departure::Fenced);
        Ok(Outcome::Done)
    }

    pub(super) fn begin_shutdown(
        &mut self,
        index: u64,
        broker: BrokerId,
        epoch: BrokerEpoch,
    ) -> Result<Outcome, Rejected> {
        self.check_broker(broker, epoch)?;
        let known = self.known_broker_mut(broker)?;
        if known.shutting_down.is_none() {
            known.shutting_down = Some(index);
            self.depart(broker, Departure::Fenced);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn unregister_broker(&mut self, broker: BrokerId) -> Result<Outcome, Rejected> {
        self.brokers
            .remove(&broker)
            .ok_or(Rejected::UnknownBroker(broker))?;
        // Should it register again, nothing tells whether it is the same disk.
        self.depart(broker, Departure::Unclean);
        Ok(Outcome::Done)
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

    /// Whether `broker` leads any partition.
    #[must_use]
    pub fn leads(&self, broker: BrokerId) -> bool {
        self.partitions()
            .any(|(_, _, partition)| partition.leader == Some(broker))
    }

    fn known_broker_mut(&mut self, broker: BrokerId) -> Result<&mut Broker, Rejected> {
        self.brokers
            .get_mut(&broker)
            .ok_or(Rejected::UnknownBroker(broker))
    }

    fn depart(&mut self, broker: BrokerId, how: Departure) {
        self.each_partition(
            |partition| partition.replicas.contains(&broker),
            |electorate, partition| electorate.depart(partition, broker, how),
        );
    }

    /// Runs `change` over every partition that is `concerned`; only topics in which it changed something are
    /// written.
    pub(super) fn each_partition(
        &mut self,
        concerned: impl Fn(&Partition) -> bool,
        change: impl Fn(&Electorate<'_>, &mut Partition) -> bool,
    ) {
        let view = self.clone();
        let live = |id| view.is_live(id);
        let mut changed: Vec<(TopicId, Arc<Topic>)> = Vec::new();
        for (id, topic) in &view.topics {
            let electorate = Electorate {
                live: &live,
                min_isr: view.min_insync_replicas(topic),
            };
            let mut next = None;
            for (index, partition) in topic.partitions.iter().enumerate() {
                if !concerned(partition) {
                    continue;
                }
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

    /// Changes one partition by the rules of election.
    pub(super) fn change_partition<T>(
        &mut self,
        (topic_id, index): (TopicId, i32),
        change: impl FnOnce(&Electorate<'_>, &mut Partition) -> Result<T, Rejected>,
    ) -> Result<T, Rejected> {
        let view = self.clone();
        let topic = view
            .topics
            .get(&topic_id)
            .ok_or(Rejected::UnknownTopic(topic_id))?;
        let live = |id| view.is_live(id);
        let electorate = Electorate {
            live: &live,
            min_isr: view.min_insync_replicas(topic),
        };
        change(&electorate, self.known_partition_mut(topic_id, index)?)
    }
}

/// A broker that comes back kept its data only if its last run ended in order (KIP-966), and on the same disks: a
/// wiped directory has another id.
fn departure_of(known: &Broker, register: &RegisterBroker) -> Departure {
    let same_disks = known
        .directories
        .iter()
        .all(|id| register.directories.contains(id));
    if register.clean_shutdown_of == Some(known.epoch) && same_disks {
        Departure::Fenced
    } else {
        Departure::Unclean
    }
}
