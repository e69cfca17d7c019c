//! IncrementalAlterConfigs: single keys set, deleted, or changed as lists; the rest stays as it is.

use super::Caller;
use super::config_changes::{self, resource};
use super::refusal::{Refusal, told};
use crate::broker::Broker;
use crate::wire::incremental_alter_configs::request::{AlterConfigsResource, AlterableConfig};
use crate::wire::incremental_alter_configs::response::AlterConfigsResourceResponse;
use crate::wire::incremental_alter_configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use varve_cluster::controller::ConfigOp;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let keys = request
        .resources
        .iter()
        .map(|asked| (asked.resource_type, asked.resource_name.as_str()));
    let repeated = repeated_resources(keys);
    let mut answered = BTreeSet::new();
    let mut responses = Vec::with_capacity(request.resources.len());
    for asked in &request.resources {
        let key = (asked.resource_type, asked.resource_name.as_str());
        if !answered.insert(key) {
            continue;
        }
        let changed = if repeated.contains(&key) {
            Err(Refusal::invalid_request(
                "Each resource must appear at most once.",
            ))
        } else {
            alter(broker, asked, request.validate_only).await
        };
        let (error_code, error_message) = told(&changed);
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: asked.resource_type,
            resource_name: asked.resource_name.clone(),
        });
    }
    IncrementalAlterConfigsResponse {
        responses,
        ..Default::default()
    }
}

/// Resources that a request has more than once: nobody knows which of the changes is meant to stay.
pub(super) fn repeated_resources<'a>(keys: impl Iterator<Item = (i8, &'a str)>) -> BTreeSet<(i8, &'a str)> {
    let mut seen = BTreeSet::new();
    keys.filter(|key| !seen.insert(*key)).collect()
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

    #[test]
    fn a_resource_named_twice_is_found_once() {
        let keys = [(2, "a"), (2, "b"), (4, "a"), (2, "a"), (2, "a")];
        assert_eq!(repeated_resources(keys.into_iter()), BTreeSet::from([(2, "a")]));
    }
}
