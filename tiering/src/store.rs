//! The object store, wrapped once: deadlines, retries, counters, and errors that say what may have happened.
//!
//! Reading, listing and deleting may be repeated and are, with a jittered back-off. Writing is tried once: who
//! writes gives every attempt a fresh name, so an attempt with an unknown outcome is left behind, never repeated.
//! Whole downloads are checked against the length and the CRC32C the caller knows. The clients below retry
//! nothing by themselves, so what is counted here is what went over the wire.

use crate::Chance;
use crate::object::low_half;
use crate::store_error::{Cause, CauseKind, Fault, StoreError, for_read, for_write, slow};
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt,
    PutPayload,
};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::timeout;
use varve_cache::BufferPool;

/// Why a request was made, as the metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Upload,
    Manifest,
    ColdRead,
    Table,
    Scrub,
    Probe,
}

impl Reason {
    pub const ALL: [Self; 6] = [
        Self::Upload,
        Self::Manifest,
        Self::ColdRead,
        Self::Table,
        Self::Scrub,
        Self::Probe,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Manifest => "manifest",
            Self::ColdRead => "cold_read",
            Self::Table => "table",
            Self::Scrub => "scrub",
            Self::Probe => "probe",
        }
    }
}

/// How long to wait, and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Until an answer begins.
    pub answer: Duration,
    /// Between two pieces of a body.
    pub stall: Duration,
    /// A transfer slower than this is given up.
    pub bytes_per_second_min: u64,
    pub attempts_max: u32,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(15),
            stall: Duration::from_secs(10),
            bytes_per_second_min: 256 * 1024,
            attempts_max: 5,
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

impl Patience {
    fn deadline(&self, bytes: u64) -> Duration {
        self.answer + Duration::from_secs(bytes / self.bytes_per_second_min.max(1))
    }

    /// Half of it fixed, half by chance: who failed together does not come back together.
    pub(crate) fn backoff(&self, attempt: u32, chance: u128) -> Duration {
        let full = self
            .backoff_first
            .saturating_mul(1 << attempt.min(16))
            .min(self.backoff_max);
        let share = u32::try_from(chance % 1024).unwrap_or(0);
        full / 2 + full * share / 2048
    }
}

/// Requests made for one reason since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    pub puts: u64,
    pub gets: u64,
    pub heads: u64,
    pub deletes: u64,
    pub lists: u64,
    pub failed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    deletes: AtomicU64,
    lists: AtomicU64,
    failed: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// A cheap handle; clones share counters and connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    prefix: String,
    patience: Patience,
    counters: [Counters; Reason::ALL.len()],
    buffers: BufferPool,
    chance: Chance,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("objects", &self.inner.objects)
            .field("prefix", &self.inner.prefix)
            .finish()
    }
}

