//! A broker: what the server does with sockets, threads and timers, here in one step. It registers, beats, tails the
//! metadata, leads and follows partitions, answers clients, keeps its ISRs, uploads, and lets local files go.

mod copying;
mod duties;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;
use varve_cluster::controller::command::{RegisterBroker, ReplicaLog};
use varve_cluster::controller::{Command, Heartbeat, Outcome, Rejected, State};
use varve_cluster::replica::fetcher::Turn;
use varve_cluster::replica::{IsrAnswer, IsrChange, ReplicaFetcher};
use varve_cluster::{BrokerEpoch, BrokerId};
use varve_log::{Error, Offset, SimDisk, Timestamp};

use super::message::{Body, Call, Marks, Message, Refused, Report, Shared, broker};
use super::node::{Node, Setup, TOPIC};
use super::replica::{Replica, Settled, Waiting};
use super::upload::Restoring;
use crate::sim::chance::Chance;
use crate::sim::world::Output;

type Out = Vec<Output<Node>>;

/// Of records and logs; nothing here is about their age.
pub(super) const TIME: Timestamp = Timestamp::new(1_700_000_000_000);

const FETCH_WAIT_MS: i64 = 8;
const FETCH_PATIENCE_MS: i64 = 300;
const PROPOSAL_PATIENCE_MS: i64 = 400;
const ISR_EVERY_MS: i64 = 40;
const HOUSE_EVERY_MS: i64 = 150;

#[derive(Debug)]
pub(super) struct Broker {
    node: usize,
    pub(super) me: BrokerId,
    setup: Arc<Setup>,
    disk: SimDisk,
    marks: Shared<Marks>,
    incarnation: Uuid,
    /// The former life's, if that ended in order.
    clean_of: Option<BrokerEpoch>,
    pub(super) epoch: Option<BrokerEpoch>,
    pub(super) seen: Arc<State>,
    pub(super) replicas: BTreeMap<i32, Replica>,
    fetchers: BTreeMap<BrokerId, Fetcher>,
    restoring: BTreeMap<i32, Restoring>,
    changes: BTreeMap<u64, (i32, IsrChange, i64)>,
    connections: BTreeMap<(usize, u64), Connection>,
    chance: Chance,
    number: u64,
    registers: Option<u64>,
    register_at: i64,
    beat_at: i64,
    follow_at: i64,
    isr_at: i64,
    house_at: i64,
    leaves: bool,
    dead: bool,
}

/// Copies from one other broker: one request out.
#[derive(Debug)]
struct Fetcher {
    plan: ReplicaFetcher<i32>,
    out: Option<(u64, Vec<i32>, i64)>,
    /// An answer has been taken, and is on the disk by then.
    settles: Option<(i64, Vec<(i32, Turn)>)>,
    not_before: i64,
}

/// Requests of one connection are taken in their order.
#[derive(Debug, Default)]
struct Connection {
    next: u64,
    early: BTreeMap<u64, (i32, Bytes)>,
}

impl Broker {
    pub(super) fn start(
        node: usize,
        setup: &Arc<Setup>,
        (disk, marks): (SimDisk, Shared<Marks>),
        now: i64,
        seed: u64,
    ) -> Self {
        let clean_of = marks.get().clean_of.take();
        Self {
            node,
            me: broker(node),
            setup: Arc::clone(setup),
            disk,
            marks,
            incarnation: Uuid::from_u64_pair(seed, 1),
            clean_of,
            epoch: None,
            seen: Arc::new(State::new("nothing yet")),
            replicas: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            restoring: BTreeMap::new(),
            changes: BTreeMap::new(),
            connections: BTreeMap::new(),
            chance: Chance::new(seed),
            number: seed >> 8,
            registers: None,
            register_at: now,
            beat_at: now,
            follow_at: now,
            isr_at: now,
            house_at: now,
            leaves: false,
            dead: false,
        }
    }

