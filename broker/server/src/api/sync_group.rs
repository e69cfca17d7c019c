//! SyncGroup: the leader hands out what its group shall read; everybody waits for it.

use super::Caller;
use super::cluster_view::text;
use super::groups::{check_name, owned};
use crate::broker::Broker;
use crate::coordinators::code;
use crate::wire::ErrorCode;
use crate::wire::sync_group::{SyncGroupRequest, SyncGroupResponse};
use bytes::Bytes;
use std::sync::Arc;
use varve_cluster::groups::{self, Sync, SyncAnswer};

/// The first version in which a member says what it believes the group speaks.
const NAMES_PROTOCOL: i16 = 5;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    match sync(broker, caller, request).await {
        Ok(answer) => SyncGroupResponse {
            protocol_type: answer.protocol_type.as_deref().map(text),
            protocol_name: answer.protocol.as_deref().map(text),
            assignment: answer.assignment,
            ..Default::default()
        },
        Err(code) => SyncGroupResponse {
            error_code: code.code(),
            ..Default::default()
        },
    }
}

async fn sync(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: SyncGroupRequest,
) -> Result<SyncAnswer, ErrorCode> {
    check_name(&request.group_id)?;
    if caller.version >= NAMES_PROTOCOL
        && (request.protocol_type.is_none() || request.protocol_name.is_none())
    {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    let coordinator = broker.groups.of(broker, &request.group_id)?;
    let assignments = request
        .assignments
        .into_iter()
        // Kept as long as the generation is: the frame they came in must not be.
        .map(|one| (one.member_id.to_string(), Bytes::copy_from_slice(&one.assignment)))
        .collect();
    let answered = coordinator.sync(broker, &request.group_id, |ticket| Sync {
        ticket,
        caller: groups::Caller {
            member_id: request.member_id.to_string(),
            instance_id: owned(&request.group_instance_id),
            generation: request.generation_id,
        },
        protocol_type: owned(&request.protocol_type),
        protocol: owned(&request.protocol_name),
        assignments,
    })?;
    answered
        .await
        .map_err(|_gone| ErrorCode::NotCoordinator)?
        .map_err(code)
}
