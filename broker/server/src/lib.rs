//! One Varve process: sockets, disks and threads around the pure crates.

pub mod cli;
pub mod wire;
