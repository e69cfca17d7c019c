//! DescribeProducers: the idempotent producers a partition remembers.

use super::Caller;
use super::topics::not_served;
use crate::broker::Broker;
use crate::partition::Partition;
use crate::wire::ErrorCode;
use crate::wire::describe_producers::request::TopicRequest;
use crate::wire::describe_producers::response::{PartitionResponse, ProducerState, TopicResponse};
use crate::wire::describe_producers::{DescribeProducersRequest, DescribeProducersResponse};
use std::sync::Arc;
use varve_cluster::controller::State;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let view = broker.view();
    let topics = request
        .topics
        .iter()
        .map(|asked| topic(broker, &view, asked))
        .collect();
    DescribeProducersResponse {
        topics,
        ..Default::default()
    }
}

fn topic(broker: &Broker, view: &State, asked: &TopicRequest) -> TopicResponse {
    let partitions = asked
        .partition_indexes
        .iter()
        .map(|index| match find(broker, view, asked, *index) {
            Ok(partition) => PartitionResponse {
                partition_index: *index,
                active_producers: active(&partition),
                ..Default::default()
            },
            Err(error) => PartitionResponse {
                partition_index: *index,
                error_code: error.code(),
                ..Default::default()
            },
        });
    TopicResponse {
        name: asked.name.clone(),
        partitions: partitions.collect(),
    }
}

fn find(
    broker: &Broker,
    view: &State,
    asked: &TopicRequest,
    index: i32,
) -> Result<Arc<Partition>, ErrorCode> {
    let topic = view
        .topic_named(&asked.name)
        .ok_or(ErrorCode::UnknownTopicOrPartition)?;
    broker
        .partition(topic.id, index)
        .ok_or_else(|| not_served(broker, topic, index))
}

fn active(partition: &Partition) -> Vec<ProducerState> {
    let state = |producer: varve_log::ActiveProducer| ProducerState {
        producer_id: producer.id,
        producer_epoch: producer.epoch.into(),
        last_sequence: producer.last_sequence.unwrap_or(-1),
        last_timestamp: producer.last_timestamp.value(),
        // Nobody coordinates a producer outside transactions, which are not served.
        coordinator_epoch: -1,
        current_txn_start_offset: -1,
    };
    partition.with_log(|log| log.producers().active().map(state).collect())
}
