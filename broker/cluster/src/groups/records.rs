//! The records of `__consumer_offsets`, byte for byte as Kafka's own (group coordinator, 4.3): tools and
//! monitors read this topic.
//!
//! Written are `OffsetCommitKey` 1 with value 3 and `GroupMetadataKey` 2 with value 3, the versions every
//! reader in the field knows. Read are all versions up to 4. What other coordinators keep in the same
//! topic (consumer groups of KIP-848, share groups) is [`Key::Other`] and left alone.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Offset {
        group: String,
        topic: String,
        partition: i32,
    },
    Group {
        group: String,
    },
    /// A kind of record this coordinator does not keep.
    Other(i16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetValue {
    pub offset: i64,
    /// -1: the consumer did not say.
    pub leader_epoch: i32,
    pub metadata: String,
    pub commit_timestamp: i64,
    /// -1: by the group's retention.
    pub expire_timestamp: i64,
    /// Nil: not known (before version 4).
    pub topic_id: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub state_timestamp: i64,
    pub members: Vec<MemberValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A record that does not read as what its key says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record of __consumer_offsets: {0}")]
pub struct Malformed(pub &'static str);

/// A text or list is longer than the format can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("longer than a record of __consumer_offsets can hold: {0}")]
pub struct TooLong(pub &'static str);

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const VALUE_VERSION: i16 = 3;
const VALUE_VERSION_MAX: i16 = 4;

impl Key {
    /// # Errors
    /// When a name is longer than 32767 bytes.
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let mut to = BytesMut::new();
        match self {
            Self::Offset {
                group,
                topic,
                partition,
            } => {
                to.put_i16(OFFSET_KEY);
                put_text(&mut to, group)?;
                put_text(&mut to, topic)?;
                to.put_i32(*partition);
            }
            Self::Group { group } => {
                to.put_i16(GROUP_KEY);
                put_text(&mut to, group)?;
            }
            Self::Other(kind) => to.put_i16(*kind),
        }
        Ok(to.freeze())
    }

    /// # Errors
    /// When the bytes end early.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = bytes;
        match get_i16(&mut from)? {
            // 0 is the same key as written before Kafka 0.9.
            0 | OFFSET_KEY => Ok(Self::Offset {
                group: get_text(&mut from)?,
                topic: get_text(&mut from)?,
                partition: get_i32(&mut from)?,
            }),
            GROUP_KEY => Ok(Self::Group {
                group: get_text(&mut from)?,
            }),
            other => Ok(Self::Other(other)),
        }
    }
}

impl OffsetValue {
    /// # Errors
    /// When the metadata is longer than 32767 bytes.
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let mut to = BytesMut::new();
        // Version 3 cannot carry an expiry of its own; version 1 is the one that can, and Kafka writes
        // it for the same reason.
        let version = if self.expire_timestamp >= 0 {
            1
        } else {
            VALUE_VERSION
        };
        to.put_i16(version);
        to.put_i64(self.offset);
        if version >= 3 {
            to.put_i32(self.leader_epoch);
        }
        put_text(&mut to, &self.metadata)?;
        to.put_i64(self.commit_timestamp);
        if version == 1 {
            to.put_i64(self.expire_timestamp);
        }
        Ok(to.freeze())
    }

    /// # Errors
    /// When the bytes end early or the version is unknown.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = bytes;
        let version = get_version(&mut from)?;
        let offset = get_i64(&mut from)?;
        let leader_epoch = if version >= 3 { get_i32(&mut from)? } else { -1 };
        let metadata = if version >= 4 {
            get_compact_text(&mut from)?.unwrap_or_default()
        } else {
            get_text(&mut from)?
        };
        let commit_timestamp = get_i64(&mut from)?;
        let expire_timestamp = if version == 1 { get_i64(&mut from)? } else { -1 };
        let mut topic_id = Uuid::nil();
        if version >= 4 {
            each_tag(&mut from, |tag, value| {
                if let (0, Ok(id)) = (tag, Uuid::from_slice(value)) {
                    topic_id = id;
                }
            })?;
        }
        Ok(Self {
            offset,
            leader_epoch,
            metadata,
            commit_timestamp,
            expire_timestamp,
            topic_id,
        })
    }
}

