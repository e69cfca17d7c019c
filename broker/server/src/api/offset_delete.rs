//! OffsetDelete: what was committed for topics that no member reads.

use super::Caller;
use super::groups::{check_name, code_of, durable};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::offset_delete::response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use crate::wire::offset_delete::{OffsetDeleteRequest, OffsetDeleteResponse};
use std::sync::Arc;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    match delete(broker, &request).await {
        Err(code) => OffsetDeleteResponse {
            error_code: code.code(),
            ..Default::default()
        },
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            let mut topics = Vec::with_capacity(request.topics.len());
            for topic in request.topics {
                let partitions = topic.partitions.iter().zip(outcomes.by_ref());
                let partitions = partitions.map(|(asked, outcome)| OffsetDeleteResponsePartition {
                    partition_index: asked.partition_index,
                    error_code: code_of(outcome),
                });
                let partitions = partitions.collect();
                topics.push(OffsetDeleteResponseTopic {
                    name: topic.name,
                    partitions,
                });
            }
            OffsetDeleteResponse {
                topics,
                ..Default::default()
            }
        }
    }
}

async fn delete(
    broker: &Arc<Broker>,
    request: &OffsetDeleteRequest,
) -> Result<Vec<Result<(), ErrorCode>>, ErrorCode> {
    check_name(&request.group_id)?;
    let coordinator = broker.groups.of(broker, &request.group_id)?;
    let offsets: Vec<(String, i32)> = request
        .topics
        .iter()
        .flat_map(|topic| {
            topic
                .partitions
                .iter()
                .map(|partition| (topic.name.to_string(), partition.partition_index))
        })
        .collect();
    let (outcomes, appended) = coordinator.delete_offsets(broker, &request.group_id, &offsets)?;
    durable(appended).await?;
    Ok(outcomes)
}
