//! Fetch as followers send it (a replica id, version 17 or newer): what is written, committed or not, segment by
//! segment, to whoever is a replica in the leader's epoch.

use crate::broker::Broker;
use crate::partition::Partition;
use crate::wire::fetch::request::FetchPartition;
use crate::wire::fetch::response::{EpochEndOffset, FetchableTopicResponse, PartitionData};
use crate::wire::fetch::{FetchRequest, FetchResponse};
use crate::wire::{ErrorCode, Part, Records};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;
use varve_cluster::replica::{Answer, Ask, Refusal};
use varve_cluster::{BrokerEpoch, BrokerId, TopicId};
use varve_log::{LeaderEpoch, Offset};

/// Older ones have no room for what our followers say.
pub(super) const VERSION_MIN: i16 = 17;
/// Throttled followers are looked at anew so often.
const THROTTLE_PAUSE: Duration = Duration::from_millis(50);

/// Answers as soon as there is anything to tell, or `max_wait_ms` are over.
pub(super) async fn handle(broker: &Arc<Broker>, request: FetchRequest) -> FetchResponse {
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = Instant::now() + wait;
    let wanted = find(broker, &request);
    let news = Arc::new(Notify::new());
    loop {
        let (responses, telling) = look(broker, &request, &wanted);
        if telling || Instant::now() >= deadline {
            return FetchResponse {
                responses,
                ..Default::default()
            };
        }
        wait_for_news(&wanted, &news, deadline).await;
    }
}

/// A partition of the request: what is asked, and the partition, if this broker has it.
type Wanted = (Ask, FetchPartition, Option<Arc<Partition>>);

fn find(broker: &Broker, request: &FetchRequest) -> Vec<(Uuid, Vec<Wanted>)> {
    let replica = BrokerId::new(request.replica_state.replica_id);
    let broker_epoch = BrokerEpoch::new(u64::try_from(request.replica_state.replica_epoch).unwrap_or(0));
    let ask = |asked: &FetchPartition| Ask {
        replica,
        broker_epoch,
        leader_epoch: LeaderEpoch::new(asked.current_leader_epoch),
        from: Offset::new(asked.fetch_offset),
        last_epoch: (asked.last_fetched_epoch >= 0).then(|| LeaderEpoch::new(asked.last_fetched_epoch)),
        durable_end: Offset::new(asked.durable_end.max(0)),
        segment_base: Offset::new(asked.segment_base.max(0)),
        log_start: Offset::new(asked.log_start_offset.max(0)),
    };
    let topics = request.topics.iter();
    topics
        .map(|topic| {
            let partition = |index| broker.partitions.get(TopicId::new(topic.topic_id), index);
            let wanted = topic.partitions.iter();
            let wanted = wanted.map(|asked| (ask(asked), asked.clone(), partition(asked.partition)));
            (topic.topic_id, wanted.collect())
        })
        .collect()
}

/// One look at everything; and whether it is worth an answer now.
fn look(
    broker: &Broker,
    request: &FetchRequest,
    wanted: &[(Uuid, Vec<Wanted>)],
) -> (Vec<FetchableTopicResponse>, bool) {
    let throttle = &broker.throttles.given;
    let open = throttle.is_open(&broker.config, &broker.view(), broker.clock.now());
    let mut left = usize::try_from(request.max_bytes).unwrap_or(0);
    let mut telling = false;
    let mut first = true;
    let mut responses = Vec::with_capacity(wanted.len());
    for (topic_id, wanted) in wanted {
        let mut partitions = Vec::with_capacity(wanted.len());
        for (ask, asked, partition) in wanted {
            let is_throttled = partition
                .as_ref()
                .is_some_and(|partition| partition.throttles(ask.replica));
            let bytes_max = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(left);
            let answer = match partition {
                Some(partition) => {
                    // How far it has come counts all the same.
                    let limits = match open || !is_throttled {
                        true => (bytes_max, first),
                        false => (0, false),
                    };
                    partition.serve_follower(ask, limits, broker.clock.now()).answer
                }
                None => Answer::Refused(Refusal::NotLeader),
            };
            let data = tell(asked.partition, answer);
            let bytes = data.records.as_ref().map_or(0, Records::len);
            broker.metrics.copied_out(bytes);
            if is_throttled {
                throttle.spend(bytes);
            }
            left = left.saturating_sub(bytes);
            first &= bytes == 0;
            // A segment was begun, or the follower's is another: it is told even without records.
            telling |= bytes > 0 || data.error_code != 0 || data.diverging_epoch.epoch >= 0;
            telling |= data.error_code == 0
                && data.segment_base >= 0
                && data.segment_base != ask.segment_base.value();
            partitions.push(data);
        }
        responses.push(FetchableTopicResponse {
            topic_id: *topic_id,
            partitions,
            ..Default::default()
        });
    }
    (responses, telling)
}

fn tell(index: i32, answer: Answer<varve_log::ReadPlan>) -> PartitionData {
    let mut data = PartitionData {
        partition_index: index,
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset: -1,
        preferred_read_replica: -1,
        records: Some(Records::new()),
        ..Default::default()
    };
    match answer {
        Answer::Batches {
            read,
            segment_base,
            high_watermark,
            log_start,
        } => {
            data.high_watermark = high_watermark.value();
            data.log_start_offset = log_start.value();
            data.segment_base = segment_base.value();
            match read.map(|plan| plan.run()).transpose() {
                Ok(Some(slice)) if slice.len > 0 => {
                    data.records = Some(Records {
                        parts: vec![Part::from(slice)],
                    });
                }
                // Not one whole batch fits what is left: it has its turn next time.
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "local data cannot be read for a follower");
                    data.error_code = ErrorCode::KafkaStorageError.code();
                }
            }
        }
        Answer::Diverging { epoch, end } => {
            data.diverging_epoch = EpochEndOffset {
                epoch: epoch.value(),
                end_offset: end.value(),
            };
        }
        Answer::NotLocal {
            local_base,
            log_start,
        } => {
            data.error_code = ErrorCode::OffsetMovedToTieredStorage.code();
            data.local_base = local_base.value();
            data.log_start_offset = log_start.value();
        }
        Answer::Refused(refusal) => {
            data.error_code = match refusal {
                Refusal::Fenced => ErrorCode::FencedLeaderEpoch,
                Refusal::UnknownEpoch => ErrorCode::UnknownLeaderEpoch,
                Refusal::NotLeader => ErrorCode::NotLeaderOrFollower,
                Refusal::Storage => ErrorCode::KafkaStorageError,
            }
            .code();
        }
    }
    data
}

async fn wait_for_news(wanted: &[(Uuid, Vec<Wanted>)], news: &Arc<Notify>, deadline: Instant) {
    let partitions = || {
        let all = wanted.iter().flat_map(|(_, wanted)| wanted);
        let found = all.filter_map(|(ask, _, partition)| Some((ask, partition.as_ref()?)));
        // What a throttled one waits for is time.
        found.filter(|(ask, partition)| !partition.throttles(ask.replica))
    };
    let asked = wanted.iter().map(|(_, wanted)| wanted.len()).sum::<usize>();
    let deadline = match partitions().count() < asked {
        true => deadline.min(Instant::now() + THROTTLE_PAUSE),
        false => deadline,
    };
    let all_wait = partitions().all(|(ask, partition)| partition.watch_end(news, ask.from));
    if all_wait {
        // At the deadline the answer goes out empty.
        let _ = tokio::time::timeout_at(deadline, news.notified()).await;
    }
    for (_, partition) in partitions() {
        partition.unwatch_end(news);
    }
}
