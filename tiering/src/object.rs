//! A segment object: one sealed segment and all that a reader or a new replica needs beside it, in one piece.
//!
//! ```text
//! header   64 bytes: magic, version, topic, partition, range, leader epoch, CRC32C
//! data     the record batches, byte for byte as they are in the log
//! sections blocks · producer snapshot · leader-epoch chain · aborted transactions
//! footer   where each section is, with its CRC32C; then footer length, footer CRC32C, magic
//! ```
//! A block is a run of whole batches of up to 1 MiB with a CRC32C over its bytes: the unit of a seek, and what is
//! verified when any part of the object is downloaded. One list serves as offset index, time index and checksums.

use crate::TierPartition;
use crate::encoding::{In, Out};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use uuid::Uuid;
use varve_cluster::TopicId;
use varve_log::{LeaderEpoch, Offset, Timestamp};

const MAGIC: &[u8; 8] = b"VARVESEG";
const END_MAGIC: &[u8; 8] = b"VARVEEND";
const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 64;
/// Footer length, footer CRC, magic.
pub(crate) const TRAILER_BYTES: usize = 16;
/// A seek downloads one block: small against a chunk, and large against what a request costs.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Base offset of its first batch.
    pub offset: Offset,
    /// Where it begins in the data.
    pub position: u64,
    pub max_timestamp: Timestamp,
    pub crc: u32,
}

/// What the header says of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub partition: TierPartition,
    pub base: Offset,
    pub end: Offset,
    pub epoch: LeaderEpoch,
}

/// The sections behind the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sections {
    pub blocks: Vec<Block>,
    pub producer_snapshot: Bytes,
    pub epoch_chain: Bytes,
    /// Empty until transactions are tiered.
    pub aborted: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blocks = 1,
    ProducerSnapshot = 2,
    EpochChain = 3,
    Aborted = 4,
}

impl Header {
    pub fn encode(&self) -> Bytes {
        let mut out = Out::default();
        out.raw(MAGIC);
        out.u16(VERSION);
        out.u16(0);
        out.raw(&self.partition.index.to_le_bytes());
        out.raw(self.partition.topic.uuid().as_bytes());
        out.raw(&self.base.value().to_le_bytes());
        out.raw(&self.end.value().to_le_bytes());
        out.raw(&self.epoch.value().to_le_bytes());
        out.raw(&[0; 8]);
        out.u32(crc_fast::crc32_iscsi(&out.bytes));
        assert!(
            out.bytes.len() == HEADER_BYTES,
            "segment header has its fixed length"
        );
        out.bytes.into()
    }

    pub fn decode(bytes: Bytes) -> Result<Self, &'static str> {
        if bytes.len() != HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err("not a segment object");
        }
        let crc = crc_fast::crc32_iscsi(&bytes[..HEADER_BYTES - 4]);
        let mut input = In::new(bytes.slice(8..));
        let fields = (|| {
            let version = input.u16()?;
            input.u16()?;
            let index = i32::from_le_bytes(input.array()?);
            let topic = TopicId::new(Uuid::from_bytes(input.array()?));
            let base = Offset::new(i64::from_le_bytes(input.array()?));
            let end = Offset::new(i64::from_le_bytes(input.array()?));
            let epoch = LeaderEpoch::new(i32::from_le_bytes(input.array()?));
            input.raw(8)?;
            Some((
                version,
                Self {
                    partition: TierPartition { topic, index },
                    base,
                    end,
                    epoch,
                },
                input.u32()?,
            ))
        })();
        match fields {
            Some((_, _, stored)) if stored != crc => Err("segment header fails its checksum"),
            Some((VERSION, header, _)) => Ok(header),
            Some(_) => Err("segment object is of a later version"),
            None => Err("segment header is cut short"),
        }
    }
}

impl Sections {
    /// Everything behind the data, for data of `data_bytes`.
    pub fn encode(&self, data_bytes: u64) -> Bytes {
        let parts = [
            (Kind::Blocks, encode_blocks(&self.blocks)),
            (Kind::ProducerSnapshot, self.producer_snapshot.clone()),
            (Kind::EpochChain, self.epoch_chain.clone()),
            (Kind::Aborted, self.aborted.clone()),
        ];
        let mut out = Out::default();
        let mut footer = Out::default();
        footer.u64(data_bytes);
        footer.u16(4);
        for (kind, bytes) in &parts {
            footer.u16(*kind as u16);
            footer.u64(HEADER_BYTES as u64 + data_bytes + out.bytes.len() as u64);
            footer.u64(bytes.len() as u64);
            footer.u32(crc_fast::crc32_iscsi(bytes));
            out.raw(bytes);
        }
        out.raw(&footer.bytes);
        out.u32(u32::try_from(footer.bytes.len()).unwrap_or(u32::MAX));
        out.u32(crc_fast::crc32_iscsi(&footer.bytes));
        out.raw(END_MAGIC);
        out.bytes.into()
    }

