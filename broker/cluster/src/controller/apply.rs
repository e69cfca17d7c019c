//! One command, applied.

use serde::{Deserialize, Serialize};
use varve_log::{LeaderEpoch, Offset};

use super::command::Command;
use super::state::{Partition, State, TierPointer, Topic};
use crate::topic_config::ConfigError;
use crate::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId, TopicName};

/// What a command has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is nothing to say that the state does not say.
    Done,
    Registered(BrokerEpoch),
    /// Ids `first..first + count`.
    ProducerIds {
        first: i64,
        count: u32,
    },
    Partition(PartitionEpoch),
    /// Who leads now, and in which epoch.
    Elected {
        leader: BrokerId,
        epoch: LeaderEpoch,
    },
    Tier(TierPointer),
    LogStart(Offset),
    TableAcquired {
        epoch: u64,
        version: u64,
        metadata_location: Option<String>,
    },
    TableCommitted {
        version: u64,
    },
}

/// Why a command changed nothing. Sending the same command again would not help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejected {
    #[error("broker is not registered. broker={0}")]
    UnknownBroker(BrokerId),
    /// The sender was restarted or replaced since: whatever it believes is out of date.
    #[error("broker epoch is out of date. broker={broker}, current={current}")]
    StaleBrokerEpoch { broker: BrokerId, current: BrokerEpoch },
    #[error("topic already exists. topic={0}")]
    TopicExists(TopicName),
    #[error("topic name collides with an existing one. topic={0}")]
    NameCollides(TopicName),
    #[error("topic does not exist. id={0}")]
    UnknownTopic(TopicId),
    #[error("partition does not exist. topic={topic}, partition={partition}")]
    UnknownPartition { topic: TopicId, partition: i32 },
    #[error("topic needs at least one partition")]
    NoPartitions,
    #[error("replica assignment is refused: {reason}. partition={partition}")]
    InvalidReplicas { partition: i32, reason: String },
    #[error(transparent)]
    Config(ConfigError),
    /// The sender does not lead the partition in the epoch it named.
    #[error("not the leader in this epoch. leader={leader:?}, epoch={epoch}")]
    NotLeader {
        leader: Option<BrokerId>,
        epoch: LeaderEpoch,
    },
    /// The partition's metadata has moved on: look again, then decide.
    #[error("partition epoch is out of date. current={current}")]
    StalePartitionEpoch { current: PartitionEpoch },
    #[error("replica cannot be in sync: {reason}. broker={broker}")]
    Ineligible { broker: BrokerId, reason: String },
    /// ELECTION_NOT_NEEDED.
    #[error("leader election is not needed. leader={leader}")]
    ElectionNotNeeded { leader: BrokerId },
    /// PREFERRED_LEADER_NOT_AVAILABLE.
    #[error("preferred leader is not in sync or not alive. broker={preferred}")]
    PreferredLeaderUnavailable { preferred: BrokerId },
    /// ELIGIBLE_LEADERS_NOT_AVAILABLE.
    #[error("no replica may lead: {reason}")]
    NoEligibleLeader { reason: String },
    /// NO_REASSIGNMENT_IN_PROGRESS.
    #[error("no reassignment is in progress")]
    NoReassignment,
    /// INVALID_REPLICATION_FACTOR (KIP-860).
    #[error("reassignment would change the replication factor. current={current}, target={target}")]
    ReplicationFactorChanges { current: usize, target: usize },
    /// The broker is stopping; it comes back by registering anew.
    #[error("broker is shutting down. broker={0}")]
    ShuttingDown(BrokerId),
    /// Another manifest was committed meanwhile.
    #[error("tier version is out of date. current={current}")]
    TierMoved { current: u64 },
    /// The manifest does not continue the log: committing it would lose or double records.
    #[error("manifest does not continue the tier: {reason}")]
    TierGap { reason: String },
    /// Somebody else has acquired the table since, or is about to: its owner leads the first partition no more.
    #[error("table belongs to a later owner. epoch={current}")]
    TableFenced { current: u64 },
    #[error("table was never acquired. topic={0}")]
    UnknownTable(TopicId),
    /// The same owner has committed meanwhile: an earlier commit of unknown outcome did happen.
    #[error("table version is out of date. current={current}")]
    TableMoved { current: u64 },
    #[error("no producer ids are left")]
    ProducerIdsExhausted,
}

