//! Clients: idempotent producers with several batches in flight, who send again what was not acknowledged, in order;
//! and a consumer who looks at what it is shown.
//!
//! A producer does what librdkafka and the Java client agree on: at most five batches of a partition are on their way,
//! all over one connection at a time; when one of them fails, nothing more is sent until all are answered or given up,
//! and then all that are not acknowledged are sent again in their order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use varve_cluster::controller::State;
use varve_log::{Builder, Offset, Timestamp};

use super::message::{Body, Look, Message, Pace, Refused, Report, Seen, node};
use super::node::{Node, Setup, TOPIC};
use crate::sim::chance::Chance;
use crate::sim::world::Output;

type Out = Vec<Output<Node>>;

const IN_FLIGHT_MAX: usize = 5;
const QUEUED_MAX: usize = 12;
const BACKOFF_MS: i64 = 20;

#[derive(Debug)]
pub(super) struct Client {
    me: usize,
    setup: Arc<Setup>,
    chance: Chance,
    pub(super) pace: Pace,
    pub(super) producers: Vec<Producer>,
    view: Arc<State>,
    view_at: i64,
    read_at: i64,
    tickets: u64,
    reads: BTreeMap<u64, (i32, Offset)>,
    /// The largest "latest" anybody was told, and where the consumer goes on.
    latest: BTreeMap<i32, Offset>,
    position: BTreeMap<i32, Offset>,
}

#[derive(Debug)]
pub(super) struct Producer {
    id: i64,
    partition: i32,
    next_sequence: i32,
    /// Not acknowledged, in order. Of these the first `sent` are on their way.
    queue: VecDeque<Batch>,
    connection: Option<Connection>,
    next_batch_at: i64,
    not_before: i64,
    /// A batch of it has been acknowledged.
    is_known: bool,
}

#[derive(Debug)]
struct Batch {
    sequence: i32,
    bytes: Bytes,
}

#[derive(Debug)]
struct Connection {
    to: usize,
    number: u64,
    /// Sequences of what was sent, by place; taken out when answered.
    out: BTreeMap<u64, i32>,
    /// Answers that came before one that is sent before them: a connection keeps their order, or is given up.
    early: BTreeMap<u64, Result<Offset, Refused>>,
    places: u64,
    /// One has failed: no more until all are answered.
    drains: bool,
    deadline: i64,
}

impl Client {
    pub(super) fn start(me: usize, setup: &Arc<Setup>, now: i64, seed: u64) -> Self {
        let partitions = setup.partitions;
        let producer = |id: usize| Producer {
            id: i64::try_from(id).unwrap_or(0),
            partition: i32::try_from(id).unwrap_or(0) % partitions,
            next_sequence: 0,
            queue: VecDeque::new(),
            connection: None,
            next_batch_at: now,
            not_before: now,
            is_known: false,
        };
        Self {
            me,
            chance: Chance::new(seed),
            pace: Pace::Write,
            producers: (0..setup.producers).map(producer).collect(),
            view: Arc::new(State::new("nothing yet")),
            view_at: now,
            read_at: now,
            tickets: 0,
            reads: BTreeMap::new(),
            latest: BTreeMap::new(),
            position: BTreeMap::new(),
            setup: Arc::clone(setup),
        }
    }

    /// Everything that was ever asked for has been acknowledged.
    pub(super) fn has_finished(&self) -> bool {
        self.producers.iter().all(|producer| producer.queue.is_empty())
    }

    pub(super) fn receive(&mut self, now: i64, message: Message, out: &mut Out) {
        match message.body {
            Body::Metadata(view) if view.applied > self.view.applied => self.view = view,
            Body::Produced {
                connection,
                place,
                result,
            } => self.produced(now, connection, place, result, out),
            Body::ReadAnswer { ticket, seen } => self.saw(ticket, seen, out),
            _ => {}
        }
    }

    pub(super) fn work(&mut self, now: i64, out: &mut Out) {
        if self.view_at <= now {
            self.view_at = now + 50;
            let to = self.chance.index(self.setup.brokers);
            let applied = self.view.applied;
            self.send(to, Body::Follow { applied }, out);
        }
        if self.read_at <= now {
            self.read_at = now + 20 + self.chance.between(0..40);
            self.read(out);
        }
        for at in 0..self.producers.len() {
            self.make_batches(now, at);
            self.send_batches(now, at, out);
        }
    }

