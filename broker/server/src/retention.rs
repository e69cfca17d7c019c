//! Retention, decided on committed state only: where the log begins (`retention.*`, over both tiers) and what stays
//! on local disk (`local.retention.*`, never more than the bucket has).

use crate::broker::Broker;
use crate::partition::Partition;
use std::sync::Arc;
use std::time::Duration;
use varve_cluster::topic_config::TopicConfig;
use varve_log::retention::{Local, Policy, Tiering, drop_before, is_active_expired};
use varve_log::{Offset, SealedSegment};
use varve_tiering::retention::{Extent, Limits};

/// What may leave this disk leaves it. Asks nothing of the bucket.
pub(crate) fn apply_here(broker: &Broker, partition: &Arc<Partition>) -> anyhow::Result<()> {
    let config = partition.config();
    if config.compacted {
        return Ok(());
    }
    drop_local(broker, partition, &config)
}

/// Moves the log's start to where it has to be. For a tiered partition this may read its manifest, which takes as long
/// as the bucket takes.
pub(crate) async fn move_log_start(broker: &Broker, partition: &Arc<Partition>) -> anyhow::Result<()> {
    let config = partition.config();
    if config.compacted {
        return Ok(());
    }
    roll_expired(broker, partition, &config);
    if let Some(start) = log_start(broker, partition, &config).await?
        && start > partition.offsets().log_start
    {
        broker.advance_log_start(partition, start).await?;
    }
    Ok(())
}

/// A segment that is still appended to cannot go; once even its newest record is too old it is sealed.
fn roll_expired(broker: &Broker, partition: &Arc<Partition>, config: &TopicConfig) {
    let now = broker.clock.now();
    let policy = whole(config);
    let rolled =
        partition.with_log(|log| is_active_expired(log.max_timestamp(), &policy, now) && log.force_roll(now));
    if rolled {
        partition.write_turn();
    }
}

async fn log_start(
    broker: &Broker,
    partition: &Arc<Partition>,
    config: &TopicConfig,
) -> anyhow::Result<Option<Offset>> {
    let now = broker.clock.now();
    let offsets = partition.offsets();
    let (sealed, bytes) = partition.with_log(|log| (log.sealed(), log.bytes()));
    // A topic that is no longer tiered may still have history in the bucket: it is part of the log, is read from there, and
    // goes as retention says. (Kafka refuses to turn tiering off unless the history goes at once, by
    // `remote.log.delete.on.disable`; here the bucket is what is kept.)
    let pointer = partition.tier();
    let is_tiered = config.remote_storage || pointer.is_some();
    let Some(tier) = broker.tier.as_ref().filter(|_| is_tiered) else {
        let local = Local {
            sealed: &sealed,
            bytes,
            log_start: offsets.log_start,
            high_watermark: offsets.high_watermark,
        };
        return Ok(drop_before(&local, &whole(config), Tiering::Off, now));
    };
    let Some(pointer) = pointer else {
        return Ok(None);
    };
    let limits = Limits {
        age_ms: config.retention_ms,
        bytes: config.retention_bytes,
    };
    if limits.age_ms.is_none() && limits.bytes.is_none() {
        return Ok(None);
    }
    let active_bytes = bytes - sealed.iter().map(|segment| segment.bytes).sum::<u64>();
    let tiered = tier.extents(&partition.id, &pointer).await?;
    let local: Vec<Extent> = sealed.iter().map(extent).collect();
    Ok(varve_tiering::retention::log_start(
        offsets.tier_end,
        &tiered,
        &local,
        active_bytes,
        limits,
        now,
    ))
}

/// Files go once the bucket has them (or the log begins later) and a checkpoint no longer needs them.
fn drop_local(broker: &Broker, partition: &Arc<Partition>, config: &TopicConfig) -> anyhow::Result<()> {
    let offsets = partition.offsets();
    let (sealed, bytes) = partition.with_log(|log| (log.sealed(), log.bytes()));
    let local = Local {
        sealed: &sealed,
        bytes,
        log_start: offsets.log_start,
        high_watermark: offsets.high_watermark,
    };
    let before = if config.remote_storage {
        let policy = Policy {
            time: config.local_retention_ms.map(millis),
            bytes: config.local_retention_bytes,
        };
        drop_before(&local, &policy, Tiering::On(offsets.tier_end), broker.clock.now())
    } else {
        drop_before(
            &local,
            &Policy {
                time: None,
                bytes: None,
            },
            Tiering::Off,
            broker.clock.now(),
        )
    };
    let Some(before) = before else { return Ok(()) };
    partition.checkpoint()?;
    let dropped = partition.drop_local_before(before)?;
    if dropped > 0 {
        tracing::debug!(partition = %partition.id, segments = dropped, before = before.value(), "local segments dropped");
    }
    Ok(())
}

fn whole(config: &TopicConfig) -> Policy {
    Policy {
        time: config.retention_ms.map(millis),
        bytes: config.retention_bytes,
    }
}

fn millis(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

fn extent(segment: &SealedSegment) -> Extent {
    let newest = if segment.max_timestamp.is_none() {
        segment.last_append
    } else {
        segment.max_timestamp
    };
    Extent {
        base: segment.base,
        end: segment.end,
        bytes: segment.bytes,
        max_timestamp: newest,
    }
}
