//! From a topic as a request names it (by name, or by id in newer versions) to the topic as metadata knows it.

use crate::broker::Broker;
use crate::wire::ErrorCode;
use kafka_protocol::protocol::StrBytes;
use std::cmp::Ordering;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::TopicId;
use varve_cluster::controller::{State, Topic};
use varve_log::LeaderEpoch;

/// A topic as the request names it; the name is empty where the version carries ids.
#[derive(Debug, Clone)]
pub(super) struct TopicKey {
    pub(super) name: StrBytes,
    pub(super) id: Uuid,
}

impl TopicKey {
    /// The topic, or the error Kafka has for this way of naming it: 3 for a name, 100 for an id (KIP-516).
    pub(super) fn find(&self, view: &State) -> Result<Arc<Topic>, ErrorCode> {
        if self.name.is_empty() && !self.id.is_nil() {
            return view
                .topic(TopicId::new(self.id))
                .cloned()
                .ok_or(ErrorCode::UnknownTopicId);
        }
        view.topic_named(&self.name)
            .cloned()
            .ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}

/// Why a partition was not found here: it exists elsewhere (or is not open yet), or it does not exist.
pub(super) fn missing(topic: &Topic, index: i32) -> ErrorCode {
    match topic.partition(index) {
        Some(_) => ErrorCode::NotLeaderOrFollower,
        None => ErrorCode::UnknownTopicOrPartition,
    }
}

/// The same where the broker is at hand, which knows one more reason: the log is here and could not be opened.
pub(super) fn not_served(broker: &Broker, topic: &Topic, index: i32) -> ErrorCode {
    if broker.partitions.is_closed(topic.id, index) {
        return ErrorCode::KafkaStorageError;
    }
    missing(topic, index)
}

/// A client that knows another leader epoch must look again (KIP-320); -1 knows none.
pub(super) fn check_epoch(asked: i32, ours: LeaderEpoch) -> Result<(), ErrorCode> {
    match asked.cmp(&ours.value()) {
        _ if asked < 0 => Ok(()),
        Ordering::Less => Err(ErrorCode::FencedLeaderEpoch),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(ErrorCode::UnknownLeaderEpoch),
    }
}
