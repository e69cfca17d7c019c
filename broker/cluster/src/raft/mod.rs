//! The metadata quorum: a Raft in which followers fetch, after KRaft (KIP-595; pre-vote KIP-996; one voter changed at
//! a time, told apart by directory, KIP-853; snapshots KIP-630) and the TLA+ Vanlightly published of it.
//!
//! [`Node::step`] is all there is: an [`Event`] and the time go in, [`Effect`]s come out and are carried out in their
//! order. What it promises, in every order of events:
//!
//! - one leader an epoch, and it holds everything committed before;
//! - what was committed is never lost or changed while a majority of the voters' disks remain;
//! - nothing is sent that rests on an epoch or a vote which is not on the disk yet;
//! - a fetch acknowledges only what is on the asker's disk.
//!
//! ```text
//!              +---------- knows of a later epoch, or its leader is silent ----------+
//!              v                                                                     |
//!   Unattached --time--> Prospective --majority would--> Candidate --majority--> Leader
//!              ^                |                            |                       |
//!              |                +---- hears of a leader -----+--> Follower           |
//!              +------------------ resigns: no majority fetches, or asked to --------+
//! ```
//! Replicas that are no voters (brokers, new controllers) fetch the same way and are called observers. A quorum of
//! one elects itself without a message. Entries since the snapshot are kept in memory: the state machine they make is
//! there too. It leaves storing, sending and waiting to the server.

mod effect;
mod election;
mod entry;
mod follower;
mod leader;
mod log_view;
mod membership;
mod message;
mod soundness;
#[cfg(test)]
mod tests;
mod voters;

use std::collections::VecDeque;

use varve_log::{LeaderEpoch, Offset};

pub use effect::{Answer, Effect, Event, Refusal, RoleName, Ticket, Write};
pub use entry::{Entry, Payload, Position, QuorumState, Snapshot};
pub use leader::{Description, ReplicaState};
pub use message::{
    Chunk, Envelope, FetchRequest, FetchResponse, FetchSnapshotRequest, FetchSnapshotResponse, Fetched,
    Message, VoteRequest, VoteResponse,
};
#[doc(hidden)]
pub use soundness::{Bug, Sound, Soundness};
pub use voters::{NodeId, ReplicaKey, VoterSet};

use election::Ballot;
use follower::{Download, Fetching, Follower};
use leader::Leader;
use log_view::{Lineage, LogView};

/// Times in milliseconds. Kafka's keys and defaults where it has them.
#[derive(Clone, Debug)]
pub struct Config {
    pub me: ReplicaKey,
    /// Whom to ask for the leader besides the voters: `controller.quorum.bootstrap.servers`.
    pub bootstrap: Vec<NodeId>,
    /// `controller.quorum.election.timeout.ms`. A ballot or a wait lasts once to twice as long.
    pub election_timeout: i64,
    /// `controller.quorum.fetch.timeout.ms`: a leader that is silent for so long is looked past, and a leader that no
    /// majority has asked for one and a half of it resigns.
    pub fetch_timeout: i64,
    /// `controller.quorum.request.timeout.ms`. Longer than `fetch_wait`.
    pub request_timeout: i64,
    /// How long a leader may keep a fetch that has nothing to get.
    pub fetch_wait: i64,
    /// `controller.quorum.retry.backoff.ms`
    pub retry_backoff: i64,
    pub fetch_entries_max: usize,
    pub snapshot_chunk_bytes_max: usize,
    /// Entries kept behind the snapshot, so that a replica which is a little late need not load it.
    pub entries_behind_snapshot: i64,
    pub proposals_max: usize,
    /// A number that no other replica and no other life of this process has. Jitter begins at it, or replicas would
    /// vote against each other for ever; and requests are counted from it, so that an answer to an earlier life's
    /// request matches none of this one's.
    pub seed: u64,
}

/// What a replica finds on its disk when it starts. All empty (and a snapshot that names the first voters, or none)
/// when the disk is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub quorum: QuorumState,
    pub snapshot: Snapshot,
    pub log_start: Position,
    pub entries: Vec<Entry>,
}

