//! One partition of `__consumer_offsets`, loaded: the groups it keeps, and the requests that wait for them.
//!
//! Decisions and appends share one short lock, so the log has them in the order they were taken. Nothing is
//! answered before it is below the high watermark.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use varve_cluster::groups::records::Key;
use varve_cluster::groups::shard::Change;
use varve_cluster::groups::{
    Caller, Committed as Offset, Effect, Group, GroupError, Join, JoinAnswer, JoinRefused, Leaver, Shard,
    StoreId, Sync, SyncAnswer, Ticket,
};
use varve_log::{Batch, Builder};

use super::groups::Committed;
use crate::broker::Broker;
use crate::partition::{Accepted, Goal, Partition, Settled};
use crate::wire::ErrorCode;

/// Records of one decision share batches of about this size: well below what a batch may have.
const BATCH_BYTES: usize = 256 << 10;

/// See the module's first lines.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(super) partition: Arc<Partition>,
    inner: Mutex<Inner>,
    this: Weak<Self>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shard: Shard,
    /// Leadership has gone: whoever still holds this is told to look again.
    resigned: bool,
    /// Appended, and not below the high watermark yet; in the order of the log.
    pub(super) pending: VecDeque<Pending>,
    joins: HashMap<Ticket, oneshot::Sender<Result<JoinAnswer, JoinRefused>>>,
    syncs: HashMap<Ticket, oneshot::Sender<Result<SyncAnswer, GroupError>>>,
    next_ticket: u64,
    /// Records after which the log was last written anew.
    pub(super) rewritten_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) group: String,
    pub(super) commits: Vec<(String, i32, Offset)>,
}

/// Offsets a member wants to commit; the place in the log is not known yet.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: Offset,
}

/// Appended; what to wait for.
pub(crate) type Durable = Option<Settled>;

impl Coordinator {
    pub(super) fn new(partition: Arc<Partition>, shard: Shard) -> Arc<Self> {
        let rewritten_bytes = 0;
        let inner = Inner {
            shard,
            resigned: false,
            pending: VecDeque::new(),
            joins: HashMap::new(),
            syncs: HashMap::new(),
            next_ticket: 0,
            rewritten_bytes,
        };
        Arc::new_cyclic(|this| Self {
            partition,
            inner: Mutex::new(inner),
            this: Weak::clone(this),
        })
    }

    /// A member joins. The answer comes when the group's next generation begins, or at once.
    pub(crate) fn join(
        &self,
        broker: &Arc<Broker>,
        group: &str,
        join: impl FnOnce(Ticket) -> Join,
    ) -> Result<oneshot::Receiver<Result<JoinAnswer, JoinRefused>>, ErrorCode> {
        let now = broker.groups.now(broker);
        let mut turn = self.turn(broker)?;
        let (answer, answered) = oneshot::channel();
        let ticket = turn.inner.ticket();
        let join = join(ticket);
        if turn.inner.shard.group(group).is_none() && !join.member_id.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        turn.inner.joins.insert(ticket, answer);
        turn.decide(group, now, |group, effects| group.join(join, now, effects));
        Ok(answered)
    }

    /// A member asks for its assignment, or brings everybody's.
    pub(crate) fn sync(
        &self,
        broker: &Arc<Broker>,
        group: &str,
        sync: impl FnOnce(Ticket) -> Sync,
    ) -> Result<oneshot::Receiver<Result<SyncAnswer, GroupError>>, ErrorCode> {
        let now = broker.groups.now(broker);
        let mut turn = self.turn(broker)?;
        turn.known(group)?;
        let (answer, answered) = oneshot::channel();
        let ticket = turn.inner.ticket();
        turn.inner.syncs.insert(ticket, answer);
        let sync = sync(ticket);
        turn.decide(group, now, |group, effects| group.sync(sync, now, effects));
        Ok(answered)
    }

    pub(crate) fn heartbeat(
        &self,
        broker: &Arc<Broker>,
        group: &str,
        caller: &Caller,
    ) -> Result<(), ErrorCode> {
        let now = broker.groups.now(broker);
        let mut turn = self.turn(broker)?;
        turn.known(group)?.heartbeat(caller, now).map_err(code)
    }

    pub(crate) fn leave(
        &self,
        broker: &Arc<Broker>,
        group: &str,
        leavers: &[Leaver],
    ) -> Result<Vec<Result<(), GroupError>>, ErrorCode> {
        let now = broker.groups.now(broker);
        let mut turn = self.turn(broker)?;
        turn.known(group)?;
        turn.decide(group, now, |group, effects| group.leave(leavers, now, effects))
            .map_err(code)
    }

