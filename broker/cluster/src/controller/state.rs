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
    /// Since this index of the order the broker is stopping: it leads nothing, is in no ISR, and still follows.
    #[serde(default)]
    pub shutting_down: Option<u64>,
}

impl Broker {
    /// Its address on the listener of that name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.name == name)
    }

    /// May lead, and may be in sync.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        !self.fenced && self.shutting_down.is_none()
    }
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
    /// Replicas that were in the ISR when it fell to its minimum, or in `eligible` since, and were then restarted
    /// without a clean shutdown; the latest at the end (LastKnownELR of KIP-966).
    pub last_known: Vec<BrokerId>,
    /// Replicas of a reassignment's target that were none before (KIP-455); part of `replicas`.
    #[serde(default)]
    pub adding: Vec<BrokerId>,
    /// Replicas that go when the reassignment completes (KIP-455); part of `replicas`, at its end.
    #[serde(default)]
    pub removing: Vec<BrokerId>,
    /// The leader was elected uncleanly and has not said yet that it is done recovering (KIP-704).
    #[serde(default)]
    pub recovering: bool,
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
    /// Of the topic's first partition when the owner acquired the table: the right ends with that leadership.
    #[serde(default)]
    pub leader_epoch: LeaderEpoch,
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
        self.brokers.values().filter(|broker| broker.is_active())
    }

    /// Every partition with its topic and number, in the order of topic ids.
    pub fn partitions(&self) -> impl Iterator<Item = (&Topic, i32, &Partition)> {
        self.topics.values().flat_map(|topic| {
            (0..)
                .zip(&topic.partitions)
                .map(|(at, one)| (topic.as_ref(), at, one))
        })
    }

    /// Partitions that are being reassigned (ListPartitionReassignments).
    pub fn reassignments(&self) -> impl Iterator<Item = (&Topic, i32, &Partition)> {
        self.partitions()
            .filter(|(_, _, partition)| partition.is_reassigned())
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

    /// `unclean.leader.election.enable`, as the cluster agrees on it; see [`State::min_insync_replicas`].
    #[must_use]
    pub fn unclean_leader_election(&self, topic: &Topic) -> bool {
        let key = "unclean.leader.election.enable";
        let set = topic
            .configs
            .get(key)
            .or_else(|| self.default_broker_configs.get(key));
        set.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    pub(super) fn is_live(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(Broker::is_active)
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
            adding: Vec::new(),
            removing: Vec::new(),
            recovering: false,
            leader: None,
            leader_epoch: LeaderEpoch::new(0),
            partition_epoch: PartitionEpoch::default(),
            log_start: Offset::new(0),
            tier: None,
        }
    }

    #[must_use]
    pub const fn is_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas there will be when the reassignment is complete; those there are, if there is none.
    #[must_use]
    pub fn target(&self) -> Vec<BrokerId> {
        let stays = |id: &&BrokerId| !self.removing.contains(id);
        self.replicas.iter().filter(stays).copied().collect()
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
