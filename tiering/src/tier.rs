//! One broker's tier: what its parts share. What it does is in `uploader`, `reader`, `timestamps` and `collector`.

use crate::commit::MetadataError;
use crate::cursors::Cursors;
use crate::files::FileThreads;
use crate::hedge::Hedge;
use crate::keys::Keys;
use crate::manifest::Manifest;
use crate::manifests::Manifests;
use crate::object::Sections;
use crate::probes::Probes;
use crate::reader::ReadError;
use crate::store::{Reason, Store};
use crate::store_error::StoreError;
use crate::{Chance, TierPartition};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use uuid::Uuid;
use varve_cache::{Admission, Budget, Cache, Window};
use varve_cluster::controller::TierPointer;
use varve_log::Offset;

#[derive(Debug, Clone)]
pub struct Settings {
    pub cluster_id: String,
    /// What all cursors together may have on the way or waiting to be read.
    pub read_budget_bytes: usize,
    pub window_chunks_max: u32,
    /// A cursor that was not read for so long gives its window back.
    pub cursor_idle: Duration,
    pub cursors_max: usize,
    pub manifest_cache_bytes: usize,
    /// Segments of one partition on the way at once.
    pub uploads_parallel: usize,
    /// What all uploads of the broker together may hold in memory.
    pub upload_budget_bytes: usize,
    /// Larger segments go up in parts.
    pub single_put_bytes_max: u64,
    pub part_bytes: usize,
    /// Within one call; the caller comes back with its own pace.
    pub upload_attempts_max: u32,
    pub file_threads: usize,
    /// How much a batch may unfold to when a time is looked for inside it.
    pub decompressed_bytes_max: usize,
}

impl Settings {
    pub fn new(cluster_id: &str) -> Self {
        Self {
            cluster_id: cluster_id.to_owned(),
            read_budget_bytes: 256 << 20,
            window_chunks_max: Window::MAX_CHUNKS,
            cursor_idle: Duration::from_secs(30),
            cursors_max: 4096,
            manifest_cache_bytes: 64 << 20,
            uploads_parallel: 2,
            upload_budget_bytes: 136 << 20,
            single_put_bytes_max: 64 << 20,
            part_bytes: 32 << 20,
            upload_attempts_max: 6,
            file_threads: 2,
            decompressed_bytes_max: 128 << 20,
        }
    }
}

/// A cheap handle; clones are the same tier.
#[derive(Debug, Clone)]
pub struct Tier {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) keys: Keys,
    pub(crate) store: Store,
    pub(crate) cache: Arc<Cache>,
    pub(crate) admission: Mutex<Admission>,
    pub(crate) budget: Budget,
    pub(crate) cursors: Cursors,
    pub(crate) probes: Probes,
    pub(crate) manifests: Manifests,
    pub(crate) hedge: Hedge,
    pub(crate) files: FileThreads,
    pub(crate) upload_budget: Arc<Semaphore>,
    pub(crate) partitions: Mutex<HashMap<TierPartition, Arc<tokio::sync::Mutex<()>>>>,
    /// Attempts that are under way, or whose commit may yet be accepted: no collector touches their objects.
    pub(crate) in_flight: Mutex<HashSet<Uuid>>,
    pub(crate) chance: Chance,
    pub(crate) runtime: Handle,
    pub(crate) served: Served,
}

#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) bytes: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) probes: AtomicU64,
    pub(crate) dropped_unread: AtomicU64,
}

