//! LeaveGroup: members go, or an operator removes them.

use super::Caller;
use super::groups::{check_name, code_of, owned};
use crate::broker::Broker;
use crate::coordinators::code;
use crate::wire::ErrorCode;
use crate::wire::leave_group::request::MemberIdentity;
use crate::wire::leave_group::response::MemberResponse;
use crate::wire::leave_group::{LeaveGroupRequest, LeaveGroupResponse};
use std::sync::Arc;
use varve_cluster::groups::Leaver;

/// From this version on a request names any number of members.
const BATCHED: i16 = 3;

#[expect(clippy::unused_async, reason = "every handler has one shape")]
pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let batched = caller.version >= BATCHED;
    let members = if batched {
        request.members
    } else {
        vec![MemberIdentity {
            member_id: request.member_id,
            ..Default::default()
        }]
    };
    match leave(broker, &request.group_id, &members) {
        Err(code) => LeaveGroupResponse {
            error_code: code.code(),
            ..Default::default()
        },
        Ok(outcomes) if batched => {
            let member = |(member, outcome): (MemberIdentity, Result<(), ErrorCode>)| MemberResponse {
                member_id: member.member_id,
                group_instance_id: member.group_instance_id,
                error_code: code_of(outcome),
            };
            LeaveGroupResponse {
                members: members.into_iter().zip(outcomes).map(member).collect(),
                ..Default::default()
            }
        }
        Ok(outcomes) => {
            let outcome = outcomes.into_iter().next().unwrap_or(Ok(()));
            LeaveGroupResponse {
                error_code: code_of(outcome),
                ..Default::default()
            }
        }
    }
}

fn leave(
    broker: &Arc<Broker>,
    group: &str,
    members: &[MemberIdentity],
) -> Result<Vec<Result<(), ErrorCode>>, ErrorCode> {
    check_name(group)?;
    let leaver = |member: &MemberIdentity| Leaver {
        member_id: member.member_id.to_string(),
        instance_id: owned(&member.group_instance_id),
    };
    let leavers: Vec<Leaver> = members.iter().map(leaver).collect();
    let outcomes = broker.groups.of(broker, group)?.leave(broker, group, &leavers)?;
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.map_err(code))
        .collect())
}
