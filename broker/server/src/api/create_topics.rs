//! CreateTopics: each topic of the request for itself; one that is refused does not hinder the others.

use super::config_entries::{self, Entry};
use super::new_topic::{self, Shape};
use super::refusal::{Refusal, told};
use super::{Caller, cluster_view::text};
use crate::broker::Broker;
use crate::config::{Config, PARTITIONS_MAX};
use crate::wire::ErrorCode;
use crate::wire::create_topics::request::CreatableTopic;
use crate::wire::create_topics::response::{CreatableTopicConfigs, CreatableTopicResult};
use crate::wire::create_topics::{CreateTopicsRequest, CreateTopicsResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use varve_cluster::BrokerId;
use varve_cluster::controller::command::CreateTopic;
use varve_cluster::controller::{Command, State};
use varve_cluster::topic_config::Overrides;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let repeated = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut planned_partitions = 0;
    for topic in request
        .topics
        .iter()
        .filter(|topic| !repeated.contains(topic.name.as_str()))
    {
        let view = broker.view();
        let plan = plan(&broker.config, &view, topic, &mut planned_partitions);
        let created = match plan {
            Ok(create) if !request.validate_only => propose(broker, create).await,
            planned => planned,
        };
        topics.push(answer(&broker.config, &view, topic, created));
    }
    let duplicate: Result<(), _> = Err(Refusal::invalid_request("Duplicate topic name."));
    topics.extend(repeated.iter().map(|name| result(name, &duplicate)));
    CreateTopicsResponse {
        topics,
        ..Default::default()
    }
}

async fn propose(broker: &Broker, create: CreateTopic) -> Result<CreateTopic, Refusal> {
    broker.propose(Command::CreateTopic(create.clone())).await?;
    tracing::info!(topic = %create.name, id = %create.topic_id, partitions = create.assignments.len(), "topic created");
    Ok(create)
}

/// Names that a request has more than once: neither of the two is right.
pub(super) fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}

fn plan(
    config: &Config,
    view: &State,
    topic: &CreatableTopic,
    planned_partitions: &mut i32,
) -> Result<CreateTopic, Refusal> {
    let configs = configs_of(topic)?;
    let create = if topic.assignments.is_empty() {
        let shape = Shape {
            partitions: (topic.num_partitions != -1).then_some(topic.num_partitions),
            replication_factor: (topic.replication_factor != -1).then_some(topic.replication_factor),
        };
        new_topic::placed(config, view, &topic.name, shape, configs)?
    } else {
        new_topic::assigned(config, view, &topic.name, assignments_of(topic)?, configs)?
    };
    *planned_partitions += i32::try_from(create.assignments.len()).unwrap_or(i32::MAX);
    if *planned_partitions > PARTITIONS_MAX {
        return Err(Refusal::new(
            ErrorCode::PolicyViolation,
            "Excessively large number of partitions per request.",
        ));
    }
    Ok(create)
}

fn configs_of(topic: &CreatableTopic) -> Result<Overrides, Refusal> {
    let with_value = |config: &crate::wire::create_topics::request::CreatableTopicConfig| {
        let value = config.value.as_ref().ok_or_else(|| {
            let message = format!(
                "Null value not supported for topic configs: {}",
                config.name.as_str()
            );
            Refusal::new(ErrorCode::InvalidConfig, message)
        })?;
        Ok((config.name.to_string(), value.to_string()))
    };
    topic.configs.iter().map(with_value).collect()
}

/// The client's own assignment, by partition; metadata judges the brokers in it.
fn assignments_of(topic: &CreatableTopic) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    for (value, name) in [
        (topic.num_partitions, "numPartitions"),
        (topic.replication_factor.into(), "replicationFactor"),
    ] {
        if value != -1 {
            return Err(Refusal::invalid_request(format!(
                "A manual partition assignment was specified, but {name} was not set to -1."
            )));
        }
    }
    let mut by_partition = BTreeMap::new();
    for assignment in &topic.assignments {
        by_partition.insert(
            assignment.partition_index,
            new_topic::named(&assignment.broker_ids)?,
        );
    }
    let consecutive = by_partition.keys().zip(0..).all(|(index, place)| *index == place);
    if !consecutive || by_partition.len() != topic.assignments.len() {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ));
    }
    Ok(by_partition.into_values().collect())
}

fn answer(
    config: &Config,
    view: &State,
    topic: &CreatableTopic,
    created: Result<CreateTopic, Refusal>,
) -> CreatableTopicResult {
    let failed = result(&topic.name, &created);
    let Ok(create) = created else { return failed };
    CreatableTopicResult {
        topic_id: create.topic_id.uuid(),
        num_partitions: i32::try_from(create.assignments.len()).unwrap_or(i32::MAX),
        replication_factor: create
            .assignments
            .first()
            .map_or(-1, |replicas| i16::try_from(replicas.len()).unwrap_or(i16::MAX)),
        configs: Some(
            config_entries::of_topic(config, view, &create.configs)
                .iter()
                .map(entry)
                .collect(),
        ),
        ..failed
    }
}

fn result<T>(name: &str, outcome: &Result<T, Refusal>) -> CreatableTopicResult {
    let (error_code, error_message) = told(outcome);
    CreatableTopicResult {
        name: text(name),
        error_code,
        error_message,
        ..Default::default()
    }
}

