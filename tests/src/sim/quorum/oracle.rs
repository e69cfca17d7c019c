//! What must hold after every event of a run, whoever crashed and whatever was lost.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use varve_cluster::raft::{
    Answer, Entry, Envelope, Message, Payload, Position, ReplicaKey, RoleName, Ticket, VoterSet, Write,
};
use varve_log::{LeaderEpoch, Offset};

use super::replica::{Replica, Report, command_of, digest, key_of};
use crate::sim::world::{Output, World};

/// Everything that has ever been true for all.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// R1: who led each epoch.
    leaders: BTreeMap<LeaderEpoch, ReplicaKey>,
    /// Who got each replica's vote.
    votes: BTreeMap<(ReplicaKey, LeaderEpoch), ReplicaKey>,
    /// The latest epoch a replica has spoken in.
    spoken: BTreeMap<ReplicaKey, LeaderEpoch>,
    /// M1: the digest of every log that ever ended there.
    lineage: BTreeMap<(Offset, LeaderEpoch), u64>,
    /// The one history.
    committed: Vec<Commit>,
    commands: BTreeMap<u64, Offset>,
    logs: BTreeMap<usize, Log>,
    lost_disks: BTreeSet<Uuid>,
    asked: BTreeMap<Ticket, Asked>,
    /// Below this everything has been acknowledged to somebody, or comes before something that was.
    acknowledged: Offset,
    /// Commands that will not happen, it was said.
    refused: BTreeSet<u64>,
    pub(super) answered: u64,
}

#[derive(Debug)]
struct Commit {
    digest: u64,
    /// The epoch whose leader committed it.
    by: LeaderEpoch,
    command: Option<u64>,
    voters: Option<VoterSet>,
}

/// A node's log as its writes make it: the digest up to each entry's end.
#[derive(Debug, Default)]
struct Log {
    life: u32,
    start: Offset,
    before: u64,
    digests: Vec<u64>,
    high_watermark: Offset,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Command(u64),
    /// With what had been acknowledged when it was asked.
    Read(Offset),
    Voters,
}

type Verdict = Result<(), String>;

macro_rules! must {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}

impl Oracle {
    pub(super) fn propose(&mut self, ticket: Ticket, command: u64) {
        self.asked.insert(ticket, Asked::Command(command));
    }

    pub(super) fn read(&mut self, ticket: Ticket) {
        self.asked.insert(ticket, Asked::Read(self.acknowledged));
    }

    pub(super) fn change_voters(&mut self, ticket: Ticket) {
        self.asked.insert(ticket, Asked::Voters);
    }

    pub(super) fn disk_lost(&mut self, directory: Uuid) {
        self.lost_disks.insert(directory);
    }

    pub(super) fn is_lost(&self, replica: ReplicaKey) -> bool {
        self.lost_disks.contains(&replica.directory)
    }

    /// Whether that ticket has been answered.
    pub(super) fn is_open(&self, ticket: Ticket) -> bool {
        self.asked.contains_key(&ticket)
    }

    pub(super) fn committed(&self) -> Offset {
        end_of(&self.committed)
    }

    pub(super) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// A node has started: its log is what its disk holds.
    pub(super) fn started(&mut self, world: &World<Replica>, node: usize) -> Verdict {
        let stored = &world.synced(node).stored;
        let start = stored.log_start;
        let before = match self.lineage.get(&(start.end, start.epoch)) {
            Some(digest) => *digest,
            None if start.end == Offset::ZERO => 0,
            None => {
                return Err(format!(
                    "node {node} starts from a log start that never was: {start:?}"
                ));
            }
        };
        let mut log = Log {
            life: world.life(node),
            start: start.end,
            before,
            ..Log::default()
        };
        for (place, entry) in (1..).zip(&stored.entries) {
            let before = log.digests.last().copied().unwrap_or(log.before);
            log.digests.push(digest(before, entry));
            self.matches(start.end.plus(place), entry, digest(before, entry))?;
        }
        log.high_watermark = stored.snapshot.position.end;
        self.logs.insert(node, log);
        Ok(())
    }

    /// What a node has put out in one event.
    pub(super) fn after(
        &mut self,
        world: &World<Replica>,
        node: usize,
        outputs: &[Output<Replica>],
    ) -> Verdict {
        for output in outputs {
            match output {
                Output::Write { write, .. } => self.written(node, write)?,
                Output::Send { message, .. } => self.sent(message)?,
                Output::Report(report) => self.reported(world, node, report)?,
            }
        }
        Ok(())
    }

