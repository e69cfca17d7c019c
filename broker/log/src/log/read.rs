//! Reading: planned under the lock, run without it. A plan holds on to the segment's file, so nothing that
//! happens to the log afterwards can take the bytes away.
//!
//! A slice is whole batches of one segment. It ends, where it can, at an index entry or at the written end, both
//! of which a reader that goes on from there is found at without touching the file.

use super::Log;
use crate::disk::DiskFile;
use crate::error::Error;
use crate::index::{Edge, Index};
use crate::offsets::Offset;
use crate::segment::{Segment, Walk};
use bytes::Bytes;
use std::sync::Arc;

/// Why there is nothing to plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the log end (OFFSET_OUT_OF_RANGE).
    #[error("offset is out of range. offset={from}, log_start={log_start}, log_end={log_end}")]
    OutOfRange {
        from: Offset,
        log_start: Offset,
        log_end: Offset,
    },
    /// In the log, but no longer in local files: ask the tier.
    #[error("offset is not local. offset={from}, local_start={local_start}")]
    NotLocal { from: Offset, local_start: Offset },
}

/// What to read, decided; see [`ReadPlan::run`].
#[derive(Debug)]
pub struct ReadPlan {
    segment: Arc<Segment>,
    ask: Ask,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    from: Offset,
    upto: Offset,
    max_bytes: u64,
    at_least_one: bool,
}

/// How much is known of where the bytes are.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Looked up in the active segment's index, or known from a recent turn.
    Found { span: Span, written_bytes: u64 },
    /// Somewhere before `end`: in a sealed segment, or before a restart; the index may have to be loaded.
    Before {
        end: Edge,
        written_bytes: u64,
        interval: u32,
    },
}

/// `start` is at or before the asked offset; `end` is where to stop, and not past `start` if that must be found
/// by looking at headers.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: Edge,
    end: Edge,
}

/// Whole batches in a file: hand it to sendfile, or [`Slice::read`] it.
#[derive(Debug, Clone)]
pub struct Slice {
    pub file: Arc<dyn DiskFile>,
    pub position: u64,
    /// 0 if the first batch alone is larger than was asked for.
    pub len: usize,
    /// Base offset of the first batch; at or before the asked offset.
    pub first_offset: Offset,
    /// Where a reader goes on.
    pub next_offset: Offset,
}

impl Slice {
    /// The bytes, in memory. Blocks.
    pub fn read(&self) -> std::io::Result<Bytes> {
        let mut bytes = vec![0; self.len];
        self.file.read_exact_at(&mut bytes, self.position)?;
        Ok(bytes.into())
    }
}

