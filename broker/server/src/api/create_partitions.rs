//! CreatePartitions: more partitions for topics that exist. Records stay where they are, so keys move.

use super::cluster_view::text;
use super::create_topics::repeated;
use super::refusal::{Refusal, rehearse, told};
use super::{Caller, new_topic};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::create_partitions::request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use crate::wire::create_partitions::response::CreatePartitionsTopicResult;
use crate::wire::create_partitions::{CreatePartitionsRequest, CreatePartitionsResponse};
use std::sync::Arc;
use varve_cluster::BrokerId;
use varve_cluster::controller::{Command, State, Topic};

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let repeated = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in request
        .topics
        .iter()
        .filter(|topic| !repeated.contains(topic.name.as_str()))
    {
        let added = match plan(&broker.view(), topic) {
            Ok(command) if !request.validate_only => {
                broker.propose(command).await.map(drop).map_err(Refusal::from)
            }
            planned => planned.map(drop),
        };
        results.push(result(&topic.name, &added));
    }
    let duplicate = Err(Refusal::invalid_request("Duplicate topic name."));
    results.extend(repeated.iter().map(|name| result(name, &duplicate)));
    CreatePartitionsResponse {
        results,
        ..Default::default()
    }
}

fn plan(view: &State, asked: &CreatePartitionsTopic) -> Result<Command, Refusal> {
    let topic = view.topic_named(&asked.name).ok_or_else(|| {
        let message = "This server does not host this topic-partition.";
        Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    let added = added(topic, asked.count)?;
    let assignments = match &asked.assignments {
        None => {
            let replicas = i32::try_from(replication_factor(topic)).unwrap_or(i32::MAX);
            new_topic::place(view, added, replicas, topic.id)?
        }
        Some(assignments) => assigned(topic, added, assignments)?,
    };
    let command = Command::AddPartitions {
        topic_id: topic.id,
        assignments,
    };
    rehearse(view, &command)?;
    Ok(command)
}

/// How many partitions are new.
fn added(topic: &Topic, count: i32) -> Result<i32, Refusal> {
    let current = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let refused = |message| Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    if count == current {
        return refused(format!("Topic already has {current} partition(s)."));
    }
    if count < current {
        return refused(format!(
            "The topic {} currently has {current} partition(s); {count} would not be an increase.",
            topic.name
        ));
    }
    Ok(count - current)
}

fn assigned(
    topic: &Topic,
    added: i32,
    assignments: &[CreatePartitionsAssignment],
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let refused = |message| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
    if usize::try_from(added) != Ok(assignments.len()) {
        return refused(format!(
            "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
            assignments.len()
        ));
    }
    let wanted = replication_factor(topic);
    let mut placed = Vec::with_capacity(assignments.len());
    for assignment in assignments {
        let replicas = new_topic::named(&assignment.broker_ids)?;
        if replicas.len() != wanted {
            return refused(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not \
                 consistent with previous partitions, which have {wanted} replica(s).",
                replicas.len()
            ));
        }
        placed.push(replicas);
    }
    Ok(placed)
}

fn replication_factor(topic: &Topic) -> usize {
    topic.partition(0).map_or(1, |partition| partition.replicas.len())
}

fn result(name: &str, outcome: &Result<(), Refusal>) -> CreatePartitionsTopicResult {
    let (error_code, error_message) = told(outcome);
    CreatePartitionsTopicResult {
        name: text(name),
        error_code,
        error_message,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::with_topic;
    use super::*;

    fn ask(count: i32, assignments: Option<&[&[i32]]>) -> Result<Command, Refusal> {
        let of = |brokers: &&[i32]| CreatePartitionsAssignment {
            broker_ids: brokers.to_vec(),
        };
        let assignments = assignments.map(|all| all.iter().map(of).collect());
        plan(
            &with_topic("orders", 2),
            &CreatePartitionsTopic {
                name: text("orders"),
                count,
                assignments,
            },
        )
    }

    #[test]
    fn a_topic_only_grows() {
        for (count, error) in [
            (2, ErrorCode::InvalidPartitions),
            (1, ErrorCode::InvalidPartitions),
            (-1, ErrorCode::InvalidPartitions),
            (i32::MAX, ErrorCode::PolicyViolation),
        ] {
            assert_eq!(ask(count, None).unwrap_err().error, error, "{count}");
        }
        let Ok(Command::AddPartitions { assignments, .. }) = ask(5, None) else {
            panic!("5 is more than 2")
        };
        assert_eq!(assignments, vec![vec![BrokerId::new(1)]; 3]);
    }

    #[test]
    fn an_assignment_has_to_fit_the_topic() {
        assert!(ask(3, Some(&[&[1]])).is_ok());
        for (count, assignments) in [
            (4, vec![&[1][..]]),
            (3, vec![&[1, 1][..]]),
            (3, vec![&[1, 2][..]]),
            (3, vec![&[9][..]]),
            (3, vec![&[][..]]),
        ] {
            let error = ask(count, Some(&assignments)).unwrap_err().error;
            assert_eq!(error, ErrorCode::InvalidReplicaAssignment, "{assignments:?}");
        }
    }
}
