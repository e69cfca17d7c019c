//! What a topic to be created is made of, judged as Kafka judges it. Shared by CreateTopics and by the
//! automatic creation in Metadata.

use uuid::Uuid;
use varve_cluster::controller::command::CreateTopic;
use varve_cluster::controller::{Command, State, placement};
use varve_cluster::topic_config::Overrides;
use varve_cluster::{BrokerId, TopicId, TopicName};

use super::config_changes;
use super::refusal::{Refusal, rehearse, topic_name};
use crate::config::{Config, PARTITIONS_MAX};
use crate::coordinators;
use crate::wire::ErrorCode;

/// How many partitions and replicas, as asked for; `None` is the broker's default.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    pub(super) partitions: Option<i32>,
    pub(super) replication_factor: Option<i16>,
}

/// A topic whose replicas are placed by us.
pub(super) fn placed(
    config: &Config,
    view: &State,
    name: &str,
    shape: Shape,
    configs: Overrides,
) -> Result<CreateTopic, Refusal> {
    let name = free_name(view, name)?;
    let (partitions, replicas) = if name.as_str() == coordinators::OFFSETS_TOPIC {
        let groups = &config.groups;
        (groups.offsets_partitions, groups.offsets_replication_factor)
    } else {
        (config.partitions_default, config.replication_factor_default)
    };
    let partitions = shape.partitions.unwrap_or(partitions);
    let replicas = shape.replication_factor.unwrap_or(replicas);
    if partitions <= 0 {
        let message = "Number of partitions was set to an invalid non-positive value.";
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    let configs = with_internal_defaults(&name, configs);
    let topic_id = TopicId::new(Uuid::new_v4());
    let assignments = place(view, partitions, i32::from(replicas), topic_id)?;
    checked(
        config,
        view,
        CreateTopic {
            name,
            topic_id,
            assignments,
            configs,
        },
    )
}

/// A topic whose replicas were chosen by the client.
pub(super) fn assigned(
    config: &Config,
    view: &State,
    name: &str,
    assignments: Vec<Vec<BrokerId>>,
    configs: Overrides,
) -> Result<CreateTopic, Refusal> {
    let name = free_name(view, name)?;
    let configs = with_internal_defaults(&name, configs);
    let topic_id = TopicId::new(Uuid::new_v4());
    checked(
        config,
        view,
        CreateTopic {
            name,
            topic_id,
            assignments,
            configs,
        },
    )
}

/// Kafka lets anybody create an internal topic before its coordinator does, and then leaves it to delete offsets by
/// retention. Here it gets what its coordinator would have given it, where the client says nothing else.
fn with_internal_defaults(name: &TopicName, mut configs: Overrides) -> Overrides {
    if name.is_internal() {
        for (key, value) in coordinators::TOPIC_CONFIGS {
            configs.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    configs
}

/// The replicas of one partition as a client names them; whether the brokers exist, metadata says.
pub(super) fn named(broker_ids: &[i32]) -> Result<Vec<BrokerId>, Refusal> {
    let refused = |message: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
    if broker_ids.is_empty() {
        return refused("The manual partition assignment includes an empty replica list.".to_owned());
    }
    for (at, broker) in broker_ids.iter().enumerate() {
        if broker_ids[..at].contains(broker) {
            return refused(format!(
                "The manual partition assignment includes the broker {broker} more than once."
            ));
        }
    }
    Ok(broker_ids.iter().map(|id| BrokerId::new(*id)).collect())
}

/// Replicas for `partitions` new partitions of the topic.
pub(super) fn place(
    view: &State,
    partitions: i32,
    replication_factor: i32,
    topic: TopicId,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let Some(count) = usize::try_from(partitions)
        .ok()
        .filter(|_| partitions <= PARTITIONS_MAX)
    else {
        return Err(Refusal::new(
            ErrorCode::PolicyViolation,
            "Excessively large number of partitions per request.",
        ));
    };
    let replicas = usize::try_from(replication_factor).unwrap_or(0);
    // Any number that differs from topic to topic; ids are random.
    let start = topic.uuid().as_u64_pair().0 >> 1;
    Ok(placement::place(
        view,
        count,
        replicas,
        usize::try_from(start).unwrap_or_default(),
    )?)
}

fn free_name(view: &State, name: &str) -> Result<TopicName, Refusal> {
    let name = topic_name(name)?;
    if name.as_str() == "__cluster_metadata" {
        return Err(Refusal::invalid_request(
            "Creation of internal topic __cluster_metadata is prohibited.",
        ));
    }
    if view.topic_named(name.as_str()).is_some() {
        let message = format!("Topic '{name}' already exists.");
        return Err(Refusal::new(ErrorCode::TopicAlreadyExists, message));
    }
    if let Some(existing) = view.collision(&name) {
        let message = format!("Topic '{name}' collides with existing topic: {existing}");
        return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
    }
    Ok(name)
}

fn checked(config: &Config, view: &State, create: CreateTopic) -> Result<CreateTopic, Refusal> {
    config_changes::check_topic(config, view, &create.configs, create.name.is_internal())?;
    rehearse(view, &Command::CreateTopic(create.clone()))?;
    Ok(create)
}
