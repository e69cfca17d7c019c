//! Committing: everything prepared, the pointer asked to move, and finding out whether it did.
//!
//! ```text
//! flush -> prepare -> move the pointer -+-> moved: adopt
//!             ^                         +-> unknown: look, ask for the same move again
//!             +------- rebase ----------+-> conflict, fenced: read what the table says
//! ```

use crate::catalog::{Cause, SwapError, TableVersion};
use crate::commit::{self, Append, Prepared, Version};
use crate::manifests;
use crate::open;
use crate::parquet_file::ParquetFile;
use crate::progress::{self, Distrust};
use crate::table::{Pending, Table};
use iceberg::spec::DataFile;
use std::sync::Arc;
use varve_log::Timestamp;

/// How often a commit is made anew on top of someone else's before it is left to the next call.
const REBASES_MAX: usize = 4;
/// How often the pointer is asked to move to one place while the answers get lost.
const ASKS_MAX: usize = 3;

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

impl Table {
    /// Makes all that was pushed part of the table, and its progress with it.
    pub async fn commit(&mut self, now: Timestamp) -> Result<Committed, CommitError> {
        if self.fenced {
            return Err(CommitError::Fenced);
        }
        if let Some(prepared) = self.in_doubt.take()
            && let Some(committed) = self.decide(prepared, true).await?
        {
            return Ok(committed);
        }
        self.flush().await?;
        if self.pending.next == self.committed {
            let metadata_location = self.base.location.clone();
            return Ok(Committed {
                rows: 0,
                files: 0,
                bytes: 0,
                metadata_location,
            });
        }
        for _ in 0..REBASES_MAX {
            let append = Append {
                files: &self.pending.stored,
                layout: self.pending.columns.layout(),
                progress: &self.pending.next,
                topic_id: self.topic.id,
                epoch: self.epoch,
                now,
            };
            let prepared = commit::prepare(&self.bucket, &self.base, &append, &self.settings).await;
            let prepared = prepared.map_err(|cause| CommitError::NotApplied(cause.into()))?;
            if let Some(committed) = self.decide(prepared, false).await? {
                return Ok(committed);
            }
        }
        Err(CommitError::NotApplied(
            "others kept committing in between".into(),
        ))
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
    async fn decide(
        &mut self,
        prepared: Prepared,
        mut in_doubt: bool,
    ) -> Result<Option<Committed>, CommitError> {
        let mut lost: Cause = "no answer".into();
        for _ in 0..ASKS_MAX {
            if in_doubt {
                let pointer = match self.catalog.load(self.topic.id).await {
                    Ok(pointer) => pointer,
                    Err(cause) => return Err(self.stay_in_doubt(prepared, cause.0)),
                };
                let version = pointer
                    .as_ref()
                    .map_or(TableVersion::NONE, |pointer| pointer.version);
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
            match self
                .catalog
                .commit_if_unchanged(id, self.epoch, expected, &prepared.location)
                .await
            {
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
        self.base = Version {
            version,
            location: prepared.location,
            metadata: Arc::new(prepared.metadata),
        };
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
    async fn after_refusal(
        &mut self,
        prepared: Prepared,
        fenced: bool,
    ) -> Result<Option<Committed>, CommitError> {
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
        let pending = Pending::from(&current, &their_progress, &self.settings)?;
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
        self.pending = Pending::from(&current, &progress, &self.settings)?;
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
            Err(cause) => {
                tracing::warn!(%cause, "could not tell which files of a failed attempt are referenced")
            }
        }
    }
}
