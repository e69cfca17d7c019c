//! All groups of one `__consumer_offsets` partition: a fold over its records.
//!
//! [`Loading`] reads the partition from its start; [`Shard`] is what it has become. Nothing is answered from
//! a shard that has not been loaded to the end: "no offset committed" would send consumers back to the
//! beginning, or to the end, of their topics.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::GroupError;
use super::classic::{Effect, Group, Settings};
use super::offsets::{Committed, Offsets};
use super::records::{GroupValue, Key, Malformed, OffsetValue, TooLong};

/// A record to append. No value: a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl Change {
    /// # Errors
    /// When a name is too long for the format.
    pub fn offset(group: &str, topic: &str, partition: i32, value: &OffsetValue) -> Result<Self, TooLong> {
        let key = Key::Offset {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partition,
        };
        Ok(Self {
            key: key.encode()?,
            value: Some(value.encode()?),
        })
    }

    /// # Errors
    /// When a name is too long for the format.
    pub fn group(group: &str, value: &GroupValue) -> Result<Self, TooLong> {
        Ok(Self {
            key: Key::Group {
                group: group.to_owned(),
            }
            .encode()?,
            value: Some(value.encode()?),
        })
    }

    /// # Errors
    /// When a name is too long for the format.
    pub fn tombstone(key: &Key) -> Result<Self, TooLong> {
        Ok(Self {
            key: key.encode()?,
            value: None,
        })
    }
}

/// A shard that is still being read from its log.
#[derive(Debug, Default)]
pub struct Loading {
    groups: BTreeMap<String, GroupValue>,
    offsets: BTreeMap<String, Offsets>,
    /// Records of coordinators this broker does not have: kept as they are when the log is rewritten.
    others: BTreeMap<Bytes, Bytes>,
}

impl Loading {
    /// The next record of the log.
    ///
    /// # Errors
    /// When it does not read as its key says. The caller decides whether to go on without it.
    pub fn replay(&mut self, log_offset: i64, key: &Bytes, value: Option<&Bytes>) -> Result<(), Malformed> {
        match (Key::decode(key)?, value) {
            (
                Key::Offset {
                    group,
                    topic,
                    partition,
                },
                Some(value),
            ) => {
                let committed = Committed::of_record(OffsetValue::decode(value)?, log_offset);
                self.offsets
                    .entry(group)
                    .or_default()
                    .commit(&topic, partition, committed);
            }
            (
                Key::Offset {
                    group,
                    topic,
                    partition,
                },
                None,
            ) => {
                if let Some(offsets) = self.offsets.get_mut(&group) {
                    offsets.forget(&topic, partition, log_offset);
                }
            }
            (Key::Group { group }, Some(value)) => {
                self.groups.insert(group, GroupValue::decode(value)?);
            }
            (Key::Group { group }, None) => {
                self.groups.remove(&group);
            }
            (Key::Other(_), Some(value)) => {
                self.others.insert(key.clone(), value.clone());
            }
            (Key::Other(_), None) => {
                self.others.remove(key);
            }
        }
        Ok(())
    }

    /// The log has been read to its end: members' sessions begin.
    #[must_use]
    pub fn finish(self, settings: Settings, now: i64) -> Shard {
        let restored = self.groups.into_iter().map(|(id, value)| {
            let group = Group::restore(id.clone(), value, settings, now);
            (id, group)
        });
        let mut groups: BTreeMap<String, Group> = restored.collect();
        let offsets: BTreeMap<String, Offsets> = self
            .offsets
            .into_iter()
            .filter(|(_, offsets)| !offsets.is_empty())
            .collect();
        // Whoever commits without joining has a group too, one without members.
        for id in offsets.keys() {
            groups
                .entry(id.clone())
                .or_insert_with(|| Group::new(id.clone(), settings, now));
        }
        Shard {
            settings,
            groups,
            offsets,
            others: self.others,
        }
    }
}

/// See the module's first lines.
#[derive(Debug)]
pub struct Shard {
    settings: Settings,
    groups: BTreeMap<String, Group>,
    offsets: BTreeMap<String, Offsets>,
    others: BTreeMap<Bytes, Bytes>,
}

impl Shard {
    #[must_use]
    pub fn group(&self, id: &str) -> Option<&Group> {
        self.groups.get(id)
    }

    /// The group as others may see it. One that was only ever looked at is none.
    #[must_use]
    pub fn visible(&self, id: &str) -> Option<&Group> {
        self.groups.get(id).filter(|group| !self.is_trace(group))
    }

