//! Leaving, on purpose or by silence.

use super::{Effect, Group, GroupState, Leaver, refuse_waiting};
use crate::groups::GroupError;

impl Group {
    /// Members leave, each with its own answer.
    ///
    /// # Errors
    /// When the whole request has no one to answer it.
    pub fn leave(
        &mut self,
        leavers: &[Leaver],
        now: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let before = self.members.len();
        let answers = leavers
            .iter()
            .map(|leaver| self.leave_one(leaver, effects))
            .collect();
        self.after_departure(self.members.len() < before, now, effects);
        Ok(answers)
    }

    fn leave_one(&mut self, leaver: &Leaver, effects: &mut Vec<Effect>) -> Result<(), GroupError> {
        if let (true, Some(instance)) = (leaver.member_id.is_empty(), &leaver.instance_id) {
            let id = self
                .instances
                .get(instance)
                .cloned()
                .ok_or(GroupError::UnknownMember)?;
            self.remove(&id, effects);
            return Ok(());
        }
        if self.pending.remove(&leaver.member_id).is_some() {
            return Ok(());
        }
        self.check_member(&leaver.member_id, leaver.instance_id.as_deref())?;
        self.remove(&leaver.member_id, effects);
        Ok(())
    }

    /// The earliest time at which [`Group::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        let sessions = self.members.values().filter(|member| member.can_expire());
        let sessions = sessions.map(|member| member.session_deadline);
        let joining = self.rebalance.as_ref().map(|rebalance| rebalance.deadline);
        let pending = self.pending.values().copied();
        sessions
            .chain(pending)
            .chain(joining)
            .chain(self.sync_deadline)
            .min()
    }

    /// What time has brought: sessions that are over, members that are overdue.
    pub fn tick(&mut self, now: i64, effects: &mut Vec<Effect>) {
        if self.state == GroupState::Dead {
            return;
        }
        let before = self.members.len();
        self.pending.retain(|_, deadline| *deadline > now);
        let silent: Vec<String> = self
            .members
            .values()
            .filter(|member| member.can_expire() && member.session_deadline <= now)
            .map(|member| member.id.clone())
            .collect();
        for id in silent {
            self.remove(&id, effects);
        }
        self.expire_overdue_syncs(now, effects);
        self.after_departure(self.members.len() < before, now, effects);
        self.rebalance_deadline(now, effects);
    }

    /// Members that were told their generation and never came for their assignment.
    fn expire_overdue_syncs(&mut self, now: i64, effects: &mut Vec<Effect>) {
        if self.sync_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.sync_deadline = None;
        let overdue = self.members.values().filter(|member| member.owes_sync);
        let overdue: Vec<String> = overdue.map(|member| member.id.clone()).collect();
        for id in overdue {
            self.remove(&id, effects);
        }
    }

    /// If members have left, the others share out anew. If only a pending one has, nobody needs to wait for it.
    fn after_departure(&mut self, members_left: bool, now: i64, effects: &mut Vec<Effect>) {
        let assigned = matches!(self.state, GroupState::Stable | GroupState::CompletingRebalance);
        if assigned && members_left {
            self.rebalance(now, effects);
        }
        self.complete_join_if_all_in(now, effects);
    }

    pub(super) fn remove(&mut self, member_id: &str, effects: &mut Vec<Effect>) {
        self.pending.remove(member_id);
        let Some(mut member) = self.members.remove(member_id) else {
            return;
        };
        refuse_waiting(&mut member, GroupError::UnknownMember, effects);
        if let Some(instance) = &member.instance_id
            && self.instances.get(instance) == Some(&member.id)
        {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }
}
