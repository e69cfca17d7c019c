//! Metadata: brokers, topics, partitions and their leaders; and, where both sides allow it, topics that come
//! into being because somebody asked for them.

use super::cluster_view::{self, CLUSTER_OPERATIONS, NO_OPERATIONS, Node, TOPIC_OPERATIONS, text};
use super::refusal::Refusal;
use super::{Caller, new_topic};
use crate::broker::Broker;
use crate::config::Config;
use crate::wire::ErrorCode;
use crate::wire::metadata::request::MetadataRequestTopic;
use crate::wire::metadata::response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::metadata::{MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::HashSet;
use std::sync::Arc;
use varve_cluster::controller::{Command, Partition, State, Topic};
use varve_cluster::topic_config::Overrides;
use varve_cluster::{TopicId, TopicName};

/// From this version on topics can be asked for by id.
const WITH_TOPIC_IDS: i16 = 12;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: MetadataRequest,
) -> MetadataResponse {
    let operations = if request.include_topic_authorized_operations {
        TOPIC_OPERATIONS
    } else {
        NO_OPERATIONS
    };
    let mut topics = Vec::new();
    match asked_topics(caller.version, &request) {
        None => {
            let view = broker.view();
            let by_name = view.topic_ids.values().filter_map(|id| view.topic(*id));
            topics.extend(by_name.map(|topic| known(&view, topic)));
        }
        Some(asked) => {
            let may_create = request.allow_auto_topic_creation && broker.config.auto_create_topics;
            for topic in asked {
                topics.push(answer(broker, caller.version, topic, may_create).await);
            }
        }
    }
    for topic in &mut topics {
        topic.topic_authorized_operations = operations;
    }
    let view = broker.view();
    let nodes = cluster_view::nodes(&broker.config, &view, caller).into_iter();
    MetadataResponse {
        brokers: nodes.filter(|node| !node.is_fenced).map(broker_answer).collect(),
        cluster_id: Some(text(&view.cluster_id)),
        controller_id: cluster_view::controller(&broker.config),
        topics,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NO_OPERATIONS
        },
        ..Default::default()
    }
}

/// The topics asked for, each once; `None` is all of them.
fn asked_topics(version: i16, request: &MetadataRequest) -> Option<Vec<&MetadataRequestTopic>> {
    let topics = request.topics.as_deref()?;
    // Version 0 has no null: there an empty list is all, later it is none.
    if version == 0 && topics.is_empty() {
        return None;
    }
    let mut seen = HashSet::new();
    Some(
        topics
            .iter()
            .filter(|topic| seen.insert((topic.topic_id, topic.name.as_deref())))
            .collect(),
    )
}

async fn answer(
    broker: &Broker,
    version: i16,
    asked: &MetadataRequestTopic,
    may_create: bool,
) -> MetadataResponseTopic {
    let view = broker.view();
    match find(&view, version, asked) {
        Ok(topic) => known(&view, &topic),
        Err(ErrorCode::UnknownTopicOrPartition) if may_create => {
            let name = asked.name.as_deref().unwrap_or_default();
            match create(broker, &view, name).await {
                Ok(topic) => known(&broker.view(), &topic),
                Err(error) => unknown(asked, error),
            }
        }
        Err(error) => unknown(asked, error),
    }
}

fn find(view: &State, version: i16, asked: &MetadataRequestTopic) -> Result<Arc<Topic>, ErrorCode> {
    if !asked.topic_id.is_nil() {
        if version < WITH_TOPIC_IDS {
            return Err(ErrorCode::InvalidRequest);
        }
        return view
            .topic(TopicId::new(asked.topic_id))
            .cloned()
            .ok_or(ErrorCode::UnknownTopicId);
    }
    let name = asked.name.as_deref().ok_or(ErrorCode::InvalidRequest)?;
    TopicName::parse(name).map_err(|_refused| ErrorCode::InvalidTopicException)?;
    view.topic_named(name)
        .cloned()
        .ok_or(ErrorCode::UnknownTopicOrPartition)
}

/// Makes the topic with the broker's defaults. The answer shows it at once, so the client need not ask again.
async fn create(broker: &Broker, view: &State, name: &str) -> Result<Arc<Topic>, ErrorCode> {
    let command = plan(&broker.config, view, name)?;
    match broker.propose(command).await.map_err(Refusal::from) {
        // Somebody else was faster: then it is there all the same.
        Ok(_)
        | Err(Refusal {
            error: ErrorCode::TopicAlreadyExists,
            ..
        }) => {}
        Err(refusal) => {
            tracing::warn!(topic = name, error = %refusal.error, "topic was not created automatically");
            return Err(ErrorCode::LeaderNotAvailable);
        }
    }
    tracing::info!(topic = name, "topic created because a client asked for it");
    broker
        .view()
        .topic_named(name)
        .cloned()
        .ok_or(ErrorCode::LeaderNotAvailable)
}

