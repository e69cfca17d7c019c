//! What must happen from time to time: segments rolled by age, checkpoints, retention.

use crate::broker::Broker;
use crate::partition::Partition;
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// How often segments are looked at for their age.
const ROLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often logs that have grown get a checkpoint: what a restart after kill -9 has to scan at most.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);
/// How often idle files are closed and silent producers forgotten.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
/// Tiered partitions whose retention may wait for the bucket at the same time.
const TIERED_AT_ONCE: usize = 8;

/// Something that is due every so often.
struct Due {
    interval: Duration,
    next: Instant,
}

impl Due {
    fn every(interval: Duration) -> Self {
        Self {
            interval,
            next: Instant::now() + interval,
        }
    }

    fn now(&mut self) -> bool {
        let due = Instant::now() >= self.next;
        if due {
            self.next = Instant::now() + self.interval;
        }
        due
    }
}

/// Runs until the node stops.
pub(crate) async fn run(broker: Arc<Broker>, stopped: watch::Receiver<bool>) {
    // What may have to wait for the bucket runs beside the rest, which must not.
    tokio::join!(
        keep_house(&broker, stopped.clone()),
        retain_tiered(&broker, stopped)
    );
}

/// Where the logs of tiered partitions begin.
async fn retain_tiered(broker: &Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    let pass = async || {
        tokio::time::sleep(broker.config.retention_check).await;
        let tiered = broker.partitions.led().into_iter().filter(|one| one.is_tiered());
        let turns = futures::stream::iter(tiered);
        turns
            .for_each_concurrent(TIERED_AT_ONCE, async |partition| {
                let moved = crate::retention::move_log_start(broker, &partition).await;
                tell(&partition, moved);
            })
            .await;
    };
    loop {
        tokio::select! {
            () = pass() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

async fn keep_house(broker: &Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    let mut tick = tokio::time::interval(ROLL_INTERVAL.min(broker.config.retention_check));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retention = Due::every(broker.config.retention_check);
    let mut checkpoints = Due::every(CHECKPOINT_INTERVAL);
    let mut tidying = Due::every(TIDY_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        let (retain, checkpoint, tidy) = (retention.now(), checkpoints.now(), tidying.now());
        for partition in broker.partitions.all() {
            roll_by_age(broker, &partition);
            if retain {
                apply_retention(broker, &partition).await;
            }
            if checkpoint {
                checkpoint_if_grown(&partition);
            }
            if tidy {
                let (now, silence) = (broker.clock.now(), broker.config.producer_expiration);
                partition.with_log(|log| {
                    log.close_idle_files();
                    log.expire_producers(now, i64::try_from(silence.as_millis()).unwrap_or(i64::MAX));
                });
            }
        }
    }
}

fn roll_by_age(broker: &Broker, partition: &Arc<Partition>) {
    let now = broker.clock.now();
    if partition.leads() && partition.with_log(|log| log.roll_if_old(now)) {
        partition.write_turn();
    }
}

/// What may go goes: from the log's start as `retention.*` says, from local disk as `local.retention.*` says.
async fn apply_retention(broker: &Broker, partition: &Arc<Partition>) {
    if partition.leads() && !partition.is_tiered() {
        tell(
            partition,
            crate::retention::move_log_start(broker, partition).await,
        );
    }
    tell(partition, crate::retention::apply_here(broker, partition));
}

fn tell(partition: &Partition, outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(partition = %partition.id, error = format!("{error:#}"), "retention waits for its next turn");
    }
}

/// A log whose end is on stable storage already has nothing new to note.
fn checkpoint_if_grown(partition: &Partition) {
    if partition.with_log(|log| log.unsynced_bytes() == 0 && log.durable_end() == log.log_end()) {
        return;
    }
    if let Err(error) = partition.checkpoint() {
        tracing::error!(partition = %partition.id, %error, "no checkpoint could be written");
    }
}
