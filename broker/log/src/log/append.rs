//! Taking a batch in: may it come, where does it go. Nothing is written here; the bytes are queued.

use super::{Active, Log, Sealed};
use crate::batch::{Batch, Header, Stamp, TimestampType};
use crate::index::{Index, Summary};
use crate::offsets::{LeaderEpoch, Offset, Timestamp};
use crate::producers::{ProducerError, Verdict};
use crate::segment::Segment;
use crate::settings::millis;
use std::sync::Arc;

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub first: Offset,
    pub last: Offset,
    /// The time written over the records' own, with LogAppendTime; what the produce response carries.
    pub append_time: Option<Timestamp>,
    /// It had been stored before, at these offsets. Success, and still to be waited for like a new one.
    pub is_duplicate: bool,
    /// It was the first of a new segment: the one before is sealed.
    pub rolled: bool,
}

/// Why a batch was not taken. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Over `max.message.bytes` (MESSAGE_TOO_LARGE).
    #[error("batch is too large. bytes={bytes}, max={max}")]
    TooLarge { bytes: usize, max: u32 },
    /// Over `segment.bytes` (RECORD_LIST_TOO_LARGE).
    #[error("batch is larger than a segment. bytes={bytes}, max={max}")]
    LargerThanSegment { bytes: usize, max: u32 },
    /// Too far from the broker's time (INVALID_TIMESTAMP).
    #[error("timestamp is out of range. timestamp={timestamp}, now={now}")]
    BadTimestamp { timestamp: Timestamp, now: Timestamp },
    /// Out of sequence, or fenced.
    #[error(transparent)]
    Producer(#[from] ProducerError),
    /// The caller is the leader of an epoch that is over (NOT_LEADER_OR_FOLLOWER).
    #[error("leader epoch is over. epoch={epoch}, latest={latest}")]
    StaleEpoch { epoch: LeaderEpoch, latest: LeaderEpoch },
    /// A replicated batch does not go on where the log ends.
    #[error("batch lies before the log end. batch={batch}, log_end={log_end}")]
    BeforeLogEnd { batch: Offset, log_end: Offset },
    /// The log is dead (KAFKA_STORAGE_ERROR).
    #[error("log is dead after a disk failure")]
    Storage,
}

