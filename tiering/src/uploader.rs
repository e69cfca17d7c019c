//! Carries out what `upload` decides: segments and manifests into the bucket, and the commit.

use crate::TierPartition;
use crate::commit::{CommitError, Committed, TierMetadata};
use crate::draft::{Draft, NoDraft, Wanted, draft};
use crate::keys::ManifestName;
use crate::manifest::Entry;
use crate::sealed::{SealedError, SealedInput};
use crate::segment_upload::{StoreFailure, store_segment};
use crate::store::Reason;
use crate::tier::{Inner, Tier};
use crate::upload::{Action, Event, Outcome, Upload};
use futures::StreamExt;
use object_store::PutPayload;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::controller::TierPointer;
use varve_log::{LeaderEpoch, Offset};

/// By what the server does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// Come again later, with the same segments.
    #[error("upload did not happen for now. cause={0}")]
    NotApplied(String),
    /// It may yet be committed. Come again later: the next call begins by looking.
    #[error("outcome of the upload is unknown. cause={0}")]
    Unknown(String),
    /// Somebody else leads. Stop uploading this partition.
    #[error("another leader epoch is in charge of the partition")]
    Superseded,
    /// The topic is gone.
    #[error("partition does not exist any more")]
    Gone,
    /// The segments do not begin where the tier ends: look at the log and the pointer again.
    #[error("segment does not continue the tier. base={base}, tier_end={tier_end}")]
    DoesNotFit { base: Offset, tier_end: Offset },
    /// The local segment is damaged: set the replica aside.
    #[error("{0}")]
    Corrupt(SealedError),
}

impl From<NoDraft> for UploadError {
    fn from(error: NoDraft) -> Self {
        Self::NotApplied(match error {
            NoDraft::NothingToChange => "nothing to change in the tier".to_owned(),
            NoDraft::Full { entries } => format!("manifest is full. entries={entries}"),
        })
    }
}

/// Which new manifest is wanted.
pub(crate) enum Change {
    Add(Vec<SealedInput>),
    /// Forget entries that lie wholly below the committed start of the log.
    Trim,
}

impl Tier {
    /// Uploads `segments` (sealed, in order, touching each other, below high watermark and last stable offset) and
    /// commits them with one manifest. What the tier has already is skipped, so it may be called again with the
    /// same after any error. Nothing of it survives in memory if the future is dropped; what was stored by then is
    /// collected later.
    pub async fn upload(
        &self,
        partition: TierPartition,
        epoch: LeaderEpoch,
        segments: Vec<SealedInput>,
        metadata: Arc<dyn TierMetadata>,
    ) -> Result<TierPointer, UploadError> {
        assert!(
            segments.windows(2).all(|pair| pair[0].end == pair[1].base),
            "gap between sealed segments"
        );
        self.commit(partition, epoch, Change::Add(segments), metadata)
            .await
            .map(|(pointer, _)| pointer)
    }

    pub(crate) async fn commit(
        &self,
        partition: TierPartition,
        epoch: LeaderEpoch,
        change: Change,
        metadata: Arc<dyn TierMetadata>,
    ) -> Result<(TierPointer, Vec<Arc<Entry>>), UploadError> {
        let inner = Arc::clone(&self.inner);
        // On the runtime where connections live, but ended together with the caller's future.
        let task = inner.runtime.clone().spawn(async move {
            let lock = inner.partition_lock(partition);
            let _one_at_a_time = lock.lock().await;
            Committing::new(&inner, partition, epoch, change, &*metadata)
                .run()
                .await
        });
        AbortOnDrop(task).await
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<Result<T, UploadError>>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, UploadError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let done = std::pin::Pin::new(&mut self.0).poll(context);
        done.map(|done| {
            done.unwrap_or_else(|ended| Err(UploadError::Unknown(format!("broker is stopping: {ended}"))))
        })
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Committing<'a> {
    inner: &'a Arc<Inner>,
    partition: TierPartition,
    epoch: LeaderEpoch,
    metadata: &'a dyn TierMetadata,
    trims: bool,
    segments: Vec<SealedInput>,
    stored: Vec<Option<Arc<Entry>>>,
    upload: Upload,
    attempts: Attempts<'a>,
    /// The manifest in the bucket that waits to be committed.
    draft: Option<Draft>,
}

impl<'a> Committing<'a> {
    fn new(
        inner: &'a Arc<Inner>,
        partition: TierPartition,
        epoch: LeaderEpoch,
        change: Change,
        metadata: &'a dyn TierMetadata,
    ) -> Self {
        let (trims, segments) = match change {
            Change::Add(segments) => (false, segments),
            Change::Trim => (true, Vec::new()),
        };
        Self {
            inner,
            partition,
            epoch,
            metadata,
            trims,
            stored: vec![None; segments.len()],
            upload: Upload::new(
                epoch,
                segments.first().map(|s| s.base),
                inner.settings.upload_attempts_max,
            ),
            segments,
            attempts: Attempts {
                inner,
                ids: Vec::new(),
                keep: false,
            },
            draft: None,
        }
    }

    async fn run(mut self) -> Result<(TierPointer, Vec<Arc<Entry>>), UploadError> {
        let first = self.read_current().await;
        if let Event::Current(Committed {
            pointer: Some(pointer),
            ..
        }) = &first
            && self.skip_what_is_tiered(pointer.end)
        {
            return Ok((pointer.clone(), Vec::new()));
        }
        let mut step = self.upload.step(first);
        loop {
            if let Some(failed) = step.wait {
                tokio::time::sleep(self.inner.store.backoff(failed)).await;
            }
            let event = match step.action {
                Action::ReadCurrent => self.read_current().await,
                Action::Store => self.store_segments().await,
                Action::PutManifest => self.put_manifest().await?,
                Action::Propose => self.propose().await,
                Action::Done(outcome) => return self.end(outcome),
            };
            step = self.upload.step(event);
        }
    }

