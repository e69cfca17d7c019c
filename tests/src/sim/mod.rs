//! The simulator: whole clusters of the pure state machines in one thread, under a virtual clock, on a network and on
//! disks that fail as often as the seed wants.
//!
//! ```text
//!   scenario (quorum, cluster)   what runs, what clients ask, which faults, what must hold
//!        |
//!   world      one queue of events in virtual time: deliver, wake, synced, boot, the scenario's own
//!     |-- network   lost, late, twice, out of order, cut
//!     |-- disk      what was not synced is lost in a crash, or torn; writes fail
//!     `-- machine   one node of the scenario: starts from its disk, takes an input, gives outputs
//! ```
//! One seed gives one run, to the last byte of its trace. A run has a phase of faults, in which only safety is asked
//! for, and a calm one, in which everything must come to rest: what does not is stuck.

pub mod chance;
pub mod cluster;
pub mod disk;
pub mod network;
pub mod quorum;
pub mod world;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seed: u64,
    /// Microseconds of virtual time.
    pub simulated: i64,
    pub events: u64,
    /// Commands in the history at the end; in the cluster, acknowledged batches.
    pub commands: usize,
    /// Leaders there were.
    pub epochs: usize,
    pub failure: Option<Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Something that must never be, was.
    Violation(String),
    /// With all faults over, it did not come to rest.
    Stuck(String),
}
