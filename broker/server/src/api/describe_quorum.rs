//! DescribeQuorum: the metadata quorum as its leader sees it; one node alone is its own leader and only voter.

use super::Caller;
use super::cluster_view::text;
use crate::broker::Broker;
use crate::metadata::replicated::{QuorumReplica, QuorumView};
use crate::wire::ErrorCode;
use crate::wire::describe_quorum::response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use crate::wire::describe_quorum::{DescribeQuorumRequest, DescribeQuorumResponse};
use std::sync::Arc;
use varve_cluster::BrokerId;
use varve_cluster::controller::State;
use varve_log::Timestamp;

const METADATA_TOPIC: &str = "__cluster_metadata";
/// A quorum of one elects once, when it is formed.
const ONLY_TERM: i32 = 1;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let (view, now) = (broker.view(), broker.clock.now());
    let described = match &broker.membership {
        Some(membership) => several(membership.describe_quorum().await, now),
        None => quorum(&view, broker.id(), now),
    };
    let topics = request.topics.into_iter().map(|topic| {
        let describe = |index: i32| match (topic.topic_name.as_str(), index) {
            (METADATA_TOPIC, 0) => described.clone(),
            _ => unknown(index),
        };
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| describe(partition.partition_index))
            .collect();
        TopicData {
            topic_name: topic.topic_name,
            partitions,
        }
    });
    DescribeQuorumResponse {
        topics: topics.collect(),
        nodes: view.brokers.keys().map(|id| node(&view, *id)).collect(),
        error_message: None,
        ..Default::default()
    }
}

fn quorum(view: &State, me: BrokerId, now: Timestamp) -> PartitionData {
    // Where the next command will stand.
    let end = i64::try_from(view.applied).unwrap_or(i64::MAX).saturating_add(1);
    let directory = view
        .brokers
        .get(&me)
        .and_then(|broker| broker.directories.first());
    let voter = ReplicaState {
        replica_id: me.value(),
        replica_directory_id: directory.copied().unwrap_or_default(),
        log_end_offset: end,
        last_fetch_timestamp: now.value(),
        last_caught_up_timestamp: now.value(),
    };
    PartitionData {
        leader_id: me.value(),
        leader_epoch: ONLY_TERM,
        high_watermark: end,
        current_voters: vec![voter],
        error_message: None,
        ..Default::default()
    }
}

fn several(view: Option<QuorumView>, now: Timestamp) -> PartitionData {
    let Some(view) = view else {
        return PartitionData {
            error_code: ErrorCode::LeaderNotAvailable.code(),
            ..Default::default()
        };
    };
    let leader = view.leader;
    let state = |replica: &QuorumReplica| {
        // The leader itself is always where it is.
        let when = |ago: Option<i64>| match ago {
            Some(ago) => now.value() - ago,
            None if replica.id == leader => now.value(),
            None => -1,
        };
        ReplicaState {
            replica_id: replica.id.value(),
            replica_directory_id: replica.directory,
            log_end_offset: replica.log_end.unwrap_or(-1),
            last_fetch_timestamp: when(replica.fetched_ago),
            last_caught_up_timestamp: when(replica.caught_up_ago),
        }
    };
    PartitionData {
        leader_id: leader.value(),
        leader_epoch: view.epoch,
        high_watermark: view.high_watermark,
        current_voters: view.voters.iter().map(state).collect(),
        observers: view.observers.iter().map(state).collect(),
        ..Default::default()
    }
}

fn node(view: &State, me: BrokerId) -> Node {
    let listeners = view
        .brokers
        .get(&me)
        .into_iter()
        .flat_map(|broker| &broker.listeners);
    let listeners = listeners.map(|listener| Listener {
        name: text(&listener.name),
        host: text(&listener.host),
        port: listener.port,
    });
    Node {
        node_id: me.value(),
        listeners: listeners.collect(),
    }
}

fn unknown(partition_index: i32) -> PartitionData {
    PartitionData {
        partition_index,
        error_code: ErrorCode::UnknownTopicOrPartition.code(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::alone;
    use super::*;

    #[test]
    fn one_node_leads_and_lags_behind_nobody() {
        let quorum = quorum(&alone(), BrokerId::new(1), Timestamp::new(42));

        assert_eq!((quorum.leader_id, quorum.high_watermark), (1, 3));
        assert_eq!(quorum.current_voters.len(), 1);
        assert_eq!(quorum.current_voters[0].log_end_offset, quorum.high_watermark);
    }
}
