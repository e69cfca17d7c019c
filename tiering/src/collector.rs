//! Takes objects away, and only those nobody can miss.
//!
//! An object goes when no committed manifest names it *and* none ever will: because its leader epoch is fenced, or
//! because this broker leads and knows that the attempt is over. Expired data leaves in this order: the log's start
//! is committed, a manifest without the entries is committed, all brokers have seen it, the objects go. A crash in
//! between leaves objects behind for the next sweep; it never leaves a name without its object.

use crate::TierPartition;
use crate::commit::{Committed, MetadataError, TierMetadata};
use crate::keys::{self, Name};
use crate::store::{Listed, Reason};
use crate::store_error::StoreError;
use crate::tier::Tier;
use crate::uploader::{Change, UploadError};
use futures::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;
use varve_log::LeaderEpoch;

const DELETES_PARALLEL: usize = 8;

/// What leaving the tier came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    pub objects: usize,
    pub bytes: u64,
}

/// What a sweep found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub listed: usize,
    pub deleted: usize,
    pub deleted_bytes: u64,
    /// Named by the manifest but not listed: data is lost or the listing is behind. Alarm.
    pub missing: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    /// Come again later; nothing is lost by waiting.
    #[error("collecting did not finish. cause={0}")]
    Later(String),
    /// Somebody else leads: it is theirs to collect.
    #[error("another leader epoch is in charge of the partition")]
    Superseded,
    #[error("partition does not exist any more")]
    Gone,
}

impl Tier {
    /// Lets go of entries wholly below the committed log start, and then of their objects.
    pub async fn trim(
        &self,
        partition: TierPartition,
        epoch: LeaderEpoch,
        metadata: Arc<dyn TierMetadata>,
    ) -> Result<Trimmed, CollectError> {
        let committed = metadata.current(partition).await?;
        let Some(pointer) = committed
            .pointer
            .filter(|pointer| pointer.start < committed.log_start)
        else {
            return Ok(Trimmed::default());
        };
        let manifest = self
            .manifest(partition, &pointer)
            .await
            .map_err(|error| later(&error))?;
        if manifest
            .entries
            .first()
            .is_none_or(|entry| entry.end() > committed.log_start)
        {
            return Ok(Trimmed::default());
        }
        let done = self
            .commit(partition, epoch, Change::Trim, Arc::clone(&metadata))
            .await;
        let (_, dropped) = done.map_err(CollectError::from)?;
        metadata.barrier().await?;
        let bytes = dropped.iter().map(|entry| entry.object_bytes).sum();
        let keys = dropped
            .iter()
            .map(|entry| self.inner.keys.segment(partition, entry.name))
            .collect();
        let objects = self.delete(keys).await?;
        Ok(Trimmed { objects, bytes })
    }

    /// Compares what is in the bucket with what is committed, and takes away what nobody can miss. Only for the
    /// leader, and only under the epoch it leads by.
    pub async fn sweep(
        &self,
        partition: TierPartition,
        epoch: LeaderEpoch,
        metadata: Arc<dyn TierMetadata>,
    ) -> Result<Swept, CollectError> {
        // This order is the proof. What is listed and not in flight afterwards has ended before the state is read:
        // if it was committed, the state shows it.
        let listed = self.list(partition).await?;
        let in_flight = self.inner.in_flight.lock().clone();
        let committed = metadata.current(partition).await?;
        if committed.leader_epoch != epoch {
            return Err(CollectError::Superseded);
        }
        let mut named = HashSet::new();
        if let Some(pointer) = &committed.pointer {
            let manifest = self
                .manifest(partition, pointer)
                .await
                .map_err(|error| later(&error))?;
            named.extend(
                manifest
                    .entries
                    .iter()
                    .map(|entry| self.inner.keys.segment(partition, entry.name)),
            );
            named.insert(pointer.manifest_key.clone());
        }
        let there = listed.iter().filter(|object| named.contains(&object.key)).count();
        let orphans: Vec<&Listed> = listed
            .iter()
            .filter(|object| is_orphan(object, &named, &in_flight, &committed))
            .collect();
        let deleted_bytes = orphans.iter().map(|object| object.bytes).sum();
        let keys: Vec<String> = orphans.iter().map(|object| object.key.clone()).collect();
        if !keys.is_empty() {
            metadata.barrier().await?;
        }
        let deleted = self.delete(keys).await?;
        Ok(Swept {
            listed: listed.len(),
            deleted,
            deleted_bytes,
            missing: named.len() - there,
        })
    }

