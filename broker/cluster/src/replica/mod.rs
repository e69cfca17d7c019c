//! One partition's replicas: what a leader knows of its followers, and what a follower does with what it gets.
//!
//! ```text
//! follower                                     leader
//! Follower::ask ── Ask ─────────────────────►  serve ── lineage, range ─► ReadPlan
//! Follower::take ◄── Answer (batches, ends) ──┘   └──► Leader::fetched ─► high watermark, ISR
//!   ├─ Appended                                         Leader::ask ────► AlterPartition
//!   ├─ Cut      (run the truncation, ask again)
//!   └─ Rebuild  (from the tier, or from nothing)
//! ```
//! [`fetcher`] puts the partitions that one broker follows at another into one request after the other; [`throttle`] says
//! when those may go that an operator has slowed down.

pub mod fetcher;
pub mod follower;
pub mod leader;
pub mod serve;
pub mod throttle;

pub use fetcher::ReplicaFetcher;
pub use follower::{Follower, Rebuild, Step};
pub use leader::{Durability, Fetched, IsrAnswer, IsrChange, Leader, Settings};
pub use serve::{Answer, Ask, Refusal, Served, serve, take_over};
pub use throttle::Throttle;
