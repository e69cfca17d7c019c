//! One file per Kafka API: typed request in, typed answer out. This page decodes, dispatches and encodes.

mod alter_configs;
mod alter_partition_reassignments;
mod api_versions;
mod cluster_view;
mod config_changes;
mod config_entries;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod elect_leaders;
mod fetch;
mod fetch_replica;
mod find_coordinator;
mod groups;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod metadata;
mod new_topic;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod refusal;
mod sync_group;
#[cfg(test)]
pub(crate) mod test_cluster;
mod topics;
mod unregister_broker;

use crate::broker::Broker;
use crate::server::connection::Closed;
use crate::shard::Shard;
use crate::wire::message::Body;
use crate::wire::records::Part;
use crate::wire::{self, Api};
use bytes::Bytes;
use kafka_protocol::protocol::{HeaderVersion, StrBytes};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

/// Who asks, and in which version: what a handler may know beside the request itself.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The request's version: which fields the answer may carry.
    pub(crate) version: i16,
    /// As the client calls itself.
    pub(crate) client_id: Option<StrBytes>,
    /// Index of the listener it came in on: decides which address it is told.
    pub(crate) listener: usize,
    /// Where it comes from.
    pub(crate) peer: SocketAddr,
    /// The connection's own number: one consumer's fetches share it.
    pub(crate) connection: u64,
}

/// A connection, as its requests know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connected {
    pub(crate) listener: usize,
    pub(crate) peer: SocketAddr,
    pub(crate) number: u64,
}

/// One request, with its body still undecoded.
#[derive(Debug)]
pub(crate) struct Request {
    api: Api,
    correlation_id: i32,
    caller: Caller,
    body: Bytes,
}

/// What becomes of a produce request once it is appended.
pub(crate) enum Answer {
    /// `acks=0`: no answer at all.
    Nothing,
    /// The answer comes when its records are acknowledged.
    Later(Pin<Box<dyn Future<Output = Vec<Part>>>>),
}

impl Request {
    /// Reads the header of a frame.
    pub(crate) fn parse(mut frame: Bytes, connection: &Connected) -> Result<Self, Closed> {
        let header = wire::decode_header(&mut frame)?;
        let Connected {
            listener,
            peer,
            number,
        } = *connection;
        let caller = Caller {
            version: header.version,
            client_id: header.client_id,
            listener,
            peer,
            connection: number,
        };
        Ok(Self {
            api: header.api_key,
            correlation_id: header.correlation_id,
            caller,
            body: frame,
        })
    }

    pub(crate) fn api(&self) -> Api {
        self.api
    }

    /// Produce requests may wait for their acknowledgement side by side.
    pub(crate) fn is_produce(&self) -> bool {
        self.api == Api::Produce
    }

    /// Appends a produce request's batches now; what is left to do is waiting.
    pub(crate) fn produce(mut self, broker: &Arc<Broker>, shard: &Shard) -> Result<Answer, Closed> {
        broker.metrics.request(self.api);
        let request = wire::decode_request(&mut self.body, self.caller.version)?;
        produce::start(broker, shard, &self.caller, self.correlation_id, request)
    }

    /// Answers any other request.
    pub(crate) async fn handle(self, broker: &Arc<Broker>) -> Result<Vec<Part>, Closed> {
        broker.metrics.request(self.api);
        macro_rules! answer {
            ($api:ident) => {
                self.answer(async |caller, request| $api::handle(broker, caller, request).await)
                    .await
            };
        }
        match self.api {
            // A version we do not speak is answered as version 0, which every client can read.
            Api::ApiVersions if !self.api.accepts(self.caller.version) => Ok(wire::encode_response(
                self.correlation_id,
                0,
                &api_versions::unsupported(),
            )),
            Api::ApiVersions => answer!(api_versions),
            Api::AlterConfigs => answer!(alter_configs),
            Api::AlterPartitionReassignments => answer!(alter_partition_reassignments),
            Api::CreatePartitions => answer!(create_partitions),
            Api::CreateTopics => answer!(create_topics),
            Api::DeleteTopics => answer!(delete_topics),
            Api::DescribeCluster => answer!(describe_cluster),
            Api::DescribeConfigs => answer!(describe_configs),
            Api::DescribeProducers => answer!(describe_producers),
            Api::DescribeQuorum => answer!(describe_quorum),
            Api::DescribeTopicPartitions => answer!(describe_topic_partitions),
            Api::ElectLeaders => answer!(elect_leaders),
            Api::IncrementalAlterConfigs => answer!(incremental_alter_configs),
            Api::ListConfigResources => answer!(list_config_resources),
            Api::ListPartitionReassignments => answer!(list_partition_reassignments),
            Api::Metadata => answer!(metadata),
            Api::Produce => unreachable!("produce requests are appended, not handled"),
            Api::Fetch => answer!(fetch),
            Api::ListOffsets => answer!(list_offsets),
            Api::DeleteRecords => answer!(delete_records),
            Api::DescribeLogDirs => answer!(describe_log_dirs),
            Api::OffsetForLeaderEpoch => answer!(offset_for_leader_epoch),
            Api::InitProducerId => answer!(init_producer_id),
            Api::DeleteGroups => answer!(delete_groups),
            Api::DescribeGroups => answer!(describe_groups),
            Api::FindCoordinator => answer!(find_coordinator),
            Api::Heartbeat => answer!(heartbeat),
            Api::JoinGroup => answer!(join_group),
            Api::LeaveGroup => answer!(leave_group),
            Api::ListGroups => answer!(list_groups),
            Api::OffsetCommit => answer!(offset_commit),
            Api::OffsetDelete => answer!(offset_delete),
            Api::OffsetFetch => answer!(offset_fetch),
            Api::SyncGroup => answer!(sync_group),
            Api::UnregisterBroker => answer!(unregister_broker),
        }
    }

    async fn answer<Q: Body, A: Body + HeaderVersion>(
        mut self,
        handle: impl AsyncFnOnce(&Caller, Q) -> A,
    ) -> Result<Vec<Part>, Closed> {
        let request = wire::decode_request::<Q>(&mut self.body, self.caller.version)?;
        let answer = handle(&self.caller, request).await;
        Ok(wire::encode_response(
            self.correlation_id,
            self.caller.version,
            &answer,
        ))
    }
}
