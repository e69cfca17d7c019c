//! What passes between the nodes, and what lies on their disks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use varve_cluster::controller::command::ReplicaLog;
use varve_cluster::controller::{Command, Heartbeat, HeartbeatAnswer, Outcome, Rejected, State};
use varve_cluster::replica::{Answer, Ask};
use varve_cluster::{BrokerEpoch, BrokerId};
use varve_log::{EpochChain, LeaderEpoch, Offset, Producers, SimDisk};

use crate::sim::chance::Chance;
use crate::sim::disk::Storage;

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) from: usize,
    pub(super) body: Body,
}

#[derive(Clone)]
pub(super) enum Body {
    /// A broker's command for the one order.
    Propose {
        number: u64,
        command: Box<Command>,
    },
    Proposed {
        number: u64,
        outcome: Result<Outcome, Rejected>,
    },
    Beat(Heartbeat),
    Beaten {
        epoch: BrokerEpoch,
        answer: Result<HeartbeatAnswer, Rejected>,
    },
    /// What came behind this in the order?
    Follow {
        applied: u64,
    },
    Metadata(Arc<State>),
    /// The controller asks what replicas hold.
    LogsOf {
        round: u64,
        partitions: Vec<i32>,
    },
    Logs {
        round: u64,
        logs: Vec<(i32, ReplicaLog)>,
    },
    Fetch {
        number: u64,
        asks: Vec<(i32, Ask)>,
    },
    Fetched {
        number: u64,
        answers: Vec<(i32, Ask, Answer<Bytes>)>,
    },
    /// The `place`th request of a connection: requests of one arrive in order or not at all, as TCP has it.
    Produce {
        connection: u64,
        place: u64,
        partition: i32,
        batch: Bytes,
    },
    Produced {
        connection: u64,
        place: u64,
        result: Result<Offset, Refused>,
    },
    Read {
        ticket: u64,
        partition: i32,
        /// The leadership the consumer knows (KIP-320): a deposed leader is not believed.
        epoch: LeaderEpoch,
        what: Look,
    },
    ReadAnswer {
        ticket: u64,
        seen: Option<Seen>,
    },
    Put {
        number: u64,
        key: String,
        object: Arc<Object>,
    },
    /// It says that it is there; or that it failed, which may or may not be true.
    PutDone {
        number: u64,
        done: bool,
    },
    Get {
        number: u64,
        key: String,
    },
    Got {
        number: u64,
        object: Option<Arc<Object>>,
    },
    /// Of the objects of a partition those may go that are not in `keep` and were put in an epoch below this.
    Sweep {
        partition: i32,
        keep: Vec<String>,
        below: i32,
    },
}

/// Why a batch was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not appended, now: another leader, or too few replicas.
    Retry,
    OutOfOrder,
    /// The leadership is over, and what becomes of it is for the next one to say.
    Unknown,
}

/// What a consumer asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look {
    Latest,
    From(Offset),
}

/// What a consumer saw.
#[derive(Clone)]
pub(super) enum Seen {
    Latest(Offset),
    Batches { from: Offset, bytes: Bytes },
}

/// What lies in the bucket.
#[derive(Debug)]
pub(super) enum Object {
    Segment {
        end: Offset,
        bytes: Bytes,
        /// As of `end`.
        epochs: EpochChain,
        producers: Producers,
    },
    Manifest(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) base: Offset,
    pub(super) end: Offset,
    pub(super) key: String,
}

/// What the scenario asks of a node.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// An operator's command, to the controller.
    Admin(Box<Command>),
    /// The broker is to stop in order.
    Stop,
    /// DeleteRecords of about this share of what is committed.
    DeleteRecords { partition: i32, percent: u8 },
    /// The leader's open segment is sealed.
    Roll { partition: i32 },
    /// Faults of the object store, in percent.
    Store(StoreFaults),
    /// How eagerly clients write.
    Clients(Pace),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    Write,
    /// What is queued is sent to its end; nothing new comes.
    Finish,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreFaults {
    pub(super) before_effect: u64,
    pub(super) after_effect: u64,
    pub(super) hung: u64,
    /// Milliseconds.
    pub(super) slow: i64,
}

/// What a node tells the scenario.
#[derive(Debug)]
pub(super) enum Report {
    Applied(Arc<State>),
    /// A broker has begun to lead.
    Led {
        partition: i32,
        epoch: LeaderEpoch,
    },
    /// A cut below the high watermark known there.
    CutCommitted {
        partition: i32,
        records: i64,
    },
    Cut,
    Rebuilt {
        partition: i32,
    },
    /// A disk failed under it.
    Dead,
    /// It stopped in order.
    Stopped,
    /// Its registration is not the one that counts any more: somebody must start it anew.
    Superseded,
    Acked {
        partition: i32,
        producer: i64,
        sequence: i32,
        /// `None` if only a later batch's acknowledgement says so.
        offset: Option<Offset>,
    },
    /// The first of a producer's batches that is not acknowledged is out of order: it can never go on.
    Desynchronised {
        partition: i32,
        producer: i64,
        sequence: i32,
    },
    Saw {
        partition: i32,
        /// The largest "latest" that was known when this was asked.
        floor: Offset,
        seen: Seen,
    },
}

