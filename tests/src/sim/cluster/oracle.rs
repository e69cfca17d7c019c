//! What must hold after every event of a run (letters of the catalogue of invariants: R replication, M metadata,
//! T tier, C clients).
//!
//! - R1 one leader for each epoch · R2 who is elected has everything that was ever committed · R3, R6, R12 below a high
//!   watermark all replicas hold the same bytes for ever · R9 the epoch chain is what a scan of the log says · R10
//!   of each producer the committed batches are those it made, once, in order · R11 sealed segments are the same files
//! - M2 epochs never go back · M3 nobody fenced is in sync · M4 nobody is eligible while enough are in sync
//! - T1, T3, T8 what a committed manifest names is there, in one piece, and is the log · T2 never more than is
//!   committed · T4 what is neither in the tier nor let go is still in local files
//! - C1 what was acknowledged is committed where it was said to be · C3 consumers see what is committed ·
//!   C9 "latest" never goes back
//!
//! The faults of a run are such that nothing acknowledged may be lost in it; so there is no run in which C1 and R2 are
//! excused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use varve_cluster::BrokerId;
use varve_cluster::controller::{Partition, State};
use varve_log::{Header, LeaderEpoch, Log, Offset, split};

use super::message::{Object, Report, Seen, broker};
use super::node::{Node, Setup, TOPIC};
use super::replica::Replica;
use super::upload::segment_bytes;
use crate::sim::world::{Output, World};

type Verdict = Result<(), String>;

macro_rules! must {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}

/// How much has happened, for runs in which nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub acked: usize,
    pub elections: usize,
    pub cuts: usize,
    pub rebuilds: usize,
    pub tiered: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.elections += other.elections;
        self.cuts += other.cuts;
        self.rebuilds += other.rebuilds;
        self.tiered += other.tiered;
    }
}

#[derive(Debug)]
pub(super) struct Oracle {
    setup: Arc<Setup>,
    truths: Vec<Truth>,
    state: Arc<State>,
    leaders: BTreeMap<(i32, LeaderEpoch), BrokerId>,
    /// How far each replica has been compared, in which life and shape.
    compared: BTreeMap<(usize, i32), ((u32, u64), Offset)>,
    pub(super) tally: Tally,
}

/// What is committed of a partition, as the first leader that committed it had it.
#[derive(Debug, Default)]
struct Truth {
    high_watermark: Offset,
    batches: BTreeMap<Offset, Bytes>,
    /// Producer → the sequence its next batch must begin with.
    next: BTreeMap<i64, i32>,
    /// (producer, sequence) → where.
    places: BTreeMap<(i64, i32), Offset>,
    /// Segments as they were uploaded: base → end and bytes.
    tiered: BTreeMap<Offset, (Offset, Bytes)>,
}

