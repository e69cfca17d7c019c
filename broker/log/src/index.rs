//! Where batches begin in a segment: sparse, in memory while the segment is active, in a sidecar file once it is
//! sealed. Each entry is the start of a batch; between two entries lie less than `interval` bytes of batch starts.
//!
//! ```text
//! sidecar: entries [offset delta u32 | position u32 | max timestamp before it i64]…  footer (72 bytes), little endian
//! ```
//! The footer is a segment's summary, so that opening a log reads 72 bytes of each sealed segment. A sidecar is
//! never needed: it is rebuilt from its segment when it is missing or does not hold.

use crate::batch::{Header, crc32c};
use crate::offsets::{Offset, Timestamp};
use crate::our_bytes::{BytesIn, count_u32};

const ENTRY_BYTES: usize = 16;
const FOOTER_MAGIC: &[u8; 8] = b"VRVIDX01";
pub(crate) const FOOTER_BYTES: usize = 72;

/// One batch start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of the batch, counted from the segment's base.
    pub offset_delta: u32,
    /// Byte position of the batch in the segment.
    pub position: u32,
    /// Largest timestamp of all batches of the segment that come before this one; [`Timestamp::NONE`] before the first.
    pub max_timestamp_before: Timestamp,
}

/// The entries of one segment, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    interval: u32,
    /// Where it begins to know: after a restart, of the active segment only what is behind the recovery point.
    begins: Edge,
    entries: Vec<IndexEntry>,
}

/// A place in a segment where a batch begins or the segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    pub offset: Offset,
    pub position: u64,
}

impl Index {
    /// Of a segment from its beginning.
    pub(crate) const fn new(interval: u32, base: Offset) -> Self {
        Self::beginning(
            interval,
            Edge {
                offset: base,
                position: 0,
            },
        )
    }

    /// Of what a segment holds from `begins` on.
    pub(crate) const fn beginning(interval: u32, begins: Edge) -> Self {
        Self {
            interval,
            begins,
            entries: Vec::new(),
        }
    }

    pub(crate) const fn begins(&self) -> Edge {
        self.begins
    }

    pub(crate) const fn is_whole(&self) -> bool {
        self.begins.position == 0
    }

    /// Of the whole segment, given the index of what lies before this one.
    pub(crate) fn behind(&self, mut before: Self) -> Self {
        before.truncate(self.begins.position);
        before.entries.extend_from_slice(&self.entries);
        before
    }

    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// All batch starts between two entries lie less than this behind the first.
    pub const fn interval(&self) -> u32 {
        self.interval
    }

    /// Tells of the batch that begins where `segment` ends. Kept if the last kept one is `interval` bytes back.
    pub(crate) fn note(&mut self, segment: &Summary, batch_offset: Offset) {
        let position = segment.bytes;
        let is_due = self
            .entries
            .last()
            .is_none_or(|last| position - u64::from(last.position) >= u64::from(self.interval));
        // Segments roll before a delta or position outgrows 32 bits; what does not fit is simply not indexed.
        let fits = (
            u32::try_from(batch_offset.since(segment.base)),
            u32::try_from(position),
        );
        if let (true, (Ok(offset_delta), Ok(position))) = (is_due, fits) {
            let max_timestamp_before = segment.max_timestamp;
            self.entries.push(IndexEntry {
                offset_delta,
                position,
                max_timestamp_before,
            });
        }
    }

    /// The last entry at or before `offset`; the segment's start if there is none.
    pub(crate) fn at_or_before(&self, base: Offset, offset: Offset) -> Edge {
        let after = self.entries.partition_point(|entry| entry.offset(base) <= offset);
        self.edge_before(base, after)
    }

    /// The last entry that lies neither past `offset` nor past `position`.
    pub(crate) fn within(&self, base: Offset, offset: Offset, position: u64) -> Edge {
        let inside =
            |entry: &IndexEntry| u64::from(entry.position) <= position && entry.offset(base) <= offset;
        self.edge_before(base, self.entries.partition_point(inside))
    }

    /// Where to begin looking for the first batch with `timestamp` or a later one.
    pub(crate) fn before_timestamp(&self, base: Offset, timestamp: Timestamp) -> Edge {
        let earlier = |entry: &IndexEntry| entry.max_timestamp_before < timestamp;
        self.edge_before(base, self.entries.partition_point(earlier))
    }

