//! Ranges back out of the bucket.
//!
//! A read answers with whole, verified batches from the offset asked for. What the cursor has in its window is
//! served from there; the chunk that is asked for now is requested before anything is read ahead; a read that
//! jumped somewhere new gets one small range first, because nobody knows yet whether it will read on; the cursor keeps
//! it like a chunk, and takes memory from the same budget for it. Batches are
//! slices of the chunk they came in: between the socket of the store and the socket of the consumer they are
//! copied once.

use crate::TierPartition;
use crate::cursors::{Current, Cursor, CursorId, Fetch, Held};
use crate::manifest::{Manifest, Span};
use crate::read_plan::{ChunkAt, Place, locate, next};
use crate::store::Reason;
use crate::store_error::StoreError;
use crate::tier::{Inner, Tier};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::Instant;
use varve_cache::{Admit, ChunkKey, Spent};
use varve_cluster::controller::TierPointer;
use varve_log::Offset;

/// How often a reader that waits for memory asks idle cursors for theirs.
const RECLAIM_INTERVAL: Duration = Duration::from_millis(20);

/// What a read came back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierSlice {
    /// Runs of whole batches, in order. The first batch holds the offset that was asked for.
    pub batches: Vec<Bytes>,
    /// Where to go on.
    pub next_offset: Offset,
}

impl TierSlice {
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// By what the server does with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not in this manifest: below its start, or at or past its end (there the local log goes on).
    #[error("offset is not in the tier. offset={offset}, start={start}, end={end}")]
    OutOfRange {
        offset: Offset,
        start: Offset,
        end: Offset,
    },
    /// For now. Ask the client to come again.
    #[error("object store does not answer. cause={0}")]
    Unavailable(String),
    /// Load the current pointer and compare: if it is the same, committed data is lost. Never the end of data.
    #[error("object that the manifest names does not exist. key={key}")]
    Missing { key: String },
    #[error("{reason}. key={key}")]
    Corrupt { key: String, reason: &'static str },
}

impl ReadError {
    pub(crate) fn stopped(ended: &JoinError) -> Self {
        Self::Unavailable(format!("broker is stopping: {ended}"))
    }
}

impl Tier {
    /// At least one batch, and then whole ones up to `max_bytes`.
    pub async fn read(
        &self,
        partition: TierPartition,
        pointer: &TierPointer,
        from: Offset,
        max_bytes: usize,
        cursor: CursorId,
    ) -> Result<TierSlice, ReadError> {
        let inner = &self.inner;
        let out_of_range = ReadError::OutOfRange {
            offset: from,
            start: pointer.start,
            end: pointer.end,
        };
        if from < pointer.start || from >= pointer.end {
            return Err(out_of_range);
        }
        let manifest = match inner.manifests.ready(&pointer.manifest_key) {
            Some(manifest) => manifest,
            None => self.manifest(partition, pointer).await?,
        };
        let place = locate(&manifest, from).ok_or(out_of_range)?;
        let taken = inner.cursors.take(cursor, partition, from);
        let taken = taken.unwrap_or_else(|| Cursor::new(inner.settings.window_chunks_max));
        let mut turn = Turn {
            inner,
            manifest: &manifest,
            partition,
            id: cursor,
            cursor: taken,
        };
        let slice = turn.read(&place, from, max_bytes).await?;
        turn.cursor.next = Some(slice.next_offset);
        inner.cursors.put(cursor, partition, turn.cursor);
        inner.served.reads.fetch_add(1, Relaxed);
        inner.served.bytes.fetch_add(slice.bytes() as u64, Relaxed);
        Ok(slice)
    }

    /// The consumers of closed connections will not come back: their windows may go now.
    pub fn forget_idle_cursors(&self) {
        let unread = self.inner.cursors.reclaim_idle(self.inner.settings.cursor_idle);
        self.inner.served.dropped_unread.fetch_add(unread as u64, Relaxed);
    }
}

/// One read of one cursor.
struct Turn<'a> {
    inner: &'a Arc<Inner>,
    manifest: &'a Manifest,
    partition: TierPartition,
    id: CursorId,
    cursor: Cursor,
}

