//! Where a read begins and what comes behind it. Pure.

use crate::manifest::{Entry, Manifest, Span};
use std::sync::Arc;
use varve_cache::ChunkKey;
use varve_log::Offset;

/// A chunk of an entry; knows all that is needed to fetch it.
#[derive(Debug, Clone)]
pub(crate) struct ChunkAt {
    pub(crate) entry: Arc<Entry>,
    pub(crate) chunk: u32,
}

impl ChunkAt {
    pub(crate) fn key(&self) -> ChunkKey {
        self.entry.chunk_key(self.chunk)
    }

    pub(crate) fn span(&self) -> Span {
        self.entry.span(self.entry.chunk_blocks(self.chunk))
    }

    pub(crate) fn bytes(&self) -> usize {
        let range = self.entry.range(self.entry.chunk_blocks(self.chunk));
        usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
    }

    /// The offset after the last record of the chunk.
    pub(crate) fn end(&self) -> Offset {
        let behind = self.entry.chunk_blocks(self.chunk).end;
        self.entry
            .blocks
            .get(behind)
            .map_or_else(|| self.entry.end(), |block| block.offset)
    }
}

/// Where an offset is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) at: ChunkAt,
    /// The block in the entry.
    pub(crate) block: usize,
}

/// `None`: not in the manifest.
pub(crate) fn locate(manifest: &Manifest, offset: Offset) -> Option<Place> {
    let entry = Arc::clone(&manifest.entries[manifest.entry_of(offset)?]);
    let block = entry.block_of(offset);
    let chunk = entry.chunk_of(block);
    Some(Place {
        at: ChunkAt { entry, chunk },
        block,
    })
}

/// The chunk behind `at`, in the next entry if need be.
pub(crate) fn next(manifest: &Manifest, at: &ChunkAt) -> Option<ChunkAt> {
    if at.chunk + 1 < at.entry.chunk_count() {
        return Some(ChunkAt {
            entry: Arc::clone(&at.entry),
            chunk: at.chunk + 1,
        });
    }
    let index = manifest.entry_of(at.entry.end())?;
    Some(ChunkAt {
        entry: Arc::clone(&manifest.entries[index]),
        chunk: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;

    #[test]
    fn walking_chunks_visits_every_byte_once_and_crosses_objects() {
        // 30,000 blocks of 1,000 bytes are four chunks; then a small entry, then two more.
        let manifest = manifest(100, &[30_000, 3, 16_000]);
        let first = locate(&manifest, Offset::new(100)).unwrap().at;
        let walk: Vec<ChunkAt> = std::iter::successors(Some(first), |at| next(&manifest, at)).collect();
        assert_eq!(walk.len(), 4 + 1 + 2);
        let bytes: usize = walk.iter().map(ChunkAt::bytes).sum();
        assert_eq!(bytes as u64, manifest.bytes());
        assert_eq!(walk.last().unwrap().end(), manifest.end().unwrap());
    }

    #[test]
    fn every_offset_lies_in_the_block_and_chunk_it_is_sent_to() {
        let manifest = manifest(100, &[9_000, 3, 16_000]);
        for offset in (100..25_103).step_by(37).map(Offset::new) {
            let place = locate(&manifest, offset).unwrap();
            let blocks = place.at.entry.chunk_blocks(place.at.chunk);
            assert!(blocks.contains(&place.block));
            assert_eq!(place.at.entry.blocks[place.block].offset, offset);
            assert!(offset < place.at.end());
        }
        assert!(locate(&manifest, Offset::new(99)).is_none());
        assert!(locate(&manifest, Offset::new(25_103)).is_none());
    }
}