impl State {
    /// Applies the command that stands at `index` of the order. `applied` moves to `index` either way;
    /// a rejected command changes nothing else.
    ///
    /// # Errors
    /// [`Rejected`] says which rule the command broke.
    ///
    /// # Panics
    /// When `index` does not lie behind everything applied so far: the order itself would be broken.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Outcome, Rejected> {
        assert!(
            index > self.applied,
            "command applied out of order: {index} after {}",
            self.applied
        );
        // The command runs on a clone (a few counters): whatever it did before it found its reason to
        // refuse is dropped with it.
        let mut next = self.clone();
        let outcome = next.run(index, command);
        if outcome.is_ok() {
            *self = next;
        }
        self.applied = index;
        outcome
    }

    fn run(&mut self, index: u64, command: &Command) -> Result<Outcome, Rejected> {
        match command {
            Command::RegisterBroker(register) => self.register_broker(index, register),
            Command::UnfenceBroker { broker, epoch } => self.unfence_broker(*broker, *epoch),
            Command::FenceBroker { broker, epoch } => self.fence_broker(*broker, *epoch),
            Command::BeginShutdown { broker, epoch } => self.begin_shutdown(index, *broker, *epoch),
            Command::UnregisterBroker { broker } => self.unregister_broker(*broker),
            Command::ElectPreferred { topic_id, partition } => self.elect_preferred(*topic_id, *partition),
            Command::ElectUnclean(elect) => self.elect_unclean(elect),
            Command::Reassign(reassign) => self.reassign(reassign),
            Command::CreateTopic(create) => self.create_topic(create),
            Command::DeleteTopic { topic_id } => self.delete_topic(index, *topic_id),
            Command::TopicPurged { topic_id } => self.topic_purged(*topic_id),
            Command::AddPartitions {
                topic_id,
                assignments,
            } => self.add_partitions(*topic_id, assignments),
            Command::AlterConfigs { resource, ops } => self.alter_configs(*resource, ops),
            Command::AllocateProducerIds { broker, epoch, count } => {
                self.allocate_producer_ids(*broker, *epoch, *count)
            }
            Command::AlterPartition(alter) => self.alter_partition(alter),
            Command::CommitTier(commit) => self.commit_tier(commit),
            Command::AdvanceLogStart(advance) => self.advance_log_start(advance),
            Command::AcquireTable {
                topic_id,
                broker,
                epoch,
                leader_epoch,
            } => self.acquire_table(*topic_id, (*broker, *epoch), *leader_epoch),
            Command::CommitTable(commit) => self.commit_table(commit),
        }
    }

    /// # Errors
    /// When `broker` is not registered, or not in the uptime it claims.
    pub(super) fn check_broker(&self, broker: BrokerId, epoch: BrokerEpoch) -> Result<(), Rejected> {
        match self.brokers.get(&broker) {
            None => Err(Rejected::UnknownBroker(broker)),
            Some(known) if known.epoch == epoch => Ok(()),
            Some(known) => Err(Rejected::StaleBrokerEpoch {
                broker,
                current: known.epoch,
            }),
        }
    }

    /// The partition, if `broker` leads it in `leader_epoch` and is still the process that was elected.
    pub(super) fn led_by(
        &self,
        (topic, partition): (TopicId, i32),
        (broker, broker_epoch): (BrokerId, BrokerEpoch),
        leader_epoch: LeaderEpoch,
    ) -> Result<&Partition, Rejected> {
        let found = self.known_partition(topic, partition)?;
        self.check_broker(broker, broker_epoch)?;
        if found.leader != Some(broker) || found.leader_epoch != leader_epoch {
            return Err(Rejected::NotLeader {
                leader: found.leader,
                epoch: found.leader_epoch,
            });
        }
        Ok(found)
    }

    pub(super) fn known_partition(&self, topic: TopicId, partition: i32) -> Result<&Partition, Rejected> {
        let found = self.topics.get(&topic).ok_or(Rejected::UnknownTopic(topic))?;
        found
            .partition(partition)
            .ok_or(Rejected::UnknownPartition { topic, partition })
    }

    pub(super) fn known_topic_mut(&mut self, topic: TopicId) -> Result<&mut Topic, Rejected> {
        let found = self.topics.get_mut(&topic).ok_or(Rejected::UnknownTopic(topic))?;
        Ok(std::sync::Arc::make_mut(found))
    }

    pub(super) fn known_partition_mut(
        &mut self,
        topic: TopicId,
        partition: i32,
    ) -> Result<&mut Partition, Rejected> {
        let unknown = Rejected::UnknownPartition { topic, partition };
        let found = self.known_topic_mut(topic)?;
        let index = usize::try_from(partition).ok();
        index
            .and_then(|index| found.partitions.get_mut(index))
            .ok_or(unknown)
    }
}
