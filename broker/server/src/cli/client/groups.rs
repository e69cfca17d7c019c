//! Consumer groups as their coordinator knows them: who is in them and how far they have come.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, ListGroupsRequest,
    OffsetCommitRequest, OffsetFetchRequest, OffsetFetchResponse,
};

use super::error::{check, check_with};
use super::topics::text;
use super::{Client, Error, Result, partition_name, topic_key};

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupSummary {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) protocol_type: String,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) assignor: String,
    pub(crate) members: Vec<Member>,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) client_id: String,
    pub(crate) host: String,
    pub(crate) assigned: BTreeSet<(String, i32)>,
}

/// Committed offsets by topic and partition.
pub(crate) type Committed = BTreeMap<(String, i32), i64>;

impl Client {
    /// The groups of every broker.
    pub(crate) fn groups(&mut self) -> Result<Vec<GroupSummary>> {
        let mut groups = BTreeSet::new();
        let brokers: Vec<_> = self.addresses.keys().copied().collect();
        for id in brokers {
            let answer = self.patiently(|client| {
                let answer = client.broker(id)?.call(&ListGroupsRequest::default())?;
                check(answer.error_code, || format!("the groups of broker {id}"))?;
                Ok(answer)
            })?;
            groups.extend(answer.groups.into_iter().map(|group| GroupSummary {
                id: group.group_id.to_string(),
                state: group.group_state.to_string(),
                protocol_type: group.protocol_type.to_string(),
            }));
        }
        Ok(groups.into_iter().collect())
    }

    pub(crate) fn group(&mut self, id: &str) -> Result<Group> {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_key(id)]);
        self.with_coordinator(id, |client, coordinator| {
            let answer = client.broker(coordinator)?.call(&request)?;
            let Some(found) = answer.groups.into_iter().next() else {
                return Err(Error::Corrupt {
                    subject: group_name(id),
                    reason: "left out of the answer".to_owned(),
                });
            };
            check_with(found.error_code, found.error_message.as_deref(), || {
                group_name(id)
            })?;
            Ok(group(found))
        })
    }

    /// Every offset the group has committed.
    pub(crate) fn committed(&mut self, id: &str) -> Result<Committed> {
        self.with_coordinator(id, |client, coordinator| {
            let connection = client.broker(coordinator)?;
            // Version 8 asks for several groups at once and moved the fields of question and answer.
            let request = match connection.version_for::<OffsetFetchRequest>(i16::MAX)? {
                ..8 => OffsetFetchRequest::default()
                    .with_group_id(group_key(id))
                    .with_topics(None),
                8.. => {
                    let asked = OffsetFetchRequestGroup::default()
                        .with_group_id(group_key(id))
                        .with_topics(None);
                    OffsetFetchRequest::default().with_groups(vec![asked])
                }
            };
            let answer = connection.call(&request.with_require_stable(true))?;
            check(answer.error_code, || group_name(id))?;
            let mut committed = Committed::new();
            for one in fetched(&answer) {
                check(one.code, || one.subject(id))?;
                if one.offset >= 0 {
                    committed.insert((one.topic.to_owned(), one.partition), one.offset);
                }
            }
            Ok(committed)
        })
    }

    /// Commits offsets on behalf of a group that has no members.
    pub(crate) fn commit(&mut self, id: &str, offsets: &Committed) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, index), offset) in offsets {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(*index)
                .with_committed_offset(*offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(text("")));
            topics.entry(topic).or_default().push(partition);
        }
        let topic = |(name, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_key(name))
                .with_partitions(partitions)
        };
        let request = OffsetCommitRequest::default()
            .with_group_id(group_key(id))
            .with_generation_id_or_member_epoch(-1)
            .with_retention_time_ms(-1)
            .with_topics(topics.into_iter().map(topic).collect());
        self.with_coordinator(id, |client, coordinator| {
            let answer = client.broker(coordinator)?.call(&request)?;
            let partitions = answer.topics.iter().flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|one| (&*topic.name, one.partition_index, one.error_code))
            });
            for (topic, partition, code) in partitions {
                check(code, || {
                    format!("{} at {}", group_name(id), partition_name(topic, partition))
                })?;
            }
            Ok(())
        })
    }

    pub(crate) fn delete_group(&mut self, id: &str) -> Result<()> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_key(id)]);
        self.with_coordinator(id, |client, coordinator| {
            for result in client.broker(coordinator)?.call(&request)?.results {
                check(result.error_code, || group_name(id))?;
            }
            Ok(())
        })
    }

    /// Asks the group's coordinator, and finds it anew while it moves or loads.
    fn with_coordinator<T>(
        &mut self,
        id: &str,
        mut ask: impl FnMut(&mut Self, i32) -> Result<T>,
    ) -> Result<T> {
        self.patiently(|client| {
            let coordinator = client.coordinator(id)?;
            ask(client, coordinator)
        })
    }

    fn coordinator(&mut self, id: &str) -> Result<i32> {
        // Version 4 asks for several at once and moved the fields of question and answer.
        let request = match self.any().version_for::<FindCoordinatorRequest>(i16::MAX)? {
            ..4 => FindCoordinatorRequest::default().with_key(text(id)),
            4.. => FindCoordinatorRequest::default().with_coordinator_keys(vec![text(id)]),
        };
        let answer = self.any().call(&request)?;
        let (broker, host, port) = match answer.coordinators.into_iter().next() {
            Some(found) => {
                check_with(found.error_code, found.error_message.as_deref(), || {
                    group_name(id)
                })?;
                (found.node_id.0, found.host, found.port)
            }
            None => {
                check_with(answer.error_code, answer.error_message.as_deref(), || {
                    group_name(id)
                })?;
                (answer.node_id.0, answer.host, answer.port)
            }
        };
        self.addresses
            .entry(broker)
            .or_insert_with(|| format!("{}:{port}", super::host(&host)));
        Ok(broker)
    }
}

