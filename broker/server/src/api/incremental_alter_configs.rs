//! IncrementalAlterConfigs: single keys set, deleted, or changed as lists; the rest stays as it is.

use super::Caller;
use super::config_changes::{self, each_once, resource};
use super::refusal::{Refusal, told};
use crate::broker::Broker;
use crate::wire::incremental_alter_configs::request::{AlterConfigsResource, AlterableConfig};
use crate::wire::incremental_alter_configs::response::AlterConfigsResourceResponse;
use crate::wire::incremental_alter_configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use std::sync::Arc;
use varve_cluster::controller::ConfigOp;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let change = async |asked| alter(broker, asked, request.validate_only).await;
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
    IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}

async fn alter(broker: &Broker, asked: &AlterConfigsResource, validate_only: bool) -> Result<(), Refusal> {
    let resource = resource(&broker.view(), asked.resource_type, &asked.resource_name)?;
    let ops = asked.configs.iter().map(op).collect::<Result<_, _>>()?;
    config_changes::change(broker, resource, ops, validate_only).await
}

fn op(config: &AlterableConfig) -> Result<ConfigOp, Refusal> {
    const DELETE: i8 = 1;
    let key = config.name.to_string();
    if config.config_operation == DELETE {
        return Ok(ConfigOp::Delete { key });
    }
    let Some(value) = config.value.as_ref().map(ToString::to_string) else {
        return Err(Refusal::invalid_request(format!(
            "Null value not supported for : {key}"
        )));
    };
    match config.config_operation {
        0 => Ok(ConfigOp::Set { key, value }),
        2 => Ok(ConfigOp::Append { key, value }),
        3 => Ok(ConfigOp::Subtract { key, value }),
        other => Err(Refusal::invalid_request(format!(
            "Unknown operation type {other} for config {key}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cluster_view::text;
    use super::*;
    use crate::wire::ErrorCode;

    fn config(operation: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig {
            name: text("k"),
            config_operation: operation,
            value: value.map(text),
        }
    }

    #[test]
    fn operations_go_by_kafka_s_numbers() {
        assert!(matches!(op(&config(0, Some("v"))), Ok(ConfigOp::Set { .. })));
        assert!(matches!(op(&config(1, None)), Ok(ConfigOp::Delete { .. })));
        assert!(matches!(op(&config(2, Some("v"))), Ok(ConfigOp::Append { .. })));
        assert!(matches!(op(&config(3, Some("v"))), Ok(ConfigOp::Subtract { .. })));
    }

    #[test]
    fn only_a_deletion_needs_no_value() {
        for bad in [
            config(0, None),
            config(2, None),
            config(4, Some("v")),
            config(-1, Some("v")),
        ] {
            assert_eq!(op(&bad).unwrap_err().error, ErrorCode::InvalidRequest, "{bad:?}");
        }
    }
}
