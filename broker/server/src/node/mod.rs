//! The composition root: one node's parts, started in order and stopped in reverse. Only here are concrete
//! disks, clocks, stores and quorums named.

mod join;

use crate::broker::Broker;
use crate::clock::{Clock, SystemClock};
use crate::cluster;
use crate::complaints::Complaints;
use crate::config::Config;
use crate::coordinators::Groups;
use crate::dirs::{LogDirs, mark_clean_shutdown};
use crate::metrics::Metrics;
use crate::partition::{Keeper, Partition, Syncer};
use crate::producer_ids::ProducerIds;
use crate::server::memory::RequestMemory;
use crate::server::{self, Bound};
use crate::shard::{self, ShardHandle};
use crate::tier::Tier;
use crate::{housekeeping, http, tables};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use varve_log::{Disk, FsDisk};

/// Threads for everything that is not the data plane.
const BACKGROUND_THREADS: usize = 2;
/// How long the controller may take to move this broker's leaderships.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// How long background work may take to end before it is dropped.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Checkpoints written at a time when the node stops: they wait for the disk, which takes syncs together.
const CHECKPOINT_THREADS: usize = 16;

/// A running node.
pub struct Node {
    broker: Arc<Broker>,
    http: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    shards: Vec<JoinHandle<()>>,
    tables: JoinHandle<()>,
    syncer: (Arc<Syncer>, JoinHandle<()>),
    background: Runtime,
}

impl Node {
    /// Starts everything; when it returns, clients can connect. Must not be called from an async task.
    ///
    /// # Errors
    /// One sentence with what to do about it: an occupied port, a directory in use, a bucket out of reach, …
    pub fn start(config: Config) -> anyhow::Result<Self> {
        // A second start in one process finds it installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let bound = config
            .listeners
            .iter()
            .map(server::bind)
            .collect::<anyhow::Result<Vec<Bound>>>()?;
        let controller = config.quorum.listener.as_ref().map(server::bind).transpose()?;
        let http_socket = config.http_listener.as_deref().map(http::bind).transpose()?;
        let dirs = LogDirs::open(&config.log_dirs)?;
        let background = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(BACKGROUND_THREADS)
            .thread_name("background")
            .enable_all()
            .build()?;
        let (syncer, syncer_thread) = Syncer::start()?;
        let disk: Arc<dyn Disk> = Arc::new(FsDisk);
        let addresses: Vec<SocketAddr> = bound.iter().map(|bound| bound.address).collect();
        let (stop, stopped) = watch::channel(false);
        let quorum = join::open(&config, &disk, &dirs, background.handle())?;
        let tier = background.block_on(Tier::open(&config, &quorum.metadata.view().cluster_id))?;
        let epoch = quorum.join(
            (&config, &dirs),
            &addresses,
            controller,
            (background.handle(), &stopped),
        )?;
        let keeper = Keeper::new(
            &config,
            epoch,
            dirs,
            disk,
            Arc::clone(&syncer),
            Arc::clone(&clock),
        );
        let partitions = keeper.start(&quorum.metadata.view())?;
        let broker = Arc::new(Broker {
            bound: addresses,
            groups: Groups::new(&config),
            metadata: quorum.metadata,
            membership: quorum.membership,
            epoch,
            partitions,
            clock,
            metrics: Metrics::default(),
            throttles: cluster::Throttles::default(),
            request_memory: RequestMemory::new(config.request_memory_bytes),
            complaints: Complaints::default(),
            producer_ids: ProducerIds::default(),
            tier,
            tables: parking_lot::Mutex::default(),
            background: background.handle().clone(),
            config,
        });
        let (handles, shards) = start_shards(&broker, &stopped)?;
        let http = http_socket.as_ref().map(TcpListener::local_addr).transpose()?;
        let tables = tables::start(&broker, stopped.clone())?;
        let node = Self {
            broker,
            http,
            stop,
            shards,
            tables,
            syncer: (syncer, syncer_thread),
            background,
        };
        node.start_tasks(bound, http_socket, &handles, &stopped);
        tracing::info!(node = node.broker.config.node_id, listeners = ?node.broker.bound, http = ?node.http, "Kafka Server started");
        Ok(node)
    }

