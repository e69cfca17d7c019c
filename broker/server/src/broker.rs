//! What every request handler works with: the parts of one running broker, put together by `node`.

use crate::clock::Clock;
use crate::cluster::{Membership, Throttles};
use crate::complaints::Complaints;
use crate::config::Config;
use crate::coordinators::Groups;
use crate::metadata::{MetadataQuorum, ProposeError};
use crate::metrics::Metrics;
use crate::partition::{Partition, Partitions};
use crate::producer_ids::ProducerIds;
use crate::server::memory::RequestMemory;
use crate::tier::Tier;
use anyhow::Context as _;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use varve_cluster::controller::command::AdvanceLogStart;
use varve_cluster::controller::{Command, Outcome, State};
use varve_cluster::{BrokerEpoch, BrokerId, TopicId};
use varve_log::{Offset, Seed};

/// See the module's first line. Shared by all shards and the background runtime.
pub(crate) struct Broker {
    pub(crate) config: Config,
    /// The addresses that were bound, one for each listener of the configuration.
    pub(crate) bound: Vec<SocketAddr>,
    pub(crate) metadata: Arc<dyn MetadataQuorum>,
    /// `None` when this node is the whole cluster.
    pub(crate) membership: Option<Arc<Membership>>,
    /// This uptime, as the quorum numbers it.
    pub(crate) epoch: BrokerEpoch,
    /// The partitions this broker holds.
    pub(crate) partitions: Partitions,
    /// Consumer groups this broker coordinates.
    pub(crate) groups: Groups,
    pub(crate) producer_ids: ProducerIds,
    /// `None` without a bucket.
    pub(crate) tier: Option<Tier>,
    /// What the tables' keepers last said, by topic.
    pub(crate) tables: Mutex<BTreeMap<String, crate::tables::Status>>,
    pub(crate) throttles: Throttles,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) request_memory: Arc<RequestMemory>,
    pub(crate) complaints: Complaints,
    /// Object store, sink, admin work: everything that is not the data plane.
    pub(crate) background: tokio::runtime::Handle,
}

impl Broker {
    /// This broker's number.
    pub(crate) fn id(&self) -> BrokerId {
        BrokerId::new(self.config.node_id)
    }

    /// The newest committed metadata this broker has applied.
    pub(crate) fn view(&self) -> Arc<State> {
        self.metadata.view()
    }

    /// Changes metadata, and makes this broker's partitions agree with it before saying so: a topic whose
    /// creation was answered can be written at once.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let outcome = self.metadata.propose(command).await?;
        self.partitions.reconcile(self.view()).await;
        Ok(outcome)
    }

    /// Moves the log's start forward: committed first, then applied here. Asking for less than there is succeeds.
    pub(crate) async fn advance_log_start(
        &self,
        partition: &Partition,
        to: Offset,
    ) -> Result<(), ProposeError> {
        let advance = AdvanceLogStart {
            topic_id: partition.id.topic_id,
            partition: partition.id.index,
            broker: self.id(),
            broker_epoch: self.epoch,
            leader_epoch: partition.leader_epoch(),
            log_start: to,
        };
        self.propose(Command::AdvanceLogStart(advance)).await.map(drop)
    }

    /// What a log needs to begin where its part in the bucket ends, at `at` or behind it by now.
    pub(crate) async fn seed_from_tier(&self, partition: &Partition, at: Offset) -> anyhow::Result<Seed> {
        let tier = self.tier.as_ref().context("this broker has no bucket")?;
        let pointer = partition.tier().context("nothing of it is in the bucket")?;
        let log_start = partition.offsets().log_start;
        let (end, producers, epochs) = tier.seed(&partition.id, &pointer).await?;
        anyhow::ensure!(
            end >= at,
            "the bucket ends before what was in it. end={end}, at={at}"
        );
        Ok(Seed {
            at: end,
            log_start,
            epochs,
            producers,
        })
    }

    /// A partition this broker leads.
    pub(crate) fn partition(&self, topic: TopicId, index: i32) -> Option<Arc<Partition>> {
        self.partitions
            .get(topic, index)
            .filter(|partition| partition.leads())
    }
}
