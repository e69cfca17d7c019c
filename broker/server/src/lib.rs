//! One Varve process: sockets, disks, threads.

pub mod wire;