/// The snapshot ends before the log begins: what lies between is gone, and no vote may be given without it.
#[derive(Debug, thiserror::Error)]
#[error(
    "the metadata log begins after its snapshot ends. log_start={log_start}, snapshot_end={snapshot_end}"
)]
pub struct Gap {
    pub log_start: Offset,
    pub snapshot_end: Offset,
}

/// One replica of the metadata log. See the module.
#[derive(Debug)]
pub struct Node<S = Sound> {
    config: Config,
    soundness: S,
    now: i64,
    chance: u64,
    quorum: QuorumState,
    log: LogView,
    snapshot: Snapshot,
    high_watermark: Offset,
    role: Role,
    writes: Writes,
    /// Messages that wait for the quorum state to be on the disk.
    held: VecDeque<Envelope>,
    requests: u64,
    fetching: Option<Fetching>,
    download: Option<Download>,
    /// No fetch before this.
    fetch_after: i64,
    /// Which of the nodes that may know the leader is asked next.
    asked: usize,
}

#[derive(Debug)]
enum Role {
    Unattached { election_at: i64 },
    Prospective(Ballot),
    Candidate(Ballot),
    Leader(Box<Leader>),
    Follower(Follower),
}

#[derive(Debug, Default)]
struct Writes {
    issued: u64,
    finished: u64,
    /// The latest that carries the quorum state.
    quorum_state: u64,
    /// A snapshot on its way to the disk.
    snapshot: Option<(u64, Snapshot)>,
}

impl Node<Sound> {
    /// A replica that starts with what its disk holds.
    ///
    /// # Errors
    /// [`Gap`]: the disk has lost part of the log.
    pub fn new(config: Config, stored: Stored, now: i64, effects: &mut Vec<Effect>) -> Result<Self, Gap> {
        Self::with_soundness(config, stored, Sound, now, effects)
    }
}

impl<S: Soundness> Node<S> {
    #[doc(hidden)]
    pub fn with_soundness(
        config: Config,
        stored: Stored,
        soundness: S,
        now: i64,
        effects: &mut Vec<Effect>,
    ) -> Result<Self, Gap> {
        let (snapshot, log_start) = (stored.snapshot, stored.log_start);
        if snapshot.position.end < log_start.end {
            return Err(Gap {
                log_start: log_start.end,
                snapshot_end: snapshot.position.end,
            });
        }
        let log = LogView::new(log_start, stored.entries, &snapshot);
        let mut node = Self {
            now,
            chance: config.seed,
            quorum: stored.quorum,
            high_watermark: snapshot.position.end,
            role: Role::Unattached { election_at: now },
            writes: Writes::default(),
            held: VecDeque::new(),
            requests: if soundness.has(Bug::RequestNumbersRestart) {
                0
            } else {
                config.seed >> 1
            },
            fetching: None,
            download: None,
            fetch_after: now,
            asked: 0,
            config,
            soundness,
            log,
            snapshot,
        };
        if node.log.lineage(node.snapshot.position) != Lineage::Prefix {
            // The crash came after a snapshot from the leader was stored and before the log made way for it.
            node.reset_log(effects);
        }
        if node.log.voters().len() > 1 || !node.is_voter() {
            node.role = Role::Unattached {
                election_at: now + node.election_wait(),
            };
        }
        node.step(now, Event::Tick, effects);
        Ok(node)
    }

    /// One move: takes note of the time (milliseconds of a clock that does not go back) and of `event`.
    pub fn step(&mut self, now: i64, event: Event, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match event {
            Event::Tick => {}
            Event::Received(envelope) => self.receive(envelope, effects),
            Event::Unanswered { to, id, refused } => self.unanswered(to, id, refused),
            Event::Written(number) => self.written(number, effects),
            Event::Propose { ticket, command } => self.propose(ticket, Payload::Command(command), effects),
            Event::Confirm { ticket } => self.confirm(ticket, effects),
            Event::AddVoter {
                ticket,
                voter,
                address,
            } => self.add_voter(ticket, voter, address, effects),
            Event::RemoveVoter { ticket, voter } => self.remove_voter(ticket, voter, effects),
            Event::SnapshotTaken { end, image } => self.snapshot_taken(end, image, effects),
            Event::Resign => self.resign(effects),
        }
        self.look_at_the_time(effects);
        self.fetch(effects);
    }

