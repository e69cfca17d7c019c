//! One partition's log. [`Log`] decides, under the partition's short lock, and does no I/O after `open`; what it
//! decides comes out as turns, plans and points that are run without the lock:
//!
//! ```text
//! append ─► queue ─► take_writes ─► WriteTurn::run ─► wrote      (readable: written_end)
//!                    take_syncs  ─► SyncTurn::run  ─► synced     (durable: durable_end)
//! plan_read ─► ReadPlan::run ─► Slice        find_timestamp ─► TimestampPlan::run
//! checkpoint ─► Checkpoint::write            drop_segments_before ─► Dropped::run
//! truncate_to, reopen_sealed, restart_at ─► Truncation::run ─► truncated
//! ```
//! At most one write turn and one sync turn are out at a time, so the order on disk is the order of offsets.
//!
//! Left to right these never decrease:
//! log_start ≤ local_start ≤ durable_end ≤ written_end ≤ log_end

mod append;
mod drop;
mod read;
mod sync;
mod timestamps;
mod truncate;
mod write;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub(crate) use append::new_active;
pub use append::{AppendError, Appended};
#[cfg(test)]
pub(crate) use drop::sealed_for_tests;
pub use drop::{Dropped, SealedSegment};
pub use read::{ReadError, ReadPlan, Slice};
pub use sync::{SyncTurn, Synced};
pub use timestamps::{FoundTimestamp, TimestampPlan};
pub use truncate::{Seed, Truncated, Truncation};
pub use write::{WriteTurn, Written};

use crate::checkpoint::{Checkpoint, State};
use crate::disk::Disk;
use crate::epoch::EpochChain;
use crate::error::Error;
use crate::index::{Edge, Index, Summary};
use crate::offsets::{LeaderEpoch, Offset, Timestamp};
use crate::producers::Producers;
use crate::recovery::{self, Recovered};
use crate::segment::Segment;
use crate::settings::Settings;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use write::WriteQueue;

// A reader of the tail comes back to where a recent turn ended; so many of those places are known exactly.
const TURN_ENDS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    settings: Settings,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    active: Active,
    log_start: Offset,
    written_end: Offset,
    durable_end: Offset,
    epochs: EpochChain,
    producers: Producers,
    queue: WriteQueue,
    unsynced: sync::Unsynced,
    turn_ends: VecDeque<TurnEnd>,
    /// A checkpoint taken at a log end that is not durable yet.
    captured: Option<State>,
    /// The recovery point on disk; moved by [`Checkpoint::write`].
    checkpointed: Arc<AtomicI64>,
    is_dead: bool,
}

#[derive(Debug)]
pub(crate) struct Sealed {
    pub segment: Arc<Segment>,
    pub summary: Summary,
    pub written_bytes: u64,
    /// All its bytes and its sidecar are in files.
    pub is_written: bool,
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    /// After a restart it knows nothing of what lies before the recovery point: so opening costs the same however
    /// much there is. Readers and the seal then ask the segment, which goes over the headers once.
    pub index: Index,
    /// Of what `index` does not know.
    pub max_timestamp_unindexed: Timestamp,
    /// Of all bytes appended, written or not.
    pub summary: Summary,
    /// The broker's time of its first append.
    pub first_append: Timestamp,
    pub written_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct TurnEnd {
    segment: Offset,
    edge: Edge,
}

/// What recovery hands over; the log begins from it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub sealed: VecDeque<Sealed>,
    pub active: Active,
    pub log_start: Offset,
    /// The recovery point on disk.
    pub checkpointed: Offset,
    pub epochs: EpochChain,
    pub producers: Producers,
}

