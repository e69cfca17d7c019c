//! A partition's part in replication: what its leader gives to followers, and what a follower does with it. The rules
//! are `varve_cluster::replica`'s; here they meet the lock and the disk.

use super::role::Role;
use super::{Partition, State};
use bytes::Bytes;
use parking_lot::MutexGuard;
use std::sync::Arc;
use tokio::sync::Notify;
use varve_cluster::replica::follower::Cut;
use varve_cluster::replica::{
    Answer, Ask, Follower, IsrAnswer, IsrChange, Rebuild, Refusal, Served, Step, serve,
};
use varve_cluster::{BrokerEpoch, BrokerId};
use varve_log::{LeaderEpoch, Offset, Seed, Timestamp, Truncation};

impl Partition {
    /// Answers a follower's fetch.
    pub(crate) fn serve_follower(&self, ask: &Ask, limits: (usize, bool), now: Timestamp) -> Served {
        let mut state = self.state.lock();
        let State { role, log, .. } = &mut *state;
        let Role::Leading(leader) = role else {
            return Served {
                answer: Answer::Refused(Refusal::NotLeader),
                advanced: None,
            };
        };
        let served = serve(leader, log, ask, limits, now.value());
        if served.advanced.is_some() {
            state.advance();
            state.waiters.wake_fetches();
        }
        served
    }

    /// Whether `replica` is to be given no more than the throttle allows: an operator says so of this leader, and the replica is
    /// not in sync.
    pub(crate) fn throttles(&self, replica: BrokerId) -> bool {
        let state = self.state.lock();
        let in_sync = |isr: &[BrokerId]| isr.contains(&replica);
        state.config.leader_throttled.holds(self.id.index, self.me.id)
            && state.role.leading().is_some_and(|leader| !in_sync(leader.isr()))
    }

    /// Wakes a follower's fetch when there is more to copy; `false` if there is already more than `seen`.
    pub(crate) fn watch_end(&self, fetch: &Arc<Notify>, seen: Offset) -> bool {
        let mut state = self.state.lock();
        if state.log.written_end() > seen || state.dead || state.role.leading().is_none() {
            return false;
        }
        state.waiters.watch_copy(fetch);
        true
    }

    /// Takes [`Self::watch_end`] back.
    pub(crate) fn unwatch_end(&self, fetch: &Arc<Notify>) {
        self.state.lock().waiters.unwatch_copy(fetch);
    }

    /// Whom this broker copies the partition from.
    pub(crate) fn follows(&self) -> Option<BrokerId> {
        match &self.state.lock().role {
            Role::Following(follower) => Some(follower.leader()),
            Role::Leading(_) | Role::Waiting { .. } => None,
        }
    }

    /// The follower's next question.
    pub(crate) fn ask(&self) -> Option<Ask> {
        let state = self.state.lock();
        match &state.role {
            Role::Following(follower) if !state.dead => Some(follower.ask(&state.log)),
            Role::Following(_) | Role::Leading(_) | Role::Waiting { .. } => None,
        }
    }

    /// What must happen before the first question, and in which leader epoch.
    pub(crate) fn prepare(&self) -> Option<(Rebuild, LeaderEpoch)> {
        let state = self.state.lock();
        let tier_end = state.tier.as_ref().map(|tier| tier.end);
        match &state.role {
            Role::Following(follower) => Some((follower.prepare(&state.log, tier_end)?, follower.epoch())),
            Role::Leading(_) | Role::Waiting { .. } => None,
        }
    }

    /// Takes the leader's answer. The write turn, and what the step asks for, are the caller's.
    pub(crate) fn take(&self, asked: &Ask, answer: Answer<Bytes>, now: Timestamp) -> Step {
        let mut state = self.state.lock();
        let tier_end = state.tier.as_ref().map(|tier| tier.end);
        let State { role, log, .. } = &mut *state;
        match role {
            Role::Following(follower) => follower.take(log, asked, answer, tier_end, now),
            Role::Leading(_) | Role::Waiting { .. } => Step::Stale,
        }
    }

    /// Takes off the log's end what the leader of `epoch` does not have. Blocks.
    pub(crate) fn cut(self: &Arc<Self>, cut: Cut, epoch: LeaderEpoch) -> Result<(), varve_log::Error> {
        let Some(mut state) = self.still(epoch) else {
            return Ok(());
        };
        if let Cut::To { to, committed } = cut
            && committed > 0
        {
            tracing::warn!(partition = %self.id, to = to.value(), committed, "an unclean election has taken back committed records");
        }
        let Some(truncation) = cut.plan(&mut state.log)? else {
            return Ok(());
        };
        let end = self.carry_out(&mut state, truncation)?;
        if let Role::Following(follower) = &mut state.role {
            follower.cut_to(end);
        }
        Ok(())
    }

    /// Begins the log anew, as a follower in `epoch`. Blocks.
    pub(crate) fn restart_at(
        self: &Arc<Self>,
        seed: Seed,
        epoch: LeaderEpoch,
    ) -> Result<(), varve_log::Error> {
        let Some(mut state) = self.still(epoch) else {
            return Ok(());
        };
        let restart = state.log.restart_at(seed)?;
        let at = self.carry_out(&mut state, restart)?;
        if let Role::Following(follower) = &mut state.role {
            follower.rebuilt(at);
        }
        Ok(())
    }

    /// The state with everything written and synced, if this broker still follows in `epoch`: meanwhile metadata may have
    /// given it another role, and a leader's log is never cut.
    fn still(self: &Arc<Self>, epoch: LeaderEpoch) -> Option<MutexGuard<'_, State>> {
        loop {
            self.write_turn();
            self.sync();
            let mut state = self.when_free();
            let follows = matches!(&state.role, Role::Following(follower) if follower.epoch() == epoch);
            if !follows || state.dead {
                return None;
            }
            if state.log.is_still() {
                return Some(state);
            }
            // Another thread has a turn out.
            self.turned.wait(&mut state);
        }
    }

    /// Runs it outside the lock; returns the log's new end.
    fn carry_out(
        &self,
        state: &mut MutexGuard<'_, State>,
        truncation: Truncation,
    ) -> Result<Offset, varve_log::Error> {
        let truncated = self.holding(state, || truncation.run());
        state.log.truncated(truncated)
    }

    /// The change of the ISR that is due, if this broker leads.
    pub(crate) fn isr_change(
        &self,
        now: Timestamp,
        eligible: impl Fn(BrokerId, BrokerEpoch) -> bool,
    ) -> Option<IsrChange> {
        self.state.lock().role.leading_mut()?.ask(now.value(), eligible)
    }

    /// What became of it.
    pub(crate) fn isr_answered(&self, change: &IsrChange, answer: IsrAnswer) {
        let mut state = self.state.lock();
        let moved = state
            .role
            .leading_mut()
            .and_then(|leader| leader.answered(change, answer));
        if moved.is_some() {
            state.advance();
            state.waiters.wake_fetches();
        }
    }
}

/// Followership as metadata gives it.
pub(super) const fn follow(
    me: (BrokerId, BrokerEpoch),
    leader: (BrokerId, LeaderEpoch),
    high_watermark: Offset,
) -> Role {
    Role::Following(Follower::begin(me, leader, high_watermark))
}
