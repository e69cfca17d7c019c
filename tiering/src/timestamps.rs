//! Looking for a time, and for the end of a leader epoch, in what only the bucket has.

use crate::TierPartition;
use crate::manifest::Manifest;
use crate::read_plan::ChunkAt;
use crate::reader::{ReadError, download};
use crate::tier::{Inner, Tier};
use std::sync::Arc;
use varve_cluster::controller::TierPointer;
use varve_log::{Batch, EpochChain, LeaderEpoch, Offset, Timestamp};

impl Tier {
    /// The first record at or after `time`, with its own time. `None`: none in the tier is that young.
    pub async fn find_timestamp(
        &self,
        partition: TierPartition,
        pointer: &TierPointer,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let manifest = self.manifest(partition, pointer).await?;
        let Some((at, block)) = candidate(&manifest, time) else {
            return Ok(None);
        };
        let inner = Arc::clone(&self.inner);
        let found = self
            .on_runtime(async move { search(&inner, partition, &at, block, time).await })
            .await?;
        match found {
            Some(found) => Ok(Some(found)),
            // The block list promised one.
            None => Err(ReadError::Corrupt {
                key: pointer.manifest_key.clone(),
                reason: "block has no record as young as its index says",
            }),
        }
    }

    /// As OffsetForLeaderEpoch wants it: the largest epoch in the tier not above `epoch`, and where it ends.
    /// `None`: `epoch` is above all that the tier knows, the local log is to be asked.
    pub async fn end_offset_for_epoch(
        &self,
        partition: TierPartition,
        pointer: &TierPointer,
        epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, ReadError> {
        let manifest = self.manifest(partition, pointer).await?;
        let corrupt = || ReadError::Corrupt {
            key: pointer.manifest_key.clone(),
            reason: "leader epochs in the manifest cannot be read",
        };
        let chain = EpochChain::decode(&manifest.epoch_chain).ok_or_else(corrupt)?;
        Ok(chain.end_offset_for(epoch, pointer.end))
    }
}

/// The first block with a record at or after `time`. Times may go back and forth in a log: this is the first block
/// in the order of offsets, as Kafka answers.
fn candidate(manifest: &Manifest, time: Timestamp) -> Option<(ChunkAt, usize)> {
    let entry = manifest
        .entries
        .iter()
        .find(|entry| entry.max_timestamp >= time)?;
    let block = entry
        .blocks
        .iter()
        .position(|block| block.max_timestamp >= time)?;
    Some((
        ChunkAt {
            entry: Arc::clone(entry),
            chunk: entry.chunk_of(block),
        },
        block,
    ))
}

async fn search(
    inner: &Arc<Inner>,
    partition: TierPartition,
    at: &ChunkAt,
    block: usize,
    time: Timestamp,
) -> Result<Option<(Offset, Timestamp)>, ReadError> {
    let span = at.entry.span(block..block + 1);
    let chunk = at.span();
    let bytes = match inner.cache.peek(at.key(), chunk.expect()) {
        Some(bytes) => {
            let start = usize::try_from(span.start - chunk.start).unwrap_or(usize::MAX);
            bytes.slice(start..start + span.bytes())
        }
        None => download(inner, partition, at, span).await?,
    };
    let corrupt = |_| ReadError::Corrupt {
        key: inner.keys.segment(partition, at.entry.name),
        reason: "batch in the tier cannot be read",
    };
    for batch in varve_log::split(&bytes) {
        let batch = batch.and_then(Batch::check).map_err(corrupt)?;
        if batch.header().max_timestamp < time {
            continue;
        }
        for record in varve_log::records(&batch, inner.settings.decompressed_bytes_max).map_err(corrupt)? {
            let record = record.map_err(corrupt)?;
            if record.timestamp >= time {
                return Ok(Some((record.offset, record.timestamp)));
            }
        }
    }
    Ok(None)
}
