//! Topics and their configuration: create, grow, configure, trim, delete, and what they take on disk.

use std::collections::BTreeMap;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, IncrementalAlterConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::error::{check, check_with};
use super::{Client, Result, Topic, partition_name, topic_key, topic_name};

const TIMEOUT_MS: i32 = 30_000;
/// Kafka's number for "a topic" among configuration resources.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

/// A topic to create. `None` leaves the choice to the broker's defaults.
#[derive(Debug, Default)]
pub(crate) struct NewTopic<'a> {
    pub(crate) name: &'a str,
    pub(crate) partitions: Option<i32>,
    pub(crate) replication_factor: Option<i16>,
    pub(crate) configs: Vec<(String, String)>,
}

/// One configuration of a topic, and where its value comes from.
#[derive(Debug)]
pub(crate) struct ConfigEntry {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    /// Set on this topic itself rather than inherited.
    pub(crate) of_topic: bool,
    pub(crate) source: &'static str,
}

impl Client {
    pub(crate) fn create_topic(&mut self, new: &NewTopic<'_>) -> Result<()> {
        let config = |(name, value): &(String, String)| {
            CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_key(new.name))
            .with_num_partitions(new.partitions.unwrap_or(-1))
            .with_replication_factor(new.replication_factor.unwrap_or(-1))
            .with_configs(new.configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS);
        for result in self.any().call(&request)?.topics {
            check_with(result.error_code, result.error_message.as_deref(), || {
                topic_name(new.name)
            })?;
        }
        Ok(())
    }

    pub(crate) fn delete_topic(&mut self, name: &str) -> Result<()> {
        let request = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
        // Version 6 can name topics by id and moved the field.
        let request = match self.any().version_for::<DeleteTopicsRequest>(i16::MAX)? {
            ..6 => request.with_topic_names(vec![topic_key(name)]),
            6.. => request.with_topics(vec![DeleteTopicState::default().with_name(Some(topic_key(name)))]),
        };
        for result in self.any().call(&request)?.responses {
            check_with(result.error_code, result.error_message.as_deref(), || {
                topic_name(name)
            })?;
        }
        Ok(())
    }

