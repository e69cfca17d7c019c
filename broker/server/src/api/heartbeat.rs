//! Heartbeat: a member is alive; the answer tells it when to join again.

use super::Caller;
use super::groups::{check_name, code_of, owned};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use std::sync::Arc;
use varve_cluster::groups;

#[expect(clippy::unused_async, reason = "every handler has one shape")]
pub(super) async fn handle(broker: &Arc<Broker>, _: &Caller, request: HeartbeatRequest) -> HeartbeatResponse {
    // While its group is being loaded a member shall wait, not join anew: its session begins again with the load.
    let outcome = match heartbeat(broker, &request) {
        Err(ErrorCode::CoordinatorLoadInProgress) => Ok(()),
        outcome => outcome,
    };
    HeartbeatResponse {
        error_code: code_of(outcome),
        ..Default::default()
    }
}

fn heartbeat(broker: &Arc<Broker>, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
    check_name(&request.group_id)?;
    let caller = groups::Caller {
        member_id: request.member_id.to_string(),
        instance_id: owned(&request.group_instance_id),
        generation: request.generation_id,
    };
    broker
        .groups
        .of(broker, &request.group_id)?
        .heartbeat(broker, &request.group_id, &caller)
}
