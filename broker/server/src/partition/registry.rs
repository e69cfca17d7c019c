//! The partitions this broker holds, kept in agreement with metadata.
//!
//! Opening, creating and deleting touch the disk, so they happen on the keeper's own thread, one change of
//! metadata after the other; lookups by requests only read a map.

use super::{Me, Partition, PartitionId, Syncer};
use crate::clock::Clock;
use crate::config::Config;
use crate::dirs::{Folder, LogDirs};
use crate::topic_settings;
use anyhow::Context as _;
use imbl::ordmap::DiffItem;
use parking_lot::{Mutex, RwLock};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// How often the in-sync replicas of what this broker leads have become fewer, and more.
#[derive(Debug, Default)]
pub(crate) struct IsrChanges {
    pub(crate) shrinks: AtomicU64,
    pub(crate) expands: AtomicU64,
}

/// See the module's first line.
#[derive(Debug)]
pub(crate) struct Partitions {
    map: Arc<RwLock<Map>>,
    pub(crate) isr_changes: Arc<IsrChanges>,
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
    isr_changes: Arc<IsrChanges>,
    /// The metadata the map agrees with.
    seen: State,
}

impl IsrChanges {
    fn count(&self, me: BrokerId, old: &Topic, new: &Topic) {
        let both = old.partitions.iter().zip(&new.partitions);
        for (old, new) in both.filter(|(_, new)| new.leader == Some(me)) {
            match new.isr.len().cmp(&old.isr.len()) {
                Ordering::Less => self.shrinks.fetch_add(1, Relaxed),
                Ordering::Greater => self.expands.fetch_add(1, Relaxed),
                Ordering::Equal => continue,
            };
        }
    }
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
            isr_changes: Arc::default(),
            seen: State::new(""),
        }
    }

    /// Opens everything `view` gives this broker, on as many threads as there are cores; then starts the keeper's
    /// own thread.
    pub(crate) fn start(mut self, view: &State) -> anyhow::Result<Partitions> {
        self.clear_strays(view)?;
        self.open_all(view)?;
        self.seen = view.clone();
        let (keeper, changes) = mpsc::sync_channel::<Change>(WAITING_MAX);
        let (map, isr_changes) = (Arc::clone(&self.map), Arc::clone(&self.isr_changes));
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
        Ok(Partitions {
            map,
            isr_changes,
            keeper,
        })
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
            if let DiffItem::Update { old, new } = &change {
                self.isr_changes.count(self.me.id, old.1, new.1);
            }
            match change {
                DiffItem::Add(_, topic) => self.agree(view, topic),
                DiffItem::Update {
                    old: (_, before),
                    new: (_, topic),
                } => {
                    self.part_with(before, topic);
                    self.agree(view, topic);
                }
                DiffItem::Remove(_, topic) => self.mine(topic).for_each(|index| self.remove(topic, index)),
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

    /// What was this broker's and is not any more: a reassignment has ended, others are in sync.
    fn part_with(&self, before: &Topic, topic: &Topic) {
        let now: HashSet<i32> = self.mine(topic).collect();
        for index in self.mine(before).filter(|index| !now.contains(index)) {
            tracing::info!(topic = %topic.name, index, "the partition is not this broker's any more; its log is deleted here");
            self.remove(topic, index);
        }
    }

    fn remove(&self, topic: &Topic, index: i32) {
        let (open, was_closed) = {
            let (mut map, id) = (self.map.write(), (topic.id, index));
            (map.open.remove(&id), map.closed.remove(&id))
        };
        match open {
            Some(partition) => partition.retire(),
            None if was_closed => {}
            None => return,
        }
        if let Err(error) = self.dirs.delete(&topic.name, topic.id, index) {
            tracing::error!(topic = %topic.name, index, error = format!("{error:#}"), "the files of a partition that is gone from here are still there");
        }
    }

    /// Folders of partitions that are not this broker's. Metadata, which is no older than this broker's registration, may
    /// say where they belong; if it does not know the topic at all, something else is wrong, and an operator has to look.
    fn clear_strays(&self, view: &State) -> anyhow::Result<()> {
        for folder in self.dirs.folders()? {
            let path = folder.path.display();
            let cleared = match belongs(view, self.me.id, &folder) {
                Belongs::Here => continue,
                Belongs::Elsewhere => {
                    tracing::info!(%path, "the partition was moved or deleted while this broker was down; its log is deleted here");
                    folder.discard()
                }
                Belongs::Nowhere => folder.set_aside().map(|aside| {
                    tracing::error!(%path, aside = %aside.display(), "metadata does not know this partition's topic; its folder is set aside and kept: is this the right cluster?");
                }),
            };
            if let Err(error) = cleared {
                tracing::error!(%path, error = format!("{error:#}"), "a folder that is not this broker's stays where it is");
            }
        }
        Ok(())
    }
}

/// Whose a partition's folder is by metadata.
enum Belongs {
    Here,
    Elsewhere,
    /// Metadata does not know.
    Nowhere,
}

fn belongs(view: &State, me: BrokerId, folder: &Folder) -> Belongs {
    match view.partition(folder.topic_id, folder.index) {
        Some(partition) if partition.replicas.contains(&me) => Belongs::Here,
        Some(_) => Belongs::Elsewhere,
        None if view.tombstones.contains_key(&folder.topic_id) => Belongs::Elsewhere,
        None => Belongs::Nowhere,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::test_cluster::{add_broker, add_topic, alone, config, reassign, with_replicas};
    use crate::clock::SystemClock;
    use crate::partition::Goal;
    use varve_log::{Batch, Builder, FsDisk, Timestamp};

    struct Home {
        dir: tempfile::TempDir,
        syncer: Arc<Syncer>,
    }

    impl Home {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                syncer: Syncer::start().unwrap().0,
            }
        }

        fn start(&self, view: &State) -> Partitions {
            let path = self.dir.path();
            let config = config(&[("log.dirs", &path.display().to_string()), ("node.id", "1")]);
            let dirs = LogDirs::open(&config.log_dirs).unwrap();
            let epoch = view.brokers[&BrokerId::new(1)].epoch;
            let syncer = Arc::clone(&self.syncer);
            let keeper = Keeper::new(
                &config,
                epoch,
                dirs,
                Arc::new(FsDisk),
                syncer,
                Arc::new(SystemClock),
            );
            keeper.start(view).unwrap()
        }

        fn folders(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.path()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name != ".lock").collect();
            names.sort();
            names
        }
    }

    impl Drop for Home {
        fn drop(&mut self) {
            self.syncer.stop();
        }
    }

    fn batch() -> Batch {
        let now = Timestamp::new(1_700_000_000_000);
        Batch::check_produced(Builder::new(now).push(now, None, Some(b"v"), &[]).build()).unwrap()
    }

    /// The others have caught up, and the one that led is out.
    fn moved(view: &State) -> State {
        let mut view = view.clone();
        add_broker(&mut view, 3, 3);
        reassign(&mut view, "orders", &[2, 3]);
        view
    }

    #[tokio::test]
    async fn what_is_moved_away_is_closed_and_deleted() {
        let home = Home::new();
        let view = with_replicas("orders", &[1, 2]);
        let partitions = home.start(&view);
        let topic = view.topic_named("orders").unwrap().id;
        let partition = partitions.get(topic, 0).unwrap();
        let waits = partition.append(&batch(), Some(Goal::Committed), Timestamp::new(1_700_000_000_000));
        let waits = waits.unwrap().settled.unwrap();

        partitions.reconcile(Arc::new(moved(&view))).await;

        assert!(partitions.get(topic, 0).is_none());
        assert_eq!(home.folders(), [""; 0]);
        assert!(waits.await.unwrap().is_err(), "who waited for it is told");
        let late = partition.append(&batch(), None, Timestamp::new(1_700_000_000_000));
        assert!(late.is_err(), "nobody writes to what is gone");
        partitions.stop();
    }

    #[tokio::test]
    async fn at_the_start_what_was_moved_meanwhile_goes_and_what_nobody_knows_is_kept() {
        let home = Home::new();
        let mut before = with_replicas("orders", &[1, 2]);
        add_topic(&mut before, "mine", 1);
        home.start(&before).stop();
        assert_eq!(home.folders(), ["mine-0", "orders-0"]);

        home.start(&moved(&before)).stop();
        assert_eq!(home.folders(), ["mine-0"]);

        // As if this were another cluster's metadata.
        home.start(&alone()).stop();
        let folders = home.folders();
        assert_eq!(folders.len(), 1);
        assert!(
            folders[0].starts_with("mine-0.") && folders[0].ends_with("-stray"),
            "{folders:?}"
        );
        home.start(&alone()).stop();
        assert_eq!(home.folders(), folders, "and stays");
    }
}
