//! What nodes of one cluster say to each other beside Kafka's own requests.
//!
//! Each question travels in Kafka's Envelope (58) to the other node's controller listener: messages of the metadata
//! quorum, commands for its leader to judge, heartbeats. What replicas copy travels as Fetch to the listener named in
//! `inter.broker.listener.name`, as in Kafka.

mod balance;
mod controllers;
pub(crate) mod isr;
mod membership;
mod peer;
mod recovery;
pub(crate) mod replicas;
mod server;
mod throttle;

pub(crate) use controllers::Controllers;
pub(crate) use membership::Membership;
pub(crate) use peer::{Peer, PeerError};
pub(crate) use server::serve;
pub(crate) use throttle::Throttles;

use serde::{Deserialize, Serialize};
use varve_cluster::TopicId;
use varve_cluster::controller::command::ReplicaLog;
use varve_cluster::controller::{Heartbeat, HeartbeatAnswer, Rejected};
use varve_cluster::raft::Envelope;

use crate::metadata::replicated::{NotPlaced, Placed, QuorumView};

/// In front of each question and answer: the version of what follows.
const VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// A message of the metadata quorum.
    Quorum(Envelope),
    /// A command to judge, as JSON.
    Place(Vec<u8>),
    /// A broker is alive.
    Heartbeat(Heartbeat),
    /// How the quorum stands.
    Describe,
    /// What this broker's logs of these partitions hold.
    Logs(Vec<PartitionKey>),
}

/// A topic's id and a partition's index.
pub(crate) type PartitionKey = (TopicId, i32);

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Quorum(Option<Envelope>),
    Place(Result<Placed, NotPlaced>),
    /// `None`: this node does not lead the quorum.
    Heartbeat(Option<Result<HeartbeatAnswer, Rejected>>),
    /// `None`: this node does not lead the quorum.
    Describe(Option<QuorumView>),
    /// One for each that was asked for; `None` for those that are not open here.
    Logs(Vec<Option<ReplicaLog>>),
}

fn encode(message: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = vec![VERSION];
    bytes.extend(postcard::to_stdvec(message).ok()?);
    Some(bytes)
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match bytes.split_first() {
        Some((&VERSION, message)) => postcard::from_bytes(message).ok(),
        _ => None,
    }
}
