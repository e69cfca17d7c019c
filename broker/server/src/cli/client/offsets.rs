//! Where a partition begins and ends, in each tier and in time.

use std::collections::BTreeMap;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};

use super::error::check;
use super::{Client, Error, Result, Topic, partition_name, topic_key};

/// A place in a partition that only its leader knows the offset of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The oldest record there is, in whichever tier.
    Earliest,
    /// The oldest record still on the leader's disk (KIP-405).
    EarliestLocal,
    /// The newest record the bucket holds; [`Found::offset`] is that record's own (KIP-1005).
    LatestTiered,
    /// Behind the newest record that replicas hold.
    Latest,
    /// The first record not older than these milliseconds since 1970.
    Timestamp(i64),
}

impl At {
    fn number(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::EarliestLocal => -4,
            Self::LatestTiered => -5,
            Self::Timestamp(milliseconds) => milliseconds,
        }
    }

    /// The version of ListOffsets that brought this place.
    fn since(self) -> i16 {
        match self {
            Self::EarliestLocal => 8,
            Self::LatestTiered => 9,
            Self::Earliest | Self::Latest | Self::Timestamp(_) => 1,
        }
    }
}

/// An offset the leader found; `None` where it has no such record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: Option<i64>,
    pub(crate) timestamp: i64,
}

impl Client {
    /// The offset of `at` in every partition of a topic.
    pub(crate) fn offsets(&mut self, topic: &Topic, at: At) -> Result<BTreeMap<i32, Found>> {
        let mut topic = topic.clone();
        self.patiently(|client| {
            let outcome = client.offsets_once(&topic, at);
            if outcome.as_ref().is_err_and(Error::is_passing) {
                topic = client.topic_now(&topic.name)?;
            }
            outcome
        })
    }

    fn offsets_once(&mut self, topic: &Topic, at: At) -> Result<BTreeMap<i32, Found>> {
        let mut found = BTreeMap::new();
        for (leader, partitions) in topic.by_leader(topic.indices())? {
            let partition = |index: &i32| {
                ListOffsetsPartition::default()
                    .with_partition_index(*index)
                    .with_timestamp(at.number())
            };
            let asked = ListOffsetsTopic::default()
                .with_name(topic_key(&topic.name))
                .with_partitions(partitions.iter().map(partition).collect());
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_topics(vec![asked]);
            let connection = self.broker(leader)?;
            if !connection.offers::<ListOffsetsRequest>(at.since()) {
                return Err(Error::NotOffered {
                    address: connection.address().to_owned(),
                    request: "ListOffsets by tier",
                    advice: "tiers are known since Apache Kafka 3.9",
                });
            }
            let answer = connection.call(&request)?;
            for one in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
                check(one.error_code, || {
                    partition_name(&topic.name, one.partition_index)
                })?;
                let offset = Some(one.offset).filter(|offset| *offset >= 0);
                found.insert(
                    one.partition_index,
                    Found {
                        offset,
                        timestamp: one.timestamp,
                    },
                );
            }
        }
        Ok(found)
    }

    /// Like [`Self::offsets`], with 0 where there is nothing: right for the ends of a log, which always exist.
    pub(crate) fn ends(&mut self, topic: &Topic, at: At) -> Result<BTreeMap<i32, i64>> {
        let found = self.offsets(topic, at)?;
        Ok(found
            .into_iter()
            .map(|(index, found)| (index, found.offset.unwrap_or(0)))
            .collect())
    }
}
