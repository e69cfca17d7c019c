//! DescribeGroups: who is in a group and what each member has been given.

use super::Caller;
use super::cluster_view::text;
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::describe_groups::response::{DescribedGroup, DescribedGroupMember};
use crate::wire::describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use varve_cluster::groups::{Group, GroupState, MemberDescription};

/// From this version on an unknown group is an error; before, it is a group that is `Dead` (KIP-1043).
const NOT_FOUND: i16 = 6;

#[expect(clippy::unused_async, reason = "every handler has one shape")]
pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let groups = request
        .groups
        .into_iter()
        .map(|id| describe(broker, caller.version, id))
        .collect();
    DescribeGroupsResponse {
        groups,
        ..Default::default()
    }
}

fn describe(broker: &Arc<Broker>, version: i16, id: StrBytes) -> DescribedGroup {
    let found = broker
        .groups
        .of(broker, &id)
        .and_then(|coordinator| coordinator.look(|shard| shard.visible(&id).map(known)));
    let described = match found {
        Ok(Some(described)) => described,
        Ok(None) => unknown(version, &id),
        Err(code) => DescribedGroup {
            error_code: code.code(),
            ..Default::default()
        },
    };
    DescribedGroup {
        group_id: id,
        ..described
    }
}

fn known(group: &Group) -> DescribedGroup {
    let stable = group.state() == GroupState::Stable;
    DescribedGroup {
        group_state: text(group.state().name()),
        protocol_type: text(group.protocol_type().unwrap_or_default()),
        protocol_data: text(group.protocol().filter(|_| stable).unwrap_or_default()),
        members: group.describe().into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn unknown(version: i16, id: &str) -> DescribedGroup {
    let found = version < NOT_FOUND;
    DescribedGroup {
        error_code: if found {
            ErrorCode::None
        } else {
            ErrorCode::GroupIdNotFound
        }
        .code(),
        error_message: (!found).then(|| text(&format!("Group {id} not found."))),
        group_state: text(GroupState::Dead.name()),
        ..Default::default()
    }
}

fn member(member: MemberDescription) -> DescribedGroupMember {
    DescribedGroupMember {
        member_id: text(&member.id),
        group_instance_id: member.instance_id.as_deref().map(text),
        client_id: text(&member.client_id),
        client_host: text(&member.client_host),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    }
}
