//! What a replica is told, and what it wants done.

use std::sync::Arc;

use bytes::Bytes;
use varve_log::{LeaderEpoch, Offset};

use super::entry::{Entry, Position, QuorumState, Snapshot};
use super::message::Envelope;
use super::voters::{NodeId, ReplicaKey};

/// The caller's name for something it waits for. Not given twice in one process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Every step also looks at the time; `Tick` is that alone.
#[derive(Clone, Debug)]
pub enum Event {
    Tick,
    Received(Envelope),
    /// A request will get no answer. `refused`: its node answers for itself that nobody listens there, so that the
    /// process is gone; whoever followed it need not wait until its silence has lasted.
    Unanswered {
        to: NodeId,
        id: u64,
        refused: bool,
    },
    /// All writes up to this one are on stable storage. A write that fails is never reported: the process ends.
    Written(u64),
    /// Answered by [`Answer::Committed`], [`Answer::Refused`] or [`Answer::Unknown`].
    Propose {
        ticket: Ticket,
        command: Bytes,
    },
    /// Asks for a high watermark that no other leader has gone past before the question (a linearizable read
    /// waits until it has applied that much). Answered by [`Answer::Confirmed`] or [`Answer::Refused`].
    Confirm {
        ticket: Ticket,
    },
    /// Gives a caught-up observer a vote. Answered like a proposal.
    AddVoter {
        ticket: Ticket,
        voter: ReplicaKey,
        address: Arc<str>,
    },
    /// Answered like a proposal. A leader that removes itself leads until that is committed.
    RemoveVoter {
        ticket: Ticket,
        voter: ReplicaKey,
    },
    /// The state machine has made an image of all commands below `end`, which is committed.
    SnapshotTaken {
        end: Offset,
        image: Bytes,
    },
    /// If this is the leader: hand over to whoever has come furthest.
    Resign,
}

/// To be carried out in the order given. Writes may be gathered into one sync.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Numbered from 1 without a gap. [`Event::Written`] says that it is durable, and all before it.
    Write {
        number: u64,
        write: Write,
    },
    Send(Envelope),
    /// All below is committed: apply it ([`super::Node::entries`]).
    Committed {
        high_watermark: Offset,
    },
    /// The state machine is to be replaced by this snapshot's image. What it had applied is part of it.
    Load(Snapshot),
    Became {
        role: RoleName,
        epoch: LeaderEpoch,
        leader: Option<NodeId>,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
}

/// Three files: writes to one are in order on the disk; between files only [`Event::Written`] orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Replaces the quorum state, as a whole or not at all.
    QuorumState(QuorumState),
    /// Puts entries after the log's end, the first at `base`. After a crash a prefix of them may be there.
    Append { base: Offset, entries: Vec<Entry> },
    /// The log ends at `end` now.
    Truncate { end: Offset },
    /// The log begins at `start` now; what lies below may be deleted.
    DropPrefix { start: Position },
    /// The log is empty now, and begins and ends at `start`.
    Reset { start: Position },
    /// Replaces the snapshot, as a whole or not at all.
    Snapshot(Snapshot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Knows an epoch and no leader.
    Unattached,
    /// Asks whether it would be elected.
    Prospective,
    Candidate,
    Leader,
    /// Also an observer that has found the leader.
    Follower,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is at this offset for ever.
    Committed {
        offset: Offset,
    },
    Confirmed {
        high_watermark: Offset,
    },
    /// It has not happened and will not.
    Refused(Refusal),
    /// Leadership was lost before it was known. It may have happened, or may yet.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("this node does not lead the metadata quorum")]
    NotLeader { leader: Option<NodeId> },
    #[error("too many proposals are waiting")]
    Busy,
    /// Also while the leader has not yet committed anything in its own epoch.
    #[error("an earlier change of the voters is not committed yet")]
    ChangeUnderWay,
    #[error("the replica has not caught up with the leader")]
    NotCaughtUp,
    #[error("a replica of that node is a voter already")]
    IsVoter,
    #[error("the replica is not a voter")]
    NotVoter,
    #[error("the last voter cannot be removed")]
    LastVoter,
}
