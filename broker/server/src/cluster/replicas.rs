//! Copying what other brokers lead: one thread for each of them, one request after the other.
//!
//! What an answer brings is written, and with `varve.flush=group` synced, before the next request says so: the leader
//! counts on both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId as WireBrokerId, FetchRequest, FetchResponse};
use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;
use varve_cluster::controller::State;
use varve_cluster::replica::fetcher::{Limits, Turn};
use varve_cluster::replica::{Answer, Ask, Rebuild, Refusal, ReplicaFetcher, Step};
use varve_cluster::{BrokerId, TopicId};
use varve_log::{LeaderEpoch, Offset, Seed};

use super::{PartitionKey, Peer};
use crate::broker::Broker;
use crate::config::Flush;
use crate::partition::Partition;
use crate::wire::ErrorCode;

/// The tags of Varve's own fields in Fetch.
const DURABLE_END: i32 = 10_000;
const ASKED_SEGMENT_BASE: i32 = 10_001;
const SEGMENT_BASE: i32 = 10_000;
const LOCAL_BASE: i32 = 10_001;
/// The first with the replica's directory, and with room for our tags.
const FETCH_VERSION: i16 = 17;
/// `replica.fetch.wait.max.ms`
const FETCH_WAIT: Duration = Duration::from_millis(500);
const ANSWER_WAIT: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits {
    response_bytes: 10 << 20,
    partition_bytes: 1 << 20,
    partitions: 1_000,
    backoff_ms: 50,
    backoff_max_ms: 1_000,
};
/// Replicas that ask the bucket at the same time where to begin.
const SEEDS_AT_ONCE: usize = 8;
/// Looked at anew so often even if metadata stands still.
const PAUSE: Duration = Duration::from_millis(100);

/// What is asked about a partition; nothing if it is not followed any more.
type Question = (PartitionKey, Option<(Ask, Arc<Partition>)>);

/// Starts a copying thread for every other broker there is, and for those that come.
pub(crate) fn start(broker: &Arc<Broker>, stopped: watch::Receiver<bool>) {
    let broker = Arc::clone(broker);
    let background = broker.background.clone();
    background.spawn(async move {
        let mut views = broker.metadata.subscribe();
        let mut copied = BTreeSet::new();
        let mut stop = stopped.clone();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            broker.partitions.reconcile(Arc::clone(&view)).await;
            for other in view.brokers.keys().filter(|id| **id != broker.id()) {
                if copied.insert(*other) {
                    copy_from(&broker, *other, stopped.clone());
                }
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    });
}

fn copy_from(broker: &Arc<Broker>, leader: BrokerId, stopped: watch::Receiver<bool>) {
    let broker = Arc::clone(broker);
    let thread = std::thread::Builder::new().name(format!("copy-{leader}"));
    let spawned = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(Copier::new(broker, leader).run(stopped)),
            Err(error) => tracing::error!(%error, "replicas cannot be copied"),
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%leader, %error, "the thread that copies replicas cannot be started");
    }
}

/// A log that is to begin anew, with what the bucket knows of it. The others are copied meanwhile.
struct Seeded {
    key: PartitionKey,
    partition: Arc<Partition>,
    /// The leader epoch it followed in when that was asked for.
    epoch: LeaderEpoch,
    seed: anyhow::Result<Seed>,
}

struct Copier {
    broker: Arc<Broker>,
    leader: BrokerId,
    fetcher: ReplicaFetcher<PartitionKey>,
    /// In the fetcher, with the leader epoch they follow.
    followed: BTreeMap<PartitionKey, Arc<Partition>>,
    peer: Option<Peer>,
    seeds: (mpsc::Sender<Seeded>, mpsc::Receiver<Seeded>),
    seeding: Arc<Semaphore>,
}

