//! A topic, a bucket in memory and a catalog that can fail, for tests that tell a story with them.

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use futures::TryStreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;
use varve_lakehouse_sink::catalog::simulated::SimulatedCatalog;
use varve_lakehouse_sink::catalog::{Catalog, WriterEpoch};
use varve_lakehouse_sink::{
    Bucket, OpenError, PartitionAudit, Table, TableReader, TableSettings, TopicRef, ValueMode,
};
use varve_log::builder::Builder;
use varve_log::{LeaderEpoch, Offset, Timestamp};

pub const ROOT: &str = "s3://bucket/prefix";
pub const NOON: Timestamp = Timestamp::new(1_700_000_000_000);

pub struct Lake {
    pub store: Arc<dyn ObjectStore>,
    pub catalog: Arc<SimulatedCatalog>,
    pub topic: TopicRef,
    pub settings: TableSettings,
}

impl Lake {
    pub fn new() -> Self {
        Self::on(Arc::new(InMemory::new()))
    }

    pub fn on(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            catalog: Arc::new(SimulatedCatalog::default()),
            topic: TopicRef { name: "orders".into(), id: Uuid::from_u128(7) },
            settings: TableSettings::default(),
        }
    }

    pub fn json(mut self, columns: &str) -> Self {
        self.settings.value = ValueMode::parse("json", columns).unwrap();
        self
    }

    pub fn bucket(&self) -> Bucket {
        Bucket::new(Arc::clone(&self.store), ROOT)
    }

    pub fn acquire(&self) -> WriterEpoch {
        self.catalog.acquire(self.topic.id)
    }

    /// A new writer: it takes the table from whoever has it.
    pub async fn writer(&self) -> Table {
        self.try_writer(self.acquire()).await.unwrap()
    }

    pub async fn try_writer(&self, epoch: WriterEpoch) -> Result<Table, OpenError> {
        let catalog = Arc::clone(&self.catalog) as Arc<dyn Catalog>;
        Table::open_or_create(self.bucket(), self.topic.clone(), epoch, self.settings.clone(), catalog).await
    }

    pub async fn reader(&self) -> TableReader {
        let pointer = self.catalog.load(self.topic.id).await.unwrap().expect("the table exists");
        TableReader::open(self.bucket(), &pointer.metadata_location).await.unwrap()
    }

    pub async fn audit(&self) -> Vec<(i32, PartitionAudit)> {
        self.reader().await.audit(self.topic.id).await.unwrap().into_iter().collect()
    }

    /// `(partition, rows, next)` after checking that no row is there twice and none is missing.
    pub async fn rows(&self) -> Vec<(i32, u64, i64)> {
        let audited = self.audit().await;
        for (partition, audit) in &audited {
            assert_eq!((audit.duplicates, audit.missing), (0, 0), "partition {partition}: {audit:?}");
            assert_eq!(audit.next, Some(audit.last.plus(1)), "partition {partition}");
        }
        audited.into_iter().map(|(p, audit)| (p, audit.rows, audit.next.unwrap().value())).collect()
    }

    pub async fn files(&self, below: &str) -> BTreeSet<String> {
        let prefix = object_store::path::Path::from(format!("tables/orders/{below}"));
        let all: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.unwrap();
        all.into_iter().map(|file| file.location.filename().unwrap().to_owned()).collect()
    }
}

/// A batch as it stands in the log.
pub fn batch(base: i64, values: &[&str]) -> Bytes {
    let mut builder = Builder::new(NOON);
    for (n, value) in values.iter().enumerate() {
        let at = NOON.plus(base + i64::try_from(n).unwrap());
        builder = builder.push(at, Some(b"key"), Some(value.as_bytes()), &[("trace", Some(b"1")), ("trace", None)]);
    }
    placed(builder.build(), base)
}

/// `count` small records from offset `base` on.
pub fn run(base: i64, count: i64) -> Bytes {
    let values: Vec<String> = (base..base + count).map(|n| format!("{{\"n\":{n}}}")).collect();
    batch(base, &values.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The log gives a batch its base offset and epoch; both lie outside of its checksum.
pub fn placed(batch: Bytes, base: i64) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[0..8].copy_from_slice(&Offset::new(base).value().to_be_bytes());
    bytes[12..16].copy_from_slice(&LeaderEpoch::new(0).value().to_be_bytes());
    Bytes::from(bytes)
}

/// Reads one object of the bucket.
pub async fn object(lake: &Lake, uri: &str) -> Bytes {
    let key = object_store::path::Path::from(uri.strip_prefix(ROOT).unwrap());
    lake.store.get(&key).await.unwrap().bytes().await.unwrap()
}
