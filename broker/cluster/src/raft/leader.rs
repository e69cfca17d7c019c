//! Leading: what is appended, who has it, what is therefore committed, and whether anyone still follows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use varve_log::Offset;

use super::effect::{Answer, Refusal, Ticket};
use super::entry::{Entry, Payload};
use super::log_view::Lineage;
use super::message::{
    Chunk, FetchRequest, FetchResponse, FetchSnapshotRequest, FetchSnapshotResponse, Fetched, Message,
};
use super::soundness::{Bug, Soundness};
use super::voters::{NodeId, ReplicaKey, VoterSet};
use super::{Effect, LeaderEpoch, Node, Origin, Role};

/// Observers of whom more than this is remembered are forgotten, the longest silent first.
const OBSERVERS_MAX: usize = 10_000;

/// One leadership.
#[derive(Debug)]
pub(super) struct Leader {
    /// Where this leadership's first entry lies. Nothing is committed by counting until that is (Raft, 5.4.2).
    pub(super) epoch_start: Offset,
    since: i64,
    pub(super) replicas: BTreeMap<ReplicaKey, Progress>,
    /// Fetches that had nothing to get.
    parked: BTreeMap<ReplicaKey, Parked>,
    pub(super) proposals: VecDeque<(Offset, Ticket)>,
    reads: VecDeque<Read>,
    begin_at: i64,
}

/// What a replica has shown in this epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// It holds all below on its disk, and it is the leader's log.
    pub(super) end: Offset,
    pub(super) fetched_at: i64,
    /// When it last held all that the leader held then.
    pub(super) caught_up_at: Option<i64>,
    /// The leader's log end at its last fetch.
    leader_end: Offset,
}

#[derive(Debug)]
struct Parked {
    at: Origin,
    request: FetchRequest,
    until: i64,
}

/// A question for the high watermark. Requests numbered from `since` were sent after it came: their answers confirm
/// that nobody else led meanwhile. (A fetch would not: it may have been sent before.)
#[derive(Debug)]
struct Read {
    ticket: Ticket,
    since: u64,
    confirmed_by: BTreeSet<ReplicaKey>,
}

/// The quorum as its leader sees it: what DescribeQuorum answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub leader: NodeId,
    pub epoch: LeaderEpoch,
    pub high_watermark: Offset,
    pub voters: Vec<ReplicaState>,
    pub observers: Vec<ReplicaState>,
}

/// Times are the leader's milliseconds; `None` when it has not happened in this leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub replica: ReplicaKey,
    pub log_end: Option<Offset>,
    pub fetched_at: Option<i64>,
    pub caught_up_at: Option<i64>,
}

impl Leader {
    pub(super) fn wake_at(&self) -> i64 {
        let parked = self.parked.values().map(|parked| parked.until).min();
        self.begin_at.min(parked.unwrap_or(i64::MAX))
    }
}