impl Log {
    /// A leader's append: checks size, time, producer; gives out offsets; queues the bytes. Does no I/O and copies
    /// a batch only if it is small. `now` is the broker's time.
    pub fn append(
        &mut self,
        batch: &Batch,
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Appended, AppendError> {
        let header = batch.header();
        self.admit(header, epoch)?;
        if let Verdict::Duplicate {
            first,
            last,
            timestamp,
        } = self.producers.check(header)?
        {
            let append_time = self.append_time(timestamp);
            return Ok(Appended {
                first,
                last,
                append_time,
                is_duplicate: true,
                rolled: false,
            });
        }
        let append_time = self.append_time(now);
        if append_time.is_none() {
            self.check_time(header, now)?;
        }
        let stamp = Stamp {
            base_offset: self.log_end(),
            epoch,
            append_time,
        };
        let stored = Header {
            base_offset: stamp.base_offset,
            leader_epoch: epoch,
            max_timestamp: append_time.unwrap_or(header.max_timestamp),
            ..*header
        };
        let rolled = self.is_full_for(&stored, now);
        if rolled {
            self.roll(now);
        }
        self.store(batch, &stored, stamp, now);
        let (first, last) = (stored.base_offset, stored.last_offset());
        Ok(Appended {
            first,
            last,
            append_time,
            is_duplicate: false,
            rolled,
        })
    }

    /// A follower's append: the batch already has its offset and epoch, and is stored byte for byte. It must not
    /// lie before the log end. Sizes, times and sequences were the leader's to check, and so is where segments
    /// begin: the caller rolls ([`Log::force_roll`]) where the leader did, and nothing is rolled here.
    pub fn append_replicated(&mut self, batch: &Batch, now: Timestamp) -> Result<Appended, AppendError> {
        if self.is_dead {
            return Err(AppendError::Storage);
        }
        let header = *batch.header();
        if header.base_offset < self.log_end() {
            return Err(AppendError::BeforeLogEnd {
                batch: header.base_offset,
                log_end: self.log_end(),
            });
        }
        let stamp = Stamp {
            base_offset: header.base_offset,
            epoch: header.leader_epoch,
            append_time: None,
        };
        self.store(batch, &header, stamp, now);
        let (first, last) = (header.base_offset, header.last_offset());
        Ok(Appended {
            first,
            last,
            append_time: None,
            is_duplicate: false,
            rolled: false,
        })
    }

    /// Seals the active segment unless it is empty; true if it did. Part of the next [`super::WriteTurn`].
    pub fn force_roll(&mut self, now: Timestamp) -> bool {
        let does = self.active.summary.bytes > 0 && !self.is_dead;
        if does {
            self.roll(now);
        }
        does
    }

    /// Seals the active segment if its first append is `segment_age` ago. Call now and then, for partitions that
    /// nobody writes to any more.
    pub fn roll_if_old(&mut self, now: Timestamp) -> bool {
        let is_old = now.since(self.active.first_append) >= millis(self.settings.segment_age);
        is_old && self.force_roll(now)
    }

    fn admit(&self, header: &Header, epoch: LeaderEpoch) -> Result<(), AppendError> {
        if self.is_dead {
            return Err(AppendError::Storage);
        }
        if let Some(latest) = self.epochs.latest().filter(|&latest| latest > epoch) {
            return Err(AppendError::StaleEpoch { epoch, latest });
        }
        let bytes = header.batch_length;
        if bytes > self.settings.max_message_bytes as usize {
            return Err(AppendError::TooLarge {
                bytes,
                max: self.settings.max_message_bytes,
            });
        }
        if bytes > self.settings.segment_bytes as usize {
            return Err(AppendError::LargerThanSegment {
                bytes,
                max: self.settings.segment_bytes,
            });
        }
        Ok(())
    }

    fn append_time(&self, now: Timestamp) -> Option<Timestamp> {
        match self.settings.timestamp_type {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(now),
        }
    }

    /// Looks at the header's times only: opening every batch is not worth finding one odd record inside.
    fn check_time(&self, header: &Header, now: Timestamp) -> Result<(), AppendError> {
        let too_late = |max| header.max_timestamp.since(now) > millis(max);
        let too_early =
            |max| !header.base_timestamp.is_none() && now.since(header.base_timestamp) > millis(max);
        let bad = if self.settings.timestamp_after_max.is_some_and(too_late) {
            header.max_timestamp
        } else if self.settings.timestamp_before_max.is_some_and(too_early) {
            header.base_timestamp
        } else {
            return Ok(());
        };
        Err(AppendError::BadTimestamp { timestamp: bad, now })
    }

    /// `stored` is the header as it will be on disk.
    fn store(&mut self, batch: &Batch, stored: &Header, stamp: Stamp, now: Timestamp) {
        self.epochs.begin(stored.leader_epoch, stored.base_offset);
        self.producers.record(stored, now);
        let active = &mut self.active;
        if active.summary.bytes == 0 {
            active.first_append = now;
        }
        let position = active.summary.bytes;
        active.index.note(&active.summary, stored.base_offset);
        active.summary.add(stored, now);
        self.queue.push(&active.segment, position, batch, stamp);
    }

    fn is_full_for(&self, next: &Header, now: Timestamp) -> bool {
        let segment = &self.active.summary;
        if segment.bytes == 0 {
            return false;
        }
        // By the records' own times, as Kafka does, so that old data that is loaded today still falls into
        // segments of `segment.ms` each and retention can let them go one by one.
        let age = if segment.first_timestamp.is_none() || next.max_timestamp.is_none() {
            now.since(self.active.first_append)
        } else {
            next.max_timestamp.since(segment.first_timestamp)
        };
        segment.bytes + next.batch_length as u64 > u64::from(self.settings.segment_bytes)
            || age > millis(self.settings.segment_age)
            || next.last_offset().since(segment.base) > i64::from(i32::MAX)
    }

    fn roll(&mut self, now: Timestamp) {
        let base = self.log_end();
        let next = new_active(
            Segment::new(Arc::clone(&self.disk), &self.dir, base),
            &self.settings,
            now,
        );
        let full = std::mem::replace(&mut self.active, next);
        let index = Arc::new(full.index);
        if index.is_whole() {
            full.segment.keep_index(Arc::clone(&index));
        }
        self.queue.seal(&full.segment, index, full.summary);
        self.queue.create(&self.active.segment);
        self.sealed.push_back(Sealed {
            segment: full.segment,
            summary: full.summary,
            written_bytes: full.written_bytes,
            is_written: false,
        });
    }
}

pub(crate) fn new_active(segment: Segment, settings: &crate::Settings, now: Timestamp) -> Active {
    Active {
        summary: Summary::empty(segment.base, now),
        index: Index::new(settings.index_interval_bytes, segment.base),
        max_timestamp_unindexed: Timestamp::NONE,
        segment: Arc::new(segment),
        first_append: now,
        written_bytes: 0,
    }
}
