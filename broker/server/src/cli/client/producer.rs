//! Producing: records into batches, several requests in flight, each batch stored once and in order.
//!
//! With `acks=all` the producer is idempotent: after a lost connection or an election the unacknowledged batches are
//! sent again, unchanged, and the broker recognises those it has. With less, nothing is sent twice: what was
//! in flight when something failed may or may not be stored, and the error says how much was acknowledged.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId};

use varve_log::Codec;

use super::batches::{Draft, Writer};
use super::connection::{Connection, Ticket};
use super::error::{check, check_with};
use super::{Client, Error, PAUSE, Result, Topic, partition_name, pause, topic_key};

/// The broker keeps the last five batches of a producer for each partition (KIP-98): more could not be told apart.
const IN_FLIGHT_MAX: usize = 5;
/// How long a batch is tried, elections and restarts of brokers included. Kafka's own default is two minutes.
const DELIVERY_MAX: Duration = Duration::from_secs(120);
/// How long the leader may wait for its followers.
const REPLICATION_MS: i32 = 30_000;
/// Requests name topics by id from this version on.
const FIRST_BY_ID: i16 = 13;

/// A record to send.
#[derive(Debug, Clone, Default)]
pub(crate) struct NewRecord {
    /// Milliseconds since 1970.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

impl NewRecord {
    pub(super) fn bytes(&self) -> usize {
        let of = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + of(value) + 10)
            .sum();
        of(&self.key) + of(&self.value) + headers
    }
}

/// How many replicas must hold a batch before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Acks {
    /// Every replica that is in sync.
    All,
    /// The leader alone.
    #[value(name = "1")]
    Leader,
    /// Not even the leader: nothing is heard of a failure.
    #[value(name = "0")]
    None,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ProducerSettings {
    pub(crate) acks: Acks,
    /// A batch is sent when it has grown to this.
    pub(crate) batch_bytes: usize,
    pub(crate) codec: Codec,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        // Half of Kafka's default max.message.bytes: a record of ordinary size never makes a batch too large.
        Self {
            acks: Acks::All,
            batch_bytes: 512 << 10,
            codec: Codec::None,
        }
    }
}

pub(crate) struct Producer<'c> {
    client: &'c mut Client,
    topic: Topic,
    settings: ProducerSettings,
    writer: Option<Writer>,
    queues: Vec<Queue>,
    lanes: BTreeMap<i32, Lane>,
    /// Where records without a key go until their batch is full.
    sticky: usize,
    acknowledged: u64,
}

/// What waits for one partition.
struct Queue {
    partition: i32,
    draft: Draft,
    next_sequence: i32,
    /// Records that were taken, and those of them that the cluster has confirmed.
    progress: Progress,
}

/// How far one partition has come; its batches are confirmed in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) taken: u64,
    pub(crate) acknowledged: u64,
}

/// One connection to one leader, and what is under way on it.
struct Lane {
    connection: Connection,
    under_way: VecDeque<(Ticket<ProduceRequest>, Sent)>,
}

#[derive(Clone)]
struct Sent {
    partition: i32,
    batch: Bytes,
    records: usize,
}

impl<'c> Producer<'c> {
    pub(crate) fn new(client: &'c mut Client, topic: &str, settings: ProducerSettings) -> Result<Self> {
        let topic = client.topic(topic)?;
        let writer = match settings.acks {
            Acks::All => Some(client.new_writer()?),
            Acks::Leader | Acks::None => None,
        };
        let queue = |partition| Queue {
            partition,
            draft: Draft::default(),
            next_sequence: 0,
            progress: Progress::default(),
        };
        let queues = topic.indices().map(queue).collect();
        Ok(Self {
            client,
            topic,
            settings,
            writer,
            queues,
            lanes: BTreeMap::new(),
            sticky: 0,
            acknowledged: 0,
        })
    }

    pub(crate) fn partitions(&self) -> usize {
        self.queues.len()
    }

    /// Records the cluster has confirmed, or with `acks=0`, that were handed to the network.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How far a partition has come.
    pub(crate) fn progress_of(&self, partition: i32) -> Progress {
        let queue = self.queues.iter().find(|queue| queue.partition == partition);
        queue.map(|queue| queue.progress).unwrap_or_default()
    }

    /// Who leads a partition, as far as this producer knows.
    pub(crate) fn leader_of(&self, partition: i32) -> Result<i32> {
        let by_leader = self.topic.by_leader([partition])?;
        by_leader.into_keys().next().ok_or_else(|| Error::Corrupt {
            subject: partition_name(&self.topic.name, partition),
            reason: "it has no leader".to_owned(),
        })
    }