    /// Reads them out of the end of an object of `object_bytes`; `tail` is that end, from behind the data or before.
    pub fn decode(tail: &Bytes, object_bytes: u64) -> Result<Self, &'static str> {
        let footer = footer(tail)?;
        let tail_start = object_bytes
            .checked_sub(tail.len() as u64)
            .ok_or("tail is longer than its object")?;
        let mut input = In::new(footer);
        let mut sections = Self::default();
        let cut_short = "segment footer is cut short";
        input.u64().ok_or(cut_short)?;
        for _ in 0..input.u16().ok_or(cut_short)? {
            let kind = input.u16().ok_or(cut_short)?;
            let position = input.u64().ok_or(cut_short)?;
            let len = input.u64().ok_or(cut_short)?;
            let crc = input.u32().ok_or(cut_short)?;
            let outside = "segment section lies outside of its object";
            let start = position
                .checked_sub(tail_start)
                .and_then(|at| usize::try_from(at).ok())
                .ok_or(outside)?;
            let end = usize::try_from(len)
                .ok()
                .and_then(|len| start.checked_add(len))
                .ok_or(outside)?;
            if end > tail.len() {
                return Err(outside);
            }
            let bytes = tail.slice(start..end);
            if crc_fast::crc32_iscsi(&bytes) != crc {
                return Err("segment section fails its checksum");
            }
            match kind {
                1 => sections.blocks = decode_blocks(bytes).ok_or("segment blocks cannot be read")?,
                2 => sections.producer_snapshot = bytes,
                3 => sections.epoch_chain = bytes,
                4 => sections.aborted = bytes,
                // A later version may have more; what is here is complete without it.
                _ => {}
            }
        }
        Ok(sections)
    }
}

fn footer(tail: &Bytes) -> Result<Bytes, &'static str> {
    let trailer = tail
        .len()
        .checked_sub(TRAILER_BYTES)
        .ok_or("segment object has no footer")?;
    let mut input = In::new(tail.slice(trailer..));
    let (Some(len), Some(crc), Some(magic)) = (input.u32(), input.u32(), input.array::<8>()) else {
        return Err("segment object has no footer");
    };
    if &magic != END_MAGIC {
        return Err("segment object has no footer");
    }
    let start = trailer
        .checked_sub(len as usize)
        .ok_or("segment footer is longer than its object")?;
    let footer = tail.slice(start..trailer);
    if crc_fast::crc32_iscsi(&footer) != crc {
        return Err("segment footer fails its checksum");
    }
    Ok(footer)
}

/// Differences from block to block: about 13 bytes each.
pub(crate) fn encode_blocks(blocks: &[Block]) -> Bytes {
    let mut out = Out::default();
    out.varint(blocks.len() as u64);
    let mut last = Block {
        offset: Offset::ZERO,
        position: 0,
        max_timestamp: Timestamp::new(0),
        crc: 0,
    };
    for block in blocks {
        out.signed(block.offset.since(last.offset));
        out.varint(block.position - last.position);
        out.signed(block.max_timestamp.since(last.max_timestamp));
        out.u32(block.crc);
        last = *block;
    }
    out.bytes.into()
}

pub(crate) fn decode_blocks(bytes: Bytes) -> Option<Vec<Block>> {
    let mut input = In::new(bytes);
    let count = usize::try_from(input.varint()?).ok()?;
    // Seven bytes is the least a block takes: nothing is allocated for a count that lies.
    let mut blocks = Vec::with_capacity(count.min(input.left() / 7));
    let mut last = Block {
        offset: Offset::ZERO,
        position: 0,
        max_timestamp: Timestamp::new(0),
        crc: 0,
    };
    for _ in 0..count {
        let offset = last.offset.plus(input.signed()?);
        let position = last.position.checked_add(input.varint()?)?;
        let max_timestamp = last.max_timestamp.plus(input.signed()?);
        last = Block {
            offset,
            position,
            max_timestamp,
            crc: input.u32()?,
        };
        blocks.push(last);
    }
    Some(blocks)
}

/// Cuts batches into blocks as they pass by.
#[derive(Debug)]
pub(crate) struct BlockCutter {
    blocks: Vec<Block>,
    digest: Digest,
    open: Option<Block>,
    position: u64,
}

/// Where one batch lies, for [`BlockCutter`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchAt {
    pub(crate) offset: Offset,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) bytes: usize,
}

impl BlockCutter {
    pub(crate) fn new() -> Self {
        let digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        Self {
            blocks: Vec::new(),
            digest,
            open: None,
            position: 0,
        }
    }

