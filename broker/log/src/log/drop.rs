//! Sealed segments: who they are, and letting the oldest go.

use super::{Log, Sealed};
use crate::disk::{Disk, DiskFile};
use crate::error::Error;
use crate::index::Index;
use crate::offsets::{Offset, Timestamp};
use crate::segment::Segment;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A sealed segment whose bytes are all in its file: for tiering and retention. Cheap to clone; while one is held
/// the file can be read even after the log has dropped it.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    pub base: Offset,
    /// The offset after its last record; the base of the next segment.
    pub end: Offset,
    pub bytes: u64,
    /// Largest timestamp of its first batch.
    pub first_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    /// The broker's time of its last append; stands in where records have no timestamps.
    pub last_append: Timestamp,
    segment: Arc<Segment>,
    interval: u32,
}

impl SealedSegment {
    pub fn path(&self) -> &Path {
        &self.segment.path
    }

    /// Its file, opened if need be. Blocks.
    pub fn file(&self) -> Result<Arc<dyn DiskFile>, Error> {
        self.segment.file()
    }

    /// Its index, loaded if need be. Blocks.
    pub fn index(&self) -> Result<Arc<Index>, Error> {
        self.segment.index(self.bytes, self.interval)
    }
}

/// Segments the log no longer has; their files go when this is run.
#[derive(Debug)]
#[must_use = "files are removed when this is run"]
pub struct Dropped {
    segments: Vec<Arc<Segment>>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Dropped {
    /// How many segments.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Removes the files. Blocks. What a failure leaves behind is found again when the log is opened.
    pub fn run(self) -> Result<(), Error> {
        if self.segments.is_empty() {
            return Ok(());
        }
        // The names of newer segments must last before older ones go: a directory without any would be a log
        // that has lost its place.
        self.disk
            .sync_dir(&self.dir)
            .map_err(Error::io("sync", &self.dir))?;
        self.segments.iter().try_for_each(Segment::remove)
    }
}

impl Log {
    /// The sealed segments in order, without those whose seal is not written yet.
    pub fn sealed(&self) -> Vec<SealedSegment> {
        let written = self.sealed.iter().take_while(|sealed| sealed.is_written);
        written.map(|sealed| self.as_sealed(sealed)).collect()
    }

    /// Those of [`Self::sealed`] that end behind `from` and at or before `upto`, the first `count_max` of them. Costs as
    /// much as it gives: for being asked often.
    pub fn sealed_between(&self, from: Offset, upto: Offset, count_max: usize) -> Vec<SealedSegment> {
        let first = self.sealed.partition_point(|sealed| sealed.summary.end <= from);
        let due = |sealed: &&Sealed| sealed.is_written && sealed.summary.end <= upto;
        let found = self.sealed.range(first..).take_while(due).take(count_max);
        found.map(|sealed| self.as_sealed(sealed)).collect()
    }

    /// Lets go of sealed segments that end at or before `offset` *and* below the last written checkpoint (what their
    /// batches said of producers and epochs must not go with them): sync, checkpoint, then drop. Run the result
    /// without the lock. The log start is not moved: without a tier, move it first ([`Log::set_log_start`]).
    pub fn drop_segments_before(&mut self, offset: Offset) -> Dropped {
        let offset = offset.min(self.checkpointed());
        let is_dropped = |sealed: &&Sealed| sealed.is_written && sealed.summary.end <= offset;
        let count = self.sealed.iter().take_while(is_dropped).count();
        let segments: Vec<_> = self.sealed.drain(..count).map(|sealed| sealed.segment).collect();
        self.unsynced.forget(self.first_base());
        self.forget_epochs();
        Dropped {
            segments,
            disk: Arc::clone(&self.disk),
            dir: self.dir.clone(),
        }
    }

    /// Closes files and forgets indexes of sealed segments that nobody has read since the last call. Call every
    /// minute or so, to bound open files and memory.
    pub fn close_idle_files(&self) {
        for sealed in self.sealed.iter().filter(|sealed| sealed.is_written) {
            sealed.segment.close_if_idle();
        }
    }

    fn as_sealed(&self, sealed: &Sealed) -> SealedSegment {
        let summary = &sealed.summary;
        SealedSegment {
            base: summary.base,
            end: summary.end,
            bytes: summary.bytes,
            first_timestamp: summary.first_timestamp,
            max_timestamp: summary.max_timestamp,
            last_append: summary.last_append,
            segment: Arc::clone(&sealed.segment),
            interval: self.settings.index_interval_bytes,
        }
    }
}

/// A sealed segment that has no file, for tests of what only looks at its numbers.
#[cfg(test)]
pub(crate) fn sealed_for_tests(base: i64, end: i64, bytes: u64, max_timestamp: i64) -> SealedSegment {
    let disk: Arc<dyn Disk> = Arc::new(crate::disk::SimDisk::new());
    let base = Offset::new(base);
    let timestamp = Timestamp::new(max_timestamp);
    SealedSegment {
        base,
        end: Offset::new(end),
        bytes,
        first_timestamp: timestamp,
        max_timestamp: timestamp,
        last_append: timestamp,
        segment: Arc::new(Segment::new(disk, Path::new("/none"), base)),
        interval: 4096,
    }
}
