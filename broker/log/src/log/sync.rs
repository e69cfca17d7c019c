//! From file to stable storage: one sync in flight, whatever is written meanwhile forms the next group.

use super::Log;
use crate::disk::Disk;
use crate::error::Error;
use crate::offsets::Offset;
use crate::segment::Segment;
use std::path::PathBuf;
use std::sync::Arc;

/// What has been written and not synced.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    segments: Vec<Arc<Segment>>,
    bytes: u64,
    has_new_names: bool,
    is_out: bool,
}

impl Unsynced {
    pub(super) fn add(&mut self, segment: &Arc<Segment>, bytes: u64, is_new: bool) {
        if self.segments.last().is_none_or(|last| last.base != segment.base) {
            self.segments.push(Arc::clone(segment));
        }
        self.bytes += bytes;
        self.has_new_names |= is_new;
    }

    /// A file was made, and its name may not be on stable storage.
    pub(super) const fn note_new_name(&mut self) {
        self.has_new_names = true;
    }

    /// No name of a segment waits for a sync.
    pub(super) const fn names_last(&self) -> bool {
        !self.has_new_names && !self.is_out
    }

    pub(super) fn forget(&mut self, before: Offset) {
        self.segments.retain(|segment| segment.base >= before);
    }

    pub(super) const fn is_out(&self) -> bool {
        self.is_out
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }
}

/// All that was written since the last sync; to be run without the log's lock, then handed to [`Log::synced`].
#[derive(Debug)]
#[must_use = "the log waits for this turn to be run and handed back"]
pub struct SyncTurn {
    segments: Vec<Arc<Segment>>,
    disk: Arc<dyn Disk>,
    dir: Option<PathBuf>,
    end: Offset,
}

/// A sync that has been run, well or not.
#[derive(Debug)]
#[must_use = "hand it to Log::synced"]
pub struct Synced {
    end: Offset,
    outcome: Result<(), Error>,
}

impl SyncTurn {
    /// Where `durable_end` will be.
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Blocks, as long as the disk takes.
    pub fn run(self) -> Synced {
        Synced {
            end: self.end,
            outcome: self.sync(),
        }
    }

    // Oldest first: what is behind a hole after a crash would be taken for corruption.
    fn sync(&self) -> Result<(), Error> {
        for segment in &self.segments {
            segment
                .file()?
                .sync_data()
                .map_err(Error::io("sync", &segment.path))?;
        }
        match &self.dir {
            Some(dir) => self.disk.sync_dir(dir).map_err(Error::io("sync", dir)),
            None => Ok(()),
        }
    }
}

impl Log {
    /// All that has been written and not synced. `None` if nothing has, or a sync is out, or the log is dead.
    pub fn take_syncs(&mut self) -> Option<SyncTurn> {
        let unsynced = &mut self.unsynced;
        let has_work = !unsynced.segments.is_empty() || unsynced.has_new_names;
        if unsynced.is_out || !has_work || self.is_dead {
            return None;
        }
        unsynced.is_out = true;
        unsynced.bytes = 0;
        Some(SyncTurn {
            segments: std::mem::take(&mut unsynced.segments),
            disk: Arc::clone(&self.disk),
            dir: std::mem::take(&mut unsynced.has_new_names).then(|| self.dir.clone()),
            end: self.written_end,
        })
    }

    /// Whether a sync has been taken and not handed back.
    pub const fn is_syncing(&self) -> bool {
        self.unsynced.is_out()
    }

    /// Bytes written since the last sync was taken: with `varve.flush=os` the caller syncs when they are many.
    pub const fn unsynced_bytes(&self) -> u64 {
        self.unsynced.bytes
    }

    /// Takes a sync back and moves `durable_end`, which is returned. After an error the log is dead: the kernel
    /// may have dropped the pages, so a second sync that succeeds would prove nothing.
    pub fn synced(&mut self, turn: Synced) -> Result<Offset, Error> {
        self.unsynced.is_out = false;
        if let Err(error) = turn.outcome {
            self.is_dead = true;
            return Err(error);
        }
        self.durable_end = self.durable_end.max(turn.end);
        Ok(self.durable_end)
    }
}