impl Turn<'_> {
    async fn read(&mut self, place: &Place, from: Offset, max_bytes: usize) -> Result<TierSlice, ReadError> {
        let sequential = self.cursor.next == Some(from);
        if !sequential {
            self.forget_window(&place.at);
        }
        let window = self.chunk(place, sequential).await?;
        let mut slice = TierSlice {
            batches: Vec::new(),
            next_offset: from,
        };
        window.append(&mut slice, place, max_bytes)?;
        if window.is_chunk {
            self.append_what_is_ready(&mut slice, max_bytes)?;
        }
        Ok(slice)
    }

    /// The chunk that `place` lies in, or at least its block.
    async fn chunk(&mut self, place: &Place, sequential: bool) -> Result<Loaded, ReadError> {
        let key = place.at.key();
        if let Some(current) = self
            .cursor
            .current
            .as_ref()
            .filter(|current| current.holds(place))
        {
            let loaded = Loaded::of(current);
            if current.is_chunk() {
                self.read_ahead(&place.at);
            } else if sequential {
                self.fetch_whole(&place.at);
            }
            return Ok(loaded);
        }
        self.cursor.current = None;
        let fetch = match self.take_ahead(key) {
            Some(fetch) => fetch,
            None if !sequential && !self.inner.cache.likely(key) => return self.probe(place).await,
            None => match self.spend(&place.at) {
                Some(spent) => self.fetch(&place.at, Some(spent)),
                // The budget is used up by others who read: this one goes on in small steps.
                None => return self.probe(place).await,
            },
        };
        // The demanded chunk is on its way; only now may others follow it.
        self.cursor.window.sequential();
        self.read_ahead(&place.at);
        let held = fetch
            .await
            .unwrap_or_else(|ended| Err(ReadError::stopped(&ended)))?;
        Ok(self.keep(Current::chunk(place.at.clone(), held)))
    }

    /// One block: what a seek costs. Those who begin at the same place at the same time share it.
    async fn probe(&mut self, place: &Place) -> Result<Loaded, ReadError> {
        let blocks = place.block..place.block + 1;
        let held = self.inner.probes.join((place.at.key(), place.block), || {
            self.inner.served.probes.fetch_add(1, Relaxed);
            let (inner, at, partition) = (Arc::clone(self.inner), place.at.clone(), self.partition);
            let span = at.entry.span(blocks.clone());
            self.inner.runtime.spawn(async move {
                let spent = room(&inner, span.bytes()).await;
                let bytes = download(&inner, partition, &at, span).await?;
                Ok(Held { bytes, _spent: spent })
            })
        });
        let at = place.at.clone();
        let held = held.await?;
        Ok(self.keep(Current { at, blocks, held }))
    }

    fn keep(&mut self, current: Current) -> Loaded {
        let loaded = Loaded::of(&current);
        self.cursor.current = Some(current);
        loaded
    }

    /// It reads on from a small range: the chunk around it will be next.
    fn fetch_whole(&mut self, at: &ChunkAt) {
        if self.cursor.ahead.is_empty()
            && let Some(spent) = self.inner.budget.spend_ahead(at.bytes())
        {
            let fetch = self.fetch(at, Some(spent));
            self.cursor.ahead.push_back((at.clone(), fetch));
        }
    }

    fn append_what_is_ready(&mut self, slice: &mut TierSlice, max_bytes: usize) -> Result<(), ReadError> {
        while let Some((at, fetch)) = self.cursor.ahead.front()
            && fetch.is_finished()
            && self
                .cursor
                .current
                .as_ref()
                .is_some_and(|current| current.at.end() == slice.next_offset)
            && slice.bytes() < max_bytes
        {
            let at = at.clone();
            let Some((_, fetch)) = self.cursor.ahead.pop_front() else {
                break;
            };
            // What failed ahead of time is asked for again when its turn comes.
            let Some(Ok(Ok(held))) = futures::FutureExt::now_or_never(fetch) else {
                break;
            };
            let loaded = self.keep(Current::chunk(at.clone(), held));
            self.cursor.window.sequential();
            self.read_ahead(&at);
            let place = Place {
                block: loaded.blocks.start,
                at,
            };
            let before = slice.bytes();
            loaded.append(slice, &place, max_bytes - before)?;
            if slice.bytes() == before {
                break;
            }
        }
        Ok(())
    }

    /// Tops up the window behind `at`: what it may hold and the budget allows.
    fn read_ahead(&mut self, at: &ChunkAt) {
        while self.cursor.ahead.len() < self.cursor.window.ahead() as usize {
            let last = self.cursor.ahead.back().map_or(at, |(last, _)| last);
            let Some(following) = next(self.manifest, last) else {
                return;
            };
            let Some(spent) = self.inner.budget.spend_ahead(following.bytes()) else {
                let ready = u32::try_from(self.cursor.ahead.len()).unwrap_or(u32::MAX);
                self.cursor.window.starved(ready);
                return;
            };
            let fetch = self.fetch(&following, Some(spent));
            self.cursor.ahead.push_back((following, fetch));
        }
    }

    /// The fetch of `key` if it was begun ahead; those before it were skipped.
    fn take_ahead(&mut self, key: ChunkKey) -> Option<Fetch> {
        let found = self.cursor.ahead.iter().position(|(at, _)| at.key() == key)?;
        self.inner.served.dropped_unread.fetch_add(found as u64, Relaxed);
        self.cursor.ahead.drain(..found);
        self.cursor.ahead.pop_front().map(|(_, fetch)| fetch)
    }

    fn forget_window(&mut self, at: &ChunkAt) {
        // A consumer that repeats a read, or steps back a little, is not somewhere else.
        let near = self
            .cursor
            .current
            .as_ref()
            .is_some_and(|current| current.at.key() == at.key());
        if near {
            return;
        }
        let unread = self.cursor.ahead.len() as u64;
        self.inner.served.dropped_unread.fetch_add(unread, Relaxed);
        self.cursor.window.seek();
        self.cursor.current = None;
        self.cursor.ahead.clear();
    }

    /// Room for a chunk that is waited for.
    fn spend(&self, at: &ChunkAt) -> Option<Spent> {
        let bytes = at.bytes();
        let budget = &self.inner.budget;
        budget.spend(bytes).or_else(|| {
            let unread = self.inner.cursors.reclaim_one();
            self.inner.served.dropped_unread.fetch_add(unread as u64, Relaxed);
            budget.spend(bytes)
        })
    }

    fn fetch(&self, at: &ChunkAt, spent: Option<Spent>) -> Fetch {
        let (inner, partition, at) = (Arc::clone(self.inner), self.partition, at.clone());
        let idle = inner.settings.cursor_idle;
        let followed = inner
            .cursors
            .is_followed(self.id, partition, at.entry.base(), idle);
        self.inner.runtime.spawn(async move {
            let bytes = chunk_bytes(&inner, partition, &at, followed).await?;
            Ok(Held { bytes, _spent: spent })
        })
    }
}