impl Log {
    /// Plans a read of whole batches from the one that holds `from` up to `upto` (exclusive: the high watermark;
    /// never past `written_end`), at most `max_bytes`, or one batch more than that if `at_least_one`.
    /// `Ok(None)`: there is nothing there yet. One plan stays within one segment; go on at `Slice::next_offset`.
    pub fn plan_read(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Option<ReadPlan>, ReadError> {
        if from < self.log_start || from > self.log_end() {
            return Err(ReadError::OutOfRange {
                from,
                log_start: self.log_start,
                log_end: self.log_end(),
            });
        }
        if from < self.first_base() {
            return Err(ReadError::NotLocal {
                from,
                local_start: self.local_start(),
            });
        }
        Ok(self.plan_local(from, upto, max_bytes, at_least_one))
    }

    /// The same for a replica, which copies whole segments: up to `written_end`, and from wherever there are local
    /// files, be it below the log start. `ReadError::NotLocal` below that.
    pub fn plan_replica_read(
        &self,
        from: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Option<ReadPlan>, ReadError> {
        if from > self.log_end() {
            return Err(ReadError::OutOfRange {
                from,
                log_start: self.log_start,
                log_end: self.log_end(),
            });
        }
        if from < self.first_base() {
            return Err(ReadError::NotLocal {
                from,
                local_start: self.first_base(),
            });
        }
        Ok(self.plan_local(from, self.written_end, max_bytes, at_least_one))
    }

    fn plan_local(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Option<ReadPlan> {
        let upto = upto.min(self.written_end);
        if from >= upto {
            return None;
        }
        let ask = Ask {
            from,
            upto,
            max_bytes: max_bytes as u64,
            at_least_one,
        };
        let active_base = self.active.segment.base;
        let interval = self.settings.index_interval_bytes;
        let known_from = self.active.index.begins();
        if from >= active_base && from < known_from.offset {
            let place = Place::Before {
                end: known_from,
                written_bytes: known_from.position,
                interval,
            };
            return Some(ReadPlan {
                segment: Arc::clone(&self.active.segment),
                ask,
                place,
            });
        }
        if from >= active_base {
            let stop = self.turn_end_at(upto);
            let start = self.turn_end_at(from);
            let span = ask.span(&self.active.index, active_base, start, stop);
            let place = Place::Found {
                span,
                written_bytes: self.active.written_bytes,
            };
            return Some(ReadPlan {
                segment: Arc::clone(&self.active.segment),
                ask,
                place,
            });
        }
        let sealed = self.sealed.get(self.sealed_at(from))?;
        let end = sealed.summary.end_edge();
        let place = Place::Before {
            end,
            written_bytes: sealed.written_bytes,
            interval,
        };
        Some(ReadPlan {
            segment: Arc::clone(&sealed.segment),
            ask,
            place,
        })
    }

    /// Position of `offset` in the active segment, if a recent turn ended there.
    fn turn_end_at(&self, offset: Offset) -> Option<Edge> {
        let here = self
            .turn_ends
            .iter()
            .rev()
            .take_while(|end| end.segment == self.active.segment.base);
        here.map(|end| end.edge).find(|edge| edge.offset == offset)
    }
}

impl Ask {
    /// From the index, and exact edges for `from` and `upto` where those are known.
    fn span(&self, index: &Index, base: Offset, start: Option<Edge>, stop: Option<Edge>) -> Span {
        let start = start.unwrap_or_else(|| index.at_or_before(base, self.from));
        let limit = start.position.saturating_add(self.max_bytes);
        let end = match stop {
            Some(stop) if stop.position <= limit => stop,
            Some(_) | None => index.within(base, self.upto, limit),
        };
        Span { start, end }
    }
}

impl ReadPlan {
    /// The index is not in memory: [`ReadPlan::run`] loads it, or after a restart goes over the headers of up to a
    /// whole segment (some 0.3 s a GiB from the page cache). Not for a thread that serves others.
    pub fn may_be_slow(&self) -> bool {
        match self.place {
            Place::Found { .. } => false,
            Place::Before { .. } => !self.segment.has_index(),
        }
    }

    /// Finds the exact bytes. Blocks; reads a few KiB of headers only if the offset or the end is between index
    /// entries, and opens the file or loads the index of a sealed segment that was not in use.
    pub fn run(self) -> Result<Slice, Error> {
        let file = self.segment.file()?;
        let (span, bytes) = match self.place {
            Place::Found { span, written_bytes } => (span, written_bytes),
            Place::Before {
                end,
                written_bytes,
                interval,
            } => {
                let index = self.segment.index(written_bytes, interval)?;
                let stop = (self.ask.upto >= end.offset).then_some(end);
                (
                    self.ask.span(&index, self.segment.base, None, stop),
                    written_bytes,
                )
            }
        };
        let is_exact = span.start.offset == self.ask.from && span.end.position > span.start.position;
        let span = if is_exact {
            span
        } else {
            self.refine(&file, span, bytes)?
        };
        Ok(Slice {
            file,
            position: span.start.position,
            len: usize::try_from(span.end.position - span.start.position).unwrap_or(0),
            first_offset: span.start.offset,
            next_offset: span.end.offset,
        })
    }

    /// Goes over headers from `span.start` to the batch that holds `from`, and on to the end if that is not known.
    fn refine(&self, file: &Arc<dyn DiskFile>, span: Span, bytes: u64) -> Result<Span, Error> {
        let ask = &self.ask;
        let mut walk = Walk::new(Arc::clone(file), &self.segment.path, span.start.position, bytes);
        let (position, first) = loop {
            match walk.next_header()? {
                Some((position, header)) if header.next_offset() > ask.from => break (position, header),
                Some(_) => {}
                None => {
                    let reason = "offset is not where the index says";
                    return Err(Error::corrupt(&self.segment.path, span.start.position, reason));
                }
            }
        };
        let start = Edge {
            offset: first.base_offset,
            position,
        };
        if span.end.position > position {
            return Ok(Span { start, end: span.end });
        }
        let limit = position.saturating_add(ask.max_bytes);
        let mut end = Edge {
            offset: first.next_offset(),
            position: position + first.batch_length as u64,
        };
        if end.position > limit && !ask.at_least_one || end.offset > ask.upto {
            return Ok(Span {
                start,
                end: Edge {
                    offset: ask.from,
                    position,
                },
            });
        }
        // Further only as far as headers are in memory: the next read goes on from there.
        while walk.has_next_loaded() {
            let Some((position, header)) = walk.next_header()? else {
                break;
            };
            let next = Edge {
                offset: header.next_offset(),
                position: position + header.batch_length as u64,
            };
            if next.position > limit || next.offset > ask.upto {
                break;
            }
            end = next;
        }
        Ok(Span { start, end })
    }
}
