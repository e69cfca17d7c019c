//! What the metadata log is made of, and what stands in for its beginning.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use varve_log::{LeaderEpoch, Offset};

use super::voters::{NodeId, ReplicaKey, VoterSet};

/// Everything below `end`, the last entry of which is of `epoch`: the end of a log, a snapshot's name, the place
/// a fetch asks from (Kafka's OffsetAndEpoch). The empty log is `(0, 0)`.
///
/// Two logs that agree on a position agree on all below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    pub end: Offset,
    pub epoch: LeaderEpoch,
}

impl Position {
    /// Raft's "at least as up to date": the later epoch wins, then the longer log.
    pub(super) fn holds_as_much_as(self, other: Self) -> bool {
        (self.epoch, self.end) >= (other.epoch, other.end)
    }
}

/// One place in the log. Its offset is where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    pub epoch: LeaderEpoch,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Payload {
    /// The first entry of each epoch (Kafka's LeaderChangeMessage): once it is committed, so is all before it.
    LeaderChange { leader: NodeId, voters: VoterSet },
    /// The voters from here on (KIP-853). They count as soon as they are appended.
    Voters(VoterSet),
    /// What was proposed.
    Command(Bytes),
}

impl Payload {
    pub(super) const fn voters(&self) -> Option<&VoterSet> {
        match self {
            Self::LeaderChange { voters, .. } | Self::Voters(voters) => Some(voters),
            Self::Command(_) => None,
        }
    }
}

/// What a replica may never forget: how far time has come, and whom it voted for in this epoch. Written and
/// synced before anything that depends on it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumState {
    pub epoch: LeaderEpoch,
    pub voted: Option<ReplicaKey>,
}

/// The state that all commands below `position.end` have made, in place of those commands (KIP-630).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub position: Position,
    pub voters: VoterSet,
    /// The state machine's own encoding.
    pub image: Bytes,
}