    /// Appends commits; they count once they are durable.
    pub(crate) fn commit(
        &self,
        broker: &Arc<Broker>,
        group: &str,
        caller: &Caller,
        commits: Vec<Commit>,
    ) -> Result<Durable, ErrorCode> {
        let now = broker.groups.now(broker);
        let mut turn = self.turn(broker)?;
        if turn.inner.shard.group(group).is_none() && caller.generation >= 0 {
            return Err(ErrorCode::IllegalGeneration);
        }
        turn.inner
            .shard
            .group_or_new(group, now)
            .check_commit(caller, now)
            .map_err(code)?;
        let change = |commit: &Commit| {
            Change::offset(group, &commit.topic, commit.partition, &commit.offset.to_record())
        };
        let changes = commits
            .iter()
            .map(change)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_too_long| ErrorCode::InvalidGroupId)?;
        let Some(appended) = turn.append(&changes)? else {
            return Ok(None);
        };
        let mut places = appended.places.into_iter();
        let place = |Commit {
                         topic,
                         partition,
                         mut offset,
                     }: Commit| {
            offset.log_offset = places.next().unwrap_or(i64::MAX);
            (topic, partition, offset)
        };
        let commits = commits.into_iter().map(place).collect();
        turn.inner.pending.push_back(Pending {
            group: group.to_owned(),
            commits,
        });
        Ok(Some(appended.settled))
    }

    /// Looks at a group and what it has committed so far.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Shard) -> T) -> Result<T, ErrorCode> {
        let mut inner = self.inner.lock();
        if inner.resigned {
            return Err(ErrorCode::NotCoordinator);
        }
        inner.settle(&self.partition);
        Ok(look(&inner.shard))
    }

    /// Deletes a group with all it has committed.
    pub(crate) fn delete_group(&self, broker: &Arc<Broker>, group: &str) -> Result<Durable, ErrorCode> {
        let mut turn = self.turn(broker)?;
        if turn.inner.shard.visible(group).is_none() {
            return Err(ErrorCode::GroupIdNotFound);
        }
        // A commit under way would outlive the group.
        if turn.inner.pending.iter().any(|pending| pending.group == group) {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let keys = turn.inner.shard.delete_group(group).map_err(code)?;
        turn.bury(&keys)
    }

    /// Deletes committed offsets of topics that no member reads. One answer for each.
    pub(crate) fn delete_offsets(
        &self,
        broker: &Arc<Broker>,
        group: &str,
        offsets: &[(String, i32)],
    ) -> Result<(Vec<Result<(), ErrorCode>>, Durable), ErrorCode> {
        let mut turn = self.turn(broker)?;
        let known = turn
            .inner
            .shard
            .visible(group)
            .ok_or(ErrorCode::GroupIdNotFound)?;
        let judged: Vec<Result<(), ErrorCode>> = offsets
            .iter()
            .map(|(topic, _)| known.check_offset_delete(topic).map_err(code))
            .collect();
        let allowed = offsets.iter().zip(&judged).filter(|(_, judged)| judged.is_ok());
        let keys: Vec<Key> = allowed
            .map(|((topic, partition), _)| Key::Offset {
                group: group.to_owned(),
                topic: topic.clone(),
                partition: *partition,
            })
            .collect();
        let settled = turn.bury(&keys)?;
        Ok((judged, settled))
    }

    /// A topic is gone, and with it what was committed for it.
    pub(super) fn forget_topic(&self, broker: &Arc<Broker>, topic: &str) {
        let Ok(mut turn) = self.turn(broker) else { return };
        let keys = turn.inner.shard.offsets_of_topic(topic);
        if turn.bury(&keys).is_err() {
            tracing::warn!(partition = %self.partition.id, topic, "offsets of a deleted topic stay until they expire");
        }
    }

    /// What time has brought.
    pub(super) fn tick(&self, broker: &Arc<Broker>, now: i64) -> Option<i64> {
        let Ok(mut turn) = self.turn(broker) else {
            return None;
        };
        for (group, effects) in turn.inner.shard.tick(now) {
            turn.carry_out(&group, now, effects);
        }
        turn.inner.shard.next_deadline()
    }

    /// Forgets what has expired (KIP-211).
    pub(super) fn expire(&self, broker: &Arc<Broker>, now: i64, retention_ms: i64) {
        let Ok(mut turn) = self.turn(broker) else { return };
        turn.inner.shard.drop_traces();
        let keys = turn.inner.shard.expired(now, retention_ms);
        if !keys.is_empty() && turn.bury(&keys).is_ok() {
            tracing::info!(partition = %self.partition.id, records = keys.len(), "committed offsets have expired");
        }
    }

    /// All that was committed, for metrics.
    pub(super) fn committed(&self) -> Vec<Committed> {
        let all = |shard: &Shard| {
            let committed = shard
                .committed()
                .map(|(group, topic, partition, committed)| Committed {
                    group: group.to_owned(),
                    topic: topic.to_owned(),
                    partition,
                    offset: varve_log::Offset::new(committed.offset),
                });
            committed.collect()
        };
        self.look(all).unwrap_or_default()
    }

    /// Leadership has gone: whoever waits is told to look for the coordinator again.
    pub(super) fn resign(&self, error: GroupError) {
        let mut inner = self.inner.lock();
        inner.resigned = true;
        for effect in inner.shard.resign(error) {
            inner.answer(effect);
        }
    }

    pub(super) fn look_inner<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.lock())
    }

    fn stored(&self, broker: &Arc<Broker>, group: &str, id: StoreId, outcome: Result<(), GroupError>) {
        let now = broker.groups.now(broker);
        let Ok(mut turn) = self.turn(broker) else { return };
        if turn.inner.shard.group(group).is_some() {
            turn.decide(group, now, |group, effects| {
                group.stored(id, outcome, now, effects)
            });
        }
    }

    /// One decision at a time, on what is durable by now.
    pub(super) fn turn<'a>(&'a self, broker: &'a Arc<Broker>) -> Result<Turn<'a>, ErrorCode> {
        let mut inner = self.inner.lock();
        if inner.resigned {
            return Err(ErrorCode::NotCoordinator);
        }
        inner.settle(&self.partition);
        Ok(Turn {
            coordinator: self,
            broker,
            inner,
            appended: false,
        })
    }
}

