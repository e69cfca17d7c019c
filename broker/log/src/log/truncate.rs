//! Cutting the end off, as a follower does that has gone another way than its leader, or giving up all local data
//! for what is known of it elsewhere. Planned under the lock, run without it, taken back under it; meanwhile the log
//! must not be appended to.
//!
//! A cut never leaves a new segment begun where the log ends: whether one begins there is for the leader to say.

use super::{Active, Log, Sealed};
use crate::checkpoint::{self, State};
use crate::disk::Disk;
use crate::epoch::EpochChain;
use crate::error::Error;
use crate::index::{Index, Summary};
use crate::offsets::{Offset, Timestamp};
use crate::producers::Producers;
use crate::segment::Segment;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What to cut; run it, then hand the outcome to [`Log::truncated`].
#[derive(Debug)]
#[must_use = "the log waits for this to be run and handed back"]
pub struct Truncation {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The segment that will be active, and how long it is now. New and empty if `to` lies before all segments.
    last: Arc<Segment>,
    last_bytes: Option<u64>,
    /// Newer than `last`.
    gone: Vec<Arc<Segment>>,
    unsynced: Vec<Arc<Segment>>,
    to: Offset,
    interval: u32,
    state: State,
    seed: Option<Seed>,
}

/// What is known of a partition at an offset from which on it will be copied: from the footer of the object that
/// ends there, and from the metadata.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Where the local log will begin and, for now, end.
    pub at: Offset,
    /// At or before `at`.
    pub log_start: Offset,
    /// Who wrote what below `at`.
    pub epochs: EpochChain,
    /// Producers as they were at `at`.
    pub producers: Producers,
}

/// A truncation that has been run, well or not.
#[derive(Debug)]
#[must_use = "hand it to Log::truncated"]
pub struct Truncated {
    last: Arc<Segment>,
    seed: Option<Seed>,
    outcome: Result<(Index, Summary), Error>,
}

impl Log {
    /// Plans to end the log at `to`, or at the start of the batch that holds it. `None` if the log ends there or
    /// before already (epochs that began later are forgotten all the same).
    /// Panics unless everything appended has been written and no turn is out: that order is the caller's promise.
    pub fn truncate_to(&mut self, to: Offset) -> Result<Option<Truncation>, Error> {
        self.check_still()?;
        self.epochs.truncate_from(to);
        if to >= self.log_end() {
            return Ok(None);
        }
        Ok(Some(self.plan_cut(to)))
    }

