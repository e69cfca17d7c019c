//! A topic's table in the hands of its writer: rows in, commits out, each row exactly once.
//!
//! Progress lives in the table and nowhere else: the commit that adds rows also says up to which offset they go.
//! A commit is one compare-and-set of the table's pointer under the writer's epoch. When its outcome is unknown the
//! table looks before it asks again, and takes no rows until it knows (docs/decisions/0003-table-commits.md).
//!
//! A `Table` is one writer's tenure: it is opened under an epoch and of no more use once fenced. Aborted
//! transactions are the caller's: push what read_committed would see.

use crate::catalog::{Catalog, Cause, WriterEpoch};
use crate::columns::Columns;
use crate::commit::{Prepared, Version};
use crate::json_columns::JsonCounts;
use crate::open;
use crate::parquet_file::{Encoded, ParquetFile};
use crate::progress::{self, Distrust, Progress};
use crate::settings::TableSettings;
use crate::storage::Bucket;
use crate::sweep;
use bytes::Bytes;
use iceberg::spec::DataFile;
use std::sync::Arc;
use varve_cluster::{TopicId, TopicName};
use varve_log::{Batch, BatchError, Header, Offset, Record, records, split};

/// Topic names may be as long as a file name may be; the folder has the whole name.
const TOPIC_IN_FILE_NAME_BYTES: usize = 100;

/// The topic whose records a table holds. A topic created anew under an old name has another id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRef {
    pub name: TopicName,
    pub id: TopicId,
}

/// See the module.
pub struct Table {
    pub(crate) bucket: Bucket,
    pub(crate) topic: TopicRef,
    pub(crate) epoch: WriterEpoch,
    pub(crate) settings: TableSettings,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) base: Version,
    pub(crate) committed: Progress,
    pub(crate) pending: Pending,
    pub(crate) in_doubt: Option<Prepared>,
    pub(crate) fenced: bool,
    pub(crate) unopened: Unopened,
}

/// Batches that are what was sent (their CRC holds) and cannot be opened: a compressed batch is stored closed, and nobody
/// can know before. The table passes them; each is told and counted once, however often it is read again.
#[derive(Debug, Default)]
pub(crate) struct Unopened {
    told_below: Progress,
    offsets: u64,
}

impl Unopened {
    fn pass(&mut self, topic: &TopicName, partition: i32, header: &Header, cause: &BatchError) {
        let told = self.told_below.entry(partition).or_insert(Offset::ZERO);
        if header.base_offset < *told {
            return;
        }
        *told = header.next_offset();
        self.offsets += u64::try_from(header.last_offset_delta).unwrap_or(0) + 1;
        tracing::error!(%topic, partition, from = header.base_offset.value(), to = header.last_offset().value(), %cause, "a batch cannot be opened: the table goes on without its records");
    }
}

/// Rows that are not in the table yet, in the order in which they pass through.
pub(crate) struct Pending {
    pub(crate) columns: Columns,
    pub(crate) file: Option<ParquetFile>,
    pub(crate) unstored: Vec<Encoded>,
    pub(crate) stored: Vec<DataFile>,
    pub(crate) next: Progress,
}

/// What one push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    pub rows: u64,
    /// Where the partition goes on.
    pub next: Option<Offset>,
}

