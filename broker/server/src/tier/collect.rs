//! Takes away what nobody can miss: objects below the committed log start, orphans of failed attempts, and all of a
//! deleted topic.

use super::metadata::QuorumTier;
use super::of;
use crate::broker::Broker;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use varve_cluster::TopicId;
use varve_cluster::controller::{Command, Tombstone};
use varve_tiering::{CollectError, TierMetadata, TierPartition};

/// How often log starts and tombstones are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How often a partition's objects are listed for orphans.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Runs until the node stops.
pub(super) async fn run(
    broker: Arc<Broker>,
    tier: varve_tiering::Tier,
    metadata: Arc<QuorumTier>,
    mut stopped: watch::Receiver<bool>,
) {
    let metadata: Arc<dyn TierMetadata> = metadata;
    let mut sweep_due = Instant::now() + SWEEP_INTERVAL;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        if let Some(tier) = &broker.tier {
            tier.forget_idle();
        }
        let sweep = Instant::now() >= sweep_due;
        if sweep {
            sweep_due = Instant::now() + SWEEP_INTERVAL;
        }
        for partition in broker.partitions.led() {
            let behind = partition
                .tier()
                .is_some_and(|pointer| pointer.start < partition.offsets().log_start);
            let (id, epoch) = (of(&partition.id), partition.leader_epoch());
            if behind {
                tell(
                    id,
                    tier.trim(id, epoch, Arc::clone(&metadata))
                        .await
                        .map(|trimmed| trimmed.objects),
                );
            }
            if sweep && partition.is_tiered() {
                tell(
                    id,
                    tier.sweep(id, epoch, Arc::clone(&metadata))
                        .await
                        .map(|swept| swept.deleted),
                );
            }
        }
        let view = broker.view();
        // One of them is enough.
        let first = view.live_brokers().map(|other| other.id).min();
        for (topic, tombstone) in view.tombstones.iter().filter(|_| first == Some(broker.id())) {
            purge(&broker, &tier, &metadata, *topic, tombstone).await;
        }
    }
}

/// A deleted topic's tombstone stays until two listings in a row found nothing.
async fn purge(
    broker: &Broker,
    tier: &varve_tiering::Tier,
    metadata: &Arc<dyn TierMetadata>,
    topic: TopicId,
    tombstone: &Tombstone,
) {
    for index in (0..).take(tombstone.partitions.len()) {
        let id = TierPartition { topic, index };
        for _ in 0..2 {
            match tier.delete_partition(id, Arc::clone(metadata)).await {
                Ok(swept) if swept.listed == 0 => {}
                Ok(_) => return,
                Err(error) => return tell(id, Err(error)),
            }
        }
    }
    if let Err(error) = broker.propose(Command::TopicPurged { topic_id: topic }).await {
        tracing::warn!(%topic, %error, "a purged topic's tombstone stays a while longer");
    }
}

fn tell(id: TierPartition, outcome: Result<usize, CollectError>) {
    match outcome {
        Ok(0) => {}
        Ok(objects) => tracing::debug!(partition = %id, objects, "objects deleted"),
        Err(error) => tracing::warn!(partition = %id, %error, "collection waits for its next turn"),
    }
}
