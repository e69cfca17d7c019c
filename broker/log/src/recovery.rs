//! From files to a trusted log. Below the checkpoint's recovery point everything is durable and believed: sealed
//! segments by their sidecar's footer, the rest by its headers. Above it every batch is checked. The tail may be
//! cut, the middle never: damage that whole batches follow is not a torn write, and cutting there would lose data
//! that was acknowledged.
//!
//! ```text
//!   sealed, trusted by footer │ headers only │ CRC of each batch │ torn: cut │
//!                                            └ recovery point    └ log end
//! ```

use crate::batch::Header;
use crate::checkpoint::{self, State};
use crate::disk::Disk;
use crate::epoch::EpochChain;
use crate::error::Error;
use crate::index::{Index, Summary};
use crate::log::{Active, Opened, Sealed, new_active};
use crate::offsets::{Offset, Timestamp};
use crate::producers::Producers;
use crate::scan::{Checked, Scan, holds_batch};
use crate::segment::{INDEX_SUFFIX, LOG_SUFFIX, Segment, base_in, index_name};
use crate::settings::Settings;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What opening a log found: for one line in the server's own log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Local segments there were.
    pub segments: usize,
    /// Bytes whose batches were checked one by one.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut off.
    pub cut_bytes: u64,
    /// Sidecars that were missing or did not hold, and have been written anew.
    pub rebuilt_sidecars: usize,
    /// There was a checkpoint, but it did not hold: everything was scanned.
    pub checkpoint_was_damaged: bool,
}

/// Begins an empty log at `start`.
pub(crate) fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    settings: &Settings,
    start: Offset,
    now: Timestamp,
) -> Result<Opened, Error> {
    disk.create_dir(dir).map_err(Error::io("create", dir))?;
    if let Some(&base) = bases(&**disk, dir)?.first() {
        let there = Segment::new(Arc::clone(disk), dir, base);
        return Err(Error::corrupt(&there.path, 0, "a log is there already"));
    }
    let segment = Segment::new(Arc::clone(disk), dir, start);
    segment.create()?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    Ok(Opened {
        sealed: VecDeque::new(),
        active: new_active(segment, settings, now),
        log_start: start,
        checkpointed: start,
        epochs: EpochChain::new(),
        producers: Producers::new(),
    })
}

pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    settings: &Settings,
    now: Timestamp,
) -> Result<(Opened, Recovered), Error> {
    disk.create_dir(dir).map_err(Error::io("create", dir))?;
    let mut found = Recovered::default();
    let state = checkpoint::read(&**disk, dir, &mut found.checkpoint_was_damaged)?;
    let mut bases = bases(&**disk, dir)?;
    if let Some(state) = state.as_ref().filter(|state| state.begins_anew()) {
        remove_given_up(disk, dir, &mut bases, state.recovery_point())?;
    }
    found.segments = bases.len();
    if bases.is_empty() {
        return Ok((
            open_without_segments(disk, dir, settings, state, &found, now)?,
            found,
        ));
    }
    let segments = bases
        .iter()
        .map(|&base| Arc::new(Segment::new(Arc::clone(disk), dir, base)))
        .collect();
    let mut recovery = Recovery {
        disk,
        dir,
        settings,
        now,
        state,
        found,
        epochs: EpochChain::new(),
        producers: Producers::new(),
        is_checkpoint_due: false,
    };
    let opened = recovery.run(segments)?;
    Ok((opened, recovery.found))
}

/// Fine for a new log, and for one that a crash caught between removing its last segment and making the next;
/// otherwise somebody has taken the files away.
fn open_without_segments(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    settings: &Settings,
    state: Option<State>,
    found: &Recovered,
    now: Timestamp,
) -> Result<Opened, Error> {
    match state {
        None if found.checkpoint_was_damaged => {
            Err(Error::corrupt(dir, 0, "no segments and no readable checkpoint"))
        }
        None => create(disk, dir, settings, Offset::ZERO, now),
        Some(state) if !state.begins_anew() => Err(Error::corrupt(
            dir,
            0,
            "the segments that the checkpoint speaks of are missing",
        )),
        Some(state) => {
            let opened = create(disk, dir, settings, state.recovery_point(), now)?;
            let State {
                log_start,
                epochs,
                producers,
                ..
            } = state;
            Ok(Opened {
                log_start,
                epochs,
                producers,
                ..opened
            })
        }
    }
}

