//! What objects are called. Nothing else in Varve puts names together or takes them apart.
//!
//! ```text
//! {h4}/{cluster}/{topic id}/{partition}/seg/{base:020}-{end:020}-{epoch:08x}-{attempt}.vsg
//! {h4}/{cluster}/{topic id}/{partition}/man/{epoch:08x}-{version:016x}-{attempt}.vmf
//! ```
//! `h4` spreads partitions over an object store's own shards. The attempt is a fresh UUID, so no name is ever used
//! twice, and the leader epoch in it lets anybody tell objects whose writer can no longer commit them.

use crate::TierPartition;
use uuid::Uuid;
use varve_cache::ObjectId;
use varve_log::{LeaderEpoch, Offset};

/// The names of one cluster's objects.
#[derive(Debug, Clone)]
pub struct Keys {
    cluster: String,
}

/// The name of a segment object, without the way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentName {
    pub base: Offset,
    pub end: Offset,
    pub epoch: LeaderEpoch,
    pub attempt: Uuid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ManifestName {
    pub epoch: LeaderEpoch,
    pub version: u64,
    pub attempt: Uuid,
}

/// What a listed name turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(SegmentName),
    Manifest(ManifestName),
    /// Not ours, or of a later version: never touched.
    Foreign,
}

impl Keys {
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
        }
    }

    /// Everything of the partition lies below it.
    pub fn partition(&self, partition: TierPartition) -> String {
        let topic = partition.topic.uuid();
        let mut hashed = [0; 20];
        hashed[..16].copy_from_slice(topic.as_bytes());
        hashed[16..].copy_from_slice(&partition.index.to_be_bytes());
        let h4 = crc_fast::crc32_iscsi(&hashed) & 0xffff;
        format!("{h4:04x}/{}/{topic}/{}", self.cluster, partition.index)
    }

    pub fn segment(&self, partition: TierPartition, name: SegmentName) -> String {
        let SegmentName {
            base,
            end,
            epoch,
            attempt,
        } = name;
        let (base, end, epoch) = (base.value(), end.value(), epoch.value());
        let way = self.partition(partition);
        format!(
            "{way}/seg/{base:020}-{end:020}-{epoch:08x}-{}.vsg",
            attempt.simple()
        )
    }

    pub fn manifest(&self, partition: TierPartition, name: ManifestName) -> String {
        let ManifestName {
            epoch,
            version,
            attempt,
        } = name;
        let way = self.partition(partition);
        format!(
            "{way}/man/{:08x}-{version:016x}-{}.vmf",
            epoch.value(),
            attempt.simple()
        )
    }
}

impl SegmentName {
    pub fn object(&self) -> ObjectId {
        ObjectId(self.attempt.as_u128())
    }
}

/// Reads the last part of a key.
pub(crate) fn parse(key: &str) -> Name {
    let last = key.rsplit('/').next().unwrap_or(key);
    segment(last)
        .map(Name::Segment)
        .or_else(|| manifest(last).map(Name::Manifest))
        .unwrap_or(Name::Foreign)
}

fn segment(name: &str) -> Option<SegmentName> {
    let mut parts = name.strip_suffix(".vsg")?.split('-');
    let base = Offset::new(parts.next()?.parse().ok()?);
    let end = Offset::new(parts.next()?.parse().ok()?);
    let epoch = LeaderEpoch::new(i32::from_str_radix(parts.next()?, 16).ok()?);
    let attempt = Uuid::try_parse(parts.next()?).ok()?;
    parts.next().is_none().then_some(SegmentName {
        base,
        end,
        epoch,
        attempt,
    })
}

fn manifest(name: &str) -> Option<ManifestName> {
    let mut parts = name.strip_suffix(".vmf")?.split('-');
    let epoch = LeaderEpoch::new(i32::from_str_radix(parts.next()?, 16).ok()?);
    let version = u64::from_str_radix(parts.next()?, 16).ok()?;
    let attempt = Uuid::try_parse(parts.next()?).ok()?;
    parts.next().is_none().then_some(ManifestName {
        epoch,
        version,
        attempt,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use varve_cluster::TopicId;

    fn partition() -> TierPartition {
        TierPartition {
            topic: TopicId::new(Uuid::from_u128(0xabc)),
            index: 3,
        }
    }

    #[test]
    fn names_are_read_back_as_they_were_written() {
        let keys = Keys::new("c1");
        let name = SegmentName {
            base: Offset::new(5),
            end: Offset::new(900),
            epoch: LeaderEpoch::new(17),
            attempt: Uuid::from_u128(9),
        };
        assert_eq!(parse(&keys.segment(partition(), name)), Name::Segment(name));
        let name = ManifestName {
            epoch: LeaderEpoch::new(17),
            version: 12,
            attempt: Uuid::from_u128(9),
        };
        assert_eq!(parse(&keys.manifest(partition(), name)), Name::Manifest(name));
        assert!(
            keys.manifest(partition(), name)
                .starts_with(&keys.partition(partition()))
        );
    }

    #[test]
    fn foreign_names_are_left_alone() {
        for key in [
            "",
            "a/b/c",
            "x.vsg",
            "1-2-3.vsg",
            "seg/1-2-zz-00.vsg",
            "man/1-1.vmf",
            "1-2-3-4-5.vsg",
        ] {
            assert_eq!(parse(key), Name::Foreign, "{key}");
        }
    }
}
