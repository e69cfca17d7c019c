//! The cluster as a client of one listener may see it: brokers by the address of that listener, partitions by
//! who leads and who is away.

use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use varve_cluster::BrokerId;
use varve_cluster::controller::{Broker, Partition, State};

use super::Caller;
use crate::config::Config;
use crate::wire::ErrorCode;

/// All operations Kafka knows for a topic, as bits: nobody is denied anything while there are no ACLs.
pub(super) const TOPIC_OPERATIONS: i32 = 3576;
/// The same for the cluster.
pub(super) const CLUSTER_OPERATIONS: i32 = 8096;
/// Operations nobody asked for.
pub(super) const NO_OPERATIONS: i32 = i32::MIN;

/// Where a broker can be reached.
pub(super) struct Node {
    pub(super) id: BrokerId,
    pub(super) host: StrBytes,
    pub(super) port: i32,
    pub(super) rack: Option<StrBytes>,
    pub(super) is_fenced: bool,
}

/// Brokers with an address on the listener that `caller` came in on: other addresses may be out of its reach.
pub(super) fn nodes(config: &Config, view: &State, caller: &Caller) -> Vec<Node> {
    let listener = &config.listeners[caller.listener].name;
    view.brokers
        .values()
        .filter_map(|broker| node(broker, listener))
        .collect()
}

fn node(broker: &Broker, listener: &str) -> Option<Node> {
    let address = broker.listener(listener)?;
    Some(Node {
        id: broker.id,
        host: StrBytes::from_string(address.host.clone()),
        port: address.port.into(),
        rack: broker.rack.clone().map(StrBytes::from_string),
        is_fenced: broker.fenced,
    })
}

/// The broker that clients send administrative requests to. Every broker takes them, so it is this one; as
/// with Kafka, which names a random live broker, it is not the leader of the metadata quorum that is meant.
pub(super) fn controller(config: &Config) -> i32 {
    config.node_id
}

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// What clients are told of one partition.
pub(super) struct PartitionView {
    pub(super) error: ErrorCode,
    pub(super) leader: i32,
    pub(super) leader_epoch: i32,
    pub(super) replicas: Vec<i32>,
    pub(super) isr: Vec<i32>,
    pub(super) offline: Vec<i32>,
}

pub(super) fn partition(view: &State, partition: &Partition) -> PartitionView {
    let live: BTreeSet<BrokerId> = view.live_brokers().map(|broker| broker.id).collect();
    let offline = partition
        .replicas
        .iter()
        .filter(|replica| !live.contains(replica));
    PartitionView {
        error: if partition.leader.is_some() {
            ErrorCode::None
        } else {
            ErrorCode::LeaderNotAvailable
        },
        leader: partition.leader.map_or(-1, BrokerId::value),
        leader_epoch: partition.leader_epoch.value(),
        replicas: numbers(&partition.replicas),
        isr: numbers(&partition.isr),
        offline: offline.map(|replica| replica.value()).collect(),
    }
}

pub(super) fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.value()).collect()
}
