//! Consuming: from given offsets of a topic's partitions onwards, one request ahead of what is being looked at.
//!
//! There is no group membership here: positions are the caller's, and whoever wants them kept commits them.

use std::collections::BTreeMap;
use std::time::Instant;

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{FetchResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest};
use uuid::Uuid;

use super::batches::{self, Record, Stored};
use super::connection::{Connection, Ticket};
use super::error::check;
use super::{Client, Error, PASSING_MAX, PAUSE, Result, partition_name, pause, topic_key};

/// Requests name topics by id from this version on.
const FIRST_BY_ID: i16 = 13;

#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchLimits {
    /// How long the broker may hold a request that finds nothing new.
    pub(crate) wait_ms: i32,
    pub(crate) bytes: i32,
    pub(crate) partition_bytes: i32,
}

impl Default for FetchLimits {
    fn default() -> Self {
        // Kafka's defaults but for the bytes of one partition: 1 MiB at a time leaves cold reads waiting on round trips.
        Self {
            wait_ms: 500,
            bytes: 50 << 20,
            partition_bytes: 8 << 20,
        }
    }
}

pub(crate) struct Consumer {
    topic: String,
    positions: BTreeMap<i32, i64>,
    limits: FetchLimits,
    lanes: Vec<Lane>,
    /// Which partition is asked for first; it moves on, so that none starves behind the byte limit.
    turn: usize,
    /// The lanes are not to be trusted: leaders are looked up again before the next request.
    displaced: bool,
}

struct Lane {
    connection: Connection,
    topic_id: Uuid,
    partitions: Vec<i32>,
    ahead: Option<Ticket<FetchRequest>>,
}

/// What one request brought of one partition.
pub(crate) struct Fetched {
    pub(crate) partition: i32,
    /// Where the caller stands: earlier records of the first batch were seen before.
    pub(crate) from: i64,
    batches: Vec<Stored>,
}

/// A stored batch whose records cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the batch of offsets {base} to {} cannot be opened: {cause}", .next - 1)]
pub(crate) struct Unopened {
    pub(crate) base: i64,
    /// The offset after it.
    pub(crate) next: i64,
    cause: Error,
}

impl Fetched {
    /// The records from where the caller stands. Behind a batch that cannot be opened the next one goes on.
    pub(crate) fn records(&self) -> impl Iterator<Item = std::result::Result<Record, Unopened>> + '_ {
        self.batches.iter().flat_map(move |stored| {
            let (records, failure) = match batches::open(stored.bytes.clone()) {
                Ok(records) => (records, None),
                Err(cause) => {
                    let (base, next) = (stored.base_offset, stored.next_offset);
                    (Vec::new(), Some(Unopened { base, next, cause }))
                }
            };
            let seen = self.from;
            records
                .into_iter()
                .filter(move |record| record.offset >= seen)
                .map(Ok)
                .chain(failure.map(Err))
        })
    }

    /// Where the caller will stand behind these records.
    pub(crate) fn next_offset(&self) -> i64 {
        self.batches.last().map_or(self.from, |stored| stored.next_offset)
    }
}

impl Consumer {
    pub(crate) fn new(
        client: &mut Client,
        topic: &str,
        positions: BTreeMap<i32, i64>,
        limits: FetchLimits,
    ) -> Result<Self> {
        let mut consumer = Self {
            topic: topic.to_owned(),
            positions,
            limits,
            lanes: Vec::new(),
            turn: 0,
            displaced: true,
        };
        consumer.place(client)?;
        Ok(consumer)
    }

