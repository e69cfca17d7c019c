//! Which groups this broker coordinates: those whose partition of `__consumer_offsets` it leads.
//!
//! A partition is loaded when leadership comes and dropped when it goes; until it is loaded to the end,
//! clients are told to wait. "Nothing committed" is never an answer of a partition that is still loading.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use imbl::ordmap::DiffItem;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use varve_cluster::controller::{Partition as Metadata, State, Topic};
use varve_cluster::groups::{GroupError, Settings};
use varve_log::{LeaderEpoch, Offset};

use super::coordinator::Coordinator;
use super::{loading, topic, upkeep};
use crate::broker::Broker;
use crate::config::{Config, GroupSettings};
use crate::partition::Partition;
use crate::wire::ErrorCode;

/// How long a client that asks first waits for the new topic's partition to be loaded.
const FIRST_LOAD_MAX: Duration = Duration::from_secs(5);

/// See the module's first lines.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(super) settings: Settings,
    pub(super) config: GroupSettings,
    slots: RwLock<BTreeMap<i32, Slot>>,
    /// Counts changes of `slots`.
    changes: watch::Sender<u64>,
    /// Some group's next deadline came closer.
    pub(super) sooner: Notify,
    /// Metadata has been followed at least once: an empty map means that there is nothing to load.
    following: AtomicBool,
    /// When this began: by the wall, and by a clock that is never set.
    began: OnceLock<(i64, Instant)>,
}

#[derive(Debug)]
enum Slot {
    Loading(LeaderEpoch),
    Loaded(LeaderEpoch, Arc<Coordinator>),
    /// Its log cannot be read.
    Failed(LeaderEpoch),
}

/// One committed offset, for metrics.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: Offset,
}

/// A partition that has to be read.
pub(super) struct Load {
    index: i32,
    epoch: LeaderEpoch,
    partition: Arc<Partition>,
}

impl Groups {
    pub(crate) fn new(config: &Config) -> Self {
        let groups = config.groups;
        let int = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
        let settings = Settings {
            initial_rebalance_delay_ms: i64::from(int(groups.initial_rebalance_delay)),
            session_timeout_min_ms: int(groups.session_timeout_min),
            session_timeout_max_ms: int(groups.session_timeout_max),
            size_max: groups.size_max,
        };
        Self {
            settings,
            config: groups,
            slots: RwLock::default(),
            changes: watch::channel(0).0,
            sooner: Notify::new(),
            following: AtomicBool::new(false),
            began: OnceLock::new(),
        }
    }

    /// Follows metadata and keeps the timers, until the node stops.
    pub(crate) fn start(&self, broker: &Arc<Broker>, stopped: watch::Receiver<bool>) {
        let (follower, timer) = (Arc::clone(broker), Arc::clone(broker));
        let until = stopped.clone();
        broker
            .background
            .spawn(async move { follow(&follower, until).await });
        broker
            .background
            .spawn(async move { upkeep::run(&timer, stopped).await });
    }

    /// Whether every group that belongs here can be answered.
    pub(crate) fn loaded(&self) -> bool {
        let loading = |slot: &Slot| matches!(slot, Slot::Loading(_));
        self.following.load(Ordering::Acquire) && !self.slots.read().values().any(loading)
    }

    /// Everything committed by groups of this broker.
    pub(crate) fn committed(&self) -> Vec<Committed> {
        self.all()
            .iter()
            .flat_map(|coordinator| coordinator.committed())
            .collect()
    }

    /// All partitions that are loaded here.
    pub(crate) fn all(&self) -> Vec<Arc<Coordinator>> {
        let loaded = |slot: &Slot| match slot {
            Slot::Loaded(_, coordinator) => Some(Arc::clone(coordinator)),
            Slot::Loading(_) | Slot::Failed(_) => None,
        };
        self.slots.read().values().filter_map(loaded).collect()
    }

    /// The partition that keeps `group`, loaded.
    pub(crate) fn of(&self, broker: &Broker, group: &str) -> Result<Arc<Coordinator>, ErrorCode> {
        let view = broker.view();
        let topic = view.topic_named(topic::NAME).ok_or(ErrorCode::NotCoordinator)?;
        let index = topic::partition_of(group, topic.partitions.len());
        let leader = topic.partition(index).and_then(|partition| partition.leader);
        if leader != Some(broker.id()) {
            return Err(ErrorCode::NotCoordinator);
        }
        match self.slots.read().get(&index) {
            Some(Slot::Loaded(_, coordinator)) => Ok(Arc::clone(coordinator)),
            Some(Slot::Failed(_)) => Err(ErrorCode::CoordinatorNotAvailable),
            Some(Slot::Loading(_)) | None => Err(ErrorCode::CoordinatorLoadInProgress),
        }
    }

    /// Who coordinates `group`; makes the internal topic if nobody has asked before.
    pub(crate) async fn find(
        &self,
        broker: &Arc<Broker>,
        group: &str,
    ) -> Result<varve_cluster::BrokerId, ErrorCode> {
        let existed = broker.view().topic_named(topic::NAME).is_some();
        if !existed {
            topic::create(broker).await?;
        }
        let view = broker.view();
        let topic = view
            .topic_named(topic::NAME)
            .ok_or(ErrorCode::CoordinatorNotAvailable)?;
        let index = topic::partition_of(group, topic.partitions.len());
        let leader = topic.partition(index).and_then(|partition| partition.leader);
        let leader = leader.ok_or(ErrorCode::CoordinatorNotAvailable)?;
        if !existed && leader == broker.id() {
            self.wait_for(index).await;
        }
        Ok(leader)
    }

