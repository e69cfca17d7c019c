//! Which APIs and versions Varve speaks. This table is the only place that decides it: neither the schemas'
//! ranges nor those of a library are ever advertised.
//!
//! The ranges are those of Apache Kafka 4.3 on a client listener. Versions that Kafka calls unstable
//! (`InitProducerId` 6) are left out, and so is every API that is not fully served.

use std::ops::RangeInclusive;

use kafka_protocol::protocol::Request;

use super::generated::{
    alter_configs, alter_partition_reassignments, api_versions, create_partitions, create_topics,
    delete_groups, delete_records, delete_topics, describe_cluster, describe_configs, describe_groups,
    describe_log_dirs, describe_producers, describe_quorum, describe_topic_partitions, elect_leaders, fetch,
    find_coordinator, heartbeat, incremental_alter_configs, init_producer_id, join_group, leave_group,
    list_config_resources, list_groups, list_offsets, list_partition_reassignments, metadata, offset_commit,
    offset_delete, offset_fetch, offset_for_leader_epoch, produce, sync_group, unregister_broker,
};

/// An API that this broker serves. The discriminant is Kafka's API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    DescribeLogDirs = 35,
    CreatePartitions = 37,
    DeleteGroups = 42,
    ElectLeaders = 43,
    IncrementalAlterConfigs = 44,
    AlterPartitionReassignments = 45,
    ListPartitionReassignments = 46,
    OffsetDelete = 47,
    DescribeQuorum = 55,
    DescribeCluster = 60,
    DescribeProducers = 61,
    UnregisterBroker = 64,
    ListConfigResources = 74,
    DescribeTopicPartitions = 75,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Served {
    pub api: Api,
    /// What clients are told.
    pub advertised: RangeInclusive<i16>,
    /// What is let in.
    pub accepted: RangeInclusive<i16>,
    request_header_version: fn(i16) -> i16,
}

/// Every API served, by ascending key.
pub static SERVED: [Served; 35] = [
    // Versions 0 to 2 are advertised though refused, as Kafka does (KAFKA-18659): without them librdkafka up to
    // 2.10 believes that the broker knows no compression.
    serve::<produce::ProduceRequest>(Api::Produce, 3..=13).advertised_from(0),
    serve::<fetch::FetchRequest>(Api::Fetch, 4..=18),
    serve::<list_offsets::ListOffsetsRequest>(Api::ListOffsets, 1..=11),
    serve::<metadata::MetadataRequest>(Api::Metadata, 0..=13),
    serve::<offset_commit::OffsetCommitRequest>(Api::OffsetCommit, 2..=10),
    serve::<offset_fetch::OffsetFetchRequest>(Api::OffsetFetch, 1..=10),
    serve::<find_coordinator::FindCoordinatorRequest>(Api::FindCoordinator, 0..=6),
    serve::<join_group::JoinGroupRequest>(Api::JoinGroup, 0..=9),
    serve::<heartbeat::HeartbeatRequest>(Api::Heartbeat, 0..=4),
    serve::<leave_group::LeaveGroupRequest>(Api::LeaveGroup, 0..=5),
    serve::<sync_group::SyncGroupRequest>(Api::SyncGroup, 0..=5),
    serve::<describe_groups::DescribeGroupsRequest>(Api::DescribeGroups, 0..=6),
    serve::<list_groups::ListGroupsRequest>(Api::ListGroups, 0..=5),
    serve::<api_versions::ApiVersionsRequest>(Api::ApiVersions, 0..=4),
    serve::<create_topics::CreateTopicsRequest>(Api::CreateTopics, 2..=7),
    serve::<delete_topics::DeleteTopicsRequest>(Api::DeleteTopics, 1..=6),
    serve::<delete_records::DeleteRecordsRequest>(Api::DeleteRecords, 0..=2),
    serve::<init_producer_id::InitProducerIdRequest>(Api::InitProducerId, 0..=5),
    serve::<offset_for_leader_epoch::OffsetForLeaderEpochRequest>(Api::OffsetForLeaderEpoch, 2..=4),
    serve::<describe_configs::DescribeConfigsRequest>(Api::DescribeConfigs, 1..=4),
    serve::<alter_configs::AlterConfigsRequest>(Api::AlterConfigs, 0..=2),
    serve::<describe_log_dirs::DescribeLogDirsRequest>(Api::DescribeLogDirs, 1..=5),
    serve::<create_partitions::CreatePartitionsRequest>(Api::CreatePartitions, 0..=3),
    serve::<delete_groups::DeleteGroupsRequest>(Api::DeleteGroups, 0..=2),
    serve::<elect_leaders::ElectLeadersRequest>(Api::ElectLeaders, 0..=2),
    serve::<incremental_alter_configs::IncrementalAlterConfigsRequest>(Api::IncrementalAlterConfigs, 0..=1),
    serve::<alter_partition_reassignments::AlterPartitionReassignmentsRequest>(
        Api::AlterPartitionReassignments,
        0..=1,
    ),
    serve::<list_partition_reassignments::ListPartitionReassignmentsRequest>(
        Api::ListPartitionReassignments,
        0..=0,
    ),
    serve::<offset_delete::OffsetDeleteRequest>(Api::OffsetDelete, 0..=0),
    serve::<describe_quorum::DescribeQuorumRequest>(Api::DescribeQuorum, 0..=2),
    serve::<describe_cluster::DescribeClusterRequest>(Api::DescribeCluster, 0..=2),
    serve::<describe_producers::DescribeProducersRequest>(Api::DescribeProducers, 0..=0),
    serve::<unregister_broker::UnregisterBrokerRequest>(Api::UnregisterBroker, 0..=0),
    serve::<list_config_resources::ListConfigResourcesRequest>(Api::ListConfigResources, 0..=1),
    serve::<describe_topic_partitions::DescribeTopicPartitionsRequest>(Api::DescribeTopicPartitions, 0..=0),
];

