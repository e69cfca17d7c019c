//! One partition as this broker holds it: its log, who leads it, and who waits for it, behind one short lock.
//! Nothing under the lock waits or touches the disk: writes, syncs and reads are planned under it and run outside.

mod read;
mod registry;
mod replication;
mod role;
mod syncer;
mod waiters;

pub(crate) use read::{Read, Visible};
pub(crate) use registry::{Keeper, Partitions};
pub(crate) use syncer::Syncer;
pub(crate) use waiters::{Goal, Settled};

use crate::config::Flush;
use parking_lot::{Condvar, Mutex, MutexGuard};
use role::Role;
use std::sync::Arc;
use varve_cluster::controller::{Partition as Metadata, TierPointer};
use varve_cluster::replica::{self, Durability, take_over};
use varve_cluster::topic_config::TopicConfig;
use varve_cluster::{BrokerEpoch, BrokerId, TopicId, TopicName};
use varve_log::{
    AppendError, Appended, Batch, Dropped, LeaderEpoch, Log, LogOffsets, Offset, SealedSegment, TierEnd,
    Timestamp, Verdict,
};
use waiters::Waiters;

/// This broker as a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Me {
    pub(crate) id: BrokerId,
    /// This uptime.
    pub(crate) epoch: BrokerEpoch,
    /// `replica.lag.time.max.ms`
    pub(crate) lag_max_ms: i64,
}

/// A partition's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionId {
    pub(crate) topic: TopicName,
    pub(crate) topic_id: TopicId,
    pub(crate) index: i32,
}

impl std::fmt::Display for PartitionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

/// See the module's first lines.
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    me: Me,
    flush: Flush,
    syncer: Arc<Syncer>,
    state: Mutex<State>,
    /// Told when a turn is handed back, and when the whole log is free again.
    turned: Condvar,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partition({})", self.id)
    }
}

struct State {
    log: Log,
    config: Arc<TopicConfig>,
    role: Role,
    waiters: Waiters,
    tier: Option<TierPointer>,
    /// Already on its way to the syncer.
    sync_queued: bool,
    /// Takes no more writes: its disk has failed, or it is not this broker's any more.
    dead: bool,
    /// Outside the lock its end is being cut off, or its checkpoint written: neither may happen beside the other, or
    /// beside a change of role.
    held: bool,
}

/// Appended, and what to wait for before saying so.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) appended: Appended,
    pub(crate) log_start: Offset,
    pub(crate) settled: Option<Settled>,
}

impl Partition {
    /// Takes a recovered log; `metadata` says whose it is.
    pub(crate) fn new(
        id: PartitionId,
        me: Me,
        mut log: Log,
        config: Arc<TopicConfig>,
        (flush, syncer): (Flush, Arc<Syncer>),
        (metadata, now): (&Metadata, Timestamp),
    ) -> Self {
        if metadata.log_start < log.log_start() {
            // A log without its checkpoint begins at its first file; metadata knows what lies in the bucket.
            log.restore_log_start(metadata.log_start);
        }
        log.set_log_start(metadata.log_start);
        let committed = log.log_start();
        let role = role(me, flush, &mut log, &config, metadata, (committed, now));
        let mut state = State {
            log,
            config,
            role,
            waiters: Waiters::default(),
            tier: metadata.tier.clone(),
            sync_queued: false,
            dead: false,
            held: false,
        };
        state.advance();
        Self {
            id,
            me,
            flush,
            syncer,
            state: Mutex::new(state),
            turned: Condvar::new(),
        }
    }