    fn written(&mut self, node: usize, write: &Write) -> Verdict {
        let log = self.logs.entry(node).or_default();
        let at = |offset: Offset, log: &Log| usize::try_from(offset.since(log.start)).unwrap_or(0);
        match write {
            Write::QuorumState(_) | Write::Snapshot(_) => {}
            Write::Append { base, entries } => {
                must!(
                    at(*base, log) == log.digests.len(),
                    "node {node} appends at {base}, which is not its end"
                );
                let mut before = log.digests.last().copied().unwrap_or(log.before);
                for (place, entry) in (1..).zip(entries) {
                    before = digest(before, entry);
                    self.logs.entry(node).or_default().digests.push(before);
                    self.matches(base.plus(place), entry, before)?;
                }
            }
            Write::Truncate { end } => {
                must!(
                    *end >= log.high_watermark,
                    "node {node} cuts its log at {end}, below its high watermark"
                );
                log.digests.truncate(at(*end, log));
            }
            Write::DropPrefix { start } => {
                let gone = at(start.end, log);
                must!(gone <= log.digests.len(), "node {node} drops more than it has");
                log.before = log.digests[..gone].last().copied().unwrap_or(log.before);
                log.digests.drain(..gone);
                log.start = start.end;
            }
            Write::Reset { start } => {
                let known = self.lineage.get(&(start.end, start.epoch)).copied();
                must!(
                    known.is_some(),
                    "node {node} resets its log to a place that never was: {start:?}"
                );
                log.before = known.unwrap_or_default();
                log.digests.clear();
                log.start = start.end;
            }
        }
        Ok(())
    }

    fn matches(&mut self, end: Offset, last: &Entry, digest: u64) -> Verdict {
        let known = *self.lineage.entry((end, last.epoch)).or_insert(digest);
        must!(
            known == digest,
            "log matching: two logs end at {end} in epoch {} and differ",
            last.epoch
        );
        Ok(())
    }

    fn sent(&mut self, envelope: &Envelope) -> Verdict {
        let (from, epoch) = (envelope.from, envelope.epoch);
        let spoken = self.spoken.entry(from).or_default();
        must!(
            epoch >= *spoken,
            "replica {from} has spoken in epoch {spoken} and now speaks in {epoch}"
        );
        *spoken = epoch;
        match &envelope.message {
            Message::Vote(request) if !request.pre_vote => self.voted(from, epoch, from.id.value()),
            Message::VoteResponse(response) if response.granted && !response.pre_vote => {
                self.voted(from, epoch, envelope.to.value())
            }
            _ => Ok(()),
        }
    }

    fn voted(&mut self, voter: ReplicaKey, epoch: LeaderEpoch, candidate: i32) -> Verdict {
        let candidate = ReplicaKey {
            id: varve_cluster::raft::NodeId::new(candidate),
            directory: Uuid::nil(),
        };
        let before = *self.votes.entry((voter, epoch)).or_insert(candidate);
        must!(
            before == candidate,
            "replica {voter} votes for {} and {} in epoch {epoch}",
            before.id,
            candidate.id
        );
        Ok(())
    }

    fn reported(&mut self, world: &World<Replica>, node: usize, report: &Report) -> Verdict {
        match report {
            Report::Became {
                role: RoleName::Leader,
                epoch,
            } => self.leads(world, node, *epoch),
            Report::Became { .. } => Ok(()),
            Report::Committed {
                high_watermark,
                entries,
                epoch,
                voters,
            } => {
                let position = self.commits(world, node, *high_watermark, entries, *epoch)?;
                position.map_or(Ok(()), |position| self.on_majority(world, position, voters))
            }
            Report::Loaded { position, digest } => {
                let known = digest_at(&self.committed, position.end);
                must!(
                    known == Some(*digest),
                    "node {node} loads a snapshot of {position:?} that is not the history"
                );
                Ok(())
            }
            Report::Answer { ticket, answer } => self.answer(node, *ticket, *answer),
        }
    }

    fn leads(&mut self, world: &World<Replica>, node: usize, epoch: LeaderEpoch) -> Verdict {
        let key = key_of(node, world.synced(node).directory);
        let before = *self.leaders.entry(epoch).or_insert(key);
        must!(
            before == key,
            "election safety: {before} and {key} lead epoch {epoch}"
        );
        // What a later leader has committed meanwhile, this one need not have: it will commit nothing.
        let earlier = self
            .committed
            .iter()
            .take_while(|commit| commit.by < epoch)
            .count();
        let log = self.logs.entry(node).or_default();
        let end = Offset::new(i64::try_from(earlier).expect("a history in memory"));
        let held = log.digest_at(end);
        let complete = end <= log.start || (held.is_some() && held == digest_at(&self.committed, end));
        must!(
            complete,
            "leader completeness: node {node} leads epoch {epoch} without all below {end}"
        );
        Ok(())
    }

