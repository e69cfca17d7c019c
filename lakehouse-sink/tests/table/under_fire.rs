//! Random histories: refused, lost and late commits, a bucket that fails, writers deposed and killed in the middle.
//! Afterwards every record is in the table exactly once. One seed reproduces any failure.

use crate::faulty_store::{FaultyStore, mix};
use crate::lake::{Lake, NOON, run};
use std::sync::Arc;
use varve_lakehouse_sink::catalog::WriterEpoch;
use varve_lakehouse_sink::catalog::simulated::Fault;
use varve_lakehouse_sink::{CommitError, PushError, Table};

const PARTITIONS: i32 = 3;
/// Batches in the log start at multiples of this.
const BATCH: i64 = 4;

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % limit
    }

    fn fault(&mut self) -> Option<Fault> {
        match self.below(8) {
            0 => Some(Fault::NotApplied),
            1 => Some(Fault::AnswerLost),
            2 => Some(Fault::RequestLost),
            3 => Some(Fault::Delayed),
            4 => Some(Fault::LoadFails),
            _ => None,
        }
    }
}

/// What a caller does: read on from where the table says, in batches as they stand in the log.
async fn push_some(table: &mut Table, chance: &mut Chance) -> Result<(), PushError> {
    let partition = i32::try_from(chance.below(PARTITIONS as u64)).unwrap();
    let next = table
        .next_offsets()
        .get(&partition)
        .map_or(0, |offset| offset.value());
    // Sometimes from further back than needed: what the table has is skipped.
    let back = i64::try_from(chance.below(3)).unwrap() * BATCH;
    let mut at = (next / BATCH * BATCH - back).max(0);
    for _ in 0..=chance.below(4) {
        table.push(partition, &run(at, BATCH)).await?;
        at += BATCH;
    }
    Ok(())
}

async fn writer(lake: &Lake) -> Table {
    writer_under(lake, lake.acquire()).await
}

async fn writer_under(lake: &Lake, epoch: WriterEpoch) -> Table {
    loop {
        if let Ok(table) = lake.try_writer(epoch).await {
            return table;
        }
    }
}

async fn history(seed: u64, steps: usize) -> (u64, u64) {
    let mut chance = Chance(seed);
    let store = Arc::new(FaultyStore::new(seed));
    let mut lake = Lake::on(Arc::clone(&store) as Arc<dyn object_store::ObjectStore>).json("");
    lake.settings.chunk_bytes = 1 << 10;
    lake.settings.file_bytes = 4 << 10;
    lake.settings.manifests_max = 4;
    lake.settings.snapshots_max = 3;
    lake.settings.previous_versions_max = 2;
    let mut tables = vec![writer(&lake).await];
    store.fail(30);
    for _ in 0..steps {
        lake.catalog.inject([chance.fault()]);
        // Now and then an old writer that does not know it was deposed moves again.
        let at = if chance.below(3) == 0 {
            usize::try_from(chance.below(tables.len() as u64)).unwrap()
        } else {
            tables.len() - 1
        };
        match chance.below(10) {
            0 if chance.below(2) == 0 => tables.push(writer(&lake).await),
            // A task that was thought dead and is not: two under one epoch.
            0 => {
                let twin = writer_under(&lake, tables[tables.len() - 1].epoch()).await;
                tables.push(twin);
            }
            1 if chance.below(4) == 0 => {
                tables.clear();
                tables.push(writer(&lake).await);
            }
            2..=5 => drop(push_some(&mut tables[at], &mut chance).await),
            _ => drop(tables[at].commit(NOON).await),
        }
    }
    // Everything heals; a new writer finishes the work.
    store.fail(0);
    let mut last = writer(&lake).await;
    for partition in 0..PARTITIONS {
        let next = last
            .next_offsets()
            .get(&partition)
            .map_or(0, |offset| offset.value());
        last.push(partition, &run(next / BATCH * BATCH, BATCH))
            .await
            .unwrap();
    }
    while let Err(error) = last.commit(NOON).await {
        assert!(
            matches!(error, CommitError::Unknown(_) | CommitError::NotApplied(_)),
            "seed {seed}: {error:?}"
        );
    }
    let rows = lake.rows().await;
    assert_eq!(rows.len(), PARTITIONS as usize, "seed {seed}");
    assert!(
        rows.iter()
            .all(|(_, rows, next)| i64::try_from(*rows).unwrap() == *next),
        "seed {seed}: {rows:?}"
    );
    last.sweep().await.unwrap();
    assert_eq!(lake.rows().await, rows, "seed {seed}: sweeping took rows away");
    (rows.iter().map(|(_, rows, _)| rows).sum(), store.failures())
}

#[tokio::test]
async fn every_record_is_in_the_table_exactly_once_after_any_history() {
    // More by hand: VARVE_HISTORIES=1000
    let histories = std::env::var("VARVE_HISTORIES").map_or(12, |many| many.parse().unwrap());
    let (mut rows, mut failures) = (0, 0);
    for seed in 0..histories {
        let (more_rows, more_failures) = history(seed, 120).await;
        rows += more_rows;
        failures += more_failures;
    }
    assert!(
        rows > 150 * histories && failures > 8 * histories,
        "the histories are too tame: {rows} rows, {failures} failures"
    );
}
