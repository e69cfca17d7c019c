//! The tier's commit point over the metadata quorum.

use crate::broker::Broker;
use crate::metadata::ProposeError;
use async_trait::async_trait;
use std::sync::{Arc, Weak};
use varve_cluster::controller::Command;
use varve_cluster::controller::command::CommitTier;
use varve_tiering::{CommitError, Committed, MetadataError, Proposal, TierMetadata, TierPartition};

/// See the module's first line. Holds the broker weakly: the broker owns the tier.
#[derive(Debug)]
pub(super) struct QuorumTier(Weak<Broker>);

impl QuorumTier {
    pub(super) fn new(broker: &Arc<Broker>) -> Self {
        Self(Arc::downgrade(broker))
    }
}

const STOPPING: &str = "the broker is stopping";

#[async_trait]
impl TierMetadata for QuorumTier {
    async fn current(&self, partition: TierPartition) -> Result<Committed, MetadataError> {
        let broker = self
            .0
            .upgrade()
            .ok_or_else(|| MetadataError::Unavailable(STOPPING.to_owned()))?;
        let view = broker.view();
        let found = view
            .partition(partition.topic, partition.index)
            .ok_or(MetadataError::Gone)?;
        Ok(Committed {
            pointer: found.tier.clone(),
            leader_epoch: found.leader_epoch,
            log_start: found.log_start,
        })
    }

    async fn commit(&self, proposal: &Proposal) -> Result<(), CommitError> {
        let broker = self
            .0
            .upgrade()
            .ok_or_else(|| CommitError::NotApplied(STOPPING.to_owned()))?;
        let commit = CommitTier {
            topic_id: proposal.partition.topic,
            partition: proposal.partition.index,
            broker: broker.id(),
            broker_epoch: broker.epoch,
            leader_epoch: proposal.leader_epoch,
            expected_version: proposal.expected_version,
            base: proposal.base,
            pointer: proposal.pointer.clone(),
        };
        match broker.propose(Command::CommitTier(commit)).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Rejected(why)) => Err(CommitError::Rejected(why.to_string())),
            Err(ProposeError::NotApplied(why)) => Err(CommitError::NotApplied(why)),
            Err(ProposeError::Unknown(why)) => Err(CommitError::Unknown(why)),
        }
    }

    async fn barrier(&self) -> Result<(), MetadataError> {
        // The only broker there is has applied what it proposed before the proposal was answered.
        Ok(())
    }
}
