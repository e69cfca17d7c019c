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
use varve_log::{LeaderEpoch, Offset, SealedSegment};
use varve_tiering::{SealedError, SealedInput, TierMetadata, UploadError};

/// How often partitions are looked at for sealed segments.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Partitions that upload at the same time.
const PARTITIONS_MAX: usize = 4;
/// Segments of one call, and so of one manifest.
const SEGMENTS_MAX: usize = 8;
/// Pauses after an error, doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Where a partition stands that is not simply waiting for segments.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    Running,
    Pause {
        until: Instant,
        last: Duration,
    },
    /// Nothing more leaves under this leader epoch.
    Stopped {
        epoch: LeaderEpoch,
    },
}

/// The turns of all partitions, looked at together.
#[derive(Debug, Default)]
struct Turns(Mutex<HashMap<PartitionId, Turn>>);

/// A turn that ends when this is dropped, whatever happened to the upload.
struct Running {
    turns: Arc<Turns>,
    id: PartitionId,
    epoch: LeaderEpoch,
    before: Option<Turn>,
    outcome: Option<Result<(), UploadError>>,
}

/// Runs until the node stops.
pub(super) async fn run(
    broker: Arc<Broker>,
    tier: varve_tiering::Tier,
    metadata: Arc<QuorumTier>,
    mut stopped: watch::Receiver<bool>,
) {
    let turns = Arc::new(Turns::default());
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        turns.forget(|id| broker.partition(id.topic_id, id.index).is_none());
        for partition in broker.partitions.led() {
            if turns.running() >= PARTITIONS_MAX {
                break;
            }
            let epoch = partition.leader_epoch();
            if !turns.may_run(&partition.id, epoch) {
                continue;
            }
            let segments = partition.due_for_tier(SEGMENTS_MAX);
            if segments.is_empty() {
                continue;
            }
            let running = turns.begin(&partition.id, epoch);
            let metadata: Arc<dyn TierMetadata> = Arc::clone(&metadata) as _;
            let tier = tier.clone();
            tokio::spawn(async move {
                running.end(upload(&tier, &partition, segments, metadata).await);
            });
        }
    }
}

impl Turns {
    fn running(&self) -> usize {
        let turns = self.0.lock();
        turns.values().filter(|turn| **turn == Turn::Running).count()
    }

    fn may_run(&self, id: &PartitionId, leader_epoch: LeaderEpoch) -> bool {
        match self.0.lock().get(id) {
            None => true,
            Some(Turn::Running) => false,
            Some(Turn::Pause { until, .. }) => Instant::now() >= *until,
            Some(Turn::Stopped { epoch }) => *epoch != leader_epoch,
        }
    }

    /// Partitions that are gone need no turn any more; one that runs ends by itself.
    fn forget(&self, is_gone: impl Fn(&PartitionId) -> bool) {
        let mut turns = self.0.lock();
        turns.retain(|id, turn| *turn == Turn::Running || !is_gone(id));
    }

    fn begin(self: &Arc<Self>, id: &PartitionId, epoch: LeaderEpoch) -> Running {
        Running {
            turns: Arc::clone(self),
            id: id.clone(),
            epoch,
            before: self.0.lock().insert(id.clone(), Turn::Running),
            outcome: None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let next = match &self.outcome {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(self.after(error)),
            // Its task was cut short: a broken promise of our own code, and the others must not suffer for it.
            None => Some(self.pause("the upload ended without an outcome")),
        };
        let mut turns = self.turns.0.lock();
        match next {
            None => turns.remove(&self.id),
            Some(next) => turns.insert(self.id.clone(), next),
        };
    }
}

impl Running {
    fn end(mut self, outcome: Result<(), UploadError>) {
        self.outcome = Some(outcome);
    }

    /// What the error asks for.
    fn after(&self, error: &UploadError) -> Turn {
        let (partition, epoch) = (&self.id, self.epoch);
        match error {
            UploadError::NotApplied(_) | UploadError::Unknown(_) | UploadError::DoesNotFit { .. } => {
                self.pause(&error.to_string())
            }
            UploadError::Corrupt(SealedError::Unreadable { .. }) => self.pause(&error.to_string()),
            UploadError::Superseded | UploadError::Gone => {
                tracing::debug!(%partition, %epoch, %error, "uploads stop");
                Turn::Stopped { epoch }
            }
            UploadError::Corrupt(SealedError::Damaged { .. }) => {
                tracing::error!(%partition, %epoch, %error, "local data is damaged: nothing more of this partition leaves for the bucket until it is repaired and the broker restarted");
                Turn::Stopped { epoch }
            }
        }
    }

    fn pause(&self, error: &str) -> Turn {
        let last = match self.before {
            Some(Turn::Pause { last, .. }) => (last * 2).min(PAUSE_MAX),
            Some(Turn::Running | Turn::Stopped { .. }) | None => PAUSE_FIRST,
        };
        tracing::warn!(partition = %self.id, error, pause = ?last, "upload waits; local data stays until the bucket has it");
        Turn::Pause {
            until: Instant::now() + last,
            last,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;
    use varve_cluster::{TopicId, TopicName};

    const EPOCH: LeaderEpoch = LeaderEpoch::new(3);

    fn partition() -> PartitionId {
        PartitionId {
            topic: TopicName::parse("orders").unwrap(),
            topic_id: TopicId::new(Uuid::from_u128(1)),
            index: 0,
        }
    }

    #[tokio::test]
    async fn an_upload_that_panics_gives_its_turn_back() {
        let turns = Arc::new(Turns::default());
        let running = turns.begin(&partition(), EPOCH);
        assert_eq!((turns.running(), turns.may_run(&partition(), EPOCH)), (1, false));

        let ended = tokio::spawn(async move {
            let _running = running;
            panic!("a broken promise");
        });
        assert!(ended.await.is_err());

        assert_eq!(turns.running(), 0);
        tokio::time::sleep(PAUSE_FIRST * 2).await;
        assert!(turns.may_run(&partition(), EPOCH));
    }

    #[test]
    fn a_deposed_leader_stops_until_it_leads_again() {
        for error in [UploadError::Superseded, UploadError::Gone] {
            let turns = Arc::new(Turns::default());
            turns.begin(&partition(), EPOCH).end(Err(error));
            assert!(!turns.may_run(&partition(), EPOCH));
            assert!(turns.may_run(&partition(), EPOCH.plus(1)));
        }
    }

    #[test]
    fn a_damaged_segment_is_not_sent_again_and_again() {
        let turns = Arc::new(Turns::default());
        turns
            .begin(&partition(), EPOCH)
            .end(Err(UploadError::Corrupt(SealedError::Damaged {
                base: Offset::ZERO,
                position: 0,
                cause: "CRC".to_owned(),
            })));
        assert!(matches!(turns.0.lock()[&partition()], Turn::Stopped { .. }));
    }

    #[test]
    fn what_a_deleted_topic_waited_for_is_forgotten() {
        let turns = Arc::new(Turns::default());
        turns
            .begin(&partition(), EPOCH)
            .end(Err(UploadError::NotApplied("away".to_owned())));
        turns.forget(|_| false);
        assert_eq!(turns.0.lock().len(), 1);
        turns.forget(|_| true);
        assert!(turns.0.lock().is_empty());
    }
}
