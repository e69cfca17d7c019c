//! DescribeLogDirs: what lies on local disk, by directory and partition. The bucket is not counted (KIP-405).

use super::Caller;
use crate::broker::Broker;
use crate::partition::Partition;
use crate::wire::ErrorCode;
use crate::wire::describe_log_dirs::response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use crate::wire::describe_log_dirs::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let wanted = |partition: &Partition| match &request.topics {
        None => true,
        Some(topics) => topics.iter().any(|topic| {
            topic.topic.as_str() == partition.id.topic.as_str()
                && topic.partitions.contains(&partition.id.index)
        }),
    };
    let mut partitions = broker.partitions.all();
    partitions.retain(|partition| wanted(partition));
    partitions.sort_by(|a, b| a.id.cmp(&b.id));
    let results = broker
        .config
        .log_dirs
        .iter()
        .map(|dir| describe(dir, &partitions))
        .collect();
    DescribeLogDirsResponse {
        results,
        ..Default::default()
    }
}

fn describe(dir: &Path, partitions: &[Arc<Partition>]) -> DescribeLogDirsResult {
    let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in partitions {
        let Some(size) = partition.with_log(|log| log.dir().starts_with(dir).then(|| log.bytes())) else {
            continue;
        };
        topics
            .entry(partition.id.topic.as_str())
            .or_default()
            .push(DescribeLogDirsPartition {
                partition_index: partition.id.index,
                partition_size: i64::try_from(size).unwrap_or(i64::MAX),
                ..Default::default()
            });
    }
    let (total, usable) = space(dir);
    DescribeLogDirsResult {
        error_code: ErrorCode::None.code(),
        log_dir: StrBytes::from_string(dir.display().to_string()),
        topics: topics
            .into_iter()
            .map(|(name, partitions)| DescribeLogDirsTopic {
                name: StrBytes::from_string(name.to_owned()),
                partitions,
            })
            .collect(),
        total_bytes: total,
        usable_bytes: usable,
        ..Default::default()
    }
}

/// Size of the file system and what of it is free to us, bytes; -1 where it cannot be told.
fn space(dir: &Path) -> (i64, i64) {
    let Ok(stat) = rustix::fs::statvfs(dir) else {
        return (-1, -1);
    };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    (bytes(stat.f_blocks), bytes(stat.f_bavail))
}
