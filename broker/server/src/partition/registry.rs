//! The partitions this broker holds, kept in agreement with metadata.
//!
//! Opening, creating and deleting touch the disk, so they happen on the keeper's own thread, one change of
//! metadata after the other; lookups by requests only read a map.

use super::{Me, Partition, PartitionId, Syncer};
use crate::clock::Clock;
use crate::config::Config;
use crate::dirs::LogDirs;
use crate::topic_settings;
use anyhow::Context as _;
use imbl::ordmap::DiffItem;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use varve_cluster::controller::{State, Topic};
use varve_cluster::{BrokerEpoch, BrokerId, TopicId};
use varve_log::{Disk, Log, Offset, Settings};

/// Changes of metadata that may wait for the keeper; proposals wait for their own.
const WAITING_MAX: usize = 1024;

#[derive(Debug, Default)]
struct Map {
    open: HashMap<(TopicId, i32), Arc<Partition>>,
    /// Ours by metadata, and their logs could not be opened: damaged, or on a disk that does not answer. They stay as they
    /// are and the rest of the node runs; each is tried again when its topic's metadata changes.
    closed: HashSet<(TopicId, i32)>,
}

/// See the module's first line.
#[derive(Debug)]
pub(crate) struct Partitions {
    map: Arc<RwLock<Map>>,
    keeper: Mutex<Option<Running>>,
}

type Change = (Arc<State>, oneshot::Sender<()>);

/// The keeper at work: what it is told with, and its thread.
#[derive(Debug)]
struct Running(mpsc::SyncSender<Change>, JoinHandle<()>);

/// Opens, creates, changes and deletes.
pub(crate) struct Keeper {
    me: Me,
    config: Config,
    clock: Arc<dyn Clock>,
    dirs: LogDirs,
    disk: Arc<dyn Disk>,
    syncer: Arc<Syncer>,
    map: Arc<RwLock<Map>>,
    /// The metadata the map agrees with.
    seen: State,
}

