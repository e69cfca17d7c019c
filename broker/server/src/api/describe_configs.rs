//! DescribeConfigs: what is set for topics and brokers, with where each value comes from.

use super::Caller;
use super::cluster_view::text;
use super::config_changes::{self, BROKER, TOPIC};
use super::config_entries::{self, Entry, Synonym};
use super::refusal::{Refusal, told, topic_name};
use crate::broker::Broker;
use crate::config::Config;
use crate::wire::ErrorCode;
use crate::wire::describe_configs::request::DescribeConfigsResource;
use crate::wire::describe_configs::response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::wire::describe_configs::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use varve_cluster::controller::State;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let view = broker.view();
    let wanted = Wanted {
        synonyms: request.include_synonyms,
        documentation: request.include_documentation,
    };
    let describe = |resource| wanted.result(resource, entries(&broker.config, &view, resource));
    DescribeConfigsResponse {
        results: request.resources.iter().map(describe).collect(),
        ..Default::default()
    }
}

fn entries(config: &Config, view: &State, resource: &DescribeConfigsResource) -> Result<Vec<Entry>, Refusal> {
    let name = &resource.resource_name;
    let mut entries = match resource.resource_type {
        TOPIC => {
            topic_name(name)?;
            let topic = view.topic_named(name).ok_or_else(|| {
                let message = "This server does not host this topic-partition.";
                Refusal::new(ErrorCode::UnknownTopicOrPartition, message)
            })?;
            config_entries::of_topic(config, view, &topic.configs)
        }
        BROKER if name.is_empty() => config_entries::of_all_brokers(config, view),
        BROKER if config_changes::broker_id(name)?.value() == config.node_id => {
            config_entries::of_broker(config, view)
        }
        BROKER => {
            return Err(Refusal::invalid_request(format!(
                "Unexpected broker id, expected {} or empty string, but received {}",
                config.node_id,
                name.as_str()
            )));
        }
        other => return Err(config_changes::unsupported(other)),
    };
    if let Some(keys) = resource
        .configuration_keys
        .as_deref()
        .filter(|keys| !keys.is_empty())
    {
        entries.retain(|entry| keys.iter().any(|key| key.as_str() == entry.name));
    }
    Ok(entries)
}

/// What the client wants to know beyond the values.
struct Wanted {
    synonyms: bool,
    documentation: bool,
}

impl Wanted {
    fn result(
        &self,
        resource: &DescribeConfigsResource,
        entries: Result<Vec<Entry>, Refusal>,
    ) -> DescribeConfigsResult {
        let (error_code, error_message) = told(&entries);
        DescribeConfigsResult {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs: entries
                .into_iter()
                .flatten()
                .map(|entry| self.entry(entry))
                .collect(),
        }
    }

    fn entry(&self, entry: Entry) -> DescribeConfigsResourceResult {
        let synonyms = if self.synonyms { entry.synonyms } else { vec![] };
        DescribeConfigsResourceResult {
            name: text(&entry.name),
            value: entry.value.map(StrBytes::from_string),
            read_only: entry.read_only,
            config_source: entry.source.code(),
            // No key holds a secret: credentials come from the environment or the cloud's own files.
            is_sensitive: false,
            synonyms: synonyms.into_iter().map(synonym).collect(),
            config_type: entry.kind,
            documentation: self.documentation.then(|| text(&entry.doc)),
        }
    }
}

fn synonym(synonym: Synonym) -> DescribeConfigsSynonym {
    DescribeConfigsSynonym {
        name: StrBytes::from_static_str(synonym.name),
        value: Some(StrBytes::from_string(synonym.value)),
        source: synonym.source.code(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{config, with_topic};
    use super::*;

    fn ask(kind: i8, name: &str, keys: Option<&[&str]>) -> Result<Vec<Entry>, Refusal> {
        let resource = DescribeConfigsResource {
            resource_type: kind,
            resource_name: text(name),
            configuration_keys: keys.map(|keys| keys.iter().map(|key| text(key)).collect()),
        };
        entries(&config(&[]), &with_topic("orders", 1), &resource)
    }

    #[test]
    fn only_the_keys_asked_for_are_told_and_none_means_all() {
        assert_eq!(
            ask(TOPIC, "orders", Some(&["retention.ms", "no.such.key"]))
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            ask(TOPIC, "orders", Some(&[])).unwrap(),
            ask(TOPIC, "orders", None).unwrap()
        );
    }

    #[test]
    fn what_is_not_here_is_refused_as_kafka_does() {
        for (kind, name, error) in [
            (TOPIC, "payments", ErrorCode::UnknownTopicOrPartition),
            (TOPIC, "a b", ErrorCode::InvalidTopicException),
            (BROKER, "2", ErrorCode::InvalidRequest),
            (BROKER, "one", ErrorCode::InvalidRequest),
            (1, "orders", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(ask(kind, name, None).unwrap_err().error, error, "{kind} {name}");
        }
        assert!(!ask(BROKER, "1", None).unwrap().is_empty());
    }

    #[test]
    fn synonyms_and_documentation_are_told_only_when_asked_for() {
        let entry = ask(TOPIC, "orders", Some(&["retention.bytes"]))
            .unwrap()
            .remove(0);
        let short = Wanted {
            synonyms: false,
            documentation: false,
        }
        .entry(entry.clone());
        let long = Wanted {
            synonyms: true,
            documentation: true,
        }
        .entry(entry);

        assert_eq!((short.synonyms.len(), short.documentation), (0, None));
        assert_eq!((long.synonyms.len(), long.documentation.is_some()), (1, true));
    }
}