#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The last commit's outcome is not known: call `commit` until it is.
    #[error("the outcome of the last commit is not known yet")]
    InDoubt,
    /// A newer writer has the table.
    #[error("a newer writer has the table")]
    Fenced,
    /// Rows between are missing. If they are gone for good, say so with `skip_to`.
    #[error("records are missing. partition={partition}, expected={expected}, found={found}")]
    Gap {
        partition: i32,
        expected: Offset,
        found: Offset,
    },
    /// What was pushed is not a record batch. Batches before it were taken.
    #[error("not a record batch. partition={partition}, from={from:?}")]
    Corrupt {
        partition: i32,
        from: Option<Offset>,
        #[source]
        cause: BatchError,
    },
    /// A file could not be stored. It is kept and stored with the next push or commit; batches not yet seen were
    /// not taken, so push the same bytes again.
    #[error("a data file could not be stored")]
    NotStored(#[source] Cause),
    /// Rows could not be encoded. All that was not committed is dropped: read again from `progress`.
    #[error("rows could not be encoded")]
    Dropped(#[source] Cause),
}

impl Pending {
    pub(crate) fn from(
        base: &Version,
        committed: &Progress,
        settings: &TableSettings,
    ) -> Result<Self, Distrust> {
        let columns = Columns::open(open::layout_of(&base.metadata)?, settings);
        let columns = columns.map_err(|_cause| Distrust::Unreadable("schema"))?;
        Ok(Self {
            columns,
            file: None,
            unstored: Vec::new(),
            stored: Vec::new(),
            next: committed.clone(),
        })
    }
}

impl Table {
    /// Opens the topic's table below the bucket's `tables/`, or creates it.
    pub async fn open_or_create(
        bucket: Bucket,
        topic: TopicRef,
        epoch: WriterEpoch,
        settings: TableSettings,
        catalog: Arc<dyn Catalog>,
    ) -> Result<Self, open::OpenError> {
        let base = open::load_or_create(&bucket, &topic, epoch, &settings, catalog.as_ref()).await?;
        let committed = progress::of_table(&base.metadata, topic.id)?;
        let pending = Pending::from(&base, &committed, &settings)?;
        Ok(Self {
            bucket,
            topic,
            epoch,
            settings,
            catalog,
            base,
            committed,
            pending,
            in_doubt: None,
            fenced: false,
            unopened: Unopened::default(),
        })
    }

    /// What the table holds: the next offset of each partition that has rows.
    pub fn progress(&self) -> &Progress {
        &self.committed
    }

    /// Where pushing goes on: `progress` and what is pending.
    pub fn next_offsets(&self) -> &Progress {
        &self.pending.next
    }

    pub fn epoch(&self) -> WriterEpoch {
        self.epoch
    }

    pub fn metadata_location(&self) -> &str {
        &self.base.location
    }

    /// Rows of the newest committed snapshot.
    pub fn total_rows(&self) -> u64 {
        let summary = self
            .base
            .metadata
            .current_snapshot()
            .map(|snapshot| snapshot.summary());
        let total = summary.and_then(|summary| summary.additional_properties.get("total-records"));
        total.and_then(|rows| rows.parse().ok()).unwrap_or(0)
    }

    pub fn pending_rows(&self) -> u64 {
        let pending = &self.pending;
        let in_file = pending.file.as_ref().map_or(0, ParquetFile::rows);
        let unstored: u64 = pending.unstored.iter().map(Encoded::rows).sum();
        let stored: u64 = pending.stored.iter().map(DataFile::record_count).sum();
        pending.columns.rows() as u64 + in_file + unstored + stored
    }

    /// Memory held by rows that are not stored yet.
    pub fn pending_bytes(&self) -> usize {
        let pending = &self.pending;
        let in_file = pending.file.as_ref().map_or(0, ParquetFile::bytes);
        pending.columns.bytes() + in_file + pending.unstored.iter().map(Encoded::bytes).sum::<usize>()
    }

    /// Values that are only in the raw column, since the table was opened or dropped rows.
    pub fn json_counts(&self) -> JsonCounts {
        self.pending.columns.json_counts()
    }

    /// Header keys that were not UTF-8 and had to be mended, since the table was opened or dropped rows.
    pub fn header_keys_mended(&self) -> u64 {
        self.pending.columns.header_keys_mended()
    }

    /// Offsets of batches that could not be opened and were passed, since the table was opened.
    pub fn unopened_offsets(&self) -> u64 {
        self.unopened.offsets
    }

    /// Takes whole record batches of one partition, as they stand in the log. What the table has is skipped, and so is
    /// a batch whose records cannot be opened.
    pub async fn push(&mut self, partition: i32, batches: &Bytes) -> Result<Pushed, PushError> {
        if self.fenced {
            return Err(PushError::Fenced);
        }
        if self.in_doubt.is_some() {
            return Err(PushError::InDoubt);
        }
        self.store().await.map_err(PushError::NotStored)?;
        let mut rows = 0;
        for bytes in split(batches) {
            let corrupt = |cause| PushError::Corrupt {
                partition,
                from: self.next(partition),
                cause,
            };
            let batch = bytes.and_then(Batch::check).map_err(corrupt)?;
            rows += self.take(partition, &batch)?;
            if self.pending.columns.bytes() >= self.settings.chunk_bytes {
                self.encode()
                    .map_err(|cause| PushError::Dropped(self.drop_pending(cause)))?;
                self.store().await.map_err(PushError::NotStored)?;
            }
        }
        Ok(Pushed {
            rows,
            next: self.next(partition),
        })
    }

    /// Goes on at a later offset because the records before it are gone from the log.
    pub fn skip_to(&mut self, partition: i32, offset: Offset) {
        let next = self.pending.next.entry(partition).or_insert(offset);
        *next = offset.max(*next);
    }

    fn next(&self, partition: i32) -> Option<Offset> {
        self.pending.next.get(&partition).copied()
    }

    /// Nothing of a batch is taken unless all of it can be: one that cannot be opened is passed as a whole.
    fn take(&mut self, partition: i32, batch: &Batch) -> Result<u64, PushError> {
        let header = batch.header();
        let expected = self.next(partition).unwrap_or(header.base_offset);
        if header.next_offset() <= expected {
            return Ok(0);
        }
        if header.base_offset > expected {
            return Err(PushError::Gap {
                partition,
                expected,
                found: header.base_offset,
            });
        }
        let mut rows = 0;
        if !header.is_control() {
            match open_whole(batch, self.settings.decompressed_bytes_max) {
                Ok(opened) => rows = self.append(partition, expected, opened),
                Err(cause) => self.unopened.pass(&self.topic.name, partition, header, &cause),
            }
        }
        self.pending.next.insert(partition, header.next_offset());
        Ok(rows)
    }

    fn append(&mut self, partition: i32, from: Offset, mut opened: Vec<Record>) -> u64 {
        opened.retain(|record| record.offset >= from);
        self.pending.columns.append(partition, &opened);
        opened.len() as u64
    }

    /// Moves the collected rows into the open file, and ends it when it is large or its schema is too small.
    pub(crate) fn encode(&mut self) -> Result<(), Cause> {
        let pending = &mut self.pending;
        let Some(chunk) = pending.columns.finish()? else {
            return Ok(());
        };
        if let Some(file) = pending.file.take_if(|file| !file.takes(&chunk)) {
            pending.unstored.push(file.finish()?);
        }
        if pending.file.is_none() {
            pending.file = Some(ParquetFile::start(&chunk, &self.settings)?);
        }
        if let Some(file) = &mut pending.file {
            file.append(&chunk)?;
        }
        if let Some(file) = pending
            .file
            .take_if(|file| file.bytes() >= self.settings.file_bytes)
        {
            pending.unstored.push(file.finish()?);
        }
        Ok(())
    }

    pub(crate) async fn store(&mut self) -> Result<(), Cause> {
        let spec = self.base.metadata.default_partition_spec_id();
        while let Some(encoded) = self.pending.unstored.first() {
            let at = self.data_location(encoded);
            let output = self.bucket.file_io().new_output(&at)?;
            match encoded.store(output, spec).await {
                Ok(file) => {
                    self.pending.stored.push(file);
                    self.pending.unstored.remove(0);
                }
                Err(cause) => {
                    // The next try has another name, so whatever this one left is garbage now.
                    self.bucket.delete_all([at]).await;
                    return Err(cause.into());
                }
            }
        }
        Ok(())
    }

    fn data_location(&self, encoded: &Encoded) -> String {
        let name = self.topic.name.as_str();
        let topic = name.get(..TOPIC_IN_FILE_NAME_BYTES).unwrap_or(name);
        let spans = encoded.spans.name();
        let mark = sweep::mark(self.epoch, self.topic.id);
        format!(
            "{}/data/{topic}-{spans}-{mark}.parquet",
            self.base.metadata.location()
        )
    }

    /// Back to what is committed. Files already stored become orphans; they are in no manifest of any version.
    pub(crate) fn drop_pending(&mut self, cause: Cause) -> Cause {
        match Pending::from(&self.base, &self.committed, &self.settings) {
            Ok(pending) => self.pending = pending,
            Err(broken) => tracing::error!(%broken, "the table's own metadata cannot be read again"),
        }
        cause
    }
}

/// All records of a batch, each at an offset of its own among those that the batch was given.
fn open_whole(batch: &Batch, decompressed_max: usize) -> Result<Vec<Record>, BatchError> {
    let opened: Vec<Record> = records(batch, decompressed_max).and_then(Iterator::collect)?;
    let offsets = || opened.iter().map(|record| record.offset);
    let ascend = offsets().zip(offsets().skip(1)).all(|(one, next)| one < next);
    let header = batch.header();
    if !ascend || offsets().any(|at| at < header.base_offset || at > header.last_offset()) {
        return Err(BatchError::Corrupt("records are not at the batch's offsets"));
    }
    Ok(opened)
}
