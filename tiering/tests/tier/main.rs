//! The tier from the outside: a bucket in a directory or one that misbehaves, a quorum in memory, logs to upload.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod faults;
mod model;
mod path;
mod store;
mod support;
