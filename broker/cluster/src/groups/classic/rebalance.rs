//! From one generation to the next: waiting for members, choosing a protocol, handing out assignments.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Effect, Group, GroupState, Initial, JoinRefused, Rebalance, Replaced, StoreId, Storing, Sync, SyncAnswer,
};
use crate::groups::GroupError;
use crate::groups::member::Member;
use crate::groups::records::GroupValue;

impl Group {
    /// Begins a rebalance, or takes part in the one under way.
    pub(super) fn rebalance(&mut self, now: i64, effects: &mut Vec<Effect>) {
        match self.state {
            GroupState::PreparingRebalance | GroupState::Dead => return,
            GroupState::Empty => {
                let delay = self.settings.initial_rebalance_delay_ms;
                let left_ms = (self.rebalance_timeout() - delay).max(0);
                let initial = Some(Initial { left_ms, grew: false });
                self.rebalance = Some(Rebalance {
                    deadline: now.saturating_add(delay),
                    initial,
                });
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.refuse_syncs(GroupError::RebalanceInProgress, now, effects);
                let deadline = now.saturating_add(self.rebalance_timeout());
                self.rebalance = Some(Rebalance {
                    deadline,
                    initial: None,
                });
            }
        }
        self.sync_deadline = None;
        self.enter(GroupState::PreparingRebalance, now);
    }

