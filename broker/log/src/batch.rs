//! A v2 record batch as opaque bytes: its header is read, its CRC checked, and the few fields a broker owns
//! (base offset, leader epoch, and with LogAppendTime the time) are stamped. Records stay closed; see `records`.
//!
//! ```text
//!  0 base offset i64        8 length i32 (bytes after it)   12 leader epoch i32   16 magic i8   17 crc u32
//! 21 attributes i16        23 last offset delta i32         27 base timestamp i64  35 max timestamp i64
//! 43 producer id i64       51 producer epoch i16            53 base sequence i32   57 record count i32   61 records
//! ```
//! The CRC-32C covers everything from byte 21: the offset and the epoch lie outside and may be stamped freely.

use crate::compression::Codec;
use crate::offsets::{LeaderEpoch, Offset, Timestamp};
use crate::records::check_closed;
use bytes::{Buf, Bytes};
use crc_fast::{CrcAlgorithm, Digest};

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the length field does not count: base offset and the length itself.
const UNCOUNTED_BYTES: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const CODEC_BITS: i16 = 0b111;
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;

/// Why bytes are not a batch we take. One variant per answer a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Not what was sent, or never a batch (CORRUPT_MESSAGE).
    #[error("batch is corrupt: {0}")]
    Corrupt(&'static str),
    /// Well formed, but a client may not send it (INVALID_RECORD).
    #[error("batch is not acceptable: {0}")]
    Invalid(&'static str),
    /// A message set from before Kafka 0.11 (INVALID_RECORD, as Kafka 4 answers).
    #[error("record format is no longer supported. magic={0}")]
    UnsupportedMagic(i8),
    /// A codec number nobody has defined (UNSUPPORTED_COMPRESSION_TYPE).
    #[error("unknown compression codec")]
    UnsupportedCodec,
    /// Opened, it would be larger than the caller allows.
    #[error("batch is too large when decompressed. max={max}")]
    TooLargeOpened { max: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's own time.
    CreateTime,
    /// The broker's time of the append, written over the producer's.
    LogAppendTime,
}

/// The 61 bytes before the records, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub base_offset: Offset,
    /// The whole batch in bytes, this header included (wire length + 12).
    pub batch_length: usize,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl Header {
    /// Reads the first [`HEADER_BYTES`] of `bytes`. Checks magic, and that length and offset delta are sane; no CRC.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(mut at) = bytes.get(..HEADER_BYTES) else {
            return Err(short_header(bytes));
        };
        let base_offset = Offset::new(at.get_i64());
        let length = at.get_i32();
        let leader_epoch = LeaderEpoch::new(at.get_i32());
        let magic = at.get_i8();
        if magic != 2 {
            return Err(unsupported(magic));
        }
        let header = Self {
            base_offset,
            batch_length: usize::try_from(length)
                .unwrap_or(0)
                .saturating_add(UNCOUNTED_BYTES),
            leader_epoch,
            crc: at.get_u32(),
            attributes: at.get_i16(),
            last_offset_delta: at.get_i32(),
            base_timestamp: Timestamp::new(at.get_i64()),
            max_timestamp: Timestamp::new(at.get_i64()),
            producer_id: at.get_i64(),
            producer_epoch: at.get_i16(),
            base_sequence: at.get_i32(),
            record_count: at.get_i32(),
        };
        if header.batch_length < HEADER_BYTES {
            return Err(BatchError::Corrupt("length is less than a header"));
        }
        if header.last_offset_delta < 0 {
            return Err(BatchError::Corrupt("last offset is before the first"));
        }
        Ok(header)
    }

    /// `None` for the codec numbers 5 to 7, which nobody has defined.
    pub const fn codec(&self) -> Option<Codec> {
        Codec::from_bits(self.attributes & CODEC_BITS)
    }

    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    pub const fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub const fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta as i64)
    }

    /// The offset after the batch.
    pub const fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    pub const fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }
}

// v0 and v1 message sets may be shorter than a v2 header; their magic stands at the same place.
fn short_header(bytes: &[u8]) -> BatchError {
    match bytes.get(MAGIC_AT) {
        Some(&magic @ 0..=1) => unsupported(magic.cast_signed()),
        Some(_) | None => BatchError::Corrupt("shorter than a batch header"),
    }
}

fn unsupported(magic: i8) -> BatchError {
    BatchError::UnsupportedMagic(magic)
}

/// One batch whose length, magic, codec and CRC have been checked.
#[derive(Debug, Clone)]
pub struct Batch {
    bytes: Bytes,
    header: Header,
}

