//! What this crate needs from the metadata quorum: the one place where an upload becomes part of the log.

use crate::TierPartition;
use async_trait::async_trait;
use varve_cluster::controller::TierPointer;
use varve_log::{LeaderEpoch, Offset};

/// The server implements it over its quorum. All of it speaks of committed state.
#[async_trait]
pub trait TierMetadata: Send + Sync {
    /// The state as of now: everything that was committed before the call is in it. A broker's own view that may
    /// lag behind is not enough, because this is how the outcome of a commit nobody answered is found out.
    async fn current(&self, partition: TierPartition) -> Result<Committed, MetadataError>;

    /// Compare-and-set, as `CommitTier` does it: refused unless the sender leads under `leader_epoch` and the
    /// pointer's version is the expected one. The same proposal may be made twice; at most one is accepted.
    async fn commit(&self, proposal: &Proposal) -> Result<(), CommitError>;

    /// Returns once no live broker can still begin a read by a state older than what is committed now.
    async fn barrier(&self) -> Result<(), MetadataError>;
}

/// What the quorum holds of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub pointer: Option<TierPointer>,
    pub leader_epoch: LeaderEpoch,
    pub log_start: Offset,
}

/// `CommitTier`, without the broker's own identity, which the server adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub partition: TierPartition,
    pub leader_epoch: LeaderEpoch,
    /// 0: there was none.
    pub expected_version: u64,
    /// Where what is new begins; `pointer.end` when nothing is.
    pub base: Offset,
    pub pointer: TierPointer,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The topic was deleted. Everything under its id may go.
    #[error("partition does not exist any more")]
    Gone,
    #[error("metadata quorum does not answer. cause={0}")]
    Unavailable(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Decided: no.
    #[error("tier commit was refused. cause={0}")]
    Rejected(String),
    /// It was never proposed.
    #[error("tier commit was not proposed. cause={0}")]
    NotApplied(String),
    /// It may have been accepted, or may yet be.
    #[error("outcome of the tier commit is unknown. cause={0}")]
    Unknown(String),
}

impl Committed {
    pub(crate) fn version(&self) -> u64 {
        self.pointer.as_ref().map_or(0, |pointer| pointer.version)
    }
}
