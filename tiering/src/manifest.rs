//! What of a partition is in the bucket: one immutable object per commit, with every entry in it.
//!
//! The metadata quorum holds a pointer to the current one (key, hash, range). A reader needs nothing else: an entry
//! says where its data lies and carries the object's block list, so finding, ranging and verifying take no further
//! request. Entries touch: each begins where the one before it ends, and what breaks that cannot be decoded.
//!
//! Above [`ENTRIES_MAX`] entries rewriting all of them for every commit becomes waste (about 1 KB an entry). Then
//! whole runs of the oldest are to move into page objects of their own, named by the manifest with range, bytes and
//! hash; until that is written such a manifest is refused when it is made, never when it is read.

use crate::TierPartition;
use crate::encoding::{In, Out};
use crate::keys::SegmentName;
use crate::object::{Block, decode_blocks, encode_blocks, low_half};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use std::ops::Range;
use std::sync::Arc;
use uuid::Uuid;
use varve_cache::{ChunkKey, Expect};
use varve_cluster::TopicId;
use varve_log::{LeaderEpoch, Offset, Timestamp};

const MAGIC: &[u8; 8] = b"VARVEMAN";
const VERSION: u16 = 1;
/// 16 Ki entries of 64 MiB are a terabyte in one partition, and a manifest of about 15 MB.
pub const ENTRIES_MAX: usize = 16 * 1024;
const HASH_BYTES: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub partition: TierPartition,
    pub version: u64,
    pub epoch: LeaderEpoch,
    pub entries: Vec<Arc<Entry>>,
    /// The leader epochs up to the end of the last entry, as varve-log encodes them.
    pub epoch_chain: Bytes,
}

/// One segment in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: SegmentName,
    /// Where the data begins in the object.
    pub position: u64,
    pub bytes: u64,
    /// The whole object, header and sections included.
    pub object_bytes: u64,
    pub max_timestamp: Timestamp,
    pub blocks: Vec<Block>,
    chunks: Vec<u32>,
}

impl Entry {
    pub fn new(name: SegmentName, position: u64, bytes: u64, object_bytes: u64, blocks: Vec<Block>) -> Self {
        let starts: Vec<u64> = blocks.iter().map(|block| block.position).collect();
        let chunks = varve_cache::lay_out(&starts, bytes);
        let max_timestamp = blocks
            .iter()
            .map(|block| block.max_timestamp)
            .max()
            .unwrap_or(Timestamp::NONE);
        Self {
            name,
            position,
            bytes,
            object_bytes,
            max_timestamp,
            blocks,
            chunks,
        }
    }

    pub fn base(&self) -> Offset {
        self.name.base
    }

    pub fn end(&self) -> Offset {
        self.name.end
    }

