//! One sealed segment into one object: read, checked, sent whole or in parts, and its size looked up afterwards.
//!
//! Memory is bounded for the whole broker: a segment of up to 64 MiB is one request and has to be in memory, a
//! larger one is there a part at a time.

use crate::TierPartition;
use crate::files::Stopped;
use crate::keys::SegmentName;
use crate::manifest::Entry;
use crate::object::{Block, HEADER_BYTES, Header, Sections};
use crate::sealed::{Reading, SealedError, SealedInput};
use crate::store::{Parts, Reason};
use crate::store_error::{Cause, CauseKind, StoreError};
use crate::tier::{Inner, UPLOAD_UNIT};
use bytes::Bytes;
use object_store::PutPayload;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;
use varve_log::LeaderEpoch;

/// Pieces in which a sealed file is read.
const PIECE_BYTES: usize = 8 << 20;

pub(crate) enum StoreFailure {
    Sealed(SealedError),
    Store(StoreError),
}

impl From<StoreError> for StoreFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Stopped> for StoreFailure {
    fn from(_: Stopped) -> Self {
        Self::Store(StoreError::NotApplied(Cause {
            kind: CauseKind::Other,
            code: None,
            text: "broker is stopping".to_owned(),
        }))
    }
}

/// One segment into one object, checked batch by batch on the way and by its size afterwards.
pub(crate) async fn store_segment(
    inner: &Arc<Inner>,
    partition: TierPartition,
    epoch: LeaderEpoch,
    input: SealedInput,
    attempt: Uuid,
) -> Result<Entry, StoreFailure> {
    let name = SegmentName {
        base: input.base,
        end: input.end,
        epoch,
        attempt,
    };
    let key = inner.keys.segment(partition, name);
    let data_bytes = input.bytes;
    let whole = data_bytes <= inner.settings.single_put_bytes_max;
    let in_memory = if whole {
        data_bytes
    } else {
        (inner.settings.part_bytes + PIECE_BYTES) as u64
    };
    let _room = upload_room(inner, in_memory).await?;
    let header = Header {
        partition,
        base: input.base,
        end: input.end,
        epoch,
    }
    .encode();
    let sections = Sections {
        producer_snapshot: input.producer_snapshot.clone(),
        epoch_chain: input.epoch_chain.clone(),
        ..Sections::default()
    };
    let mut sealed = SealedStream {
        inner,
        reading: Some(Reading::new(input)),
    };
    let (blocks, tail_bytes) = if whole {
        put_whole(inner, &key, &mut sealed, header, sections, data_bytes).await?
    } else {
        let parts = inner.store.put_parts(Reason::Upload, &key).await?;
        put_parts(inner, parts, &mut sealed, header, sections, data_bytes).await?
    };
    let object_bytes = HEADER_BYTES as u64 + data_bytes + tail_bytes;
    let found = inner.store.head(Reason::Upload, &key).await?;
    if found != object_bytes {
        return Err(StoreError::Corrupt {
            key,
            reason: "stored object does not have the size it was sent with",
        }
        .into());
    }
    Ok(Entry::new(
        name,
        HEADER_BYTES as u64,
        data_bytes,
        object_bytes,
        blocks,
    ))
}

async fn upload_room(
    inner: &Arc<Inner>,
    bytes: u64,
) -> Result<tokio::sync::OwnedSemaphorePermit, StoreFailure> {
    let most = inner.settings.upload_budget_bytes / UPLOAD_UNIT;
    let units = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .div_ceil(UPLOAD_UNIT)
        .min(most);
    let permit = Arc::clone(&inner.upload_budget)
        .acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX))
        .await;
    permit.map_err(|_closed| Stopped.into())
}

async fn put_whole(
    inner: &Arc<Inner>,
    key: &str,
    sealed: &mut SealedStream<'_>,
    header: Bytes,
    sections: Sections,
    data_bytes: u64,
) -> Result<(Vec<Block>, u64), StoreFailure> {
    let mut pieces = vec![header];
    while let Some(piece) = sealed.piece().await? {
        pieces.push(piece);
    }
    let blocks = sealed.finish()?;
    let tail = Sections {
        blocks: blocks.clone(),
        ..sections
    }
    .encode(data_bytes);
    let tail_bytes = tail.len() as u64;
    pieces.push(tail);
    inner
        .store
        .put(Reason::Upload, key, pieces.into_iter().collect())
        .await?;
    Ok((blocks, tail_bytes))
}

async fn put_parts(
    inner: &Arc<Inner>,
    mut parts: Parts,
    sealed: &mut SealedStream<'_>,
    header: Bytes,
    sections: Sections,
    data_bytes: u64,
) -> Result<(Vec<Block>, u64), StoreFailure> {
    let part_bytes = inner.settings.part_bytes;
    let mut waiting = Part::default();
    waiting.push(header);
    let sent = async {
        while let Some(piece) = sealed.piece().await? {
            waiting.push(piece);
            while waiting.bytes >= part_bytes {
                parts.put(waiting.cut(part_bytes)).await?;
            }
        }
        let blocks = sealed.finish()?;
        let tail = Sections {
            blocks: blocks.clone(),
            ..sections
        }
        .encode(data_bytes);
        let tail_bytes = tail.len() as u64;
        waiting.push(tail);
        while waiting.bytes > 0 {
            parts.put(waiting.cut(part_bytes)).await?;
        }
        Ok((blocks, tail_bytes))
    };
    match sent.await {
        Ok(done) => {
            parts.complete().await?;
            Ok(done)
        }
        Err(error) => {
            parts.abort().await;
            Err(error)
        }
    }
}

/// Bytes on their way into a part.
#[derive(Default)]
struct Part {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Part {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    /// The next part: exactly `most`, or all that is left.
    fn cut(&mut self, most: usize) -> PutPayload {
        let mut part = Vec::new();
        let mut room = most;
        while room > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let taken = piece.split_to(piece.len().min(room));
            room -= taken.len();
            self.bytes -= taken.len();
            part.push(taken);
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        part.into_iter().collect()
    }
}

/// [`Reading`], on the file threads.
struct SealedStream<'a> {
    inner: &'a Inner,
    /// `None` only while a thread has it, or after that went wrong.
    reading: Option<Reading>,
}

impl SealedStream<'_> {
    async fn piece(&mut self) -> Result<Option<Bytes>, StoreFailure> {
        let Some(mut reading) = self.reading.take() else {
            return Err(Stopped.into());
        };
        let work = move || {
            let piece = reading.piece(PIECE_BYTES);
            (reading, piece)
        };
        let (reading, piece) = self.inner.files.run(work).await?;
        self.reading = Some(reading);
        piece.map_err(StoreFailure::Sealed)
    }

    fn finish(&mut self) -> Result<Vec<Block>, StoreFailure> {
        let Some(reading) = self.reading.take() else {
            return Err(Stopped.into());
        };
        reading.finish().map_err(StoreFailure::Sealed)
    }
}
