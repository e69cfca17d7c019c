//! `__consumer_offsets` itself: made when the first client looks for its coordinator.

use std::sync::Arc;

use uuid::Uuid;
use varve_cluster::controller::command::CreateTopic;
use varve_cluster::controller::{Command, Rejected, placement};
use varve_cluster::topic_config::Overrides;
use varve_cluster::{TopicId, TopicName};

use crate::broker::Broker;
use crate::metadata::ProposeError;
use crate::wire::ErrorCode;

pub(crate) const NAME: &str = "__consumer_offsets";

/// As Kafka configures it. It never goes to the bucket: it is small, and rewritten all the time.
pub(crate) const CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("segment.bytes", "104857600"),
    ("remote.storage.enable", "false"),
];

/// Makes the topic, or finds that somebody else just has.
pub(super) async fn create(broker: &Arc<Broker>) -> Result<(), ErrorCode> {
    let unavailable = |reason: &dyn std::fmt::Display| {
        tracing::warn!(%reason, "{NAME} cannot be created: consumer groups are not available");
        ErrorCode::CoordinatorNotAvailable
    };
    let settings = broker.groups.config;
    let partitions = usize::try_from(settings.offsets_partitions).unwrap_or(1);
    let replicas = usize::try_from(settings.offsets_replication_factor).unwrap_or(1);
    let assignments =
        placement::place(&broker.view(), partitions, replicas, 0).map_err(|error| unavailable(&error))?;
    let configs: Overrides = CONFIGS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let name = TopicName::parse(NAME).map_err(|error| unavailable(&error))?;
    let create = CreateTopic {
        name,
        topic_id: TopicId::new(Uuid::new_v4()),
        assignments,
        configs,
    };
    match broker.propose(Command::CreateTopic(create)).await {
        Ok(_) | Err(ProposeError::Rejected(Rejected::TopicExists(_))) => Ok(()),
        Err(error) => Err(unavailable(&error)),
    }
}

/// The partition that keeps a group: Kafka's rule, so that tools that know it look in the right place.
pub(super) fn partition_of(group: &str, partitions: usize) -> i32 {
    let hash = group.encode_utf16().fold(0i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    });
    // Kafka's `abs`, whose one special case is the number that has no positive counterpart.
    let hash = if hash == i32::MIN { 0 } else { hash.abs() };
    hash % i32::try_from(partitions.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_where_kafka_would_put_them() {
        // Java: Math.abs("console-consumer-1".hashCode()) % 50 and the like.
        assert_eq!(partition_of("", 50), 0);
        assert_eq!(partition_of("a", 50), 97 % 50);
        assert_eq!(partition_of("ab", 50), (97 * 31 + 98) % 50);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert!((0..50).contains(&partition_of("größe-\u{1F600}", 50)));
    }
}
