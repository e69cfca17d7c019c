//! DescribeCluster: its id and its brokers, as they are reached through the listener that was asked.

use super::Caller;
use super::cluster_view::{self, CLUSTER_OPERATIONS, Node};
use crate::broker::Broker;
use crate::wire::ErrorCode;
use crate::wire::describe_cluster::response::DescribeClusterBroker;
use crate::wire::describe_cluster::{DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    caller: &Caller,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    match request.endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            return refused(
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            );
        }
        _ => return refused(ErrorCode::UnsupportedEndpointType, "Unsupported endpoint type"),
    }
    let view = broker.view();
    let nodes = cluster_view::nodes(&broker.config, &view, caller).into_iter();
    let wanted = nodes.filter(|node| request.include_fenced_brokers || !node.is_fenced);
    let mut answer = DescribeClusterResponse {
        cluster_id: cluster_view::text(&view.cluster_id),
        controller_id: cluster_view::controller(&broker.config),
        brokers: wanted.map(answer_of).collect(),
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        answer.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    answer
}

fn answer_of(node: Node) -> DescribeClusterBroker {
    DescribeClusterBroker {
        broker_id: node.id.value(),
        host: node.host,
        port: node.port,
        rack: node.rack,
        is_fenced: node.is_fenced,
    }
}

fn refused(error: ErrorCode, message: &'static str) -> DescribeClusterResponse {
    DescribeClusterResponse {
        error_code: error.code(),
        error_message: Some(StrBytes::from_static_str(message)),
        ..Default::default()
    }
}
