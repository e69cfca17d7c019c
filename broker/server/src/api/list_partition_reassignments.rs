//! ListPartitionReassignments (KIP-455): which partitions have replicas that are coming or going.

use super::Caller;
use super::cluster_view::{numbers, text};
use crate::broker::Broker;
use crate::wire::list_partition_reassignments::request::ListPartitionReassignmentsTopics;
use crate::wire::list_partition_reassignments::response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use crate::wire::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use std::sync::Arc;
use varve_cluster::controller::{Partition, State};

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse {
        error_message: None,
        topics: ongoing(&broker.view(), request.topics.as_deref()),
        ..Default::default()
    }
}

/// Of those that are named, or of all; what does not exist is not on its way either.
fn ongoing(
    view: &State,
    named: Option<&[ListPartitionReassignmentsTopics]>,
) -> Vec<OngoingTopicReassignment> {
    let wanted = |topic: &str, index: i32| match named {
        None => true,
        Some(named) => named
            .iter()
            .any(|one| one.name.as_str() == topic && one.partition_indexes.contains(&index)),
    };
    let mut topics: Vec<OngoingTopicReassignment> = vec![];
    for (topic, index, partition) in view.reassignments() {
        if !wanted(topic.name.as_str(), index) {
            continue;
        }
        // Partitions of one topic come one after the other.
        match topics.last_mut() {
            Some(last) if last.name.as_str() == topic.name.as_str() => {
                last.partitions.push(tell(index, partition))
            }
            Some(_) | None => topics.push(OngoingTopicReassignment {
                name: text(topic.name.as_str()),
                partitions: vec![tell(index, partition)],
            }),
        }
    }
    topics
}

fn tell(index: i32, partition: &Partition) -> OngoingPartitionReassignment {
    OngoingPartitionReassignment {
        partition_index: index,
        replicas: numbers(&partition.replicas),
        adding_replicas: numbers(&partition.adding),
        removing_replicas: numbers(&partition.removing),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{add_broker, with_replicas};
    use super::*;
    use varve_cluster::BrokerId;
    use varve_cluster::controller::Command;
    use varve_cluster::controller::command::Reassign;

    #[test]
    fn what_is_under_way_is_told_until_it_is_not() {
        let mut view = with_replicas("orders", &[1, 2]);
        add_broker(&mut view, 3, 3);
        assert_eq!(ongoing(&view, None), []);
        let reassign = Command::Reassign(Reassign {
            topic_id: view.topic_named("orders").unwrap().id,
            partition: 0,
            replicas: Some([3, 1].map(BrokerId::new).to_vec()),
            any_replication_factor: true,
        });
        view.apply(view.applied + 1, &reassign).unwrap();

        let told = ongoing(&view, None);
        assert_eq!(told.len(), 1);
        let one = &told[0].partitions[0];
        assert_eq!(
            (
                &one.replicas[..],
                &one.adding_replicas[..],
                &one.removing_replicas[..]
            ),
            (&[3, 1, 2][..], &[3][..], &[2][..])
        );
        let named = |topic: &str, partition_indexes: &[i32]| ListPartitionReassignmentsTopics {
            name: text(topic),
            partition_indexes: partition_indexes.to_vec(),
        };
        assert_eq!(ongoing(&view, Some(&[named("orders", &[0])])).len(), 1);
        assert_eq!(
            ongoing(&view, Some(&[named("orders", &[1]), named("payments", &[0])])),
            []
        );
    }
}
