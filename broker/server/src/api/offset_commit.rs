//! OffsetCommit: answered once the commit is below the high watermark of the group's log.

use super::Caller;
use super::groups::{code_of, durable, owned};
use super::topics::TopicKey;
use crate::broker::Broker;
use crate::coordinators::Commit;
use crate::wire::ErrorCode;
use crate::wire::offset_commit::request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use crate::wire::offset_commit::response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use crate::wire::offset_commit::{OffsetCommitRequest, OffsetCommitResponse};
use std::sync::Arc;
use varve_cluster::controller::Topic;
use varve_cluster::groups::{self, Committed};

/// Most metadata with one offset: Kafka's `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let now = broker.clock.now().value();
    // Only versions 2 to 4 carry a retention of their own.
    let expires = (request.retention_time_ms >= 0).then(|| now.saturating_add(request.retention_time_ms));
    let view = broker.view();
    let mut commits = Vec::new();
    let mut judged = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let found = TopicKey {
            name: topic.name.clone(),
            id: topic.topic_id,
        }
        .find(&view);
        let outcomes: Vec<_> = topic
            .partitions
            .iter()
            .map(|asked| check(&found, asked))
            .collect();
        if let Ok(found) = found {
            let accepted = topic
                .partitions
                .iter()
                .zip(&outcomes)
                .filter(|(_, outcome)| outcome.is_ok());
            commits.extend(accepted.map(|(asked, _)| commit(&found, asked, now, expires)));
        }
        judged.push((topic, outcomes));
    }
    let caller = groups::Caller {
        member_id: request.member_id.to_string(),
        instance_id: owned(&request.group_instance_id),
        generation: request.generation_id_or_member_epoch,
    };
    let outcome = append(broker, &request.group_id, &caller, commits).await;
    let topics = judged
        .into_iter()
        .map(|(topic, outcomes)| answer(topic, &outcomes, outcome))
        .collect();
    OffsetCommitResponse {
        topics,
        ..Default::default()
    }
}

async fn append(
    broker: &Arc<Broker>,
    group: &str,
    caller: &groups::Caller,
    commits: Vec<Commit>,
) -> Result<(), ErrorCode> {
    let appended = broker
        .groups
        .of(broker, group)?
        .commit(broker, group, caller, commits)?;
    durable(appended).await
}

fn check(
    topic: &Result<Arc<Topic>, ErrorCode>,
    asked: &OffsetCommitRequestPartition,
) -> Result<(), ErrorCode> {
    let topic = topic.as_ref().map_err(|code| *code)?;
    topic
        .partition(asked.partition_index)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let metadata = asked
        .committed_metadata
        .as_ref()
        .map_or(0, |metadata| metadata.len());
    if metadata > METADATA_BYTES_MAX {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    Ok(())
}

fn commit(topic: &Topic, asked: &OffsetCommitRequestPartition, now: i64, expires: Option<i64>) -> Commit {
    let offset = Committed {
        offset: asked.committed_offset,
        leader_epoch: asked.committed_leader_epoch,
        metadata: owned(&asked.committed_metadata).unwrap_or_default(),
        commit_timestamp: now,
        expire_timestamp: expires,
        topic_id: Some(topic.id.uuid()),
        log_offset: -1,
    };
    Commit {
        topic: topic.name.to_string(),
        partition: asked.partition_index,
        offset,
    }
}

fn answer(
    topic: OffsetCommitRequestTopic,
    outcomes: &[Result<(), ErrorCode>],
    appended: Result<(), ErrorCode>,
) -> OffsetCommitResponseTopic {
    let partition = |(asked, outcome): (&OffsetCommitRequestPartition, &Result<(), ErrorCode>)| {
        OffsetCommitResponsePartition {
            partition_index: asked.partition_index,
            error_code: code_of(outcome.and(appended)),
        }
    };
    let partitions = topic.partitions.iter().zip(outcomes).map(partition).collect();
    OffsetCommitResponseTopic {
        name: topic.name,
        topic_id: topic.topic_id,
        partitions,
    }
}