/// Everything that outlives a process.
#[derive(Clone, Debug)]
pub(super) enum Files {
    Broker { disk: SimDisk, marks: Shared<Marks> },
    Controller(Shared<State>),
    Store(Shared<BTreeMap<String, Arc<Object>>>),
    Client,
}

/// Small files of a broker that are written with a sync each.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    /// The clean-shutdown file.
    pub(super) clean_of: Option<BrokerEpoch>,
    /// How often the replica of a partition was given up and begun anew in another directory.
    pub(super) generations: BTreeMap<i32, u32>,
}

pub(super) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Shared<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(value)))
    }

    pub(super) fn get(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

/// Brokers write to disks of their own make (`SimDisk`), so nothing passes through the world's.
impl Storage for Files {
    type Write = ();

    fn file((): &()) -> usize {
        0
    }

    fn apply(&mut self, (): &()) {}

    fn tear(&mut self, (): &(), _chance: &mut Chance) {}
}

pub(super) fn broker(node: usize) -> BrokerId {
    BrokerId::new(i32::try_from(node).expect("few nodes") + 1)
}

pub(super) fn node(broker: BrokerId) -> usize {
    usize::try_from(broker.value() - 1).expect("ids begin at 1")
}

/// Traces name what matters and leave bytes out.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose { number, command } => write!(f, "propose {number:x} {command:?}"),
            Self::Proposed { number, outcome } => write!(f, "proposed {number:x} {outcome:?}"),
            Self::Beat(beat) => write!(f, "{beat:?}"),
            Self::Beaten { epoch, answer } => write!(f, "beaten in {epoch} {answer:?}"),
            Self::Follow { applied } => write!(f, "follow from {applied}"),
            Self::Metadata(state) => write!(f, "metadata up to {}", state.applied),
            Self::LogsOf { round, partitions } => write!(f, "logs of {partitions:?}? round {round}"),
            Self::Logs { round, logs } => write!(f, "round {round}: {logs:?}"),
            Self::Fetch { number, asks } => write!(f, "fetch {number:x} {asks:?}"),
            Self::Fetched { number, answers } => {
                write!(f, "fetched {number:x}")?;
                answers
                    .iter()
                    .try_for_each(|(at, _, answer)| write!(f, " {at}: {}", brief(answer)))
            }
            Self::Produce {
                connection,
                place,
                partition,
                batch,
            } => {
                write!(
                    f,
                    "produce {connection:x}/{place} to {partition}: {}",
                    named(batch)
                )
            }
            Self::Produced {
                connection,
                place,
                result,
            } => write!(f, "produced {connection:x}/{place} {result:?}"),
            Self::Read {
                ticket,
                partition,
                epoch,
                what,
            } => write!(f, "read {ticket} {partition} in {epoch} {what:?}"),
            Self::ReadAnswer { ticket, seen } => write!(f, "read {ticket}: {seen:?}"),
            Self::Put { number, key, .. } => write!(f, "put {number:x} {key}"),
            Self::PutDone { number, done } => write!(f, "put {number:x} done: {done}"),
            Self::Get { number, key } => write!(f, "get {number:x} {key}"),
            Self::Sweep {
                partition,
                keep,
                below,
            } => write!(f, "sweep {partition} below {below} but {}", keep.len()),
            Self::Got { number, object } => write!(f, "got {number:x} {}", object.is_some()),
        }
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest(offset) => write!(f, "latest {offset}"),
            Self::Batches { from, bytes } => write!(f, "{} bytes from {from}", bytes.len()),
        }
    }
}

fn brief(answer: &Answer<Bytes>) -> String {
    match answer {
        Answer::Batches {
            read,
            segment_base,
            high_watermark,
            ..
        } => format!(
            "{} bytes in {segment_base}, hw {high_watermark}",
            read.as_ref().map_or(0, Bytes::len)
        ),
        Answer::Diverging { .. } | Answer::NotLocal { .. } | Answer::Refused(_) => format!("{answer:?}"),
    }
}

fn named(batch: &Bytes) -> String {
    varve_log::Header::parse(batch).map_or_else(
        |_not_one| "?".to_owned(),
        |header| {
            format!(
                "producer {} sequence {} ({} records)",
                header.producer_id, header.base_sequence, header.record_count
            )
        },
    )
}
