//! From queue to file. Everything appended since the last turn goes out in one `pwritev` per touched segment;
//! small batches have been copied into one buffer, large ones are written from where they were received.

use super::Log;
use crate::batch::{Batch, HEADER_BYTES, Stamp};
use crate::error::Error;
use crate::index::{Index, Summary};
use crate::offsets::Offset;
use crate::segment::Segment;
use bytes::Bytes;
use std::io::IoSlice;
use std::sync::Arc;

// Below it a copy costs less than a slice of its own, and would pin a whole receive buffer.
const COPY_BELOW_BYTES: usize = 4096;
// A buffer that one large turn has grown beyond this is not kept for the next.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// What has been appended and not taken.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    writes: Vec<SegmentWrite>,
    bytes: u64,
    is_out: bool,
    /// Emptied buffers of the last turn.
    spare: Option<(Vec<u8>, Vec<Part>)>,
}

/// What is to be done to one segment, in this order: create, write, seal.
#[derive(Debug)]
struct SegmentWrite {
    segment: Arc<Segment>,
    creates: bool,
    position: u64,
    bytes: u64,
    /// Small batches and headers, one behind the other.
    copied: Vec<u8>,
    parts: Vec<Part>,
    seals: Option<(Arc<Index>, Summary)>,
}

#[derive(Debug)]
enum Part {
    /// The next so many bytes of `copied`.
    Copied(usize),
    Shared(Bytes),
}

impl WriteQueue {
    pub(super) fn push(&mut self, segment: &Arc<Segment>, position: u64, batch: &Batch, stamp: Stamp) {
        let write = self.write_to(segment, position);
        write.copy(&batch.stamped(stamp));
        if batch.bytes().len() < COPY_BELOW_BYTES {
            write.copy(&batch.bytes()[HEADER_BYTES..]);
        } else {
            write.parts.push(Part::Shared(batch.body()));
        }
        let bytes = batch.bytes().len() as u64;
        write.bytes += bytes;
        self.bytes += bytes;
    }

    pub(super) fn seal(&mut self, segment: &Arc<Segment>, index: Arc<Index>, summary: Summary) {
        self.write_to(segment, summary.bytes).seals = Some((index, summary));
    }

    pub(super) fn create(&mut self, segment: &Arc<Segment>) {
        self.write_to(segment, 0).creates = true;
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.writes.is_empty() && !self.is_out
    }

    fn write_to(&mut self, segment: &Arc<Segment>, position: u64) -> &mut SegmentWrite {
        let is_last = self
            .writes
            .last()
            .is_some_and(|last| last.segment.base == segment.base);
        if !is_last {
            let (copied, parts) = self.spare.take().unwrap_or_default();
            let segment = Arc::clone(segment);
            let fresh = SegmentWrite {
                segment,
                creates: false,
                position,
                bytes: 0,
                copied,
                parts,
                seals: None,
            };
            self.writes.push(fresh);
        }
        let last = self.writes.len() - 1;
        &mut self.writes[last]
    }
}

impl SegmentWrite {
    fn copy(&mut self, bytes: &[u8]) {
        self.copied.extend_from_slice(bytes);
        match self.parts.last_mut() {
            Some(Part::Copied(length)) => *length += bytes.len(),
            Some(Part::Shared(_)) | None => self.parts.push(Part::Copied(bytes.len())),
        }
    }

    fn run(&self, sync_on_seal: bool) -> Result<(), Error> {
        let file = if self.creates {
            self.segment.create()?
        } else {
            self.segment.file()?
        };
        if !self.parts.is_empty() {
            let mut copied = &self.copied[..];
            let slices: Vec<_> = self.parts.iter().map(|part| part.slice(&mut copied)).collect();
            let written = file.write_vectored_at(&slices, self.position);
            written.map_err(Error::io("write", &self.segment.path))?;
        }
        if let Some((index, summary)) = &self.seals {
            self.write_sidecar(index, summary)?;
            if sync_on_seal {
                file.sync_data().map_err(Error::io("sync", &self.segment.path))?;
            }
        }
        Ok(())
    }
}

