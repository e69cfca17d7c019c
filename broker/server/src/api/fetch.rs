//! Fetch: from the page cache or the bucket to the socket, waiting for news where there is none yet.
//!
//! Sessions (KIP-227) are answered with id 0: every request is a full one, which every client understands.

use super::Caller;
use super::fetch_replica;
use super::topics::{TopicKey, check_epoch, not_served};
use crate::broker::Broker;
use crate::partition::{Partition, Read, Visible};
use crate::tier::ColdRead;
use crate::wire::fetch::response::{FetchableTopicResponse, PartitionData};
use crate::wire::fetch::{FetchRequest, FetchResponse};
use crate::wire::{ErrorCode, Part, Records};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use varve_log::Offset;

/// An answer that has nothing else waits at least so long for the bucket, as Kafka's does
/// (`remote.fetch.max.wait.ms`).
const COLD_WAIT_MIN: Duration = Duration::from_millis(500);
/// An answer that could leave waits so long for what comes from the bucket: enough for what lies in memory there. The
/// rest comes with one of the next answers; records that are here already are not held up for it.
const COLD_GRACE: Duration = Duration::from_millis(10);

/// One partition of the request, found.
struct Wanted {
    index: i32,
    from: Offset,
    bytes_max: usize,
    partition: Result<Arc<Partition>, ErrorCode>,
}

/// What one look at a partition gave.
struct Seen {
    visible: Option<Visible>,
    error: ErrorCode,
    records: Records,
    waiting: bool,
}

/// One look at everything that was asked for.
struct Round {
    seen: Vec<Seen>,
    /// Reads of the bucket that are not in the answer yet, each with its place in `seen`.
    cold: Vec<(usize, ColdRead)>,
    bytes: usize,
    /// Those of `bytes` that came from the bucket.
    cold_bytes: usize,
    errors: bool,
}

/// Answers as soon as `min_bytes` are there, something is wrong, or `max_wait_ms` are over.
pub(super) async fn handle(broker: &Arc<Broker>, caller: &Caller, request: FetchRequest) -> FetchResponse {
    if request.session_id != 0 {
        return FetchResponse {
            error_code: ErrorCode::FetchSessionIdNotFound.code(),
            ..Default::default()
        };
    }
    if request.replica_state.replica_id >= 0 && caller.version >= fetch_replica::VERSION_MIN {
        return fetch_replica::handle(broker, request).await;
    }
    let (keys, wanted) = find(broker, &request);
    let bytes_max = usize::try_from(request.max_bytes)
        .unwrap_or(0)
        .min(broker.config.fetch_bytes_max);
    let min_bytes = usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let began = Instant::now();
    let news = Arc::new(Notify::new());
    loop {
        let mut round = look(broker, caller, &wanted, bytes_max);
        let patience = if round.is_only_cold() {
            wait.max(COLD_WAIT_MIN)
        } else {
            wait
        };
        let deadline = began + patience;
        let done = round.is_enough(min_bytes) || Instant::now() >= deadline;
        let told = !done && wait_for_news(&wanted, &mut round, &news, deadline).await;
        if !told {
            let grace = Instant::now() + COLD_GRACE.min(wait);
            thaw(&mut round, bytes_max, grace).await;
        }
        keep(broker, &mut round);
        if !told {
            broker
                .metrics
                .fetched(round.bytes - round.cold_bytes, round.cold_bytes);
            return respond(keys, &wanted, round);
        }
    }
}

impl Round {
    /// The bucket is all there is to wait for.
    fn is_only_cold(&self) -> bool {
        self.bytes == 0 && !self.cold.is_empty()
    }

    /// What has come from the bucket does not wait until there is more.
    fn is_enough(&self, min_bytes: usize) -> bool {
        self.errors || self.cold_bytes > 0 || self.bytes >= min_bytes && !self.is_only_cold()
    }

    /// Puts what a read came back with into its place.
    fn add(&mut self, place: usize, outcome: Result<Vec<Bytes>, ErrorCode>) {
        let seen = &mut self.seen[place];
        match outcome {
            Ok(batches) => seen.records.parts = batches.into_iter().map(Part::Memory).collect(),
            Err(code) => {
                seen.error = code;
                self.errors = true;
            }
        }
        self.bytes += seen.records.len();
        self.cold_bytes += seen.records.len();
    }
}

/// What the answer leaves without is there for the next fetch.
fn keep(broker: &Broker, round: &mut Round) {
    if let Some(tier) = &broker.tier {
        round.cold.drain(..).for_each(|(_, cold)| tier.keep(cold));
    }
}

/// Topics with how many of `wanted` each one has.
fn find(broker: &Arc<Broker>, request: &FetchRequest) -> (Vec<(TopicKey, usize)>, Vec<Wanted>) {
    let view = broker.view();
    let mut keys = Vec::with_capacity(request.topics.len());
    let mut wanted = vec![];
    for asked in &request.topics {
        let key = TopicKey {
            name: asked.topic.clone(),
            id: asked.topic_id,
        };
        let topic = key.find(&view);
        for partition in &asked.partitions {
            let found = topic.as_ref().map_err(|code| *code).and_then(|topic| {
                let found = broker.partition(topic.id, partition.partition);
                let found = found.ok_or_else(|| not_served(broker, topic, partition.partition))?;
                check_epoch(partition.current_leader_epoch, found.leader_epoch())?;
                Ok(found)
            });
            wanted.push(Wanted {
                index: partition.partition,
                from: Offset::new(partition.fetch_offset),
                bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
                partition: found,
            });
        }
        keys.push((key, asked.partitions.len()));
    }
    (keys, wanted)
}

