//! Consumer groups of the classic protocol, what they have committed, and the records that keep both.
//!
//! - [`classic`]: one group: who is in it, in which generation, and who still waits for an answer.
//! - [`offsets`]: what a group has committed, and when that may be forgotten.
//! - [`records`]: `__consumer_offsets`, byte for byte Kafka's.
//! - [`shard`]: all groups of one `__consumer_offsets` partition: a fold over its records.
//!
//! Nothing here reads a clock, makes up an id or waits: time and ids come in, answers and records go out.

pub mod classic;
mod member;
pub mod offsets;
pub mod records;
pub mod shard;
mod subscription;

#[cfg(test)]
mod tests;

pub use classic::{
    Caller, Effect, Group, GroupState, Join, JoinAnswer, JoinRefused, JoinedMember, Leaver, Settings,
    StoreId, Sync, SyncAnswer, Ticket,
};
pub use member::{Member, MemberDescription, Protocol};
pub use offsets::{Committed, Offsets};
pub use shard::Shard;
pub use subscription::topics_of_subscription;

/// Why a group does not do what was asked. Each is an error code of Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("the group is gone or moving: find its coordinator again")]
    CoordinatorNotAvailable,
    #[error("generation is not the group's")]
    IllegalGeneration,
    #[error("members have no protocol in common")]
    InconsistentProtocol,
    #[error("member is not in the group")]
    UnknownMember,
    #[error("session timeout is outside the allowed range")]
    InvalidSessionTimeout,
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    #[error("join again with the member id given")]
    MemberIdRequired,
    #[error("another process has joined under this group.instance.id")]
    FencedInstance,
    #[error("the group is full")]
    GroupFull,
    #[error("the group has members")]
    NonEmpty,
    #[error("a member of the group is subscribed to the topic")]
    SubscribedToTopic,
    /// The group's state could not be made durable; nothing has changed.
    #[error("the group's state could not be stored")]
    NotStored,
}