/// Bytes of an entry, and which blocks they are.
struct Loaded {
    bytes: Bytes,
    /// Where they begin in the data.
    start: u64,
    is_chunk: bool,
    at: ChunkAt,
    blocks: Range<usize>,
}

impl Loaded {
    fn of(current: &Current) -> Self {
        let Current { at, blocks, held } = current;
        Self {
            bytes: held.bytes.clone(),
            start: at.entry.range(blocks.clone()).start,
            is_chunk: current.is_chunk(),
            at: at.clone(),
            blocks: blocks.clone(),
        }
    }

    /// Adds whole batches from `slice.next_offset` on; nothing if not even one fits and there is one already.
    fn append(&self, slice: &mut TierSlice, place: &Place, max_bytes: usize) -> Result<(), ReadError> {
        let begin = self.position(place.block);
        let run = self.bytes.slice(begin..);
        let at_least_one = slice.batches.is_empty();
        let cut = cut(&run, slice.next_offset, max_bytes, at_least_one, |position| {
            self.jump(begin, position)
        });
        let (range, next_offset) = cut.map_err(|reason| ReadError::Corrupt {
            key: self.at.key().to_string(),
            reason,
        })?;
        if !range.is_empty() {
            slice.batches.push(run.slice(range));
            slice.next_offset = next_offset;
        }
        Ok(())
    }

    fn position(&self, block: usize) -> usize {
        let block = self
            .at
            .entry
            .blocks
            .get(block)
            .map_or(self.at.entry.bytes, |block| block.position);
        usize::try_from(block.saturating_sub(self.start))
            .unwrap_or(usize::MAX)
            .min(self.bytes.len())
    }

    /// The last block boundary at or before `position` of the run that begins at `begin`: batches before it need
    /// not be looked at one by one.
    fn jump(&self, begin: usize, position: usize) -> Option<(usize, Offset)> {
        let blocks = &self.at.entry.blocks[self.blocks.clone()];
        let data = self.start + (begin + position) as u64;
        let index = blocks
            .partition_point(|block| block.position <= data)
            .checked_sub(1)?;
        let block = blocks[index];
        let boundary = usize::try_from(block.position.checked_sub(self.start)?)
            .ok()?
            .checked_sub(begin)?;
        Some((boundary, block.offset))
    }
}

/// The batches of `run` from the one that holds `from`, up to `max_bytes`, and the offset behind them.
fn cut(
    run: &Bytes,
    from: Offset,
    max_bytes: usize,
    at_least_one: bool,
    jump: impl Fn(usize) -> Option<(usize, Offset)>,
) -> Result<(Range<usize>, Offset), &'static str> {
    let mut start = 0;
    while frame(run, start)?.next <= from {
        start += frame(run, start)?.bytes;
        if start >= run.len() {
            return Err("offset is not in the block that has to hold it");
        }
    }
    let limit = start.saturating_add(max_bytes).min(run.len());
    let (mut end, mut next_offset) = match jump(limit) {
        Some((boundary, offset)) if boundary > start => (boundary, offset),
        _ => (start, from),
    };
    while end < run.len() {
        let batch = frame(run, end)?;
        let first = end == start && at_least_one;
        if end + batch.bytes > limit && !first {
            break;
        }
        end += batch.bytes;
        next_offset = batch.next;
    }
    Ok((start..end, next_offset))
}