impl Log {
    /// Opens the log in `dir`, or begins one at offset 0 if there is nothing. Blocks. Whatever was not covered by
    /// the last checkpoint is checked, a torn tail cut off, and everything that was touched synced.
    /// [`Error::Corrupt`]: something other than a tail is damaged; nothing has been changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        settings: Settings,
        now: Timestamp,
    ) -> Result<(Self, Recovered), Error> {
        let (opened, recovered) = recovery::open(&disk, &dir, &settings, now)?;
        Ok((Self::begin(disk, dir, settings, opened), recovered))
    }

    /// Begins an empty log at `start`: one whose data is all elsewhere. Fails if `dir` holds segments already.
    pub fn create_at(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        settings: Settings,
        start: Offset,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let opened = recovery::create(&disk, &dir, &settings, start, now)?;
        Ok(Self::begin(disk, dir, settings, opened))
    }

    fn begin(disk: Arc<dyn Disk>, dir: PathBuf, settings: Settings, opened: Opened) -> Self {
        let end = opened.active.summary.end;
        let mut log = Self {
            disk,
            dir,
            settings,
            sealed: opened.sealed,
            active: opened.active,
            log_start: opened.log_start,
            written_end: end,
            durable_end: end,
            epochs: opened.epochs,
            producers: opened.producers,
            queue: WriteQueue::default(),
            unsynced: sync::Unsynced::default(),
            turn_ends: VecDeque::new(),
            captured: None,
            checkpointed: Arc::new(AtomicI64::new(opened.checkpointed.value())),
            is_dead: false,
        };
        // Whoever made an empty segment may have died before its name was synced.
        if log.active.summary.bytes == 0 {
            log.unsynced.note_new_name();
        }
        log.note_turn_end();
        log
    }

    /// The first offset a client may ask for. May lie before everything that is local.
    pub const fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The first offset that is in local files.
    pub fn local_start(&self) -> Offset {
        self.first_base().max(self.log_start)
    }

    /// Everything below is on stable storage.
    pub const fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Everything below is in files and may be read.
    pub const fn written_end(&self) -> Offset {
        self.written_end
    }

    /// The offset the next record gets.
    pub const fn log_end(&self) -> Offset {
        self.active.summary.end
    }

    /// Where the active segment begins: everything below is sealed.
    pub fn active_base(&self) -> Offset {
        self.active.segment.base
    }

    /// Where the oldest local segment begins: at or before `local_start`.
    pub fn local_base(&self) -> Offset {
        self.first_base()
    }

    /// Base of the segment that holds `offset`, or will if it is the log end; `None` if it is not local.
    pub fn segment_base_of(&self, offset: Offset) -> Option<Offset> {
        if offset < self.first_base() || offset > self.log_end() {
            return None;
        }
        let sealed = self.sealed.get(self.sealed_at(offset));
        Some(sealed.map_or(self.active.segment.base, |sealed| sealed.segment.base))
    }

    /// [`Log::active_base`], as far as it is on stable storage: of a segment whose name a power failure may still
    /// take, the one before.
    pub fn durable_active_base(&self) -> Offset {
        let is_named = self.queue.is_idle() && self.unsynced.names_last();
        match self.sealed.back() {
            Some(before) if !is_named => before.segment.base,
            Some(_) | None => self.active.segment.base,
        }
    }

    /// A disk error has ended this log: appends answer [`AppendError::Storage`]. Reads go on as the disk allows.
    pub const fn is_dead(&self) -> bool {
        self.is_dead
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// From the next append on.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    pub const fn epochs(&self) -> &EpochChain {
        &self.epochs
    }

    pub const fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Forgets producers that have been silent for `max_age_ms` (`producer.id.expiration.ms`).
    pub fn expire_producers(&mut self, now: Timestamp, max_age_ms: i64) {
        self.producers.expire(now, max_age_ms);
    }

    /// A new leader's epoch begins at the log end. Without effect if it is not newer. Lasts with the next
    /// checkpoint or the first batch in it.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        self.epochs.begin(epoch, self.log_end());
    }

    /// Moves the log start forward (retention, DeleteRecords), at most to the log end; never back. Returns where
    /// it is now. Files go by [`Log::drop_segments_before`]. Lasts with the next checkpoint.
    pub fn set_log_start(&mut self, start: Offset) -> Offset {
        self.log_start = self.log_start.max(start.min(self.log_end()));
        self.forget_epochs();
        self.log_start
    }

    /// Those that wrote nothing that is in local files or may be asked for. What lies below the log start counts as
    /// long as its file is there: replicas copy segments whole, and meet where their lineages part.
    fn forget_epochs(&mut self) {
        let kept = self.first_base().min(self.log_start);
        self.epochs.truncate_before(kept);
    }

    /// Only when the metadata knows better than a log without its checkpoint: data in the tier lies before the
    /// local files. May move the start back.
    pub fn restore_log_start(&mut self, start: Offset) {
        self.log_start = start.min(self.log_end());
    }

    /// Bytes of all local segments, appended ones that are not written yet included.
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.summary.bytes).sum::<u64>() + self.active.summary.bytes
    }

    /// About how many local bytes hold `offset` and what comes after it.
    pub fn bytes_since(&self, offset: Offset) -> u64 {
        if offset >= self.log_end() {
            return 0;
        }
        let active = &self.active;
        if offset >= active.index.begins().offset {
            return active.summary.bytes - active.index.at_or_before(active.segment.base, offset).position;
        }
        if offset >= active.segment.base {
            return active.summary.bytes - share_before(&active.summary, offset);
        }
        let at = self.sealed_at(offset);
        let whole: u64 = self.sealed.range(at..).map(|sealed| sealed.summary.bytes).sum();
        whole + self.active.summary.bytes
            - self
                .sealed
                .get(at)
                .map_or(0, |sealed| share_before(&sealed.summary, offset))
    }

    /// The largest timestamp in the local segments; [`Timestamp::NONE`] if there is none. Which record has it:
    /// [`Log::find_timestamp`].
    pub fn max_timestamp(&self) -> Timestamp {
        let sealed = self
            .sealed
            .iter()
            .map(|sealed| sealed.summary.max_timestamp)
            .max();
        sealed
            .unwrap_or(Timestamp::NONE)
            .max(self.active.summary.max_timestamp)
    }

    /// Call now and then, after syncs. The first call notes the log end with producers and epochs as they are
    /// there; as soon as that is durable (at once, if it is already) a call returns it to be written.
    /// While `None` comes back, the last written checkpoint holds.
    pub fn checkpoint(&mut self) -> Option<Checkpoint> {
        if self.is_dead {
            return None;
        }
        let durable_end = self.durable_end;
        let state = match self.captured.take() {
            Some(captured) => captured,
            None => self.state_now(),
        };
        if state.recovery_point() > durable_end {
            self.captured = Some(state);
            return None;
        }
        let state = State {
            log_start: self.log_start,
            first_segment: self.first_base(),
            ..state
        };
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.clone());
        Some(Checkpoint {
            disk,
            dir,
            state,
            checkpointed: Arc::clone(&self.checkpointed),
        })
    }

    /// Where recovery would begin now: the recovery point of the last checkpoint that was written.
    pub fn checkpointed(&self) -> Offset {
        Offset::new(self.checkpointed.load(Ordering::Acquire))
    }

    /// Whether the last checkpoint was taken at the very end of the log (or there is nothing to note at all): another one
    /// would spare the next start nothing.
    pub fn is_checkpointed(&self) -> bool {
        let end = self.log_end();
        self.checkpointed() == end && self.durable_end == end
    }

    fn state_now(&self) -> State {
        State {
            active: self.active.summary,
            first_segment: self.first_base(),
            log_start: self.log_start,
            epochs: self.epochs.clone(),
            producers: self.producers.clone(),
        }
    }

    fn first_base(&self) -> Offset {
        self.sealed
            .front()
            .map_or(self.active.segment.base, |first| first.segment.base)
    }

    /// Place in `sealed` of the segment that holds `offset`; `sealed.len()` if it is the active one.
    fn sealed_at(&self, offset: Offset) -> usize {
        self.sealed.partition_point(|sealed| sealed.summary.end <= offset)
    }

    fn note_turn_end(&mut self) {
        // The turn may have ended in a segment that has been sealed since.
        if self.written_end < self.active.segment.base {
            return;
        }
        if self.turn_ends.len() == TURN_ENDS {
            self.turn_ends.pop_front();
        }
        let edge = Edge {
            offset: self.written_end,
            position: self.active.written_bytes,
        };
        self.turn_ends.push_back(TurnEnd {
            segment: self.active.segment.base,
            edge,
        });
    }

    fn alive(&self) -> Result<(), Error> {
        if self.is_dead {
            Err(Error::Dead {
                path: self.dir.clone(),
            })
        } else {
            Ok(())
        }
    }
}

/// As if records were of equal size.
fn share_before(segment: &Summary, offset: Offset) -> u64 {
    let records = u128::try_from(segment.end.since(segment.base).max(1)).unwrap_or(1);
    let before = u128::try_from(offset.since(segment.base))
        .unwrap_or(0)
        .min(records);
    u64::try_from(u128::from(segment.bytes) * before / records).unwrap_or(segment.bytes)
}
