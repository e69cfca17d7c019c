//! What the brokers of one cluster agree on, and how each of them decides.
//!
//! Everything here is a plain state machine: no socket, no disk, no clock, no randomness, no async
//! runtime. Time, ids and chance come in as arguments; what must be done goes out as values. The same
//! calls in the same order give the same answers on every broker and in the simulator.
//!
//! - [`controller`]: the cluster's metadata: commands, the state they make, who leads what.
//! - [`topic_config`]: the one table of topic configuration keys.
//! - [`raft`]: the metadata quorum: who orders the commands, and when they are safe.
//! - [`replica`]: a leader's view of its replicas, and how far data is safe.
//! - [`groups`]: consumer groups, their committed offsets, and the records that keep both.
//!
//! It leaves storing, sending and waiting to `varve-server`.

pub mod controller;
pub mod groups;
pub mod ids;
pub mod raft;
pub mod replica;
pub mod topic_config;

pub use ids::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId, TopicName, TopicNameError};