impl Store {
    /// `prefix` goes before every key; empty for none.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str, patience: Patience, chance: Chance) -> Self {
        // A chunk and half a chunk is the longest that is usual; eight idle ones are a window.
        let chunk = usize::try_from(varve_cache::CHUNK_BYTES).unwrap_or(8 << 20);
        let buffers = BufferPool::new(8, chunk + chunk / 8);
        let prefix = prefix.trim_matches('/').to_owned();
        let counters = std::array::from_fn(|_| Counters::default());
        Self {
            inner: Arc::new(Inner {
                objects,
                prefix,
                patience,
                counters,
                buffers,
                chance,
            }),
        }
    }

    pub fn requests(&self, reason: Reason) -> Requests {
        let counters = self.counters(reason);
        Requests {
            puts: counters.puts.load(Relaxed),
            gets: counters.gets.load(Relaxed),
            heads: counters.heads.load(Relaxed),
            deletes: counters.deletes.load(Relaxed),
            lists: counters.lists.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            bytes_sent: counters.bytes_sent.load(Relaxed),
            bytes_received: counters.bytes_received.load(Relaxed),
        }
    }

    pub async fn put(&self, reason: Reason, key: &str, payload: PutPayload) -> Result<(), StoreError> {
        let counters = self.counters(reason);
        let bytes = payload.content_length() as u64;
        counters.puts.fetch_add(1, Relaxed);
        counters.bytes_sent.fetch_add(bytes, Relaxed);
        let path = self.path(key);
        let put = self.inner.objects.put(&path, payload);
        let done = self.within(bytes, put).await.map(drop);
        self.noted(reason, done.map_err(|error| for_write(key, error)))
    }

    /// An upload in parts: for what should not be in memory all at once.
    pub async fn put_parts(&self, reason: Reason, key: &str) -> Result<Parts, StoreError> {
        self.counters(reason).puts.fetch_add(1, Relaxed);
        let path = self.path(key);
        let begun = self.within(0, self.inner.objects.put_multipart(&path)).await;
        let upload = self.noted(reason, begun.map_err(|error| for_write(key, error)))?;
        Ok(Parts {
            store: self.clone(),
            reason,
            key: key.to_owned(),
            upload: Some(upload),
        })
    }

    /// The whole object.
    pub async fn get(&self, reason: Reason, key: &str) -> Result<Bytes, StoreError> {
        self.retrying(|| self.get_once(reason, key, None, None)).await
    }

    /// Exactly `range`, with this CRC32C if one is given.
    pub async fn get_range(
        &self,
        reason: Reason,
        key: &str,
        range: Range<u64>,
        crc: Option<u32>,
    ) -> Result<Bytes, StoreError> {
        let got = self
            .retrying(|| self.get_once(reason, key, Some(range.clone()), crc))
            .await;
        // Once more: what was damaged on the way may arrive whole. What is damaged where it lies will not.
        match got {
            Err(StoreError::Corrupt { .. }) => self.get_once(reason, key, Some(range), crc).await,
            other => other,
        }
    }

    /// The size of the object.
    pub async fn head(&self, reason: Reason, key: &str) -> Result<u64, StoreError> {
        let path = self.path(key);
        self.retrying(|| async {
            self.counters(reason).heads.fetch_add(1, Relaxed);
            let meta = self.within(0, self.inner.objects.head(&path)).await;
            self.noted(
                reason,
                meta.map(|meta| meta.size).map_err(|error| for_read(key, error)),
            )
        })
        .await
    }

    /// Afterwards the object is not there; if it was not before, that is fine too.
    pub async fn delete(&self, reason: Reason, key: &str) -> Result<(), StoreError> {
        let path = self.path(key);
        self.retrying(|| async {
            self.counters(reason).deletes.fetch_add(1, Relaxed);
            match self.within(0, self.inner.objects.delete(&path)).await {
                Err(Fault::Store(object_store::Error::NotFound { .. })) | Ok(()) => Ok(()),
                Err(error) => self.noted(reason, Err(for_read(key, error))),
            }
        })
        .await
    }

    /// Everything below `way`, in no order.
    pub async fn list(&self, reason: Reason, way: &str) -> Result<Vec<Listed>, StoreError> {
        let path = self.path(way);
        self.retrying(|| async {
            self.counters(reason).lists.fetch_add(1, Relaxed);
            let mut listing = self.inner.objects.list(Some(&path));
            let mut listed = Vec::new();
            loop {
                let next = timeout(self.inner.patience.answer, listing.next()).await;
                let error = match next {
                    Ok(None) => return Ok(listed),
                    Ok(Some(Ok(meta))) => {
                        let key = self.key(&meta.location);
                        listed.push(Listed {
                            key,
                            bytes: meta.size,
                        });
                        continue;
                    }
                    Ok(Some(Err(error))) => Fault::Store(error),
                    Err(_) => Fault::Slow,
                };
                return self.noted(reason, Err(for_read(way, error)));
            }
        })
        .await
    }

    /// The bucket for code that speaks object_store: keys relative to the prefix, requests counted under `reason`.
    pub fn object_store(&self, reason: Reason) -> Arc<dyn ObjectStore> {
        Arc::new(crate::plain::Plain::new(self.clone(), reason))
    }

    async fn get_once(
        &self,
        reason: Reason,
        key: &str,
        range: Option<Range<u64>>,
        crc: Option<u32>,
    ) -> Result<Bytes, StoreError> {
        let counters = self.counters(reason);
        counters.gets.fetch_add(1, Relaxed);
        let path = self.path(key);
        let options = GetOptions::new().with_range(range.clone().map(GetRange::Bounded));
        let wanted = range.as_ref().map_or(0, |range| range.end - range.start);
        let patience = &self.inner.patience;
        let work = async {
            let answer = timeout(patience.answer, self.inner.objects.get_opts(&path, options));
            let answer = answer.await.unwrap_or_else(|_| Err(slow()));
            let answer = answer.map_err(|error| for_read(key, Fault::Store(error)))?;
            self.collect(key, answer, crc).await
        };
        let deadline = patience.answer + patience.deadline(wanted.max(varve_cache::CHUNK_BYTES));
        let got = timeout(deadline, work)
            .await
            .unwrap_or_else(|_| Err(for_read(key, Fault::Slow)));
        let bytes = self.noted(reason, got)?;
        counters.bytes_received.fetch_add(bytes.len() as u64, Relaxed);
        // A range over the end of an object is answered with less, and without an error.
        if range.is_some() && bytes.len() as u64 != wanted {
            return Err(StoreError::Corrupt {
                key: key.to_owned(),
                reason: "object is shorter than its manifest says",
            });
        }
        Ok(bytes)
    }

    /// One copy from the socket's frames into one buffer, hashed while it is still warm.
    async fn collect(&self, key: &str, answer: GetResult, crc: Option<u32>) -> Result<Bytes, StoreError> {
        let len = answer.range.end - answer.range.start;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let corrupt = |reason| StoreError::Corrupt {
            key: key.to_owned(),
            reason,
        };
        let bytes = match answer.payload {
            GetResultPayload::File(..) => {
                let bytes = answer
                    .bytes()
                    .await
                    .map_err(|error| for_read(key, Fault::Store(error)))?;
                digest.update(&bytes);
                bytes
            }
            GetResultPayload::Stream(mut frames) => {
                let len = usize::try_from(len).map_err(|_too_large| corrupt("object is too large"))?;
                let mut buffer = self.inner.buffers.take(len);
                loop {
                    let frame = timeout(self.inner.patience.stall, frames.try_next()).await;
                    let frame = frame.unwrap_or_else(|_| Err(slow()));
                    let Some(frame) = frame.map_err(|error| for_read(key, Fault::Store(error)))? else {
                        break;
                    };
                    if buffer.len() + frame.len() > len {
                        return Err(corrupt("more came than was asked for"));
                    }
                    digest.update(&frame);
                    buffer.extend(&frame);
                }
                buffer.freeze()
            }
        };
        if (bytes.len() as u64) < len {
            let text = format!(
                "body ended early. key={key}, bytes={}, expected={len}",
                bytes.len()
            );
            return Err(StoreError::NotApplied(Cause {
                kind: CauseKind::Busy,
                code: None,
                text,
            }));
        }
        match crc {
            Some(crc) if low_half(digest.finalize()) != crc => {
                Err(corrupt("downloaded bytes fail their checksum"))
            }
            _ => Ok(bytes),
        }
    }

    async fn retrying<T, F, Fut>(&self, attempt: F) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let mut tried = 0;
        loop {
            let error = match attempt().await {
                Err(StoreError::NotApplied(cause)) => cause,
                other => return other,
            };
            tried += 1;
            let hopeless = matches!(error.kind, CauseKind::Refused | CauseKind::Other);
            if hopeless || tried >= self.inner.patience.attempts_max {
                return Err(StoreError::NotApplied(error));
            }
            tokio::time::sleep(self.backoff(tried)).await;
        }
    }

    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        self.inner.patience.backoff(attempt, (self.inner.chance)())
    }

    async fn within<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Fault> {
        match timeout(self.inner.patience.deadline(bytes), work).await {
            Ok(done) => done.map_err(Fault::Store),
            Err(_) => Err(Fault::Slow),
        }
    }

    fn noted<T>(&self, reason: Reason, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.is_err() {
            self.counters(reason).failed.fetch_add(1, Relaxed);
        }
        outcome
    }

    fn counters(&self, reason: Reason) -> &Counters {
        &self.inner.counters[reason as usize]
    }

    pub(crate) fn count_put(&self, reason: Reason, bytes: usize) {
        self.counters(reason).puts.fetch_add(1, Relaxed);
        self.counters(reason).bytes_sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn count_get(&self, reason: Reason) {
        self.counters(reason).gets.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_head(&self, reason: Reason) {
        self.counters(reason).heads.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_list(&self, reason: Reason) {
        self.counters(reason).lists.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_delete(&self, reason: Reason) {
        self.counters(reason).deletes.fetch_add(1, Relaxed);
    }

    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.objects
    }

    pub(crate) fn path(&self, key: &str) -> Path {
        if self.inner.prefix.is_empty() {
            Path::from(key)
        } else {
            Path::from(format!("{}/{key}", self.inner.prefix))
        }
    }

    /// The key of a path that [`Self::path`] made.
    pub(crate) fn key(&self, path: &Path) -> String {
        let full = path.as_ref();
        let key = full.strip_prefix(self.inner.prefix.as_str()).unwrap_or(full);
        key.trim_start_matches('/').to_owned()
    }
}

/// An upload in parts. Ended by [`Self::complete`] or [`Self::abort`]; one that is only dropped is aborted in the
/// background, and what that misses is the bucket's lifecycle rule's.
pub struct Parts {
    store: Store,
    reason: Reason,
    key: String,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl Parts {
    /// Every part but the last must have the same size, and at least 5 MiB.
    pub async fn put(&mut self, payload: PutPayload) -> Result<(), StoreError> {
        let Some(upload) = self.upload.as_mut() else {
            return Err(self.ended());
        };
        let bytes = payload.content_length() as u64;
        let counters = self.store.counters(self.reason);
        counters.puts.fetch_add(1, Relaxed);
        counters.bytes_sent.fetch_add(bytes, Relaxed);
        let done = self.store.within(bytes, upload.put_part(payload)).await;
        self.store
            .noted(self.reason, done.map_err(|error| for_write(&self.key, error)))
    }

    pub async fn complete(mut self) -> Result<(), StoreError> {
        let Some(mut upload) = self.upload.take() else {
            return Err(self.ended());
        };
        self.store.counters(self.reason).puts.fetch_add(1, Relaxed);
        let done = self.store.within(0, upload.complete()).await.map(drop);
        self.store
            .noted(self.reason, done.map_err(|error| for_write(&self.key, error)))
    }

    /// Best effort: what stays is invisible and the lifecycle rule's.
    pub async fn abort(mut self) {
        if let Some(upload) = self.upload.take() {
            abort(&self.store, self.reason, &self.key, upload).await;
        }
    }

    fn ended(&self) -> StoreError {
        let text = format!("upload in parts has ended. key={}", self.key);
        StoreError::NotApplied(Cause {
            kind: CauseKind::Other,
            code: None,
            text,
        })
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        // Interrupted, by the end of a leadership say.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, reason, key) = (self.store.clone(), self.reason, std::mem::take(&mut self.key));
        runtime.spawn(async move { abort(&store, reason, &key, upload).await });
    }
}

async fn abort(store: &Store, reason: Reason, key: &str, mut upload: Box<dyn MultipartUpload>) {
    store.count_delete(reason);
    if let Err(fault) = store.within(0, upload.abort()).await {
        tracing::debug!(
            "parts of an upload stay behind. key={key}, cause={}",
            fault.text()
        );
    }
}