impl Batch {
    /// Exactly one batch filling `bytes`, from anywhere: a disk, a leader, the tier.
    pub fn check(bytes: Bytes) -> Result<Self, BatchError> {
        let header = Header::parse(&bytes)?;
        check_body(&header, &bytes)?;
        Ok(Self { bytes, header })
    }

    /// What a client may send to one partition in one request: exactly one batch, no control records, offsets
    /// without gaps, a sequence if it has a producer id. Base offset and leader epoch are not looked at.
    ///
    /// Records that are not compressed are walked, so that nothing is taken that no consumer could read; compressed
    /// ones stay closed (`docs/guarantees.md`).
    pub fn check_produced(records: Bytes) -> Result<Self, BatchError> {
        if records.is_empty() {
            return Err(BatchError::Invalid("no batch"));
        }
        let header = Header::parse(&records)?;
        if header.batch_length < records.len() {
            return Err(BatchError::Invalid("more than one batch for a partition"));
        }
        check_body(&header, &records)?;
        if header.is_control() {
            return Err(BatchError::Invalid("control batch from a client"));
        }
        if header.record_count < 1 || header.record_count - 1 != header.last_offset_delta {
            return Err(BatchError::Invalid("record count does not fit the offsets"));
        }
        if header.has_producer() && (header.base_sequence < 0 || header.producer_epoch < 0) {
            return Err(BatchError::Invalid("producer id without a sequence"));
        }
        if header.codec() == Some(Codec::None) {
            check_closed(&records[HEADER_BYTES..], header.record_count)?;
        }
        Ok(Self {
            bytes: records,
            header,
        })
    }

    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The batch as it was handed in; what is stored may be stamped anew.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The records (still compressed), shared, not copied.
    pub(crate) fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// The header as it goes to disk. The CRC is computed anew only if `append_time` writes over the time.
    pub(crate) fn stamped(&self, stamp: Stamp) -> [u8; HEADER_BYTES] {
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&self.bytes[..HEADER_BYTES]);
        head[0..8].copy_from_slice(&stamp.base_offset.value().to_be_bytes());
        head[12..16].copy_from_slice(&stamp.epoch.value().to_be_bytes());
        if let Some(now) = stamp.append_time {
            let attributes = self.header.attributes | LOG_APPEND_TIME_BIT;
            head[ATTRIBUTES_AT..][..2].copy_from_slice(&attributes.to_be_bytes());
            head[MAX_TIMESTAMP_AT..][..8].copy_from_slice(&now.value().to_be_bytes());
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            digest.update(&head[ATTRIBUTES_AT..]);
            digest.update(&self.bytes[HEADER_BYTES..]);
            head[CRC_AT..][..4].copy_from_slice(&low_half(digest.finalize()).to_be_bytes());
        }
        head
    }
}

/// What a broker writes into a batch it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub base_offset: Offset,
    pub epoch: LeaderEpoch,
    pub append_time: Option<Timestamp>,
}

fn check_body(header: &Header, bytes: &[u8]) -> Result<(), BatchError> {
    if header.batch_length != bytes.len() {
        return Err(BatchError::Corrupt("length does not fit the bytes"));
    }
    if header.codec().is_none() {
        return Err(BatchError::UnsupportedCodec);
    }
    if !crc_holds(header, bytes) {
        return Err(BatchError::Corrupt("CRC does not match"));
    }
    Ok(())
}

/// Whether the CRC of the batch that fills `bytes` is right.
pub(crate) fn crc_holds(header: &Header, bytes: &[u8]) -> bool {
    crc32c(&bytes[ATTRIBUTES_AT..]) == header.crc
}

/// CRC-32C (Castagnoli), as batches and our own files use it.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    low_half(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a 32-bit CRC is handed out in 64 bits"
)]
const fn low_half(crc: u64) -> u32 {
    crc as u32
}

/// The whole batches in a run of log bytes, in order, without copying. A partial one at the end is left out.
/// Only lengths and magic are looked at; after an error it ends.
pub fn split(bytes: &Bytes) -> Split {
    Split { rest: bytes.clone() }
}

/// See [`split`].
#[derive(Debug)]
pub struct Split {
    rest: Bytes,
}

impl Iterator for Split {
    type Item = Result<Bytes, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < HEADER_BYTES {
            return None;
        }
        match Header::parse(&self.rest) {
            Ok(header) if header.batch_length <= self.rest.len() => {
                Some(Ok(self.rest.split_to(header.batch_length)))
            }
            Ok(_) => {
                self.rest.clear();
                None
            }
            Err(error) => {
                self.rest.clear();
                Some(Err(error))
            }
        }
    }
}