/// The lock, with what is needed to carry out what is decided under it. The bytes leave when it ends.
pub(super) struct Turn<'a> {
    coordinator: &'a Coordinator,
    broker: &'a Arc<Broker>,
    pub(super) inner: MutexGuard<'a, Inner>,
    appended: bool,
}

/// Records that were appended.
pub(super) struct Appended {
    /// The log offset of each.
    pub(super) places: Vec<i64>,
    /// Resolves when the last one is durable.
    pub(super) settled: Settled,
}

impl Turn<'_> {
    fn known(&mut self, group: &str) -> Result<&mut Group, ErrorCode> {
        self.inner
            .shard
            .group_mut(group)
            .ok_or(ErrorCode::UnknownMemberId)
    }

    fn decide<T>(&mut self, id: &str, now: i64, decide: impl FnOnce(&mut Group, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let group = self.inner.shard.group_or_new(id, now);
        let answer = decide(group, &mut effects);
        let deadline = group.next_deadline();
        self.carry_out(id, now, effects);
        if deadline.is_some() {
            // The timer looks again; it sleeps on if nothing came closer.
            self.broker.groups.sooner.notify_one();
        }
        answer
    }

    pub(super) fn carry_out(&mut self, id: &str, now: i64, effects: Vec<Effect>) {
        let mut work = VecDeque::from(effects);
        while let Some(effect) = work.pop_front() {
            let Effect::Store { id: store, value } = effect else {
                self.inner.answer(effect);
                continue;
            };
            let change = Change::group(id, &value).map_err(|_too_long| ErrorCode::InvalidRequest);
            match change.and_then(|change| self.append(&[change])) {
                Ok(Some(appended)) => self.report(id, store, appended.settled),
                Ok(None) | Err(_) => {
                    let mut more = Vec::new();
                    if let Some(group) = self.inner.shard.group_mut(id) {
                        group.stored(store, Err(GroupError::NotStored), now, &mut more);
                    }
                    work.extend(more);
                }
            }
        }
    }

    /// Tells the group when what it stored is durable.
    fn report(&self, group: &str, store: StoreId, settled: Settled) {
        let (this, broker, group) = (
            Weak::clone(&self.coordinator.this),
            Arc::clone(self.broker),
            group.to_owned(),
        );
        self.broker.background.spawn(async move {
            let outcome = match settled.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(GroupError::NotStored),
            };
            if let Some(coordinator) = this.upgrade() {
                coordinator.stored(&broker, &group, store, outcome);
            }
        });
    }

    /// Appends tombstones, and forgets what they bury.
    fn bury(&mut self, keys: &[Key]) -> Result<Durable, ErrorCode> {
        let changes = keys.iter().map(Change::tombstone).collect::<Result<Vec<_>, _>>();
        let changes = changes.map_err(|_too_long| ErrorCode::InvalidGroupId)?;
        let Some(appended) = self.append(&changes)? else {
            return Ok(None);
        };
        for (key, place) in keys.iter().zip(&appended.places) {
            self.inner.shard.forget(key, *place);
        }
        Ok(Some(appended.settled))
    }

    /// Appends records in their order, in as many batches as it takes. `None`: there was nothing to append.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<Option<Appended>, ErrorCode> {
        let now = self.broker.clock.now();
        let mut places = Vec::with_capacity(changes.len());
        let mut settled = None;
        let mut rest = changes;
        while !rest.is_empty() {
            let (mut builder, mut bytes, mut count) = (Builder::new(now), 0, 0);
            while let Some(change) = rest.get(count).filter(|_| count == 0 || bytes < BATCH_BYTES) {
                builder = builder.push(now, Some(&change.key), change.value.as_deref(), &[]);
                bytes += change.key.len() + change.value.as_ref().map_or(0, bytes::Bytes::len);
                count += 1;
            }
            rest = &rest[count..];
            let Accepted {
                appended,
                settled: last,
                ..
            } = self.append_batch(builder, now)?;
            places.extend((appended.first.value()..).take(count));
            settled = last;
        }
        Ok(settled.map(|settled| Appended { places, settled }))
    }

    fn append_batch(&mut self, builder: Builder, now: varve_log::Timestamp) -> Result<Accepted, ErrorCode> {
        let partition = &self.coordinator.partition;
        let refused = |error: &dyn std::fmt::Display| {
            tracing::error!(partition = %partition.id, %error, "group state cannot be appended");
            ErrorCode::CoordinatorNotAvailable
        };
        let batch = Batch::check(builder.build()).map_err(|error| refused(&error))?;
        let accepted = partition
            .append(&batch, Some(Goal::Committed), now)
            .map_err(|error| match error {
                varve_log::AppendError::TooLarge { .. }
                | varve_log::AppendError::LargerThanSegment { .. } => ErrorCode::InvalidCommitOffsetSize,
                other => refused(&other),
            })?;
        self.appended = true;
        Ok(accepted)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.appended {
            let partition = &self.coordinator.partition;
            MutexGuard::unlocked(&mut self.inner, || partition.write_turn());
        }
    }
}