    /// Gives out offsets; the bytes leave with this turn's write. `goal: None` waits for nothing (`acks=0`).
    pub(crate) fn append(
        &self,
        batch: &Batch,
        goal: Option<Goal>,
        now: Timestamp,
    ) -> Result<Accepted, AppendError> {
        let mut state = self.state.lock();
        let epoch = state.role.epoch();
        if state.role.leading().is_none() {
            return Err(AppendError::StaleEpoch { epoch, latest: epoch });
        }
        let appended = state.log.append(batch, epoch, now)?;
        let settled = goal.map(|goal| state.waiters.park(goal, appended.last.plus(1)));
        if settled.is_some() {
            // A duplicate may have reached its goal long ago.
            let (written, committed) = (state.log.written_end(), state.role.high_watermark());
            state.waiters.release(written, committed);
        }
        Ok(Accepted {
            appended,
            log_start: state.log.log_start(),
            settled,
        })
    }

    /// Whether an idempotent producer's batch is here already.
    pub(crate) fn holds(&self, batch: &Batch) -> bool {
        self.with_log(|log| {
            let verdict = log.producers().check(batch.header());
            matches!(verdict, Ok(Verdict::Duplicate { .. }))
        })
    }

    /// Writes everything appended so far, however many turns that takes. If another thread is writing, it will
    /// see our batches when its turn ends.
    pub(crate) fn write_turn(self: &Arc<Self>) {
        let mut state = self.state.lock();
        while let Some(turn) = state.log.take_writes() {
            let written = MutexGuard::unlocked(&mut state, || turn.run());
            self.turned.notify_all();
            if let Err(error) = state.log.wrote(written) {
                return state.die(&self.id, &error);
            }
            state.advance();
            // A follower's fetcher syncs by itself, before it asks for more.
            let leads = state.role.leading().is_some();
            if leads && self.flush == Flush::Group && !std::mem::replace(&mut state.sync_queued, true) {
                self.syncer.enqueue(Arc::clone(self));
            }
        }
    }

    /// One group's sync: when it returns, what was written before is on the disk. An error makes the log dead: it is never
    /// tried again.
    pub(crate) fn sync(&self) {
        let mut state = self.when_free();
        state.sync_queued = false;
        while state.log.is_syncing() {
            // It may have begun before the last write.
            self.turned.wait(&mut state);
        }
        let Some(turn) = state.log.take_syncs() else {
            return;
        };
        let synced = MutexGuard::unlocked(&mut state, || turn.run());
        self.turned.notify_all();
        match state.log.synced(synced) {
            Ok(_) => state.advance(),
            Err(error) => state.die(&self.id, &error),
        }
    }

    /// Writes the checkpoint from which a restart would recover, once what it covers is on stable storage.
    pub(crate) fn checkpoint(&self) -> Result<(), varve_log::Error> {
        let mut state = self.when_free();
        if state.dead {
            return Ok(());
        }
        // The first call notes where the log stands, the sync makes that durable, the second hands it out.
        let mut checkpoint = state.log.checkpoint();
        if checkpoint.is_none() {
            drop(state);
            self.sync();
            state = self.when_free();
            checkpoint = state.log.checkpoint();
        }
        match checkpoint {
            Some(checkpoint) => self.holding(&mut state, || checkpoint.write()),
            None => Ok(()),
        }
    }

    /// The state while nobody works on the whole log.
    fn when_free(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        self.turned.wait_while(&mut state, |state| state.held);
        state
    }

    /// Runs `work` on the whole log outside the lock, alone.
    fn holding<T>(&self, state: &mut MutexGuard<'_, State>, work: impl FnOnce() -> T) -> T {
        state.held = true;
        let done = MutexGuard::unlocked(state, work);
        state.held = false;
        self.turned.notify_all();
        done
    }

    /// Leaves it so that the next start need not recover it; nobody waits any more. One that has not changed since its last
    /// checkpoint costs nothing. Returns whether everything is on the disk.
    pub(crate) fn put_down(self: &Arc<Self>) -> bool {
        self.write_turn();
        let is_checkpointed = || self.with_log(|log| log.is_checkpointed());
        if !is_checkpointed()
            && let Err(error) = self.checkpoint()
        {
            tracing::error!(partition = %self.id, %error, "no checkpoint; the next start recovers this partition");
        }
        self.close();
        is_checkpointed() && !self.state.lock().dead
    }

