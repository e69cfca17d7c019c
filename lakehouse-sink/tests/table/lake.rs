//! A topic, a bucket in memory and a catalog that can fail, for tests that tell a story with them.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::{TopicId, TopicName};
use varve_lakehouse_sink::catalog::simulated::SimulatedCatalog;
use varve_lakehouse_sink::catalog::{Catalog, WriterEpoch};
use varve_lakehouse_sink::{
    Bucket, OpenError, PartitionAudit, Table, TableReader, TableSettings, TopicRef, ValueMode,
};
use varve_log::{Builder, Codec, LeaderEpoch, Offset, Timestamp};

pub(crate) const ROOT: &str = "s3://bucket/prefix";
pub(crate) const NOON: Timestamp = Timestamp::new(1_700_000_000_000);

pub(crate) struct Lake {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) catalog: Arc<SimulatedCatalog>,
    pub(crate) topic: TopicRef,
    pub(crate) settings: TableSettings,
}

impl Lake {
    pub(crate) fn new() -> Self {
        Self::on(Arc::new(InMemory::new()))
    }

    pub(crate) fn on(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            catalog: Arc::new(SimulatedCatalog::default()),
            topic: TopicRef {
                name: TopicName::parse("orders").unwrap(),
                id: TopicId::new(Uuid::from_u128(7)),
            },
            settings: TableSettings::default(),
        }
    }

    pub(crate) fn json(mut self, columns: &str) -> Self {
        self.settings.value = ValueMode::parse("json", columns).unwrap();
        self
    }

    pub(crate) fn bucket(&self) -> Bucket {
        Bucket::new(Arc::clone(&self.store), ROOT)
    }

    pub(crate) fn acquire(&self) -> WriterEpoch {
        self.catalog.acquire(self.topic.id)
    }

    /// A new writer: it takes the table from whoever has it.
    pub(crate) async fn writer(&self) -> Table {
        self.try_writer(self.acquire()).await.unwrap()
    }

    pub(crate) async fn try_writer(&self, epoch: WriterEpoch) -> Result<Table, OpenError> {
        let catalog = Arc::clone(&self.catalog) as Arc<dyn Catalog>;
        Table::open_or_create(
            self.bucket(),
            self.topic.clone(),
            epoch,
            self.settings.clone(),
            catalog,
        )
        .await
    }

    pub(crate) async fn reader(&self) -> TableReader {
        let pointer = self
            .catalog
            .load(self.topic.id)
            .await
            .unwrap()
            .expect("the table exists");
        TableReader::open(self.bucket(), &pointer.metadata_location)
            .await
            .unwrap()
    }

    pub(crate) async fn audit(&self) -> Vec<(i32, PartitionAudit)> {
        self.reader()
            .await
            .audit(self.topic.id)
            .await
            .unwrap()
            .into_iter()
            .collect()
    }

    /// `(partition, rows, next)` after checking that no row is there twice and none is missing.
    pub(crate) async fn rows(&self) -> Vec<(i32, u64, i64)> {
        let audited = self.audit().await;
        for (partition, audit) in &audited {
            assert_eq!(
                (audit.duplicates, audit.missing),
                (0, 0),
                "partition {partition}: {audit:?}"
            );
            assert_eq!(audit.next, Some(audit.last.plus(1)), "partition {partition}");
        }
        audited
            .into_iter()
            .map(|(p, audit)| (p, audit.rows, audit.next.unwrap().value()))
            .collect()
    }

    pub(crate) async fn files(&self, below: &str) -> BTreeSet<String> {
        let prefix = object_store::path::Path::from(format!("tables/orders/{below}"));
        let all: Vec<_> = self.store.list(Some(&prefix)).try_collect().await.unwrap();
        all.into_iter()
            .map(|file| file.location.filename().unwrap().to_owned())
            .collect()
    }
}

/// A batch as it stands in the log.
pub(crate) fn batch(base: i64, values: &[&str]) -> Bytes {
    let mut builder = Builder::new(NOON);
    for (n, value) in values.iter().enumerate() {
        let at = NOON.plus(base + i64::try_from(n).unwrap());
        builder = builder.push(
            at,
            Some(b"key"),
            Some(value.as_bytes()),
            &[("trace", Some(b"1")), ("trace", None)],
        );
    }
    placed(builder.build(), base)
}

/// One record, gzipped.
pub(crate) fn packed(value: &str) -> Bytes {
    let builder = Builder::new(NOON).codec(Codec::Gzip);
    builder.push(NOON, None, Some(value.as_bytes()), &[]).build()
}

/// `count` small records from offset `base` on.
pub(crate) fn run(base: i64, count: i64) -> Bytes {
    let values: Vec<String> = (base..base + count).map(|n| format!("{{\"n\":{n}}}")).collect();
    batch(base, &values.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The log gives a batch its base offset and epoch; both lie outside of its checksum.
pub(crate) fn placed(batch: Bytes, base: i64) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[0..8].copy_from_slice(&Offset::new(base).value().to_be_bytes());
    bytes[12..16].copy_from_slice(&LeaderEpoch::new(0).value().to_be_bytes());
    Bytes::from(bytes)
}