fn entry(entry: &Entry) -> CreatableTopicConfigs {
    CreatableTopicConfigs {
        name: text(&entry.name),
        value: entry.value.as_deref().map(text),
        read_only: entry.read_only,
        config_source: entry.source.code(),
        is_sensitive: false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{alone, config, with_topic};
    use super::*;
    use crate::wire::create_topics::request::{CreatableReplicaAssignment, CreatableTopicConfig};

    fn asked(name: &str, num_partitions: i32, replication_factor: i16) -> CreatableTopic {
        CreatableTopic {
            name: text(name),
            num_partitions,
            replication_factor,
            ..Default::default()
        }
    }

    #[test]
    fn an_internal_topic_that_a_client_creates_is_what_its_coordinator_would_have_made() {
        let offsets = "__consumer_offsets";
        let made = plan(&config(&[]), &alone(), &asked(offsets, -1, -1), &mut 0).unwrap();
        assert_eq!(made.assignments.len(), 50);
        let policy = made.configs.get("cleanup.policy").map(String::as_str);
        assert_eq!(policy, Some("compact"));

        // As in Kafka, an explicit number is taken.
        let one = plan(&config(&[]), &alone(), &asked(offsets, 1, 1), &mut 0).unwrap();
        assert_eq!(one.assignments.len(), 1);
        assert_eq!(one.configs, made.configs);
        assert!(plan(&config(&[]), &alone(), &asked("__cluster_metadata", 1, 1), &mut 0).is_err());
    }

    fn with_config(key: &str, value: Option<&str>) -> CreatableTopic {
        let configs = vec![CreatableTopicConfig {
            name: text(key),
            value: value.map(text),
        }];
        CreatableTopic {
            configs,
            ..asked("orders", 1, 1)
        }
    }

    fn with_assignments(assignments: &[(i32, &[i32])]) -> CreatableTopic {
        let assignment = |(partition_index, brokers): &(i32, &[i32])| CreatableReplicaAssignment {
            partition_index: *partition_index,
            broker_ids: brokers.to_vec(),
        };
        let assignments = assignments.iter().map(assignment).collect();
        CreatableTopic {
            assignments,
            ..asked("orders", -1, -1)
        }
    }

    fn judge(topic: &CreatableTopic) -> Result<CreateTopic, Refusal> {
        plan(
            &config(&[("num.partitions", "4")]),
            &with_topic("a.b", 1),
            topic,
            &mut 0,
        )
    }

    #[test]
    fn minus_one_stands_for_the_broker_s_default() {
        let create = judge(&asked("orders", -1, -1)).unwrap();

        assert_eq!(create.assignments, vec![vec![BrokerId::new(1)]; 4]);
    }

    #[test]
    fn what_kafka_refuses_is_refused_with_its_code() {
        use ErrorCode as E;
        for (topic, error) in [
            (asked("", 1, 1), E::InvalidTopicException),
            (asked("..", 1, 1), E::InvalidTopicException),
            (asked(&"x".repeat(250), 1, 1), E::InvalidTopicException),
            (asked("a_b", 1, 1), E::InvalidTopicException),
            (asked("a.b", 1, 1), E::TopicAlreadyExists),
            (asked("__cluster_metadata", 1, 1), E::InvalidRequest),
            (asked("orders", 0, 1), E::InvalidPartitions),
            (asked("orders", -2, 1), E::InvalidPartitions),
            (asked("orders", i32::MAX, 1), E::PolicyViolation),
            (asked("orders", 1, 0), E::InvalidReplicationFactor),
            (asked("orders", 1, -2), E::InvalidReplicationFactor),
            (asked("orders", 1, 2), E::InvalidReplicationFactor),
            (with_config("no.such.key", Some("1")), E::InvalidConfig),
            (with_config("retention.ms", Some("soon")), E::InvalidConfig),
            (with_config("retention.ms", None), E::InvalidConfig),
            (
                with_config("remote.storage.enable", Some("true")),
                E::InvalidConfig,
            ),
        ] {
            assert_eq!(judge(&topic).unwrap_err().error, error, "{topic:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let refusal = judge(&with_config("no.such.key", Some("1"))).unwrap_err();

        assert!(refusal.message().unwrap().contains("no.such.key"));
    }

    #[test]
    fn assignments_name_every_partition_once_and_live_brokers_only() {
        use ErrorCode as E;
        assert!(judge(&with_assignments(&[(1, &[1]), (0, &[1])])).is_ok());
        for assignments in [
            &[(1, &[1][..])][..],
            &[(0, &[1]), (0, &[1])],
            &[(0, &[])],
            &[(0, &[1, 1])],
            &[(0, &[2])],
        ] {
            let error = judge(&with_assignments(assignments)).unwrap_err().error;
            assert_eq!(error, E::InvalidReplicaAssignment, "{assignments:?}");
        }
        let both = CreatableTopic {
            num_partitions: 1,
            ..with_assignments(&[(0, &[1])])
        };
        assert_eq!(judge(&both).unwrap_err().error, E::InvalidRequest);
    }

    #[test]
    fn the_partitions_of_one_request_are_bounded_together() {
        let (config, view, mut planned) = (config(&[]), alone(), 0);
        assert!(plan(&config, &view, &asked("a", 6000, 1), &mut planned).is_ok());

        let refusal = plan(&config, &view, &asked("b", 6000, 1), &mut planned).unwrap_err();

        assert_eq!(refusal.error, ErrorCode::PolicyViolation);
    }

    #[test]
    fn a_topic_named_twice_is_created_neither_time() {
        assert_eq!(repeated(["a", "b", "a", "a"].into_iter()), BTreeSet::from(["a"]));
    }
}
