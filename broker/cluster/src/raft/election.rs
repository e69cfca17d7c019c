//! How a leader is found: who asks, who grants, who counts.

use std::collections::BTreeSet;

use super::message::{Message, VoteRequest, VoteResponse};
use super::soundness::{Bug, Soundness};
use super::voters::ReplicaKey;
use super::{Effect, Node, Origin, QuorumState, Role};

/// One try, in which every voter is asked once.
#[derive(Debug)]
pub(super) struct Ballot {
    granted: BTreeSet<ReplicaKey>,
    refused: BTreeSet<ReplicaKey>,
    /// When to try again.
    pub(super) until: i64,
}

impl<S: Soundness> Node<S> {
    /// There has been no sign of a leader for too long.
    pub(super) fn look_for_a_leader(&mut self, effects: &mut Vec<Effect>) {
        if self.may_stand() {
            // KIP-996: asked first without a new epoch, so that who cannot win disturbs nobody.
            let ballot = self.ballot();
            self.enter(self.quorum, Role::Prospective(ballot), effects);
            self.ask_for_votes(true, effects);
            self.count_votes(effects);
        } else {
            self.become_unattached(self.quorum, effects);
        }
    }

    /// A voter, or one that was until a change which is not known to be committed: it may be the only one whose log
    /// suffices. Its own vote then counts for nothing (Ongaro's thesis, 4.2.2).
    fn may_stand(&self) -> bool {
        if self.soundness.has(Bug::RemovedCannotStand) {
            return self.is_voter();
        }
        self.log
            .voters_from(self.high_watermark)
            .any(|voters| voters.contains(self.config.me))
    }

    fn become_candidate(&mut self, effects: &mut Vec<Effect>) {
        let quorum = QuorumState {
            epoch: self.quorum.epoch.plus(1),
            voted: Some(self.config.me),
        };
        let ballot = self.ballot();
        self.enter(quorum, Role::Candidate(ballot), effects);
        self.ask_for_votes(false, effects);
    }

    fn ballot(&mut self) -> Ballot {
        Ballot {
            granted: BTreeSet::from([self.config.me]),
            refused: BTreeSet::new(),
            until: self.now + self.election_wait(),
        }
    }

    fn ask_for_votes(&mut self, pre_vote: bool, effects: &mut Vec<Effect>) {
        let (me, log_end) = (self.config.me, self.log.end());
        let others: Vec<ReplicaKey> = self.log.voters().iter().filter(|voter| *voter != me).collect();
        for voter in others {
            let request = VoteRequest {
                voter,
                pre_vote,
                log_end,
            };
            self.ask(voter.id, Message::Vote(request), effects);
        }
    }

    pub(super) fn vote_asked(&mut self, at: Origin, request: VoteRequest, effects: &mut Vec<Effect>) {
        self.observe(at.epoch, None, effects);
        let mine = request.voter == self.config.me || self.soundness.has(Bug::DirectoryIgnored);
        let granted = mine && at.epoch == self.quorum.epoch && self.grants(at.from, request);
        if granted && !request.pre_vote && self.quorum.voted != Some(at.from) {
            let voted = Some(at.from);
            self.become_unattached(QuorumState { voted, ..self.quorum }, effects);
        }
        let response = VoteResponse {
            // Whoever grants would not follow the leader it may know of.
            leader: self
                .leader_to_tell()
                .filter(|_| !granted || self.soundness.has(Bug::RumouredLeader)),
            pre_vote: request.pre_vote,
            granted,
        };
        self.answer(at, Message::VoteResponse(response), effects);
    }

    fn grants(&self, candidate: ReplicaKey, request: VoteRequest) -> bool {
        let log_suffices =
            request.log_end.holds_as_much_as(self.log.end()) || self.soundness.has(Bug::VoteWithoutLogCheck);
        let no_leader = match &self.role {
            Role::Leader(_) => false,
            // Until it has heard from that leader it only has its word for it.
            Role::Follower(follower) => request.pre_vote && !follower.heard,
            Role::Unattached { .. } | Role::Prospective(_) | Role::Candidate(_) => true,
        };
        let no_leader = no_leader || (request.pre_vote && self.soundness.has(Bug::PreVoteIgnored));
        let free = request.pre_vote
            || self.quorum.voted.is_none_or(|voted| voted == candidate)
            || self.soundness.has(Bug::VoteTwice);
        log_suffices && no_leader && free
    }

    pub(super) fn vote_answered(&mut self, at: Origin, response: VoteResponse, effects: &mut Vec<Effect>) {
        self.observe(at.epoch, response.leader, effects);
        if at.epoch != self.quorum.epoch {
            return;
        }
        let ballot = match &mut self.role {
            Role::Prospective(ballot) if response.pre_vote => ballot,
            Role::Candidate(ballot) if !response.pre_vote => ballot,
            Role::Prospective(_)
            | Role::Candidate(_)
            | Role::Unattached { .. }
            | Role::Leader(_)
            | Role::Follower(_) => return,
        };
        if response.granted {
            ballot.granted.insert(at.from);
        } else {
            ballot.refused.insert(at.from);
        }
        self.count_votes(effects);
    }

    /// A candidate's own vote counts once it is on its disk.
    pub(super) fn count_votes(&mut self, effects: &mut Vec<Effect>) {
        let (ballot, candidate) = match &self.role {
            Role::Prospective(ballot) => (ballot, false),
            Role::Candidate(ballot) => (ballot, true),
            Role::Unattached { .. } | Role::Leader(_) | Role::Follower(_) => return,
        };
        let voters = self.log.voters();
        let won = voters.is_majority(|voter| ballot.granted.contains(&voter));
        let lost = voters.is_majority(|voter| ballot.refused.contains(&voter));
        if won && !candidate {
            self.become_candidate(effects);
        } else if won && self.quorum_is_durable() {
            self.become_leader(effects);
        } else if lost {
            let again = self.now + self.jitter(self.config.election_timeout);
            if let Role::Prospective(ballot) | Role::Candidate(ballot) = &mut self.role {
                ballot.refused.clear();
                ballot.until = ballot.until.min(again);
            }
        }
    }

    /// A leader says so itself.
    pub(super) fn epoch_begun(&mut self, at: Origin, effects: &mut Vec<Effect>) {
        self.observe(at.epoch, Some(at.from.id), effects);
        let follows = at.epoch == self.quorum.epoch
            && matches!(&self.role, Role::Follower(follower) if follower.leader == at.from.id);
        let leader = self.leader_to_tell();
        self.answer(at, Message::BeginQuorumEpochResponse { leader, follows }, effects);
    }

    /// The leader has resigned. Its first choice runs at once, the others give it time.
    pub(super) fn epoch_ended(&mut self, at: Origin, successors: &[ReplicaKey], effects: &mut Vec<Effect>) {
        self.observe(at.epoch, None, effects);
        let follows = matches!(&self.role, Role::Follower(follower) if follower.leader == at.from.id);
        if at.epoch != self.quorum.epoch || !follows {
            return;
        }
        self.become_unattached(self.quorum, effects);
        if successors.first() == Some(&self.config.me)
            && let Role::Unattached { election_at } = &mut self.role
        {
            *election_at = self.now;
        }
    }
}
