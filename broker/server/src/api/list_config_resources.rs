//! ListConfigResources: what has a configuration, by type.

use super::Caller;
use super::cluster_view::text;
use super::config_changes::{BROKER, BROKER_LOGGER, TOPIC};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::list_config_resources::response::ConfigResource;
use crate::wire::list_config_resources::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use std::sync::Arc;
use varve_cluster::controller::State;

/// Version 0 asks for these only (KIP-714). There are none here.
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;
const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let wanted = match request.resource_types {
        _ if caller.version == 0 => vec![CLIENT_METRICS],
        types if types.is_empty() => ALL.to_vec(),
        types => types,
    };
    if wanted.iter().any(|kind| !ALL.contains(kind)) {
        let error_code = ErrorCode::UnsupportedVersion.code();
        return ListConfigResourcesResponse {
            error_code,
            ..Default::default()
        };
    }
    ListConfigResourcesResponse {
        config_resources: resources(&broker.view(), &wanted),
        ..Default::default()
    }
}

fn resources(view: &State, wanted: &[i8]) -> Vec<ConfigResource> {
    let topics = view.topic_ids.keys().map(|name| (TOPIC, name.to_string()));
    let brokers = view
        .brokers
        .keys()
        .flat_map(|id| [(BROKER, id.to_string()), (BROKER_LOGGER, id.to_string())]);
    let named = topics.chain(brokers).filter(|(kind, _)| wanted.contains(kind));
    named
        .map(|(resource_type, name)| ConfigResource {
            resource_name: text(&name),
            resource_type,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::with_topic;
    use super::*;

    #[test]
    fn only_the_types_asked_for_are_listed() {
        let view = with_topic("orders", 1);
        let listed = |wanted: &[i8]| {
            let found = resources(&view, wanted).into_iter();
            found
                .map(|resource| (resource.resource_type, resource.resource_name.to_string()))
                .collect::<Vec<_>>()
        };

        assert_eq!(listed(&[TOPIC]), [(TOPIC, "orders".to_owned())]);
        assert_eq!(listed(&ALL).len(), 3);
        assert_eq!(listed(&[CLIENT_METRICS, GROUP]), []);
    }
}
