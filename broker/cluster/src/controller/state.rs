//! The cluster's metadata at one point of its order.
//!
//! Maps are persistent: a clone costs a few counters, so the state after each command is itself the
//! published view. Nothing here depends on hashing order.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use varve_log::{LeaderEpoch, Offset};

use super::command::Listener;
use crate::topic_config::Overrides;
use crate::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId, TopicName};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub cluster_id: Arc<str>,
    /// Index of the last command that was applied.
    pub applied: u64,
    pub brokers: OrdMap<BrokerId, Broker>,
    pub topics: OrdMap<TopicId, Arc<Topic>>,
    pub topic_ids: OrdMap<TopicName, TopicId>,
    /// Deleted topics whose bytes are not all gone yet.
    pub tombstones: OrdMap<TopicId, Tombstone>,
    /// Dynamic broker configuration; `default_broker_configs` is what all brokers share.
    pub broker_configs: OrdMap<BrokerId, Overrides>,
    pub default_broker_configs: Overrides,
    pub next_producer_id: i64,
    pub tables: OrdMap<TopicId, Table>,
    /// Collision key → topic: names that differ only in `.` and `_` cannot both exist.
    pub(super) collisions: OrdMap<String, TopicName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    pub incarnation: Uuid,
    pub listeners: Vec<Listener>,
    pub rack: Option<String>,
    pub directories: Vec<Uuid>,
    pub fenced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    pub id: TopicId,
    pub name: TopicName,
    /// What the topic itself sets; `topic_config::resolve` makes a configuration of it.
    pub configs: Overrides,
    pub partitions: Vector<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Replicas known to hold everything committed. Empty only when none is left that surely does.
    pub isr: Vec<BrokerId>,
    /// Replicas that left the ISR when it was already at its minimum: they still hold everything
    /// committed, because nothing was committed without them (KIP-966).
    pub eligible: Vec<BrokerId>,
    /// Once ISR and `eligible` are both empty: who was in them last, the last leader at the end.
    pub last_known: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub log_start: Offset,
    pub tier: Option<TierPointer>,
}

/// What of a partition is in the bucket: `[start, end)`, as one immutable manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierPointer {
    pub version: u64,
    pub manifest_key: String,
    pub manifest_hash: String,
    pub start: Offset,
    pub end: Offset,
    pub bytes: u64,
    /// The leader epoch under which it was committed.
    pub leader_epoch: LeaderEpoch,
}

/// What is left of a deleted topic: enough to find and delete its files and objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub name: TopicName,
    pub deleted_at: u64,
    pub partitions: Vector<TombstonePartition>,
    /// The table's last metadata file, if the topic was a table.
    pub table: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstonePartition {
    pub replicas: Vec<BrokerId>,
    /// Objects of this and every earlier epoch may go: nobody can commit them any more.
    pub leader_epoch: LeaderEpoch,
    pub tier: Option<TierPointer>,
}

/// Who may commit to a topic's table, and what was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Grows with each new owner; a commit under an older one is refused.
    pub epoch: u64,
    pub owner: BrokerId,
    /// Grows with each commit.
    pub version: u64,
    pub metadata_location: Option<String>,
}

impl State {
    #[must_use]
    pub fn new(cluster_id: impl Into<Arc<str>>) -> Self {
        Self {
            cluster_id: cluster_id.into(),
            applied: 0,
            brokers: OrdMap::new(),
            topics: OrdMap::new(),
            topic_ids: OrdMap::new(),
            tombstones: OrdMap::new(),
            broker_configs: OrdMap::new(),
            default_broker_configs: Overrides::new(),
            next_producer_id: 0,
            tables: OrdMap::new(),
            collisions: OrdMap::new(),
        }
    }

    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_ids.get(name).and_then(|id| self.topics.get(id))
    }

    #[must_use]
    pub fn partition(&self, topic: TopicId, partition: i32) -> Option<&Partition> {
        self.topics.get(&topic)?.partition(partition)
    }

    /// Brokers that may lead and follow, in the order of their ids.
    pub fn live_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// The name that would collide with `name`, if there is one.
    #[must_use]
    pub fn collision(&self, name: &TopicName) -> Option<&TopicName> {
        self.collisions.get(&name.collision_key())
    }

    /// What `broker` was configured to dynamically: its own values over those all brokers share.
    #[must_use]
    pub fn broker_config(&self, broker: BrokerId, key: &str) -> Option<&str> {
        let own = self
            .broker_configs
            .get(&broker)
            .and_then(|configs| configs.get(key));
        own.or_else(|| self.default_broker_configs.get(key))
            .map(String::as_str)
    }

    /// `min.insync.replicas` as the cluster agrees on it: the topic's, then what all brokers share
    /// dynamically. A single broker's own file may not enter a decision all brokers must take alike.
    #[must_use]
    pub fn min_insync_replicas(&self, topic: &Topic) -> usize {
        let key = "min.insync.replicas";
        let set = topic
            .configs
            .get(key)
            .or_else(|| self.default_broker_configs.get(key));
        set.and_then(|value| value.trim().parse().ok()).unwrap_or(1)
    }

    pub(super) fn is_live(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|broker| !broker.fenced)
    }
}

impl Topic {
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.partitions.get(index))
    }
}

impl Partition {
    pub(super) fn new(replicas: Vec<BrokerId>) -> Self {
        Self {
            isr: replicas.clone(),
            replicas,
            eligible: Vec::new(),
            last_known: Vec::new(),
            leader: None,
            leader_epoch: LeaderEpoch::new(0),
            partition_epoch: PartitionEpoch::default(),
            log_start: Offset::new(0),
            tier: None,
        }
    }

    /// Up to here, from the log's start on, everything is in the bucket.
    #[must_use]
    pub fn tier_end(&self) -> Offset {
        self.tier
            .as_ref()
            .map_or(self.log_start, |tier| tier.end.max(self.log_start))
    }

    /// 0 before the first commit.
    #[must_use]
    pub fn tier_version(&self) -> u64 {
        self.tier.as_ref().map_or(0, |tier| tier.version)
    }
}