/// The log was about to begin anew at `start`, empty, when a crash came: what lies before is not its any more.
fn remove_given_up(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    bases: &mut Vec<Offset>,
    start: Offset,
) -> Result<(), Error> {
    let kept = bases.split_off(bases.partition_point(|base| *base < start));
    let given_up = std::mem::replace(bases, kept);
    for base in given_up {
        Arc::new(Segment::new(Arc::clone(disk), dir, base)).remove()?;
    }
    Ok(())
}

/// The bases of all segments in `dir`, in order.
fn bases(disk: &dyn Disk, dir: &Path) -> Result<Vec<Offset>, Error> {
    let names = disk.list(dir).map_err(Error::io("list", dir))?;
    Ok(names
        .iter()
        .filter_map(|name| base_in(name, LOG_SUFFIX))
        .collect())
}

struct Recovery<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    settings: &'a Settings,
    now: Timestamp,
    state: Option<State>,
    found: Recovered,
    epochs: EpochChain,
    producers: Producers,
    is_checkpoint_due: bool,
}

/// One segment, gone over.
struct Known {
    segment: Arc<Segment>,
    summary: Summary,
    /// `None`: its sidecar was believed.
    index: Option<Index>,
    /// Of the file; what is beyond `summary.bytes` is torn.
    file_bytes: u64,
    /// Some of it was above the recovery point.
    is_touched: bool,
}