    /// When to call [`Node::step`] again at the latest, if nothing else happens.
    pub fn wake_at(&self) -> i64 {
        let role = match &self.role {
            Role::Unattached { election_at } => *election_at,
            Role::Prospective(ballot) | Role::Candidate(ballot) => ballot.until,
            Role::Leader(leader) => leader.wake_at(),
            Role::Follower(follower) => follower.silent_at,
        };
        let fetch = match &self.fetching {
            Some(fetching) => fetching.until,
            // The disk's report is an event of its own.
            None if matches!(self.role, Role::Leader(_) | Role::Candidate(_)) || self.waits_for_disk() => {
                i64::MAX
            }
            None => self.fetch_after,
        };
        role.min(fetch).max(self.now + 1)
    }

    pub const fn epoch(&self) -> LeaderEpoch {
        self.quorum.epoch
    }

    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.config.me.id),
            Role::Follower(follower) => Some(follower.leader),
            Role::Unattached { .. } | Role::Prospective(_) | Role::Candidate(_) => None,
        }
    }

    /// The leader to tell other replicas of: one that has answered here in this epoch. Passing on what was only heard
    /// said, replicas would send each other to a leader that has long resigned, and elect none.
    fn leader_to_tell(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) if !follower.heard && !self.soundness.has(Bug::RumouredLeader) => None,
            Role::Follower(_) | Role::Leader(_) => self.leader(),
            Role::Unattached { .. } | Role::Prospective(_) | Role::Candidate(_) => None,
        }
    }

    pub const fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    pub fn role(&self) -> RoleName {
        match &self.role {
            Role::Unattached { .. } => RoleName::Unattached,
            Role::Prospective(_) => RoleName::Prospective,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
            Role::Follower(_) => RoleName::Follower,
        }
    }

    /// All below is committed. Never goes back in one life of the process.
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    pub fn log_start(&self) -> Offset {
        self.log.start().end
    }

    pub fn log_end(&self) -> Position {
        self.log.end()
    }

    /// Entries from `from` on up to `to`, with their offsets, as far as they are still in the log.
    pub fn entries(&self, from: Offset, to: Offset) -> impl Iterator<Item = (Offset, &Entry)> {
        let from = from.max(self.log.start().end);
        let wanted = usize::try_from(to.min(self.log.end().end).since(from)).unwrap_or(0);
        let offsets = (from.value()..).map(Offset::new);
        offsets.zip(self.log.read(from, wanted))
    }

    /// The voters as this replica knows them, committed or not.
    pub fn voters(&self) -> &VoterSet {
        self.log.voters()
    }

    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn is_voter(&self) -> bool {
        self.log.voters().contains(self.config.me)
    }

    fn receive(&mut self, envelope: Envelope, effects: &mut Vec<Effect>) {
        let Envelope {
            from,
            id,
            epoch,
            message,
            ..
        } = envelope;
        let from = self.taken_for(from);
        let at = Origin { from, id, epoch };
        match message {
            Message::Vote(request) => self.vote_asked(at, request, effects),
            Message::VoteResponse(response) => self.vote_answered(at, response, effects),
            Message::BeginQuorumEpoch => self.epoch_begun(at, effects),
            Message::BeginQuorumEpochResponse { leader, follows } => {
                self.observe(epoch, leader, effects);
                if follows && epoch == self.quorum.epoch {
                    self.still_followed(at, effects);
                }
            }
            Message::EndQuorumEpoch { successors } => self.epoch_ended(at, &successors, effects),
            Message::Fetch(request) => self.fetch_asked(at, request, effects),
            Message::FetchResponse(response) => self.fetch_answered(at, response, effects),
            Message::FetchSnapshot(request) => self.snapshot_asked(at, request, effects),
            Message::FetchSnapshotResponse(response) => self.snapshot_answered(at, response, effects),
        }
    }

    /// Only a fault takes a replica for another one.
    fn taken_for(&self, replica: ReplicaKey) -> ReplicaKey {
        let namesake =
            |voter: &ReplicaKey| voter.id == replica.id && self.soundness.has(Bug::DirectoryIgnored);
        self.log.voters().iter().find(namesake).unwrap_or(replica)
    }

    /// What an epoch and a leader seen in a message mean for this replica. That it leads itself, others may believe
    /// longer than it does.
    fn observe(&mut self, epoch: LeaderEpoch, leader: Option<NodeId>, effects: &mut Vec<Effect>) {
        let leader = leader.filter(|leader| *leader != self.config.me.id);
        let later = epoch > self.quorum.epoch;
        let leaderless = !matches!(self.role, Role::Leader(_) | Role::Follower(_));
        match leader {
            Some(leader) if later || (epoch == self.quorum.epoch && leaderless) => {
                self.become_follower(epoch, leader, effects);
            }
            None if later => self.become_unattached(QuorumState { epoch, voted: None }, effects),
            Some(_) | None => {}
        }
    }

    fn become_unattached(&mut self, quorum: QuorumState, effects: &mut Vec<Effect>) {
        let election_at = self.now + self.election_wait();
        self.enter(quorum, Role::Unattached { election_at }, effects);
    }

    fn become_follower(&mut self, epoch: LeaderEpoch, leader: NodeId, effects: &mut Vec<Effect>) {
        let voted = self.quorum.voted.filter(|_| epoch == self.quorum.epoch);
        let follower = Follower::of(leader, self.now + self.config.fetch_timeout);
        self.enter(QuorumState { epoch, voted }, Role::Follower(follower), effects);
        self.fetch_after = self.now;
        if self.soundness.has(Bug::TruncateToHighWatermark) && self.high_watermark < self.log.end().end {
            self.truncate(self.high_watermark, effects);
        }
    }

    /// Every change of role or epoch comes through here.
    fn enter(&mut self, quorum: QuorumState, role: Role, effects: &mut Vec<Effect>) {
        assert!(quorum.epoch >= self.quorum.epoch, "an epoch goes back");
        self.persist(quorum, effects);
        self.fetching = None;
        self.download = None;
        let before = std::mem::replace(&mut self.role, role);
        if let Role::Leader(leader) = before {
            self.dismiss(*leader, effects);
        }
        effects.push(Effect::Became {
            role: self.role(),
            epoch: quorum.epoch,
            leader: self.leader(),
        });
    }

    fn persist(&mut self, quorum: QuorumState, effects: &mut Vec<Effect>) {
        if quorum != self.quorum {
            self.quorum = quorum;
            self.writes.quorum_state = self.write(Write::QuorumState(quorum), effects);
        }
    }

    fn write(&mut self, write: Write, effects: &mut Vec<Effect>) -> u64 {
        self.writes.issued += 1;
        let number = self.writes.issued;
        effects.push(Effect::Write { number, write });
        number
    }

    fn written(&mut self, number: u64, effects: &mut Vec<Effect>) {
        self.writes.finished = self.writes.finished.max(number);
        self.log.written(number);
        if self.quorum_is_durable() {
            effects.extend(self.held.drain(..).map(Effect::Send));
        }
        self.snapshot_written(effects);
        match self.role {
            Role::Candidate(_) => self.count_votes(effects),
            Role::Leader(_) => self.advance(effects),
            Role::Follower(_) => self.follow_high_watermark(effects),
            Role::Unattached { .. } | Role::Prospective(_) => {}
        }
    }

    fn quorum_is_durable(&self) -> bool {
        self.writes.finished >= self.writes.quorum_state || self.soundness.has(Bug::SendBeforePersist)
    }

    /// Sends a request of its own, and gives it a number.
    fn ask(&mut self, to: NodeId, message: Message, effects: &mut Vec<Effect>) -> u64 {
        self.requests += 1;
        self.send(to, self.requests, message, effects);
        self.requests
    }

    fn answer(&mut self, at: Origin, message: Message, effects: &mut Vec<Effect>) {
        self.send(at.from.id, at.id, message, effects);
    }

    fn send(&mut self, to: NodeId, id: u64, message: Message, effects: &mut Vec<Effect>) {
        let (from, epoch) = (self.config.me, self.quorum.epoch);
        let envelope = Envelope {
            from,
            to,
            id,
            epoch,
            message,
        };
        if self.quorum_is_durable() {
            effects.push(Effect::Send(envelope));
        } else {
            self.held.push_back(envelope);
        }
    }

    fn append(&mut self, entries: Vec<Entry>, effects: &mut Vec<Effect>) {
        let base = self.log.end().end;
        let number = self.write(
            Write::Append {
                base,
                entries: entries.clone(),
            },
            effects,
        );
        self.log.append(&entries, number);
    }

    fn truncate(&mut self, end: Offset, effects: &mut Vec<Effect>) {
        if end < self.log.end().end {
            self.log.truncate(end);
            self.write(Write::Truncate { end }, effects);
        }
    }

    /// The log gives way to the snapshot.
    fn reset_log(&mut self, effects: &mut Vec<Effect>) {
        let start = self.snapshot.position;
        self.log = LogView::empty(start, &self.snapshot);
        self.write(Write::Reset { start }, effects);
    }

    fn snapshot_taken(&mut self, end: Offset, image: bytes::Bytes, effects: &mut Vec<Effect>) {
        assert!(end <= self.high_watermark, "a snapshot of what is not committed");
        let Some(position) = self.log.position_at(end) else {
            return;
        };
        if end <= self.snapshot.position.end || self.writes.snapshot.is_some() {
            return;
        }
        let voters = self.log.voters_at(end).clone();
        self.store_snapshot(
            Snapshot {
                position,
                voters,
                image,
            },
            effects,
        );
    }

    fn store_snapshot(&mut self, snapshot: Snapshot, effects: &mut Vec<Effect>) {
        if self.soundness.has(Bug::ResetBeforeSnapshotDurable)
            && self.log.lineage(snapshot.position) != Lineage::Prefix
        {
            self.write(
                Write::Reset {
                    start: snapshot.position,
                },
                effects,
            );
        }
        let number = self.write(Write::Snapshot(snapshot.clone()), effects);
        self.writes.snapshot = Some((number, snapshot));
    }

    /// Once a snapshot is on the disk, and not before, the log may do without what it holds.
    fn snapshot_written(&mut self, effects: &mut Vec<Effect>) {
        let due = |(number, _): &(u64, Snapshot)| *number <= self.writes.finished;
        if !self.writes.snapshot.as_ref().is_some_and(due) {
            return;
        }
        let Some((_, snapshot)) = self.writes.snapshot.take() else {
            return;
        };
        self.snapshot = snapshot;
        let position = self.snapshot.position;
        if self.log.lineage(position) == Lineage::Prefix {
            let wanted = position.end.plus(-self.config.entries_behind_snapshot);
            let start = self.log.position_at(wanted.max(self.log.start().end));
            let start = start.expect("the snapshot lies in the log");
            self.log.drop_prefix(start, &self.snapshot);
            self.write(Write::DropPrefix { start }, effects);
        } else {
            assert!(!self.is_leader(), "a leader's log lacks what is committed");
            self.reset_log(effects);
            effects.push(Effect::Load(self.snapshot.clone()));
        }
        if self.soundness.has(Bug::SnapshotWithoutEpoch) && self.log.end() == position {
            self.log.forget_start_epoch();
        }
        self.commit_up_to(position.end, effects);
    }

    fn commit_up_to(&mut self, high_watermark: Offset, effects: &mut Vec<Effect>) {
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            effects.push(Effect::Committed { high_watermark });
        }
    }

    fn look_at_the_time(&mut self, effects: &mut Vec<Effect>) {
        if self
            .fetching
            .as_ref()
            .is_some_and(|fetching| fetching.until <= self.now)
        {
            self.fetching = None;
        }
        let now = self.now;
        match &mut self.role {
            Role::Unattached { election_at } if *election_at > now => {}
            Role::Prospective(ballot) | Role::Candidate(ballot) if ballot.until > now => {}
            Role::Follower(follower) if follower.silent_at > now => {}
            Role::Leader(_) => self.lead(effects),
            Role::Unattached { .. } | Role::Prospective(_) | Role::Candidate(_) | Role::Follower(_) => {
                self.look_for_a_leader(effects);
            }
        }
    }

    fn election_wait(&mut self) -> i64 {
        self.config.election_timeout + self.jitter(self.config.election_timeout)
    }

    /// From 0 up to `below`: splitmix64 from the seed that was handed in.
    fn jitter(&mut self, below: i64) -> i64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let below = u64::try_from(below).unwrap_or(0).max(1);
        i64::try_from((z ^ (z >> 31)) % below).unwrap_or(0)
    }
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    from: ReplicaKey,
    id: u64,
    epoch: LeaderEpoch,
}