    /// A caller that comes again after an unknown outcome brings segments that may be in the tier by now.
    /// Whether that was all.
    fn skip_what_is_tiered(&mut self, tier_end: Offset) -> bool {
        let count = self.segments.len();
        self.segments.retain(|segment| segment.end > tier_end);
        self.stored.truncate(self.segments.len());
        let attempts_max = self.inner.settings.upload_attempts_max;
        self.upload = Upload::new(self.epoch, self.segments.first().map(|s| s.base), attempts_max);
        count > 0 && self.segments.is_empty()
    }

    async fn read_current(&self) -> Event {
        match self.metadata.current(self.partition).await {
            Ok(committed) => Event::Current(committed),
            Err(error) => Event::CurrentFailed(error),
        }
    }

    async fn store_segments(&mut self) -> Event {
        let missing: Vec<usize> = (0..self.segments.len())
            .filter(|i| self.stored[*i].is_none())
            .collect();
        let mut storing = futures::stream::iter(missing)
            .map(|i| {
                let (inner, partition, epoch) = (self.inner, self.partition, self.epoch);
                let (input, attempt) = (self.segments[i].clone(), self.attempts.begin());
                async move { (i, store_segment(inner, partition, epoch, input, attempt).await) }
            })
            .buffered(self.inner.settings.uploads_parallel.max(1));
        let mut failed = None;
        while let Some((i, done)) = storing.next().await {
            match done {
                Ok(entry) => self.stored[i] = Some(Arc::new(entry)),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Event::Stored,
            Some(StoreFailure::Sealed(error)) => Event::Damaged(error),
            Some(StoreFailure::Store(error)) => Event::StoreFailed(error),
        }
    }

    async fn put_manifest(&mut self) -> Result<Event, UploadError> {
        let Some(current) = self.upload.current().cloned() else {
            return Err(UploadError::NotApplied(
                "state of the tier is not known".to_owned(),
            ));
        };
        let old = match &current.pointer {
            None => None,
            Some(pointer) => match self.inner.manifests.get(self.partition, pointer).await {
                Ok(manifest) => Some(manifest),
                Err(error) => return Ok(Event::ManifestFailed(error)),
            },
        };
        let attempt = self.attempts.begin();
        let name = ManifestName {
            epoch: self.epoch,
            version: current.version() + 1,
            attempt,
        };
        let wanted = Wanted {
            added: self.stored.iter().flatten().cloned().collect(),
            epoch_chain: self.segments.last().map(|last| last.epoch_chain.clone()),
            keep_from: if self.trims {
                current.log_start
            } else {
                Offset::ZERO
            },
        };
        let draft = draft(
            self.partition,
            &self.inner.keys,
            name,
            &current,
            old.as_deref(),
            wanted,
        )?;
        let key = draft.proposal.pointer.manifest_key.clone();
        let payload = PutPayload::from_bytes(draft.encoded.clone());
        if let Err(error) = self.inner.store.put(Reason::Manifest, &key, payload).await {
            return Ok(Event::ManifestFailed(error));
        }
        self.draft = Some(draft);
        // Until the outcome is known, being interrupted must not make orphans of what may be committed.
        self.attempts.keep = true;
        Ok(Event::ManifestPut(key))
    }

    async fn propose(&self) -> Event {
        let Some(draft) = &self.draft else {
            return Event::NotAccepted(CommitError::NotApplied("no manifest".to_owned()));
        };
        match self.metadata.commit(&draft.proposal).await {
            Ok(()) => Event::Accepted,
            Err(error) => Event::NotAccepted(error),
        }
    }

    fn end(mut self, outcome: Outcome) -> Result<(TierPointer, Vec<Arc<Entry>>), UploadError> {
        self.attempts.keep = self.upload.may_be_accepted() && outcome != Outcome::Committed;
        let base = self.segments.first().map_or(Offset::ZERO, |segment| segment.base);
        match (outcome, self.draft.take()) {
            (Outcome::Committed, Some(draft)) => {
                self.inner
                    .manifests
                    .put(&draft.proposal.pointer.manifest_key, draft.manifest);
                Ok((draft.proposal.pointer, draft.dropped))
            }
            (Outcome::Committed, None) => {
                Err(UploadError::Unknown("committed without a manifest".to_owned()))
            }
            (Outcome::Superseded, _) => Err(UploadError::Superseded),
            (Outcome::Gone, _) => Err(UploadError::Gone),
            (Outcome::DoesNotFit { tier_end }, _) => Err(UploadError::DoesNotFit { base, tier_end }),
            (Outcome::Damaged(error), _) => Err(UploadError::Corrupt(error)),
            (Outcome::Unavailable(cause), _) => Err(UploadError::NotApplied(cause)),
            (Outcome::Unresolved(cause), _) => Err(UploadError::Unknown(cause)),
        }
    }
}

/// Protects the attempts of one commit from the collector.
struct Attempts<'a> {
    inner: &'a Inner,
    ids: Vec<Uuid>,
    /// What became of them is not known, and may never be: they stay protected until their epoch is fenced.
    keep: bool,
}

impl Attempts<'_> {
    fn begin(&mut self) -> Uuid {
        let attempt = self.inner.attempt();
        self.inner.in_flight.lock().insert(attempt);
        self.ids.push(attempt);
        attempt
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let mut in_flight = self.inner.in_flight.lock();
            self.ids.iter().for_each(|id| {
                in_flight.remove(id);
            });
        }
    }
}