    /// Queues a record; sends when a batch is full, and then waits only if too much is under way.
    pub(crate) fn send(&mut self, record: NewRecord) -> Result<()> {
        let nth = match &record.key {
            Some(key) => partition_of(key, self.queues.len()),
            None => self.sticky,
        };
        let full = self.push(nth, record)?;
        if full {
            self.sticky = (self.sticky + 1) % self.queues.len();
        }
        Ok(())
    }

    /// Like [`Self::send`], to a partition of the caller's choice.
    pub(crate) fn send_to(&mut self, partition: i32, record: NewRecord) -> Result<()> {
        match self.queues.iter().position(|queue| queue.partition == partition) {
            Some(nth) => self.push(nth, record).map(|_full| ()),
            None => check(ResponseError::UnknownTopicOrPartition.code(), || {
                partition_name(&self.topic.name, partition)
            }),
        }
    }

    /// Sends what waits, and waits until all of it is acknowledged.
    pub(crate) fn flush(&mut self) -> Result<()> {
        for nth in 0..self.queues.len() {
            self.dispatch(nth)?;
        }
        let leaders: Vec<_> = self.lanes.keys().copied().collect();
        for leader in leaders {
            self.settle(leader, 0)?;
        }
        Ok(())
    }

    fn push(&mut self, nth: usize, record: NewRecord) -> Result<bool> {
        let Some(queue) = self.queues.get_mut(nth) else {
            return Err(Error::Usage(format!(
                "{} has no partitions",
                super::topic_name(&self.topic.name)
            )));
        };
        let mut full =
            queue.draft.records() > 0 && queue.draft.bytes() + record.bytes() > self.settings.batch_bytes;
        if full {
            self.dispatch(nth)?;
        }
        let queue = &mut self.queues[nth];
        queue.draft.push(&record);
        queue.progress.taken += 1;
        if queue.draft.bytes() >= self.settings.batch_bytes {
            self.dispatch(nth)?;
            full = true;
        }
        Ok(full)
    }

    /// Closes a partition's draft and sends it.
    fn dispatch(&mut self, nth: usize) -> Result<()> {
        let queue = &mut self.queues[nth];
        let draft = std::mem::take(&mut queue.draft);
        let records = draft.records();
        let Some(batch) = draft.build(self.settings.codec, self.writer, queue.next_sequence) else {
            return Ok(());
        };
        queue.next_sequence = sequence_after(queue.next_sequence, records);
        let sent = Sent {
            partition: queue.partition,
            batch,
            records,
        };
        let leader = self.leader_of(sent.partition)?;
        match self.transmit(leader, &sent) {
            Err(error) if may_repeat(&error) => self.recover(None, Some(sent), error)?,
            outcome => outcome?,
        }
        self.settle(leader, IN_FLIGHT_MAX - 1)
    }

    fn transmit(&mut self, leader: i32, sent: &Sent) -> Result<()> {
        let request = request(&self.topic, sent, self.settings.acks);
        let version_max = version_max(&self.topic);
        let lane = self.lane(leader)?;
        if request.acks == 0 {
            lane.connection.send_unanswered(&request, version_max)?;
            self.confirmed(sent);
        } else {
            let ticket = lane.connection.send_up_to(&request, version_max)?;
            lane.under_way.push_back((ticket, sent.clone()));
        }
        Ok(())
    }