/// What a group has committed in one partition, as the coordinator answers it.
struct FetchedOffset<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    code: i16,
}

impl FetchedOffset<'_> {
    fn subject(&self, group: &str) -> String {
        if self.topic.is_empty() {
            return group_name(group);
        }
        format!(
            "{} at {}",
            group_name(group),
            partition_name(self.topic, self.partition)
        )
    }
}

/// Both forms of the answer as one list. An error of a whole group stands in it without a topic.
fn fetched(answer: &OffsetFetchResponse) -> Vec<FetchedOffset<'_>> {
    let mut all = Vec::new();
    for topic in &answer.topics {
        all.extend(topic.partitions.iter().map(|one| FetchedOffset {
            topic: &topic.name,
            partition: one.partition_index,
            offset: one.committed_offset,
            code: one.error_code,
        }));
    }
    for group in &answer.groups {
        all.push(FetchedOffset {
            topic: "",
            partition: -1,
            offset: -1,
            code: group.error_code,
        });
        for topic in &group.topics {
            all.extend(topic.partitions.iter().map(|one| FetchedOffset {
                topic: &topic.name,
                partition: one.partition_index,
                offset: one.committed_offset,
                code: one.error_code,
            }));
        }
    }
    all
}

/// How messages name a group.
pub(crate) fn group_name(id: &str) -> String {
    format!("group '{id}'")
}

fn group_key(id: &str) -> GroupId {
    GroupId(text(id))
}

fn group(found: DescribedGroup) -> Group {
    Group {
        id: found.group_id.to_string(),
        state: found.group_state.to_string(),
        assignor: found.protocol_data.to_string(),
        members: found.members.into_iter().map(member).collect(),
    }
}

fn member(found: DescribedGroupMember) -> Member {
    Member {
        id: found.member_id.to_string(),
        client_id: found.client_id.to_string(),
        host: found.client_host.trim_start_matches('/').to_owned(),
        assigned: assigned(found.member_assignment).unwrap_or_default(),
    }
}

/// What a member was given. It is written by clients for clients: what cannot be read is shown as nothing, and no
/// length in it is believed beyond the bytes that are there.
fn assigned(mut bytes: Bytes) -> Option<BTreeSet<(String, i32)>> {
    let _version = bytes.try_get_i16().ok()?;
    let mut partitions = BTreeSet::new();
    for _ in 0..bytes.try_get_i32().ok()? {
        let length = usize::try_from(bytes.try_get_i16().ok()?)
            .ok()
            .filter(|length| *length <= bytes.len())?;
        let topic = String::from_utf8(bytes.split_to(length).to_vec()).ok()?;
        for _ in 0..bytes.try_get_i32().ok()? {
            partitions.insert((topic.clone(), bytes.try_get_i32().ok()?));
        }
    }
    Some(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_that_cannot_be_read_is_shown_as_nothing() {
        assert_eq!(assigned(Bytes::from_static(&[0])), None);
        assert_eq!(
            assigned(Bytes::from_static(&[0, 0, 0x7f, 0xff, 0xff, 0xff])),
            None
        );
    }

    #[test]
    fn an_assignment_names_topics_and_partitions() {
        let bytes = Bytes::from_static(&[
            0, 3, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0,
        ]);

        assert_eq!(
            assigned(bytes),
            Some(BTreeSet::from([("t".to_owned(), 0), ("t".to_owned(), 7)]))
        );
    }
}
