//! Faults of the past that the simulator can put back, to show that it would find them.
//!
//! [`super::Node`] is generic over [`Soundness`]. [`Sound`], the only implementation outside of the simulator, has no
//! faults and costs nothing: a node that can be broken is another type, which production code never names.

/// A fault of this or another implementation of Raft.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// Messages leave before the epoch and the vote they rest on are on the disk.
    SendBeforePersist,
    /// An entry of an earlier epoch is committed by counting replicas (Raft paper, figure 8).
    CommitEarlierEpoch,
    /// The middle of the acknowledgements is taken without sorting them (openraft #1802).
    CommitUnsorted,
    /// A fetch of another epoch counts as an acknowledgement (KIP-320).
    AckOfAnotherEpoch,
    /// A fetch counts as an acknowledgement before its lineage has been checked.
    AckBeforeLineage,
    /// The leader serves any fetch offset without looking at its epoch (KIP-595, KIP-101).
    NoDivergenceCheck,
    /// A new follower cuts its log to its own high watermark (KIP-101).
    TruncateToHighWatermark,
    /// A follower acknowledges what it has appended and not yet synced.
    AckUnsynced,
    /// A leader counts its own entries before it has synced them.
    LeaderCountsUnsynced,
    /// Votes go to candidates that hold less than the voter.
    VoteWithoutLogCheck,
    /// The vote is remembered by epoch only: a second candidate of the epoch gets it too.
    VoteTwice,
    /// A voter that hears from a leader grants pre-votes all the same, and any asker goes on to be a candidate
    /// (KIP-996: a node that comes back from a partition deposes a leader nobody else misses).
    PreVoteIgnored,
    /// A change of voters is accepted while another is not committed.
    TwoChangesAtOnce,
    /// A change of voters is accepted before the leader has committed in its own epoch
    /// (the bug of single-server changes, Ongaro 2015).
    ChangeBeforeEpochCommit,
    /// A leader that is removing itself still counts itself towards the majority.
    RemovedLeaderCounts,
    /// Replicas are told apart by node id alone: an empty disk passes for the one that was lost (KIP-853).
    DirectoryIgnored,
    /// After a snapshot is installed the epoch of its last entry is forgotten.
    SnapshotWithoutEpoch,
    /// After a snapshot is installed its voters are forgotten.
    SnapshotWithoutVoters,
    /// The log is emptied before the snapshot that replaces it is on the disk.
    ResetBeforeSnapshotDurable,
    /// The high watermark is taken for current without asking anyone.
    ConfirmWithoutQuorum,
    /// Proposals survive the loss of leadership and are answered by whatever is committed at their offset.
    AnswerOldProposals,
    /// A leader goes on leading when no majority fetches from it.
    NoQuorumCheck,
    /// A leader that was elected writes nothing of its own, so that what it inherited waits for the next proposal.
    NoLeaderChangeEntry,
    /// Replicas pass on a leader of whom they have only been told. (Found here: three that believed each other
    /// elected nobody.)
    RumouredLeader,
    /// Who is being removed cannot be elected, not even when nobody else can (Ongaro's thesis, 4.2.2; found here).
    RemovedCannotStand,
    /// Requests are counted from 0 again after a restart, so that late answers to an earlier life match.
    RequestNumbersRestart,
}

#[doc(hidden)]
impl Bug {
    pub const ALL: [Self; 26] = [
        Self::SendBeforePersist,
        Self::CommitEarlierEpoch,
        Self::CommitUnsorted,
        Self::AckOfAnotherEpoch,
        Self::AckBeforeLineage,
        Self::NoDivergenceCheck,
        Self::TruncateToHighWatermark,
        Self::AckUnsynced,
        Self::LeaderCountsUnsynced,
        Self::VoteWithoutLogCheck,
        Self::VoteTwice,
        Self::PreVoteIgnored,
        Self::TwoChangesAtOnce,
        Self::ChangeBeforeEpochCommit,
        Self::RemovedLeaderCounts,
        Self::DirectoryIgnored,
        Self::SnapshotWithoutEpoch,
        Self::SnapshotWithoutVoters,
        Self::ResetBeforeSnapshotDurable,
        Self::ConfirmWithoutQuorum,
        Self::AnswerOldProposals,
        Self::NoQuorumCheck,
        Self::NoLeaderChangeEntry,
        Self::RumouredLeader,
        Self::RemovedCannotStand,
        Self::RequestNumbersRestart,
    ];
}

/// Whether a fault is switched on.
#[doc(hidden)]
pub trait Soundness {
    fn has(&self, bug: Bug) -> bool;
}

/// Without faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sound;

impl Soundness for Sound {
    fn has(&self, _bug: Bug) -> bool {
        false
    }
}
