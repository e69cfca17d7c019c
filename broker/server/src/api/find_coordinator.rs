//! FindCoordinator: the broker that keeps a group. Asked first by every consumer, so it also makes the internal topic.

use super::Caller;
use super::cluster_view::{self, text};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::find_coordinator::response::Coordinator;
use crate::wire::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

/// `key_type` of a consumer group. Transactions (1) and share groups (2) have no coordinator here.
const GROUP: i8 = 0;
/// From this version on a request names any number of keys.
const BATCHED: i16 = 4;
const NOBODY: i32 = -1;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    if caller.version >= BATCHED {
        let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
        for key in request.coordinator_keys {
            coordinators.push(find(broker, caller, request.key_type, key).await);
        }
        return FindCoordinatorResponse {
            coordinators,
            ..Default::default()
        };
    }
    let found = find(broker, caller, request.key_type, request.key).await;
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

async fn find(broker: &Arc<Broker>, caller: &Caller, key_type: i8, key: StrBytes) -> Coordinator {
    let found = match key_type {
        GROUP => broker
            .groups
            .find(broker, &key)
            .await
            .map_err(|code| (code, "the coordinator is not available")),
        _ => Err((
            ErrorCode::InvalidRequest,
            "only consumer groups have a coordinator",
        )),
    };
    let node = found.and_then(|id| {
        let mut nodes = cluster_view::nodes(&broker.config, &broker.view(), caller).into_iter();
        nodes
            .find(|node| node.id == id)
            .ok_or((ErrorCode::CoordinatorNotAvailable, "the coordinator is not alive"))
    });
    match node {
        Ok(node) => Coordinator {
            key,
            node_id: node.id.value(),
            host: node.host,
            port: node.port,
            ..Default::default()
        },
        Err((code, reason)) => Coordinator {
            key,
            node_id: NOBODY,
            port: NOBODY,
            error_code: code.code(),
            error_message: Some(text(reason)),
            ..Default::default()
        },
    }
}
