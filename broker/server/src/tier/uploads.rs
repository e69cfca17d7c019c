//! Sealed segments leave for the bucket as soon as they are committed, a few partitions at a time.

use super::metadata::QuorumTier;
use super::of;
use crate::broker::Broker;
use crate::partition::{Partition, PartitionId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use varve_log::{Offset, SealedSegment};
use varve_tiering::{SealedInput, TierMetadata, UploadError};

/// How often partitions are looked at for sealed segments.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Partitions that upload at the same time.
const PARTITIONS_MAX: usize = 4;
/// Segments of one call, and so of one manifest.
const SEGMENTS_MAX: usize = 8;
/// Pauses after an error, doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A partition that is being uploaded, or waits after an error.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Running,
    Pause { until: Instant, last: Duration },
}

type Turns = Arc<Mutex<HashMap<PartitionId, Turn>>>;

/// Runs until the node stops.
pub(super) async fn run(
    broker: Arc<Broker>,
    tier: varve_tiering::Tier,
    metadata: Arc<QuorumTier>,
    mut stopped: watch::Receiver<bool>,
) {
    let turns = Turns::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        for partition in broker.partitions.all() {
            let mut running = turns.lock();
            if running
                .values()
                .filter(|turn| matches!(turn, Turn::Running))
                .count()
                >= PARTITIONS_MAX
            {
                break;
            }
            if !may_run(&running, &partition.id) {
                continue;
            }
            let segments = due(&partition);
            if segments.is_empty() {
                continue;
            }
            let before = running.insert(partition.id.clone(), Turn::Running);
            drop(running);
            let metadata: Arc<dyn TierMetadata> = Arc::clone(&metadata) as _;
            let (tier, turns) = (tier.clone(), Arc::clone(&turns));
            tokio::spawn(async move {
                let outcome = upload(&tier, &partition, segments, metadata).await;
                let mut turns = turns.lock();
                match outcome {
                    Ok(()) => turns.remove(&partition.id),
                    Err(error) => turns.insert(partition.id.clone(), pause(&partition.id, &error, before)),
                };
            });
        }
    }
}

fn may_run(turns: &HashMap<PartitionId, Turn>, id: &PartitionId) -> bool {
    match turns.get(id) {
        None => true,
        Some(Turn::Running) => false,
        Some(Turn::Pause { until, .. }) => Instant::now() >= *until,
    }
}

fn pause(id: &PartitionId, error: &UploadError, before: Option<Turn>) -> Turn {
    let last = match before {
        Some(Turn::Pause { last, .. }) => (last * 2).min(PAUSE_MAX),
        Some(Turn::Running) | None => PAUSE_FIRST,
    };
    tracing::warn!(partition = %id, %error, pause = ?last, "upload waits; local data stays until the bucket has it");
    Turn::Pause {
        until: Instant::now() + last,
        last,
    }
}

/// Sealed, committed, not yet in the bucket.
fn due(partition: &Partition) -> Vec<SealedSegment> {
    if !partition.is_tiered() {
        return vec![];
    }
    let offsets = partition.offsets();
    let from = partition.tier().map_or(Offset::ZERO, |pointer| pointer.end);
    let mut segments = partition.with_log(|log| log.sealed());
    segments.retain(|segment| segment.end > from && segment.end <= offsets.last_stable);
    segments.truncate(SEGMENTS_MAX);
    segments
}

async fn upload(
    tier: &varve_tiering::Tier,
    partition: &Arc<Partition>,
    segments: Vec<SealedSegment>,
    metadata: Arc<dyn TierMetadata>,
) -> Result<(), UploadError> {
    let mut inputs = Vec::with_capacity(segments.len());
    for segment in &segments {
        let file = segment
            .file()
            .map_err(|error| UploadError::NotApplied(error.to_string()))?;
        let (producers, epochs) = partition.with_log(|log| (log.producers().clone(), log.epochs().clone()));
        inputs.push(SealedInput {
            base: segment.base,
            end: segment.end,
            bytes: segment.bytes,
            max_timestamp: segment.max_timestamp,
            file,
            producer_snapshot: as_of(producers, segment.end),
            epoch_chain: {
                let mut epochs = epochs;
                epochs.truncate_from(segment.end);
                epochs.encode().into()
            },
        });
    }
    let pointer = tier
        .upload(of(&partition.id), partition.leader_epoch(), inputs, metadata)
        .await?;
    tracing::debug!(partition = %partition.id, segments = segments.len(), end = pointer.end.value(), "in the bucket");
    Ok(())
}

/// Producers as they stood at `end`: what came later is taken back.
fn as_of(mut producers: varve_log::Producers, end: Offset) -> Bytes {
    producers.truncate_from(end);
    producers.encode().into()
}
