//! Produce: batches in, offsets out, acknowledged as `acks` asked.

use super::topics::{TopicKey, not_served};
use super::{Answer, Caller};
use crate::broker::Broker;
use crate::partition::{Accepted, Goal};
use crate::server::connection::Closed;
use crate::shard::Shard;
use crate::wire::produce::request::PartitionProduceData;
use crate::wire::produce::response::{PartitionProduceResponse, TopicProduceResponse};
use crate::wire::produce::{ProduceRequest, ProduceResponse};
use crate::wire::{self, ErrorCode};
use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use varve_cluster::controller::Topic;
use varve_log::{AppendError, Batch, BatchError, Codec, ProducerError};

/// Below this version a client cannot know zstd (KIP-110).
const ZSTD_SINCE: i16 = 7;

/// Why a partition's records were not appended, in Kafka's words.
#[derive(Debug, Clone)]
struct Refused {
    code: ErrorCode,
    message: Option<StrBytes>,
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None }
    }
}

struct PartitionOutcome {
    index: i32,
    accepted: Result<Accepted, Refused>,
}

struct TopicOutcome {
    key: TopicKey,
    partitions: Vec<PartitionOutcome>,
}

/// Appends everything the request carries, now; the answer waits for its acknowledgements.
pub(super) fn start(
    broker: &Arc<Broker>,
    shard: &Shard,
    caller: &Caller,
    correlation_id: i32,
    request: ProduceRequest,
) -> Result<Answer, Closed> {
    let (acks, version) = (request.acks, caller.version);
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let appender = Appender {
        broker,
        shard,
        caller,
        acks,
        transactional: request.transactional_id.is_some(),
    };
    let outcomes: Vec<TopicOutcome> = request
        .topic_data
        .into_iter()
        .map(|topic| {
            let key = TopicKey {
                name: topic.name,
                id: topic.topic_id,
            };
            let partitions = appender.append_all(&key, topic.partition_data);
            TopicOutcome { key, partitions }
        })
        .collect();
    if acks == 0 {
        return match first_refusal(&outcomes) {
            Some(code) => Err(Closed::UnacknowledgedFailure(code)),
            None => Ok(Answer::Nothing),
        };
    }
    Ok(Answer::Later(Box::pin(async move {
        let response = settle(outcomes, Instant::now() + timeout).await;
        wire::encode_response(correlation_id, version, &response)
    })))
}

fn first_refusal(outcomes: &[TopicOutcome]) -> Option<ErrorCode> {
    outcomes
        .iter()
        .flat_map(|topic| &topic.partitions)
        .find_map(|p| p.accepted.as_ref().err().map(|r| r.code))
}

struct Appender<'a> {
    broker: &'a Arc<Broker>,
    shard: &'a Shard,
    caller: &'a Caller,
    acks: i16,
    transactional: bool,
}