    pub(super) fn wake_at(&self) -> i64 {
        let due = self.producers.iter().map(|producer| {
            let busy = producer.connection.as_ref().filter(|one| !one.out.is_empty());
            let deadline = busy.map_or(i64::MAX, |one| one.deadline);
            let waits = busy.is_some_and(|one| one.drains || one.out.len() >= IN_FLIGHT_MAX);
            let sends = !producer.queue.is_empty() && !waits;
            let retry = if sends { producer.not_before } else { i64::MAX };
            let makes = match self.pace {
                Pace::Write => producer.next_batch_at,
                Pace::Finish => i64::MAX,
            };
            deadline.min(retry).min(makes)
        });
        let producers = due.min().unwrap_or(i64::MAX);
        producers.min(self.view_at).min(self.read_at)
    }

    fn make_batches(&mut self, now: i64, at: usize) {
        let every = self.setup.produce_every_ms;
        let producer = &mut self.producers[at];
        if producer.next_batch_at > now || !matches!(self.pace, Pace::Write) {
            return;
        }
        producer.next_batch_at = now + 1 + self.chance.between(0..2 * every);
        let burst = if self.chance.one_in(8) { IN_FLIGHT_MAX } else { 1 };
        for _ in 0..burst {
            if producer.queue.len() >= QUEUED_MAX {
                return;
            }
            let records = 1 + self.chance.index(3);
            let bytes = batch(producer, records, self.chance.index(90));
            let sequence = producer.next_sequence;
            producer.next_sequence += i32::try_from(records).unwrap_or(1);
            producer.queue.push_back(Batch { sequence, bytes });
        }
    }

    fn send_batches(&mut self, now: i64, at: usize, out: &mut Out) {
        let timeout = self.setup.request_timeout_ms;
        let number = self.chance.draw();
        let me = self.me;
        let producer = &mut self.producers[at];
        let leader = self.view.partition(TOPIC, producer.partition);
        let leader = leader.and_then(|partition| partition.leader).map(node);
        if let Some(connection) = &mut producer.connection {
            let is_idle = connection.out.is_empty();
            let is_over = !is_idle && connection.deadline <= now;
            let has_moved = is_idle && leader != Some(connection.to);
            if is_over || has_moved {
                producer.connection = None;
                producer.not_before = producer.not_before.max(now + BACKOFF_MS);
            } else if connection.drains && is_idle {
                connection.drains = false;
            }
        }
        let (Some(to), true) = (leader, producer.not_before <= now) else {
            producer.not_before = producer.not_before.max(now + BACKOFF_MS);
            return;
        };
        let connection = producer.connection.get_or_insert_with(|| Connection {
            to,
            number,
            out: BTreeMap::new(),
            early: BTreeMap::new(),
            places: 0,
            drains: false,
            deadline: i64::MAX,
        });
        if connection.drains {
            return;
        }
        // A partition takes any sequence of a producer it does not know yet (KIP-360), also the second batch's when the first
        // has just been refused: so the first one goes alone.
        let most = if producer.is_known { IN_FLIGHT_MAX } else { 1 };
        for batch in producer.queue.iter().take(most) {
            if connection
                .out
                .values()
                .any(|sequence| *sequence == batch.sequence)
            {
                continue;
            }
            connection.out.insert(connection.places, batch.sequence);
            let body = Body::Produce {
                connection: connection.number,
                place: connection.places,
                partition: producer.partition,
                batch: batch.bytes.clone(),
            };
            connection.places += 1;
            if connection.out.len() == 1 {
                connection.deadline = now + timeout;
            }
            let message = Message { from: me, body };
            out.push(Output::Send {
                to: connection.to,
                message,
            });
        }
        producer.not_before = now + BACKOFF_MS;
    }

