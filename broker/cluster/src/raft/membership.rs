//! Who votes, changed one voter at a time (KIP-853), so that a majority before and one after always share a voter.
//!
//! A change counts from the moment it is appended. The next one waits until it is committed, and the first one of a
//! leadership until that has committed something of its own: otherwise two leaders might each change what the other
//! has not seen (Ongaro, "bug in single-server membership changes", 2015).

use std::sync::Arc;

use super::effect::{Answer, Refusal, Ticket};
use super::entry::Payload;
use super::soundness::{Bug, Soundness};
use super::voters::{ReplicaKey, VoterSet};
use super::{Effect, Node, Role};

impl<S: Soundness> Node<S> {
    pub(super) fn add_voter(
        &mut self,
        ticket: Ticket,
        voter: ReplicaKey,
        address: Arc<str>,
        effects: &mut Vec<Effect>,
    ) {
        let changed = self.may_change_voters().and_then(|()| {
            let voters = self.log.voters();
            if voters.has_node(voter.id) {
                Err(Refusal::IsVoter)
            } else if !self.has_caught_up(voter) {
                Err(Refusal::NotCaughtUp)
            } else {
                Ok(voters.with(voter, address))
            }
        });
        self.change_voters(ticket, changed, effects);
    }

    pub(super) fn remove_voter(&mut self, ticket: Ticket, voter: ReplicaKey, effects: &mut Vec<Effect>) {
        let changed = self.may_change_voters().and_then(|()| {
            let voters = self.log.voters();
            if !voters.contains(voter) {
                Err(Refusal::NotVoter)
            } else if voters.len() == 1 {
                Err(Refusal::LastVoter)
            } else {
                Ok(voters.without(voter))
            }
        });
        self.change_voters(ticket, changed, effects);
    }

    fn change_voters(
        &mut self,
        ticket: Ticket,
        changed: Result<VoterSet, Refusal>,
        effects: &mut Vec<Effect>,
    ) {
        match changed {
            Ok(voters) => self.propose(ticket, Payload::Voters(voters), effects),
            Err(refusal) => {
                let answer = Answer::Refused(refusal);
                effects.push(Effect::Answer { ticket, answer });
            }
        }
    }

    fn may_change_voters(&self) -> Result<(), Refusal> {
        let Role::Leader(leader) = &self.role else {
            return Err(Refusal::NotLeader {
                leader: self.leader(),
            });
        };
        let committed_own =
            self.high_watermark > leader.epoch_start || self.soundness.has(Bug::ChangeBeforeEpochCommit);
        // The leader's first entry repeats the voters it found, so until that is committed they count as changing.
        let settled = self.log.voters_since() <= self.high_watermark
            || self.soundness.has(Bug::TwoChangesAtOnce)
            || (self.soundness.has(Bug::ChangeBeforeEpochCommit)
                && self.log.voters_since() <= leader.epoch_start.plus(1));
        if committed_own && settled {
            Ok(())
        } else {
            Err(Refusal::ChangeUnderWay)
        }
    }

    /// Whether it held, within the last fetch timeout, all that the leader held then. A voter that has to load
    /// everything first would be one more that a majority cannot count on.
    fn has_caught_up(&self, replica: ReplicaKey) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let progress = leader.replicas.get(&replica);
        let at = progress.and_then(|progress| progress.caught_up_at);
        at.is_some_and(|at| at + self.config.fetch_timeout >= self.now)
    }
}