impl Appender<'_> {
    fn append_all(&self, key: &TopicKey, data: Vec<PartitionProduceData>) -> Vec<PartitionOutcome> {
        let topic = self.admit(key);
        data.into_iter()
            .map(|data| PartitionOutcome {
                index: data.index,
                accepted: self.append(&topic, data),
            })
            .collect()
    }

    /// Who may write, and where.
    fn admit(&self, key: &TopicKey) -> Result<Arc<Topic>, ErrorCode> {
        if !matches!(self.acks, -1..=1) {
            return Err(ErrorCode::InvalidRequiredAcks);
        }
        if self.transactional {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        let topic = key.find(&self.broker.view())?;
        if topic.name.is_internal() {
            return Err(ErrorCode::InvalidTopicException);
        }
        Ok(topic)
    }

    fn append(
        &self,
        topic: &Result<Arc<Topic>, ErrorCode>,
        data: PartitionProduceData,
    ) -> Result<Accepted, Refused> {
        let topic = topic.as_ref().map_err(|code| *code)?;
        let partition = self
            .broker
            .partition(topic.id, data.index)
            .ok_or_else(|| not_served(self.broker, topic, data.index))?;
        let records = data
            .records
            .and_then(wire::Records::into_bytes)
            .unwrap_or_default();
        let batch = self.check(records)?;
        let goal = match self.acks {
            0 => None,
            1 => Some(Goal::Written),
            _ => Some(Goal::Committed),
        };
        // One that is stored already appends nothing, and waits like the first copy did. Refused, it could be overtaken by
        // the one behind it: a producer that then goes on leaves it outside the window in which it is known.
        if goal == Some(Goal::Committed) && !partition.enough_in_sync() && !partition.holds(&batch) {
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        let accepted = partition
            .append(&batch, goal, self.broker.clock.now())
            .map_err(|e| refused(&e))?;
        if !accepted.appended.is_duplicate {
            self.shard.touch(&partition);
            self.broker
                .metrics
                .produced(batch.bytes().len(), batch.header().record_count);
        }
        Ok(accepted)
    }

    /// Exactly one sound batch for each partition of a request, as Kafka has it since Produce v3.
    fn check(&self, records: Bytes) -> Result<Batch, Refused> {
        let batch = Batch::check_produced(records).map_err(|error| {
            let code = match error {
                BatchError::Corrupt(_) => ErrorCode::CorruptMessage,
                BatchError::UnsupportedCodec => ErrorCode::UnsupportedCompressionType,
                BatchError::Invalid(_)
                | BatchError::UnsupportedMagic(_)
                | BatchError::TooLargeOpened { .. } => ErrorCode::InvalidRecord,
            };
            Refused {
                code,
                message: Some(StrBytes::from_string(error.to_string())),
            }
        })?;
        if batch.header().codec() == Some(Codec::Zstd) && self.caller.version < ZSTD_SINCE {
            return Err(ErrorCode::UnsupportedCompressionType.into());
        }
        if batch.header().is_transactional() {
            return Err(ErrorCode::InvalidTxnState.into());
        }
        Ok(batch)
    }
}

fn refused(error: &AppendError) -> Refused {
    let code = match error {
        AppendError::Producer(ProducerError::OutOfOrder { .. }) => ErrorCode::OutOfOrderSequenceNumber,
        AppendError::Producer(ProducerError::Fenced { .. }) => ErrorCode::InvalidProducerEpoch,
        AppendError::TooLarge { .. } => ErrorCode::MessageTooLarge,
        AppendError::LargerThanSegment { .. } => ErrorCode::RecordListTooLarge,
        AppendError::BadTimestamp { .. } => ErrorCode::InvalidTimestamp,
        AppendError::StaleEpoch { .. } | AppendError::BeforeLogEnd { .. } => ErrorCode::NotLeaderOrFollower,
        AppendError::Storage => ErrorCode::KafkaStorageError,
    };
    Refused {
        code,
        message: Some(StrBytes::from_string(error.to_string())),
    }
}

/// Waits for every acknowledgement, at most until the request's own deadline.
async fn settle(outcomes: Vec<TopicOutcome>, deadline: Instant) -> ProduceResponse {
    let mut responses = Vec::with_capacity(outcomes.len());
    for topic in outcomes {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for outcome in topic.partitions {
            partitions.push(settle_one(outcome, deadline).await);
        }
        responses.push(TopicProduceResponse {
            name: topic.key.name,
            topic_id: topic.key.id,
            partition_responses: partitions,
        });
    }
    ProduceResponse {
        responses,
        ..Default::default()
    }
}

async fn settle_one(outcome: PartitionOutcome, deadline: Instant) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse {
        index: outcome.index,
        ..Default::default()
    };
    let accepted = match outcome.accepted {
        Ok(accepted) => accepted,
        Err(refused) => {
            return PartitionProduceResponse {
                error_code: refused.code.code(),
                error_message: refused.message,
                base_offset: -1,
                log_append_time_ms: -1,
                log_start_offset: -1,
                ..answer
            };
        }
    };
    let error = match accepted.settled {
        None => ErrorCode::None,
        Some(settled) => match tokio::time::timeout_at(deadline, settled).await {
            Ok(Ok(Ok(()))) => ErrorCode::None,
            // It may be on disk or not: an idempotent client asks again and learns which.
            Ok(_) => ErrorCode::KafkaStorageError,
            Err(_) => ErrorCode::RequestTimedOut,
        },
    };
    PartitionProduceResponse {
        error_code: error.code(),
        base_offset: accepted.appended.first.value(),
        log_append_time_ms: accepted.appended.append_time.map_or(-1, |time| time.value()),
        log_start_offset: accepted.log_start.value(),
        ..answer
    }
}