/// Writes length, CRC and the rest of the header over the first 61 bytes of `batch`, whose records are in place.
pub(crate) fn seal_header(batch: &mut [u8], header: &Header) {
    let length = i32::try_from(batch.len() - UNCOUNTED_BYTES).unwrap_or(i32::MAX);
    let mut put = |at: usize, field: &[u8]| batch[at..at + field.len()].copy_from_slice(field);
    put(0, &header.base_offset.value().to_be_bytes());
    put(8, &length.to_be_bytes());
    put(12, &header.leader_epoch.value().to_be_bytes());
    put(MAGIC_AT, &[2]);
    put(ATTRIBUTES_AT, &header.attributes.to_be_bytes());
    put(23, &header.last_offset_delta.to_be_bytes());
    put(27, &header.base_timestamp.value().to_be_bytes());
    put(MAX_TIMESTAMP_AT, &header.max_timestamp.value().to_be_bytes());
    put(43, &header.producer_id.to_be_bytes());
    put(51, &header.producer_epoch.to_be_bytes());
    put(53, &header.base_sequence.to_be_bytes());
    put(57, &header.record_count.to_be_bytes());
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    batch[CRC_AT..][..4].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;

    fn produced() -> Bytes {
        Builder::new(Timestamp::new(1000))
            .push(Timestamp::new(1000), Some(b"k"), Some(b"v"), &[])
            .push(Timestamp::new(1007), None, Some(b"w"), &[])
            .build()
    }

    #[test]
    fn a_built_batch_is_one_a_client_may_send() {
        let batch = Batch::check_produced(produced()).unwrap();
        assert_eq!(batch.header().record_count, 2);
        assert_eq!(batch.header().max_timestamp, Timestamp::new(1007));
        assert_eq!(batch.header().next_offset(), Offset::new(2));
    }

    #[test]
    fn any_flipped_bit_behind_the_crc_is_found() {
        let good = produced();
        for at in CRC_AT..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(Batch::check(bad.into()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn stamping_offset_and_epoch_leaves_the_crc_true() {
        let batch = Batch::check(produced()).unwrap();
        let stamp = Stamp {
            base_offset: Offset::new(77),
            epoch: LeaderEpoch::new(5),
            append_time: None,
        };
        let stored = Batch::check([&batch.stamped(stamp)[..], &batch.body()].concat().into()).unwrap();
        assert_eq!(stored.header().base_offset, Offset::new(77));
        assert_eq!(stored.header().leader_epoch, LeaderEpoch::new(5));
    }

    #[test]
    fn log_append_time_is_written_with_a_new_crc() {
        let batch = Batch::check(produced()).unwrap();
        let now = Timestamp::new(9999);
        let stamp = Stamp {
            base_offset: Offset::ZERO,
            epoch: LeaderEpoch::new(0),
            append_time: Some(now),
        };
        let stored = Batch::check([&batch.stamped(stamp)[..], &batch.body()].concat().into()).unwrap();
        assert_eq!(stored.header().timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(stored.header().max_timestamp, now);
    }

    #[test]
    fn old_message_sets_are_refused_by_their_magic() {
        for magic in [0u8, 1] {
            let mut old = vec![0; 40];
            old[MAGIC_AT] = magic;
            let refused = Batch::check_produced(old.into()).unwrap_err();
            assert_eq!(refused, BatchError::UnsupportedMagic(magic.cast_signed()));
        }
    }

    #[test]
    fn a_batch_whose_records_are_nonsense_under_a_good_crc_is_refused() {
        let mut nonsense = produced().to_vec();
        let header = Header::parse(&nonsense).unwrap();
        nonsense[HEADER_BYTES..].fill(0xff);
        seal_header(&mut nonsense, &header);

        assert!(Batch::check(nonsense.clone().into()).is_ok());
        assert!(matches!(
            Batch::check_produced(nonsense.into()),
            Err(BatchError::Invalid(_))
        ));
    }

    #[test]
    fn two_batches_for_one_partition_are_refused() {
        let twice = [produced(), produced()].concat();
        assert!(matches!(
            Batch::check_produced(twice.into()),
            Err(BatchError::Invalid(_))
        ));
    }

    #[test]
    fn splitting_leaves_a_partial_batch_out() {
        let one = produced();
        let mut run = [one.clone(), one.clone(), one.clone()].concat();
        run.truncate(run.len() - 1);
        let batches: Vec<_> = split(&run.into()).collect::<Result<_, _>>().unwrap();
        assert_eq!(batches, vec![one.clone(), one]);
    }

    #[test]
    fn a_lying_length_is_an_error_not_an_allocation() {
        let mut lie = produced().to_vec();
        lie[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(Batch::check(lie.clone().into()).is_err());
        lie[8..12].copy_from_slice(&(-5i32).to_be_bytes());
        assert!(Batch::check(lie.into()).is_err());
    }
}