impl Recovery<'_> {
    fn run(&mut self, segments: Vec<Arc<Segment>>) -> Result<Opened, Error> {
        if let Some(state) = &self.state {
            // Only a truncation to before all segments, interrupted, leaves them all above the recovery point.
            if segments[0].base > state.recovery_point() && !state.begins_anew() {
                return Err(Error::corrupt(
                    &segments[0].path,
                    0,
                    "the segments before this one are missing",
                ));
            }
            self.epochs = state.epochs.clone();
            self.producers = state.producers.clone();
        }
        let (known, beyond) = self.go_over(segments)?;
        self.sync(&known, &beyond)?;
        let mut opened = self.settle(known)?;
        self.checkpoint(&mut opened)?;
        Ok(opened)
    }

    /// Segment by segment up to where the log ends; what lies beyond that has no batches.
    fn go_over(&mut self, segments: Vec<Arc<Segment>>) -> Result<(Vec<Known>, Vec<Arc<Segment>>), Error> {
        let mut known = Vec::with_capacity(segments.len());
        let mut rest = segments.into_iter().peekable();
        while let Some(segment) = rest.next() {
            let next_base = rest.peek().map(|next| next.base);
            let one = self.look_at(segment, next_base)?;
            let is_whole = one.summary.bytes == one.file_bytes;
            let ends_here = next_base.is_some_and(|next| one.summary.end != next || !is_whole);
            known.push(one);
            if ends_here {
                break;
            }
        }
        let beyond: Vec<_> = rest.collect();
        if let Some(last) = known.last() {
            beyond.iter().try_for_each(|later| holds_nothing(later, last))?;
        }
        Ok((known, beyond))
    }

    fn look_at(&mut self, segment: Arc<Segment>, next_base: Option<Offset>) -> Result<Known, Error> {
        let file_bytes = segment.file_bytes()?;
        let is_below = match (&self.state, next_base) {
            (Some(state), Some(next)) => next <= state.recovery_point(),
            (Some(_) | None, _) => false,
        };
        if is_below {
            let footer = segment.read_footer().map(|footer| footer.summary);
            let holds = |summary: &Summary| {
                summary.base == segment.base && Some(summary.end) == next_base && summary.bytes == file_bytes
            };
            if let Some(summary) = footer.filter(holds) {
                return Ok(Known {
                    segment,
                    summary,
                    index: None,
                    file_bytes,
                    is_touched: false,
                });
            }
        }
        let below = if is_below {
            None
        } else {
            self.below_recovery_point(&segment, file_bytes)?
        };
        let mut summary = below.unwrap_or_else(|| Summary::empty(segment.base, self.now));
        let mut index = Index::beginning(self.settings.index_interval_bytes, summary.end_edge());
        let trusted_bytes = summary.bytes;
        let file = segment.file()?;
        let mut scan = Scan::new(&*file, &segment.path, summary.bytes, file_bytes, summary.end);
        while let Checked::Batch(header) = scan.next_batch()? {
            index.note(&summary, header.base_offset);
            summary.add(&header, header.max_timestamp.min(self.now));
            // Below the recovery point the checkpoint has them already.
            if !is_below {
                self.replay(&header);
            }
        }
        self.found.scanned_bytes += summary.bytes - trusted_bytes;
        check_end(&segment, &summary, file_bytes, is_below)?;
        let is_touched = !is_below && file_bytes > trusted_bytes;
        Ok(Known {
            segment,
            summary,
            index: Some(index),
            file_bytes,
            is_touched,
        })
    }

    /// What the checkpoint says of the segment that holds the recovery point; of a later one nothing.
    fn below_recovery_point(&mut self, segment: &Segment, file_bytes: u64) -> Result<Option<Summary>, Error> {
        let Some(state) = &self.state else { return Ok(None) };
        let summary = state.active;
        if summary.end <= segment.base {
            return Ok(None);
        }
        // A roll had been decided, but the new segment was not there yet.
        let is_before_a_roll = summary.base != segment.base && summary.bytes == 0;
        let below = if is_before_a_roll {
            // From now on this segment grows past the recovery point: the checkpoint must know it.
            self.is_checkpoint_due = true;
            segment
                .index_from_headers(file_bytes, self.settings.index_interval_bytes)?
                .1
        } else {
            summary
        };
        if below.base != segment.base || below.end != summary.end {
            return Err(Error::corrupt(
                &segment.path,
                0,
                "the segment of the recovery point is missing",
            ));
        }
        if below.bytes > file_bytes {
            return Err(Error::corrupt(
                &segment.path,
                file_bytes,
                "segment ends below the recovery point",
            ));
        }
        Ok(Some(below))
    }

    fn replay(&mut self, header: &Header) {
        // A reign that wrote nothing may be in the checkpoint and forgotten since: whoever wrote here says so.
        self.epochs.truncate_from(header.base_offset);
        self.epochs.begin(header.leader_epoch, header.base_offset);
        let when = if header.max_timestamp.is_none() {
            self.now
        } else {
            header.max_timestamp.min(self.now)
        };
        self.producers.record(header, when);
    }

    /// Cuts the tail and makes all that was not known to be durable so, before anybody may read it: what has been
    /// served must not be lost in a second crash.
    fn sync(&mut self, known: &[Known], beyond: &[Arc<Segment>]) -> Result<(), Error> {
        for segment in beyond.iter().rev() {
            self.found.cut_bytes += segment.file_bytes()?;
            segment.remove()?;
        }
        for one in known.iter().filter(|one| one.is_touched) {
            let file = one.segment.file()?;
            let path = &one.segment.path;
            if one.summary.bytes < one.file_bytes {
                self.found.cut_bytes += one.file_bytes - one.summary.bytes;
                file.set_len(one.summary.bytes)
                    .map_err(Error::io("truncate", path))?;
            }
            file.sync_data().map_err(Error::io("sync", path))?;
        }
        if known.iter().any(|one| one.is_touched) || !beyond.is_empty() {
            self.disk
                .sync_dir(self.dir)
                .map_err(Error::io("sync", self.dir))?;
        }
        Ok(())
    }

    fn settle(&mut self, mut known: Vec<Known>) -> Result<Opened, Error> {
        let last = known
            .pop()
            .ok_or_else(|| Error::corrupt(self.dir, 0, "no segments"))?;
        let log_start = self.state.as_ref().map(|state| state.log_start);
        let first_base = known
            .first()
            .map_or(last.segment.base, |first| first.segment.base);
        let mut sealed = VecDeque::with_capacity(known.len());
        for one in known {
            if let Some(index) = &one.index
                && one
                    .segment
                    .read_footer()
                    .is_none_or(|footer| footer.summary.bytes != one.summary.bytes)
            {
                self.rebuild_sidecar(&one, index)?;
            }
            let (summary, written_bytes) = (one.summary, one.summary.bytes);
            sealed.push_back(Sealed {
                segment: one.segment,
                summary,
                written_bytes,
                is_written: true,
            });
        }
        self.remove_leftovers(&last.segment, &sealed)?;
        let interval = self.settings.index_interval_bytes;
        let index = last
            .index
            .unwrap_or_else(|| Index::beginning(interval, last.summary.end_edge()));
        let first_append = last.summary.first_timestamp;
        let active = Active {
            // A bound, not exact: what is above the recovery point may be the youngest.
            max_timestamp_unindexed: if index.is_whole() {
                Timestamp::NONE
            } else {
                last.summary.max_timestamp
            },
            index,
            first_append: if first_append.is_none() {
                self.now
            } else {
                first_append.min(self.now)
            },
            written_bytes: last.summary.bytes,
            segment: last.segment,
            summary: last.summary,
        };
        Ok(Opened {
            log_start: log_start.unwrap_or(first_base).min(active.summary.end),
            checkpointed: self.state.as_ref().map_or(first_base, State::recovery_point),
            sealed,
            active,
            epochs: std::mem::take(&mut self.epochs),
            producers: std::mem::take(&mut self.producers),
        })
    }

    fn rebuild_sidecar(&mut self, one: &Known, index: &Index) -> Result<(), Error> {
        self.found.rebuilt_sidecars += 1;
        if index.is_whole() {
            return unless_full(one.segment.write_sidecar(index, &one.summary));
        }
        let (whole, _) = one
            .segment
            .index_from_headers(one.summary.bytes, index.interval())?;
        unless_full(one.segment.write_sidecar(&whole, &one.summary))
    }

    /// Sidecars that have no sealed segment, and a checkpoint that was never finished.
    fn remove_leftovers(&self, active: &Segment, sealed: &VecDeque<Sealed>) -> Result<(), Error> {
        let names = self.disk.list(self.dir).map_err(Error::io("list", self.dir))?;
        let is_leftover = |name: &str| match base_in(name, INDEX_SUFFIX) {
            Some(base) => sealed
                .binary_search_by_key(&base, |one| one.segment.base)
                .is_err(),
            None => name == checkpoint::NEW_NAME,
        };
        debug_assert!(
            is_leftover(&index_name(active.base)),
            "the active segment has no sidecar"
        );
        for name in names.iter().filter(|name| is_leftover(name)) {
            let path = self.dir.join(name);
            self.disk.remove(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// So that the next start does not check the same bytes again. All is synced by now.
    fn checkpoint(&self, opened: &mut Opened) -> Result<(), Error> {
        if self.found.scanned_bytes == 0 && self.found.cut_bytes == 0 && !self.is_checkpoint_due {
            return Ok(());
        }
        let state = State {
            active: opened.active.summary,
            first_segment: opened
                .sealed
                .front()
                .map_or(opened.active.segment.base, |first| first.segment.base),
            log_start: opened.log_start,
            epochs: opened.epochs.clone(),
            producers: opened.producers.clone(),
        };
        let written = checkpoint::write(&**self.disk, self.dir, &state);
        if written.is_ok() {
            opened.checkpointed = state.recovery_point();
        }
        if self.is_checkpoint_due {
            written
        } else {
            unless_full(written)
        }
    }
}

/// A log on a full disk must still open, if only to be read and trimmed: what can be made again may be missing.
fn unless_full(written: Result<(), Error>) -> Result<(), Error> {
    match written {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => Ok(()),
        other => other,
    }
}

/// Beyond the last good batch there may be a torn one, and nothing after it.
fn check_end(segment: &Segment, summary: &Summary, file_bytes: u64, is_below: bool) -> Result<(), Error> {
    let torn = summary.bytes..file_bytes;
    if torn.is_empty() {
        return Ok(());
    }
    if is_below {
        return Err(Error::corrupt(
            &segment.path,
            torn.start,
            "damaged batch below the recovery point",
        ));
    }
    if holds_batch(&*segment.file()?, &segment.path, torn.clone(), summary.end)? {
        return Err(Error::corrupt(
            &segment.path,
            torn.start,
            "damaged batch with whole ones behind it",
        ));
    }
    Ok(())
}

/// The log ends in `last`; a later segment may be left over only if nothing is lost with it.
fn holds_nothing(later: &Segment, last: &Known) -> Result<(), Error> {
    let bytes = later.file_bytes()?;
    if holds_batch(&*later.file()?, &later.path, 0..bytes, last.summary.end)? {
        let (path, position) = (&last.segment.path, last.summary.bytes);
        return Err(Error::corrupt(
            path,
            position,
            "a segment ends before the next one begins",
        ));
    }
    Ok(())
}
