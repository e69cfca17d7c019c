//! Leaderships go back to their preferred replicas, every so often, where the metadata quorum leads
//! (`auto.leader.rebalance.enable`).

use std::time::Instant;

use varve_cluster::controller::State;
use varve_cluster::controller::balance::preferred_elections;

use super::Membership;
use crate::config::LeaderBalance;

/// Elections in one turn; the others have theirs next.
const AT_ONCE: usize = 1_000;

/// When it is due next. A new leader of the quorum waits a whole interval first: brokers may just be coming back.
#[derive(Debug)]
pub(super) struct Balance {
    settings: Option<LeaderBalance>,
    looked_at: Instant,
}

impl Balance {
    pub(super) fn new(settings: Option<LeaderBalance>) -> Self {
        Self {
            settings,
            looked_at: Instant::now(),
        }
    }

    /// One look; `leads` says whether the quorum is led here.
    pub(super) fn look(&mut self, leads: bool, member: &Membership, state: &State) {
        let Some(settings) = &self.settings else { return };
        if !leads {
            self.looked_at = Instant::now();
        }
        if self.looked_at.elapsed() < settings.every {
            return;
        }
        self.looked_at = Instant::now();
        let due = preferred_elections(state, settings.percentage, AT_ONCE);
        if !due.is_empty() {
            tracing::info!(
                partitions = due.len(),
                "leaderships go back to their preferred replicas"
            );
        }
        due.into_iter().for_each(|elect| member.propose_aside(elect));
    }
}
