//! OffsetFetch: what a group has committed. A partition nobody committed for answers -1, and no error.

use super::Caller;
use super::cluster_view::text;
use super::topics::TopicKey;
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::offset_fetch::request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use crate::wire::offset_fetch::response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use crate::wire::offset_fetch::{OffsetFetchRequest, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::groups::{Committed, Offsets};

/// From this version on a request names any number of groups.
const BATCHED: i16 = 8;
/// From this version on topics go by id.
const TOPIC_IDS: i16 = 10;
/// The first version with an error code for the whole answer; before it every partition carries it.
const TOP_LEVEL_ERROR: i16 = 2;
const NO_OFFSET: i64 = -1;

#[expect(clippy::unused_async, reason = "every handler has one shape")]
pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    if caller.version >= BATCHED {
        let groups = request
            .groups
            .into_iter()
            .map(|asked| fetch(broker, caller.version, asked))
            .collect();
        return OffsetFetchResponse {
            groups,
            ..Default::default()
        };
    }
    let topic =
        |topic: crate::wire::offset_fetch::request::OffsetFetchRequestTopic| OffsetFetchRequestTopics {
            name: topic.name,
            partition_indexes: topic.partition_indexes,
            ..Default::default()
        };
    let topics = request
        .topics
        .map(|topics| topics.into_iter().map(topic).collect());
    let asked = OffsetFetchRequestGroup {
        group_id: request.group_id,
        topics,
        ..Default::default()
    };
    single(fetch(broker, caller.version, asked))
}

fn fetch(broker: &Arc<Broker>, version: i16, asked: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let topics = asked.topics.clone();
    let found = broker.groups.of(broker, &asked.group_id).and_then(|coordinator| {
        coordinator.look(|shard| {
            let offsets = shard.offsets(&asked.group_id);
            match topics {
                Some(topics) => topics
                    .into_iter()
                    .map(|topic| some(broker, offsets, topic))
                    .collect(),
                None => all(broker, offsets, version),
            }
        })
    });
    match found {
        Ok(topics) => OffsetFetchResponseGroup {
            group_id: asked.group_id,
            topics,
            ..Default::default()
        },
        Err(code) => {
            // Partitions are listed with the error too where there is no other place for it.
            let listed = if version < TOP_LEVEL_ERROR {
                asked.topics.unwrap_or_default()
            } else {
                vec![]
            };
            let topics = listed.into_iter().map(|topic| failed(topic, code)).collect();
            OffsetFetchResponseGroup {
                group_id: asked.group_id,
                topics,
                error_code: code.code(),
            }
        }
    }
}

/// The partitions asked for.
fn some(
    broker: &Broker,
    offsets: Option<&Offsets>,
    asked: OffsetFetchRequestTopics,
) -> OffsetFetchResponseTopics {
    let by_id = asked.name.is_empty() && !asked.topic_id.is_nil();
    let name = if by_id {
        match (TopicKey {
            name: asked.name.clone(),
            id: asked.topic_id,
        })
        .find(&broker.view())
        {
            Ok(topic) => topic.name.to_string(),
            Err(code) => return failed(asked, code),
        }
    } else {
        asked.name.to_string()
    };
    let get = |index: &i32| partition(*index, offsets.and_then(|offsets| offsets.get(&name, *index)));
    let partitions = asked.partition_indexes.iter().map(get).collect();
    OffsetFetchResponseTopics {
        name: asked.name,
        topic_id: asked.topic_id,
        partitions,
    }
}

/// Everything the group has committed.
fn all(broker: &Broker, offsets: Option<&Offsets>, version: i16) -> Vec<OffsetFetchResponseTopics> {
    let view = broker.view();
    let mut topics: BTreeMap<&str, Vec<OffsetFetchResponsePartitions>> = BTreeMap::new();
    for (topic, index, committed) in offsets.into_iter().flat_map(Offsets::iter) {
        topics
            .entry(topic)
            .or_default()
            .push(partition(index, Some(committed)));
    }
    let topic = |(name, partitions): (&str, Vec<OffsetFetchResponsePartitions>)| {
        let id = view.topic_named(name).map(|topic| topic.id.uuid());
        if version >= TOPIC_IDS && id.is_none() {
            return None;
        }
        let topic_id = id.unwrap_or(Uuid::nil());
        Some(OffsetFetchResponseTopics {
            name: text(name),
            topic_id,
            partitions,
        })
    };
    topics.into_iter().filter_map(topic).collect()
}

fn partition(index: i32, committed: Option<&Committed>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: committed.map_or(NO_OFFSET, |committed| committed.offset),
        committed_leader_epoch: committed.map_or(-1, |committed| committed.leader_epoch),
        metadata: Some(committed.map_or_else(StrBytes::default, |committed| text(&committed.metadata))),
        ..Default::default()
    }
}

fn failed(asked: OffsetFetchRequestTopics, code: ErrorCode) -> OffsetFetchResponseTopics {
    let partitions = asked
        .partition_indexes
        .iter()
        .map(|index| OffsetFetchResponsePartitions {
            error_code: code.code(),
            ..partition(*index, None)
        });
    let partitions = partitions.collect();
    OffsetFetchResponseTopics {
        name: asked.name,
        topic_id: asked.topic_id,
        partitions,
    }
}

/// The answer in the versions for one group.
fn single(group: OffsetFetchResponseGroup) -> OffsetFetchResponse {
    let partition = |partition: OffsetFetchResponsePartitions| OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
    };
    let topic = |topic: OffsetFetchResponseTopics| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(partition).collect(),
    };
    OffsetFetchResponse {
        topics: group.topics.into_iter().map(topic).collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}
