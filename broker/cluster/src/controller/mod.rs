//! The cluster's metadata as a state machine: one total order of [`Command`]s, one [`State`] they make.
//!
//! Topics, configuration, registrations, leadership, in-sync replicas, tier pointers, table progress and
//! producer ids share one order on purpose: a deposed leader's commit stands either before the change of
//! leader, and the new leader sees it, or after it, and is refused.
//!
//! [`State::apply`] is total and deterministic, and a rejected command changes nothing. Storing the
//! order, and agreeing on it, belongs to `MetadataQuorum` in the server.

mod apply;
pub mod balance;
mod brokers;
pub mod command;
mod election;
mod heartbeats;
mod isr;
pub mod placement;
mod reassign;
pub mod state;
mod tables;
mod tier;
mod topics;
pub mod unclean;

#[cfg(test)]
mod replication_tests;
#[cfg(test)]
mod tests;

pub use apply::{Outcome, Rejected};
pub use command::{Command, ConfigOp, ConfigResource, IsrMember, Listener};
pub use heartbeats::{Heartbeat, HeartbeatAnswer, Heartbeats};
pub use state::{Broker, Partition, State, Table, TierPointer, Tombstone, Topic};