impl SegmentWrite {
    /// Goes over the headers of what was there before a restart, if nobody has had to yet.
    fn write_sidecar(&self, index: &Arc<Index>, summary: &Summary) -> Result<(), Error> {
        if index.is_whole() {
            return self.segment.write_sidecar(index, summary);
        }
        let (before, _) = self
            .segment
            .index_from_headers(index.begins().position, index.interval())?;
        let whole = Arc::new(index.behind(before));
        self.segment.keep_index(Arc::clone(&whole));
        self.segment.write_sidecar(&whole, summary)
    }
}

impl Part {
    fn slice<'a>(&'a self, copied: &mut &'a [u8]) -> IoSlice<'a> {
        match self {
            Self::Copied(length) => {
                let (these, rest) = copied.split_at(*length);
                *copied = rest;
                IoSlice::new(these)
            }
            Self::Shared(bytes) => IoSlice::new(bytes),
        }
    }
}

/// All that was queued, to be run without the log's lock and then handed to [`Log::wrote`].
#[derive(Debug)]
#[must_use = "the log waits for this turn to be run and handed back"]
pub struct WriteTurn {
    writes: Vec<SegmentWrite>,
    end: Offset,
    bytes: u64,
    sync_on_seal: bool,
}

/// A turn that has been run, well or not.
#[derive(Debug)]
#[must_use = "hand it to Log::wrote"]
pub struct Written {
    writes: Vec<SegmentWrite>,
    end: Offset,
    outcome: Result<(), Error>,
}

impl WriteTurn {
    /// Bytes of batches it will write.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It seals or creates segments, which may take longer than a write (a sync, with `sync_on_seal`).
    pub fn seals(&self) -> bool {
        self.writes.iter().any(|write| write.seals.is_some())
    }

    /// Blocks. Stops at the first error.
    pub fn run(self) -> Written {
        let outcome = self
            .writes
            .iter()
            .try_for_each(|write| write.run(self.sync_on_seal));
        Written {
            writes: self.writes,
            end: self.end,
            outcome,
        }
    }
}

impl Log {
    /// All that is queued, in order. `None` if nothing is, or if a turn is out, or if the log is dead.
    pub fn take_writes(&mut self) -> Option<WriteTurn> {
        if self.queue.is_out || self.queue.writes.is_empty() || self.is_dead {
            return None;
        }
        self.queue.is_out = true;
        Some(WriteTurn {
            writes: std::mem::take(&mut self.queue.writes),
            end: self.log_end(),
            bytes: std::mem::take(&mut self.queue.bytes),
            sync_on_seal: self.settings.sync_on_seal,
        })
    }

    /// Bytes appended and not yet taken: the bound on memory is the caller's.
    pub const fn queued_bytes(&self) -> u64 {
        self.queue.bytes
    }

    /// Takes a turn back and moves `written_end`, which is returned. On an error the log is dead: what was
    /// appended in this turn and since may or may not be found when it is opened anew.
    pub fn wrote(&mut self, turn: Written) -> Result<Offset, Error> {
        self.queue.is_out = false;
        if let Err(error) = turn.outcome {
            self.is_dead = true;
            return Err(error);
        }
        for write in turn.writes {
            self.note_written(write);
        }
        self.written_end = turn.end;
        self.note_turn_end();
        Ok(self.written_end)
    }

    fn note_written(&mut self, mut write: SegmentWrite) {
        self.unsynced.add(&write.segment, write.bytes, write.creates);
        if write.segment.base == self.active.segment.base {
            self.active.written_bytes = write.position + write.bytes;
        } else if let Some(sealed) = self
            .sealed
            .iter_mut()
            .rev()
            .find(|s| s.summary.base == write.segment.base)
        {
            sealed.written_bytes = write.position + write.bytes;
            sealed.is_written = write.seals.is_some();
        }
        if write.copied.capacity() <= SPARE_BYTES_MAX {
            write.copied.clear();
            write.parts.clear();
            self.queue.spare = Some((write.copied, write.parts));
        }
    }
}
