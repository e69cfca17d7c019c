//! What groups need as time goes by: their timers, the expiry of what they committed, and a short log.
//!
//! The log of a partition is kept short without a compactor: once it is a few times as long as what it says,
//! everything it says is appended again, and the log begins there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use varve_cluster::groups::shard::Change;
use varve_log::Offset;

use super::coordinator::Coordinator;
use crate::broker::Broker;
use crate::partition::Settled;

/// Nothing wakes the timers later than this.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Timers are not looked at more often than this, however many groups there are.
const SLEEP_MIN: Duration = Duration::from_millis(5);
/// How often partitions are looked at for their length.
const REWRITE_INTERVAL: Duration = Duration::from_secs(10);
/// Below this nothing is gained by rewriting.
const LOG_BYTES_MIN: u64 = 16 << 20;
/// A log may be this many times as long as what it says.
const LOG_RATIO_MAX: u64 = 4;

/// Runs until the node stops.
pub(super) async fn run(broker: &Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    let check = broker.groups.config.offsets_retention_check;
    let (mut expiry, mut rewrite) = (Instant::now() + check, Instant::now() + REWRITE_INTERVAL);
    loop {
        let next = tick(broker);
        if Instant::now() >= expiry {
            expiry = Instant::now() + check;
            expire(broker);
        }
        if Instant::now() >= rewrite {
            rewrite = Instant::now() + REWRITE_INTERVAL;
            for coordinator in broker.groups.all() {
                shorten(broker, &coordinator).await;
            }
        }
        let wake = next.min(expiry).min(rewrite);
        tokio::select! {
            () = sleep_until(wake) => {}
            () = broker.groups.sooner.notified() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        // Whoever comes in the same moment is looked at together.
        tokio::time::sleep(SLEEP_MIN).await;
    }
}

/// Moves every group on; returns when to look again.
fn tick(broker: &Arc<Broker>) -> Instant {
    let now = broker.groups.now(broker);
    let deadlines = broker
        .groups
        .all()
        .into_iter()
        .filter_map(|coordinator| coordinator.tick(broker, now));
    let wait = deadlines.min().map_or(SLEEP_MAX, |deadline| {
        Duration::from_millis(u64::try_from(deadline.saturating_sub(now)).unwrap_or(0))
    });
    Instant::now() + wait.clamp(SLEEP_MIN, SLEEP_MAX)
}

fn expire(broker: &Arc<Broker>) {
    let now = broker.groups.now(broker);
    let retention = i64::try_from(broker.groups.config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
    for coordinator in broker.groups.all() {
        coordinator.expire(broker, now, retention);
    }
}

/// Writes a partition anew if it has grown long.
async fn shorten(broker: &Arc<Broker>, coordinator: &Arc<Coordinator>) {
    let bytes = coordinator.partition.with_log(|log| log.bytes());
    let said = coordinator.rewritten_bytes();
    if bytes < LOG_BYTES_MIN.max(said.saturating_mul(LOG_RATIO_MAX)) {
        return;
    }
    if let Err(error) = rewrite(broker, coordinator).await {
        tracing::warn!(partition = %coordinator.partition.id, error = format!("{error:#}"), "the log stays long until the next try");
    }
}

async fn rewrite(broker: &Arc<Broker>, coordinator: &Arc<Coordinator>) -> anyhow::Result<()> {
    let partition = &coordinator.partition;
    // Old records leave by whole segments: what is live goes into a new one.
    let now = broker.clock.now();
    partition.with_log(|log| log.force_roll(now));
    let Live {
        first,
        records,
        settled,
    } = coordinator.append_live(broker)?;
    if let Some(settled) = settled {
        settled
            .await?
            .map_err(|_dead| anyhow::anyhow!("the log is dead"))?;
    }
    // Everything below is said again from here on, and durably so.
    broker.advance_log_start(partition, first).await?;
    partition.checkpoint()?;
    let segments = partition.drop_local_before(first)?;
    tracing::info!(partition = %partition.id, records, segments, "the log was written anew");
    Ok(())
}

/// What the log says, appended again.
struct Live {
    /// Where it begins.
    first: Offset,
    records: usize,
    settled: Option<Settled>,
}

impl Coordinator {
    fn rewritten_bytes(&self) -> u64 {
        self.look_inner(|inner| inner.rewritten_bytes)
    }

    /// Appends all that the log says, also what is not durable yet, in one go.
    fn append_live(&self, broker: &Arc<Broker>) -> anyhow::Result<Live> {
        let refused = |code| anyhow::anyhow!("the partition does not take it: {code:?}");
        let mut turn = self.turn(broker).map_err(refused)?;
        let mut changes = turn.inner.shard.live_records()?;
        for pending in &turn.inner.pending {
            for (topic, partition, offset) in &pending.commits {
                changes.push(Change::offset(
                    &pending.group,
                    topic,
                    *partition,
                    &offset.to_record(),
                )?);
            }
        }
        let bytes = |change: &Change| change.key.len() + change.value.as_ref().map_or(0, bytes::Bytes::len);
        turn.inner.rewritten_bytes =
            u64::try_from(changes.iter().map(bytes).sum::<usize>()).unwrap_or(u64::MAX);
        let end = self.partition.offsets().log_end;
        let appended = turn.append(&changes).map_err(refused)?;
        let first = appended
            .as_ref()
            .and_then(|appended| appended.places.first().copied())
            .map_or(end, Offset::new);
        Ok(Live {
            first,
            records: changes.len(),
            settled: appended.map(|appended| appended.settled),
        })
    }
}
