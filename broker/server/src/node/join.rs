//! Getting into the cluster: this node alone, or one of a quorum; registered, and let in by the controller.

use crate::cluster::{self, Controllers, Membership};
use crate::config::{Config, Voter};
use crate::dirs::LogDirs;
use crate::metadata::replicated::Replicated;
use crate::metadata::{Identity, MetadataQuorum, SingleNode};
use crate::server::Bound;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;
use varve_cluster::BrokerEpoch;
use varve_cluster::controller::command::RegisterBroker;
use varve_cluster::controller::{Command, Listener, Outcome};
use varve_cluster::raft::{self, NodeId, ReplicaKey, Snapshot, VoterSet};
use varve_log::Disk;

/// The metadata, and with several nodes this broker's membership among them.
pub(super) struct Quorum {
    pub(super) metadata: Arc<dyn MetadataQuorum>,
    pub(super) membership: Option<Arc<Membership>>,
    /// Ids of this node's log directories.
    directories: Vec<Uuid>,
}

impl Quorum {
    /// Answers the other controllers from here on, registers this broker and keeps it alive. Blocks until the quorum
    /// has a leader.
    pub(super) fn join(
        &self,
        (config, dirs): (&Config, &LogDirs),
        addresses: &[SocketAddr],
        controller: Option<Bound>,
        (background, stopped): (&Handle, &watch::Receiver<bool>),
    ) -> anyhow::Result<BrokerEpoch> {
        let registration = RegisterBroker {
            broker: varve_cluster::BrokerId::new(config.node_id),
            incarnation: Uuid::new_v4(),
            listeners: listeners(config, addresses),
            rack: config.rack.clone(),
            clean_shutdown_of: dirs.clean_shutdown_of(),
            directories: self.directories.clone(),
        };
        let Some(membership) = &self.membership else {
            return background.block_on(register(&*self.metadata, true, registration));
        };
        if let Some(listener) = controller {
            let member = Arc::clone(membership);
            background.spawn(cluster::serve(listener.socket, member, stopped.clone()));
        }
        let epoch = background.block_on(register(&*self.metadata, false, registration))?;
        membership.start(epoch, background, stopped);
        Ok(epoch)
    }
}

/// The cluster's metadata: this node alone, or a quorum of several and this broker's membership in their cluster.
pub(super) fn open(
    config: &Config,
    disk: &Arc<dyn Disk>,
    dirs: &LogDirs,
    background: &Handle,
) -> anyhow::Result<Quorum> {
    let (id, given) = (config.node_id, config.cluster_id.as_deref());
    let identity = Identity::open(&**disk, dirs.all(), id, given, &mut Uuid::new_v4)?;
    let (dir, cluster_id) = (dirs.first(), &identity.cluster_id);
    let settings = &config.quorum;
    if settings.voters.len() < 2 {
        let alone = SingleNode::open(Arc::clone(disk), dir, cluster_id)?;
        return Ok(Quorum {
            metadata: Arc::new(alone),
            membership: None,
            directories: identity.directories,
        });
    }
    let key = |voter: &Voter| ReplicaKey {
        id: NodeId::new(voter.id),
        // Voters of a fixed list are known by their ids alone, as in Kafka's kraft.version 0.
        directory: Uuid::nil(),
    };
    let voters = settings
        .voters
        .iter()
        .map(|voter| (key(voter), voter.address.as_str().into()));
    let first = Snapshot {
        voters: VoterSet::new(voters),
        ..Snapshot::default()
    };
    let others = settings.voters.iter().filter(|voter| voter.id != config.node_id);
    let others = others.map(|voter| (NodeId::new(voter.id), voter.address.clone()));
    let controllers = Arc::new(Controllers::new(config.node_id, others));
    let courier = Arc::clone(&controllers);
    let quorum = Replicated::start(
        raft_config(config),
        (Arc::clone(disk), dir),
        (first, cluster_id),
        courier,
        background.clone(),
    )?;
    let membership = Membership::new(
        varve_cluster::BrokerId::new(config.node_id),
        Arc::clone(&quorum),
        controllers,
        config.listeners[config.inter_broker_listener].name.clone(),
        settings,
    );
    Ok(Quorum {
        metadata: quorum,
        membership: Some(membership),
        directories: identity.directories,
    })
}

fn raft_config(config: &Config) -> raft::Config {
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    raft::Config {
        me: ReplicaKey {
            id: NodeId::new(config.node_id),
            directory: Uuid::nil(),
        },
        bootstrap: vec![],
        election_timeout: millis(config.quorum.election_timeout),
        fetch_timeout: millis(config.quorum.fetch_timeout),
        request_timeout: 2_000,
        fetch_wait: 500,
        retry_backoff: 20,
        fetch_entries_max: 1_000,
        snapshot_chunk_bytes_max: 1 << 20,
        entries_behind_snapshot: 1_000,
        proposals_max: 4_096,
        seed: Uuid::new_v4().as_u64_pair().0,
    }
}

/// Tells the quorum that this broker has started: its earlier leaderships end, the new ones begin with new epochs.
async fn register(
    metadata: &dyn MetadataQuorum,
    alone: bool,
    registration: RegisterBroker,
) -> anyhow::Result<BrokerEpoch> {
    let broker = registration.broker;
    let outcome = metadata.propose(Command::RegisterBroker(registration)).await?;
    let Outcome::Registered(epoch) = outcome else {
        anyhow::bail!("a registration was answered with {outcome:?}")
    };
    // Among others, the controller does that once this broker knows its own registration.
    if alone {
        metadata.propose(Command::UnfenceBroker { broker, epoch }).await?;
    }
    Ok(epoch)
}

fn listeners(config: &Config, bound: &[SocketAddr]) -> Vec<Listener> {
    let told = config.listeners.iter().zip(&config.advertised).zip(bound);
    told.map(|((listener, told), bound)| Listener {
        name: listener.name.clone(),
        host: told.host.clone(),
        port: if told.port == 0 { bound.port() } else { told.port },
        protocol: "PLAINTEXT".to_owned(),
    })
    .collect()
}