fn plan(config: &Config, view: &State, name: &str) -> Result<Command, ErrorCode> {
    // Internal topics are made by their coordinators, with a shape and configuration of their own.
    if TopicName::parse(name).is_ok_and(|name| name.is_internal()) {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    let planned = new_topic::placed(config, view, name, new_topic::Shape::default(), Overrides::new());
    planned.map(Command::CreateTopic).map_err(|refusal| refusal.error)
}

fn known(view: &State, topic: &Topic) -> MetadataResponseTopic {
    let partition = |(index, partition): (usize, &Partition)| {
        let seen = cluster_view::partition(view, partition);
        MetadataResponsePartition {
            error_code: seen.error.code(),
            partition_index: i32::try_from(index).unwrap_or(i32::MAX),
            leader_id: seen.leader,
            leader_epoch: seen.leader_epoch,
            replica_nodes: seen.replicas,
            isr_nodes: seen.isr,
            offline_replicas: seen.offline,
        }
    };
    MetadataResponseTopic {
        name: Some(text(topic.name.as_str())),
        topic_id: topic.id.uuid(),
        is_internal: topic.name.is_internal(),
        partitions: topic.partitions.iter().enumerate().map(partition).collect(),
        ..Default::default()
    }
}

fn unknown(asked: &MetadataRequestTopic, error: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code: error.code(),
        name: asked
            .name
            .clone()
            .or_else(|| asked.topic_id.is_nil().then(StrBytes::new)),
        topic_id: asked.topic_id,
        ..Default::default()
    }
}

fn broker_answer(node: Node) -> MetadataResponseBroker {
    MetadataResponseBroker {
        node_id: node.id.value(),
        host: node.host,
        port: node.port,
        rack: node.rack,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{alone, caller, config, with_topic};
    use super::*;
    use uuid::Uuid;

    fn by_name(name: &str) -> MetadataRequestTopic {
        MetadataRequestTopic {
            name: Some(text(name)),
            topic_id: Uuid::nil(),
        }
    }

    fn request(topics: Option<Vec<MetadataRequestTopic>>) -> MetadataRequest {
        MetadataRequest {
            topics,
            ..Default::default()
        }
    }

    #[test]
    fn no_list_means_all_topics_and_an_empty_one_only_in_version_0() {
        assert_eq!(asked_topics(1, &request(None)), None);
        assert_eq!(asked_topics(0, &request(Some(vec![]))), None);
        assert_eq!(asked_topics(1, &request(Some(vec![]))), Some(vec![]));
    }

    #[test]
    fn a_topic_named_twice_is_answered_once() {
        let request = request(Some(vec![by_name("a"), by_name("b"), by_name("a")]));

        assert_eq!(asked_topics(9, &request).unwrap().len(), 2);
    }

    #[test]
    fn topics_are_found_by_name_and_since_version_12_by_id() {
        let view = with_topic("orders", 1);
        let id = view.topic_named("orders").unwrap().id.uuid();
        let by_id = |topic_id| MetadataRequestTopic { name: None, topic_id };

        assert!(find(&view, 9, &by_name("orders")).is_ok());
        assert!(find(&view, 12, &by_id(id)).is_ok());
        for (version, asked, error) in [
            (10, by_id(id), ErrorCode::InvalidRequest),
            (12, by_id(Uuid::from_u128(7)), ErrorCode::UnknownTopicId),
            (12, by_id(Uuid::nil()), ErrorCode::InvalidRequest),
            (9, by_name("payments"), ErrorCode::UnknownTopicOrPartition),
            (9, by_name("a b"), ErrorCode::InvalidTopicException),
            (9, by_name(""), ErrorCode::InvalidTopicException),
        ] {
            assert_eq!(
                find(&view, version, &asked).unwrap_err(),
                error,
                "{version} {asked:?}"
            );
        }
    }

    #[test]
    fn a_topic_made_on_demand_has_the_broker_s_defaults() {
        let config = config(&[("num.partitions", "3")]);
        let Ok(Command::CreateTopic(create)) = plan(&config, &alone(), "orders") else {
            panic!("nothing speaks against it")
        };
        assert_eq!(create.assignments.len(), 3);
    }

    #[test]
    fn what_cannot_be_made_on_demand_is_an_error_that_says_why() {
        let more_replicas = config(&[("default.replication.factor", "3")]);
        let view = with_topic("a.b", 1);

        assert_eq!(
            plan(&config(&[]), &view, "a_b"),
            Err(ErrorCode::InvalidTopicException)
        );
        assert_eq!(
            plan(&more_replicas, &view, "orders"),
            Err(ErrorCode::InvalidReplicationFactor)
        );
        assert_eq!(
            plan(&config(&[]), &view, "__consumer_offsets"),
            Err(ErrorCode::UnknownTopicOrPartition)
        );
    }

    #[test]
    fn brokers_are_told_by_the_listener_the_client_came_in_on() {
        let nodes = cluster_view::nodes(&config(&[]), &alone(), &caller(9));

        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].host.as_str(), nodes[0].port), ("localhost", 9092));
    }
}
