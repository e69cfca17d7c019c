//! AlterPartitionReassignments (KIP-455, KIP-860): other replicas for a partition, or what is under way taken back.
//!
//! Answered when the metadata quorum has taken it; that the new replicas have caught up, ListPartitionReassignments
//! tells.

use super::Caller;
use super::refusal::{Refusal, rehearse, told};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::alter_partition_reassignments::request::ReassignablePartition;
use crate::wire::alter_partition_reassignments::response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use crate::wire::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
};
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use varve_cluster::BrokerId;
use varve_cluster::controller::command::Reassign;
use varve_cluster::controller::{Command, State};

/// Changes that wait for the metadata quorum at the same time.
const AT_ONCE: usize = 64;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let any_factor = request.allow_replication_factor_change;
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let change = async |asked: ReassignablePartition| {
            let changed = match plan(&broker.view(), &topic.name, &asked, any_factor) {
                Ok(command) => change(broker, command, deadline).await,
                Err(refusal) => Err(refusal),
            };
            let (error_code, error_message) = told(&changed);
            ReassignablePartitionResponse {
                partition_index: asked.partition_index,
                error_code,
                error_message,
            }
        };
        let changes = futures::stream::iter(topic.partitions).map(change);
        responses.push(ReassignableTopicResponse {
            name: topic.name.clone(),
            partitions: changes.buffered(AT_ONCE).collect().await,
        });
    }
    AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: any_factor,
        error_message: None,
        responses,
        ..Default::default()
    }
}

async fn change(broker: &Broker, command: Command, deadline: Instant) -> Result<(), Refusal> {
    match tokio::time::timeout_at(deadline, broker.propose(command)).await {
        Ok(outcome) => outcome.map(drop).map_err(Refusal::from),
        Err(_elapsed) => Err(Refusal::new(
            ErrorCode::RequestTimedOut,
            "The metadata quorum has not taken it yet.",
        )),
    }
}

fn plan(
    view: &State,
    name: &str,
    asked: &ReassignablePartition,
    any_factor: bool,
) -> Result<Command, Refusal> {
    let unknown = |message| Refusal::new(ErrorCode::UnknownTopicOrPartition, message);
    let topic = view
        .topic_named(name)
        .ok_or_else(|| unknown(format!("Unable to find a topic named {name}.")))?;
    let index = asked.partition_index;
    if topic.partition(index).is_none() {
        return Err(unknown(format!("Unable to find partition {name}:{index}.")));
    }
    let brokers = |ids: &Vec<i32>| ids.iter().copied().map(BrokerId::new).collect();
    let command = Command::Reassign(Reassign {
        topic_id: topic.id,
        partition: index,
        replicas: asked.replicas.as_ref().map(brokers),
        any_replication_factor: any_factor,
    });
    rehearse(view, &command)?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{add_broker, with_replicas};
    use super::*;

    fn ask(
        view: &State,
        index: i32,
        replicas: Option<&[i32]>,
        any_factor: bool,
    ) -> Result<Command, ErrorCode> {
        let asked = ReassignablePartition {
            partition_index: index,
            replicas: replicas.map(<[i32]>::to_vec),
        };
        plan(view, "orders", &asked, any_factor).map_err(|refusal| refusal.error)
    }

    #[test]
    fn what_cannot_be_is_refused_in_kafka_s_terms() {
        let mut view = with_replicas("orders", &[1, 2]);
        add_broker(&mut view, 3, 3);
        for (index, replicas, any_factor, error) in [
            (1, Some(&[1][..]), true, ErrorCode::UnknownTopicOrPartition),
            (0, Some(&[]), true, ErrorCode::InvalidReplicaAssignment),
            (0, Some(&[1, 1]), true, ErrorCode::InvalidReplicaAssignment),
            (0, Some(&[1, 9]), true, ErrorCode::InvalidReplicaAssignment),
            (0, Some(&[1, -1]), true, ErrorCode::InvalidReplicaAssignment),
            (0, Some(&[1, 2, 3]), false, ErrorCode::InvalidReplicationFactor),
            (0, None, true, ErrorCode::NoReassignmentInProgress),
        ] {
            assert_eq!(
                ask(&view, index, replicas, any_factor),
                Err(error),
                "{replicas:?}"
            );
        }
        assert!(ask(&view, 0, Some(&[1, 2, 3]), true).is_ok());
        assert!(ask(&view, 0, Some(&[1, 3]), false).is_ok());
    }

    #[test]
    fn what_is_under_way_can_be_taken_back() {
        let mut view = with_replicas("orders", &[1, 2]);
        add_broker(&mut view, 3, 3);
        let moving = ask(&view, 0, Some(&[3, 1]), true).unwrap();
        view.apply(view.applied + 1, &moving).unwrap();

        let back = ask(&view, 0, None, true).unwrap();
        view.apply(view.applied + 1, &back).unwrap();

        let partition = view.topic_named("orders").unwrap().partition(0).unwrap();
        assert_eq!(partition.replicas, [1, 2].map(BrokerId::new));
    }
}
