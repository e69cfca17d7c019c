//! Reads of the bucket that are on their way, at most one for each consumer of a partition. One that its fetch did not
//! wait for is kept for the next: nothing is asked of the bucket twice because an answer left early.

use super::{cursor, of, told};
use crate::partition::Partition;
use crate::wire::ErrorCode;
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use varve_cluster::controller::TierPointer;
use varve_log::Offset;
use varve_tiering::{CursorId, ReadError, TierSlice};

/// A read that nobody came back for is forgotten after so long.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// Reads that may be kept; one more is only forgotten, and its chunk is in the cache.
const KEPT_MAX: usize = 4096;

type Outcome = Result<Result<TierSlice, ReadError>, JoinError>;

/// A read on its way. Dropping it lets it finish.
#[derive(Debug)]
pub(crate) struct ColdRead {
    partition: Arc<Partition>,
    cursor: CursorId,
    pointer: TierPointer,
    from: Offset,
    read: JoinHandle<Result<TierSlice, ReadError>>,
    done: Option<Outcome>,
}

impl ColdRead {
    /// Waits for as long as it takes.
    pub(crate) async fn batches(mut self) -> Result<Vec<Bytes>, ErrorCode> {
        self.finished().await;
        self.take().unwrap_or(Err(ErrorCode::KafkaStorageError))
    }

    /// Until [`Self::take`] has something to give. May be dropped and called again.
    pub(crate) async fn finished(&mut self) {
        if self.done.is_none() {
            self.done = Some((&mut self.read).await);
        }
    }

    pub(crate) fn is_finished(&mut self) -> bool {
        // Looks at it once: what has ended already is taken now.
        self.finished().now_or_never().is_some()
    }

    /// Runs of whole batches, or the error a client is told; nothing if it is not finished.
    pub(crate) fn take(&mut self) -> Option<Result<Vec<Bytes>, ErrorCode>> {
        Some(match self.done.take()? {
            Ok(Ok(slice)) => Ok(slice.batches),
            Ok(Err(error)) => Err(told(&self.partition, &self.pointer, self.from, &error)),
            // The runtime is going down.
            Err(_) => Err(ErrorCode::KafkaStorageError),
        })
    }
}

/// The reads whose fetch has left without them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    reads: Mutex<HashMap<CursorId, (ColdRead, Instant)>>,
}

impl Kept {
    fn take(&self, cursor: CursorId, partition: &Partition, from: Offset) -> Option<ColdRead> {
        let (kept, _) = self.reads.lock().remove(&cursor)?;
        if kept.partition.id == partition.id && kept.from == from {
            return Some(kept);
        }
        // The consumer is somewhere else now. What was fetched for it stays in the cache.
        kept.read.abort();
        None
    }

    fn put(&self, cold: ColdRead) {
        let mut reads = self.reads.lock();
        if reads.len() < KEPT_MAX {
            reads.insert(cold.cursor, (cold, Instant::now()));
        }
    }

    fn forget_idle(&self) {
        self.reads
            .lock()
            .retain(|_, (_, since)| since.elapsed() < KEPT_FOR);
    }
}

impl super::Tier {
    /// A read of at least one batch from `from`: the one that is under way, or a new one. `reader` is the same for
    /// every read of one consumer.
    pub(crate) fn read(
        &self,
        partition: &Arc<Partition>,
        pointer: TierPointer,
        from: Offset,
        bytes_max: usize,
        reader: u64,
    ) -> ColdRead {
        let cursor = cursor(reader, &partition.id);
        if let Some(kept) = self.kept.take(cursor, partition, from) {
            return kept;
        }
        let (tier, id, at) = (self.tier.clone(), of(&partition.id), pointer.clone());
        let read = async move { tier.read(id, &at, from, bytes_max, cursor).await };
        begin(&self.background, partition, cursor, (pointer, from), read)
    }

    /// For the next fetch that asks for the same.
    pub(crate) fn keep(&self, cold: ColdRead) {
        self.kept.put(cold);
    }

    /// Consumers that did not come back for long give up what they hold.
    pub(super) fn forget_idle(&self) {
        self.kept.forget_idle();
        self.tier.forget_idle_cursors();
    }
}

fn begin(
    background: &Handle,
    partition: &Arc<Partition>,
    cursor: CursorId,
    (pointer, from): (TierPointer, Offset),
    read: impl Future<Output = Result<TierSlice, ReadError>> + Send + 'static,
) -> ColdRead {
    ColdRead {
        partition: Arc::clone(partition),
        cursor,
        pointer,
        from,
        read: background.spawn(read),
        done: None,
    }
}