    /// Lets a topic grow to `count` partitions in all.
    pub(crate) fn create_partitions(&mut self, name: &str, count: i32) -> Result<()> {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_key(name))
            .with_count(count)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(TIMEOUT_MS);
        for result in self.any().call(&request)?.results {
            check_with(result.error_code, result.error_message.as_deref(), || {
                topic_name(name)
            })?;
        }
        Ok(())
    }

    pub(crate) fn topic_configs(&mut self, name: &str) -> Result<Vec<ConfigEntry>> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let mut entries = Vec::new();
        for result in self.any().call(&request)?.results {
            check_with(result.error_code, result.error_message.as_deref(), || {
                topic_name(name)
            })?;
            entries.extend(result.configs.into_iter().map(config_entry));
        }
        entries.sort_by(|a: &ConfigEntry, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The configuration of some broker of the cluster, by key. Secrets come without their value.
    pub(crate) fn broker_configs(&mut self) -> Result<BTreeMap<String, Option<String>>> {
        let Some(id) = self.addresses.keys().next().copied() else {
            return Ok(BTreeMap::new());
        };
        let resource = DescribeConfigsResource::default()
            .with_resource_type(RESOURCE_BROKER)
            .with_resource_name(text(&id.to_string()))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let mut configs = BTreeMap::new();
        for result in self.broker(id)?.call(&request)?.results {
            check_with(result.error_code, result.error_message.as_deref(), || {
                format!("broker {id}")
            })?;
            let config = |one: DescribeConfigsResourceResult| {
                (one.name.to_string(), one.value.map(|value| value.to_string()))
            };
            configs.extend(result.configs.into_iter().map(config));
        }
        Ok(configs)
    }

    /// Sets each key to its value, or back to its default where there is none.
    pub(crate) fn alter_topic_configs(
        &mut self,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<()> {
        let change = |(key, value): (&String, &Option<String>)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(if value.is_some() {
                    OPERATION_SET
                } else {
                    OPERATION_DELETE
                })
                .with_value(value.as_deref().map(text))
        };
        let resource = AlterConfigsResource::default()
            .with_resource_type(RESOURCE_TOPIC)
            .with_resource_name(text(name))
            .with_configs(changes.iter().map(change).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        for result in self.any().call(&request)?.responses {
            check_with(result.error_code, result.error_message.as_deref(), || {
                topic_name(name)
            })?;
        }
        Ok(())
    }

    /// Deletes what lies before the given offset of each partition; -1 means all there is. Answers the new starts.
    pub(crate) fn delete_records(
        &mut self,
        topic: &Topic,
        before: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>> {
        let mut starts = BTreeMap::new();
        for (leader, partitions) in topic.by_leader(before.keys().copied())? {
            let partition = |index: &i32| {
                DeleteRecordsPartition::default()
                    .with_partition_index(*index)
                    .with_offset(before.get(index).copied().unwrap_or(-1))
            };
            let asked = DeleteRecordsTopic::default()
                .with_name(topic_key(&topic.name))
                .with_partitions(partitions.iter().map(partition).collect());
            let request = DeleteRecordsRequest::default()
                .with_topics(vec![asked])
                .with_timeout_ms(TIMEOUT_MS);
            let answer = self.broker(leader)?.call(&request)?;
            for partition in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
                check(partition.error_code, || {
                    partition_name(&topic.name, partition.partition_index)
                })?;
                starts.insert(partition.partition_index, partition.low_watermark);
            }
        }
        Ok(starts)
    }

    /// Bytes each partition takes on the disks of the broker that leads it.
    pub(crate) fn local_bytes(&mut self, topic: &Topic) -> Result<BTreeMap<i32, i64>> {
        let mut bytes = BTreeMap::new();
        for (leader, partitions) in topic.by_leader(topic.indices())? {
            let asked = DescribableLogDirTopic::default()
                .with_topic(topic_key(&topic.name))
                .with_partitions(partitions.clone());
            let request = DescribeLogDirsRequest::default().with_topics(Some(vec![asked]));
            for dir in self.broker(leader)?.call(&request)?.results {
                check(dir.error_code, || format!("log directory '{}'", &*dir.log_dir))?;
                for partition in dir.topics.into_iter().flat_map(|topic| topic.partitions) {
                    *bytes.entry(partition.partition_index).or_insert(0) += partition.partition_size;
                }
            }
        }
        Ok(bytes)
    }
}

impl Topic {
    pub(crate) fn indices(&self) -> impl Iterator<Item = i32> + '_ {
        self.partitions.iter().map(|partition| partition.index)
    }

    /// The partitions asked for, by the broker that leads them.
    pub(super) fn by_leader(&self, asked: impl IntoIterator<Item = i32>) -> Result<BTreeMap<i32, Vec<i32>>> {
        let mut groups: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for index in asked {
            let subject = || partition_name(&self.name, index);
            let Some(partition) = self.partitions.iter().find(|partition| partition.index == index) else {
                check(UNKNOWN_TOPIC_OR_PARTITION, subject)?;
                continue;
            };
            match partition.leader {
                Some(leader) => groups.entry(leader).or_default().push(index),
                None => check(super::LEADER_NOT_AVAILABLE, subject)?,
            }
        }
        Ok(groups)
    }
}

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

fn config_entry(found: DescribeConfigsResourceResult) -> ConfigEntry {
    let source = match found.config_source {
        1 => "topic",
        2 => "broker (dynamic)",
        3 => "cluster (dynamic)",
        4 => "server.properties",
        _ => "default",
    };
    ConfigEntry {
        name: found.name.to_string(),
        value: found.value.map(|value| value.to_string()),
        of_topic: found.config_source == 1,
        source,
    }
}

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}