impl Api {
    pub fn from_key(key: i16) -> Option<Self> {
        SERVED
            .iter()
            .map(|served| served.api)
            .find(|api| api.key() == key)
    }

    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Its line in the table.
    pub(crate) fn place(self) -> usize {
        // Each API has one, which a test below sees to.
        SERVED
            .binary_search_by_key(&self, |served| served.api)
            .unwrap_or_default()
    }

    pub fn accepts(self, version: i16) -> bool {
        self.served().accepted.contains(&version)
    }

    pub fn served(self) -> &'static Served {
        SERVED
            .iter()
            .find(|served| served.api == self)
            .expect("the table has a line for each API")
    }

    pub(super) fn request_header_version(self, version: i16) -> i16 {
        (self.served().request_header_version)(version)
    }
}

const fn serve<M: Request>(api: Api, accepted: RangeInclusive<i16>) -> Served {
    assert!(
        M::KEY == api.key(),
        "a line of the table names another API's request"
    );
    let (min, max) = (*accepted.start(), *accepted.end());
    assert!(
        M::VERSIONS.min <= min && max <= M::VERSIONS.max,
        "the schema lacks a version of the table"
    );
    Served {
        api,
        advertised: min..=max,
        accepted,
        request_header_version: M::header_version,
    }
}

impl Served {
    const fn advertised_from(mut self, min: i16) -> Self {
        self.advertised = min..=*self.advertised.end();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_api_once_and_in_order() {
        assert!(SERVED.windows(2).all(|pair| pair[0].api < pair[1].api));
        for (place, served) in SERVED.iter().enumerate() {
            assert_eq!(served.api.place(), place);
        }
    }

    #[test]
    fn keys_without_a_line_are_not_served() {
        // SaslHandshake, AddPartitionsToTxn, Vote, and keys that nobody has.
        for key in [17, 24, 52, -1, 4, 1000] {
            assert_eq!(Api::from_key(key), None);
        }
    }

    #[test]
    fn produce_is_advertised_below_what_is_let_in() {
        assert_eq!(Api::Produce.served().advertised, 0..=13);
        assert!(!Api::Produce.accepts(2));
        assert!(Api::Produce.accepts(3));
    }

    #[test]
    fn unstable_versions_are_not_served() {
        assert!(!Api::InitProducerId.accepts(6));
    }
}
