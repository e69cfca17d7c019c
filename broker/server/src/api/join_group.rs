//! JoinGroup: held open until the group's next generation begins.

use super::Caller;
use super::cluster_view::text;
use super::groups::{check_name, owned};
use crate::broker::Broker;
use crate::coordinators::code;
use crate::wire::ErrorCode;
use crate::wire::join_group::response::JoinGroupResponseMember;
use crate::wire::join_group::{JoinGroupRequest, JoinGroupResponse};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::groups::{Join, JoinAnswer, JoinRefused, Protocol, Ticket};

/// The first version whose clients come back with the id they are told (KIP-394). Older ones would ask for ever.
const KNOWS_MEMBER_ID_REQUIRED: i16 = 4;
/// The first version with `SkipAssignment` (KIP-814).
const KNOWS_SKIP_ASSIGNMENT: i16 = 9;
/// The first version in which the protocol's name may be null.
const NULLABLE_PROTOCOL: i16 = 7;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let member_id = request.member_id.clone();
    match join(broker, caller, request).await {
        Ok(Ok(answer)) => joined(answer),
        Ok(Err(JoinRefused { error, member_id })) => refused(code(error), text(&member_id), caller.version),
        Err(code) => refused(code, member_id, caller.version),
    }
}

async fn join(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: JoinGroupRequest,
) -> Result<Result<JoinAnswer, JoinRefused>, ErrorCode> {
    check_name(&request.group_id)?;
    let coordinator = broker.groups.of(broker, &request.group_id)?;
    let group = request.group_id.clone();
    let answered = coordinator.join(broker, &group, |ticket| to_join(caller, request, ticket))?;
    // Dropped unanswered only when the coordinator goes.
    answered.await.map_err(|_gone| ErrorCode::NotCoordinator)
}

fn to_join(caller: &Caller, request: JoinGroupRequest, ticket: Ticket) -> Join {
    let client_id = caller
        .client_id
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let instance_id = owned(&request.group_instance_id);
    let protocol = |protocol: crate::wire::join_group::request::JoinGroupRequestProtocol| Protocol {
        name: protocol.name.to_string(),
        // Kept as long as the member is: the frame it came in must not be.
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    };
    Join {
        ticket,
        member_id: request.member_id.to_string(),
        fresh_member_id: format!(
            "{}-{}",
            instance_id.as_ref().unwrap_or(&client_id),
            Uuid::new_v4()
        ),
        instance_id,
        client_host: format!("/{}", caller.peer.ip()),
        client_id,
        session_timeout_ms: request.session_timeout_ms,
        // Version 0 has one timeout for both.
        rebalance_timeout_ms: match caller.version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: request.protocol_type.to_string(),
        protocols: request.protocols.into_iter().map(protocol).collect(),
        knows_member_id_required: caller.version >= KNOWS_MEMBER_ID_REQUIRED,
        knows_skip_assignment: caller.version >= KNOWS_SKIP_ASSIGNMENT,
    }
}

fn joined(answer: JoinAnswer) -> JoinGroupResponse {
    let member = |member: varve_cluster::groups::JoinedMember| JoinGroupResponseMember {
        member_id: text(&member.id),
        group_instance_id: member.instance_id.as_deref().map(text),
        metadata: member.metadata,
    };
    JoinGroupResponse {
        generation_id: answer.generation,
        protocol_type: answer.protocol_type.as_deref().map(text),
        protocol_name: Some(text(answer.protocol.as_deref().unwrap_or_default())),
        leader: text(&answer.leader),
        skip_assignment: answer.skip_assignment,
        member_id: text(&answer.member_id),
        members: answer.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn refused(code: ErrorCode, member_id: StrBytes, version: i16) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: code.code(),
        generation_id: -1,
        protocol_name: (version < NULLABLE_PROTOCOL).then(StrBytes::default),
        member_id,
        ..Default::default()
    }
}