    pub(super) fn call(&mut self, now: i64, call: &Call, out: &mut Out) {
        match call {
            Call::Stop => {
                self.leaves = true;
                self.beat_at = now;
            }
            Call::DeleteRecords { partition, percent } => self.delete_records(*partition, *percent, out),
            Call::Roll { partition } => {
                if let Some(replica) = self.replicas.get_mut(partition)
                    && replica.leading().is_some()
                {
                    replica.log.force_roll(TIME);
                    replica.write_at = Some(now);
                }
            }
            Call::Admin(_) | Call::Store(_) | Call::Clients(_) => {}
        }
    }

    pub(super) fn receive(&mut self, now: i64, message: Message, out: &mut Out) {
        let Message { from, body } = message;
        match body {
            Body::Proposed { number, outcome } => self.proposed(now, number, &outcome, out),
            Body::Beaten { epoch, answer } if self.epoch == Some(epoch) => match answer {
                Ok(answer) if answer.should_shut_down && self.leaves => self.stop(out),
                Ok(_) => {}
                Err(_) => {
                    if !std::mem::replace(&mut self.dead, true) {
                        out.push(Output::Report(Report::Superseded));
                    }
                }
            },
            Body::Metadata(state) => self.see(now, state, out),
            // Clients learn from brokers who leads.
            Body::Follow { applied } if applied < self.seen.applied && self.epoch.is_some() => {
                self.send(from, Body::Metadata(Arc::clone(&self.seen)), out);
            }
            Body::LogsOf { round, partitions } => self.tell_logs(from, round, &partitions, out),
            Body::Fetch { number, asks } => self.serve(now, from, (number, asks), out),
            Body::Fetched { number, answers } => self.fetched(now, from, (number, answers), out),
            Body::Produce {
                connection,
                place,
                partition,
                batch,
            } => {
                let known = self.connections.entry((from, connection)).or_default();
                if place >= known.next {
                    known.early.insert(place, (partition, batch));
                }
                self.take_requests(now, (from, connection), out);
            }
            Body::Read {
                ticket,
                partition,
                epoch,
                what,
            } => {
                let replica = self.replicas.get(&partition);
                let seen = replica.and_then(|one| one.read(epoch, what));
                self.send(from, Body::ReadAnswer { ticket, seen }, out);
            }
            Body::PutDone { number, done } => self.put_done(now, number, done, out),
            Body::Got { number, object } => self.got(now, number, object.as_deref(), out),
            _ => {}
        }
    }

    /// Everything that is due.
    pub(super) fn work(&mut self, now: i64, out: &mut Out) {
        if self.dead {
            return;
        }
        self.keep_membership(now, out);
        for partition in self.partitions() {
            self.write_and_sync(now, partition, out);
        }
        self.copy(now, out);
        if self.isr_at <= now {
            self.isr_at = now + ISR_EVERY_MS;
            self.look_at_isrs(now, out);
        }
        self.upload(now, out);
        if self.house_at <= now {
            self.house_at = now + HOUSE_EVERY_MS;
            self.keep_house(out);
        }
    }

    pub(super) fn wake_at(&self) -> i64 {
        if self.dead {
            return i64::MAX;
        }
        let mut wake = self
            .beat_at
            .min(self.follow_at)
            .min(self.isr_at)
            .min(self.house_at);
        if self.epoch.is_none() {
            wake = wake.min(self.register_at);
        }
        for replica in self.replicas.values() {
            let sync = replica.sync.as_ref().map_or(i64::MAX, |(_, at)| *at);
            wake = wake.min(replica.write_at.unwrap_or(i64::MAX)).min(sync);
            wake = wake.min(replica.upload.wake_at());
        }
        for fetcher in self.fetchers.values() {
            let out = fetcher.out.as_ref().map(|(_, _, deadline)| *deadline);
            let settles = fetcher.settles.as_ref().map(|(at, _)| *at);
            let idle = fetcher.plan.is_empty().then_some(i64::MAX);
            wake = wake.min(out.or(settles).or(idle).unwrap_or(fetcher.not_before));
        }
        let restoring = self.restoring.values().map(|one| one.deadline);
        let changes = self.changes.values().map(|(_, _, deadline)| *deadline);
        wake.min(restoring.chain(changes).min().unwrap_or(i64::MAX))
    }

