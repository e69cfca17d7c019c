//! ListOffsets: where a partition begins, ends, or reaches a point in time; the same answer from disk and bucket.

use super::Caller;
use super::topics::{TopicKey, check_epoch, not_served};
use crate::broker::Broker;
use crate::partition::Partition;
use crate::wire::ErrorCode;
use crate::wire::list_offsets::request::ListOffsetsPartition;
use crate::wire::list_offsets::response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use crate::wire::list_offsets::{ListOffsetsRequest, ListOffsetsResponse};
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::controller::Topic;
use varve_log::{Offset, TierEnd, Timestamp};

/// What a timestamp below zero asks for (Kafka's `ListOffsetsRequest` constants).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// What one batch may decompress to while its records are searched, bytes.
const DECOMPRESSED_MAX: usize = 128 << 20;

/// An offset and, where records decide, its timestamp; `None` where there is no such offset.
type Found = Option<(Offset, Timestamp)>;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let view = broker.view();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = TopicKey {
            name: topic.name.clone(),
            id: Uuid::nil(),
        }
        .find(&view);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in &topic.partitions {
            partitions.push(answer(broker, &found, asked).await);
        }
        topics.push(ListOffsetsTopicResponse {
            name: topic.name,
            partitions,
        });
    }
    ListOffsetsResponse {
        topics,
        ..Default::default()
    }
}

async fn answer(
    broker: &Arc<Broker>,
    topic: &Result<Arc<Topic>, ErrorCode>,
    asked: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let nothing = ListOffsetsPartitionResponse {
        partition_index: asked.partition_index,
        offset: -1,
        timestamp: -1,
        leader_epoch: -1,
        ..Default::default()
    };
    match look_up(broker, topic, asked).await {
        Err(code) => ListOffsetsPartitionResponse {
            error_code: code.code(),
            ..nothing
        },
        Ok((_, None)) => nothing,
        Ok((partition, Some((offset, timestamp)))) => ListOffsetsPartitionResponse {
            offset: offset.value(),
            timestamp: timestamp.value(),
            leader_epoch: partition
                .with_log(|log| log.epochs().epoch_at(offset))
                .map_or(-1, |epoch| epoch.value()),
            ..nothing
        },
    }
}

async fn look_up(
    broker: &Arc<Broker>,
    topic: &Result<Arc<Topic>, ErrorCode>,
    asked: &ListOffsetsPartition,
) -> Result<(Arc<Partition>, Found), ErrorCode> {
    let topic = topic.as_ref().map_err(|code| *code)?;
    let index = asked.partition_index;
    let partition = broker
        .partition(topic.id, index)
        .ok_or_else(|| not_served(broker, topic, index))?;
    check_epoch(asked.current_leader_epoch, partition.leader_epoch())?;
    let offsets = partition.offsets();
    let at = |offset: Offset| Some((offset, Timestamp::NONE));
    let tier_end = match offsets.tier_end {
        TierEnd::Known(end) => Some(end),
        TierEnd::Unknown => None,
    };
    let found = match asked.timestamp {
        // Its predecessor may have shown consumers more: "latest" never goes back.
        LATEST if !partition.is_settled() => return Err(ErrorCode::OffsetNotAvailable),
        LATEST => at(offsets.last_stable),
        EARLIEST => at(offsets.log_start),
        EARLIEST_LOCAL => at(offsets.local_start),
        // The last offset in the bucket, not the one behind it.
        LATEST_TIERED => tier_end
            .filter(|end| *end > offsets.log_start)
            .and_then(|end| at(end.plus(-1))),
        EARLIEST_PENDING_UPLOAD => at(tier_end.unwrap_or(offsets.log_start)),
        MAX_TIMESTAMP => max_timestamp(broker, &partition).await?,
        time if time >= 0 => by_time(broker, &partition, Timestamp::new(time)).await?,
        _ => return Err(ErrorCode::InvalidRequest),
    };
    Ok((partition, found))
}

/// The first record at or after `time`: in the bucket if it is older than what is here, else on disk.
async fn by_time(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    time: Timestamp,
) -> Result<Found, ErrorCode> {
    let offsets = partition.offsets();
    if offsets.log_start < offsets.local_start
        && let (Some(tier), Some(pointer)) = (&broker.tier, partition.tier())
    {
        let found = tier.find_timestamp(partition, &pointer, time).await?;
        // Beyond the local start the disk answers: it is the same record, and nearer.
        if let Some((offset, timestamp)) = found.filter(|(offset, _)| *offset < offsets.local_start) {
            return Ok(Some((offset, timestamp)));
        }
    }
    on_disk(partition, time)
}

/// The first local record at or after `time`.
fn on_disk(partition: &Partition, time: Timestamp) -> Result<Found, ErrorCode> {
    let upto = partition.offsets().high_watermark;
    let plan = partition.with_log(|log| log.find_timestamp(time, upto));
    let found = plan
        .run(DECOMPRESSED_MAX)
        .map_err(|error| unreadable(partition, &error))?;
    Ok(found.map(|found| (found.offset, found.timestamp)))
}

async fn max_timestamp(broker: &Arc<Broker>, partition: &Arc<Partition>) -> Result<Found, ErrorCode> {
    let newest = partition.with_log(|log| log.max_timestamp());
    let here = if newest.is_none() {
        None
    } else {
        on_disk(partition, newest)?
    };
    let offsets = partition.offsets();
    let there = match (&broker.tier, partition.tier()) {
        (Some(tier), Some(pointer)) if offsets.log_start < offsets.local_start => {
            tier.max_timestamp(partition, &pointer).await?
        }
        _ => None,
    };
    Ok(here
        .into_iter()
        .chain(there)
        .max_by_key(|(offset, timestamp)| (*timestamp, std::cmp::Reverse(*offset))))
}

fn unreadable(partition: &Partition, error: &varve_log::Error) -> ErrorCode {
    tracing::error!(partition = %partition.id, %error, "local data cannot be read");
    ErrorCode::KafkaStorageError
}
