//! Keeps the tables of the topics this broker leads: reads what is committed, pushes it, commits it every
//! `varve.table.commit.interval.ms`. Never in the produce path; the same reads as any consumer's.

mod catalog;
mod source;

use crate::broker::Broker;
use crate::topic_settings;
use catalog::QuorumCatalog;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use varve_cluster::TopicId;
use varve_cluster::controller::{Command, Outcome, Topic};
use varve_cluster::topic_config::{self, Column, ColumnType, TableConfig};
use varve_lakehouse_sink::catalog::WriterEpoch;
use varve_lakehouse_sink::{
    Bucket, CommitError, GivenColumn, JsonColumns, Kind, Table, TableSettings, TopicRef, ValueMode,
};
use varve_log::LeaderEpoch;

/// How often topics are looked at for a table that should be kept and is not.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after an error that a later try may not meet; longer each time, up to the second.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often one commit is tried before the table is opened anew.
const COMMIT_TRIES: usize = 4;
/// Bytes read from one partition before the next has its turn.
const READ_BYTES: usize = 4 << 20;
/// Rows collected in memory before a commit is made early.
const PENDING_ROWS_MAX: u64 = 4_000_000;

/// What `/metrics` tells of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    pub(crate) rows: u64,
    pub(crate) lag: u64,
    /// Offsets of batches that could not be opened, since the broker started.
    pub(crate) skipped: u64,
}

/// Starts the thread that keeps the tables; encoding Parquet is long work that nothing else should wait for.
pub(crate) fn start(
    broker: &Arc<Broker>,
    stopped: watch::Receiver<bool>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let broker = Arc::clone(broker);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("tables".to_owned())
        .spawn(move || {
            let tasks = tokio::task::LocalSet::new();
            runtime.block_on(tasks.run_until(run(broker, stopped)));
        })
}