impl Keeper {
    pub(crate) fn new(
        config: &Config,
        epoch: BrokerEpoch,
        dirs: LogDirs,
        disk: Arc<dyn Disk>,
        syncer: Arc<Syncer>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            me: Me {
                id: BrokerId::new(config.node_id),
                epoch,
                lag_max_ms: i64::try_from(config.replica_lag_max.as_millis()).unwrap_or(i64::MAX),
            },
            config: config.clone(),
            clock,
            dirs,
            disk,
            syncer,
            map: Arc::default(),
            seen: State::new(""),
        }
    }

    /// Opens everything `view` gives this broker, on as many threads as there are cores; then starts the keeper's
    /// own thread.
    pub(crate) fn start(mut self, view: &State) -> anyhow::Result<Partitions> {
        self.open_all(view)?;
        self.seen = view.clone();
        let (keeper, changes) = mpsc::sync_channel::<Change>(WAITING_MAX);
        let map = Arc::clone(&self.map);
        let thread = std::thread::Builder::new()
            .name("partitions".to_owned())
            .spawn(move || {
                for (view, done) in changes {
                    self.follow(&view);
                    // Whoever asked may have gone; the change is made all the same.
                    let _ = done.send(());
                }
            })?;
        let keeper = Mutex::new(Some(Running(keeper, thread)));
        Ok(Partitions { map, keeper })
    }

    fn open_all(&self, view: &State) -> anyhow::Result<()> {
        let mine: Vec<(Arc<Topic>, i32)> = view
            .topics
            .values()
            .flat_map(|topic| self.mine(topic).map(|index| (Arc::clone(topic), index)))
            .collect();
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        std::thread::scope(|scope| {
            let workers: Vec<_> = mine
                .chunks(mine.len().div_ceil(threads).max(1))
                .map(|share| {
                    scope.spawn(move || {
                        share
                            .iter()
                            .for_each(|(topic, index)| self.open_or_leave_closed(view, topic, *index));
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a log could not be opened"))
            })
        })
    }

    fn mine<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = i32> + 'a {
        let replicas = topic
            .partitions
            .iter()
            .map(|partition| partition.replicas.contains(&self.me.id));
        (0..)
            .zip(replicas)
            .filter_map(|(index, mine)| mine.then_some(index))
    }

    /// Brings the map from what it agrees with to `view`.
    fn follow(&mut self, view: &State) {
        let seen = std::mem::replace(&mut self.seen, view.clone());
        let defaults_changed = seen.default_broker_configs != view.default_broker_configs
            || seen.broker_configs != view.broker_configs;
        for change in seen.topics.diff(&view.topics) {
            match change {
                DiffItem::Add(_, topic) | DiffItem::Update { new: (_, topic), .. } => self.agree(view, topic),
                DiffItem::Remove(_, topic) => self.remove(topic),
            }
        }
        if defaults_changed {
            for topic in view.topics.values() {
                self.agree(view, topic);
            }
        }
    }

    fn agree(&self, view: &State, topic: &Arc<Topic>) {
        for index in self.mine(topic) {
            let open = self.map.read().open.get(&(topic.id, index)).cloned();
            match open {
                Some(partition) => {
                    partition.configure(topic_settings::of(&self.config, view, topic));
                    if let Some(metadata) = topic.partition(index) {
                        partition.apply(metadata, self.clock.now());
                    }
                }
                None => self.open_or_leave_closed(view, topic, index),
            }
        }
    }

    fn open_or_leave_closed(&self, view: &State, topic: &Topic, index: i32) {
        let id = (topic.id, index);
        match self.open(view, topic, index) {
            Ok(partition) => {
                let mut map = self.map.write();
                map.closed.remove(&id);
                map.open.insert(id, Arc::new(partition));
            }
            Err(error) => {
                tracing::error!(topic = %topic.name, index, error = format!("{error:#}"), "the partition cannot be opened and stays closed");
                self.map.write().closed.insert(id);
            }
        }
    }

    fn open(&self, view: &State, topic: &Topic, index: i32) -> anyhow::Result<Partition> {
        let metadata = topic.partition(index).context("metadata has no such partition")?;
        let config = topic_settings::of(&self.config, view, topic);
        let settings = topic_settings::log(&config, self.config.flush);
        let dir = self.dirs.of(&topic.name, topic.id, index)?;
        let log = self.open_log(&dir, settings, metadata.tier_end())?;
        let id = PartitionId {
            topic: topic.name.clone(),
            topic_id: topic.id,
            index,
        };
        let flush = (self.config.flush, Arc::clone(&self.syncer));
        Ok(Partition::new(
            id,
            self.me,
            log,
            config,
            flush,
            (metadata, self.clock.now()),
        ))
    }

    /// What is in the bucket was committed: a local log that ends before it has lost data (a replaced disk), and
    /// goes on from where the bucket ends. Giving out those offsets again would be the worst of all.
    fn open_log(&self, dir: &Path, settings: Settings, tier_end: Offset) -> anyhow::Result<Log> {
        let cannot = || format!("the partition's log cannot be opened. dir={}", dir.display());
        let (disk, now) = (|| Arc::clone(&self.disk), self.clock.now());
        let (log, recovered) =
            Log::open(disk(), dir.to_owned(), settings.clone(), now).with_context(cannot)?;
        if recovered.cut_bytes > 0 {
            tracing::warn!(dir = %dir.display(), bytes = recovered.cut_bytes, "a torn tail was cut");
        }
        // Among others, a replica gets what it lacks from its leader, or from the bucket with all that belongs to it.
        if log.log_end() >= tier_end || self.config.quorum.voters.len() > 1 {
            return Ok(log);
        }
        tracing::warn!(dir = %dir.display(), log_end = log.log_end().value(), tier_end = tier_end.value(), "local data is missing; the log goes on where the bucket ends");
        drop(log);
        LogDirs::empty(dir)?;
        Log::create_at(disk(), dir.to_owned(), settings, tier_end, now).with_context(cannot)
    }

    fn remove(&self, topic: &Topic) {
        for index in self.mine(topic) {
            let (open, was_closed) = {
                let (mut map, id) = (self.map.write(), (topic.id, index));
                (map.open.remove(&id), map.closed.remove(&id))
            };
            match open {
                Some(partition) => partition.close(),
                None if was_closed => {}
                None => continue,
            }
            if let Err(error) = self.dirs.delete(&topic.name, topic.id, index) {
                tracing::error!(topic = %topic.name, index, error = format!("{error:#}"), "a deleted partition's files are still there");
            }
        }
    }
}

impl Partitions {
    /// A partition held here.
    pub(crate) fn get(&self, topic: TopicId, index: i32) -> Option<Arc<Partition>> {
        self.map.read().open.get(&(topic, index)).cloned()
    }

    /// Those this broker leads, in no order.
    pub(crate) fn led(&self) -> Vec<Arc<Partition>> {
        let mut all = self.all();
        all.retain(|partition| partition.leads());
        all
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Partition>> {
        self.map.read().open.values().cloned().collect()
    }

    /// Whether a partition is held here and could not be opened.
    pub(crate) fn is_closed(&self, topic: TopicId, index: i32) -> bool {
        self.map.read().closed.contains(&(topic, index))
    }

    /// How many those are.
    pub(crate) fn closed_count(&self) -> usize {
        self.map.read().closed.len()
    }

    /// Returns when this broker's partitions agree with `view` or something newer.
    pub(crate) async fn reconcile(&self, view: Arc<State>) {
        let (done, agreed) = oneshot::channel();
        let mut change = (view, done);
        loop {
            let Some(keeper) = self.keeper.lock().as_ref().map(|running| running.0.clone()) else {
                return;
            };
            match keeper.try_send(change) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Full(back)) => change = back,
                // It has stopped: so will the caller.
                Err(mpsc::TrySendError::Disconnected(_)) => return,
            }
            tokio::task::yield_now().await;
        }
        let _ = agreed.await;
    }

    /// Ends the keeper after the changes it was told, and with it its hold of the log directories. Nothing is opened,
    /// changed or deleted any more.
    pub(crate) fn stop(&self) {
        let Some(Running(keeper, thread)) = self.keeper.lock().take() else {
            return;
        };
        drop(keeper);
        if thread.join().is_err() {
            tracing::error!("the keeper of partitions ended with a panic");
        }
    }
}
