//! Joining: who gets in, under which id, and whether the group has to rebalance for it.

use super::{
    Effect, Group, GroupState, Join, JoinAnswer, JoinRefused, JoinedMember, Replaced, Storing, refuse_waiting,
};
use crate::groups::GroupError;
use crate::groups::member::{Member, NEW_MEMBER_JOIN_TIMEOUT_MS};

impl Group {
    /// A member wants in, or takes part in the next generation. The answer is an effect, now or later.
    pub fn join(&mut self, join: Join, now: i64, effects: &mut Vec<Effect>) {
        let ticket = join.ticket;
        if let Err(refused) = self.try_join(join, now, effects) {
            effects.push(Effect::Joined {
                ticket,
                answer: Err(refused),
            });
        }
        // It may have been the one the group was waiting for, also by being refused.
        self.complete_join_if_all_in(now, effects);
    }

    fn try_join(&mut self, join: Join, now: i64, effects: &mut Vec<Effect>) -> Result<(), JoinRefused> {
        let refused = |error| JoinRefused {
            error,
            member_id: join.member_id.clone(),
        };
        if self.state == GroupState::Dead {
            return Err(refused(GroupError::CoordinatorNotAvailable));
        }
        let allowed = self.settings.session_timeout_min_ms..=self.settings.session_timeout_max_ms;
        if !allowed.contains(&join.session_timeout_ms) {
            return Err(refused(GroupError::InvalidSessionTimeout));
        }
        if !self.has_room(&join.member_id) {
            self.remove(&join.member_id, effects);
            return Err(JoinRefused {
                error: GroupError::GroupFull,
                member_id: String::new(),
            });
        }
        if !self.speaks(&join) {
            return Err(refused(GroupError::InconsistentProtocol));
        }
        if join.member_id.is_empty() {
            self.join_new(join, now, effects)
        } else {
            self.join_known(join, now, effects)
        }
    }

    fn join_new(&mut self, mut join: Join, now: i64, effects: &mut Vec<Effect>) -> Result<(), JoinRefused> {
        join.member_id = join.fresh_member_id.clone();
        let returning = join
            .instance_id
            .as_ref()
            .and_then(|instance| self.instances.get(instance))
            .cloned();
        if let Some(old_id) = returning {
            self.replace_static(&old_id, join, now, effects);
            return Ok(());
        }
        if join.instance_id.is_none() && join.knows_member_id_required {
            // KIP-394: a client that dies between its first join and the answer would leave a member
            // behind that nobody speaks for. So it is told its id first, and only then taken in.
            self.pending.insert(
                join.member_id.clone(),
                now.saturating_add(i64::from(join.session_timeout_ms)),
            );
            return Err(JoinRefused {
                error: GroupError::MemberIdRequired,
                member_id: join.member_id,
            });
        }
        self.add(join, now, effects);
        Ok(())
    }

