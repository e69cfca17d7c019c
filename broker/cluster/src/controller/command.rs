//! What can be asked of the cluster's metadata.
//!
//! Commands are written to disk and sent between brokers, so they only ever grow: a new field carries
//! `#[serde(default)]`, a new command a new tag, and no tag changes its meaning. Whatever needs chance, a
//! clock or a look at the world (topic ids, placements) was decided by the proposer and stands in the command.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use varve_log::{LeaderEpoch, Offset};

use super::state::TierPointer;
use crate::topic_config::Overrides;
use crate::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId, TopicName};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// A broker has started. It stays fenced (leads nothing) until [`Command::UnfenceBroker`].
    RegisterBroker(RegisterBroker),
    /// A registered broker has caught up with its own registration and may lead.
    UnfenceBroker {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    /// A broker is gone or unreachable: it leads nothing and is in sync with nothing.
    FenceBroker {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    CreateTopic(CreateTopic),
    /// The topic is gone for clients at once; a tombstone stays until [`Command::TopicPurged`].
    DeleteTopic {
        topic_id: TopicId,
    },
    /// Nothing of a deleted topic is left on any disk or in the bucket.
    TopicPurged {
        topic_id: TopicId,
    },
    /// Partitions after the existing ones; each with its replicas, the preferred leader first.
    AddPartitions {
        topic_id: TopicId,
        assignments: Vec<Vec<BrokerId>>,
    },
    AlterConfigs {
        resource: ConfigResource,
        ops: Vec<ConfigOp>,
    },
    /// A block of producer ids nobody has been given before.
    AllocateProducerIds {
        broker: BrokerId,
        epoch: BrokerEpoch,
        count: u32,
    },
    AlterPartition(AlterPartition),
    CommitTier(CommitTier),
    AdvanceLogStart(AdvanceLogStart),
    /// The right to commit to a topic's table, taken from whoever had it.
    AcquireTable {
        topic_id: TopicId,
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    CommitTable(CommitTable),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterBroker {
    pub broker: BrokerId,
    /// Made anew at each start of the process: the same one again is a retried registration.
    pub incarnation: Uuid,
    pub listeners: Vec<Listener>,
    pub rack: Option<String>,
    /// The broker epoch of the last run, if that run ended with everything on disk (its clean-shutdown file).
    #[serde(default)]
    pub clean_shutdown_of: Option<BrokerEpoch>,
    /// Ids of the log directories: a wiped disk is a new replica.
    #[serde(default)]
    pub directories: Vec<Uuid>,
}

/// Where a broker can be reached, by listener name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    pub name: String,
    pub host: String,
    pub port: u16,
    /// `PLAINTEXT`, `SSL`, …
    pub protocol: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopic {
    pub name: TopicName,
    pub topic_id: TopicId,
    /// Replicas of each partition, the preferred leader first.
    pub assignments: Vec<Vec<BrokerId>>,
    pub configs: Overrides,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigResource {
    Topic(TopicId),
    /// `None` is the default for all brokers.
    Broker(Option<BrokerId>),
}

/// One change of one key. The values of a list are separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigOp {
    Set {
        key: String,
        value: String,
    },
    Delete {
        key: String,
    },
    /// Adds to a list what is not in it yet.
    Append {
        key: String,
        value: String,
    },
    /// Takes from a list what is in it.
    Subtract {
        key: String,
        value: String,
    },
}

impl ConfigOp {
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. }
            | Self::Delete { key }
            | Self::Append { key, .. }
            | Self::Subtract { key, .. } => key,
        }
    }
}

/// A leader asks for another set of in-sync replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartition {
    pub topic_id: TopicId,
    pub partition: i32,
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<IsrMember>,
}

/// A replica and the uptime in which the leader saw it catch up (KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
}

/// The moment an upload becomes part of the log, or expired entries leave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitTier {
    pub topic_id: TopicId,
    pub partition: i32,
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    /// Version of the pointer the new manifest was made from; 0 if there was none.
    pub expected_version: u64,
    /// Where what is new in this manifest begins: the end of the old one. Equal to `pointer.end` when
    /// nothing is new and only old entries were dropped.
    pub base: Offset,
    /// The new manifest, with `version = expected_version + 1`.
    pub pointer: TierPointer,
}

/// Retention, or a client's `DeleteRecords`. Asking for less than there is changes nothing and succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvanceLogStart {
    pub topic_id: TopicId,
    pub partition: i32,
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    pub log_start: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitTable {
    pub topic_id: TopicId,
    /// What [`Command::AcquireTable`] gave out.
    pub epoch: u64,
    /// 0 for the table's first commit.
    pub expected_version: u64,
    pub metadata_location: String,
}