    /// The position up to which the history has grown by this, if it has.
    fn commits(
        &mut self,
        world: &World<Replica>,
        node: usize,
        high_watermark: Offset,
        entries: &[(Offset, Entry)],
        epoch: LeaderEpoch,
    ) -> Result<Option<Position>, String> {
        let log = self.logs.entry(node).or_default();
        must!(
            high_watermark >= log.high_watermark,
            "the high watermark of node {node} goes back to {high_watermark}"
        );
        log.high_watermark = high_watermark;
        let held = log.digest_at(high_watermark);
        must!(
            held.is_some(),
            "node {node} commits {high_watermark}, which it does not hold"
        );
        let known = end_of(&self.committed);
        let shared = known.min(high_watermark);
        // Below its log's start it has what its snapshot says, which was judged when it was loaded.
        let agrees = log.digest_at(shared) == digest_at(&self.committed, shared) || shared < log.start;
        must!(agrees, "node {node} commits another history below {shared}");
        let mut position = None;
        for (offset, entry) in entries.iter().filter(|(offset, _)| *offset >= known) {
            must!(
                *offset == self.committed(),
                "node {node} cannot show what it commits"
            );
            let digest = self.logs[&node].digest_at(offset.plus(1)).unwrap_or_default();
            let command = command_of(&entry.payload);
            if let Some(command) = command {
                must!(
                    self.commands.insert(command, *offset).is_none(),
                    "command {command} is committed twice"
                );
                must!(
                    !self.refused.contains(&command),
                    "command {command} is committed, but was refused"
                );
            }
            let voters = match &entry.payload {
                Payload::LeaderChange { voters, .. } | Payload::Voters(voters) => Some(voters.clone()),
                Payload::Command(_) => None,
            };
            self.committed.push(Commit {
                digest,
                by: epoch,
                command,
                voters,
            });
            position = Some(Position {
                end: offset.plus(1),
                epoch: entry.epoch,
            });
        }
        must!(
            self.committed() >= high_watermark,
            "node {node} cannot show what it commits"
        );
        must!(
            self.logs[&node].life == world.life(node) || world.machine(node).is_none(),
            "a dead node commits"
        );
        self.voters_overlap()?;
        Ok(position)
    }

    /// What is committed is on the disks of a majority, and those do not forget. (A disk that was taken out and
    /// destroyed may have been one of them.)
    fn on_majority(&self, world: &World<Replica>, position: Position, voters: &VoterSet) -> Verdict {
        let holds = |voter: ReplicaKey| {
            let on_disk = |node: usize| {
                let files = world.synced(node);
                files.directory == voter.directory && files.holds(position)
            };
            self.is_lost(voter) || (0..world.nodes()).any(on_disk)
        };
        must!(
            voters.is_majority(holds),
            "{position:?} is committed without a majority of disks"
        );
        Ok(())
    }

    /// One voter more or less at a time.
    fn voters_overlap(&self) -> Verdict {
        let mut sets = self
            .committed
            .iter()
            .rev()
            .filter_map(|commit| commit.voters.as_ref());
        if let (Some(now), Some(before)) = (sets.next(), sets.next()) {
            let gone = before.iter().filter(|voter| !now.contains(*voter)).count();
            let come = now.iter().filter(|voter| !before.contains(*voter)).count();
            must!(
                gone + come <= 1,
                "two voters change at once: {before:?} to {now:?}"
            );
        }
        Ok(())
    }

    fn answer(&mut self, node: usize, ticket: Ticket, answer: Answer) -> Verdict {
        let Some(asked) = self.asked.remove(&ticket) else {
            return Err(format!("node {node} answers {ticket:?} twice"));
        };
        self.answered += 1;
        match (asked, answer) {
            (_, Answer::Unknown) | (Asked::Read(_) | Asked::Voters, Answer::Refused(_)) => {}
            (Asked::Command(command), Answer::Refused(_)) => {
                let there = self.commands.contains_key(&command);
                must!(!there, "command {command} is refused, but committed");
                self.refused.insert(command);
            }
            (Asked::Command(command), Answer::Committed { offset }) => {
                let at = self.commands.get(&command);
                must!(
                    at == Some(&offset),
                    "command {command} is acknowledged at {offset}, but is at {at:?}"
                );
                self.acknowledged = self.acknowledged.max(offset.plus(1));
            }
            (Asked::Voters, Answer::Committed { offset }) => {
                self.acknowledged = self.acknowledged.max(offset.plus(1));
            }
            (Asked::Read(from), Answer::Confirmed { high_watermark }) => {
                must!(
                    high_watermark >= from,
                    "a read at {high_watermark} misses what was acknowledged below {from}"
                );
            }
            (asked, answer) => return Err(format!("{asked:?} is answered by {answer:?}")),
        }
        Ok(())
    }

    /// At rest: every running replica has applied the one history.
    pub(super) fn agrees(&self, replica: &Replica) -> Verdict {
        let known = digest_at(&self.committed, replica.applied);
        must!(
            known == Some(replica.digest),
            "{} has applied another history",
            replica.key
        );
        Ok(())
    }

    /// Commands in the history.
    pub(super) fn commands(&self) -> usize {
        self.committed
            .iter()
            .filter(|commit| commit.command.is_some())
            .count()
    }
}

impl Log {
    fn digest_at(&self, end: Offset) -> Option<u64> {
        let after = usize::try_from(end.since(self.start)).ok()?;
        match after.checked_sub(1) {
            None => Some(self.before),
            Some(at) => self.digests.get(at).copied(),
        }
    }
}

fn digest_at(committed: &[Commit], end: Offset) -> Option<u64> {
    let count = usize::try_from(end.value()).ok()?;
    match count.checked_sub(1) {
        None => Some(0),
        Some(at) => committed.get(at).map(|commit| commit.digest),
    }
}

fn end_of(committed: &[Commit]) -> Offset {
    Offset::new(i64::try_from(committed.len()).expect("a history in memory"))
}