impl Copier {
    fn new(broker: Arc<Broker>, leader: BrokerId) -> Self {
        Self {
            broker,
            leader,
            fetcher: ReplicaFetcher::new(LIMITS),
            followed: BTreeMap::new(),
            peer: None,
            seeds: mpsc::channel(SEEDS_AT_ONCE),
            seeding: Arc::new(Semaphore::new(SEEDS_AT_ONCE)),
        }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut views = self.broker.metadata.subscribe();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            self.agree(&view);
            while let Ok(seeded) = self.seeds.1.try_recv() {
                self.begin_anew(seeded);
            }
            let now = self.broker.clock.now().value();
            let held = self.held(&view);
            let worked = match self.fetcher.plan(now, |key| held.contains(key)) {
                Some(plan) => {
                    let asked = self.questions(&plan.partitions);
                    tokio::select! {
                        response = self.fetch(&asked) => self.took(&asked, response),
                        _ = stopped.wait_for(|stop| *stop) => return,
                    }
                    true
                }
                None => false,
            };
            if !worked {
                tokio::select! {
                    changed = views.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = stopped.wait_for(|stop| *stop) => return,
                }
            }
        }
    }

    /// Follows what this broker follows at that leader, and nothing else.
    fn agree(&mut self, view: &State) {
        let address = view.brokers.get(&self.leader).and_then(|broker| {
            let name = &self.broker.config.listeners[self.broker.config.inter_broker_listener].name;
            let listener = broker.listener(name)?;
            Some(format!("{}:{}", listener.host, listener.port))
        });
        if self.peer.as_ref().map(Peer::address) != address.as_deref() {
            let me = self.broker.id();
            self.peer = address.map(|address| Peer::new(address, &format!("varve-{me}-replica")));
        }
        let all = self.broker.partitions.all().into_iter();
        let wanted: BTreeMap<PartitionKey, Arc<Partition>> = all
            .filter(|partition| partition.follows() == Some(self.leader))
            .map(|partition| ((partition.id.topic_id, partition.id.index), partition))
            .collect();
        for gone in self.followed.keys().filter(|key| !wanted.contains_key(key)) {
            self.fetcher.remove(gone);
        }
        for (key, partition) in wanted.iter().filter(|(key, _)| !self.followed.contains_key(key)) {
            self.fetcher.add(*key);
            if let Some((rebuild, epoch)) = partition.prepare() {
                let turn = self.rebuild((*key, partition, epoch), rebuild);
                let now = self.broker.clock.now().value();
                self.fetcher.answered([(*key, turn)], now);
            }
        }
        self.followed = wanted;
    }

    /// Those that the throttle lets copy nothing now.
    fn held(&self, view: &State) -> BTreeSet<PartitionKey> {
        let broker = &self.broker;
        if broker
            .throttles
            .taken
            .is_open(&broker.config, view, broker.clock.now())
        {
            return BTreeSet::new();
        }
        let followed = self.followed.iter();
        let throttled = followed.filter(|(key, partition)| self.is_throttled(view, **key, partition));
        throttled.map(|(key, _)| *key).collect()
    }

    /// An operator says so, and it is not in sync.
    fn is_throttled(&self, view: &State, key: PartitionKey, partition: &Partition) -> bool {
        let me = self.broker.id();
        let in_sync = view
            .partition(key.0, key.1)
            .is_some_and(|one| one.isr.contains(&me));
        !in_sync && partition.config().follower_throttled.holds(key.1, me)
    }

    fn questions(&self, keys: &[PartitionKey]) -> Vec<Question> {
        let question = |key: &PartitionKey| {
            let partition = self.followed.get(key)?;
            Some((partition.ask()?, Arc::clone(partition)))
        };
        keys.iter().map(|key| (*key, question(key))).collect()
    }

    async fn fetch(&self, asked: &[Question]) -> Option<FetchResponse> {
        let mut topics: BTreeMap<Uuid, Vec<FetchPartition>> = BTreeMap::new();
        let mut me = ReplicaState::default();
        for ((topic, index), question) in asked {
            let Some((ask, _)) = question else { continue };
            me = me
                .with_replica_id(WireBrokerId(ask.replica.value()))
                .with_replica_epoch(i64::try_from(ask.broker_epoch.value()).unwrap_or(-1));
            topics
                .entry(topic.uuid())
                .or_default()
                .push(partition_of(*index, ask));
        }
        if topics.is_empty() {
            return None;
        }
        let topics = topics.into_iter().map(|(id, partitions)| {
            FetchTopic::default()
                .with_topic_id(id)
                .with_partitions(partitions)
        });
        let request = FetchRequest::default()
            .with_replica_state(me)
            .with_max_wait_ms(i32::try_from(FETCH_WAIT.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(i32::try_from(LIMITS.response_bytes).unwrap_or(i32::MAX))
            .with_session_epoch(-1)
            .with_topics(topics.collect());
        match self
            .peer
            .as_ref()?
            .call(&request, FETCH_VERSION, ANSWER_WAIT)
            .await
        {
            Ok(response) => Some(response),
            Err(error) => {
                tracing::debug!(leader = %self.leader, %error, "replicas could not be copied");
                None
            }
        }
    }

    /// Gives each partition its part of the answer, then writes and syncs what came.
    fn took(&mut self, asked: &[Question], response: Option<FetchResponse>) {
        let mut parts: BTreeMap<PartitionKey, PartitionData> = BTreeMap::new();
        for topic in response.into_iter().flat_map(|response| response.responses) {
            for partition in topic.partitions {
                let key = (TopicId::new(topic.topic_id), partition.partition_index);
                parts.insert(key, partition);
            }
        }
        let mut written = vec![];
        let mut turns = vec![];
        for (key, question) in asked {
            let turn = match (question, parts.remove(key)) {
                (Some((ask, partition)), Some(part)) => {
                    written.push(partition);
                    self.step(*key, (partition, ask), part)
                }
                _ => Turn::Failed,
            };
            turns.push((*key, turn));
        }
        for partition in written {
            partition.write_turn();
            if self.broker.config.flush == Flush::Group {
                partition.sync();
            }
        }
        self.fetcher.answered(turns, self.broker.clock.now().value());
    }

    fn step(
        &self,
        key: PartitionKey,
        (partition, ask): (&Arc<Partition>, &Ask),
        part: PartitionData,
    ) -> Turn {
        let bytes = part.records.as_ref().map_or(0, Bytes::len);
        self.broker.metrics.copied_in(bytes);
        if bytes > 0 && self.is_throttled(&self.broker.view(), key, partition) {
            self.broker.throttles.taken.spend(bytes);
        }
        let Some(answer) = answer_of(part) else {
            return Turn::Failed;
        };
        let step = partition.take(ask, answer, self.broker.clock.now());
        let done = match step {
            Step::Took { .. } => return Turn::Took,
            Step::Stale => return Turn::Passed,
            Step::Wait(_) => return Turn::Failed,
            Step::Cut(cut) => partition.cut(cut, ask.leader_epoch).map_err(anyhow::Error::from),
            Step::Rebuild(rebuild) => return self.rebuild((key, partition, ask.leader_epoch), rebuild),
        };
        finished(partition, done)
    }

    /// What is needed for the new beginning is fetched before the old log is touched.
    fn rebuild(
        &self,
        (key, partition, epoch): (PartitionKey, &Arc<Partition>, LeaderEpoch),
        rebuild: Rebuild,
    ) -> Turn {
        if let Some(seed) = rebuild.seed() {
            return finished(partition, restart(partition, seed, epoch));
        }
        let (broker, partition) = (Arc::clone(&self.broker), Arc::clone(partition));
        let (seeding, done) = (Arc::clone(&self.seeding), self.seeds.0.clone());
        self.broker.background.spawn(async move {
            let _turn = seeding.acquire().await;
            let seed = broker.seed_from_tier(&partition, rebuild.at()).await;
            let seeded = Seeded {
                key,
                partition,
                epoch,
                seed,
            };
            // The copier may have stopped: then nobody begins anything.
            let _ = done.send(seeded).await;
        });
        Turn::Busy
    }

    /// Without what the bucket knows, it copies what the leader still has.
    fn begin_anew(&mut self, seeded: Seeded) {
        let Seeded {
            key,
            partition,
            epoch,
            seed,
        } = seeded;
        let done = seed.and_then(|seed| restart(&partition, seed, epoch));
        let turn = finished(&partition, done);
        self.fetcher.ready(&key);
        self.fetcher
            .answered([(key, turn)], self.broker.clock.now().value());
    }
}

fn restart(partition: &Arc<Partition>, seed: Seed, epoch: LeaderEpoch) -> anyhow::Result<()> {
    tracing::info!(partition = %partition.id, at = seed.at.value(), "a replica begins anew");
    Ok(partition.restart_at(seed, epoch)?)
}

fn finished(partition: &Partition, done: anyhow::Result<()>) -> Turn {
    match done {
        Ok(()) => Turn::Took,
        Err(error) => {
            tracing::warn!(partition = %partition.id, error = format!("{error:#}"), "a replica cannot go on now");
            Turn::Failed
        }
    }
}

fn partition_of(index: i32, ask: &Ask) -> FetchPartition {
    let mut partition = FetchPartition::default()
        .with_partition(index)
        .with_current_leader_epoch(ask.leader_epoch.value())
        .with_fetch_offset(ask.from.value())
        .with_last_fetched_epoch(ask.last_epoch.map_or(-1, LeaderEpoch::value))
        .with_log_start_offset(ask.log_start.value())
        .with_partition_max_bytes(i32::try_from(LIMITS.partition_bytes).unwrap_or(i32::MAX));
    partition.unknown_tagged_fields = BTreeMap::from([
        (DURABLE_END, int64(ask.durable_end.value())),
        (ASKED_SEGMENT_BASE, int64(ask.segment_base.value())),
    ]);
    partition
}

fn int64(value: i64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8);
    bytes.put_i64(value);
    bytes.freeze()
}

