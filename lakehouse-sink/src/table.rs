//! A topic's table in the hands of its writer: rows in, commits out, each row exactly once.
//!
//! Progress lives in the table and nowhere else: the commit that adds rows also says up to which offset they go.
//! A commit is one compare-and-set of the table's pointer under the writer's epoch. When its outcome is unknown the
//! table looks before it asks again, and takes no rows until it knows (docs/decisions/0003-table-commits.md).
//!
//! A `Table` is one writer's tenure: it is opened under an epoch and of no more use once fenced. Aborted
//! transactions are the caller's: push what read_committed would see.

use crate::catalog::{Catalog, Cause, SwapError, TableVersion, WriterEpoch};
use crate::columns::Columns;
use crate::commit::{self, Append, Prepared, Version};
use crate::json_columns::JsonCounts;
use crate::manifests;
use crate::open;
use crate::parquet_file::{Encoded, ParquetFile};
use crate::progress::{self, Distrust, Progress};
use crate::schema::Layout;
use crate::settings::TableSettings;
use crate::storage::Bucket;
use bytes::Bytes;
use iceberg::spec::DataFile;
use std::sync::Arc;
use uuid::Uuid;
use varve_log::batch::{Batch, BatchError, split};
use varve_log::records::records;
use varve_log::{Offset, Timestamp};

/// How often a commit is made anew on top of someone else's before it is left to the next call.
const REBASES_MAX: usize = 4;
/// How often the pointer is asked to move to one place while the answers get lost.
const ASKS_MAX: usize = 3;
/// Topic names may be as long as a file name may be; the folder has the whole name.
const TOPIC_IN_FILE_NAME_BYTES: usize = 100;

/// The topic whose records a table holds. A topic created anew under an old name has another id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRef {
    pub name: String,
    pub id: Uuid,
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
    pending: Pending,
    in_doubt: Option<Prepared>,
    fenced: bool,
}

