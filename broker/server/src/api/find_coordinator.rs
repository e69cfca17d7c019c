//! FindCoordinator: the broker that keeps a group. Asked first by every consumer, so it also makes the internal topic.

use super::Caller;
use super::cluster_view::{self, text};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::find_coordinator::response::Coordinator;
use crate::wire::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

/// `key_type` of a consumer group. Transactions and share groups (2) have no coordinator here.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
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
    let found = match without_coordinator(key_type) {
        Some(refused) => Err(refused),
        None => broker
            .groups
            .find(broker, &key)
            .await
            .map_err(|code| (code, "the coordinator is not available")),
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

/// Why nobody coordinates keys of this type. A transactional producer has to be told what its client takes for final: it
/// would ask again until its own time-out about anything else.
fn without_coordinator(key_type: i8) -> Option<(ErrorCode, &'static str)> {
    match key_type {
        GROUP => None,
        TRANSACTION => Some((
            ErrorCode::TransactionalIdAuthorizationFailed,
            "transactions are not available; produce without transactional.id",
        )),
        _ => Some((
            ErrorCode::InvalidRequest,
            "only consumer groups have a coordinator",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transactional_producer_is_refused_for_good_and_not_left_to_its_time_out() {
        let code = |key_type| without_coordinator(key_type).map(|(code, _)| code);

        assert_eq!(code(GROUP), None);
        assert_eq!(
            code(TRANSACTION),
            Some(ErrorCode::TransactionalIdAuthorizationFailed)
        );
        assert_eq!(code(2), Some(ErrorCode::InvalidRequest));
    }
}