    /// Takes local files away that lie wholly below `offset`. Readers that have them open go on.
    pub(crate) fn drop_local_before(&self, offset: Offset) -> Result<usize, varve_log::Error> {
        let dropped: Dropped = self.state.lock().log.drop_segments_before(offset);
        let count = dropped.len();
        dropped.run().map(|()| count)
    }

    /// Runs `f` on the log under the lock; `f` must be short and do no I/O.
    pub(crate) fn with_log<T>(&self, f: impl FnOnce(&mut Log) -> T) -> T {
        f(&mut self.state.lock().log)
    }

    /// The leader epoch, as produce and fetch answers carry it.
    pub(crate) fn leader_epoch(&self) -> LeaderEpoch {
        self.state.lock().role.epoch()
    }

    /// Where the log begins and ends, from left to right.
    pub(crate) fn offsets(&self) -> LogOffsets {
        self.state.lock().offsets()
    }

    /// The committed tier state this broker knows.
    pub(crate) fn tier(&self) -> Option<TierPointer> {
        self.state.lock().tier.clone()
    }

    /// What is configured for its topic.
    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&self.state.lock().config)
    }

    /// Whether this broker leads it.
    pub(crate) fn leads(&self) -> bool {
        self.state.lock().role.leading().is_some()
    }

    /// Whether the high watermark is the one consumers have seen: a new leader may be behind its predecessor.
    pub(crate) fn is_settled(&self) -> bool {
        self.state
            .lock()
            .role
            .leading()
            .is_some_and(replica::Leader::settled)
    }

    /// Whether enough replicas are in sync for `acks=all` to be taken at all.
    pub(crate) fn enough_in_sync(&self) -> bool {
        self.state
            .lock()
            .role
            .leading()
            .is_some_and(replica::Leader::enough_in_sync)
    }

    /// Its topic is configured anew.
    pub(crate) fn configure(&self, config: Arc<TopicConfig>) {
        let mut state = self.state.lock();
        state
            .log
            .set_settings(crate::topic_settings::log(&config, self.flush));
        if let Some(leader) = state.role.leading_mut() {
            leader.set_min_insync_replicas(config.min_insync_replicas);
        }
        state.config = config;
        state.advance();
    }

    /// Applies what metadata says: leadership, tier, log start. Idempotent.
    pub(crate) fn apply(&self, metadata: &Metadata, now: Timestamp) {
        let mut state = self.when_free();
        state.tier.clone_from(&metadata.tier);
        if metadata.leader_epoch > state.role.epoch() {
            let State {
                log,
                config,
                role: old,
                ..
            } = &mut *state;
            let (led, committed) = (old.leading().is_some(), old.high_watermark());
            *old = role(self.me, self.flush, log, config, metadata, (committed, now));
            if led {
                // Whether what they wait for was committed is for the next leader to say.
                state.waiters.fail();
            }
            state.advance();
        } else if let State {
            role: Role::Leading(leader),
            config,
            ..
        } = &mut *state
        {
            leader.assigned(assignment(metadata, config), now.value());
            state.advance();
            state.waiters.wake_fetches();
        }
        if metadata.log_start > state.log.log_start() {
            state.log.set_log_start(metadata.log_start);
            state.waiters.wake_fetches();
        }
    }

    /// Whether its topic goes to the bucket.
    pub(crate) fn is_tiered(&self) -> bool {
        self.state.lock().config.remote_storage
    }

    /// Sealed, committed, not yet in the bucket: the first `count_max` segments of a tiered topic.
    pub(crate) fn due_for_tier(&self, count_max: usize) -> Vec<SealedSegment> {
        let state = self.state.lock();
        let Some(leader) = state.role.leading().filter(|_| state.config.remote_storage) else {
            return vec![];
        };
        let from = state.tier.as_ref().map_or(Offset::ZERO, |pointer| pointer.end);
        let mut sealed = state
            .log
            .sealed_between(from, state.offsets().last_stable, count_max);
        let others_have = |segment: &SealedSegment| leader.is_sealed_everywhere(&state.log, segment.end);
        let count = sealed.iter().take_while(|segment| others_have(segment)).count();
        sealed.truncate(count);
        sealed
    }

    /// The broker stops: nobody waits any more.
    pub(crate) fn close(&self) {
        self.state.lock().waiters.fail();
    }

    /// This broker holds it no more, and its files are about to go: nobody writes to them or waits for them.
    pub(crate) fn retire(&self) {
        let mut state = self.when_free();
        state.role = Role::Waiting {
            epoch: state.role.epoch(),
            high_watermark: state.role.high_watermark(),
        };
        state.dead = true;
        state.waiters.fail();
    }
}