    pub(crate) fn chunk_count(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    /// The last block that begins at or before `offset`.
    pub(crate) fn block_of(&self, offset: Offset) -> usize {
        self.blocks
            .partition_point(|block| block.offset <= offset)
            .saturating_sub(1)
    }

    pub(crate) fn chunk_of(&self, block: usize) -> u32 {
        let after = self.chunks.partition_point(|first| *first as usize <= block);
        u32::try_from(after.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    pub(crate) fn chunk_key(&self, chunk: u32) -> ChunkKey {
        ChunkKey {
            object: self.name.object(),
            chunk,
        }
    }

    pub(crate) fn chunk_blocks(&self, chunk: u32) -> Range<usize> {
        let first = |chunk: usize| {
            self.chunks
                .get(chunk)
                .map_or(self.blocks.len(), |first| *first as usize)
        };
        first(chunk as usize)..first(chunk as usize + 1)
    }

    /// Where `blocks` lie in the data.
    pub(crate) fn range(&self, blocks: Range<usize>) -> Range<u64> {
        self.block_start(blocks.start)..self.block_start(blocks.end)
    }

    /// The same, with their checksum as one run: some ten microseconds a block, so only for what is downloaded.
    pub(crate) fn span(&self, blocks: Range<usize>) -> Span {
        let start = self.block_start(blocks.start);
        let end = self.block_start(blocks.end);
        let mut crc = 0;
        for index in blocks {
            let len = self.block_start(index + 1) - self.block_start(index);
            crc = crc_fast::checksum_combine(
                CrcAlgorithm::Crc32Iscsi,
                crc,
                u64::from(self.blocks[index].crc),
                len,
            );
        }
        Span {
            start,
            end,
            crc: low_half(crc),
        }
    }

    fn block_start(&self, index: usize) -> u64 {
        self.blocks.get(index).map_or(self.bytes, |block| block.position)
    }
}

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// In the data, not in the object.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) crc: u32,
}

impl Span {
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    pub(crate) fn expect(&self) -> Expect {
        Expect {
            bytes: self.bytes(),
            crc: self.crc,
        }
    }
}

impl Manifest {
    pub fn start(&self) -> Option<Offset> {
        self.entries.first().map(|entry| entry.base())
    }

    pub fn end(&self) -> Option<Offset> {
        self.entries.last().map(|entry| entry.end())
    }

    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Which entry holds `offset`.
    pub(crate) fn entry_of(&self, offset: Offset) -> Option<usize> {
        let after = self.entries.partition_point(|entry| entry.base() <= offset);
        let index = after.checked_sub(1)?;
        (offset < self.entries[index].end()).then_some(index)
    }

    /// Roughly what it holds in memory.
    pub(crate) fn weight(&self) -> usize {
        let entry = |entry: &Arc<Entry>| size_of::<Entry>() + entry.blocks.len() * size_of::<Block>();
        self.entries.iter().map(entry).sum::<usize>() + 256
    }

    pub fn encode(&self) -> Bytes {
        let mut out = Out::default();
        out.raw(MAGIC);
        out.u16(VERSION);
        out.raw(self.partition.topic.uuid().as_bytes());
        out.signed(self.partition.index.into());
        out.varint(self.version);
        out.signed(self.epoch.value().into());
        out.section(&self.epoch_chain);
        out.varint(self.entries.len() as u64);
        for entry in &self.entries {
            let mut body = Out::default();
            body.signed(entry.name.base.value());
            body.signed(entry.name.end.value());
            body.signed(entry.name.epoch.value().into());
            body.raw(entry.name.attempt.as_bytes());
            body.varint(entry.position);
            body.varint(entry.bytes);
            body.varint(entry.object_bytes);
            body.section(&encode_blocks(&entry.blocks));
            // A length before each entry: a later version may say more, and this one skips it.
            out.section(&body.bytes);
        }
        out.u64(crc_fast::crc64_nvme(&out.bytes));
        out.bytes.into()
    }

    /// What the pointer in the metadata quorum keeps of an encoded manifest: its checksum, computed anew.
    ///
    /// Over all but the checksum at the end: a CRC over bytes and their own CRC is the same number for all bytes.
    pub fn hash(encoded: &[u8]) -> String {
        let body = encoded.len().saturating_sub(HASH_BYTES);
        format!("{:016x}", crc_fast::crc64_nvme(&encoded[..body]))
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, &'static str> {
        let body = bytes
            .len()
            .checked_sub(HASH_BYTES)
            .ok_or("manifest is cut short")?;
        if !bytes.starts_with(MAGIC) {
            return Err("not a manifest");
        }
        let stored = In::new(bytes.slice(body..)).u64();
        if stored != Some(crc_fast::crc64_nvme(&bytes[..body])) {
            return Err("manifest fails its checksum");
        }
        let mut input = In::new(bytes.slice(MAGIC.len()..body));
        if input.u16() != Some(VERSION) {
            return Err("manifest is of a later version");
        }
        let manifest = Self::fields(&mut input).ok_or("manifest cannot be read")?;
        let mut touch = manifest
            .entries
            .windows(2)
            .map(|pair| pair[0].end() == pair[1].base());
        if !touch.all(|touches| touches) || manifest.entries.iter().any(|entry| entry.base() >= entry.end()) {
            return Err("manifest has a gap or an overlap");
        }
        Ok(manifest)
    }

    fn fields(input: &mut In) -> Option<Self> {
        let topic = TopicId::new(Uuid::from_bytes(input.array()?));
        let index = i32::try_from(input.signed()?).ok()?;
        let version = input.varint()?;
        let epoch = epoch(input)?;
        let epoch_chain = input.section()?;
        let count = usize::try_from(input.varint()?).ok()?;
        let mut entries = Vec::with_capacity(count.min(input.left() / 32));
        for _ in 0..count {
            entries.push(Arc::new(entry(In::new(input.section()?))?));
        }
        Some(Self {
            partition: TierPartition { topic, index },
            version,
            epoch,
            entries,
            epoch_chain,
        })
    }
}

fn entry(mut input: In) -> Option<Entry> {
    let base = Offset::new(input.signed()?);
    let end = Offset::new(input.signed()?);
    let epoch = epoch(&mut input)?;
    let attempt = Uuid::from_bytes(input.array()?);
    let position = input.varint()?;
    let bytes = input.varint()?;
    let object_bytes = input.varint()?;
    let blocks = decode_blocks(input.section()?)?;
    let inside = position.checked_add(bytes)? <= object_bytes;
    let in_order = blocks
        .windows(2)
        .all(|w| w[0].position < w[1].position && w[0].offset < w[1].offset);
    let covers = blocks
        .first()
        .is_some_and(|block| block.position == 0 && block.offset == base)
        && blocks
            .last()
            .is_some_and(|block| block.position < bytes && block.offset < end);
    let name = SegmentName {
        base,
        end,
        epoch,
        attempt,
    };
    (inside && in_order && covers).then(|| Entry::new(name, position, bytes, object_bytes, blocks))
}

fn epoch(input: &mut In) -> Option<LeaderEpoch> {
    i32::try_from(input.signed()?).ok().map(LeaderEpoch::new)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest over entries of `lens` records, one block for each record.
    pub(crate) fn manifest(start: i64, lens: &[i64]) -> Manifest {
        let mut base = start;
        let mut entries = vec![];
        for (i, len) in lens.iter().enumerate() {
            let name = SegmentName {
                base: Offset::new(base),
                end: Offset::new(base + len),
                epoch: LeaderEpoch::new(1),
                attempt: Uuid::from_u128(i as u128 + 1),
            };
            let block = |k: i64| Block {
                offset: Offset::new(base + k),
                position: u64::try_from(k).unwrap() * 1000,
                max_timestamp: Timestamp::new(base + k),
                crc: 5,
            };
            let bytes = u64::try_from(*len).unwrap() * 1000;
            entries.push(Arc::new(Entry::new(
                name,
                64,
                bytes,
                bytes + 500,
                (0..*len).map(block).collect(),
            )));
            base += len;
        }
        let partition = TierPartition {
            topic: TopicId::new(Uuid::from_u128(9)),
            index: 1,
        };
        let (version, epoch) = (3, LeaderEpoch::new(1));
        Manifest {
            partition,
            version,
            epoch,
            entries,
            epoch_chain: Bytes::from_static(b"chain"),
        }
    }

    #[test]
    fn a_manifest_comes_back() {
        let manifest = manifest(17, &[5, 1, 90]);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn different_manifests_have_different_hashes() {
        let hashes: std::collections::HashSet<String> = (1..50)
            .map(|len| Manifest::hash(&manifest(17, &[len]).encode()))
            .collect();
        assert_eq!(hashes.len(), 49);
    }

    #[test]
    fn a_gap_or_an_overlap_cannot_be_decoded() {
        let mut gap = manifest(0, &[5, 5, 5]);
        gap.entries.remove(1);
        assert_eq!(
            Manifest::decode(&gap.encode()),
            Err("manifest has a gap or an overlap")
        );
        let mut overlap = manifest(0, &[5, 5]);
        let again = Arc::clone(&overlap.entries[0]);
        overlap.entries.insert(1, again);
        assert_eq!(
            Manifest::decode(&overlap.encode()),
            Err("manifest has a gap or an overlap")
        );
    }

    #[test]
    fn every_offset_is_found_in_its_entry_and_nothing_outside() {
        let manifest = manifest(10, &[5, 1, 4]);
        let found: Vec<_> = (9..21)
            .map(|offset| manifest.entry_of(Offset::new(offset)))
            .collect();
        let expected = [None]
            .into_iter()
            .chain([0; 5].map(Some))
            .chain([Some(1)])
            .chain([2; 4].map(Some))
            .chain([None]);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn a_damaged_manifest_is_an_error_and_never_a_panic(at: usize, bit in 0u8..8, cut in 0usize..50) {
            let encoded = manifest(0, &[3, 4, 5]).encode();
            let mut damaged = encoded.to_vec();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert!(Manifest::decode(&damaged.into()).is_err());
            if cut > 0 {
                prop_assert!(Manifest::decode(&encoded.slice(..encoded.len() - cut)).is_err());
            }
        }
    }
}
