//! Cutting the end off, as a follower does that has gone another way than its leader. Planned under the lock, run
//! without it, taken back under it; meanwhile the log must not be appended to.

use super::{Active, Log, Sealed};
use crate::checkpoint::{self, State};
use crate::disk::Disk;
use crate::error::Error;
use crate::index::{Index, Summary};
use crate::offsets::{Offset, Timestamp};
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
}

/// A truncation that has been run, well or not.
#[derive(Debug)]
#[must_use = "hand it to Log::truncated"]
pub struct Truncated {
    last: Arc<Segment>,
    outcome: Result<(Index, Summary), Error>,
}

impl Log {
    /// Plans to end the log at `to`, or at the start of the batch that holds it. `None` if the log ends there or
    /// before already (epochs that began later are forgotten all the same).
    /// Panics unless everything appended has been written and no turn is out: that order is the caller's promise.
    pub fn truncate_to(&mut self, to: Offset) -> Result<Option<Truncation>, Error> {
        self.alive()?;
        assert!(
            self.queue.is_idle() && !self.unsynced.is_out(),
            "truncation while a turn is out"
        );
        self.epochs.truncate_from(to);
        if to >= self.log_end() {
            return Ok(None);
        }
        let all = || {
            let sealed = self.sealed.iter().map(|s| (&s.segment, s.summary.bytes));
            sealed.chain([(&self.active.segment, self.active.summary.bytes)])
        };
        let kept = all().take_while(|(segment, _)| segment.base <= to).last();
        let (last, last_bytes) = match kept {
            Some((segment, bytes)) => (Arc::clone(segment), Some(bytes)),
            None => (
                Arc::new(Segment::new(Arc::clone(&self.disk), &self.dir, to)),
                None,
            ),
        };
        let gone = all()
            .filter(|(segment, _)| segment.base > to)
            .map(|(segment, _)| Arc::clone(segment));
        let mut state = self.state_now();
        state.log_start = state.log_start.min(to);
        Ok(Some(Truncation {
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
            gone: gone.collect(),
            unsynced: self.unsynced.segments().to_vec(),
            last,
            last_bytes,
            to,
            interval: self.settings.index_interval_bytes,
            state,
        }))
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
        // Newest first: however far it comes, no gap is left.
        for segment in self.gone.iter().rev() {
            segment.remove()?;
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
        self.disk
            .sync_dir(&self.dir)
            .map_err(Error::io("sync", &self.dir))?;
        Ok((index, summary))
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