impl GroupValue {
    /// # Errors
    /// When a text is longer than 32767 bytes.
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let mut to = BytesMut::new();
        to.put_i16(VALUE_VERSION);
        put_text(&mut to, &self.protocol_type)?;
        to.put_i32(self.generation);
        put_nullable_text(&mut to, self.protocol.as_deref())?;
        put_nullable_text(&mut to, self.leader.as_deref())?;
        to.put_i64(self.state_timestamp);
        to.put_i32(i32::try_from(self.members.len()).map_err(|_cause| TooLong("members"))?);
        for member in &self.members {
            put_text(&mut to, &member.id)?;
            put_nullable_text(&mut to, member.instance_id.as_deref())?;
            put_text(&mut to, &member.client_id)?;
            put_text(&mut to, &member.client_host)?;
            to.put_i32(member.rebalance_timeout_ms);
            to.put_i32(member.session_timeout_ms);
            put_blob(&mut to, &member.subscription)?;
            put_blob(&mut to, &member.assignment)?;
        }
        Ok(to.freeze())
    }

    /// # Errors
    /// When the bytes end early or the version is unknown.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = bytes;
        let version = get_version(&mut from)?;
        let texts = Texts {
            compact: version >= 4,
        };
        let protocol_type = texts.required(&mut from)?;
        let generation = get_i32(&mut from)?;
        let protocol = texts.nullable(&mut from)?;
        let leader = texts.nullable(&mut from)?;
        let state_timestamp = if version >= 2 { get_i64(&mut from)? } else { -1 };
        let count = texts.count(&mut from)?;
        // A member is never smaller than this: a count that lies cannot make us allocate.
        if count > from.len() / 8 {
            return Err(Malformed("more members than bytes"));
        }
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            members.push(member(&mut from, version, texts)?);
        }
        if texts.compact {
            each_tag(&mut from, |_, _| ())?;
        }
        Ok(Self {
            protocol_type,
            generation,
            protocol,
            leader,
            state_timestamp,
            members,
        })
    }
}

fn member(from: &mut &[u8], version: i16, texts: Texts) -> Result<MemberValue, Malformed> {
    let id = texts.required(from)?;
    let instance_id = if version >= 3 { texts.nullable(from)? } else { None };
    let client_id = texts.required(from)?;
    let client_host = texts.required(from)?;
    let rebalance = if version >= 1 { Some(get_i32(from)?) } else { None };
    let session_timeout_ms = get_i32(from)?;
    let value = MemberValue {
        id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms: rebalance.unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription: texts.blob(from)?,
        assignment: texts.blob(from)?,
    };
    if texts.compact {
        each_tag(from, |_, _| ())?;
    }
    Ok(value)
}

/// How texts, lists and blobs are framed: compactly from version 4 on.
#[derive(Clone, Copy)]
struct Texts {
    compact: bool,
}

impl Texts {
    fn nullable(self, from: &mut &[u8]) -> Result<Option<String>, Malformed> {
        if self.compact {
            return get_compact_text(from);
        }
        match get_i16(from)? {
            -1 => Ok(None),
            length => text(take(
                from,
                usize::try_from(length).map_err(|_cause| Malformed("length"))?,
            )?)
            .map(Some),
        }
    }

    fn required(self, from: &mut &[u8]) -> Result<String, Malformed> {
        self.nullable(from)?.ok_or(Malformed("a text is missing"))
    }

    fn count(self, from: &mut &[u8]) -> Result<usize, Malformed> {
        if self.compact {
            return get_varint(from)?
                .checked_sub(1)
                .ok_or(Malformed("a list is missing"));
        }
        usize::try_from(get_i32(from)?).map_err(|_cause| Malformed("count"))
    }

    fn blob(self, from: &mut &[u8]) -> Result<Bytes, Malformed> {
        let length = self.count(from)?;
        Ok(Bytes::copy_from_slice(take(from, length)?))
    }
}

fn put_text(to: &mut BytesMut, value: &str) -> Result<(), TooLong> {
    to.put_i16(i16::try_from(value.len()).map_err(|_cause| TooLong("text"))?);
    to.put_slice(value.as_bytes());
    Ok(())
}

fn put_nullable_text(to: &mut BytesMut, value: Option<&str>) -> Result<(), TooLong> {
    match value {
        Some(value) => put_text(to, value),
        None => {
            to.put_i16(-1);
            Ok(())
        }
    }
}

fn put_blob(to: &mut BytesMut, value: &[u8]) -> Result<(), TooLong> {
    to.put_i32(i32::try_from(value.len()).map_err(|_cause| TooLong("bytes"))?);
    to.put_slice(value);
    Ok(())
}

fn get_version(from: &mut &[u8]) -> Result<i16, Malformed> {
    match get_i16(from)? {
        version @ 0..=VALUE_VERSION_MAX => Ok(version),
        _ => Err(Malformed("unknown version")),
    }
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, rest) = from.split_at_checked(length).ok_or(Malformed("ends early"))?;
    *from = rest;
    Ok(taken)
}

