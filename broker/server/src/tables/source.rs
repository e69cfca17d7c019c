//! From a partition into its table's writer: committed batches, from disk while they are there, else from the bucket.

use crate::broker::Broker;
use crate::partition::{Partition, Read};
use anyhow::bail;
use bytes::Bytes;
use std::sync::Arc;
use varve_lakehouse_sink::{PushError, Table};
use varve_log::Offset;

/// Table writers read each partition once and in order: one cursor serves them all.
const TABLE_READER: u64 = u64::MAX;

/// What one turn did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) moved: bool,
    /// Offsets still to come.
    pub(super) behind: u64,
}

/// Pushes up to `bytes_max` of what the table lacks of this partition.
pub(super) async fn advance(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    table: &mut Table,
    bytes_max: usize,
) -> anyhow::Result<Turn> {
    let index = partition.id.index;
    let offsets = partition.offsets();
    let mut next = table
        .next_offsets()
        .get(&index)
        .copied()
        .unwrap_or(offsets.log_start);
    if next < offsets.log_start {
        // Retention was faster than the table: what is gone cannot be had any more, and the table says so by a gap.
        tracing::warn!(%partition.id, from = next.value(), to = offsets.log_start.value(), "records were deleted before they reached the table");
        table.skip_to(index, offsets.log_start);
        next = offsets.log_start;
    }
    let Some(batches) = read(broker, partition, next, bytes_max).await? else {
        return Ok(Turn {
            moved: false,
            behind: 0,
        });
    };
    let mut after = next;
    for bytes in batches {
        match table.push(index, &bytes).await {
            Ok(pushed) => after = pushed.next.unwrap_or(after),
            // Not even what was written: reading it again may bring better bytes, going on would hide a loss.
            Err(error @ PushError::Corrupt { .. }) => bail!(error),
            Err(error) => return Err(error.into()),
        }
    }
    let behind = u64::try_from(offsets.last_stable.since(after)).unwrap_or(0);
    Ok(Turn {
        moved: after > next,
        behind,
    })
}

async fn read(
    broker: &Arc<Broker>,
    partition: &Arc<Partition>,
    from: Offset,
    bytes_max: usize,
) -> anyhow::Result<Option<Vec<Bytes>>> {
    match partition.plan_read(from, bytes_max, true).read {
        Read::Wait => Ok(None),
        Read::Local(plan) => Ok(Some(vec![plan.run()?.read()?])),
        Read::Tier { pointer, from } => {
            let Some(tier) = &broker.tier else {
                bail!("tiered data without a bucket")
            };
            let read = tier
                .read(partition, pointer, from, bytes_max, TABLE_READER)
                .batches()
                .await;
            Ok(Some(read.map_err(|code| {
                anyhow::anyhow!("the bucket could not be read: {code:?}")
            })?))
        }
        // What an earlier keeper has read, this replica may not have copied yet.
        Read::OutOfRange if !partition.leads() && from > partition.offsets().log_end => Ok(None),
        Read::OutOfRange => bail!(
            "the table's progress lies outside the log. partition={}, offset={from}",
            partition.id
        ),
        Read::Unavailable => bail!("the log cannot be read now. partition={}", partition.id),
    }
}
