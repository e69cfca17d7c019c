//! The replica's own log as it reasons about it: entries since the snapshot, their lineage, the voters they name, and
//! how much of it the disk has confirmed.
//!
//! ```text
//!          snapshot.position.end
//!                  |
//!   start ------ entries ------ synced ------ end
//! ```
//! Entries are kept in memory from `start` on; snapshots keep that short.

use std::collections::VecDeque;

use varve_log::{EpochChain, LeaderEpoch, Offset};

use super::entry::{Entry, Position, Snapshot};
use super::voters::VoterSet;

#[derive(Clone, Debug)]
pub(super) struct LogView {
    start: Position,
    entries: VecDeque<Entry>,
    chain: EpochChain,
    synced: Offset,
    /// Appends that the disk has not confirmed: the number of the write, and the log's end with it.
    writing: VecDeque<(u64, Offset)>,
    /// Who votes, and from which offset on. The first is the snapshot's; never empty.
    voters: Vec<(Offset, VoterSet)>,
}

/// What a leader's log says to another log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lineage {
    /// The other log is a prefix of this one.
    Prefix,
    /// They part. This log has nothing of the asker's last epoch past this position.
    Diverging(Position),
    /// They may part where this log has no entries any more.
    BeforeStart,
}

impl LogView {
    /// The log as the disk has it: `entries` after `start`, all of them synced.
    pub(super) fn new(start: Position, entries: Vec<Entry>, snapshot: &Snapshot) -> Self {
        let mut log = Self::empty(start, snapshot);
        for entry in entries {
            log.push(entry);
        }
        log.synced = log.end().end;
        log
    }

    /// A log without entries. Its last epoch is held by the entry before `start`, which is gone.
    pub(super) fn empty(start: Position, snapshot: &Snapshot) -> Self {
        let mut chain = EpochChain::new();
        if start.end > Offset::ZERO {
            chain.begin(start.epoch, start.end.plus(-1));
        }
        Self {
            start,
            entries: VecDeque::new(),
            chain,
            synced: start.end,
            writing: VecDeque::new(),
            voters: vec![(snapshot.position.end, snapshot.voters.clone())],
        }
    }

    pub(super) const fn start(&self) -> Position {
        self.start
    }

    pub(super) fn end(&self) -> Position {
        let Some(last) = self.entries.back() else {
            return self.start;
        };
        Position {
            end: self.start.end.plus(count(self.entries.len())),
            epoch: last.epoch,
        }
    }

    /// All below is on this replica's disk.
    pub(super) const fn synced(&self) -> Offset {
        self.synced
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced == self.end().end
    }

    /// The voters that count now, committed or not.
    pub(super) fn voters(&self) -> &VoterSet {
        &self.latest_voters().1
    }

    /// From where on they count.
    pub(super) fn voters_since(&self) -> Offset {
        self.latest_voters().0
    }

    fn latest_voters(&self) -> &(Offset, VoterSet) {
        self.voters
            .last()
            .expect("the snapshot's voters are never taken out")
    }

    /// Who votes once all below `end` has been applied.
    pub(super) fn voters_at(&self, end: Offset) -> &VoterSet {
        let after = self.voters.partition_point(|(since, _)| *since <= end);
        &self.voters[after.saturating_sub(1)].1
    }

    /// Who votes once all below `end` has been applied, and all sets of voters that came after.
    pub(super) fn voters_from(&self, end: Offset) -> impl Iterator<Item = &VoterSet> {
        let after = self.voters.partition_point(|(since, _)| *since <= end);
        self.voters[after.saturating_sub(1)..]
            .iter()
            .map(|(_, voters)| voters)
    }

    pub(super) fn position_at(&self, end: Offset) -> Option<Position> {
        if end == self.start.end {
            return Some(self.start);
        }
        let epoch = self.entry(end.plus(-1))?.epoch;
        Some(Position { end, epoch })
    }

