//! What replicas say to each other, named after the Kafka requests that carry it: Vote (52), BeginQuorumEpoch (53),
//! EndQuorumEpoch (54), Fetch (1) and FetchSnapshot (59).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use varve_log::{LeaderEpoch, Offset};

use super::entry::{Entry, Position};
use super::voters::{NodeId, ReplicaKey, VoterSet};

/// A message on its way. A response carries the `id` of its request and goes back on the connection it came by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Envelope {
    pub from: ReplicaKey,
    pub to: NodeId,
    /// Unique among the requests of one process life of the asker.
    pub id: u64,
    /// The sender's epoch. In an answer to a request of another epoch it says who is behind.
    pub epoch: LeaderEpoch,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    Vote(VoteRequest),
    VoteResponse(VoteResponse),
    /// The sender leads the epoch of the envelope.
    BeginQuorumEpoch,
    /// `follows` when the responder is in that epoch and follows that leader.
    BeginQuorumEpochResponse {
        leader: Option<NodeId>,
        follows: bool,
    },
    /// The sender has stopped leading the epoch of the envelope, and would be followed by the first of these.
    EndQuorumEpoch {
        successors: Vec<ReplicaKey>,
    },
    Fetch(FetchRequest),
    FetchResponse(FetchResponse),
    FetchSnapshot(FetchSnapshotRequest),
    FetchSnapshotResponse(FetchSnapshotResponse),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VoteRequest {
    /// Whose vote is wanted. A node with another disk in the place of this one has none to give.
    pub voter: ReplicaKey,
    /// Only asks whether the vote would be given; nobody's epoch or vote changes (KIP-996).
    pub pre_vote: bool,
    /// The end of the asker's log.
    pub log_end: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VoteResponse {
    pub leader: Option<NodeId>,
    pub pre_vote: bool,
    pub granted: bool,
}

/// Also the acknowledgement of all below `log_end`, which is on the asker's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchRequest {
    pub log_end: Position,
    /// What the asker knows as such: a leader that knows more answers at once (KIP-1166).
    pub high_watermark: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchResponse {
    pub leader: Option<NodeId>,
    pub fetched: Fetched,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fetched {
    /// From the asker's log end on; none when nothing came in time.
    Entries {
        high_watermark: Offset,
        entries: Vec<Entry>,
    },
    /// The asker's log has parted from the leader's, which has nothing of the asker's last epoch past this.
    Diverging(Position),
    /// The leader's log begins later than the asker's ends.
    Snapshot(Position),
    /// The responder does not lead the asker's epoch.
    NotLeader,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchSnapshotRequest {
    pub snapshot: Position,
    /// In bytes of the image.
    pub from: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchSnapshotResponse {
    pub leader: Option<NodeId>,
    /// `None` when that snapshot is not there (any more), or the responder does not lead.
    pub chunk: Option<Chunk>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Chunk {
    pub snapshot: Position,
    pub voters: VoterSet,
    /// Where in the image this piece lies, and how long the image is. Bytes.
    pub from: usize,
    pub image_bytes: usize,
    pub piece: Bytes,
}