    fn partitions(&self) -> Vec<i32> {
        self.replicas.keys().copied().collect()
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn send(&self, to: usize, body: Body, out: &mut Out) {
        let message = Message {
            from: self.node,
            body,
        };
        out.push(Output::Send { to, message });
    }

    fn propose(&mut self, command: Command, out: &mut Out) -> u64 {
        let number = self.number();
        let command = Box::new(command);
        self.send(self.setup.controller(), Body::Propose { number, command }, out);
        number
    }

    /// The disk has failed under a log. The process ends.
    fn dies(&mut self, out: &mut Out) {
        if !std::mem::replace(&mut self.dead, true) {
            out.push(Output::Report(Report::Dead));
        }
    }

    fn judge<T: Default>(&mut self, done: Result<T, Error>, out: &mut Out) -> T {
        match done {
            Ok(done) => done,
            Err(error @ Error::Corrupt { .. }) => panic!("{error}"),
            Err(Error::Io { .. } | Error::Dead { .. }) => {
                self.dies(out);
                T::default()
            }
        }
    }

    fn keep_membership(&mut self, now: i64, out: &mut Out) {
        let Some(epoch) = self.epoch else {
            if self.register_at <= now {
                self.register_at = now + PROPOSAL_PATIENCE_MS;
                let register = Command::RegisterBroker(RegisterBroker {
                    broker: self.me,
                    incarnation: self.incarnation,
                    listeners: vec![],
                    rack: None,
                    clean_shutdown_of: self.clean_of,
                    directories: vec![],
                });
                self.registers = Some(self.propose(register, out));
            }
            self.beat_at = now + 50;
            self.follow_at = now + 50;
            return;
        };
        if self.beat_at <= now {
            self.beat_at = now + self.setup.session_ms / 6;
            let beat = Heartbeat {
                broker: self.me,
                epoch,
                applied: self.seen.applied,
                want_fence: false,
                want_shutdown: self.leaves,
            };
            self.send(self.setup.controller(), Body::Beat(beat), out);
        }
        if self.follow_at <= now {
            self.follow_at = now + 100;
            let applied = self.seen.applied;
            self.send(self.setup.controller(), Body::Follow { applied }, out);
        }
    }

    /// In order: everything on the disk, then the mark of it.
    fn stop(&mut self, out: &mut Out) {
        for partition in self.partitions() {
            let Some(replica) = self.replicas.get_mut(&partition) else {
                continue;
            };
            let mut done = replica.settle();
            if let (Ok(()), Some(checkpoint)) = (&done, replica.log.checkpoint()) {
                done = checkpoint.write();
            }
            self.judge(done, out);
        }
        if !self.dead {
            self.marks.get().clean_of = self.epoch;
            self.dead = true;
            out.push(Output::Report(Report::Stopped));
        }
    }

    fn proposed(&mut self, now: i64, number: u64, outcome: &Result<Outcome, Rejected>, out: &mut Out) {
        if self.epoch.is_none() && self.registers == Some(number) {
            if let Ok(Outcome::Registered(epoch)) = outcome {
                self.epoch = Some(*epoch);
                (self.beat_at, self.follow_at) = (now, now);
                let seen = Arc::clone(&self.seen);
                self.seen_changed(now, &seen, out);
            }
            return;
        }
        if let Some((partition, change, _)) = self.changes.remove(&number) {
            let answer = match outcome {
                Err(Rejected::Ineligible { .. }) => IsrAnswer::Refused,
                Ok(_) | Err(_) => IsrAnswer::SeeMetadata,
            };
            self.isr_answered(partition, &change, answer, out);
            return;
        }
        for replica in self.replicas.values_mut() {
            replica.commit_done(number);
        }
    }

    fn see(&mut self, now: i64, state: Arc<State>, out: &mut Out) {
        if state.applied <= self.seen.applied {
            return;
        }
        self.seen = Arc::clone(&state);
        self.seen_changed(now, &state, out);
    }

    /// Nothing is done by metadata from before this broker's own registration: there it is its former self.
    fn seen_changed(&mut self, now: i64, state: &Arc<State>, out: &mut Out) {
        let Some(epoch) = self.epoch.filter(|epoch| state.applied >= epoch.value()) else {
            return;
        };
        for index in 0..self.setup.partitions {
            let Some(partition) = state.partition(TOPIC, index) else {
                continue;
            };
            if !partition.replicas.contains(&self.me) {
                if self.replicas.remove(&index).is_some() {
                    self.restoring.remove(&index);
                    *self.marks.get().generations.entry(index).or_default() += 1;
                }
                continue;
            }
            if !self.replicas.contains_key(&index) {
                let generation = self.marks.get().generations.get(&index).copied().unwrap_or(0);
                let opened = Replica::open((self.me, index), &self.setup, &self.disk, generation);
                let opened = self.judge(opened.map(Some), out);
                let Some(opened) = opened else { return };
                self.replicas.insert(index, opened);
            }
            let Some(replica) = self.replicas.get_mut(&index) else {
                continue;
            };
            let mut reports = vec![];
            let done = replica.see(epoch, state, now, &mut reports);
            let given_up = self.judge(done, out);
            report(reports, out);
            self.answer(given_up, out);
            self.advance(index, out);
        }
        self.agree_with_roles(now);
    }

    fn tell_logs(&mut self, from: usize, round: u64, partitions: &[i32], out: &mut Out) {
        let Some(epoch) = self.epoch else { return };
        let log = |index: &i32| {
            let replica = self.replicas.get(index)?;
            let log = ReplicaLog {
                broker: self.me,
                epoch,
                last_epoch: replica.log.epochs().latest(),
                log_end: replica.log.log_end(),
            };
            Some((*index, log))
        };
        let logs = partitions.iter().filter_map(log).collect();
        self.send(from, Body::Logs { round, logs }, out);
    }

    fn write_and_sync(&mut self, now: i64, partition: i32, out: &mut Out) {
        let sync_max = self.setup.sync_max_ms;
        let Some(replica) = self.replicas.get_mut(&partition) else {
            return;
        };
        let mut done = Ok(());
        if replica.write_at.is_some_and(|at| at <= now) {
            done = replica.write();
        }
        if let Some((turn, _)) = replica.sync.take_if(|(_, at)| *at <= now) {
            done = done.and_then(|()| replica.log.synced(turn.run()).map(|_| ()));
        }
        // A follower syncs by itself, before it asks for more.
        if replica.sync.is_none()
            && replica.leading().is_some()
            && let Some(turn) = replica.log.take_syncs()
        {
            replica.sync = Some((turn, now + 1 + self.chance.between(0..sync_max.max(1))));
        }
        self.judge(done, out);
        self.advance(partition, out);
    }

    fn advance(&mut self, partition: i32, out: &mut Out) {
        if let Some(replica) = self.replicas.get_mut(&partition) {
            let settled = replica.advance();
            self.answer(settled, out);
        }
    }

    fn answer(&self, settled: Vec<Settled>, out: &mut Out) {
        for (waiting, result) in settled {
            let body = Body::Produced {
                connection: waiting.connection,
                place: waiting.place,
                result,
            };
            self.send(waiting.to, body, out);
        }
    }

    fn take_requests(&mut self, now: i64, (from, connection): (usize, u64), out: &mut Out) {
        let write_max = self.setup.write_max_ms;
        while let Some(known) = self.connections.get_mut(&(from, connection))
            && let Some((partition, batch)) = known.early.remove(&known.next)
        {
            let place = known.next;
            known.next += 1;
            let waiting = Waiting {
                until: Offset::ZERO,
                first: Offset::ZERO,
                to: from,
                connection,
                place,
            };
            let later = self.chance.between(0..write_max.max(1));
            let settled = match self.replicas.get_mut(&partition) {
                Some(replica) => replica.append(batch, waiting, now + later),
                None => Some((waiting, Err(Refused::Retry))),
            };
            self.answer(settled.into_iter().collect(), out);
        }
    }
}

fn report(reports: Vec<Report>, out: &mut Out) {
    out.extend(reports.into_iter().map(Output::Report));
}
