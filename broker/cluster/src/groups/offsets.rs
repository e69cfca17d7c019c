//! What one group has committed, and when it may be forgotten (KIP-211).

use std::collections::BTreeMap;

use uuid::Uuid;

use super::records::OffsetValue;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    /// -1: the consumer did not say.
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp: i64,
    /// Set by clients old enough to ask for a retention of their own (OffsetCommit 2 to 4).
    pub expire_timestamp: Option<i64>,
    pub topic_id: Option<Uuid>,
    /// Where in `__consumer_offsets` it stands. Of two commits the later in the log is the valid one,
    /// in whatever order their answers come back.
    pub log_offset: i64,
}

impl Committed {
    #[must_use]
    pub fn of_record(value: OffsetValue, log_offset: i64) -> Self {
        Self {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata,
            commit_timestamp: value.commit_timestamp,
            expire_timestamp: (value.expire_timestamp >= 0).then_some(value.expire_timestamp),
            topic_id: (!value.topic_id.is_nil()).then_some(value.topic_id),
            log_offset,
        }
    }

    #[must_use]
    pub fn to_record(&self) -> OffsetValue {
        OffsetValue {
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: self.metadata.clone(),
            commit_timestamp: self.commit_timestamp,
            expire_timestamp: self.expire_timestamp.unwrap_or(-1),
            topic_id: self.topic_id.unwrap_or_default(),
        }
    }
}

/// From when on a group's offsets age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aging<'a> {
    /// Members may still need all of them.
    No,
    /// The group has no members since then.
    Since(i64),
    /// It never had members: each counts from its own commit.
    EachFromCommit,
    /// It has members, and they read only these topics: the others count from their commit.
    OtherTopics(Vec<&'a str>),
}

/// All that one group has committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    topics: BTreeMap<String, BTreeMap<i32, Committed>>,
}

impl Offsets {
    /// Takes a commit in, unless a later one is there already.
    pub fn commit(&mut self, topic: &str, partition: i32, committed: Committed) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.to_owned(), BTreeMap::new());
        }
        let Some(partitions) = self.topics.get_mut(topic) else {
            return;
        };
        let known = partitions.get(&partition);
        if known.is_none_or(|known| known.log_offset <= committed.log_offset) {
            partitions.insert(partition, committed);
        }
    }

    /// Forgets a commit that stands before `log_offset` (where its tombstone stands).
    pub fn forget(&mut self, topic: &str, partition: i32, log_offset: i64) {
        let Some(partitions) = self.topics.get_mut(topic) else {
            return;
        };
        if partitions
            .get(&partition)
            .is_some_and(|known| known.log_offset <= log_offset)
        {
            partitions.remove(&partition);
        }
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
    }

    #[must_use]
    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, i32, &Committed)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions
                .iter()
                .map(move |(partition, committed)| (topic.as_str(), *partition, committed))
        })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.values().map(BTreeMap::len).sum()
    }

    /// What may be forgotten at `now`, `offsets.retention.minutes` after it began to age.
    #[must_use]
    pub fn expired(&self, now: i64, retention_ms: i64, aging: &Aging<'_>) -> Vec<(String, i32)> {
        let over = |topic: &str, committed: &Committed| {
            let since = match aging {
                Aging::No => return false,
                Aging::Since(since) => *since,
                Aging::EachFromCommit => committed.commit_timestamp,
                Aging::OtherTopics(read) if read.contains(&topic) => return false,
                Aging::OtherTopics(_) => committed.commit_timestamp,
            };
            match committed.expire_timestamp {
                Some(expires) => now >= expires,
                None => now.saturating_sub(since) >= retention_ms,
            }
        };
        let expired = self.iter().filter(|(topic, _, committed)| over(topic, committed));
        expired
            .map(|(topic, partition, _)| (topic.to_owned(), partition))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: i64, at: i64, log_offset: i64) -> Committed {
        Committed {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_timestamp: at,
            expire_timestamp: None,
            topic_id: None,
            log_offset,
        }
    }

    #[test]
    fn the_later_commit_in_the_log_is_valid_whichever_answer_comes_first() {
        let mut offsets = Offsets::default();
        offsets.commit("t", 0, committed(20, 0, 2));
        offsets.commit("t", 0, committed(10, 0, 1));
        assert_eq!(offsets.get("t", 0).unwrap().offset, 20);

        offsets.forget("t", 0, 1);
        assert_eq!(offsets.len(), 1, "a tombstone does not reach past itself");
        offsets.forget("t", 0, 3);
        assert!(offsets.is_empty());
    }

    #[test]
    fn offsets_age_from_when_the_group_became_empty() {
        let mut offsets = Offsets::default();
        offsets.commit("t", 0, committed(1, 100, 1));
        assert!(offsets.expired(10_000, 50, &Aging::No).is_empty());
        assert!(offsets.expired(1_049, 50, &Aging::Since(1_000)).is_empty());
        assert_eq!(
            offsets.expired(1_050, 50, &Aging::Since(1_000)),
            [("t".to_owned(), 0)]
        );
    }

    #[test]
    fn a_group_that_never_had_members_counts_from_each_commit() {
        let mut offsets = Offsets::default();
        offsets.commit("a", 0, committed(1, 100, 1));
        offsets.commit("b", 0, committed(1, 200, 2));
        assert_eq!(
            offsets.expired(160, 50, &Aging::EachFromCommit),
            [("a".to_owned(), 0)]
        );
    }

    #[test]
    fn topics_nobody_reads_any_more_are_forgotten_while_the_group_lives() {
        let mut offsets = Offsets::default();
        offsets.commit("a", 0, committed(1, 100, 1));
        offsets.commit("b", 0, committed(1, 100, 2));
        assert_eq!(
            offsets.expired(160, 50, &Aging::OtherTopics(vec!["b"])),
            [("a".to_owned(), 0)]
        );
    }

    #[test]
    fn a_commit_with_its_own_expiry_goes_by_that() {
        let mut offsets = Offsets::default();
        offsets.commit(
            "a",
            0,
            Committed {
                expire_timestamp: Some(500),
                ..committed(1, 100, 1)
            },
        );
        assert!(offsets.expired(499, 50, &Aging::Since(0)).is_empty());
        assert_eq!(offsets.expired(500, 50, &Aging::Since(0)).len(), 1);
    }
}