/// What reading from the tier has come to since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadStats {
    pub reads: u64,
    pub bytes_served: u64,
    /// First reads after a seek that were answered by one small range.
    pub probes: u64,
    /// Chunks read ahead that nobody came for.
    pub dropped_unread: u64,
    /// Second requests for what was late.
    pub hedged: u64,
    pub budget_used_bytes: u64,
    pub cursors: u64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tier")
            .field("store", &self.store)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Tier {
    /// All requests run on `runtime`, whichever runtime asks: connections must not die with a caller's.
    pub fn new(
        settings: Settings,
        store: Store,
        cache: Arc<Cache>,
        runtime: Handle,
        chance: Chance,
    ) -> std::io::Result<Self> {
        let inner = Inner {
            keys: Keys::new(&settings.cluster_id),
            manifests: Manifests::new(store.clone(), settings.manifest_cache_bytes),
            budget: Budget::new(settings.read_budget_bytes),
            cursors: Cursors::new(settings.cursors_max),
            probes: Probes::default(),
            admission: Mutex::new(Admission::new(Admission::KEYS_MAX)),
            hedge: Hedge::default(),
            files: FileThreads::start(settings.file_threads.max(1))?,
            upload_budget: Arc::new(Semaphore::new(settings.upload_budget_bytes / UPLOAD_UNIT)),
            partitions: Mutex::default(),
            in_flight: Mutex::default(),
            served: Served::default(),
            settings,
            store,
            cache,
            chance,
            runtime,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    /// The entries of the committed manifest, for retention and for showing them.
    pub async fn manifest(
        &self,
        partition: TierPartition,
        pointer: &TierPointer,
    ) -> Result<Arc<Manifest>, ReadError> {
        let (inner, pointer) = (Arc::clone(&self.inner), pointer.clone());
        let work = async move { Ok(inner.manifests.get(partition, &pointer).await?) };
        self.on_runtime(work).await
    }

    /// What stands behind the data of the last object of a partition: where it ends, and the sections with the
    /// producers and leader epochs as of there. A log that begins where the bucket ends begins with them.
    pub async fn last_sections(
        &self,
        partition: TierPartition,
        pointer: &TierPointer,
    ) -> Result<Option<(Offset, Sections)>, ReadError> {
        let (inner, pointer) = (Arc::clone(&self.inner), pointer.clone());
        let work = async move {
            let manifest = inner.manifests.get(partition, &pointer).await?;
            let Some(last) = manifest.entries.last() else {
                return Ok(None);
            };
            let key = inner.keys.segment(partition, last.name);
            let tail = last.position + last.bytes..last.object_bytes;
            let bytes = inner.store.get_range(Reason::ColdRead, &key, tail, None).await?;
            let sections = Sections::decode(&bytes, last.object_bytes)
                .map_err(|reason| ReadError::Corrupt { key, reason })?;
            Ok(Some((last.end(), sections)))
        };
        self.on_runtime(work).await
    }

    pub fn read_stats(&self) -> ReadStats {
        let served = &self.inner.served;
        ReadStats {
            reads: served.reads.load(Relaxed),
            bytes_served: served.bytes.load(Relaxed),
            probes: served.probes.load(Relaxed),
            dropped_unread: served.dropped_unread.load(Relaxed),
            hedged: self.inner.hedge.hedged(),
            budget_used_bytes: self.inner.budget.used_bytes() as u64,
            cursors: self.inner.cursors.len() as u64,
        }
    }

    /// Runs `work` where connections live.
    pub(crate) async fn on_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ReadError>> + Send + 'static,
    ) -> Result<T, ReadError> {
        let done = self.inner.runtime.spawn(work).await;
        done.unwrap_or_else(|ended| Err(ReadError::stopped(&ended)))
    }
}

/// Upload memory is counted in KiB.
pub(crate) const UPLOAD_UNIT: usize = 1024;

impl Inner {
    pub(crate) fn attempt(&self) -> Uuid {
        // Version and variant bits as RFC 9562 wants them: tools that show it recognise it.
        uuid::Builder::from_random_bytes((self.chance)().to_be_bytes()).into_uuid()
    }

    /// One change to a partition's tier at a time.
    pub(crate) fn partition_lock(&self, partition: TierPartition) -> Arc<tokio::sync::Mutex<()>> {
        let mut partitions = self.partitions.lock();
        // Locks nobody holds are only in the way.
        if partitions.len() > 10_000 {
            partitions.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(partitions.entry(partition).or_default())
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotApplied(cause) | StoreError::Unknown(cause) => {
                Self::Unavailable(cause.to_string())
            }
            StoreError::Missing { key } => Self::Missing { key },
            StoreError::Corrupt { key, reason } => Self::Corrupt { key, reason },
        }
    }
}

impl From<MetadataError> for ReadError {
    fn from(error: MetadataError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
