//! ListPartitionReassignments: replicas are never moved, so none is on its way.

use super::Caller;
use crate::broker::Broker;
use crate::wire::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use std::sync::Arc;

pub(super) async fn handle(
    _: &Arc<Broker>,
    _: &Caller,
    _: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse {
        error_message: None,
        ..Default::default()
    }
}
