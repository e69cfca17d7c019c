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
    /// A broker wants to stop in order: others lead what it led, and it leaves every ISR. It follows on until
    /// `Heartbeats` finds that nobody needs it any more.
    BeginShutdown {
        broker: BrokerId,
        epoch: BrokerEpoch,
    },
    /// An operator has taken the broker out for good. Partitions keep it among their replicas until they are
    /// reassigned, but what it held counts no more.
    UnregisterBroker {
        broker: BrokerId,
    },
    /// ElectLeaders (PREFERRED): the first replica leads again.
    ElectPreferred {
        topic_id: TopicId,
        partition: i32,
    },
    ElectUnclean(ElectUnclean),
    Reassign(Reassign),
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
    /// The right to commit to a topic's table, taken from whoever had it, for as long as this broker leads the topic's
    /// first partition in this epoch.
    AcquireTable {
        topic_id: TopicId,
        broker: BrokerId,
        epoch: BrokerEpoch,
        leader_epoch: LeaderEpoch,
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
    /// Still recovering from an unclean election (KIP-704): nobody may join the leader yet.
    #[serde(default)]
    pub recovering: bool,
}

/// A replica and the uptime in which the leader saw it catch up (KIP-903).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
}

/// A leader for a partition that has none and none in sync or eligible: the most complete of the logs that were
/// looked at (unclean recovery, KIP-966).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectUnclean {
    pub topic_id: TopicId,
    pub partition: i32,
    /// As it was when the logs were looked at: without a leader since, nobody has written to them.
    pub partition_epoch: PartitionEpoch,
    pub logs: Vec<ReplicaLog>,
    pub warrant: Warrant,
}

/// What a replica holds, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLog {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    /// Leader epoch of its last batch; `None` if it holds none.
    pub last_epoch: Option<LeaderEpoch>,
    pub log_end: Offset,
}

/// On what ground a leader may be elected that is neither in sync nor eligible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warrant {
    /// All of `last_known` were looked at. With `varve.flush=group` one of them has everything committed on its
    /// disk; it is the proposer who knows whether brokers flush so.
    LastKnown,
    /// The topic's `unclean.leader.election.enable`.
    Config,
    /// ElectLeaders (UNCLEAN).
    Operator,
}

/// AlterPartitionReassignments of one partition (KIP-455).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassign {
    pub topic_id: TopicId,
    pub partition: i32,
    /// The preferred leader first; `None` cancels what is under way.
    pub replicas: Option<Vec<BrokerId>>,
    /// Whether the target may have another number of replicas (KIP-860).
    pub any_replication_factor: bool,
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
