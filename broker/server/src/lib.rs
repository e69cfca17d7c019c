//! One Varve process: sockets, disks and threads around the pure crates. Start reading at [`node`].

mod api;
mod broker;
pub mod cli;
mod clock;
mod cluster;
mod complaints;
pub mod config;
mod coordinators;
mod dirs;
pub mod exposition;
mod housekeeping;
mod http;
mod latency;
pub mod metadata;
mod metrics;
pub mod node;
mod partition;
mod producer_ids;
mod retention;
mod server;
mod shard;
mod tables;
mod tier;
mod topic_settings;
pub mod wire;