    /// The next generation begins as soon as everybody has joined.
    pub(super) fn complete_join_if_all_in(&mut self, now: i64, effects: &mut Vec<Effect>) {
        let Some(rebalance) = &self.rebalance else { return };
        if rebalance.initial.is_some() {
            // A new group has no idea who else will come: only its delay ends the wait.
            return self.rebalance_deadline(now, effects);
        }
        if self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some()) {
            self.complete_join(now, effects);
        }
    }

    /// Time is up for those who have not joined.
    pub(super) fn rebalance_deadline(&mut self, now: i64, effects: &mut Vec<Effect>) {
        let due = self
            .rebalance
            .as_ref()
            .is_some_and(|rebalance| now >= rebalance.deadline);
        if due && self.initial_over(now) {
            self.complete_join(now, effects);
        }
    }

    /// A new group's delay begins again while members keep coming, up to their rebalance timeout in all.
    fn initial_over(&mut self, now: i64) -> bool {
        let delay = self.settings.initial_rebalance_delay_ms;
        let Some(rebalance) = &mut self.rebalance else {
            return true;
        };
        let Some(initial) = &mut rebalance.initial else {
            return true;
        };
        if !initial.grew || initial.left_ms == 0 || delay == 0 {
            return true;
        }
        initial.grew = false;
        rebalance.deadline = now.saturating_add(delay.min(initial.left_ms));
        initial.left_ms = (initial.left_ms - delay).max(0);
        false
    }

    fn complete_join(&mut self, now: i64, effects: &mut Vec<Effect>) {
        // Static members may be restarting: they stay until their session is over.
        let absent = |member: &&Member| member.joining.is_none() && !member.is_static();
        let gone: Vec<String> = self
            .members
            .values()
            .filter(absent)
            .map(|member| member.id.clone())
            .collect();
        for id in gone {
            self.remove(&id, effects);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Only absent static members are left; nobody could lead. Wait for one of them.
            let deadline = now.saturating_add(self.rebalance_timeout());
            self.rebalance = Some(Rebalance {
                deadline,
                initial: None,
            });
            return;
        }
        self.rebalance = None;
        self.generation = self.generation.wrapping_add(1).max(0);
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.enter(GroupState::Empty, now);
            let value = self.value(&BTreeMap::new(), now);
            self.store(Storing::Emptied, value, effects);
            return;
        }
        self.protocol = self.select_protocol();
        self.enter(GroupState::CompletingRebalance, now);
        self.sync_deadline = Some(now.saturating_add(self.rebalance_timeout()));
        self.answer_joins(now, effects);
    }

    fn answer_joins(&mut self, now: i64, effects: &mut Vec<Effect>) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let leads = self.leader.as_ref() == Some(&id);
            let answer = self.joined(&id, leads);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.new = false;
            member.owes_sync = true;
            if let Some(ticket) = member.joining.take() {
                member.seen(now);
                effects.push(Effect::Joined {
                    ticket,
                    answer: Ok(answer),
                });
            }
        }
    }

    /// The leader stays if it has joined; else the first who has. False if nobody has.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &String| {
            self.members
                .get(id)
                .is_some_and(|member| member.joining.is_some())
        };
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let first = self.members.values().find(|member| member.joining.is_some());
        let found = first.map(|member| member.id.clone());
        let elected = found.is_some();
        if elected {
            self.leader = found;
        }
        elected
    }

    /// Of the protocols all members speak, the one most of them would rather have; between equals, the
    /// leader's choice.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let all_speak = |name: &str| self.members.values().all(|member| member.speaks(name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let choice = member
                .protocols
                .iter()
                .find(|protocol| all_speak(&protocol.name))?;
            *votes.entry(&choice.name).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        let leaders = leader
            .iter()
            .flat_map(|leader| &leader.protocols)
            .map(|protocol| protocol.name.as_str());
        let ranked = leaders.chain(votes.keys().copied());
        ranked
            .into_iter()
            .find(|name| votes.get(name) == Some(&most))
            .map(str::to_owned)
    }

    /// A member asks for its assignment; the leader brings everybody's. The answer is an effect.
    pub fn sync(&mut self, sync: Sync, now: i64, effects: &mut Vec<Effect>) {
        let ticket = sync.ticket;
        if let Err(error) = self.try_sync(sync, now, effects) {
            effects.push(Effect::Synced {
                ticket,
                answer: Err(error),
            });
        }
    }

    fn try_sync(&mut self, sync: Sync, now: i64, effects: &mut Vec<Effect>) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let caller = &sync.caller;
        self.check_member(&caller.member_id, caller.instance_id.as_deref())?;
        self.check_generation(caller.generation)?;
        let differs = |said: &Option<String>, is: &Option<String>| said.is_some() && said != is;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        self.seen(&caller.member_id, now);
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMember),
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::Stable => {
                let answer = self.synced(&caller.member_id);
                effects.push(Effect::Synced {
                    ticket: sync.ticket,
                    answer: Ok(answer),
                });
                self.no_longer_owes(&caller.member_id);
                Ok(())
            }
            GroupState::CompletingRebalance => {
                self.await_assignment(sync, now, effects);
                Ok(())
            }
        }
    }

    fn await_assignment(&mut self, sync: Sync, now: i64, effects: &mut Vec<Effect>) {
        let member_id = sync.caller.member_id;
        self.no_longer_owes(&member_id);
        let Some(member) = self.members.get_mut(&member_id) else {
            return;
        };
        if let Some(older) = member.syncing.replace(sync.ticket) {
            // The same member asked before and has given up on that answer.
            effects.push(Effect::Synced {
                ticket: older,
                answer: Err(GroupError::RebalanceInProgress),
            });
        }
        let under_way = self.storing.values().any(|storing| {
            matches!(storing, Storing::Assignment { generation, .. } if *generation == self.generation)
        });
        if self.leader.as_ref() != Some(&member_id) || under_way {
            return;
        }
        // Members the leader left out get nothing, which is an assignment too.
        let known = |id: &String| self.members.contains_key(id);
        let assignments: BTreeMap<String, Bytes> =
            sync.assignments.into_iter().filter(|(id, _)| known(id)).collect();
        let value = self.value(&assignments, now);
        let generation = self.generation;
        self.store(
            Storing::Assignment {
                generation,
                assignments,
            },
            value,
            effects,
        );
    }

    fn no_longer_owes(&mut self, member_id: &str) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.owes_sync = false;
        }
    }

    /// The log has taken what was to be stored, or has not.
    pub fn stored(
        &mut self,
        id: StoreId,
        outcome: Result<(), GroupError>,
        now: i64,
        effects: &mut Vec<Effect>,
    ) {
        match self.storing.remove(&id) {
            None | Some(Storing::Emptied) => {}
            Some(Storing::Assignment {
                generation,
                assignments,
            }) => {
                if self.state == GroupState::CompletingRebalance && generation == self.generation {
                    self.assignment_stored(assignments, outcome, now, effects);
                }
            }
            Some(Storing::Replaced(replaced)) => self.replacement_stored(*replaced, outcome, effects),
        }
    }

    fn assignment_stored(
        &mut self,
        mut assignments: BTreeMap<String, Bytes>,
        outcome: Result<(), GroupError>,
        now: i64,
        effects: &mut Vec<Effect>,
    ) {
        if let Err(error) = outcome {
            self.refuse_syncs(error, now, effects);
            self.rebalance(now, effects);
            return self.complete_join_if_all_in(now, effects);
        }
        for member in self.members.values_mut() {
            member.assignment = assignments.remove(&member.id).unwrap_or_default();
        }
        self.enter(GroupState::Stable, now);
        let waiting: Vec<_> = self
            .members
            .values_mut()
            .filter_map(|m| Some((m.id.clone(), m.syncing.take()?)))
            .collect();
        for (id, ticket) in waiting {
            self.seen(&id, now);
            let answer = self.synced(&id);
            effects.push(Effect::Synced {
                ticket,
                answer: Ok(answer),
            });
        }
    }

    fn replacement_stored(
        &mut self,
        replaced: Replaced,
        outcome: Result<(), GroupError>,
        effects: &mut Vec<Effect>,
    ) {
        let Replaced {
            ticket,
            answer,
            generation,
            old,
            was_leader,
        } = replaced;
        let new_id = answer.member_id.clone();
        let Err(error) = outcome else {
            effects.push(Effect::Joined {
                ticket,
                answer: Ok(answer),
            });
            return;
        };
        effects.push(Effect::Joined {
            ticket,
            answer: Err(JoinRefused {
                error,
                member_id: new_id.clone(),
            }),
        });
        // The log knows the predecessor: so does the group, unless it has moved on meanwhile.
        let unmoved = self.state == GroupState::Stable && self.generation == generation;
        if unmoved && self.members.remove(&new_id).is_some() {
            if let Some(instance) = &old.instance_id {
                self.instances.insert(instance.clone(), old.id.clone());
            }
            if was_leader {
                self.leader = Some(old.id.clone());
            }
            self.members.insert(old.id.clone(), old);
        }
    }

    pub(super) fn store(&mut self, storing: Storing, value: GroupValue, effects: &mut Vec<Effect>) {
        let id = StoreId(self.next_store);
        self.next_store += 1;
        self.storing.insert(id, storing);
        self.recorded = Some(value.clone());
        effects.push(Effect::Store { id, value });
    }

    pub(super) fn snapshot_value(&self, now: i64) -> GroupValue {
        let assignments = self
            .members
            .values()
            .map(|member| (member.id.clone(), member.assignment.clone()))
            .collect();
        self.value(&assignments, now)
    }

    fn synced(&self, member_id: &str) -> SyncAnswer {
        let assignment = self
            .members
            .get(member_id)
            .map(|member| member.assignment.clone());
        SyncAnswer {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: assignment.unwrap_or_default(),
        }
    }

    /// Whatever was being handed out is void.
    fn refuse_syncs(&mut self, error: GroupError, now: i64, effects: &mut Vec<Effect>) {
        let completing = self.state == GroupState::CompletingRebalance;
        for member in self.members.values_mut() {
            member.owes_sync = false;
            if completing {
                member.assignment = Bytes::new();
            }
            if let Some(ticket) = member.syncing.take() {
                member.seen(now);
                effects.push(Effect::Synced {
                    ticket,
                    answer: Err(error),
                });
            }
        }
    }

    /// As long as the most patient of its members.
    fn rebalance_timeout(&self) -> i64 {
        let timeouts = self
            .members
            .values()
            .map(|member| i64::from(member.rebalance_timeout_ms));
        timeouts.max().unwrap_or(0).max(0)
    }
}
