//! Idempotence: what is remembered of each producer so that a batch sent twice is stored once and a batch that
//! went missing is noticed.
//!
//! Of each producer the last ten batches are kept. A client may have five in flight, so a retry is always among them;
//! and when a cut takes all five away, those before still say what comes next. Sequences count records, from 0 to 2³¹−1 and round again. State survives restarts (checkpoint) and
//! segments that leave for the tier; it goes only by `expire`.

use crate::batch::{Header, crc32c};
use crate::offsets::{Offset, Timestamp};
use crate::our_bytes::{BytesIn, count_u32};
use std::collections::BTreeMap;

// `max.in.flight.requests.per.connection` of an idempotent client is at most 5, and Kafka remembers as many. A follower may
// lose all of them again; with nothing left it would take any sequence, and so the second of them if the first is refused.
const WINDOW: usize = 10;
const SNAPSHOT_MAGIC: &[u8; 8] = b"VRVPRD01";

/// What to do with a batch of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New and in sequence.
    Accept,
    /// Stored before; answer success with where it is.
    Duplicate {
        first: Offset,
        last: Offset,
        timestamp: Timestamp,
    },
}

/// Why a batch of an idempotent producer is refused. Nothing has been appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError {
    /// OUT_OF_ORDER_SEQUENCE_NUMBER. `expected` is -1 when any would have been wrong.
    #[error("sequence is out of order. producer={producer}, expected={expected}, got={got}")]
    OutOfOrder { producer: i64, expected: i32, got: i32 },
    /// INVALID_PRODUCER_EPOCH: a newer instance of this producer has written.
    #[error("producer epoch is fenced. producer={producer}, current={current}, got={got}")]
    Fenced { producer: i64, current: i16, got: i16 },
}

/// One batch as remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    first_sequence: i32,
    last_sequence: i32,
    last_offset: Offset,
    timestamp: Timestamp,
}

impl Seen {
    fn first_offset(&self) -> Offset {
        self.last_offset
            .plus(-i64::from(span(self.first_sequence, self.last_sequence)))
    }
}

/// One producer as remembered. `seen` holds `count` batches, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    last_append: Timestamp,
    count: usize,
    seen: [Seen; WINDOW],
}

const NOTHING: Seen = Seen {
    first_sequence: -1,
    last_sequence: -1,
    last_offset: Offset::new(-1),
    timestamp: Timestamp::NONE,
};

impl Producer {
    const fn new(epoch: i16, last_append: Timestamp) -> Self {
        Self {
            epoch,
            last_append,
            count: 0,
            seen: [NOTHING; WINDOW],
        }
    }

    fn window(&self) -> &[Seen] {
        &self.seen[..self.count]
    }

    fn push(&mut self, seen: Seen) {
        if self.count == WINDOW {
            self.seen.rotate_left(1);
            self.count -= 1;
        }
        self.seen[self.count] = seen;
        self.count += 1;
    }

    fn next_sequence(&self) -> Option<i32> {
        self.window()
            .last()
            .map(|last| sequence_plus(last.last_sequence, 1))
    }
}

/// Sequences wrap from 2³¹−1 to 0.
const fn sequence_plus(sequence: i32, records: i32) -> i32 {
    match sequence.checked_add(records) {
        Some(sum) => sum,
        None => records - (i32::MAX - sequence) - 1,
    }
}

/// Records from the sequence `first` to `last`, less one.
const fn span(first: i32, last: i32) -> i32 {
    if last >= first {
        last - first
    } else {
        (i32::MAX - first) + last + 1
    }
}

/// One producer that a partition remembers, as it is told to people who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    pub id: i64,
    pub epoch: i16,
    /// None if nothing of it is left in the log.
    pub last_sequence: Option<i32>,
    pub last_timestamp: Timestamp,
}

/// All producers of one partition. The map is ordered, so encodings and walks are the same everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<i64, Producer>,
}