    /// Everything of a partition whose topic was deleted. To be called until it finds nothing: an upload that was
    /// under way may still land. The tombstone of the topic must stay until then.
    pub async fn delete_partition(
        &self,
        partition: TierPartition,
        metadata: Arc<dyn TierMetadata>,
    ) -> Result<Swept, CollectError> {
        match metadata.current(partition).await {
            Err(MetadataError::Gone) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Err(CollectError::Later("topic still exists".to_owned())),
        }
        metadata.barrier().await?;
        let listed = self.list(partition).await?;
        let deleted_bytes = listed.iter().map(|object| object.bytes).sum();
        let keys = listed.iter().map(|object| object.key.clone()).collect();
        let deleted = self.delete(keys).await?;
        Ok(Swept {
            listed: listed.len(),
            deleted,
            deleted_bytes,
            missing: 0,
        })
    }

    async fn list(&self, partition: TierPartition) -> Result<Vec<Listed>, CollectError> {
        let (store, way) = (self.inner.store.clone(), self.inner.keys.partition(partition));
        let listed = self
            .on_runtime(async move { Ok(store.list(Reason::Scrub, &way).await?) })
            .await;
        listed.map_err(|error| later(&error))
    }

    /// How many are gone. One that cannot be deleted now is found by the next sweep.
    async fn delete(&self, keys: Vec<String>) -> Result<usize, CollectError> {
        let store = self.inner.store.clone();
        let work = async move {
            let deletes = futures::stream::iter(keys).map(|key| {
                let store = store.clone();
                async move { store.delete(Reason::Scrub, &key).await }
            });
            let outcomes: Vec<Result<(), StoreError>> =
                deletes.buffer_unordered(DELETES_PARALLEL).collect().await;
            let deleted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            match outcomes.into_iter().find_map(Result::err) {
                Some(error) if deleted == 0 => Err(error.into()),
                Some(_) | None => Ok(deleted),
            }
        };
        self.on_runtime(work).await.map_err(|error| later(&error))
    }
}

/// Not named, and never to be: its writer can commit no more, or is this broker and has ended.
fn is_orphan(
    object: &Listed,
    named: &HashSet<String>,
    in_flight: &HashSet<Uuid>,
    committed: &Committed,
) -> bool {
    let (epoch, attempt) = match keys::parse(&object.key) {
        Name::Segment(name) => (name.epoch, name.attempt),
        Name::Manifest(name) => (name.epoch, name.attempt),
        Name::Foreign => return false,
    };
    let fenced = epoch < committed.leader_epoch;
    let ours_and_over = epoch == committed.leader_epoch && !in_flight.contains(&attempt);
    !named.contains(&object.key) && (fenced || ours_and_over)
}

fn later(error: &impl ToString) -> CollectError {
    CollectError::Later(error.to_string())
}

impl From<MetadataError> for CollectError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Gone => Self::Gone,
            MetadataError::Unavailable(cause) => Self::Later(cause),
        }
    }
}

impl From<UploadError> for CollectError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Superseded => Self::Superseded,
            UploadError::Gone => Self::Gone,
            UploadError::NotApplied(cause) | UploadError::Unknown(cause) => Self::Later(cause),
            UploadError::DoesNotFit { .. } | UploadError::Corrupt(_) => later(&error),
        }
    }
}
