//! DescribeTopicPartitions (KIP-966): topics partition by partition, a bounded number at a time.

use super::Caller;
use super::cluster_view::{self, TOPIC_OPERATIONS, numbers, text};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::describe_topic_partitions::response::{
    Cursor, DescribeTopicPartitionsResponsePartition as PartitionAnswer,
    DescribeTopicPartitionsResponseTopic as TopicAnswer,
};
use crate::wire::describe_topic_partitions::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use varve_cluster::TopicName;
use varve_cluster::controller::{Partition, State, Topic};

/// Partitions of one answer at most, whatever is asked: Kafka's `max.request.partition.size.limit`.
const PARTITIONS_MAX: usize = 2000;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    describe(&broker.view(), &request)
}

fn describe(view: &State, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let names: BTreeSet<&str> = if request.topics.is_empty() {
        view.topic_ids.keys().map(TopicName::as_str).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.as_str()).collect()
    };
    let (from, mut skip) = match &request.cursor {
        Some(cursor) => (
            cursor.topic_name.as_str(),
            usize::try_from(cursor.partition_index).unwrap_or(0),
        ),
        None => ("", 0),
    };
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut room = limit.clamp(1, PARTITIONS_MAX);
    let mut answer = DescribeTopicPartitionsResponse {
        next_cursor: None,
        ..Default::default()
    };
    for name in names.range(from..) {
        let first = if *name == from {
            std::mem::take(&mut skip)
        } else {
            0
        };
        if room == 0 {
            answer.next_cursor = Some(cursor(name, first));
            break;
        }
        let Some(topic) = view.topic_named(name) else {
            answer.topics.push(unknown(name));
            continue;
        };
        let described = topic_answer(view, topic, first, room);
        room -= described.partitions.len();
        let next = first + described.partitions.len();
        answer.topics.push(described);
        if next < topic.partitions.len() {
            answer.next_cursor = Some(cursor(name, next));
            break;
        }
    }
    answer
}

fn topic_answer(view: &State, topic: &Topic, first: usize, room: usize) -> TopicAnswer {
    let partitions = topic.partitions.iter().enumerate().skip(first).take(room);
    TopicAnswer {
        name: Some(text(topic.name.as_str())),
        topic_id: topic.id.uuid(),
        is_internal: topic.name.is_internal(),
        partitions: partitions
            .map(|(index, partition)| partition_answer(view, index, partition))
            .collect(),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}

fn partition_answer(view: &State, index: usize, partition: &Partition) -> PartitionAnswer {
    let seen = cluster_view::partition(view, partition);
    PartitionAnswer {
        error_code: seen.error.code(),
        partition_index: i32::try_from(index).unwrap_or(i32::MAX),
        leader_id: seen.leader,
        leader_epoch: seen.leader_epoch,
        replica_nodes: seen.replicas,
        isr_nodes: seen.isr,
        eligible_leader_replicas: Some(numbers(&partition.eligible)),
        last_known_elr: Some(numbers(&partition.last_known)),
        offline_replicas: seen.offline,
    }
}

fn unknown(name: &str) -> TopicAnswer {
    let error = match TopicName::parse(name) {
        Ok(_) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    TopicAnswer {
        error_code: error.code(),
        name: Some(text(name)),
        ..Default::default()
    }
}

fn cursor(name: &str, partition: usize) -> Cursor {
    Cursor {
        topic_name: text(name),
        partition_index: i32::try_from(partition).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{add_topic, with_topic};
    use super::*;
    use crate::wire::describe_topic_partitions::request;

    fn ask(limit: i32, from: Option<(&str, i32)>) -> DescribeTopicPartitionsResponse {
        let mut view = with_topic("b", 3);
        add_topic(&mut view, "a", 2);
        let cursor = from.map(|(name, partition_index)| request::Cursor {
            topic_name: text(name),
            partition_index,
        });
        let request = DescribeTopicPartitionsRequest {
            response_partition_limit: limit,
            cursor,
            ..Default::default()
        };
        describe(&view, &request)
    }

    fn told(answer: &DescribeTopicPartitionsResponse) -> Vec<(String, Vec<i32>)> {
        let topic = |topic: &TopicAnswer| {
            let indexes = topic
                .partitions
                .iter()
                .map(|partition| partition.partition_index)
                .collect();
            (topic.name.as_ref().unwrap().to_string(), indexes)
        };
        answer.topics.iter().map(topic).collect()
    }

    #[test]
    fn topics_come_by_name_and_an_empty_list_means_all() {
        let answer = ask(100, None);

        assert_eq!(
            told(&answer),
            [("a".to_owned(), vec![0, 1]), ("b".to_owned(), vec![0, 1, 2])]
        );
        assert_eq!(answer.next_cursor, None);
    }

    #[test]
    fn a_cursor_goes_on_where_the_answer_was_full() {
        let mut from: Option<(String, i32)> = None;
        let mut all = vec![];
        for _ in 0..10 {
            let answer = ask(2, from.as_ref().map(|(name, index)| (name.as_str(), *index)));
            all.extend(
                told(&answer).into_iter().flat_map(|(name, indexes)| {
                    indexes.into_iter().map(move |index| format!("{name}-{index}"))
                }),
            );
            from = answer
                .next_cursor
                .map(|next| (next.topic_name.to_string(), next.partition_index));
            if from.is_none() {
                break;
            }
        }
        assert_eq!(all, ["a-0", "a-1", "b-0", "b-1", "b-2"]);
    }

    #[test]
    fn the_limit_is_at_least_one_partition() {
        assert_eq!(told(&ask(-5, None)), [("a".to_owned(), vec![0])]);
    }
}