    /// Milliseconds of a steady clock that agreed with the wall when it began: sessions must not end because
    /// somebody has set the time.
    pub(super) fn now(&self, broker: &Broker) -> i64 {
        let (wall, steady) = self
            .began
            .get_or_init(|| (broker.clock.now().value(), Instant::now()));
        wall.saturating_add(i64::try_from(steady.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    async fn wait_for(&self, index: i32) {
        let mut changes = self.changes.subscribe();
        let loaded = async {
            while !matches!(
                self.slots.read().get(&index),
                Some(Slot::Loaded(..) | Slot::Failed(_))
            ) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // If it takes longer, the client is told to wait by its next request.
        let _ = tokio::time::timeout(FIRST_LOAD_MAX, loaded).await;
    }

    /// Takes up what metadata gives to this broker and lays down what it takes away.
    fn agree(&self, broker: &Arc<Broker>, topic: Option<&Topic>) -> Vec<Load> {
        let mine = |(index, partition): (i32, Metadata)| {
            (partition.leader == Some(broker.id())).then_some((index, partition.leader_epoch))
        };
        let partitions = topic
            .iter()
            .flat_map(|topic| (0..).zip(topic.partitions.iter().cloned()));
        let led: BTreeMap<i32, LeaderEpoch> = partitions.filter_map(mine).collect();
        let mut loads = Vec::new();
        let mut slots = self.slots.write();
        let gone: Vec<i32> = slots
            .iter()
            .filter(|(index, slot)| led.get(index) != Some(&slot.epoch()))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            if let Some(Slot::Loaded(_, coordinator)) = slots.remove(&index) {
                coordinator.resign(GroupError::CoordinatorNotAvailable);
            }
        }
        let Some(topic) = topic else { return loads };
        for (index, epoch) in led {
            if slots.contains_key(&index) {
                continue;
            }
            // Not open yet: the next look finds it.
            let Some(partition) = broker.partition(topic.id, index) else {
                continue;
            };
            slots.insert(index, Slot::Loading(epoch));
            loads.push(Load {
                index,
                epoch,
                partition,
            });
        }
        loads
    }

    fn load(&self, broker: &Arc<Broker>, load: &Load) {
        let outcome = loading::load(
            &load.partition,
            self.settings,
            self.now(broker),
            &broker.background,
        );
        let mut slots = self.slots.write();
        // Leadership may have gone on while the log was being read.
        let current = matches!(slots.get(&load.index), Some(Slot::Loading(epoch)) if *epoch == load.epoch);
        if !current {
            return;
        }
        let slot = match outcome {
            Ok(shard) => {
                let coordinator = Coordinator::new(Arc::clone(&load.partition), shard);
                Slot::Loaded(load.epoch, coordinator)
            }
            Err(error) => {
                tracing::error!(partition = %load.partition.id, error = format!("{error:#}"), "consumer groups cannot be loaded");
                Slot::Failed(load.epoch)
            }
        };
        slots.insert(load.index, slot);
        drop(slots);
        self.changes.send_modify(|changes| *changes += 1);
        self.sooner.notify_one();
    }
}

impl Slot {
    fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Loading(epoch) | Self::Loaded(epoch, _) | Self::Failed(epoch) => *epoch,
        }
    }
}

async fn follow(broker: &Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    let mut changes = broker.metadata.subscribe();
    let mut seen = State::clone(&changes.borrow_and_update());
    let mut view = broker.view();
    loop {
        // The log of a partition is there once this broker's partitions agree with metadata.
        broker.partitions.reconcile(Arc::clone(&view)).await;
        let loads = broker
            .groups
            .agree(broker, view.topic_named(topic::NAME).map(AsRef::as_ref));
        if !loads.is_empty() {
            start_loading(broker, loads);
        }
        broker.groups.following.store(true, Ordering::Release);
        forget_deleted(broker, &seen, &view);
        seen = State::clone(&view);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        view = Arc::clone(&changes.borrow_and_update());
    }
}

/// Reading logs blocks, so it has a thread of its own, for as long as there is something to read.
fn start_loading(broker: &Arc<Broker>, loads: Vec<Load>) {
    let loader = Arc::clone(broker);
    let thread = std::thread::Builder::new().name("groups-load".to_owned());
    let started = thread.spawn(move || loads.iter().for_each(|load| loader.groups.load(&loader, load)));
    if let Err(error) = started {
        tracing::error!(%error, "consumer groups cannot be loaded: no thread can be started");
    }
}

/// What was committed for a topic goes with it (the name may come back as another topic).
fn forget_deleted(broker: &Arc<Broker>, seen: &State, view: &State) {
    for change in seen.topics.diff(&view.topics) {
        let DiffItem::Remove(_, topic) = change else {
            continue;
        };
        for coordinator in broker.groups.all() {
            coordinator.forget_topic(broker, topic.name.as_str());
        }
    }
}
