//! OffsetForLeaderEpoch: where the largest epoch not above the asked one ends (KIP-101, KIP-279, KIP-320).

use super::Caller;
use super::topics::{TopicKey, check_epoch, not_served};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::offset_for_leader_epoch::request::OffsetForLeaderPartition;
use crate::wire::offset_for_leader_epoch::response::{EpochEndOffset, OffsetForLeaderTopicResult};
use crate::wire::offset_for_leader_epoch::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::controller::Topic;
use varve_log::{LeaderEpoch, Offset};

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let view = broker.view();
    let topics = request.topics.into_iter().map(|topic| {
        let found = TopicKey {
            name: topic.topic.clone(),
            id: Uuid::nil(),
        }
        .find(&view);
        let partitions = topic
            .partitions
            .iter()
            .map(|asked| answer(broker, &found, asked))
            .collect();
        OffsetForLeaderTopicResult {
            topic: topic.topic,
            partitions,
        }
    });
    OffsetForLeaderEpochResponse {
        topics: topics.collect(),
        ..Default::default()
    }
}

fn answer(
    broker: &Broker,
    topic: &Result<Arc<Topic>, ErrorCode>,
    asked: &OffsetForLeaderPartition,
) -> EpochEndOffset {
    let (error, epoch, end) = match end_of(broker, topic, asked) {
        Ok((epoch, end)) => (ErrorCode::None, epoch.value(), end.value()),
        Err(code) => (code, -1, -1),
    };
    EpochEndOffset {
        error_code: error.code(),
        partition: asked.partition,
        leader_epoch: epoch,
        end_offset: end,
    }
}

fn end_of(
    broker: &Broker,
    topic: &Result<Arc<Topic>, ErrorCode>,
    asked: &OffsetForLeaderPartition,
) -> Result<(LeaderEpoch, Offset), ErrorCode> {
    let topic = topic.as_ref().map_err(|code| *code)?;
    let partition = broker
        .partition(topic.id, asked.partition)
        .ok_or_else(|| not_served(broker, topic, asked.partition))?;
    check_epoch(asked.current_leader_epoch, partition.leader_epoch())?;
    let epoch = LeaderEpoch::new(asked.leader_epoch);
    let found = partition.with_log(|log| log.epochs().end_offset_for(epoch, log.log_end()));
    // An epoch before everything known: -1, -1, as Kafka's UNDEFINED_EPOCH.
    Ok(found.unwrap_or((LeaderEpoch::new(-1), Offset::new(-1))))
}
