//! A topic's configuration as it is in force on this broker: its own values, then dynamic broker values, then
//! `server.properties`, then the defaults.

use crate::config::{Config, Flush};
use std::sync::Arc;
use std::time::Duration;
use varve_cluster::BrokerId;
use varve_cluster::controller::{State, Topic};
use varve_cluster::topic_config::{self, TopicConfig};
use varve_log::{Settings, TimestampType};

/// Kafka's broker key that switches tiering on. Here the bucket does.
pub(crate) const TIERING_KEY: &str = "remote.log.storage.system.enable";

/// What is in force for `topic`.
pub(crate) fn of(config: &Config, view: &State, topic: &Topic) -> Arc<TopicConfig> {
    let broker = |key: &str| broker_value(config, view, key);
    let resolved = topic_config::resolve(&topic.configs, topic.name.is_internal(), &broker);
    Arc::new(resolved.unwrap_or_else(|error| {
        // Each value was checked when it was set; only a change of a broker default can contradict a topic later.
        tracing::error!(topic = %topic.name, %error, "topic configuration contradicts the broker's; the topic's own values are in force");
        let own = topic_config::resolve(&topic.configs, topic.name.is_internal(), &|_| None);
        own.expect("a topic's own values were checked together when they were set")
    }))
}

/// A broker key's value: dynamic, then static.
pub(crate) fn broker_value(config: &Config, view: &State, key: &str) -> Option<String> {
    let dynamic = view
        .broker_config(BrokerId::new(config.node_id), key)
        .map(str::to_owned);
    let given = dynamic.or_else(|| config.given.get(key).cloned());
    match key {
        // Tiering is on wherever there is a bucket.
        TIERING_KEY => Some(config.bucket.is_some().to_string()),
        _ => given,
    }
}

/// The part of a topic's configuration that its logs obey.
pub(crate) fn log(config: &TopicConfig, flush: Flush) -> Settings {
    Settings {
        segment_bytes: config.segment_bytes,
        segment_age: millis(config.segment_ms),
        index_interval_bytes: config.index_interval_bytes,
        max_message_bytes: config.max_message_bytes,
        timestamp_type: match config.message_timestamp_type {
            topic_config::TimestampType::CreateTime => TimestampType::CreateTime,
            topic_config::TimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max: Some(millis(config.message_timestamp_before_max_ms)),
        timestamp_after_max: Some(millis(config.message_timestamp_after_max_ms)),
        sync_on_seal: flush == Flush::Group,
    }
}

fn millis(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}
