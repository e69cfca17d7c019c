//! The cache itself: memory, and a disk if it was given one, with one fetch per chunk however many ask for it.
//!
//! It promises that what it returns has the length and the CRC the caller expects, and leaves the fetching, and the
//! checking of what was fetched, to the caller's future. The disk is only ever a saving: if it cannot be read, or
//! holds something else, the chunk is fetched. Nothing on it is synced; a restart finds what survived.

use crate::admission::Admit;
use crate::chunk::ChunkKey;
use crate::entry::{ENTRY_BYTES_MAX, Entry, StoredKey};
use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, Hint, HybridCache, HybridCacheBuilder,
    HybridCachePolicy, HybridCacheProperties, Location, LruConfig, PsyncIoEngineConfig, RecoverMode, Source,
    Spawner,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::runtime::Handle;

/// An entry must fit one block of the disk store; chunks reach 12 MiB, more where single batches are larger.
const DISK_BLOCK_BYTES: usize = 16 << 20;
const DISK_ENTRY_MAX: usize = DISK_BLOCK_BYTES - (64 << 10);
/// Writes waiting for the disk beyond this are dropped without an error, which for a cache is right. The default
/// of 16 MiB would be two chunks.
const DISK_QUEUE_BYTES: usize = 128 << 20;
const DISK_BUFFER_BYTES: usize = 64 << 20;
/// Fewer blocks than this and the store below has nothing left to recycle.
const DISK_BYTES_MIN: usize = 8 * DISK_BLOCK_BYTES;
/// Each shard must hold several chunks, or one chunk evicts everything else in it.
const SHARD_BYTES: usize = 256 << 20;
const BAD_KEYS_MAX: usize = 4096;
/// Changes with the format of what is stored. Another one in the directory means: start empty.
const FORMAT: &str = "varve-cache 1 foyer-0.22\n";

#[derive(Debug, Clone)]
pub struct Settings {
    pub memory_bytes: usize,
    /// 0: memory only.
    pub disk_bytes: usize,
    /// Ours alone: it is emptied when its format is another one.
    pub dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "cache directory cannot be used; check that it is a directory this user may write to. dir={dir}, cause={cause}"
    )]
    Directory { dir: PathBuf, cause: std::io::Error },
    #[error("cache on disk is too small; give at least {DISK_BYTES_MIN} bytes, or 0 for none. bytes={0}")]
    TooSmall(usize),
    #[error("cache cannot be opened. dir={dir}, cause={cause}")]
    Store { dir: PathBuf, cause: String },
}

/// What the caller knows of the chunk from elsewhere (the manifest): the cache is never asked to vouch for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expect {
    pub bytes: usize,
    pub crc: u32,
}

/// Counted since the cache was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub hits_memory: u64,
    pub hits_disk: u64,
    pub fetched: u64,
    /// Entries that were not what they had to be, and were answered as misses.
    pub bad: u64,
    /// The store below failed to answer; the chunk was fetched around it.
    pub store_errors: u64,
    pub memory_bytes: u64,
    pub disk_written_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits_memory: AtomicU64,
    hits_disk: AtomicU64,
    fetched: AtomicU64,
    bad: AtomicU64,
    store_errors: AtomicU64,
}

#[derive(Debug)]
pub struct Cache {
    chunks: HybridCache<StoredKey, Entry>,
    generations: Mutex<HashMap<ChunkKey, u32>>,
    counters: Arc<Counters>,
    on_disk: bool,
}

impl Cache {
    /// Fetches run on `runtime`, so one that was begun is finished for the others when its first caller goes away.
    pub async fn open(settings: &Settings, runtime: &Handle) -> Result<Self, OpenError> {
        let shards = (settings.memory_bytes / SHARD_BYTES).clamp(1, 16);
        let builder = HybridCacheBuilder::new()
            .with_name("varve")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .with_flush_on_close(false)
            .memory(settings.memory_bytes)
            .with_shards(shards)
            // Chunks of one-pass scans come with a low hint and may never take more than half of the memory
            // from those that were asked for twice.
            .with_eviction_config(LruConfig {
                high_priority_pool_ratio: 0.5,
            })
            .with_weighter(|_: &StoredKey, entry: &Entry| 128 + entry.bytes.len())
            .storage();
        let builder = builder.with_spawner(Spawner::from(runtime.clone()));
        let builder = if settings.disk_bytes == 0 {
            builder
        } else {
            let device = device(settings)?;
            builder
                .with_engine_config(
                    BlockEngineConfig::new(device)
                        .with_block_size(DISK_BLOCK_BYTES)
                        .with_flushers(1)
                        .with_buffer_pool_size(DISK_BUFFER_BYTES)
                        .with_submit_queue_size_threshold(DISK_QUEUE_BYTES),
                )
                .with_io_engine_config(PsyncIoEngineConfig::new())
                .with_recover_mode(RecoverMode::Quiet)
        };
        let chunks = builder.build().await.map_err(|error| OpenError::Store {
            dir: settings.dir.clone(),
            cause: error.to_string(),
        })?;
        let generations = Mutex::new(HashMap::new());
        Ok(Self {
            chunks,
            generations,
            counters: Arc::default(),
            on_disk: settings.disk_bytes > 0,
        })
    }