    /// Receives answers until at most `left` requests are under way to this leader.
    fn settle(&mut self, leader: i32, left: usize) -> Result<()> {
        while let Some(lane) = self
            .lanes
            .get_mut(&leader)
            .filter(|lane| lane.under_way.len() > left)
        {
            let Some((ticket, sent)) = lane.under_way.pop_front() else {
                break;
            };
            match judge(&self.topic.name, lane.connection.receive(ticket)) {
                Ok(()) => self.confirmed(&sent),
                Err(error) if may_repeat(&error) => self.recover(Some(sent), None, error)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// After a failure that repeating may heal: hears what else was stored, then sends the rest once more, in order.
    /// `failed` was under way before all others of its partition, `unsent` comes after them.
    fn recover(&mut self, failed: Option<Sent>, unsent: Option<Sent>, cause: Error) -> Result<()> {
        if self.writer.is_none() {
            return Err(cause);
        }
        let mut unsettled: Vec<_> = failed.into_iter().collect();
        // All lanes, not only the one that failed: leadership may have moved, and order is kept per partition.
        for Lane {
            mut connection,
            under_way,
        } in std::mem::take(&mut self.lanes).into_values()
        {
            for (ticket, sent) in under_way {
                match judge(&self.topic.name, connection.receive(ticket)) {
                    Ok(()) => self.confirmed(&sent),
                    Err(_) => unsettled.push(sent),
                }
            }
        }
        unsettled.extend(unsent);
        let begun = Instant::now();
        for sent in unsettled {
            self.repeat(&sent, begun)?;
            self.confirmed(&sent);
        }
        Ok(())
    }

    /// Sends one batch until it is stored, alone, so that order cannot be lost.
    fn repeat(&mut self, sent: &Sent, begun: Instant) -> Result<()> {
        loop {
            match self.try_once(sent) {
                Err(error) if begun.elapsed() < DELIVERY_MAX && may_repeat(&error) => pause(PAUSE),
                outcome => return outcome,
            }
        }
    }

    fn try_once(&mut self, sent: &Sent) -> Result<()> {
        self.topic = self.client.topic(&self.topic.name)?;
        let leader = self.leader_of(sent.partition)?;
        let request = request(&self.topic, sent, self.settings.acks);
        let version_max = version_max(&self.topic);
        let answer = self.client.broker(leader)?.call_up_to(&request, version_max);
        if answer.is_err() {
            self.client.forget(leader);
        }
        judge(&self.topic.name, answer)
    }

    /// The cluster has confirmed a batch.
    fn confirmed(&mut self, sent: &Sent) {
        self.acknowledged += sent.records as u64;
        let mut queues = self.queues.iter_mut();
        if let Some(queue) = queues.find(|queue| queue.partition == sent.partition) {
            queue.progress.acknowledged += sent.records as u64;
        }
    }

    fn lane(&mut self, leader: i32) -> Result<&mut Lane> {
        match self.lanes.entry(leader) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let connection = self.client.open_broker(leader)?;
                Ok(entry.insert(Lane {
                    connection,
                    under_way: VecDeque::new(),
                }))
            }
        }
    }
}

fn request(topic: &Topic, sent: &Sent, acks: Acks) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(sent.partition)
        .with_records(Some(sent.batch.clone()));
    let data = TopicProduceData::default()
        .with_name(topic_key(&topic.name))
        .with_topic_id(topic.id)
        .with_partition_data(vec![partition]);
    let acks = match acks {
        Acks::All => -1,
        Acks::Leader => 1,
        Acks::None => 0,
    };
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(REPLICATION_MS)
        .with_topic_data(vec![data])
}

fn version_max(topic: &Topic) -> i16 {
    if topic.id.is_nil() {
        FIRST_BY_ID - 1
    } else {
        i16::MAX
    }
}

/// Whether the batch of a request is stored.
fn judge(topic: &str, answer: Result<ProduceResponse>) -> Result<()> {
    let mut partitions = answer?
        .responses
        .into_iter()
        .flat_map(|topic| topic.partition_responses);
    let Some(one) = partitions.next() else {
        let reason = "the answer to a produce request leaves it out".to_owned();
        return Err(Error::Corrupt {
            subject: super::topic_name(topic),
            reason,
        });
    };
    // The broker has had this batch already: an earlier answer was lost on its way.
    if one.error_code == ResponseError::DuplicateSequenceNumber.code() {
        return Ok(());
    }
    let words = one.error_message.as_deref().map(ToOwned::to_owned);
    check_with(one.error_code, words.as_deref(), || {
        partition_name(topic, one.index)
    })
}

/// Failures after which an idempotent producer sends the same batch again.
fn may_repeat(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Lost { .. } | Error::Unreachable { .. })
}

fn sequence_after(sequence: i32, records: usize) -> i32 {
    // Sequences go from the largest i32 back to 0 (KIP-98).
    let next = (i64::from(sequence) + records as i64) & i64::from(i32::MAX);
    i32::try_from(next).unwrap_or(0)
}

/// Where Kafka's own clients put a key: murmur2, positive, modulo the partitions. The same key must land on the
/// same partition whichever client wrote it.
pub(crate) fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

fn murmur2(key: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut bits = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(MIX);
        bits ^= bits >> 24;
        hash = hash.wrapping_mul(MIX) ^ bits.wrapping_mul(MIX);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (nth, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * nth);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

impl Client {
    /// A producer id of our own, for the broker to tell repeated batches by.
    fn new_writer(&mut self) -> Result<Writer> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(REPLICATION_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        self.patiently(|client| {
            let answer = client.any().call(&request)?;
            check(answer.error_code, || "a producer id".to_owned())?;
            Ok(Writer {
                id: answer.producer_id.0,
                epoch: answer.producer_epoch,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafkas_own_clients_send_them() {
        // Values of org.apache.kafka.common.utils.UtilsTest.
        let java = |key: &str| i32::from_be_bytes(murmur2(key.as_bytes()).to_be_bytes());

        assert_eq!(java("21"), -973_932_308);
        assert_eq!(java("foobar"), -790_332_482);
        assert_eq!(java("a-little-bit-long-string"), -985_981_536);
        assert_eq!(java("a-little-bit-longer-string"), -1_486_304_829);
        assert_eq!(
            java("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8"),
            -58_897_971
        );
    }

    #[test]
    fn sequences_start_again_at_zero() {
        assert_eq!(sequence_after(i32::MAX - 1, 1), i32::MAX);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX, 3), 2);
    }
}
