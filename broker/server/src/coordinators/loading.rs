//! Reading a partition of `__consumer_offsets` back, from its start to where it ended when leadership came.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use varve_cluster::groups::shard::Loading;
use varve_cluster::groups::{Settings, Shard};
use varve_log::{Batch, Offset, records, split};

use crate::partition::{Partition, Read};

/// A new leader's last records are committed as soon as its followers have them.
const COMMIT_WAIT: Duration = Duration::from_secs(60);
/// Read at a time.
const READ_BYTES: usize = 1 << 20;
/// No record of this topic comes near it.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// Blocks until all of it is read.
pub(super) fn load(
    partition: &Arc<Partition>,
    settings: Settings,
    now: i64,
    runtime: &Handle,
) -> anyhow::Result<Shard> {
    let offsets = partition.offsets();
    let end = offsets.log_end;
    let mut loading = Loading::default();
    let mut at = offsets.log_start;
    while at < end {
        at = match partition.plan_read(at, READ_BYTES, true).read {
            Read::Local(plan) => {
                let slice = plan.run().context("a segment cannot be read")?;
                let bytes = slice.read().context("a segment cannot be read")?;
                replay(partition, &bytes, at, &mut loading)?.max(slice.next_offset)
            }
            // The last of it is not durable yet. It was not answered either, but it may become so: wait.
            Read::Wait => {
                partition.sync();
                wait_past(partition, at, runtime);
                if partition.offsets().high_watermark <= at {
                    bail!("the log's end is not committed. end={end}, at={at}");
                }
                at
            }
            Read::Tier { .. } | Read::OutOfRange | Read::Unavailable => {
                bail!("the log cannot be read. offset={at}, end={end}");
            }
        };
    }
    Ok(loading.finish(settings, now))
}

/// Until the high watermark has passed `at`, or nobody can expect it any more.
fn wait_past(partition: &Partition, at: Offset, runtime: &Handle) {
    let news = Arc::new(Notify::new());
    while partition.watch(&news, at) {
        if runtime
            .block_on(async { tokio::time::timeout(COMMIT_WAIT, news.notified()).await })
            .is_err()
        {
            return partition.unwatch(&news);
        }
    }
}

/// Returns the offset behind what was replayed.
fn replay(
    partition: &Partition,
    bytes: &bytes::Bytes,
    from: Offset,
    loading: &mut Loading,
) -> anyhow::Result<Offset> {
    let mut next = from;
    for batch in split(bytes) {
        let batch = Batch::check(batch?)?;
        next = batch.header().next_offset();
        if batch.header().is_control() {
            continue;
        }
        for record in records(&batch, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            let Some(key) = record.key else { continue };
            if let Err(error) = loading.replay(record.offset.value(), &key, record.value.as_ref()) {
                // One record that nobody can read must not take all groups with it.
                tracing::error!(partition = %partition.id, offset = %record.offset, %error, "a record is skipped");
            }
        }
    }
    Ok(next)
}