impl Oracle {
    pub(super) fn new(setup: &Arc<Setup>) -> Self {
        Self {
            setup: Arc::clone(setup),
            truths: (0..setup.partitions).map(|_| Truth::default()).collect(),
            state: Arc::new(State::new("nothing yet")),
            leaders: BTreeMap::new(),
            compared: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn committed(&self, partition: i32) -> Offset {
        self.truths[usize::try_from(partition).unwrap_or(0)].high_watermark
    }

    /// After a node has put these out.
    pub(super) fn after(&mut self, world: &World<Node>, node: usize, outputs: &[Output<Node>]) -> Verdict {
        if let Some(running) = world.machine(node).and_then(Node::broker) {
            for replica in running.replicas.values() {
                self.commit(replica)?;
                self.compare(replica, (node, world.life(node)))?;
            }
        }
        for output in outputs {
            if let Output::Report(report) = output {
                self.reported(world, node, report)?;
            }
        }
        Ok(())
    }

    fn truth(&mut self, partition: i32) -> &mut Truth {
        &mut self.truths[usize::try_from(partition).unwrap_or(0)]
    }

    fn reported(&mut self, world: &World<Node>, node: usize, report: &Report) -> Verdict {
        match report {
            Report::Applied(state) => self.applied(world, state),
            Report::Led { partition, epoch } => {
                let current = self.state.partition(TOPIC, *partition);
                let is_current =
                    current.is_some_and(|one| one.leader == Some(broker(node)) && one.leader_epoch == *epoch);
                // One that was deposed before it heard of its election had everything then, but may be late.
                let replica = world.machine(node).and_then(Node::broker);
                match replica.and_then(|broker| broker.replicas.get(partition)) {
                    Some(replica) if is_current => self.complete(replica, node),
                    Some(_) | None => Ok(()),
                }
            }
            Report::CutCommitted { partition, records } => Err(format!(
                "R12: broker {} cuts {records} committed records of {partition}",
                broker(node)
            )),
            Report::Cut => {
                self.tally.cuts += 1;
                Ok(())
            }
            Report::Rebuilt { partition } => {
                self.tally.rebuilds += 1;
                let replica = world.machine(node).and_then(Node::broker);
                match replica.and_then(|broker| broker.replicas.get(partition)) {
                    Some(replica) => self.knows_producers(replica, node),
                    None => Ok(()),
                }
            }
            Report::Acked {
                partition,
                producer,
                sequence,
                offset,
            } => self.acked(*partition, (*producer, *sequence), *offset),
            Report::Desynchronised {
                partition,
                producer,
                sequence,
            } => Err(format!(
                "C2: producer {producer} cannot go on in {partition}: sequence {sequence} is its next, and out of order"
            )),
            Report::Saw {
                partition,
                floor,
                seen,
            } => self.saw(*partition, *floor, seen),
            Report::Dead | Report::Stopped | Report::Superseded => Ok(()),
        }
    }

    /// A leader says that everything below its high watermark is committed.
    fn commit(&mut self, replica: &Replica) -> Verdict {
        let high_watermark = replica.high_watermark();
        let truth = self.truth(replica.partition);
        // What others have committed before is compared.
        if replica.leading().is_none() || high_watermark <= truth.high_watermark {
            return Ok(());
        }
        let from = truth.high_watermark.max(replica.log.local_base());
        for (header, bytes) in batches_from(&replica.log, from)? {
            if header.base_offset < truth.high_watermark || header.next_offset() > high_watermark {
                continue;
            }
            let next = truth.next.entry(header.producer_id).or_insert(0);
            must!(
                header.base_sequence == *next,
                "C2, R10: producer {}'s sequence {} is committed at {} where {} was due",
                header.producer_id,
                header.base_sequence,
                header.base_offset,
                next
            );
            *next = header.base_sequence + header.record_count;
            truth
                .places
                .insert((header.producer_id, header.base_sequence), header.base_offset);
            truth.batches.insert(header.base_offset, bytes);
        }
        truth.high_watermark = high_watermark;
        Ok(())
    }

    /// R3, R6, R9 of what a replica has taken for committed since it was looked at last.
    fn compare(&mut self, replica: &Replica, (node, life): (usize, u32)) -> Verdict {
        let (index, high_watermark) = (replica.partition, replica.high_watermark());
        let me = broker(node);
        let committed = self.committed(index);
        must!(
            high_watermark <= committed,
            "R6: broker {me} takes {high_watermark} of {index} for committed, and {committed} is"
        );
        must!(
            high_watermark <= replica.log.log_end(),
            "R6: broker {me} holds {} of {index} and takes {high_watermark} for committed",
            replica.log.log_end()
        );
        let tag = (life, replica.shape);
        let known = self.compared.get(&(node, index)).filter(|(of, _)| *of == tag);
        let from = known.map_or_else(|| replica.log.local_base(), |(_, upto)| *upto);
        if known.is_some() && from >= high_watermark {
            return Ok(());
        }
        self.same(replica, node, (from, high_watermark))?;
        if known.is_none() {
            self.same_files(replica, node)?;
        }
        self.compared
            .insert((node, index), (tag, high_watermark.max(from)));
        Ok(())
    }

    fn same(&self, replica: &Replica, node: usize, (from, upto): (Offset, Offset)) -> Verdict {
        let index = replica.partition;
        let truth = &self.truths[usize::try_from(index).unwrap_or(0)];
        if from >= upto {
            return Ok(());
        }
        for (header, bytes) in batches_from(&replica.log, from)? {
            if header.next_offset() > upto {
                break;
            }
            must!(
                truth.batches.get(&header.base_offset) == Some(&bytes),
                "R3: broker {} holds something else at {} of {index}",
                broker(node),
                header.base_offset
            );
            let chain = replica.log.epochs().epoch_at(header.base_offset);
            must!(
                chain == Some(header.leader_epoch),
                "R9: broker {} has epoch {chain:?} at {} of {index}, where {} wrote",
                broker(node),
                header.base_offset,
                header.leader_epoch
            );
        }
        Ok(())
    }

    /// R11 against what was uploaded; the rest is compared at the end.
    fn same_files(&self, replica: &Replica, node: usize) -> Verdict {
        let truth = &self.truths[usize::try_from(replica.partition).unwrap_or(0)];
        for segment in replica.log.sealed() {
            if segment.end > replica.high_watermark() {
                break;
            }
            if let Some((end, bytes)) = truth.tiered.get(&segment.base) {
                // A replica that has not got the rest: a roll behind which it has nothing is taken back when it gets it.
                if segment.end == replica.log.log_end() && segment.end < *end {
                    break;
                }
                must!(
                    *end == segment.end && segment_bytes(&segment).as_ref() == Some(bytes),
                    "R11: broker {} has another segment {} of {}",
                    broker(node),
                    segment.base,
                    replica.partition
                );
            }
        }
        Ok(())
    }

    /// R10: a log that begins anew knows everybody who wrote what lies before it.
    fn knows_producers(&self, replica: &Replica, node: usize) -> Verdict {
        let truth = &self.truths[usize::try_from(replica.partition).unwrap_or(0)];
        let begins = replica.log.log_end();
        let before = truth.places.iter().filter(|(_, place)| **place < begins);
        for ((producer, _), place) in before.filter(|(_, place)| **place >= self.kept(replica.partition)) {
            must!(
                replica
                    .log
                    .producers()
                    .active()
                    .any(|known| known.id == *producer),
                "R10: broker {} begins {} anew at {begins} and does not know producer {producer}, who wrote at {place}",
                broker(node),
                replica.partition
            );
        }
        Ok(())
    }

    /// Before this retention has let go, and nobody is remembered for it.
    fn kept(&self, partition: i32) -> Offset {
        let known = self.state.partition(TOPIC, partition);
        known.map_or(Offset::ZERO, |one| one.log_start)
    }

    /// R2, with all the bytes.
    fn complete(&self, replica: &Replica, node: usize) -> Verdict {
        let committed = self.committed(replica.partition);
        must!(
            replica.log.log_end() >= committed,
            "R2: broker {} leads {} from {}, and {committed} was committed",
            broker(node),
            replica.partition,
            replica.log.log_end()
        );
        self.same(replica, node, (replica.log.local_base(), committed))
    }

    fn acked(&mut self, partition: i32, batch: (i64, i32), offset: Option<Offset>) -> Verdict {
        self.tally.acked += 1;
        let place = self.truth(partition).places.get(&batch).copied();
        must!(
            place.is_some() && (offset.is_none() || place == offset),
            "C1: sequence {} of producer {} was acknowledged at {offset:?} of {partition}; committed: {place:?}",
            batch.1,
            batch.0
        );
        Ok(())
    }

    fn saw(&mut self, partition: i32, floor: Offset, seen: &Seen) -> Verdict {
        let truth = self.truth(partition);
        match seen {
            Seen::Latest(latest) => {
                must!(
                    *latest >= floor,
                    "C9: latest of {partition} was {floor}, and then {latest}"
                );
            }
            Seen::Batches { bytes, .. } => {
                for one in split(bytes) {
                    let one = one.map_err(|error| format!("C3: a consumer was sent {error}"))?;
                    let header = Header::parse(&one).map_err(|error| error.to_string())?;
                    must!(
                        truth.batches.get(&header.base_offset) == Some(&one),
                        "C3: a consumer saw what is not committed at {} of {partition}",
                        header.base_offset
                    );
                }
            }
        }
        Ok(())
    }

    fn applied(&mut self, world: &World<Node>, state: &Arc<State>) -> Verdict {
        let before = std::mem::replace(&mut self.state, Arc::clone(state));
        for index in 0..self.setup.partitions {
            let Some(partition) = state.partition(TOPIC, index) else {
                continue;
            };
            self.lawful(index, before.partition(TOPIC, index), partition)?;
            let tier = partition.tier.as_ref();
            let moved = before.partition(TOPIC, index).and_then(|one| one.tier.as_ref()) != tier;
            if let Some(tier) = tier.filter(|_| moved) {
                self.tiered(world, index, &tier.manifest_key, (tier.start, tier.end))?;
            }
        }
        Ok(())
    }

    fn lawful(&mut self, index: i32, before: Option<&Partition>, now: &Partition) -> Verdict {
        if let Some(before) = before {
            must!(
                now.leader_epoch >= before.leader_epoch
                    && now.partition_epoch >= before.partition_epoch
                    && now.log_start >= before.log_start,
                "M2: partition {index} goes back: {before:?}, {now:?}"
            );
            self.tally.elections += usize::from(now.leader.is_some() && now.leader != before.leader);
        }
        if let Some(leader) = now.leader {
            let known = *self.leaders.entry((index, now.leader_epoch)).or_insert(leader);
            must!(
                known == leader,
                "R1: {known} and {leader} lead {index} in epoch {}",
                now.leader_epoch
            );
            must!(
                now.isr.contains(&leader),
                "M: {index}'s leader is not in sync: {now:?}"
            );
        }
        let is_active = |id: &BrokerId| {
            let known = self.state.brokers.get(id);
            known.is_some_and(varve_cluster::controller::Broker::is_active)
        };
        must!(
            now.isr.iter().all(is_active),
            "M3: somebody fenced is in sync with {index}: {now:?}"
        );
        let min = self
            .state
            .topic(TOPIC)
            .map_or(1, |topic| self.state.min_insync_replicas(topic));
        let enough = min.clamp(1, now.replicas.len().max(1));
        must!(
            now.isr.len() < enough || now.eligible.is_empty(),
            "M4: {index} has eligible replicas beside an ISR that is large enough: {now:?}"
        );
        Ok(())
    }

    /// T1, T2, T3, T8 of a manifest that has just been committed.
    fn tiered(&mut self, world: &World<Node>, index: i32, key: &str, range: (Offset, Offset)) -> Verdict {
        let (start, end) = range;
        self.tally.tiered += 1;
        let committed = self.committed(index);
        must!(
            end <= committed,
            "T2: {end} of {index} is in the tier, and {committed} is committed"
        );
        let entries = match object(world, self.setup.store(), key).as_deref() {
            Some(Object::Manifest(entries)) => entries.clone(),
            Some(Object::Segment { .. }) | None => {
                return Err(format!("T3: {index}'s manifest {key} is not there"));
            }
        };
        let mut at = start;
        for entry in &entries {
            must!(
                entry.base == at,
                "T1: {index}'s tier goes from {at} to {}: {entries:?}",
                entry.base
            );
            at = entry.end;
            self.entry(world, index, (entry.base, entry.end), &entry.key)?;
        }
        must!(
            at == end,
            "T1: {index}'s manifest ends at {at}, the tier at {end}"
        );
        Ok(())
    }

    fn entry(&mut self, world: &World<Node>, index: i32, range: (Offset, Offset), key: &str) -> Verdict {
        let (base, end) = range;
        let found = object(world, self.setup.store(), key);
        let Some(Object::Segment { bytes, .. }) = found.as_deref() else {
            return Err(format!("T3: {index}'s object {key} is not there"));
        };
        let truth = self.truth(index);
        if truth.tiered.get(&base) == Some(&(end, bytes.clone())) {
            return Ok(());
        }
        let mut at = base;
        for one in split(bytes) {
            let one = one.map_err(|error| format!("T8: {key}: {error}"))?;
            let header = Header::parse(&one).map_err(|error| error.to_string())?;
            must!(
                header.base_offset == at && truth.batches.get(&at) == Some(&one),
                "T8: object {key} of {index} has something else at {at}"
            );
            at = header.next_offset();
        }
        must!(
            at == end,
            "T8: object {key} of {index} ends at {at}, not at {end}"
        );
        truth.tiered.insert(base, (end, bytes.clone()));
        Ok(())
    }

    /// T3, T4 of everything there is, and R3, R11 between all replicas that are up.
    pub(super) fn at_large(&mut self, world: &World<Node>) -> Verdict {
        let state = Arc::clone(&self.state);
        for index in 0..self.setup.partitions {
            let Some(partition) = state.partition(TOPIC, index) else {
                continue;
            };
            if let Some(tier) = &partition.tier {
                self.tiered(world, index, &tier.manifest_key, (tier.start, tier.end))?;
                self.tally.tiered -= 1;
            }
            let reachable = partition.tier_end();
            for node in 0..self.setup.brokers {
                let replica = world.machine(node).and_then(Node::broker);
                let Some(replica) = replica.and_then(|one| one.replicas.get(&index)) else {
                    continue;
                };
                let base = replica.log.local_base();
                must!(
                    base <= reachable,
                    "T4: broker {} has {index} from {base} on, and the tier ends at {reachable}",
                    broker(node)
                );
                self.same_files(replica, node)?;
            }
        }
        Ok(())
    }
}

fn object(world: &World<Node>, store: usize, key: &str) -> Option<Arc<Object>> {
    match world.synced(store) {
        super::message::Files::Store(objects) => objects.get().get(key).cloned(),
        _ => None,
    }
}

/// Local batches from `from` on.
pub(super) fn batches_from(log: &Log, mut from: Offset) -> Result<Vec<(Header, Bytes)>, String> {
    let mut all = vec![];
    from = from.max(log.local_base());
    loop {
        let plan = log.plan_replica_read(from, 4_096, true);
        let Some(plan) = plan.map_err(|error| format!("{error:?}"))? else {
            return Ok(all);
        };
        let slice = plan.run().map_err(|error| error.to_string())?;
        for one in split(&slice.read().map_err(|error| error.to_string())?) {
            let bytes = one.map_err(|error| error.to_string())?;
            let header = Header::parse(&bytes).map_err(|error| error.to_string())?;
            all.push((header, bytes));
        }
        from = slice.next_offset;
    }
}