    fn produced(
        &mut self,
        now: i64,
        connection: u64,
        place: u64,
        result: Result<Offset, Refused>,
        out: &mut Out,
    ) {
        let is_its = |producer: &&mut Producer| {
            producer
                .connection
                .as_ref()
                .is_some_and(|one| one.number == connection)
        };
        let (timeout, implicit) = (self.setup.request_timeout_ms, self.setup.implicit_acks);
        let Some(producer) = self.producers.iter_mut().find(is_its) else {
            return;
        };
        if let Some(open) = &mut producer.connection {
            open.early.insert(place, result);
        }
        while let Some(open) = &mut producer.connection
            && let Some((place, sequence)) = open
                .out
                .iter()
                .next()
                .map(|(place, sequence)| (*place, *sequence))
            && let Some(result) = open.early.remove(&place)
        {
            open.out.remove(&place);
            open.deadline = now + timeout;
            open.drains |= result.is_err();
            producer.answered((now, implicit), sequence, result, out);
        }
    }

    fn read(&mut self, out: &mut Out) {
        let partition = i32::try_from(self.chance.index(self.setup.partitions as usize)).unwrap_or(0);
        let to = self.chance.index(self.setup.brokers);
        let Some(epoch) = self.view.partition(TOPIC, partition).map(|one| one.leader_epoch) else {
            return;
        };
        let from = self.position.get(&partition).copied().unwrap_or(Offset::ZERO);
        let what = if self.chance.one_in(2) {
            Look::Latest
        } else {
            Look::From(from)
        };
        self.tickets += 1;
        let ticket = self.tickets;
        let floor = self.latest.get(&partition).copied().unwrap_or(Offset::ZERO);
        self.reads.insert(ticket, (partition, floor));
        self.reads.retain(|known, _| known + 50 > ticket);
        self.send(
            to,
            Body::Read {
                ticket,
                partition,
                epoch,
                what,
            },
            out,
        );
    }

    fn saw(&mut self, ticket: u64, seen: Option<Seen>, out: &mut Out) {
        let (Some((partition, floor)), Some(seen)) = (self.reads.remove(&ticket), seen) else {
            return;
        };
        match &seen {
            Seen::Latest(offset) => {
                let latest = self.latest.entry(partition).or_insert(Offset::ZERO);
                *latest = (*latest).max(*offset);
            }
            Seen::Batches { bytes, .. } => {
                if let Some(Ok(last)) = varve_log::split(bytes).last()
                    && let Ok(header) = varve_log::Header::parse(&last)
                {
                    self.position.insert(partition, header.next_offset());
                }
            }
        }
        out.push(Output::Report(Report::Saw {
            partition,
            floor,
            seen,
        }));
    }

    fn send(&self, to: usize, body: Body, out: &mut Out) {
        let message = Message { from: self.me, body };
        out.push(Output::Send { to, message });
    }
}

impl Producer {
    fn answered(
        &mut self,
        (now, implicit_acks): (i64, bool),
        sequence: i32,
        result: Result<Offset, Refused>,
        out: &mut Out,
    ) {
        let is_first = self.queue.front().is_some_and(|first| first.sequence == sequence);
        let (partition, producer) = (self.partition, self.id);
        match result {
            Ok(offset) => {
                self.is_known = true;
                self.not_before = now;
                // Sequences are taken in order: what comes before one that is acknowledged is there, too. librdkafka
                // counts on that when an answer was lost and the next one comes; others ask for each.
                let implied = |batch: &mut Batch| {
                    batch.sequence == sequence || (implicit_acks && batch.sequence < sequence)
                };
                while let Some(at) = self.queue.iter_mut().position(&implied)
                    && let Some(batch) = self.queue.remove(at)
                {
                    out.push(Output::Report(Report::Acked {
                        partition,
                        producer,
                        sequence: batch.sequence,
                        offset: (batch.sequence == sequence).then_some(offset),
                    }));
                }
            }
            Err(refused) => {
                self.not_before = now + BACKOFF_MS;
                if refused == Refused::OutOfOrder && is_first {
                    out.push(Output::Report(Report::Desynchronised {
                        partition,
                        producer,
                        sequence,
                    }));
                }
            }
        }
    }
}

fn batch(producer: &Producer, records: usize, filling: usize) -> Bytes {
    let now = super::broker::TIME;
    let (id, first) = (producer.id, producer.next_sequence);
    let mut builder = Builder::new(now).producer(id, 0, first);
    for record in 0..records {
        let value = format!("{id}/{first}/{record}/{}", "x".repeat(filling));
        builder = builder.push(Timestamp::new(now.value()), None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}