impl Inner {
    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Commits that are below the high watermark by now count.
    fn settle(&mut self, partition: &Partition) {
        if self.pending.is_empty() {
            return;
        }
        let committed = partition.offsets().high_watermark.value();
        let durable = |pending: &Pending| {
            pending
                .commits
                .last()
                .is_none_or(|(_, _, last)| last.log_offset < committed)
        };
        while self.pending.front().is_some_and(durable) {
            let Some(Pending { group, commits }) = self.pending.pop_front() else {
                return;
            };
            for (topic, partition, offset) in commits {
                self.shard.committed_offset(&group, &topic, partition, offset);
            }
        }
    }

    /// Whoever waits may have hung up.
    fn answer(&mut self, effect: Effect) {
        match effect {
            Effect::Joined { ticket, answer } => {
                if let Some(waiting) = self.joins.remove(&ticket) {
                    let _ = waiting.send(answer);
                }
            }
            Effect::Synced { ticket, answer } => {
                if let Some(waiting) = self.syncs.remove(&ticket) {
                    let _ = waiting.send(answer);
                }
            }
            Effect::Store { .. } => {}
        }
    }
}

/// Kafka's code for what a group answers.
pub(crate) fn code(error: GroupError) -> ErrorCode {
    match error {
        GroupError::CoordinatorNotAvailable | GroupError::NotStored => ErrorCode::CoordinatorNotAvailable,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::InconsistentProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::UnknownMember => ErrorCode::UnknownMemberId,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
        GroupError::FencedInstance => ErrorCode::FencedInstanceId,
        GroupError::GroupFull => ErrorCode::GroupMaxSizeReached,
        GroupError::NonEmpty => ErrorCode::NonEmptyGroup,
        GroupError::SubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
    }
}
