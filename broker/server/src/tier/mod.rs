//! This broker's bucket: what goes out (`uploads`), what comes back (here), and what the quorum says of both
//! (`metadata`).

mod cold_read;
mod collect;
mod metadata;
mod uploads;

pub(crate) use cold_read::ColdRead;

use crate::broker::Broker;
use crate::config::{BucketSettings, Config};
use crate::partition::{Partition, PartitionId};
use crate::wire::ErrorCode;
use anyhow::Context as _;
use cold_read::Kept;
use metadata::QuorumTier;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;
use varve_cache::Cache;
use varve_cluster::controller::TierPointer;
use varve_log::{EpochChain, Offset, Producers, Timestamp};
use varve_tiering::retention::Extent;
use varve_tiering::{
    BucketConfig, Chance, CursorId, Patience, ReadError, Reason, Settings, Store, TierPartition,
};

/// See the module's first lines.
#[derive(Debug)]
pub(crate) struct Tier {
    tier: varve_tiering::Tier,
    root_uri: String,
    background: Handle,
    kept: Kept,
}

/// Requests of one verb for one reason, since the start.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) verb: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

/// Logged here, once; every one of them is worth another try to a client, and none is the end of the data.
fn told(partition: &Partition, pointer: &TierPointer, offset: Offset, error: &ReadError) -> ErrorCode {
    let (id, offset) = (&partition.id, offset.value());
    match error {
        // The pointer has moved on under this read.
        ReadError::OutOfRange { .. } => {}
        ReadError::Unavailable(_) => {
            tracing::warn!(partition = %id, offset, %error, "a cold read waits for the bucket")
        }
        // A newer manifest may well do without the object: whoever asks again reads by that one.
        ReadError::Missing { .. } if partition.tier().as_ref() != Some(pointer) => {
            tracing::debug!(partition = %id, offset, %error, "the bucket moved on under a cold read")
        }
        ReadError::Missing { .. } | ReadError::Corrupt { .. } => {
            tracing::error!(partition = %id, offset, %error, "committed data in the bucket cannot be read: restore the object");
        }
    }
    ErrorCode::KafkaStorageError
}

impl Tier {
    /// Opens the bucket, if one is configured, and proves that it can be used.
    pub(crate) async fn open(config: &Config, cluster_id: &str) -> anyhow::Result<Option<Self>> {
        let Some(bucket) = &config.bucket else {
            return Ok(None);
        };
        let chance: Chance = Arc::new(|| Uuid::new_v4().as_u128());
        let store =
            varve_tiering::open_bucket(&asked(bucket), Patience::default(), Arc::clone(&chance)).await?;
        let background = Handle::current();
        let cache = Cache::open(&cache_settings(config), &background)
            .await
            .with_context(|| {
                format!(
                    "the cache cannot be opened: check varve.cache.dir. dir={}",
                    config.cache_dir.display()
                )
            })?;
        let settings = Settings {
            read_budget_bytes: config.read_memory_bytes,
            upload_budget_bytes: config.upload_memory_bytes,
            ..Settings::new(cluster_id)
        };
        let tier = varve_tiering::Tier::new(settings, store, Arc::new(cache), background.clone(), chance)?;
        Ok(Some(Self {
            tier,
            root_uri: bucket.url.trim_end_matches('/').to_owned(),
            background,
            kept: Kept::default(),
        }))
    }

    /// Starts what runs beside requests: uploads and collection.
    pub(crate) fn start(&self, broker: &Arc<Broker>, stopped: watch::Receiver<bool>) {
        let metadata = Arc::new(QuorumTier::new(broker));
        self.background.spawn(uploads::run(
            Arc::clone(broker),
            self.tier.clone(),
            Arc::clone(&metadata),
            stopped.clone(),
        ));
        self.background.spawn(collect::run(
            Arc::clone(broker),
            self.tier.clone(),
            metadata,
            stopped,
        ));
    }

