//! DeleteTopics, by name or by id. A deleted topic is gone for clients at once; its bytes follow.

use super::Caller;
use super::cluster_view::text;
use super::create_topics::repeated;
use super::refusal::{Refusal, told};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::delete_topics::request::DeleteTopicState;
use crate::wire::delete_topics::response::DeletableTopicResult;
use crate::wire::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::TopicId;
use varve_cluster::controller::{Command, State, Topic};

/// From this version on there is an error code of its own for brokers that delete nothing.
const WITH_DELETION_DISABLED: i16 = 3;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let by_name = |name| DeleteTopicState {
        name: Some(name),
        topic_id: Uuid::nil(),
    };
    let asked: Vec<_> = request
        .topics
        .into_iter()
        .chain(request.topic_names.into_iter().map(by_name))
        .collect();
    let keys: Vec<String> = asked.iter().map(key).collect();
    let repeated = repeated(keys.iter().map(String::as_str));
    let mut answered = BTreeSet::new();
    let mut responses = Vec::new();
    for (topic, key) in asked.iter().zip(&keys) {
        if !answered.insert(key) {
            continue;
        }
        let deleted = if repeated.contains(key.as_str()) {
            Err(Refusal::invalid_request("Duplicate topic name or id."))
        } else if broker.config.delete_topics {
            delete(broker, topic).await
        } else {
            Err(deletion_disabled(caller.version))
        };
        responses.push(answer(topic, &deleted));
    }
    DeleteTopicsResponse {
        responses,
        ..Default::default()
    }
}

/// What makes two entries of a request the same one.
fn key(topic: &DeleteTopicState) -> String {
    topic.name.as_ref().map_or_else(
        || topic.topic_id.to_string(),
        |name| format!("name {}", name.as_str()),
    )
}

async fn delete(broker: &Broker, topic: &DeleteTopicState) -> Result<Arc<Topic>, Refusal> {
    let found = find(&broker.view(), topic)?;
    broker
        .propose(Command::DeleteTopic { topic_id: found.id })
        .await?;
    tracing::info!(topic = %found.name, id = %found.id, "topic deleted");
    Ok(found)
}

fn find(view: &State, topic: &DeleteTopicState) -> Result<Arc<Topic>, Refusal> {
    match &topic.name {
        Some(_) if !topic.topic_id.is_nil() => Err(Refusal::invalid_request(
            "You may not specify both topic name and topic id.",
        )),
        Some(name) => view.topic_named(name).cloned().ok_or_else(|| {
            let message = "This server does not host this topic-partition.";
            Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
        }),
        None if topic.topic_id.is_nil() => Err(Refusal::invalid_request(
            "Neither topic name nor id were specified.",
        )),
        None => view.topic(TopicId::new(topic.topic_id)).cloned().ok_or_else(|| {
            Refusal::new(
                ErrorCode::UnknownTopicId,
                "This server does not host this topic ID.",
            )
        }),
    }
}

fn deletion_disabled(version: i16) -> Refusal {
    let error = if version < WITH_DELETION_DISABLED {
        ErrorCode::InvalidRequest
    } else {
        ErrorCode::TopicDeletionDisabled
    };
    Refusal::new(error, "Topic deletion is disabled.")
}

fn answer(asked: &DeleteTopicState, deleted: &Result<Arc<Topic>, Refusal>) -> DeletableTopicResult {
    let (error_code, error_message) = told(deleted);
    let (name, topic_id) = match deleted {
        Ok(topic) => (Some(text(topic.name.as_str())), topic.id.uuid()),
        Err(_) => (asked.name.clone(), asked.topic_id),
    };
    DeletableTopicResult {
        name,
        topic_id,
        error_code,
        error_message,
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::with_topic;
    use super::*;

    fn by(name: Option<&str>, topic_id: Uuid) -> DeleteTopicState {
        DeleteTopicState {
            name: name.map(text),
            topic_id,
        }
    }

    #[test]
    fn a_topic_is_found_by_name_or_by_id_but_not_by_both() {
        let view = with_topic("orders", 1);
        let id = view.topic_named("orders").unwrap().id.uuid();

        assert_eq!(
            find(&view, &by(Some("orders"), Uuid::nil())).unwrap().id.uuid(),
            id
        );
        assert_eq!(find(&view, &by(None, id)).unwrap().id.uuid(), id);
        for (name, id, error) in [
            (Some("orders"), id, ErrorCode::InvalidRequest),
            (None, Uuid::nil(), ErrorCode::InvalidRequest),
            (Some("payments"), Uuid::nil(), ErrorCode::UnknownTopicOrPartition),
            (None, Uuid::from_u128(7), ErrorCode::UnknownTopicId),
        ] {
            assert_eq!(
                find(&view, &by(name, id)).unwrap_err().error,
                error,
                "{name:?} {id}"
            );
        }
    }
}