    fn join_known(&mut self, join: Join, now: i64, effects: &mut Vec<Effect>) -> Result<(), JoinRefused> {
        if self.pending.contains_key(&join.member_id) && join.instance_id.is_none() {
            self.pending.remove(&join.member_id);
            self.add(join, now, effects);
            return Ok(());
        }
        self.check_member(&join.member_id, join.instance_id.as_deref())
            .map_err(|error| JoinRefused {
                error,
                member_id: join.member_id.clone(),
            })?;
        let Some(member) = self.members.get_mut(&join.member_id) else {
            unreachable!("checked above")
        };
        member.seen(now);
        let unchanged = member.protocols == join.protocols;
        let leads = self.leader.as_ref() == Some(&join.member_id);
        match self.state {
            // Its answer to the last join may have been lost: it gets it again.
            GroupState::CompletingRebalance if unchanged => self.answer_again(&join, leads, effects),
            // A follower that joins a stable group with nothing new knows less than it could, no more.
            // A leader that does asks for a rebalance: it has seen partitions change.
            GroupState::Stable if unchanged && !leads => self.answer_again(&join, false, effects),
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
                self.update(join, effects);
                self.rebalance(now, effects);
            }
            GroupState::Empty | GroupState::Dead => {
                let error = GroupError::UnknownMember;
                return Err(JoinRefused {
                    error,
                    member_id: join.member_id,
                });
            }
        }
        Ok(())
    }

    fn answer_again(&self, join: &Join, leads: bool, effects: &mut Vec<Effect>) {
        let answer = self.joined(&join.member_id, leads);
        effects.push(Effect::Joined {
            ticket: join.ticket,
            answer: Ok(answer),
        });
    }

    fn add(&mut self, join: Join, now: i64, effects: &mut Vec<Effect>) {
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(join.member_id.clone());
        }
        if let Some(instance) = &join.instance_id {
            self.instances.insert(instance.clone(), join.member_id.clone());
        }
        let member = Member {
            id: join.member_id.clone(),
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: bytes::Bytes::new(),
            new: true,
            joining: Some(join.ticket),
            syncing: None,
            owes_sync: false,
            session_deadline: now.saturating_add(NEW_MEMBER_JOIN_TIMEOUT_MS),
        };
        self.members.insert(join.member_id, member);
        if let Some(initial) = self
            .rebalance
            .as_mut()
            .and_then(|rebalance| rebalance.initial.as_mut())
        {
            initial.grew = true;
        }
        self.rebalance(now, effects);
    }

    /// Takes over what the member says now, and that it waits for the next generation.
    fn update(&mut self, join: Join, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.get_mut(&join.member_id) else {
            return;
        };
        member.protocols = join.protocols;
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        // An older join of the same member is answered: its client has given up on it.
        if let Some(older) = member.joining.replace(join.ticket) {
            let answer = Err(JoinRefused {
                error: GroupError::UnknownMember,
                member_id: member.id.clone(),
            });
            effects.push(Effect::Joined {
                ticket: older,
                answer,
            });
        }
    }

    /// A process has started under the `group.instance.id` of a member that is there already (KIP-345).
    fn replace_static(&mut self, old_id: &str, join: Join, now: i64, effects: &mut Vec<Effect>) {
        let Some(mut old) = self.members.remove(old_id) else {
            return;
        };
        refuse_waiting(&mut old, GroupError::FencedInstance, effects);
        let was_leader = self.leader.as_deref() == Some(old_id);
        let new_id = join.member_id.clone();
        if let Some(instance) = &join.instance_id {
            self.instances.insert(instance.clone(), new_id.clone());
        }
        if was_leader {
            self.leader = Some(new_id.clone());
        }
        let (ticket, knows_skip) = (join.ticket, join.knows_skip_assignment);
        let mut member = Member {
            id: new_id.clone(),
            ..old.clone()
        };
        member.protocols = join.protocols;
        member.session_timeout_ms = join.session_timeout_ms;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.seen(now);
        self.members.insert(new_id.clone(), member);

        let same_protocol = self.protocol.is_some() && self.select_protocol() == self.protocol;
        if self.state == GroupState::Stable && same_protocol {
            // Nothing to hand out anew: it takes over its predecessor's assignment. A client that does not
            // know SkipAssignment must not believe it leads, or it would assign and be waited for.
            let mut answer = self.joined(&new_id, was_leader && knows_skip);
            answer.skip_assignment = was_leader && knows_skip;
            if !knows_skip {
                answer.leader = if was_leader {
                    old_id.to_owned()
                } else {
                    answer.leader
                };
            }
            let generation = self.generation;
            let replaced = Replaced {
                ticket,
                answer,
                generation,
                old,
                was_leader,
            };
            let value = self.snapshot_value(now);
            self.store(Storing::Replaced(Box::new(replaced)), value, effects);
            return;
        }
        if let Some(member) = self.members.get_mut(&new_id) {
            member.joining = Some(ticket);
        }
        self.rebalance(now, effects);
    }

    /// A generation's answer to one of its members.
    pub(super) fn joined(&self, member_id: &str, with_members: bool) -> JoinAnswer {
        let protocol = self.protocol.clone().unwrap_or_default();
        let member = |member: &Member| JoinedMember {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(&protocol),
        };
        JoinAnswer {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.to_owned(),
            members: if with_members {
                self.members.values().map(member).collect()
            } else {
                Vec::new()
            },
        }
    }

    fn has_room(&self, member_id: &str) -> bool {
        let known = self.members.get(member_id);
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                let waiting = self
                    .members
                    .values()
                    .filter(|member| member.joining.is_some())
                    .count();
                known.is_some_and(|member| member.joining.is_some()) || waiting < self.settings.size_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || self.members.len() < self.settings.size_max
            }
        }
    }

    /// Whether it can take part: the group's kind, and at least one protocol all members speak.
    fn speaks(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join
                .protocols
                .iter()
                .any(|own| self.members.values().all(|member| member.speaks(&own.name)))
    }
}