    /// The chunk, from wherever it is nearest. `fetch` must return exactly what `expect` says (it is the one that
    /// checks what came over the network) and may be called again if what was cached turns out bad.
    pub async fn get<E, F, Fut>(
        &self,
        key: ChunkKey,
        expect: Expect,
        admit: Admit,
        fetch: F,
    ) -> Result<Bytes, E>
    where
        E: std::error::Error + Clone + Send + Sync + 'static,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Bytes, E>> + Send + 'static,
    {
        let properties = self.placement(expect, admit);
        // The second turn is for an entry that was bad in the first.
        for _ in 0..2 {
            let Some(stored) = self.stored_key(key) else { break };
            let (fetched, properties) = (fetch(), properties.clone());
            let counters = Arc::clone(&self.counters);
            let load = async move {
                counters.fetched.fetch_add(1, Relaxed);
                let bytes = fetched.await?;
                Ok::<_, E>((
                    Entry {
                        key,
                        crc: expect.crc,
                        bytes,
                    },
                    properties,
                ))
            };
            match self.chunks.get_or_fetch(&stored, move || load).await {
                Ok(found) => {
                    let entry = found.value();
                    if self.accept(key, expect, entry, found.source()) {
                        return Ok(entry.bytes.clone());
                    }
                }
                Err(error) => {
                    if let Some(cause) = error.downcast_ref::<E>() {
                        return Err(cause.clone());
                    }
                    self.counters.store_errors.fetch_add(1, Relaxed);
                    tracing::debug!("cache did not answer, fetching around it. key={key}, cause={error}");
                    break;
                }
            }
        }
        self.counters.fetched.fetch_add(1, Relaxed);
        fetch().await
    }

    /// The chunk if it is in memory now. Never waits and never fetches.
    pub fn peek(&self, key: ChunkKey, expect: Expect) -> Option<Bytes> {
        let stored = self.stored_key(key)?;
        let found = self.chunks.memory().get(&stored)?;
        let entry = found.value();
        self.accept(key, expect, entry, Source::Memory)
            .then(|| entry.bytes.clone())
    }

    /// Whether the chunk is likely to be answered without a fetch (the disk's index may hold a false positive).
    pub fn likely(&self, key: ChunkKey) -> bool {
        self.stored_key(key)
            .is_some_and(|stored| self.chunks.contains(&stored))
    }

    pub fn stats(&self) -> Stats {
        Stats {
            hits_memory: self.counters.hits_memory.load(Relaxed),
            hits_disk: self.counters.hits_disk.load(Relaxed),
            fetched: self.counters.fetched.load(Relaxed),
            bad: self.counters.bad.load(Relaxed),
            store_errors: self.counters.store_errors.load(Relaxed),
            memory_bytes: self.chunks.memory().usage() as u64,
            disk_written_bytes: self.chunks.statistics().disk_write_bytes() as u64,
        }
    }

    /// Waits until what was admitted to the disk has reached it.
    pub async fn settle(&self) {
        self.chunks.storage().wait().await;
    }

    pub async fn close(&self) -> Result<(), String> {
        self.chunks.close().await.map_err(|error| error.to_string())
    }

    fn placement(&self, expect: Expect, admit: Admit) -> HybridCacheProperties {
        let properties = HybridCacheProperties::default();
        match admit {
            Admit::MemoryAndDisk if self.on_disk && expect.bytes <= DISK_ENTRY_MAX => properties,
            Admit::MemoryAndDisk => properties.with_location(Location::InMem),
            Admit::Memory => properties.with_location(Location::InMem).with_hint(Hint::Low),
        }
    }

    /// `None`: this key was bad and there is no room left to remember under which generation it is good again.
    fn stored_key(&self, key: ChunkKey) -> Option<StoredKey> {
        let generation = self.generations.lock().get(&key).copied().unwrap_or(0);
        (generation < u32::MAX).then_some(StoredKey { key, generation })
    }

    fn accept(&self, key: ChunkKey, expect: Expect, entry: &Entry, source: Source) -> bool {
        // What was fetched just now has been checked by the one who fetched it.
        let good = entry.key == key
            && entry.crc == expect.crc
            && entry.bytes.len() == expect.bytes
            && (source == Source::Outer || crc_fast::crc32_iscsi(&entry.bytes) == expect.crc);
        if good {
            match source {
                Source::Outer => 0,
                Source::Memory => self.counters.hits_memory.fetch_add(1, Relaxed),
                Source::Disk => self.counters.hits_disk.fetch_add(1, Relaxed),
            };
        } else {
            self.counters.bad.fetch_add(1, Relaxed);
            tracing::warn!("cache entry is not what it has to be, fetching it again. key={key}");
            self.abandon(key);
        }
        good
    }

    fn abandon(&self, key: ChunkKey) {
        let mut generations = self.generations.lock();
        // A full table would mean thousands of bad entries: a broken disk. Forgetting all of them only costs
        // that each is found bad once more.
        if generations.len() >= BAD_KEYS_MAX {
            generations.clear();
        }
        let generation = generations.entry(key).or_insert(0);
        *generation = generation.saturating_add(1);
    }
}

fn device(settings: &Settings) -> Result<Arc<dyn foyer::Device>, OpenError> {
    if settings.disk_bytes < DISK_BYTES_MIN {
        return Err(OpenError::TooSmall(settings.disk_bytes));
    }
    const { assert!(ENTRY_BYTES_MAX >= DISK_ENTRY_MAX) };
    let dir = settings.dir.as_path();
    prepare(dir).map_err(|cause| OpenError::Directory {
        dir: dir.to_owned(),
        cause,
    })?;
    FsDeviceBuilder::new(dir.join("chunks"))
        .with_capacity(settings.disk_bytes)
        .build()
        .map_err(|error| OpenError::Store {
            dir: dir.to_owned(),
            cause: error.to_string(),
        })
}

/// An old format is not converted: all of it can be fetched again.
fn prepare(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let marker = dir.join("format");
    if std::fs::read_to_string(&marker).is_ok_and(|format| format == FORMAT) {
        return Ok(());
    }
    let chunks = dir.join("chunks");
    if chunks.exists() {
        std::fs::remove_dir_all(&chunks)?;
    }
    std::fs::write(&marker, FORMAT)
}