    /// The first record in the bucket at or after `time`.
    pub(crate) async fn find_timestamp(
        &self,
        partition: &Partition,
        pointer: &TierPointer,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ErrorCode> {
        let found = self.tier.find_timestamp(of(&partition.id), pointer, time).await;
        found.map_err(|error| told(partition, pointer, pointer.start, &error))
    }

    /// The youngest record in the bucket.
    pub(crate) async fn max_timestamp(
        &self,
        partition: &Partition,
        pointer: &TierPointer,
    ) -> Result<Option<(Offset, Timestamp)>, ErrorCode> {
        let manifest = self
            .tier
            .manifest(of(&partition.id), pointer)
            .await
            .map_err(|error| told(partition, pointer, pointer.start, &error))?;
        match manifest.entries.iter().map(|entry| entry.max_timestamp).max() {
            Some(youngest) => self.find_timestamp(partition, pointer, youngest).await,
            None => Ok(None),
        }
    }

    /// What the committed manifest lists, for retention.
    pub(crate) async fn extents(
        &self,
        id: &PartitionId,
        pointer: &TierPointer,
    ) -> anyhow::Result<Vec<Extent>> {
        let manifest = self.tier.manifest(of(id), pointer).await?;
        let entries = manifest.entries.iter();
        Ok(entries
            .map(|entry| Extent {
                base: entry.base(),
                end: entry.end(),
                bytes: entry.bytes,
                max_timestamp: entry.max_timestamp,
            })
            .collect())
    }

    /// Requests by verb and reason.
    pub(crate) fn requests(&self) -> Vec<Used> {
        let mut used = vec![];
        for reason in Reason::ALL {
            let count = self.store().requests(reason);
            let mut add = |verb, requests, bytes| {
                used.push(Used {
                    verb,
                    reason: reason.name(),
                    requests,
                    bytes,
                })
            };
            add("put", count.puts, count.bytes_sent);
            add("get", count.gets, count.bytes_received);
            add("head", count.heads, 0);
            add("delete", count.deletes, 0);
            add("list", count.lists, 0);
        }
        used
    }

    /// Chunk lookups by outcome.
    pub(crate) fn cache(&self) -> varve_cache::Stats {
        self.tier.cache().stats()
    }

    /// Reads since the start.
    pub(crate) fn reads(&self) -> varve_tiering::ReadStats {
        self.tier.read_stats()
    }

    /// Where a partition's part of the bucket ends, and its producers and leader epochs as of there.
    pub(crate) async fn seed(
        &self,
        id: &PartitionId,
        pointer: &TierPointer,
    ) -> anyhow::Result<(Offset, Producers, EpochChain)> {
        let found = self.tier.last_sections(of(id), pointer).await?;
        let (end, sections) = found.context("the manifest is empty")?;
        let producers = Producers::decode(&sections.producer_snapshot);
        let epochs = EpochChain::decode(&sections.epoch_chain);
        Ok((
            end,
            producers.context("the producers in the object cannot be read")?,
            epochs.context("the leader epochs in the object cannot be read")?,
        ))
    }

    /// The store as the table sink uses it, its requests counted as such.
    pub(crate) fn table_store(&self) -> Arc<dyn object_store::ObjectStore> {
        self.store().object_store(Reason::Table)
    }

    /// What a key of the store is below, as engines write it.
    pub(crate) fn root_uri(&self) -> &str {
        &self.root_uri
    }

    /// Writes what the cache has not yet on its disk, so that it restarts warm.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.tier.cache().close().await {
            tracing::warn!(error, "the cache did not close cleanly; it restarts colder");
        }
    }

    fn store(&self) -> &Store {
        self.tier.store()
    }
}

/// One consumer's way through one partition.
fn cursor(reader: u64, id: &PartitionId) -> CursorId {
    let mut hasher = DefaultHasher::new();
    (reader, id.topic_id, id.index).hash(&mut hasher);
    CursorId(hasher.finish())
}

/// A partition as the bucket knows it.
fn of(id: &PartitionId) -> TierPartition {
    TierPartition {
        topic: id.topic_id,
        index: id.index,
    }
}

fn asked(bucket: &BucketSettings) -> BucketConfig {
    BucketConfig {
        url: bucket.url.clone(),
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone(),
        path_style: bucket.path_style,
    }
}

fn cache_settings(config: &Config) -> varve_cache::Settings {
    varve_cache::Settings {
        memory_bytes: config.cache_memory_bytes,
        disk_bytes: config.cache_disk_bytes,
        dir: config.cache_dir.clone(),
    }
}