    fn edge_before(&self, base: Offset, after: usize) -> Edge {
        match after.checked_sub(1) {
            Some(at) => {
                let entry = &self.entries[at];
                Edge {
                    offset: entry.offset(base),
                    position: u64::from(entry.position),
                }
            }
            None => self.begins,
        }
    }

    fn truncate(&mut self, position: u64) {
        let kept = self
            .entries
            .partition_point(|entry| u64::from(entry.position) < position);
        self.entries.truncate(kept);
    }

    /// The sidecar's content.
    pub(crate) fn encode(&self, segment: &Summary) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.entries.len() * ENTRY_BYTES + FOOTER_BYTES);
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset_delta.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.max_timestamp_before.value().to_le_bytes());
        }
        let entries_crc = crc32c(&out);
        let footer = Footer {
            summary: *segment,
            interval: self.interval,
            entries: count_u32(self.entries.len()),
            entries_crc,
        };
        out.extend_from_slice(&footer.encode());
        out
    }

    /// `None` unless `bytes` are the entries that `footer` speaks of.
    pub(crate) fn decode(bytes: &[u8], footer: &Footer) -> Option<Self> {
        if bytes.len() != footer.entry_bytes() || crc32c(bytes) != footer.entries_crc {
            return None;
        }
        let mut index = Self::new(footer.interval, footer.summary.base);
        index.entries.reserve_exact(footer.entries as usize);
        let mut from = BytesIn::new(bytes);
        while !from.is_empty() {
            index.entries.push(IndexEntry {
                offset_delta: from.u32()?,
                position: from.u32()?,
                max_timestamp_before: Timestamp::new(from.i64()?),
            });
        }
        Some(index)
    }
}

impl IndexEntry {
    fn offset(&self, base: Offset) -> Offset {
        base.plus(i64::from(self.offset_delta))
    }
}

/// What is known of a segment without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub base: Offset,
    /// The offset after its last record; `base` while it is empty.
    pub end: Offset,
    pub bytes: u64,
    /// Largest timestamp of its first batch: segments roll by age from here.
    pub first_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    /// The broker's time of the last append, for data that has no timestamps.
    pub last_append: Timestamp,
}

impl Summary {
    pub(crate) const fn empty(base: Offset, now: Timestamp) -> Self {
        Self {
            base,
            end: base,
            bytes: 0,
            first_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
            last_append: now,
        }
    }

    /// Adds the batch behind what is there; `header` has its final offset.
    pub(crate) fn add(&mut self, header: &Header, now: Timestamp) {
        if self.bytes == 0 {
            self.first_timestamp = header.max_timestamp;
        }
        self.bytes += header.batch_length as u64;
        self.end = header.next_offset();
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        self.last_append = now;
    }

    /// Six numbers of eight bytes.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.value().to_le_bytes());
        out.extend_from_slice(&self.end.value().to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.first_timestamp.value().to_le_bytes());
        out.extend_from_slice(&self.max_timestamp.value().to_le_bytes());
        out.extend_from_slice(&self.last_append.value().to_le_bytes());
    }

    pub(crate) fn decode(from: &mut BytesIn<'_>) -> Option<Self> {
        Some(Self {
            base: Offset::new(from.i64()?),
            end: Offset::new(from.i64()?),
            bytes: from.u64()?,
            first_timestamp: Timestamp::new(from.i64()?),
            max_timestamp: Timestamp::new(from.i64()?),
            last_append: Timestamp::new(from.i64()?),
        })
    }

    pub(crate) const fn end_edge(&self) -> Edge {
        Edge {
            offset: self.end,
            position: self.bytes,
        }
    }
}

/// The end of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub summary: Summary,
    interval: u32,
    entries: u32,
    entries_crc: u32,
}

impl Footer {
    pub(crate) const fn entry_bytes(&self) -> usize {
        self.entries as usize * ENTRY_BYTES
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(FOOTER_MAGIC);
        self.summary.encode_into(&mut out);
        out.extend_from_slice(&self.interval.to_le_bytes());
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.entries_crc.to_le_bytes());
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if bytes.len() != FOOTER_BYTES || crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut from = BytesIn::new(body);
        if from.bytes(8)? != FOOTER_MAGIC {
            return None;
        }
        Some(Self {
            summary: Summary::decode(&mut from)?,
            interval: from.u32()?,
            entries: from.u32()?,
            entries_crc: from.u32()?,
        })
    }
}