/// Rows that are not in the table yet, in the order in which they pass through.
struct Pending {
    columns: Columns,
    file: Option<ParquetFile>,
    unstored: Vec<Encoded>,
    stored: Vec<DataFile>,
    next: Progress,
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
    Gap { partition: i32, expected: Offset, found: Offset },
    /// What was pushed is not a record batch. Batches before it were taken.
    #[error("not a record batch. partition={partition}, from={from:?}")]
    Corrupt { partition: i32, from: Option<Offset>, #[source] cause: BatchError },
    /// A file could not be stored. It is kept and stored with the next push or commit; batches not yet seen were
    /// not taken, so push the same bytes again.
    #[error("a data file could not be stored")]
    NotStored(#[source] Cause),
    /// Rows could not be encoded. All that was not committed is dropped: read again from `progress`.
    #[error("rows could not be encoded")]
    Dropped(#[source] Cause),
}

/// A commit that is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub rows: u64,
    pub files: usize,
    pub bytes: u64,
    pub metadata_location: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing changed; the rows are kept. Call `commit` again.
    #[error("nothing was committed")]
    NotApplied(#[source] Cause),
    /// It may have happened. The rows are kept and no new ones are taken: call `commit` again, it looks first.
    #[error("the outcome of the commit is not known")]
    Unknown(#[source] Cause),
    /// A newer writer has the table: drop this one.
    #[error("a newer writer has the table")]
    Fenced,
    /// The table went on without these rows. They are dropped: read again from `progress`.
    #[error("the table went on from another place")]
    Overtaken,
    /// The table cannot be trusted any more and a person has to look.
    #[error(transparent)]
    Distrust(#[from] Distrust),
    /// Rows could not be encoded. All that was not committed is dropped: read again from `progress`.
    #[error("rows could not be encoded")]
    Dropped(#[source] Cause),
}

impl Pending {
    fn from(base: &Version, committed: &Progress, settings: &TableSettings) -> Result<Self, open::OpenError> {
        let columns = Columns::open(open::layout_of(&base.metadata)?, settings).map_err(open::unavailable)?;
        Ok(Self { columns, file: None, unstored: Vec::new(), stored: Vec::new(), next: committed.clone() })
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
        Ok(Self { bucket, topic, epoch, settings, catalog, base, committed, pending, in_doubt: None, fenced: false })
    }

    /// What the table holds: the next offset of each partition that has rows.
    pub fn progress(&self) -> &Progress {
        &self.committed
    }

    /// Where pushing goes on: `progress` and what is pending.
    pub fn next_offsets(&self) -> &Progress {
        &self.pending.next
    }

    pub fn metadata_location(&self) -> &str {
        &self.base.location
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

    /// Values that are only in the raw column, since the table was opened.
    pub fn json_counts(&self) -> JsonCounts {
        self.pending.columns.json_counts()
    }

    /// Header keys that were not UTF-8 and had to be mended, since the table was opened.
    pub fn header_keys_mended(&self) -> u64 {
        self.pending.columns.header_keys_mended()
    }

    /// Takes whole record batches of one partition, as they stand in the log. What the table has is skipped.
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
            let corrupt = |cause| PushError::Corrupt { partition, from: self.next(partition), cause };
            let batch = bytes.and_then(Batch::check).map_err(corrupt)?;
            rows += self.take(partition, &batch)?;
            if self.pending.columns.bytes() >= self.settings.chunk_bytes {
                self.encode().map_err(|cause| PushError::Dropped(self.drop_pending(cause)))?;
                self.store().await.map_err(PushError::NotStored)?;
            }
        }
        Ok(Pushed { rows, next: self.next(partition) })
    }

    /// Goes on at a later offset because the records before it are gone from the log.
    pub fn skip_to(&mut self, partition: i32, offset: Offset) {
        let next = self.pending.next.entry(partition).or_insert(offset);
        *next = offset.max(*next);
    }

    fn next(&self, partition: i32) -> Option<Offset> {
        self.pending.next.get(&partition).copied()
    }

    /// Nothing of a batch is taken unless all of it can be.
    fn take(&mut self, partition: i32, batch: &Batch) -> Result<u64, PushError> {
        let header = batch.header();
        let from = self.next(partition);
        let expected = from.unwrap_or(header.base_offset);
        if header.next_offset() <= expected {
            return Ok(0);
        }
        if header.base_offset > expected {
            return Err(PushError::Gap { partition, expected, found: header.base_offset });
        }
        let mut rows = 0;
        if !header.is_control() {
            let opened = records(batch, self.settings.decompressed_bytes_max).and_then(Iterator::collect);
            let mut opened: Vec<_> = opened.map_err(|cause| PushError::Corrupt { partition, from, cause })?;
            opened.retain(|record| record.offset >= expected);
            self.pending.columns.append(partition, &opened);
            rows = opened.len() as u64;
        }
        self.pending.next.insert(partition, header.next_offset());
        Ok(rows)
    }

    /// Moves the collected rows into the open file, and ends it when it is large or its schema is too small.
    fn encode(&mut self) -> Result<(), Cause> {
        let pending = &mut self.pending;
        let Some(chunk) = pending.columns.finish()? else { return Ok(()) };
        if let Some(file) = pending.file.take_if(|file| !file.takes(&chunk)) {
            pending.unstored.push(file.finish()?);
        }
        if pending.file.is_none() {
            pending.file = Some(ParquetFile::start(&chunk, &self.settings)?);
        }
        if let Some(file) = &mut pending.file {
            file.append(&chunk)?;
        }
        if let Some(file) = pending.file.take_if(|file| file.bytes() >= self.settings.file_bytes) {
            pending.unstored.push(file.finish()?);
        }
        Ok(())
    }

    async fn store(&mut self) -> Result<(), Cause> {
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
        let topic = self.topic.name.get(..TOPIC_IN_FILE_NAME_BYTES).unwrap_or(&self.topic.name);
        let spans = encoded.spans.name();
        let location = self.base.metadata.location();
        format!("{location}/data/{topic}-{spans}-e{}-{}.parquet", self.epoch, Uuid::new_v4().simple())
    }

    /// Makes all that was pushed part of the table, and its progress with it.
    pub async fn commit(&mut self, now: Timestamp) -> Result<Committed, CommitError> {
        if self.fenced {
            return Err(CommitError::Fenced);
        }
        if let Some(prepared) = self.in_doubt.take() {
            if let Some(committed) = self.decide(prepared, true).await? {
                return Ok(committed);
            }
        }
        self.flush().await?;
        if self.pending.next == self.committed {
            let metadata_location = self.base.location.clone();
            return Ok(Committed { rows: 0, files: 0, bytes: 0, metadata_location });
        }
        for _ in 0..REBASES_MAX {
            let append = Append {
                files: &self.pending.stored,
                layout: self.pending.columns.layout(),
                progress: &self.pending.next,
                epoch: self.epoch,
                now,
            };
            let prepared = commit::prepare(&self.bucket, &self.base, &append, &self.settings).await;
            let prepared = prepared.map_err(|cause| CommitError::NotApplied(cause.into()))?;
            if let Some(committed) = self.decide(prepared, false).await? {
                return Ok(committed);
            }
        }
        Err(CommitError::NotApplied("others kept committing in between".into()))
    }

    async fn flush(&mut self) -> Result<(), CommitError> {
        let encoded = self.encode().and_then(|()| {
            let finished = self.pending.file.take().map(ParquetFile::finish).transpose()?;
            self.pending.unstored.extend(finished);
            Ok(())
        });
        encoded.map_err(|cause| CommitError::Dropped(self.drop_pending(cause)))?;
        self.store().await.map_err(CommitError::NotApplied)
    }

    /// Asks for the pointer to move and finds out whether it did. `None`: it did not, but the same rows fit on top
    /// of what is there now.
    async fn decide(&mut self, prepared: Prepared, mut in_doubt: bool) -> Result<Option<Committed>, CommitError> {
        let mut lost: Cause = "no answer".into();
        for _ in 0..ASKS_MAX {
            if in_doubt {
                let pointer = match self.catalog.load(self.topic.id).await {
                    Ok(pointer) => pointer,
                    Err(cause) => return Err(self.stay_in_doubt(prepared, cause.0)),
                };
                let version = pointer.as_ref().map_or(TableVersion::NONE, |pointer| pointer.version);
                if pointer.is_some_and(|pointer| pointer.metadata_location == prepared.location) {
                    return Ok(Some(self.adopt(version, prepared).await));
                }
                if version != self.base.version {
                    return self.after_refusal(prepared, false).await;
                }
                // Not there, and it may still be on its way. Asking for the same move again is safe: both expect
                // the same version and lead to the same place, so whichever comes second changes nothing.
            }
            let (id, expected) = (self.topic.id, self.base.version);
            match self.catalog.commit_if_unchanged(id, self.epoch, expected, &prepared.location).await {
                Ok(version) => return Ok(Some(self.adopt(version, prepared).await)),
                Err(SwapError::Conflict) => return self.after_refusal(prepared, false).await,
                Err(SwapError::Fenced) => return self.after_refusal(prepared, true).await,
                Err(SwapError::NotApplied(cause)) if !in_doubt => {
                    self.bucket.delete_all(prepared.made).await;
                    return Err(CommitError::NotApplied(cause));
                }
                Err(SwapError::NotApplied(cause) | SwapError::Unknown(cause)) => {
                    in_doubt = true;
                    lost = cause;
                }
            }
        }
        Err(self.stay_in_doubt(prepared, lost))
    }

    fn stay_in_doubt(&mut self, prepared: Prepared, cause: Cause) -> CommitError {
        self.in_doubt = Some(prepared);
        CommitError::Unknown(cause)
    }

    async fn adopt(&mut self, version: TableVersion, prepared: Prepared) -> Committed {
        self.base = Version { version, location: prepared.location, metadata: Arc::new(prepared.metadata) };
        self.committed.clone_from(&self.pending.next);
        let files = std::mem::take(&mut self.pending.stored);
        self.bucket.delete_all(prepared.outlived).await;
        self.write_hint().await;
        Committed {
            rows: files.iter().map(DataFile::record_count).sum(),
            files: files.len(),
            bytes: files.iter().map(DataFile::file_size_in_bytes).sum(),
            metadata_location: self.base.location.clone(),
        }
    }

    /// `version-hint.text` lets engines open the folder. It may lag behind: it is a hint.
    async fn write_hint(&self) {
        let version = self.base.location.rsplit('/').next().unwrap_or_default();
        let version = version.trim_end_matches(".metadata.json").to_owned();
        let at = format!("{}/metadata/version-hint.text", self.base.metadata.location());
        let written = match self.bucket.file_io().new_output(&at) {
            Ok(output) => output.write(version.into()).await,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = written {
            tracing::warn!(%at, %cause, "could not write the version hint");
        }
    }

    /// The pointer stands elsewhere, or a newer writer has it. Whether our move happened before that is read from
    /// the table itself.
    async fn after_refusal(&mut self, prepared: Prepared, fenced: bool) -> Result<Option<Committed>, CommitError> {
        let current = match open::load(&self.bucket, self.topic.id, self.catalog.as_ref()).await {
            Ok(Some(current)) => current,
            Ok(None) => return Err(self.stay_in_doubt(prepared, "the table's pointer is gone".into())),
            Err(cause) => return Err(self.stay_in_doubt(prepared, cause)),
        };
        self.fenced = fenced;
        if current.metadata.snapshot_by_id(prepared.snapshot_id).is_some() {
            return self.found_behind(current);
        }
        let Prepared { made, .. } = prepared;
        if fenced {
            self.delete_unreferenced(&current, made).await;
            self.forget_pending_files(&current).await;
            return Err(CommitError::Fenced);
        }
        let fits = self.base.metadata.current_schema() == current.metadata.current_schema()
            && self.base.metadata.last_column_id() == current.metadata.last_column_id();
        let their_progress = progress::of_table(&current.metadata, self.topic.id)?;
        self.delete_unreferenced(&current, made).await;
        if fits && their_progress == self.committed {
            self.base = current;
            return Ok(None);
        }
        self.forget_pending_files(&current).await;
        let pending = Pending::from(&current, &their_progress, &self.settings).map_err(open::as_commit_error)?;
        self.pending = pending;
        self.base = current;
        self.committed = their_progress;
        Err(CommitError::Overtaken)
    }

    /// Our commit happened and someone has committed on top of it.
    fn found_behind(&mut self, current: Version) -> Result<Option<Committed>, CommitError> {
        if self.fenced {
            return Err(CommitError::Fenced);
        }
        let files = std::mem::take(&mut self.pending.stored);
        let progress = progress::of_table(&current.metadata, self.topic.id)?;
        let overtaken = progress != self.pending.next;
        let pending = Pending::from(&current, &progress, &self.settings).map_err(open::as_commit_error)?;
        self.pending = pending;
        self.base = current;
        self.committed = progress;
        if overtaken {
            return Err(CommitError::Overtaken);
        }
        Ok(Some(Committed {
            rows: files.iter().map(DataFile::record_count).sum(),
            files: files.len(),
            bytes: files.iter().map(DataFile::file_size_in_bytes).sum(),
            metadata_location: self.base.location.clone(),
        }))
    }

    async fn forget_pending_files(&mut self, current: &Version) {
        let files = std::mem::take(&mut self.pending.stored);
        let files = files.iter().map(|file| file.file_path().to_owned()).collect();
        self.delete_unreferenced(current, files).await;
    }

    async fn delete_unreferenced(&self, current: &Version, files: Vec<String>) {
        match manifests::unreferenced(&self.bucket.file_io(), current, files).await {
            Ok(files) => self.bucket.delete_all(files).await,
            // Not known to be garbage, so it stays.
            Err(cause) => tracing::warn!(%cause, "could not tell which files of a failed attempt are referenced"),
        }
    }

    /// Back to what is committed. Files already stored become orphans; they are in no manifest of any version.
    fn drop_pending(&mut self, cause: Cause) -> Cause {
        match Pending::from(&self.base, &self.committed, &self.settings) {
            Ok(pending) => self.pending = pending,
            Err(broken) => tracing::error!(%broken, "the table's own metadata cannot be read again"),
        }
        cause
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.pending.columns.layout()
    }
}