impl Producers {
    pub const fn new() -> Self {
        Self {
            by_id: BTreeMap::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Every producer, by its id.
    pub fn active(&self) -> impl Iterator<Item = ActiveProducer> {
        self.by_id.iter().map(|(id, producer)| ActiveProducer {
            id: *id,
            epoch: producer.epoch,
            last_sequence: producer.window().last().map(|last| last.last_sequence),
            last_timestamp: producer.last_append,
        })
    }

    /// May this batch be appended? Changes nothing. Batches without a producer id always may.
    pub fn check(&self, batch: &Header) -> Result<Verdict, ProducerError> {
        if !batch.has_producer() {
            return Ok(Verdict::Accept);
        }
        // Unknown here (never seen, or expired): current Kafka takes any sequence rather than lose the producer.
        let Some(known) = self.by_id.get(&batch.producer_id) else {
            return Ok(Verdict::Accept);
        };
        if batch.producer_epoch < known.epoch {
            return Err(ProducerError::Fenced {
                producer: batch.producer_id,
                current: known.epoch,
                got: batch.producer_epoch,
            });
        }
        // Markers carry no sequence.
        if batch.is_control() {
            return Ok(Verdict::Accept);
        }
        let expected = if batch.producer_epoch > known.epoch {
            Some(0)
        } else if let Some(duplicate) = duplicate_of(known, batch) {
            return Ok(duplicate);
        } else {
            known.next_sequence()
        };
        match expected {
            Some(expected) if expected != batch.base_sequence => Err(ProducerError::OutOfOrder {
                producer: batch.producer_id,
                expected,
                got: batch.base_sequence,
            }),
            Some(_) | None => Ok(Verdict::Accept),
        }
    }

    /// Remembers a batch that has got its offsets. `now` is when, for `expire`.
    pub fn record(&mut self, batch: &Header, now: Timestamp) {
        if !batch.has_producer() {
            return;
        }
        let fresh = Producer::new(batch.producer_epoch, now);
        let producer = self.by_id.entry(batch.producer_id).or_insert(fresh);
        if producer.epoch != batch.producer_epoch {
            *producer = fresh;
        }
        producer.last_append = now;
        if !batch.is_control() {
            producer.push(Seen {
                first_sequence: batch.base_sequence,
                last_sequence: sequence_plus(batch.base_sequence, batch.last_offset_delta),
                last_offset: batch.last_offset(),
                timestamp: batch.max_timestamp,
            });
        }
    }

    /// Forgets producers that have not written for `max_age_ms`. Call now and then (`producer.id.expiration.ms`).
    pub fn expire(&mut self, now: Timestamp, max_age_ms: i64) {
        self.by_id
            .retain(|_, producer| now.since(producer.last_append) < max_age_ms);
    }

    /// The log now ends at `end`: batches there and after never happened. A producer of which nothing is left
    /// keeps its epoch and may go on with any sequence.
    pub fn truncate_from(&mut self, end: Offset) {
        for producer in self.by_id.values_mut() {
            producer.count = producer.window().partition_point(|seen| seen.last_offset < end);
        }
    }

    /// The state in bytes, with a CRC: for checkpoints and for objects in the tier.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.by_id.len() * (22 + WINDOW * 24));
        out.extend_from_slice(SNAPSHOT_MAGIC);
        out.extend_from_slice(&count_u32(self.by_id.len()).to_le_bytes());
        for (id, producer) in &self.by_id {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&producer.epoch.to_le_bytes());
            out.extend_from_slice(&producer.last_append.value().to_le_bytes());
            out.extend_from_slice(&count_u32(producer.count).to_le_bytes());
            for seen in producer.window() {
                out.extend_from_slice(&seen.first_sequence.to_le_bytes());
                out.extend_from_slice(&seen.last_sequence.to_le_bytes());
                out.extend_from_slice(&seen.last_offset.value().to_le_bytes());
                out.extend_from_slice(&seen.timestamp.value().to_le_bytes());
            }
        }
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out
    }

    /// `None` unless `bytes` are exactly one encoded state.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut from = BytesIn::new(body);
        if from.bytes(8)? != SNAPSHOT_MAGIC {
            return None;
        }
        let mut producers = Self::new();
        for _ in 0..from.u32()? {
            let id = from.i64()?;
            let mut producer = Producer::new(from.i16()?, Timestamp::new(from.i64()?));
            let count = from.u32()? as usize;
            if count > WINDOW {
                return None;
            }
            for _ in 0..count {
                producer.push(Seen {
                    first_sequence: from.i32()?,
                    last_sequence: from.i32()?,
                    last_offset: Offset::new(from.i64()?),
                    timestamp: Timestamp::new(from.i64()?),
                });
            }
            producers.by_id.insert(id, producer);
        }
        from.is_empty().then_some(producers)
    }
}