    /// Plans to take a roll back after which nothing was appended: the last sealed segment is the active one again.
    /// `None` if there is no such roll. The same promise as for [`Log::truncate_to`].
    pub fn reopen_sealed(&mut self) -> Result<Option<Truncation>, Error> {
        self.check_still()?;
        if self.active.summary.bytes > 0 || self.sealed.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.plan_cut(self.log_end())))
    }

    /// Plans to give up everything local and begin anew, empty, at `seed.at`. What was local stays until the new
    /// beginning is on stable storage. The same promise as for [`Log::truncate_to`].
    pub fn restart_at(&mut self, seed: Seed) -> Result<Truncation, Error> {
        self.check_still()?;
        let mut cut = self.plan_cut(seed.at);
        let place = self.segments().find(|(segment, _)| segment.base == seed.at);
        cut.last = match place {
            Some((segment, _)) => Arc::clone(segment),
            None => Arc::new(Segment::new(Arc::clone(&self.disk), &self.dir, seed.at)),
        };
        cut.last_bytes = place.map(|_| 0);
        let others = self.segments().filter(|(segment, _)| segment.base != seed.at);
        cut.gone = others.map(|(segment, _)| Arc::clone(segment)).collect();
        // Nothing of it is kept.
        cut.unsynced.clear();
        cut.state.first_segment = seed.at;
        cut.state.log_start = seed.log_start.min(seed.at);
        cut.state.epochs = seed.epochs.clone();
        cut.state.producers = seed.producers.clone();
        cut.seed = Some(seed);
        Ok(cut)
    }

    /// Whether everything appended has been written and no turn is out.
    pub fn is_still(&self) -> bool {
        self.queue.is_idle() && !self.unsynced.is_out()
    }

    fn check_still(&self) -> Result<(), Error> {
        self.alive()?;
        assert!(self.is_still(), "truncation while a turn is out");
        Ok(())
    }

    fn segments(&self) -> impl Iterator<Item = (&Arc<Segment>, u64)> {
        let sealed = self.sealed.iter().map(|s| (&s.segment, s.summary.bytes));
        sealed.chain([(&self.active.segment, self.active.summary.bytes)])
    }

    fn plan_cut(&self, to: Offset) -> Truncation {
        let all = || self.segments();
        let below = all().take_while(|(segment, _)| segment.base < to).last();
        let kept = below.or_else(|| all().next().filter(|(segment, _)| segment.base == to));
        let (last, last_bytes) = match kept {
            Some((segment, bytes)) => (Arc::clone(segment), Some(bytes)),
            None => (
                Arc::new(Segment::new(Arc::clone(&self.disk), &self.dir, to)),
                None,
            ),
        };
        let gone = all()
            .filter(|(segment, _)| segment.base > last.base)
            .map(|(segment, _)| Arc::clone(segment));
        let mut state = self.state_now();
        state.log_start = state.log_start.min(to);
        Truncation {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            gone: gone.collect(),
            unsynced: self.unsynced.segments().to_vec(),
            last,
            last_bytes,
            to,
            interval: self.settings.index_interval_bytes,
            state,
            seed: None,
        }
    }

    /// Takes a truncation back; returns the new log end. On an error the log is dead.
    pub fn truncated(&mut self, truncated: Truncated) -> Result<Offset, Error> {
        let (index, summary) = match truncated.outcome {
            Ok(cut) => cut,
            Err(error) => {
                self.is_dead = true;
                return Err(error);
            }
        };
        let end = summary.end;
        if let Some(seed) = truncated.seed {
            self.log_start = seed.log_start;
            self.epochs = seed.epochs;
            self.producers = seed.producers;
            self.sealed.clear();
        }
        truncated.last.forget_index();
        self.sealed
            .retain(|sealed: &Sealed| sealed.segment.base < truncated.last.base);
        let first_append = self.active.first_append;
        let written_bytes = summary.bytes;
        self.active = Active {
            segment: truncated.last,
            index,
            max_timestamp_unindexed: Timestamp::NONE,
            summary,
            first_append,
            written_bytes,
        };
        self.epochs.truncate_from(end);
        self.producers.truncate_from(end);
        self.log_start = self.log_start.min(end);
        (self.written_end, self.durable_end) = (end, end);
        self.captured = None;
        self.checkpointed.store(end.value(), Ordering::Release);
        self.unsynced.clear();
        self.turn_ends.clear();
        self.note_turn_end();
        Ok(end)
    }
}

impl Truncation {
    /// Blocks. A crash in between leaves a log that opens well, cut or not: the caller truncates again.
    pub fn run(self) -> Truncated {
        let outcome = self.cut();
        Truncated {
            last: self.last,
            seed: self.seed,
            outcome,
        }
    }

    fn cut(&self) -> Result<(Index, Summary), Error> {
        let (index, summary) = match self.last_bytes {
            Some(bytes) => self.last.index_upto(self.to, bytes, self.interval)?,
            None => (
                Index::new(self.interval, self.to),
                Summary::empty(self.to, Timestamp::NONE),
            ),
        };
        // The old checkpoint may speak of what is about to go; first one that does not.
        for segment in &self.unsynced {
            segment
                .file()?
                .sync_data()
                .map_err(Error::io("sync", &segment.path))?;
        }
        checkpoint::write(&*self.disk, &self.dir, &self.state_at(&summary))?;
        // Newest first: however far it comes, no gap is left. (What lies before a new beginning is not the log any
        // more; recovery takes it away.)
        for segment in self.gone.iter().rev() {
            segment.remove()?;
        }
        // Names and contents last independently: a shorter segment before one that is there again would be a gap.
        if !self.gone.is_empty() {
            self.sync_names()?;
        }
        let path = &self.last.path;
        if self.last_bytes.is_some() {
            // A sidecar beside a segment that is open again would outlive its truth; it may not exist.
            let _ = self.disk.remove(&self.last.index_path());
            let file = self.last.file()?;
            file.set_len(summary.bytes).map_err(Error::io("truncate", path))?;
            file.sync_data().map_err(Error::io("sync", path))?;
        } else {
            self.last.create()?;
        }
        self.sync_names()?;
        Ok((index, summary))
    }

    fn sync_names(&self) -> Result<(), Error> {
        self.disk
            .sync_dir(&self.dir)
            .map_err(Error::io("sync", &self.dir))
    }

    fn state_at(&self, summary: &Summary) -> State {
        let mut state = self.state.clone();
        state.active = *summary;
        state.first_segment = state.first_segment.min(summary.base);
        state.log_start = state.log_start.min(summary.end);
        state.epochs.truncate_from(summary.end);
        state.producers.truncate_from(summary.end);
        state
    }
}
