//! DeleteGroups: groups without members go, with all they have committed.

use super::Caller;
use super::groups::{check_name, code_of, durable};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::delete_groups::response::DeletableGroupResult;
use crate::wire::delete_groups::{DeleteGroupsRequest, DeleteGroupsResponse};
use std::sync::Arc;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let error_code = code_of(delete(broker, &group_id).await);
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse {
        results,
        ..Default::default()
    }
}

async fn delete(broker: &Arc<Broker>, group: &str) -> Result<(), ErrorCode> {
    check_name(group)?;
    let appended = broker.groups.of(broker, group)?.delete_group(broker, group)?;
    durable(appended).await
}