impl<S: Soundness> Node<S> {
    /// `None` when this replica does not lead.
    pub fn describe(&self) -> Option<Description> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let me = self.config.me;
        let voters = self.log.voters();
        let state = |replica: ReplicaKey| {
            let progress = leader.replicas.get(&replica);
            ReplicaState {
                replica,
                log_end: progress.map(|progress| progress.end),
                fetched_at: progress.map(|progress| progress.fetched_at),
                caught_up_at: progress.and_then(|progress| progress.caught_up_at),
            }
        };
        let myself = ReplicaState {
            replica: me,
            log_end: Some(self.log.end().end),
            fetched_at: Some(self.now),
            caught_up_at: Some(self.now),
        };
        let of_voter = |voter| if voter == me { myself } else { state(voter) };
        let observers = leader
            .replicas
            .keys()
            .filter(|replica| !voters.contains(**replica));
        Some(Description {
            leader: me.id,
            epoch: self.quorum.epoch,
            high_watermark: self.high_watermark,
            voters: voters.iter().map(of_voter).collect(),
            observers: observers.map(|replica| state(*replica)).collect(),
        })
    }

    pub(super) fn become_leader(&mut self, effects: &mut Vec<Effect>) {
        let leader = Leader {
            epoch_start: self.log.end().end,
            since: self.now,
            replicas: BTreeMap::new(),
            parked: BTreeMap::new(),
            proposals: VecDeque::new(),
            reads: VecDeque::new(),
            begin_at: self.now,
        };
        self.enter(self.quorum, Role::Leader(Box::new(leader)), effects);
        if !self.soundness.has(Bug::NoLeaderChangeEntry) {
            let (leader, voters) = (self.config.me.id, self.log.voters().clone());
            self.append_as_leader(Payload::LeaderChange { leader, voters }, effects);
        }
        self.lead(effects);
    }

    pub(super) fn append_as_leader(&mut self, payload: Payload, effects: &mut Vec<Effect>) -> Offset {
        let offset = self.log.end().end;
        let epoch = self.quorum.epoch;
        self.append(vec![Entry { epoch, payload }], effects);
        if self.soundness.has(Bug::LeaderCountsUnsynced) {
            self.advance(effects);
        }
        self.serve_parked(false, effects);
        offset
    }

    pub(super) fn propose(&mut self, ticket: Ticket, payload: Payload, effects: &mut Vec<Effect>) {
        if let Err(refusal) = self.accepts() {
            let answer = Answer::Refused(refusal);
            effects.push(Effect::Answer { ticket, answer });
            return;
        }
        let offset = self.append_as_leader(payload, effects);
        if let Role::Leader(leader) = &mut self.role {
            leader.proposals.push_back((offset, ticket));
        }
    }

    fn accepts(&self) -> Result<(), Refusal> {
        match &self.role {
            Role::Leader(leader) if leader.proposals.len() < self.config.proposals_max => Ok(()),
            Role::Leader(_) => Err(Refusal::Busy),
            Role::Unattached { .. } | Role::Prospective(_) | Role::Candidate(_) | Role::Follower(_) => {
                Err(Refusal::NotLeader {
                    leader: self.leader(),
                })
            }
        }
    }

    pub(super) fn confirm(&mut self, ticket: Ticket, effects: &mut Vec<Effect>) {
        if let Err(refusal) = self.accepts() {
            let answer = Answer::Refused(refusal);
            effects.push(Effect::Answer { ticket, answer });
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.reads.push_back(Read {
                ticket,
                since: self.requests + 1,
                confirmed_by: BTreeSet::new(),
            });
        }
        self.begin_epoch(|_| true, effects);
        self.answer_reads(effects);
    }

    /// A voter has answered a request of this leader, and still follows it.
    pub(super) fn still_followed(&mut self, at: Origin, effects: &mut Vec<Effect>) {
        if let Role::Leader(leader) = &mut self.role {
            let asked = self.requests;
            let earlier = leader
                .reads
                .iter_mut()
                .filter(|read| (read.since..=asked).contains(&at.id));
            for read in earlier {
                read.confirmed_by.insert(at.from);
            }
            self.answer_reads(effects);
        }
    }

    fn answer_reads(&mut self, effects: &mut Vec<Effect>) {
        let me = self.config.me;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if self.high_watermark <= leader.epoch_start {
            return; // It may still be behind what an earlier leader has shown.
        }
        let voters = self.log.voters();
        let blind = self.soundness.has(Bug::ConfirmWithoutQuorum);
        leader.reads.retain(|read| {
            let agrees = |voter| voter == me || read.confirmed_by.contains(&voter);
            let confirmed = blind || voters.is_majority(agrees);
            if confirmed {
                let answer = Answer::Confirmed {
                    high_watermark: self.high_watermark,
                };
                effects.push(Effect::Answer {
                    ticket: read.ticket,
                    answer,
                });
            }
            !confirmed
        });
    }

    /// Tells voters who leads: those that have not fetched lately, or all when a read waits for them.
    fn begin_epoch(&mut self, wanted: impl Fn(Option<&Progress>) -> bool, effects: &mut Vec<Effect>) {
        let Role::Leader(leader) = &self.role else { return };
        let voters = self.log.voters().iter().filter(|voter| *voter != self.config.me);
        let silent = voters.filter(|voter| wanted(leader.replicas.get(voter)));
        let silent: Vec<ReplicaKey> = silent.collect();
        for voter in silent {
            self.ask(voter.id, Message::BeginQuorumEpoch, effects);
        }
    }

    /// What a leader does as time goes by, at least twice a fetch timeout.
    pub(super) fn lead(&mut self, effects: &mut Vec<Effect>) {
        let patience = self.config.fetch_timeout + self.config.fetch_timeout / 2;
        let (now, me) = (self.now, self.config.me);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let fetched = |voter| {
            leader
                .replicas
                .get(&voter)
                .is_some_and(|p| p.fetched_at + patience > now)
        };
        let followed = self
            .log
            .voters()
            .is_majority(|voter| voter == me || fetched(voter));
        if !followed && leader.since + patience <= now && !self.soundness.has(Bug::NoQuorumCheck) {
            self.resign(effects);
            return;
        }
        if leader.begin_at <= now {
            let interval = self.config.fetch_timeout / 2;
            leader.begin_at = now + interval;
            let reads = !leader.reads.is_empty();
            let silent =
                |progress: Option<&Progress>| progress.is_none_or(|p| p.fetched_at + interval <= now);
            self.begin_epoch(|progress| reads || silent(progress), effects);
        }
        self.serve_parked(true, effects);
    }

    pub(super) fn fetch_asked(&mut self, at: Origin, request: FetchRequest, effects: &mut Vec<Effect>) {
        self.observe(at.epoch, None, effects);
        if self.soundness.has(Bug::AckOfAnotherEpoch) {
            self.acknowledged(at.from, request, effects);
        }
        if !self.is_leader() || at.epoch != self.quorum.epoch {
            self.answer_fetch(at, Fetched::NotLeader, effects);
            return;
        }
        if self.soundness.has(Bug::AckBeforeLineage) {
            self.acknowledged(at.from, request, effects);
        }
        let mut lineage = self.log.lineage(request.log_end);
        if self.soundness.has(Bug::NoDivergenceCheck) && matches!(lineage, Lineage::Diverging(_)) {
            lineage = Lineage::Prefix;
        }
        match lineage {
            Lineage::Prefix => self.acknowledged(at.from, request, effects),
            Lineage::Diverging(parting) => {
                self.seen(at.from);
                self.answer_fetch(at, Fetched::Diverging(parting), effects);
                return;
            }
            Lineage::BeforeStart => {
                self.seen(at.from);
                self.answer_fetch(at, Fetched::Snapshot(self.snapshot.position), effects);
                return;
            }
        }
        let nothing_new = request.log_end.end >= self.log.end().end
            && request.high_watermark >= self.high_watermark.min(request.log_end.end);
        match &mut self.role {
            Role::Leader(leader) if nothing_new => {
                let until = self.now + self.config.fetch_wait;
                leader.parked.insert(at.from, Parked { at, request, until });
            }
            Role::Leader(_) => self.answer_entries(at, request, effects),
            // It has just committed its own removal.
            Role::Unattached { .. } | Role::Prospective(_) | Role::Candidate(_) | Role::Follower(_) => {
                self.answer_fetch(at, Fetched::NotLeader, effects);
            }
        }
    }

    fn answer_fetch(&mut self, at: Origin, fetched: Fetched, effects: &mut Vec<Effect>) {
        let leader = self.leader_to_tell();
        self.answer(
            at,
            Message::FetchResponse(FetchResponse { leader, fetched }),
            effects,
        );
    }

    fn answer_entries(&mut self, at: Origin, request: FetchRequest, effects: &mut Vec<Effect>) {
        let entries = self.log.read(request.log_end.end, self.config.fetch_entries_max);
        let fetched = Fetched::Entries {
            high_watermark: self.high_watermark,
            entries: entries.cloned().collect(),
        };
        self.answer_fetch(at, fetched, effects);
    }

    /// Answers the parked fetches for which there is something now, and those that have waited long enough.
    fn serve_parked(&mut self, only_late: bool, effects: &mut Vec<Effect>) {
        let (now, end, high_watermark) = (self.now, self.log.end().end, self.high_watermark);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let due = |parked: &Parked| {
            let known = parked.request.high_watermark;
            let news = parked.request.log_end.end < end || known < high_watermark;
            parked.until <= now || (news && !only_late)
        };
        let due: Vec<ReplicaKey> = leader
            .parked
            .iter()
            .filter(|(_, parked)| due(parked))
            .map(|(key, _)| *key)
            .collect();
        let served: Vec<Parked> = due.iter().filter_map(|key| leader.parked.remove(key)).collect();
        for parked in served {
            self.answer_entries(parked.at, parked.request, effects);
        }
    }

    fn acknowledged(&mut self, from: ReplicaKey, request: FetchRequest, effects: &mut Vec<Effect>) {
        let (now, end) = (self.now, self.log.end().end);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let progress = leader.replicas.entry(from).or_insert_with(|| Progress::new(now));
        // A late request says less than what is known, and what is on a disk in this epoch stays there.
        progress.end = progress.end.max(request.log_end.end);
        if request.log_end.end >= end {
            progress.caught_up_at = Some(now);
        } else if request.log_end.end >= progress.leader_end && progress.leader_end > Offset::ZERO {
            progress.caught_up_at = progress.caught_up_at.max(Some(progress.fetched_at));
        }
        progress.leader_end = end;
        progress.fetched_at = now;
        leader.forget_observers(self.log.voters());
        self.advance(effects);
    }

    /// It asks, so it follows; what it holds is not known yet.
    fn seen(&mut self, from: ReplicaKey) {
        let now = self.now;
        if let Role::Leader(leader) = &mut self.role {
            leader
                .replicas
                .entry(from)
                .or_insert_with(|| Progress::new(now))
                .fetched_at = now;
        }
    }

    /// Commits what a majority of the voters holds on disk, and what follows from that.
    pub(super) fn advance(&mut self, effects: &mut Vec<Effect>) {
        let Role::Leader(leader) = &self.role else { return };
        let held = self.held_by_majority(leader);
        let own_epoch = held > leader.epoch_start || self.soundness.has(Bug::CommitEarlierEpoch);
        if held <= self.high_watermark || !own_epoch {
            return;
        }
        self.commit_up_to(held.min(self.log.end().end), effects);
        self.answer_proposals(effects);
        self.answer_reads(effects);
        self.serve_parked(false, effects);
        if !self.is_voter() && self.log.voters_since() <= self.high_watermark {
            self.resign(effects);
        }
    }

    fn held_by_majority(&self, leader: &Leader) -> Offset {
        let me = self.config.me;
        let voters = self.log.voters();
        let own = if self.soundness.has(Bug::LeaderCountsUnsynced) {
            self.log.end().end
        } else {
            self.log.synced()
        };
        let end = |voter| match leader.replicas.get(&voter) {
            _ if voter == me => own,
            Some(progress) => progress.end,
            None => Offset::ZERO,
        };
        let mut ends: Vec<Offset> = voters.iter().map(end).collect();
        if self.soundness.has(Bug::RemovedLeaderCounts) && !voters.contains(me) {
            ends.push(own);
        }
        if !self.soundness.has(Bug::CommitUnsorted) {
            ends.sort_unstable_by(|a, b| b.cmp(a));
        }
        ends.get(voters.majority() - 1).copied().unwrap_or(Offset::ZERO)
    }

    fn answer_proposals(&mut self, effects: &mut Vec<Effect>) {
        let high_watermark = self.high_watermark;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        while let Some((offset, ticket)) = leader.proposals.front().copied()
            && offset < high_watermark
        {
            leader.proposals.pop_front();
            let answer = Answer::Committed { offset };
            effects.push(Effect::Answer { ticket, answer });
        }
    }

    /// Stops leading, and says so to the voters, the one that has come furthest first.
    pub(super) fn resign(&mut self, effects: &mut Vec<Effect>) {
        let Role::Leader(leader) = &self.role else { return };
        let end = |voter: &ReplicaKey| leader.replicas.get(voter).map_or(Offset::ZERO, |p| p.end);
        let mut successors: Vec<ReplicaKey> = self
            .log
            .voters()
            .iter()
            .filter(|voter| *voter != self.config.me)
            .collect();
        successors.sort_by_key(|voter| std::cmp::Reverse(end(voter)));
        for voter in &successors {
            let successors = successors.clone();
            self.ask(voter.id, Message::EndQuorumEpoch { successors }, effects);
        }
        self.become_unattached(self.quorum, effects);
    }

    /// What waited for this leadership is told that it is over.
    pub(super) fn dismiss(&mut self, leader: Leader, effects: &mut Vec<Effect>) {
        for (offset, ticket) in leader.proposals {
            let mut answer = Answer::Unknown;
            if self.soundness.has(Bug::AnswerOldProposals) {
                answer = Answer::Committed { offset };
            }
            effects.push(Effect::Answer { ticket, answer });
        }
        for read in leader.reads {
            let refusal = Refusal::NotLeader {
                leader: self.leader(),
            };
            let answer = Answer::Refused(refusal);
            effects.push(Effect::Answer {
                ticket: read.ticket,
                answer,
            });
        }
        for parked in leader.parked.into_values() {
            self.answer_fetch(parked.at, Fetched::NotLeader, effects);
        }
    }

    pub(super) fn snapshot_asked(
        &mut self,
        at: Origin,
        request: FetchSnapshotRequest,
        effects: &mut Vec<Effect>,
    ) {
        self.observe(at.epoch, None, effects);
        let serves = self.is_leader() && at.epoch == self.quorum.epoch;
        let chunk = (serves && request.snapshot == self.snapshot.position).then(|| {
            let image = &self.snapshot.image;
            let from = request.from.min(image.len());
            let to = image.len().min(from + self.config.snapshot_chunk_bytes_max);
            Chunk {
                snapshot: self.snapshot.position,
                voters: self.snapshot.voters.clone(),
                from,
                image_bytes: image.len(),
                piece: image.slice(from..to),
            }
        });
        if serves {
            self.seen(at.from);
        }
        let leader = self.leader_to_tell();
        let response = FetchSnapshotResponse { leader, chunk };
        self.answer(at, Message::FetchSnapshotResponse(response), effects);
    }
}

impl Leader {
    fn forget_observers(&mut self, voters: &VoterSet) {
        if self.replicas.len() > OBSERVERS_MAX {
            let observers = self
                .replicas
                .iter()
                .filter(|(replica, _)| !voters.contains(**replica));
            let oldest = observers.min_by_key(|(_, progress)| progress.fetched_at);
            if let Some(oldest) = oldest.map(|(replica, _)| *replica) {
                self.replicas.remove(&oldest);
                self.parked.remove(&oldest);
            }
        }
    }
}

impl Progress {
    fn new(now: i64) -> Self {
        Self {
            end: Offset::ZERO,
            fetched_at: now,
            caught_up_at: None,
            leader_end: Offset::ZERO,
        }
    }
}