fn duplicate_of(known: &Producer, batch: &Header) -> Option<Verdict> {
    let last_sequence = sequence_plus(batch.base_sequence, batch.last_offset_delta);
    known
        .window()
        .iter()
        .find(|seen| seen.first_sequence == batch.base_sequence && seen.last_sequence == last_sequence)
        .map(|seen| Verdict::Duplicate {
            first: seen.first_offset(),
            last: seen.last_offset,
            timestamp: seen.timestamp,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::builder::Builder;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::new(1_000_000);

    fn batch(id: i64, epoch: i16, sequence: i32, records: i32, offset: i64) -> Header {
        let mut builder = Builder::new(NOW).producer(id, epoch, sequence);
        for _ in 0..records {
            builder = builder.push(NOW, None, None, &[]);
        }
        let mut header = *Batch::check(builder.build()).unwrap().header();
        header.base_offset = Offset::new(offset);
        header
    }

    fn having(batches: &[Header]) -> Producers {
        let mut producers = Producers::new();
        for header in batches {
            assert_eq!(producers.check(header), Ok(Verdict::Accept));
            producers.record(header, NOW);
        }
        producers
    }

    #[test]
    fn a_batch_sent_again_is_answered_with_its_first_place() {
        let producers = having(&[batch(7, 0, 0, 3, 100), batch(7, 0, 3, 2, 110)]);
        let again = producers.check(&batch(7, 0, 0, 3, 0));
        let place = Verdict::Duplicate {
            first: Offset::new(100),
            last: Offset::new(102),
            timestamp: NOW,
        };
        assert_eq!(again, Ok(place));
    }

    #[test]
    fn a_gap_is_out_of_order() {
        let producers = having(&[batch(7, 0, 0, 3, 0)]);
        let refused = ProducerError::OutOfOrder {
            producer: 7,
            expected: 3,
            got: 4,
        };
        assert_eq!(producers.check(&batch(7, 0, 4, 1, 0)), Err(refused));
    }

    #[test]
    fn only_ten_batches_are_remembered() {
        let eleven: Vec<_> = (0..11).map(|n| batch(7, 0, n, 1, i64::from(n))).collect();
        let producers = having(&eleven);
        assert!(matches!(
            producers.check(&batch(7, 0, 1, 1, 0)),
            Ok(Verdict::Duplicate { .. })
        ));
        assert!(producers.check(&batch(7, 0, 0, 1, 0)).is_err());
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        assert_eq!(
            Producers::new().check(&batch(7, 3, 5000, 1, 0)),
            Ok(Verdict::Accept)
        );
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_newer_one_begins_at_zero() {
        let mut producers = having(&[batch(7, 2, 0, 1, 0)]);
        assert!(matches!(
            producers.check(&batch(7, 1, 1, 1, 0)),
            Err(ProducerError::Fenced { .. })
        ));
        assert!(matches!(
            producers.check(&batch(7, 3, 1, 1, 0)),
            Err(ProducerError::OutOfOrder { .. })
        ));
        assert_eq!(producers.check(&batch(7, 3, 0, 1, 0)), Ok(Verdict::Accept));
        producers.record(&batch(7, 3, 0, 1, 1), NOW);
        assert!(matches!(
            producers.check(&batch(7, 2, 0, 1, 0)),
            Err(ProducerError::Fenced { .. })
        ));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let producers = having(&[batch(7, 0, i32::MAX - 1, 4, 10)]);
        assert_eq!(producers.check(&batch(7, 0, 2, 1, 0)), Ok(Verdict::Accept));
        let place = Verdict::Duplicate {
            first: Offset::new(10),
            last: Offset::new(13),
            timestamp: NOW,
        };
        assert_eq!(producers.check(&batch(7, 0, i32::MAX - 1, 4, 0)), Ok(place));
    }

    #[test]
    fn a_producer_whose_batches_in_flight_were_cut_off_goes_on_with_the_first_of_them() {
        let all: Vec<_> = (0..20).map(|n| batch(7, 0, n, 1, i64::from(n))).collect();
        let mut producers = having(&all);
        producers.truncate_from(Offset::new(15));
        assert!(producers.check(&batch(7, 0, 16, 1, 0)).is_err());
        assert_eq!(producers.check(&batch(7, 0, 15, 1, 0)), Ok(Verdict::Accept));
    }

    #[test]
    fn a_silent_producer_is_forgotten() {
        let mut producers = having(&[batch(7, 0, 0, 1, 0)]);
        producers.expire(NOW.plus(99), 100);
        assert_eq!(producers.len(), 1);
        producers.expire(NOW.plus(100), 100);
        assert!(producers.is_empty());
    }

    #[test]
    fn a_damaged_snapshot_is_not_believed() {
        let bytes = having(&[batch(7, 0, 0, 1, 0)]).encode();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert_eq!(Producers::decode(&bad), None);
        }
    }

    proptest! {
        // A client that retries at random against a plain list of what was stored.
        #[test]
        fn whatever_is_retried_is_stored_once_and_in_order(
            sends in prop::collection::vec((0i64..3, 1i32..4, prop::option::of(0usize..5)), 1..80),
            start in prop_oneof![Just(0), Just(i32::MAX - 20)],
        ) {
            let mut producers = Producers::new();
            let mut stored: BTreeMap<i64, Vec<Header>> = BTreeMap::new();
            let mut end = 0;
            for (id, records, retry) in sends {
                let of = stored.entry(id).or_default();
                let old = retry.and_then(|back| of.len().checked_sub(back + 1)).map(|at| of[at]);
                if let Some(old) = old {
                    let expected = Verdict::Duplicate { first: old.base_offset, last: old.last_offset(), timestamp: NOW };
                    prop_assert_eq!(producers.check(&old), Ok(expected));
                    continue;
                }
                let next = of.last().map_or(start, |l| sequence_plus(l.base_sequence, l.record_count));
                let new = batch(id, 0, next, records, end);
                prop_assert_eq!(producers.check(&new), Ok(Verdict::Accept));
                producers.record(&new, NOW);
                end += i64::from(records);
                of.push(new);
            }
            prop_assert_eq!(Producers::decode(&producers.encode()), Some(producers));
        }
    }
}