    fn start_tasks(
        &self,
        bound: Vec<Bound>,
        http_socket: Option<TcpListener>,
        shards: &Arc<[ShardHandle]>,
        stopped: &watch::Receiver<bool>,
    ) {
        let broker = &self.broker;
        for (listener, bound) in bound.into_iter().enumerate() {
            let accept = server::accept(bound, listener, Arc::clone(shards), stopped.clone());
            self.background.spawn(async move {
                if let Err(error) = accept.await {
                    tracing::error!(%error, "a listener has stopped");
                }
            });
        }
        if let Some(socket) = http_socket {
            self.background
                .spawn(http::serve(Arc::clone(broker), socket, stopped.clone()));
        }
        self.background
            .spawn(housekeeping::run(Arc::clone(broker), stopped.clone()));
        if let Some(membership) = &broker.membership {
            membership.opened(broker);
            cluster::replicas::start(broker, stopped.clone());
            self.background
                .spawn(cluster::isr::run(Arc::clone(broker), stopped.clone()));
        }
        broker.groups.start(broker, stopped.clone());
        if let Some(tier) = &broker.tier {
            tier.start(broker, stopped.clone());
        }
    }

    /// The first client listener's address.
    pub fn bootstrap(&self) -> SocketAddr {
        self.broker.bound[0]
    }

    /// The address of metrics and health, if there is one.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Ends when this node must not go on: another process has registered as the same broker.
    ///
    /// # Errors
    /// Always, and then with what to do about it.
    pub async fn failed(&self) -> anyhow::Result<()> {
        match &self.broker.membership {
            Some(membership) => membership.superseded().await,
            None => std::future::pending().await,
        }
        anyhow::bail!(
            "another process has registered with this node.id: give each broker its own. node.id={}",
            self.broker.config.node_id
        )
    }

    /// Stops accepting, answers what is under way, and leaves everything on disk so that the next start need not
    /// recover.
    pub fn shutdown(self) {
        tracing::info!("shutting down");
        if let Some(membership) = &self.broker.membership {
            self.background.block_on(membership.leave(LEAVE_MAX));
        }
        // Nobody may be listening any more; that is what is wanted.
        let _ = self.stop.send(true);
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard ended with a panic");
            }
        }
        let _ = self.tables.join();
        self.broker.partitions.stop();
        let on_disk = put_down(&self.broker.partitions.all());
        self.syncer.0.stop();
        let _ = self.syncer.1.join();
        if let Some(tier) = &self.broker.tier {
            self.background.block_on(tier.close());
        }
        self.background.shutdown_timeout(SHUTDOWN_MAX);
        let config = &self.broker.config;
        if on_disk && let Err(error) = mark_clean_shutdown(&config.log_dirs, self.broker.epoch) {
            tracing::error!(%error, "this orderly end could not be noted: the next start is taken for one after a crash");
        }
    }
}

/// A checkpoint is three syncs, and a thousand of them one after the other are longer than `docker stop` waits.
/// Returns whether everything is on the disk.
fn put_down(partitions: &[Arc<Partition>]) -> bool {
    let share = partitions.len().div_ceil(CHECKPOINT_THREADS).max(1);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for partitions in partitions.chunks(share) {
            let failed = &failed;
            scope.spawn(move || {
                let count = partitions
                    .iter()
                    .filter(|partition| !partition.put_down())
                    .count();
                failed.fetch_or(count > 0, Ordering::Relaxed);
            });
        }
    });
    !failed.into_inner()
}

/// Ways to the shards, and their threads.
type Shards = (Arc<[ShardHandle]>, Vec<JoinHandle<()>>);

fn start_shards(broker: &Arc<Broker>, stopped: &watch::Receiver<bool>) -> anyhow::Result<Shards> {
    let started: Vec<(ShardHandle, JoinHandle<()>)> = (0..broker.config.shards)
        .map(|number| shard::start(number, Arc::clone(broker), stopped.clone()))
        .collect::<std::io::Result<_>>()?;
    let (handles, threads): (Vec<_>, Vec<_>) = started.into_iter().unzip();
    Ok((handles.into(), threads))
}
