//! Topics: created, grown, configured, deleted.

use std::sync::Arc;

use super::apply::{Outcome, Rejected};
use super::command::{ConfigOp, ConfigResource, CreateTopic};
use super::state::{Partition, State, Tombstone, TombstonePartition, Topic};
use crate::topic_config::{self, Overrides};
use crate::{BrokerId, TopicId};

impl State {
    pub(super) fn create_topic(&mut self, create: &CreateTopic) -> Result<Outcome, Rejected> {
        if self.topic_ids.contains_key(&create.name) || self.topics.contains_key(&create.topic_id) {
            return Err(Rejected::TopicExists(create.name.clone()));
        }
        // Ids are never used twice: objects of a deleted topic could otherwise look like the new one's.
        if self.tombstones.contains_key(&create.topic_id) {
            return Err(Rejected::TopicExists(create.name.clone()));
        }
        if let Some(other) = self.collision(&create.name) {
            return Err(Rejected::NameCollides(other.clone()));
        }
        if create.assignments.is_empty() {
            return Err(Rejected::NoPartitions);
        }
        topic_config::check(&create.configs, create.name.is_internal()).map_err(Rejected::Config)?;
        let topic = Topic {
            id: create.topic_id,
            name: create.name.clone(),
            configs: create.configs.clone(),
            partitions: self.new_partitions(0, &create.assignments)?,
        };
        self.topic_ids.insert(create.name.clone(), create.topic_id);
        self.collisions
            .insert(create.name.collision_key(), create.name.clone());
        self.topics.insert(create.topic_id, Arc::new(topic));
        Ok(Outcome::Done)
    }

    pub(super) fn add_partitions(
        &mut self,
        topic_id: TopicId,
        assignments: &[Vec<BrokerId>],
    ) -> Result<Outcome, Rejected> {
        let topic = self
            .topics
            .get(&topic_id)
            .ok_or(Rejected::UnknownTopic(topic_id))?;
        if assignments.is_empty() {
            return Err(Rejected::NoPartitions);
        }
        let added = self.new_partitions(topic.partitions.len(), assignments)?;
        self.known_topic_mut(topic_id)?.partitions.append(added);
        Ok(Outcome::Done)
    }

    pub(super) fn delete_topic(&mut self, index: u64, topic_id: TopicId) -> Result<Outcome, Rejected> {
        let topic = self
            .topics
            .remove(&topic_id)
            .ok_or(Rejected::UnknownTopic(topic_id))?;
        self.topic_ids.remove(&topic.name);
        self.collisions.remove(&topic.name.collision_key());
        let table = self.tables.remove(&topic_id);
        let partitions = topic.partitions.iter().map(|partition| TombstonePartition {
            replicas: partition.replicas.clone(),
            leader_epoch: partition.leader_epoch,
            tier: partition.tier.clone(),
        });
        let tombstone = Tombstone {
            name: topic.name.clone(),
            deleted_at: index,
            partitions: partitions.collect(),
            table: table.and_then(|table| table.metadata_location),
        };
        self.tombstones.insert(topic_id, tombstone);
        Ok(Outcome::Done)
    }

    pub(super) fn topic_purged(&mut self, topic_id: TopicId) -> Result<Outcome, Rejected> {
        self.tombstones
            .remove(&topic_id)
            .ok_or(Rejected::UnknownTopic(topic_id))?;
        Ok(Outcome::Done)
    }

    pub(super) fn alter_configs(
        &mut self,
        resource: ConfigResource,
        ops: &[ConfigOp],
    ) -> Result<Outcome, Rejected> {
        match resource {
            ConfigResource::Topic(topic_id) => {
                let topic = self.known_topic_mut(topic_id)?;
                alter(&mut topic.configs, ops);
                let internal = topic.name.is_internal();
                topic_config::check(&topic.configs, internal).map_err(Rejected::Config)?;
            }
            // Which broker keys exist, and which can change while it runs, only the broker knows: it has
            // checked them before it proposed.
            ConfigResource::Broker(None) => alter(&mut self.default_broker_configs, ops),
            ConfigResource::Broker(Some(broker)) => {
                alter(self.broker_configs.entry(broker).or_default(), ops);
                if self.broker_configs.get(&broker).is_some_and(Overrides::is_empty) {
                    self.broker_configs.remove(&broker);
                }
            }
        }
        if ops.iter().any(|op| op.key() == "min.insync.replicas") {
            // Of topics that are not concerned nothing changes.
            self.each_partition(|_| true, |electorate, partition| electorate.review(partition));
        }
        Ok(Outcome::Done)
    }

    fn new_partitions(
        &self,
        first: usize,
        assignments: &[Vec<BrokerId>],
    ) -> Result<imbl::Vector<Partition>, Rejected> {
        let replication = assignments.first().map_or(0, Vec::len);
        let mut partitions = imbl::Vector::new();
        for (at, replicas) in assignments.iter().enumerate() {
            let index = i32::try_from(first + at).unwrap_or(i32::MAX);
            let refused = |reason: &str| Rejected::InvalidReplicas {
                partition: index,
                reason: reason.to_owned(),
            };
            if replicas.is_empty() || replicas.len() != replication {
                return Err(refused(
                    "every partition needs the same number of replicas, at least one",
                ));
            }
            for (at, broker) in replicas.iter().enumerate() {
                if !self.brokers.contains_key(broker) {
                    return Err(Rejected::UnknownBroker(*broker));
                }
                if replicas[..at].contains(broker) {
                    return Err(refused("a broker is named twice"));
                }
            }
            let mut partition = Partition::new(replicas.clone());
            partition.isr.retain(|broker| self.is_live(*broker));
            partition.leader = partition.isr.first().copied();
            if partition.leader.is_none() {
                return Err(refused("none of its brokers is alive"));
            }
            partitions.push_back(partition);
        }
        Ok(partitions)
    }
}

fn alter(configs: &mut Overrides, ops: &[ConfigOp]) {
    for op in ops {
        match op {
            ConfigOp::Set { key, value } => {
                configs.insert(key.clone(), value.clone());
            }
            ConfigOp::Delete { key } => {
                configs.remove(key);
            }
            ConfigOp::Append { key, value } => {
                let mut items = list(configs, key);
                for item in items_of(value) {
                    if !items.contains(&item) {
                        items.push(item);
                    }
                }
                configs.insert(key.clone(), items.join(","));
            }
            ConfigOp::Subtract { key, value } => {
                let gone: Vec<String> = items_of(value).collect();
                let items: Vec<_> = list(configs, key)
                    .into_iter()
                    .filter(|item| !gone.contains(item))
                    .collect();
                configs.insert(key.clone(), items.join(","));
            }
        }
    }
}

/// The list a key has now: what is set, or its default.
fn list(configs: &Overrides, key: &str) -> Vec<String> {
    let default = topic_config::find(key).map_or("", |key| key.default);
    items_of(configs.get(key).map_or(default, String::as_str)).collect()
}

fn items_of(value: &str) -> impl Iterator<Item = String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
}