    /// Where each partition is read next.
    pub(crate) fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.positions
    }

    /// Stops reading a partition, because the caller has all it wants of it.
    pub(crate) fn leave(&mut self, partition: i32) {
        self.positions.remove(&partition);
        for lane in &mut self.lanes {
            lane.partitions.retain(|index| *index != partition);
        }
    }

    /// What came next, of any partition; empty when nothing did within the limits' wait.
    pub(crate) fn poll(&mut self, client: &mut Client) -> Result<Vec<Fetched>> {
        let begun = Instant::now();
        loop {
            match self.try_poll(client) {
                Err(error) if may_move(&error) && begun.elapsed() < PASSING_MAX => pause(PAUSE),
                outcome => return outcome,
            }
        }
    }

    fn try_poll(&mut self, client: &mut Client) -> Result<Vec<Fetched>> {
        if self.displaced {
            self.place(client)?;
        }
        let mut fetched = Vec::new();
        match self.exchange(&mut fetched) {
            Ok(()) => Ok(fetched),
            Err(error) => {
                self.displaced = true;
                // What did arrive has moved its positions on, so it must reach the caller; a failure that lasts
                // will be met again by the next poll.
                if fetched.is_empty() {
                    Err(error)
                } else {
                    Ok(fetched)
                }
            }
        }
    }

    fn exchange(&mut self, fetched: &mut Vec<Fetched>) -> Result<()> {
        // All requests are out before the first answer is waited for: an idle leader delays nobody.
        for nth in 0..self.lanes.len() {
            self.ask(nth)?;
        }
        for nth in 0..self.lanes.len() {
            let lane = &mut self.lanes[nth];
            let Some(ticket) = lane.ahead.take() else { continue };
            let answer = lane.connection.receive(ticket)?;
            self.take(answer, fetched)?;
        }
        // The brokers work on the next answers while the caller works on these.
        if !fetched.is_empty() {
            for nth in 0..self.lanes.len() {
                self.ask(nth)?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, nth: usize) -> Result<()> {
        let lane = &mut self.lanes[nth];
        if lane.ahead.is_some() || lane.partitions.is_empty() {
            return Ok(());
        }
        self.turn = (self.turn + 1) % lane.partitions.len();
        let (later, sooner) = lane.partitions.split_at(self.turn);
        let partition = |index: &i32| {
            FetchPartition::default()
                .with_partition(*index)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(self.positions.get(index).copied().unwrap_or(0))
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(self.limits.partition_bytes)
        };
        let topic = FetchTopic::default()
            .with_topic(topic_key(&self.topic))
            .with_topic_id(lane.topic_id)
            .with_partitions(sooner.iter().chain(later).map(partition).collect());
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(self.limits.wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(self.limits.bytes)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let version_max = if lane.topic_id.is_nil() {
            FIRST_BY_ID - 1
        } else {
            i16::MAX
        };
        lane.ahead = Some(lane.connection.send_up_to(&request, version_max)?);
        Ok(())
    }

    fn take(&mut self, answer: FetchResponse, fetched: &mut Vec<Fetched>) -> Result<()> {
        check(answer.error_code, || super::topic_name(&self.topic))?;
        for found in answer.responses.into_iter().flat_map(|topic| topic.partitions) {
            // A partition that was left while its answer was under way is of no interest any more.
            let Some(position) = self.positions.get_mut(&found.partition_index) else {
                continue;
            };
            check(found.error_code, || {
                partition_name(&self.topic, found.partition_index)
            })?;
            let one = fetched_of(&self.topic, found, *position)?;
            if one.next_offset() > *position {
                *position = one.next_offset();
                fetched.push(one);
            }
        }
        Ok(())
    }

    /// Finds the leaders and connects to them. What was asked of old ones is forgotten; positions stay.
    fn place(&mut self, client: &mut Client) -> Result<()> {
        let topic = client.topic(&self.topic)?;
        self.lanes.clear();
        for (leader, partitions) in topic.by_leader(self.positions.keys().copied())? {
            let connection = client.open_broker(leader)?;
            self.lanes.push(Lane {
                connection,
                topic_id: topic.id,
                partitions,
                ahead: None,
            });
        }
        self.displaced = false;
        Ok(())
    }
}

fn fetched_of(topic: &str, found: PartitionData, position: i64) -> Result<Fetched> {
    let records = found.records.unwrap_or_default();
    let batches = batches::split(&records)?;
    if batches.is_empty() && !records.is_empty() {
        return Err(Error::Corrupt {
            subject: partition_name(topic, found.partition_index),
            reason: format!(
                "{} bytes at offset {position} do not make a whole batch",
                records.len()
            ),
        });
    }
    Ok(Fetched {
        partition: found.partition_index,
        from: position,
        batches,
    })
}

/// Reading again changes nothing, so anything that another attempt may heal is tried again.
fn may_move(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Lost { .. } | Error::Unreachable { .. })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use varve_log::{Builder, Timestamp};

    use super::*;

    #[test]
    fn behind_a_batch_that_cannot_be_opened_the_next_one_goes_on() {
        let at = |base: i64, damage: u8| {
            let batch = Builder::new(Timestamp::new(0)).push(Timestamp::new(0), None, Some(b"v"), &[]);
            let mut bytes = batch.build().to_vec();
            bytes[..8].copy_from_slice(&base.to_be_bytes());
            let last = bytes.len() - 1;
            bytes[last] ^= damage;
            bytes
        };
        let run = Bytes::from([at(5, 0), at(6, 1), at(7, 0)].concat());
        let fetched = Fetched {
            partition: 0,
            from: 5,
            batches: batches::split(&run).unwrap(),
        };

        let seen: Vec<_> = fetched
            .records()
            .map(|one| {
                one.map(|record| record.offset)
                    .map_err(|passed| (passed.base, passed.next))
            })
            .collect();

        assert_eq!(seen, [Ok(5), Err((6, 7)), Ok(7)]);
    }
}