    /// All groups that others may see.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| !self.is_trace(group))
    }

    pub fn group_mut(&mut self, id: &str) -> Option<&mut Group> {
        self.groups.get_mut(id)
    }

    pub fn group_or_new(&mut self, id: &str, now: i64) -> &mut Group {
        let settings = self.settings;
        self.groups
            .entry(id.to_owned())
            .or_insert_with(|| Group::new(id, settings, now))
    }

    /// What a group has committed.
    #[must_use]
    pub fn offsets(&self, group: &str) -> Option<&Offsets> {
        self.offsets.get(group)
    }

    /// Everything committed: group, topic, partition, offset. For lag.
    pub fn committed(&self) -> impl Iterator<Item = (&str, &str, i32, &Committed)> {
        self.offsets.iter().flat_map(|(group, offsets)| {
            offsets
                .iter()
                .map(move |(topic, partition, committed)| (group.as_str(), topic, partition, committed))
        })
    }

    /// A commit has become durable.
    pub fn committed_offset(&mut self, group: &str, topic: &str, partition: i32, committed: Committed) {
        if !self.offsets.contains_key(group) {
            self.offsets.insert(group.to_owned(), Offsets::default());
        }
        if let Some(offsets) = self.offsets.get_mut(group) {
            offsets.commit(topic, partition, committed);
        }
    }

    /// A tombstone of an offset has been appended.
    pub fn forget_offset(&mut self, group: &str, topic: &str, partition: i32, log_offset: i64) {
        let Some(offsets) = self.offsets.get_mut(group) else {
            return;
        };
        offsets.forget(topic, partition, log_offset);
        if offsets.is_empty() {
            self.offsets.remove(group);
        }
    }

    /// Deletes a group and what it committed; returns the keys to write tombstones for.
    ///
    /// # Errors
    /// While it has members; or when there is no such group.
    pub fn delete_group(&mut self, id: &str) -> Result<Vec<Key>, GroupError> {
        let group = self.groups.get_mut(id).ok_or(GroupError::UnknownMember)?;
        group.delete()?;
        let had_record = group.recorded().is_some();
        self.groups.remove(id);
        let mut keys = self.offset_keys(id);
        self.offsets.remove(id);
        if had_record {
            keys.push(Key::Group { group: id.to_owned() });
        }
        Ok(keys)
    }

    /// Keys of everything committed for a topic that is no more.
    #[must_use]
    pub fn offsets_of_topic(&self, topic: &str) -> Vec<Key> {
        let of_topic = self.committed().filter(|(_, name, _, _)| *name == topic);
        of_topic
            .map(|(group, topic, partition, _)| offset_key(group, topic, partition))
            .collect()
    }

    /// Keys of what may be forgotten at `now` (KIP-211): offsets that have aged, and groups that are left
    /// with nothing.
    #[must_use]
    pub fn expired(&self, now: i64, retention_ms: i64) -> Vec<Key> {
        let mut keys = Vec::new();
        for (id, group) in &self.groups {
            let offsets = self.offsets.get(id);
            let expired = offsets
                .map(|o| o.expired(now, retention_ms, &group.aging()))
                .unwrap_or_default();
            let nothing_left = expired.len() == offsets.map_or(0, Offsets::len);
            keys.extend(
                expired
                    .iter()
                    .map(|(topic, partition)| offset_key(id, topic, *partition)),
            );
            if nothing_left && group.is_idle() && group.recorded().is_some() {
                keys.push(Key::Group { group: id.clone() });
            }
        }
        keys
    }

    /// The tombstone of a key from [`Shard::expired`] or [`Shard::offsets_of_topic`] has been appended.
    pub fn forget(&mut self, key: &Key, log_offset: i64) {
        match key {
            Key::Offset {
                group,
                topic,
                partition,
            } => self.forget_offset(group, topic, *partition, log_offset),
            Key::Group { group } => {
                let idle = self.groups.get(group).is_some_and(Group::is_idle);
                if idle && !self.offsets.contains_key(group) {
                    self.groups.remove(group);
                }
            }
            Key::Other(_) => {}
        }
    }

    /// Forgets groups that were only ever looked at.
    pub fn drop_traces(&mut self) {
        let offsets = &self.offsets;
        self.groups
            .retain(|id, group| !group.is_idle() || group.recorded().is_some() || offsets.contains_key(id));
    }

    /// No members, no record, nothing committed.
    fn is_trace(&self, group: &Group) -> bool {
        group.is_idle() && group.recorded().is_none() && !self.offsets.contains_key(group.id())
    }

    /// All that must be in the log for the shard to load as it would from the log it has.
    ///
    /// # Errors
    /// Never for what came out of a log.
    pub fn live_records(&self) -> Result<Vec<Change>, TooLong> {
        let recorded = self
            .groups
            .iter()
            .filter_map(|(id, group)| Some((id, group.recorded()?)));
        let groups = recorded.map(|(id, value)| Change::group(id, value));
        let offsets = self.committed().map(|(group, topic, partition, committed)| {
            Change::offset(group, topic, partition, &committed.to_record())
        });
        let others = self.others.iter().map(|(key, value)| {
            Ok(Change {
                key: key.clone(),
                value: Some(value.clone()),
            })
        });
        groups.chain(offsets).chain(others).collect()
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.groups.values().filter_map(Group::next_deadline).min()
    }

    /// What time has brought, group by group.
    pub fn tick(&mut self, now: i64) -> Vec<(String, Vec<Effect>)> {
        let mut all = Vec::new();
        for (id, group) in &mut self.groups {
            if group.next_deadline().is_some_and(|deadline| deadline <= now) {
                let mut effects = Vec::new();
                group.tick(now, &mut effects);
                all.push((id.clone(), effects));
            }
        }
        all
    }

    /// This broker coordinates these groups no longer.
    pub fn resign(&mut self, error: GroupError) -> Vec<Effect> {
        let mut effects = Vec::new();
        for group in self.groups.values_mut() {
            group.resign(error, &mut effects);
        }
        effects
    }

    fn offset_keys(&self, group: &str) -> Vec<Key> {
        let offsets = self.offsets.get(group).into_iter().flat_map(Offsets::iter);
        offsets
            .map(|(topic, partition, _)| offset_key(group, topic, partition))
            .collect()
    }
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Key {
    Key::Offset {
        group: group.to_owned(),
        topic: topic.to_owned(),
        partition,
    }
}