/// Runs until the node stops: one task for each table.
async fn run(broker: Arc<Broker>, mut stopped: watch::Receiver<bool>) {
    if broker.tier.is_none() {
        return;
    }
    let mut kept: BTreeMap<TopicId, tokio::task::JoinHandle<()>> = BTreeMap::new();
    loop {
        let view = broker.view();
        for topic in view.topics.values() {
            let running = kept.get(&topic.id).is_some_and(|task| !task.is_finished());
            if !running && wants_table(&broker, topic).is_some() {
                let keeper = Keeper {
                    broker: Arc::clone(&broker),
                    topic: topic.id,
                    stopped: stopped.clone(),
                    skipped_before: 0,
                };
                kept.insert(topic.id, tokio::task::spawn_local(keeper.run()));
            }
        }
        kept.retain(|_, task| !task.is_finished());
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    for (_, task) in kept {
        // A task that panicked has said so.
        let _ = task.await;
    }
}

/// The broker that leads the first partition keeps the table; it reads the others' records from its own replicas.
fn wants_table(broker: &Broker, topic: &Topic) -> Option<TableConfig> {
    if topic.partition(0)?.leader != Some(broker.id()) {
        return None;
    }
    topic_settings::of(&broker.config, &broker.view(), topic)
        .table
        .clone()
}

/// One table's writer.
struct Keeper {
    broker: Arc<Broker>,
    topic: TopicId,
    stopped: watch::Receiver<bool>,
    /// By earlier tenures.
    skipped_before: u64,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = RETRY_PAUSE;
        while let Some((topic, config)) = self.wanted() {
            let kept = self.keep(&topic, &config).await;
            // What the table holds is for its next keeper to tell, here or elsewhere.
            self.broker.tables.lock().remove(topic.name.as_str());
            match kept {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(topic = %topic.name, error = format!("{error:#}"), "the table waits; it is taken up again");
                    if self.pause(pause).await {
                        return;
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
    }

    fn wanted(&self) -> Option<(Arc<Topic>, TableConfig)> {
        let topic = self.broker.view().topic(self.topic).cloned()?;
        let config = wants_table(&self.broker, &topic)?;
        Some((topic, config))
    }

    /// `true` when the node stops.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopped.wait_for(|stop| *stop))
            .await
            .is_ok()
    }

    /// One tenure: from acquiring the table until the topic, the configuration or the node ends it.
    async fn keep(&mut self, topic: &Topic, config: &TableConfig) -> anyhow::Result<()> {
        let (mut table, interval) = self.open(topic, config).await?;
        self.status(topic, &table, 0);
        let kept = self.keep_open(topic, config, &mut table, interval).await;
        self.skipped_before += table.unopened_offsets();
        kept
    }

    async fn keep_open(
        &mut self,
        topic: &Topic,
        config: &TableConfig,
        table: &mut Table,
        interval: Duration,
    ) -> anyhow::Result<()> {
        loop {
            if self.pause(interval).await {
                return Ok(());
            }
            match self.wanted() {
                Some((now, configured)) if configured == *config && leadership(&now) == leadership(topic) => {
                }
                // The next tenure begins with the new configuration, or under the new leadership.
                Some(_) | None => return Ok(()),
            }
            let lag = self.catch_up(topic, table, interval).await?;
            self.status(topic, table, lag);
        }
    }

    async fn open(&self, topic: &Topic, config: &TableConfig) -> anyhow::Result<(Table, Duration)> {
        let tier = self
            .broker
            .tier
            .as_ref()
            .ok_or_else(|| anyhow::anyhow!("no bucket is configured"))?;
        let elsewhere = topic
            .partitions
            .iter()
            .position(|partition| !partition.replicas.contains(&self.broker.id()));
        if let Some(index) = elsewhere {
            // Going on without it would be a table that looks whole and is not.
            anyhow::bail!(
                "partition {index} has no replica on the broker that leads partition 0: give the topic as many \
                 replicas as there are brokers"
            );
        }
        let acquire = Command::AcquireTable {
            topic_id: topic.id,
            broker: self.broker.id(),
            epoch: self.broker.epoch,
            leader_epoch: leadership(topic),
        };
        let Outcome::TableAcquired { epoch, .. } = self.broker.metadata.propose(acquire).await? else {
            anyhow::bail!("the table was not given to this broker");
        };
        let catalog = Arc::new(QuorumCatalog::new(Arc::clone(&self.broker.metadata)));
        let bucket = Bucket::new(tier.table_store(), tier.root_uri());
        let name = TopicRef {
            name: topic.name.clone(),
            id: topic.id,
        };
        let settings = TableSettings {
            value: value_mode(config),
            ..TableSettings::default()
        };
        let table = Table::open_or_create(bucket, name, WriterEpoch::new(epoch), settings, catalog).await?;
        if let Err(error) = table.sweep().await {
            tracing::warn!(topic = %topic.name, %error, "orphans of earlier table writers stay for now");
        }
        let interval = Duration::from_millis(u64::try_from(config.commit_interval_ms).unwrap_or(0));
        Ok((table, interval))
    }

    /// Pushes and commits until nothing committed to the log is missing from the table; then 0 is left.
    async fn catch_up(
        &mut self,
        topic: &Topic,
        table: &mut Table,
        interval: Duration,
    ) -> anyhow::Result<u64> {
        let mut due = Instant::now() + interval;
        loop {
            let mut lag = 0;
            let mut moved = false;
            for partition in (0..)
                .zip(topic_partitions(&self.broker, topic))
                .filter_map(|(_, partition)| partition)
            {
                let read = source::advance(&self.broker, &partition, table, READ_BYTES).await?;
                lag += read.behind;
                moved |= read.moved;
            }
            let stop = *self.stopped.borrow();
            // A topic that is written without a pause is committed on time all the same.
            let is_due = table.pending_rows() >= PENDING_ROWS_MAX || Instant::now() >= due;
            if !moved || stop || is_due {
                self.commit(topic, table).await?;
                due = Instant::now() + interval;
                if !moved || stop {
                    return Ok(lag);
                }
            }
        }
    }

    /// What failed for now is tried again with the rows in hand; giving up the tenure would mean reading them again.
    async fn commit(&mut self, topic: &Topic, table: &mut Table) -> anyhow::Result<()> {
        let mut tries = 1;
        loop {
            match table.commit(self.broker.clock.now()).await {
                Ok(committed) => {
                    if committed.rows > 0 {
                        tracing::debug!(topic = %topic.name, rows = committed.rows, files = committed.files, "table commit");
                    }
                    return Ok(());
                }
                Err(error @ (CommitError::NotApplied(_) | CommitError::Unknown(_)))
                    if tries < COMMIT_TRIES =>
                {
                    tries += 1;
                    tracing::warn!(topic = %topic.name, %error, "the table's commit is tried again");
                    if self.pause(RETRY_PAUSE).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn status(&self, topic: &Topic, table: &Table, lag: u64) {
        let status = Status {
            rows: table.total_rows(),
            lag,
            skipped: self.skipped_before + table.unopened_offsets(),
        };
        self.broker.tables.lock().insert(topic.name.to_string(), status);
    }
}

/// The epoch in which the table's keeper leads the topic's first partition.
fn leadership(topic: &Topic) -> LeaderEpoch {
    topic
        .partition(0)
        .map_or_else(LeaderEpoch::default, |first| first.leader_epoch)
}

fn topic_partitions(broker: &Broker, topic: &Topic) -> Vec<Option<Arc<crate::partition::Partition>>> {
    // Partitions may have been added since this tenure began.
    let count = broker
        .view()
        .topic(topic.id)
        .map_or(0, |topic| topic.partitions.len());
    (0..i32::try_from(count).unwrap_or(i32::MAX))
        .map(|index| broker.partitions.get(topic.id, index))
        .collect()
}

fn value_mode(config: &TableConfig) -> ValueMode {
    match config.value {
        topic_config::ValueMode::Raw => ValueMode::Raw,
        topic_config::ValueMode::Json if config.columns.is_empty() => ValueMode::Json(JsonColumns::Inferred),
        topic_config::ValueMode::Json => {
            ValueMode::Json(JsonColumns::Given(config.columns.iter().map(given).collect()))
        }
    }
}

fn given(column: &Column) -> GivenColumn {
    let kind = match column.kind {
        ColumnType::Boolean => Kind::Boolean,
        ColumnType::Int | ColumnType::Long => Kind::Long,
        ColumnType::Float | ColumnType::Double => Kind::Double,
        // Dates and times arrive as text in JSON and stay text; engines cast them.
        ColumnType::String | ColumnType::Date | ColumnType::Timestamp | ColumnType::Timestamptz => {
            Kind::String
        }
    };
    GivenColumn {
        field: column.name.clone(),
        kind,
    }
}
