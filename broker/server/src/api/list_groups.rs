//! ListGroups: every group this broker coordinates.

use super::Caller;
use super::cluster_view::text;
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::list_groups::response::ListedGroup;
use crate::wire::list_groups::{ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use varve_cluster::groups::Group;

/// The one kind of group there is, by Kafka's name.
const CLASSIC: &str = "classic";

#[expect(clippy::unused_async, reason = "every handler has one shape")]
pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let wanted = |filter: &[StrBytes], is: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(is))
    };
    let mut groups = vec![];
    if wanted(&request.types_filter, CLASSIC) {
        for coordinator in broker.groups.all() {
            let listed = coordinator.look(|shard| {
                let asked = shard
                    .groups()
                    .filter(|group| wanted(&request.states_filter, group.state().name()));
                asked.map(listed).collect::<Vec<_>>()
            });
            groups.extend(listed.unwrap_or_default());
        }
    }
    // What is still being loaded would be missing: the client shall know.
    let error = if broker.groups.loaded() {
        ErrorCode::None
    } else {
        ErrorCode::CoordinatorLoadInProgress
    };
    ListGroupsResponse {
        error_code: error.code(),
        groups,
        ..Default::default()
    }
}

fn listed(group: &Group) -> ListedGroup {
    ListedGroup {
        group_id: text(group.id()),
        protocol_type: text(group.protocol_type().unwrap_or_default()),
        group_state: text(group.state().name()),
        group_type: text(CLASSIC),
    }
}
