//! Which record was the first at or after a time. Planned under the lock over the segments' largest timestamps,
//! run without it: index, headers, and at last the one batch that is opened.

use super::Log;
use crate::batch::{Batch, Header};
use crate::error::Error;
use crate::index::Edge;
use crate::offsets::{LeaderEpoch, Offset, Timestamp};
use crate::records::records;
use crate::segment::{Segment, Walk};
use std::sync::Arc;

/// The answer to a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundTimestamp {
    pub offset: Offset,
    pub timestamp: Timestamp,
    /// Of the batch that holds it.
    pub leader_epoch: LeaderEpoch,
}

/// See [`Log::find_timestamp`].
#[derive(Debug)]
pub struct TimestampPlan {
    timestamp: Timestamp,
    from: Offset,
    upto: Offset,
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    segment: Arc<Segment>,
    bytes: u64,
    /// Where to begin, if it is not to be looked up in the segment's own index.
    start: Option<Edge>,
    interval: u32,
}

impl Log {
    /// Plans to find the first local record in `[log_start, upto)` that is not older than `timestamp`.
    pub fn find_timestamp(&self, timestamp: Timestamp, upto: Offset) -> TimestampPlan {
        let upto = upto.min(self.written_end);
        let interval = self.settings.index_interval_bytes;
        let may_hold = |summary: &crate::index::Summary| {
            summary.max_timestamp >= timestamp && summary.base < upto && summary.end > self.log_start
        };
        let sealed = self.sealed.iter().filter(|sealed| may_hold(&sealed.summary));
        let mut candidates: Vec<_> = sealed
            .map(|sealed| Candidate {
                segment: Arc::clone(&sealed.segment),
                bytes: sealed.written_bytes,
                start: None,
                interval,
            })
            .collect();
        if may_hold(&self.active.summary) && self.active.max_timestamp_unindexed >= timestamp {
            candidates.push(Candidate {
                segment: Arc::clone(&self.active.segment),
                bytes: self.active.index.begins().position,
                start: None,
                interval,
            });
        }
        if may_hold(&self.active.summary) {
            let start = self
                .active
                .index
                .before_timestamp(self.active.segment.base, timestamp);
            candidates.push(Candidate {
                segment: Arc::clone(&self.active.segment),
                bytes: self.active.written_bytes,
                start: Some(start),
                interval,
            });
        }
        TimestampPlan {
            timestamp,
            from: self.log_start,
            upto,
            candidates,
        }
    }
}

impl TimestampPlan {
    /// Blocks. Opens a batch to at most `decompressed_max` bytes; one that does not open is answered with its
    /// first offset and largest timestamp. `None`: no local record is that young.
    pub fn run(self, decompressed_max: usize) -> Result<Option<FoundTimestamp>, Error> {
        for candidate in &self.candidates {
            if let Some(found) = self.find_in(candidate, decompressed_max)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        candidate: &Candidate,
        decompressed_max: usize,
    ) -> Result<Option<FoundTimestamp>, Error> {
        let segment = &candidate.segment;
        let start = match candidate.start {
            Some(start) => start,
            None => segment
                .index(candidate.bytes, candidate.interval)?
                .before_timestamp(segment.base, self.timestamp),
        };
        let mut walk = Walk::new(segment.file()?, &segment.path, start.position, candidate.bytes);
        while let Some((position, header)) = walk.next_header()? {
            if header.base_offset >= self.upto {
                break;
            }
            if header.max_timestamp < self.timestamp || header.next_offset() <= self.from {
                continue;
            }
            if let Some(found) = self.find_in_batch(segment, position, &header, decompressed_max)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in_batch(
        &self,
        segment: &Segment,
        position: u64,
        header: &Header,
        decompressed_max: usize,
    ) -> Result<Option<FoundTimestamp>, Error> {
        let mut bytes = vec![0; header.batch_length];
        segment
            .file()?
            .read_exact_at(&mut bytes, position)
            .map_err(Error::io("read", &segment.path))?;
        let leader_epoch = header.leader_epoch;
        let opened = Batch::check(bytes.into()).and_then(|batch| records(&batch, decompressed_max));
        let Ok(opened) = opened else {
            let (offset, timestamp) = (header.base_offset.max(self.from), header.max_timestamp);
            return Ok(Some(FoundTimestamp {
                offset,
                timestamp,
                leader_epoch,
            }));
        };
        let asked = self.from..self.upto;
        let found = opened
            .map_while(Result::ok)
            .find(|record| record.timestamp >= self.timestamp && asked.contains(&record.offset));
        Ok(found.map(|record| FoundTimestamp {
            offset: record.offset,
            timestamp: record.timestamp,
            leader_epoch,
        }))
    }
}
