//! How fast records become a table, on one thread: `cargo run --release --example speed -- [raw|json] [records]`.
//! Records are order events of about 155 bytes with ten fields; the bucket is memory, so only the sink is measured.

use bytes::Bytes;
use object_store::memory::InMemory;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;
use varve_cluster::{TopicId, TopicName};
use varve_lakehouse_sink::catalog::simulated::SimulatedCatalog;
use varve_lakehouse_sink::{Bucket, Table, TableReader, TableSettings, TopicRef, ValueMode};
use varve_log::{Builder, Codec, Timestamp};

const BATCH: i64 = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_else(|| "json".to_owned());
    let records: i64 = arguments.next().map_or(Ok(2_000_000), |count| count.parse())?;
    let batches: Vec<Bytes> = (0..records / BATCH).map(|n| batch(n * BATCH)).collect();
    let stored: usize = batches.iter().map(Bytes::len).sum();

    let bucket = Bucket::new(Arc::new(InMemory::new()), "s3://bucket");
    let topic = TopicRef {
        name: TopicName::parse("orders")?,
        id: TopicId::new(uuid::Uuid::new_v4()),
    };
    let catalog = Arc::new(SimulatedCatalog::default());
    let epoch = catalog.acquire(topic.id);
    let settings = TableSettings {
        value: ValueMode::parse(&mode, "")?,
        ..TableSettings::default()
    };
    let mut table = Table::open_or_create(bucket.clone(), topic, epoch, settings, catalog).await?;

    let start = Instant::now();
    let (mut most, mut values) = (0, 0);
    for batch in &batches {
        table.push(0, batch).await?;
        most = most.max(table.pending_bytes());
        values += 1;
    }
    let committed = table.commit(Timestamp::new(1_700_000_000_000)).await?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{mode}: {} rows in {seconds:.2} s, {:.0} rows/s; {values} batches, {} MB lz4 in, {} MB Parquet in {} files, {} MB held at most",
        committed.rows,
        committed.rows as f64 / seconds,
        stored >> 20,
        committed.bytes >> 20,
        committed.files,
        most >> 20
    );
    if mode == "json" {
        let start = Instant::now();
        let reader = TableReader::open(bucket, &committed.metadata_location).await?;
        let groups = reader.count_and_sum(&["country"], "cents").await?;
        println!(
            "{} groups counted and summed in {:.2} s",
            groups.len(),
            start.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

fn batch(base: i64) -> Bytes {
    let now = Timestamp::new(1_700_000_000_000 + base);
    let mut batch = Builder::new(now).codec(Codec::Lz4);
    let mut value = String::new();
    for n in base..base + BATCH {
        let noise = u128::from(n.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        value.clear();
        let written = write!(
            value,
            "{{\"id\":\"{noise:032x}\",\"country\":\"{}\",\"cents\":{},\"quantity\":{},\"express\":{},\"rate\":{}.25,\"sku\":\"SKU-{}\",\"status\":\"paid\"}}",
            ["DE", "FR", "US", "JP"][(noise >> 3) as usize % 4],
            noise % 100_000,
            noise % 7,
            noise % 5 == 0,
            noise % 90,
            noise % 5000
        );
        assert!(written.is_ok(), "a string takes all text");
        batch = batch.push(now, Some(&n.to_be_bytes()), Some(value.as_bytes()), &[]);
    }
    let mut batch = batch.build().to_vec();
    batch[0..8].copy_from_slice(&base.to_be_bytes());
    batch.into()
}
