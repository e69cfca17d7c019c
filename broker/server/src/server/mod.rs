//! Sockets: listeners, and the connections they hand to shards.

pub(crate) mod connection;
mod listener;
pub(crate) mod memory;
mod send;

pub(crate) use listener::{Bound, accept, bind};
