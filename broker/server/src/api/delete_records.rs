//! DeleteRecords: the log begins later, here and in the bucket. The start is committed before it is answered.

use super::Caller;
use super::topics::{TopicKey, not_served};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::delete_records::response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use crate::wire::delete_records::{DeleteRecordsRequest, DeleteRecordsResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use uuid::Uuid;
use varve_log::Offset;

/// In the request: everything below the high watermark.
const HIGH_WATERMARK: i64 = -1;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = vec![];
    for topic in request.topics {
        let mut partitions = vec![];
        for asked in topic.partitions {
            let outcome = delete(broker, &topic.name, asked.partition_index, asked.offset).await;
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: outcome.map_or(-1, Offset::value),
                error_code: outcome.err().unwrap_or(ErrorCode::None).code(),
            });
        }
        topics.push(DeleteRecordsTopicResult {
            name: topic.name,
            partitions,
        });
    }
    DeleteRecordsResponse {
        topics,
        ..Default::default()
    }
}

async fn delete(
    broker: &Arc<Broker>,
    topic: &StrBytes,
    index: i32,
    before: i64,
) -> Result<Offset, ErrorCode> {
    let topic = TopicKey {
        name: topic.clone(),
        id: Uuid::nil(),
    }
    .find(&broker.view())?;
    if topic.name.is_internal() {
        return Err(ErrorCode::PolicyViolation);
    }
    let partition = broker
        .partition(topic.id, index)
        .ok_or_else(|| not_served(broker, &topic, index))?;
    let high_watermark = partition.offsets().high_watermark;
    let before = if before == HIGH_WATERMARK {
        high_watermark
    } else {
        Offset::new(before)
    };
    if before < Offset::new(0) || before > high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    broker
        .advance_log_start(&partition, before)
        .await
        .map_err(|error| {
            tracing::warn!(partition = %partition.id, %error, "the log's start could not be moved");
            ErrorCode::RequestTimedOut
        })?;
    Ok(partition.offsets().log_start)
}
