//! The cluster's metadata as this process reaches it: propose a command, read the state, follow its changes.
//!
//! [`MetadataQuorum`] is the seam. [`SingleNode`] is a quorum of one: an append-only log on the first log
//! directory. [`Simulated`] lives in memory, and is late, forgetful and ambiguous on demand. One suite
//! (`suite`) runs on both.

mod disk_log;
mod frames;
pub mod identity;
pub mod quorum;
mod raft_files;
pub(crate) mod replicated;
pub mod simulated;
pub mod single_node;

#[cfg(test)]
mod suite;

pub use identity::{Identity, IdentityError};
pub use quorum::{MetadataQuorum, ProposeError};
pub use simulated::{Faults, Simulated};
pub use single_node::{OpenError, SingleNode};
