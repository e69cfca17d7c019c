//! Writes a small JSON table below a folder and prints its metadata file, for engines to be tried on by hand:
//! `cargo run --example write_table -- /tmp/bucket`, then `tests/clients/read_table.py <printed path>`.

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use std::sync::Arc;
use varve_cluster::{TopicId, TopicName};
use varve_lakehouse_sink::catalog::simulated::SimulatedCatalog;
use varve_lakehouse_sink::{Bucket, Table, TableSettings, TopicRef, ValueMode};
use varve_log::{Builder, Timestamp};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: write_table <folder>")?;
    std::fs::create_dir_all(&folder)?;
    let folder = std::fs::canonicalize(folder)?;
    let bucket = Bucket::new(
        Arc::new(LocalFileSystem::new_with_prefix(&folder)?),
        &format!("file://{}", folder.display()),
    );
    let topic = TopicRef {
        name: TopicName::parse("events")?,
        id: TopicId::new(uuid::Uuid::new_v4()),
    };
    let catalog = Arc::new(SimulatedCatalog::default());
    let settings = TableSettings {
        value: ValueMode::parse("json", "")?,
        ..TableSettings::default()
    };
    let epoch = catalog.acquire(topic.id);
    let mut table = Table::open_or_create(bucket, topic, epoch, settings, catalog).await?;
    let now = Timestamp::new(1_700_000_000_000);
    for round in 0..3_i64 {
        for partition in 0..2 {
            table.push(partition, &batch(round, now)).await?;
        }
        table.commit(now.plus(round * 1000)).await?;
    }
    println!("{}", table.metadata_location());
    Ok(())
}

fn batch(round: i64, now: Timestamp) -> Bytes {
    let more = if round == 2 {
        r#","late":true,"nested":{"a":[1,2]}"#
    } else {
        ""
    };
    let mut batch = Builder::new(now);
    for n in round * 1000..(round + 1) * 1000 {
        let value = format!("{{\"carrier\":\"C{}\",\"n\":{n},\"ratio\":{n}.5{more}}}", n % 5);
        batch = batch.push(
            now.plus(n),
            Some(b"k"),
            Some(value.as_bytes()),
            &[("h", Some(b"v")), ("h", None)],
        );
    }
    // The log gives a batch its base offset; it lies outside of the checksum.
    let mut batch = batch.build().to_vec();
    batch[0..8].copy_from_slice(&(round * 1000).to_be_bytes());
    batch.into()
}
