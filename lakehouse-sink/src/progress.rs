//! How far a table has come: the next offset of each partition, kept in the table itself.

use iceberg::spec::TableMetadata;
use std::collections::BTreeMap;
use uuid::Uuid;
use varve_cluster::TopicId;
use varve_log::Offset;

pub(crate) const OFFSETS: &str = "varve.offsets";
pub(crate) const EPOCH: &str = "varve.epoch";
pub(crate) const TOPIC_ID: &str = "varve.topic-id";
pub(crate) const JSON_FIELDS: &str = "varve.json-fields";

/// The next offset that each partition's rows go on from. A partition that is not named has no rows yet.
pub type Progress = BTreeMap<i32, Offset>;

/// A table whose own words about its progress cannot be trusted. Nothing may be added to it before a person has looked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error("the table's {0} cannot be read")]
    Unreadable(&'static str),
    #[error("the table belongs to another topic. topic-id={found}, expected={expected}")]
    OtherTopic { found: TopicId, expected: TopicId },
    #[error(
        "the table was rolled back or rewritten: its properties and its snapshots name different offsets"
    )]
    RolledBack,
    #[error("the table lost one of its fixed columns")]
    FixedColumns,
}

pub(crate) fn encode(progress: &Progress) -> String {
    let numbers: BTreeMap<i32, i64> = progress.iter().map(|(p, offset)| (*p, offset.value())).collect();
    serde_json::to_string(&numbers).expect("numbers by number are JSON")
}

fn decode(text: &str) -> Result<Progress, Distrust> {
    let numbers: BTreeMap<i32, i64> =
        serde_json::from_str(text).map_err(|_cause| Distrust::Unreadable(OFFSETS))?;
    Ok(numbers
        .into_iter()
        .map(|(partition, offset)| (partition, Offset::new(offset)))
        .collect())
}

/// Reads the progress of a table and checks it twice: the property survives the expiry of snapshots, the newest
/// snapshot of ours shows when someone has rolled the table back below it.
pub(crate) fn of_table(metadata: &TableMetadata, topic_id: TopicId) -> Result<Progress, Distrust> {
    let property = |name| metadata.properties().get(name).map(String::as_str);
    let found = property(TOPIC_ID)
        .and_then(|id| Uuid::parse_str(id).ok())
        .map(TopicId::new);
    match found {
        Some(found) if found == topic_id => (),
        Some(found) => {
            return Err(Distrust::OtherTopic {
                found,
                expected: topic_id,
            });
        }
        None => return Err(Distrust::Unreadable(TOPIC_ID)),
    }
    let progress = property(OFFSETS).map_or(Err(Distrust::Unreadable(OFFSETS)), decode)?;
    let mut snapshot = metadata.current_snapshot();
    if snapshot.is_none() && !progress.is_empty() {
        return Err(Distrust::RolledBack);
    }
    while let Some(current) = snapshot {
        if let Some(theirs) = current.summary().additional_properties.get(OFFSETS) {
            return if decode(theirs)? == progress {
                Ok(progress)
            } else {
                Err(Distrust::RolledBack)
            };
        }
        snapshot = current
            .parent_snapshot_id()
            .and_then(|id| metadata.snapshot_by_id(id));
    }
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_json_numbers_by_partition() {
        let progress = Progress::from([(0, Offset::new(10)), (12, Offset::new(i64::MAX))]);

        let text = encode(&progress);

        assert_eq!(text, r#"{"0":10,"12":9223372036854775807}"#);
        assert_eq!(decode(&text), Ok(progress));
        assert_eq!(decode("{\"a\":1}"), Err(Distrust::Unreadable(OFFSETS)));
    }
}