    pub(super) fn entry(&self, offset: Offset) -> Option<&Entry> {
        self.entries
            .get(usize::try_from(offset.since(self.start.end)).ok()?)
    }

    /// At most `max` entries from `offset` on.
    pub(super) fn read(&self, offset: Offset, max: usize) -> impl Iterator<Item = &Entry> {
        let skipped = usize::try_from(offset.since(self.start.end)).unwrap_or(usize::MAX);
        self.entries.iter().skip(skipped).take(max)
    }

    /// Puts `entries` at the end, which write `number` will bring to the disk.
    pub(super) fn append(&mut self, entries: &[Entry], number: u64) {
        for entry in entries {
            self.push(entry.clone());
        }
        self.writing.push_back((number, self.end().end));
    }

    fn push(&mut self, entry: Entry) {
        let offset = self.end().end;
        self.chain.begin(entry.epoch, offset);
        if let Some(voters) = entry.payload.voters()
            && offset >= self.voters[0].0
        {
            self.voters.push((offset.plus(1), voters.clone()));
        }
        self.entries.push_back(entry);
    }

    /// Writes up to `number` are on the disk.
    pub(super) fn written(&mut self, number: u64) {
        while let Some((first, end)) = self.writing.front().copied()
            && first <= number
        {
            self.synced = self.synced.max(end);
            self.writing.pop_front();
        }
    }

    pub(super) fn truncate(&mut self, end: Offset) {
        let kept = usize::try_from(end.since(self.start.end)).expect("a log is not cut below its start");
        self.entries.truncate(kept);
        self.chain.truncate_from(end);
        self.synced = self.synced.min(end);
        // What will be written at these offsets is not what is being written now.
        for (_, written) in &mut self.writing {
            *written = (*written).min(end);
        }
        self.voters.retain(|(since, _)| *since <= end);
    }

    /// Entries below `start` go. Those from `snapshot` on must stay.
    pub(super) fn drop_prefix(&mut self, start: Position, snapshot: &Snapshot) {
        let gone = usize::try_from(start.end.since(self.start.end)).unwrap_or(0);
        self.entries.drain(..gone.min(self.entries.len()));
        self.start = start;
        if start.end > Offset::ZERO {
            self.chain.truncate_before(start.end.plus(-1));
        }
        self.voters.retain(|(since, _)| *since > snapshot.position.end);
        self.voters
            .insert(0, (snapshot.position.end, snapshot.voters.clone()));
    }

    /// How a log that ends at `theirs` stands to this one (KIP-595, KIP-630).
    pub(super) fn lineage(&self, theirs: Position) -> Lineage {
        if theirs == self.start {
            return Lineage::Prefix;
        }
        if theirs.end <= self.start.end || theirs.epoch < self.start.epoch {
            return Lineage::BeforeStart;
        }
        let ours = self.end();
        match self.chain.end_offset_for(theirs.epoch, ours.end) {
            Some((epoch, end)) if epoch == theirs.epoch && theirs.end <= end => Lineage::Prefix,
            Some((_, end)) if end < self.start.end => Lineage::BeforeStart,
            Some((epoch, end)) => Lineage::Diverging(Position { end, epoch }),
            None => Lineage::Diverging(ours),
        }
    }

    /// Where to cut this log so that it may agree with one that has nothing of `parting.epoch` past `parting.end`.
    pub(super) fn cut_for(&self, parting: Position) -> Offset {
        let ours = self.end().end;
        let own = self.chain.end_offset_for(parting.epoch, ours);
        own.map_or(ours, |(_, end)| end).min(parting.end)
    }

    /// Only for the fault that forgets it.
    pub(super) fn forget_start_epoch(&mut self) {
        self.start.epoch = LeaderEpoch::new(0);
        self.chain = EpochChain::new();
    }
}

pub(super) fn count(entries: usize) -> i64 {
    i64::try_from(entries).expect("a log in memory has fewer entries than i64 counts")
}