/// `None` for an error that only time can mend.
fn answer_of(part: PartitionData) -> Option<Answer<Bytes>> {
    let own = |tag: i32| {
        let bytes = part.unknown_tagged_fields.get(&tag).cloned();
        bytes
            .filter(|bytes| bytes.len() == 8)
            .map_or(-1, |mut bytes| bytes.get_i64())
    };
    let code = part.error_code;
    let refused = [
        (ErrorCode::FencedLeaderEpoch, Refusal::Fenced),
        (ErrorCode::UnknownLeaderEpoch, Refusal::UnknownEpoch),
        (ErrorCode::NotLeaderOrFollower, Refusal::NotLeader),
        (ErrorCode::KafkaStorageError, Refusal::Storage),
    ];
    if let Some((_, refusal)) = refused.iter().find(|(error, _)| error.code() == code) {
        return Some(Answer::Refused(*refusal));
    }
    if code == ErrorCode::OffsetMovedToTieredStorage.code() {
        return Some(Answer::NotLocal {
            local_base: Offset::new(own(LOCAL_BASE)),
            log_start: Offset::new(part.log_start_offset),
        });
    }
    if code != 0 {
        return None;
    }
    if part.diverging_epoch.epoch >= 0 {
        return Some(Answer::Diverging {
            epoch: LeaderEpoch::new(part.diverging_epoch.epoch),
            end: Offset::new(part.diverging_epoch.end_offset),
        });
    }
    Some(Answer::Batches {
        segment_base: Offset::new(own(SEGMENT_BASE)),
        high_watermark: Offset::new(part.high_watermark),
        log_start: Offset::new(part.log_start_offset),
        read: part.records.filter(|records| !records.is_empty()),
    })
}