fn get_i16(from: &mut &[u8]) -> Result<i16, Malformed> {
    take(from, 2).map(|mut bytes| bytes.get_i16())
}

fn get_i32(from: &mut &[u8]) -> Result<i32, Malformed> {
    take(from, 4).map(|mut bytes| bytes.get_i32())
}

fn get_i64(from: &mut &[u8]) -> Result<i64, Malformed> {
    take(from, 8).map(|mut bytes| bytes.get_i64())
}

fn get_text(from: &mut &[u8]) -> Result<String, Malformed> {
    Texts { compact: false }.required(from)
}

fn get_compact_text(from: &mut &[u8]) -> Result<Option<String>, Malformed> {
    match get_varint(from)? {
        0 => Ok(None),
        length => text(take(from, length - 1)?).map(Some),
    }
}

fn get_varint(from: &mut &[u8]) -> Result<usize, Malformed> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = take(from, 1)?[0];
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_cause| Malformed("length"));
        }
    }
    Err(Malformed("length"))
}

fn each_tag(from: &mut &[u8], mut each: impl FnMut(usize, &[u8])) -> Result<(), Malformed> {
    for _ in 0..get_varint(from)? {
        let tag = get_varint(from)?;
        let length = get_varint(from)?;
        each(tag, take(from, length)?);
    }
    Ok(())
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_cause| Malformed("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_offset_commit_is_kafkas_bytes() {
        let key = Key::Offset {
            group: "g".into(),
            topic: "to".into(),
            partition: 7,
        };
        let value = OffsetValue {
            offset: 5,
            leader_epoch: 2,
            metadata: "m".into(),
            commit_timestamp: 9,
            expire_timestamp: -1,
            topic_id: Uuid::nil(),
        };
        assert_eq!(
            key.encode().unwrap()[..],
            [0, 1, 0, 1, b'g', 0, 2, b't', b'o', 0, 0, 0, 7]
        );
        assert_eq!(
            value.encode().unwrap()[..],
            [
                0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 9
            ]
        );
    }

    #[test]
    fn an_empty_groups_metadata_is_kafkas_bytes() {
        let value = GroupValue {
            protocol_type: "c".into(),
            generation: 3,
            protocol: None,
            leader: None,
            state_timestamp: 1,
            members: vec![],
        };
        assert_eq!(
            value.encode().unwrap()[..],
            [
                0, 3, 0, 1, b'c', 0, 0, 0, 3, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0
            ]
        );
    }

    #[test]
    fn older_and_newer_offset_values_are_read() {
        let v1 = [
            0, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 8,
        ];
        let read = OffsetValue::decode(&v1).unwrap();
        assert_eq!(
            (
                read.offset,
                read.leader_epoch,
                read.commit_timestamp,
                read.expire_timestamp
            ),
            (5, -1, 9, 8)
        );

        let mut v4 = vec![
            0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 2, 2, b'm', 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 16,
        ];
        v4.extend([7; 16]);
        let read = OffsetValue::decode(&v4).unwrap();
        assert_eq!(
            (read.metadata.as_str(), read.topic_id),
            ("m", Uuid::from_bytes([7; 16]))
        );
    }

    fn any_member() -> impl Strategy<Value = MemberValue> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        (
            "[a-z]{1,8}",
            prop::option::of("[a-z]{1,8}"),
            "[a-z]{0,8}",
            "[a-z]{0,8}",
            any::<(i32, i32)>(),
            bytes(),
            bytes(),
        )
            .prop_map(
                |(
                    id,
                    instance_id,
                    client_id,
                    client_host,
                    (rebalance, session),
                    subscription,
                    assignment,
                )| {
                    MemberValue {
                        id,
                        instance_id,
                        client_id,
                        client_host,
                        rebalance_timeout_ms: rebalance,
                        session_timeout_ms: session,
                        subscription,
                        assignment,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn group_metadata_reads_as_written(
            protocol in prop::option::of("[a-z]{1,8}"), leader in prop::option::of("[a-z]{1,8}"),
            generation in any::<i32>(), state_timestamp in any::<i64>(), members in prop::collection::vec(any_member(), 0..5),
        ) {
            let value = GroupValue { protocol_type: "consumer".into(), generation, protocol, leader, state_timestamp, members };
            prop_assert_eq!(GroupValue::decode(&value.encode().unwrap()), Ok(value));
        }

        #[test]
        fn whatever_the_bytes_are_reading_them_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Key::decode(&bytes);
            let _ = OffsetValue::decode(&bytes);
            let _ = GroupValue::decode(&bytes);
            let mut v4 = vec![0, 4];
            v4.extend(&bytes);
            let _ = GroupValue::decode(&v4);
        }
    }
}