struct Frame {
    bytes: usize,
    next: Offset,
}

/// Length and end of the batch at `at`. Its CRC is not looked at: the block it lies in has been verified.
fn frame(run: &Bytes, at: usize) -> Result<Frame, &'static str> {
    let header = run
        .get(at..)
        .and_then(|run| run.get(..varve_log::HEADER_BYTES))
        .ok_or("batch is cut short")?;
    let field = |range: Range<usize>| <[u8; 4]>::try_from(&header[range]).map(i32::from_be_bytes);
    let base = <[u8; 8]>::try_from(&header[..8]).map(i64::from_be_bytes);
    let (Ok(base), Ok(len), Ok(delta)) = (base, field(8..12), field(23..27)) else {
        return Err("batch is cut short");
    };
    let bytes = usize::try_from(len)
        .ok()
        .and_then(|len| len.checked_add(12))
        .ok_or("batch has a negative length")?;
    if bytes > run.len() - at || delta < 0 {
        return Err("batch is longer than its chunk");
    }
    Ok(Frame {
        bytes,
        next: Offset::new(base).plus(i64::from(delta) + 1),
    })
}

/// The chunk through the cache: one fetch for all who want it.
pub(crate) async fn chunk_bytes(
    inner: &Arc<Inner>,
    partition: TierPartition,
    at: &ChunkAt,
    followed: bool,
) -> Result<Bytes, ReadError> {
    let (key, span) = (at.key(), at.span());
    let cached = inner.cache.likely(key);
    let admit = if cached {
        Admit::Memory
    } else {
        inner.admission.lock().decide(key, followed)
    };
    let fetch = || {
        let (inner, at) = (Arc::clone(inner), at.clone());
        async move { download(&inner, partition, &at, span).await }
    };
    inner.cache.get(key, span.expect(), admit, fetch).await
}

/// Memory for a small range: sooner or later everybody gets so much.
async fn room(inner: &Inner, bytes: usize) -> Option<Spent> {
    if let Some(spent) = inner.budget.spend(bytes) {
        return Some(spent);
    }
    // One future for all rounds: it keeps its place among those who wait.
    let mut waiting = std::pin::pin!(inner.budget.wait(bytes));
    loop {
        let unread = inner.cursors.reclaim_one();
        inner.served.dropped_unread.fetch_add(unread as u64, Relaxed);
        // Cursors that are being read give nothing back now; a moment later they may.
        if let Ok(spent) = tokio::time::timeout(RECLAIM_INTERVAL, &mut waiting).await {
            return spent;
        }
    }
}

/// One ranged GET, and a second one if the first is late and the budget for that allows.
pub(crate) async fn download(
    inner: &Arc<Inner>,
    partition: TierPartition,
    at: &ChunkAt,
    span: Span,
) -> Result<Bytes, ReadError> {
    let key = inner.keys.segment(partition, at.entry.name);
    let begin = at.entry.position + span.start;
    let range = begin..begin + (span.end - span.start);
    let get = || {
        inner
            .store
            .get_range(Reason::ColdRead, &key, range.clone(), Some(span.crc))
    };
    // Small ranges take another time than chunks; only chunks make up the statistics and only they are hedged.
    if span.bytes() < 2 << 20 {
        return Ok(get().await?);
    }
    let began = Instant::now();
    let mut first = std::pin::pin!(get());
    let done: Result<Bytes, StoreError> = match inner.hedge.patience() {
        None => first.await,
        Some(patience) => match tokio::time::timeout(patience, &mut first).await {
            Ok(done) => done,
            Err(_late) if inner.hedge.take() => {
                let second = std::pin::pin!(get());
                match futures::future::select(first, second).await {
                    futures::future::Either::Left((Ok(bytes), _)) => Ok(bytes),
                    futures::future::Either::Right((Ok(bytes), _)) => Ok(bytes),
                    futures::future::Either::Left((Err(_), other)) => other.await,
                    futures::future::Either::Right((Err(_), other)) => other.await,
                }
            }
            Err(_late) => first.await,
        },
    };
    let bytes = done?;
    inner.hedge.took(began.elapsed());
    Ok(bytes)
}
