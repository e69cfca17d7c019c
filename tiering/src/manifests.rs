//! Manifests that were read lately, decoded. They never change, so nothing here can be stale.

use crate::TierPartition;
use crate::manifest::Manifest;
use crate::store::{Reason, Store};
use crate::store_error::StoreError;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OnceCell;
use varve_cluster::controller::TierPointer;

type Slot = Arc<OnceCell<Arc<Manifest>>>;

#[derive(Debug)]
pub(crate) struct Manifests {
    store: Store,
    bytes_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// One per partition and key: those who ask at once wait for one download.
    slots: HashMap<String, (Slot, u64)>,
    uses: u64,
}

impl Manifests {
    pub(crate) fn new(store: Store, bytes_max: usize) -> Self {
        Self {
            store,
            bytes_max,
            held: Mutex::default(),
        }
    }

    /// The manifest that `pointer` names, and no other: its hash, partition, version and range are checked.
    pub(crate) async fn get(
        &self,
        partition: TierPartition,
        pointer: &TierPointer,
    ) -> Result<Arc<Manifest>, StoreError> {
        let slot = self.slot(&pointer.manifest_key);
        let load = || async {
            let bytes = self.store.get(Reason::Manifest, &pointer.manifest_key).await?;
            let corrupt = |reason| StoreError::Corrupt {
                key: pointer.manifest_key.clone(),
                reason,
            };
            if Manifest::hash(&bytes) != pointer.manifest_hash {
                return Err(corrupt("manifest is not the one that was committed"));
            }
            let manifest = Manifest::decode(&bytes).map_err(corrupt)?;
            if manifest.partition != partition || manifest.version != pointer.version {
                return Err(corrupt("manifest is of another partition or version"));
            }
            let range = (
                manifest.start().unwrap_or(pointer.end),
                manifest.end().unwrap_or(pointer.end),
            );
            if range != (pointer.start, pointer.end) {
                return Err(corrupt("manifest does not cover what was committed"));
            }
            Ok(Arc::new(manifest))
        };
        let loaded = slot.get_or_try_init(load).await.map(Arc::clone);
        self.make_room();
        loaded
    }

    /// If it is here already.
    pub(crate) fn ready(&self, key: &str) -> Option<Arc<Manifest>> {
        let mut held = self.held.lock();
        held.uses += 1;
        let uses = held.uses;
        let (slot, used) = held.slots.get_mut(key)?;
        *used = uses;
        slot.get().cloned()
    }

    /// One that was just made here.
    pub(crate) fn put(&self, key: &str, manifest: Arc<Manifest>) {
        // Whoever was faster has loaded the same.
        let _ = self.slot(key).set(manifest);
        self.make_room();
    }

    fn slot(&self, key: &str) -> Slot {
        let mut held = self.held.lock();
        held.uses += 1;
        let uses = held.uses;
        let (slot, used) = held.slots.entry(key.to_owned()).or_default();
        *used = uses;
        Arc::clone(slot)
    }

    fn make_room(&self) {
        let mut held = self.held.lock();
        let weigh = |slot: &Slot| slot.get().map_or(256, |manifest| manifest.weight());
        let mut weight: usize = held.slots.values().map(|(slot, _)| weigh(slot)).sum();
        while weight > self.bytes_max && held.slots.len() > 1 {
            let oldest = held
                .slots
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, _)| key.clone());
            let Some((slot, _)) = oldest.and_then(|key| held.slots.remove(&key)) else {
                return;
            };
            weight -= weigh(&slot).min(weight);
        }
    }
}