    /// `run` is nothing but `batches`, in order. The bytes are read once, a block at a time.
    pub(crate) fn push(&mut self, run: &[u8], batches: &[BatchAt]) {
        let mut hashed = 0;
        let mut at = 0;
        for batch in batches {
            let len = batch.bytes as u64;
            let full = self
                .open
                .is_some_and(|open| self.position + len - open.position > BLOCK_BYTES);
            if full {
                self.digest.update(&run[hashed..at]);
                hashed = at;
                self.close();
            }
            let open = self.open.get_or_insert(Block {
                offset: batch.offset,
                position: self.position,
                max_timestamp: batch.max_timestamp,
                crc: 0,
            });
            open.max_timestamp = open.max_timestamp.max(batch.max_timestamp);
            at += batch.bytes;
            self.position += len;
        }
        self.digest.update(&run[hashed..at]);
    }

    pub(crate) fn finish(mut self) -> Vec<Block> {
        self.close();
        self.blocks
    }

    fn close(&mut self) {
        let crc = low_half(self.digest.finalize_reset());
        if let Some(block) = self.open.take() {
            self.blocks.push(Block { crc, ..block });
        }
    }
}

/// A 32-bit CRC out of the 64 bits that a digest answers with.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a CRC32C has 32 bits; the upper half is zero"
)]
pub(crate) const fn low_half(crc: u64) -> u32 {
    crc as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        let partition = TierPartition {
            topic: TopicId::new(Uuid::from_u128(77)),
            index: 2,
        };
        Header {
            partition,
            base: Offset::new(10),
            end: Offset::new(900),
            epoch: LeaderEpoch::new(4),
        }
    }

    #[test]
    fn a_header_comes_back_and_a_flipped_bit_does_not() {
        let bytes = header().encode();
        assert_eq!(Header::decode(bytes.clone()), Ok(header()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(flipped.into()).is_err(), "bit {bit}");
        }
    }

    fn sections() -> Sections {
        let block = |i: i64| Block {
            offset: Offset::new(i * 100),
            position: u64::try_from(i).unwrap() << 20,
            max_timestamp: Timestamp::new(1_700_000_000_000 - i * 50),
            crc: 0xdead_beef,
        };
        Sections {
            blocks: (0..50).map(block).collect(),
            producer_snapshot: Bytes::from_static(b"producers"),
            epoch_chain: Bytes::from_static(b"epochs"),
            aborted: Bytes::new(),
        }
    }

    #[test]
    fn sections_come_back_from_any_tail_that_holds_them() {
        let data = vec![7; 5000];
        let tail = sections().encode(5000);
        let mut object = header().encode().to_vec();
        object.extend_from_slice(&data);
        object.extend_from_slice(&tail);
        let object = Bytes::from(object);
        let len = object.len() as u64;
        assert_eq!(Sections::decode(&tail, len), Ok(sections()));
        assert_eq!(Sections::decode(&object.slice(100..), len), Ok(sections()));
        assert!(Sections::decode(&tail.slice(10..), len).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_damaged_tail_is_an_error_and_never_a_panic(at in 0usize..2000, bit in 0u8..8) {
            let tail = sections().encode(5000);
            let len = (HEADER_BYTES + 5000 + tail.len()) as u64;
            let mut damaged = tail.to_vec();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert!(Sections::decode(&damaged.into(), len).is_err());
        }

        #[test]
        fn blocks_cover_the_data_with_its_checksums(
            sizes in prop::collection::vec(1usize..700_000, 1..12),
            pieces in 1usize..7,
        ) {
            let total: usize = sizes.iter().sum();
            let mut data = vec![0; total];
            data.iter_mut().step_by(97).zip(1u32..).for_each(|(byte, i)| *byte = i.to_le_bytes()[0] ^ 0x5a);
            let mut batches = vec![];
            for (i, bytes) in sizes.iter().enumerate() {
                let i = i64::try_from(i).unwrap();
                batches.push(BatchAt { offset: Offset::new(i), max_timestamp: Timestamp::new(i), bytes: *bytes });
            }
            let mut cutter = BlockCutter::new();
            let mut at = 0;
            for run in batches.chunks(batches.len().div_ceil(pieces)) {
                let len: usize = run.iter().map(|b| b.bytes).sum();
                cutter.push(&data[at..at + len], run);
                at += len;
            }
            let blocks = cutter.finish();
            for (i, block) in blocks.iter().enumerate() {
                let start = usize::try_from(block.position).unwrap();
                let end = blocks.get(i + 1).map_or(total, |b| usize::try_from(b.position).unwrap());
                prop_assert_eq!(crc_fast::crc32_iscsi(&data[start..end]), block.crc);
                let first = usize::try_from(block.offset.value()).unwrap();
                prop_assert_eq!(sizes[..first].iter().sum::<usize>(), start);
                prop_assert!(end - start <= 1 << 20 || first + 1 == sizes.len() || sizes[first] > 1 << 20);
            }
        }
    }
}