/// The role metadata gives this broker, over the log as it stands. `committed` is the high watermark known here.
fn role(
    me: Me,
    flush: Flush,
    log: &mut Log,
    config: &TopicConfig,
    metadata: &Metadata,
    (committed, now): (Offset, Timestamp),
) -> Role {
    let epoch = metadata.leader_epoch;
    let waiting = Role::Waiting {
        epoch,
        high_watermark: committed,
    };
    match metadata.leader {
        Some(leader) if leader == me.id => {
            let settings = replica::Settings {
                durability: match flush {
                    Flush::Os => Durability::Os,
                    Flush::Group => Durability::Group,
                },
                lag_max_ms: me.lag_max_ms,
            };
            let tier_end = metadata.tier.as_ref().map(|tier| tier.end);
            let assignment = assignment(metadata, config);
            match take_over(
                log,
                (me.id, epoch),
                (committed, tier_end),
                assignment,
                settings,
                now.value(),
            ) {
                Ok(leader) => Role::Leading(leader),
                Err(rebuild) => {
                    tracing::error!(?rebuild, %epoch, "the log ends below what is in the bucket: this broker cannot lead it");
                    waiting
                }
            }
        }
        Some(leader) => replication::follow((me.id, me.epoch), (leader, epoch), committed),
        None => waiting,
    }
}

fn assignment<'a>(metadata: &'a Metadata, config: &TopicConfig) -> replica::leader::Assignment<'a> {
    replica::leader::Assignment {
        replicas: &metadata.replicas,
        isr: &metadata.isr,
        partition_epoch: metadata.partition_epoch,
        min_insync_replicas: config.min_insync_replicas,
    }
}

impl State {
    /// The log has come further: whoever waited for that is told.
    fn advance(&mut self) {
        let (written, durable) = (self.log.written_end(), self.log.durable_end());
        let moved = self
            .role
            .leading_mut()
            .is_some_and(|leader| leader.local(written, durable).is_some());
        let committed = self.role.high_watermark();
        self.waiters.release(written, committed);
        self.waiters.wake_copies();
        if moved {
            self.waiters.wake_fetches();
        }
    }

    fn offsets(&self) -> LogOffsets {
        let high_watermark = self.role.high_watermark();
        LogOffsets {
            log_start: self.log.log_start(),
            local_start: self.log.local_start(),
            tier_end: match &self.tier {
                Some(pointer) => TierEnd::Known(pointer.end),
                None => TierEnd::Unknown,
            },
            // Without transactions nothing undecided lies below the high watermark.
            last_stable: high_watermark,
            high_watermark,
            log_end: self.log.log_end(),
        }
    }

    /// The disk failed under this log: it takes no more writes until an operator has looked.
    fn die(&mut self, id: &PartitionId, error: &varve_log::Error) {
        if !std::mem::replace(&mut self.dead, true) {
            tracing::error!(partition = %id, %error, "the log cannot be written any more: check the disk, then restart");
        }
        self.waiters.fail();
    }
}