fn look(broker: &Arc<Broker>, caller: &Caller, wanted: &[Wanted], bytes_max: usize) -> Round {
    let mut round = Round {
        seen: Vec::with_capacity(wanted.len()),
        cold: vec![],
        bytes: 0,
        cold_bytes: 0,
        errors: false,
    };
    for (place, want) in wanted.iter().enumerate() {
        let left = bytes_max.saturating_sub(round.bytes);
        let (seen, cold) = look_at(broker, caller, want, left, round.bytes == 0);
        round.bytes += seen.records.len();
        round.errors |= seen.error != ErrorCode::None;
        round.seen.push(seen);
        let Some(mut cold) = cold else { continue };
        // What has come since the last fetch takes its turn in the order of the request, like what is on disk.
        let finished = (left > 0 || round.bytes == 0) && cold.is_finished();
        match finished.then(|| cold.take()).flatten() {
            Some(outcome) => round.add(place, outcome),
            None => round.cold.push((place, cold)),
        }
    }
    round
}

fn look_at(
    broker: &Broker,
    caller: &Caller,
    want: &Wanted,
    left: usize,
    first: bool,
) -> (Seen, Option<ColdRead>) {
    let mut seen = Seen {
        visible: None,
        error: ErrorCode::None,
        records: Records::new(),
        waiting: false,
    };
    let mut cold = None;
    let partition = match &want.partition {
        Ok(partition) => partition,
        Err(code) => {
            seen.error = *code;
            return (seen, None);
        }
    };
    let bytes_max = want.bytes_max.min(left);
    let outcome = partition.plan_read(want.from, bytes_max, first);
    seen.visible = Some(outcome.visible);
    match outcome.read {
        Read::Wait => seen.waiting = true,
        Read::OutOfRange => seen.error = ErrorCode::OffsetOutOfRange,
        Read::Unavailable => seen.error = ErrorCode::KafkaStorageError,
        Read::Local(plan) => match plan.run() {
            Ok(slice) if slice.len > 0 => seen.records.parts.push(Part::from(slice)),
            // Not one whole batch fits what is left: the next fetch begins with this partition.
            Ok(_) => {}
            Err(error) => {
                tracing::error!(partition = %partition.id, %error, "local data cannot be read");
                seen.error = ErrorCode::KafkaStorageError;
            }
        },
        Read::Tier { pointer, from } => match &broker.tier {
            Some(tier) => {
                cold = Some(tier.read(partition, pointer, from, want.bytes_max, caller.connection));
            }
            None => seen.error = ErrorCode::KafkaStorageError,
        },
    }
    (seen, cold)
}

/// Takes along what comes from the bucket until `deadline`, in the order of the request.
async fn thaw(round: &mut Round, bytes_max: usize, deadline: Instant) {
    for (place, mut cold) in std::mem::take(&mut round.cold) {
        let room = round.bytes < bytes_max || round.bytes == 0;
        if room {
            // Late is not an error to the client: it asks again and finds this read.
            let _ = tokio::time::timeout_at(deadline, cold.finished()).await;
        }
        match room.then(|| cold.take()).flatten() {
            Some(outcome) => round.add(place, outcome),
            None => round.cold.push((place, cold)),
        }
    }
}

/// Parks at every partition that had nothing, and at every read of the bucket. `false` when the deadline passed without
/// news.
async fn wait_for_news(wanted: &[Wanted], round: &mut Round, news: &Arc<Notify>, deadline: Instant) -> bool {
    let mut watched = vec![];
    let mut moved = false;
    for (want, seen) in wanted.iter().zip(&round.seen) {
        let (Ok(partition), Some(visible)) = (&want.partition, seen.visible) else {
            continue;
        };
        if !seen.waiting {
            continue;
        }
        if !partition.watch(news, visible.high_watermark) {
            moved = true;
            break;
        }
        watched.push(partition);
    }
    let told = moved
        || tokio::select! {
            () = news.notified() => true,
            () = first_finished(&mut round.cold) => true,
            () = tokio::time::sleep_until(deadline) => false,
        };
    for partition in watched {
        partition.unwatch(news);
    }
    // At the deadline one more look is due: bytes below `min_bytes` may have come.
    told
}

async fn first_finished(cold: &mut [(usize, ColdRead)]) {
    if cold.is_empty() {
        return std::future::pending().await;
    }
    let reads = cold.iter_mut().map(|(_, cold)| Box::pin(cold.finished()));
    futures::future::select_all(reads).await;
}

fn respond(keys: Vec<(TopicKey, usize)>, wanted: &[Wanted], round: Round) -> FetchResponse {
    let mut looks = wanted.iter().zip(round.seen);
    let responses = keys
        .into_iter()
        .map(|(key, count)| FetchableTopicResponse {
            topic: key.name,
            topic_id: key.id,
            partitions: looks
                .by_ref()
                .take(count)
                .map(|(want, seen)| answer(want, seen))
                .collect(),
        })
        .collect();
    FetchResponse {
        responses,
        ..Default::default()
    }
}

fn answer(want: &Wanted, seen: Seen) -> PartitionData {
    let known = seen
        .visible
        .filter(|_| seen.error == ErrorCode::None || seen.error == ErrorCode::OffsetOutOfRange);
    PartitionData {
        partition_index: want.index,
        error_code: seen.error.code(),
        high_watermark: known.map_or(-1, |visible| visible.high_watermark.value()),
        last_stable_offset: known.map_or(-1, |visible| visible.last_stable.value()),
        log_start_offset: known.map_or(-1, |visible| visible.log_start.value()),
        aborted_transactions: None,
        preferred_read_replica: -1,
        records: Some(seen.records),
        ..Default::default()
    }
}
