//! AlterConfigs, the older way to configure: what the request does not name goes back to its default.

use super::Caller;
use super::config_changes::{self, each_once, resource};
use super::refusal::{Refusal, told};
use crate::broker::Broker;
use crate::wire::alter_configs::request::AlterConfigsResource;
use crate::wire::alter_configs::response::AlterConfigsResourceResponse;
use crate::wire::alter_configs::{AlterConfigsRequest, AlterConfigsResponse};
use std::collections::BTreeSet;
use std::sync::Arc;
use varve_cluster::controller::{ConfigOp, ConfigResource, State};

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let change = async |asked| replace(broker, asked, request.validate_only).await;
    let changed = each_once(
        &request.resources,
        |asked| (asked.resource_type, asked.resource_name.as_str()),
        change,
    )
    .await;
    let responses = changed.iter().map(|(asked, changed)| {
        let (error_code, error_message) = told(changed);
        AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: asked.resource_type,
            resource_name: asked.resource_name.clone(),
        }
    });
    AlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}

async fn replace(broker: &Broker, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    let view = broker.view();
    let resource = resource(&view, asked.resource_type, &asked.resource_name)?;
    let ops = replacement(&view, resource, asked)?;
    config_changes::change(broker, resource, ops, validate_only).await
}

fn replacement(
    view: &State,
    resource: ConfigResource,
    asked: &AlterConfigsResource,
) -> Result<Vec<ConfigOp>, Refusal> {
    let mut ops = Vec::with_capacity(asked.configs.len());
    for config in &asked.configs {
        let Some(value) = &config.value else {
            let message = format!("Null value not supported for : {}", config.name.as_str());
            return Err(Refusal::invalid_request(message));
        };
        ops.push(ConfigOp::Set {
            key: config.name.to_string(),
            value: value.to_string(),
        });
    }
    let current = match resource {
        ConfigResource::Topic(id) => view.topic(id).map(|topic| &topic.configs),
        ConfigResource::Broker(Some(id)) => view.broker_configs.get(&id),
        ConfigResource::Broker(None) => Some(&view.default_broker_configs),
    };
    let kept: BTreeSet<&str> = asked.configs.iter().map(|config| config.name.as_str()).collect();
    let dropped = current
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .filter(|key| !kept.contains(key.as_str()));
    ops.extend(dropped.map(|key| ConfigOp::Delete { key: key.clone() }));
    Ok(ops)
}

#[cfg(test)]
mod tests {
    use super::super::cluster_view::text;
    use super::super::test_cluster::with_topic;
    use super::*;
    use crate::wire::alter_configs::request::AlterableConfig;
    use varve_cluster::controller::Command;

    #[test]
    fn what_is_not_named_goes_back_to_its_default() {
        let mut view = with_topic("orders", 1);
        let topic = resource(&view, config_changes::TOPIC, "orders").unwrap();
        let set = |key: &str| ConfigOp::Set {
            key: key.to_owned(),
            value: "70000".to_owned(),
        };
        let before = Command::AlterConfigs {
            resource: topic,
            ops: vec![set("retention.ms"), set("segment.ms")],
        };
        view.apply(view.applied + 1, &before).unwrap();

        let asked = AlterConfigsResource {
            resource_type: config_changes::TOPIC,
            resource_name: text("orders"),
            configs: vec![AlterableConfig {
                name: text("segment.ms"),
                value: Some(text("80000")),
            }],
        };
        let ops = replacement(&view, topic, &asked).unwrap();

        assert!(matches!(&ops[0], ConfigOp::Set { key, value } if key == "segment.ms" && value == "80000"));
        assert!(matches!(&ops[1], ConfigOp::Delete { key } if key == "retention.ms"));
        assert_eq!(ops.len(), 2);
    }
}
