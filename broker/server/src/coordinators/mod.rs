//! Consumer groups, carried out: `varve_cluster::groups` decides, this folder appends, waits and answers.
//!
//! - [`groups`]: which partition of `__consumer_offsets` keeps a group, and whether it is loaded here.
//! - [`coordinator`]: one such partition, loaded: every change is in its log before it is answered.
//! - [`loading`]: reading a partition back.
//! - [`upkeep`]: timers, expiry, and keeping the log of the internal topic short.

mod coordinator;
mod groups;
mod loading;
mod topic;
mod upkeep;

pub(crate) use coordinator::{Commit, Durable, code};
pub(crate) use groups::Groups;
pub(crate) use topic::{CONFIGS as TOPIC_CONFIGS, NAME as OFFSETS_TOPIC};

#[cfg(test)]
mod tests;
