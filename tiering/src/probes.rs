//! The small ranges that are on their way: one GET for all who begin to read at the same place.

use crate::cursors::{Fetch, Held};
use crate::reader::ReadError;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use varve_cache::ChunkKey;

/// A chunk, and the block in its entry.
pub(crate) type BlockKey = (ChunkKey, usize);

type Landed = BoxFuture<'static, Result<Arc<Held>, ReadError>>;

pub(crate) type Probe = Shared<Landed>;

/// See the module's first line.
#[derive(Default)]
pub(crate) struct Probes {
    flying: Mutex<HashMap<BlockKey, WeakShared<Landed>>>,
}

impl Probes {
    /// The range that somebody waits for already, or the one that `begin` asks for.
    pub(crate) fn join(&self, key: BlockKey, begin: impl FnOnce() -> Fetch) -> Probe {
        let mut flying = self.flying.lock();
        // What nobody waits for has landed; its bytes live with those who got them.
        flying.retain(|_, probe| probe.upgrade().is_some());
        if let Some(probe) = flying.get(&key).and_then(WeakShared::upgrade) {
            return probe;
        }
        let fetch = begin();
        let landed = async move {
            let done = fetch.await;
            Ok(Arc::new(
                done.unwrap_or_else(|ended| Err(ReadError::stopped(&ended)))?,
            ))
        };
        let probe = landed.boxed().shared();
        if let Some(weak) = probe.downgrade() {
            flying.insert(key, weak);
        }
        probe
    }
}
