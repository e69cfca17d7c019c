//! Carries out what `upload` decides: segments and manifests into the bucket, and the commit.

use crate::TierPartition;
use crate::commit::{CommitError, Committed, Proposal, TierMetadata};
use crate::files::Stopped;
use crate::keys::{ManifestName, SegmentName};
use crate::manifest::{ENTRIES_MAX, Entry, Manifest};
use crate::object::{Block, HEADER_BYTES, Header, Sections};
use crate::sealed::{Reading, SealedError, SealedInput};
use crate::store::{Cause, CauseKind, Parts, Reason, StoreError};
use crate::tier::{Inner, Tier, UPLOAD_UNIT};
use crate::upload::{Action, Event, Outcome, Upload};
use bytes::Bytes;
use futures::StreamExt;
use object_store::PutPayload;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;
use varve_cluster::controller::TierPointer;
use varve_log::{LeaderEpoch, Offset};

/// Pieces in which a sealed file is read.
const PIECE_BYTES: usize = 8 << 20;

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
        assert!(segments.windows(2).all(|pair| pair[0].end == pair[1].base), "gap between sealed segments");
        self.commit(partition, epoch, Change::Add(segments), metadata).await.map(|(pointer, _)| pointer)
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
            Committing::new(&inner, partition, epoch, change, &*metadata).run().await
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
        done.map(|done| done.unwrap_or_else(|ended| Err(UploadError::Unknown(format!("broker is stopping: {ended}")))))
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
    made: Option<Made>,
}

/// A manifest in the bucket that waits to be committed.
struct Made {
    manifest: Arc<Manifest>,
    proposal: Proposal,
    dropped: Vec<Arc<Entry>>,
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
            upload: Upload::new(epoch, segments.first().map(|s| s.base), inner.settings.upload_attempts_max),
            segments,
            attempts: Attempts { inner, ids: Vec::new(), keep: false },
            made: None,
        }
    }

    async fn run(mut self) -> Result<(TierPointer, Vec<Arc<Entry>>), UploadError> {
        let first = self.read_current().await;
        if let Event::Current(Committed { pointer: Some(pointer), .. }) = &first
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
        let missing: Vec<usize> = (0..self.segments.len()).filter(|i| self.stored[*i].is_none()).collect();
        let mut storing = futures::stream::iter(missing)
            .map(|i| {
                let (inner, partition, epoch) = (self.inner, self.partition, self.epoch);
                let (input, attempt) = (self.segments[i].clone(), inner.attempt());
                inner.in_flight.lock().insert(attempt);
                self.attempts.ids.push(attempt);
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
            return Err(UploadError::NotApplied("state of the tier is not known".to_owned()));
        };
        let old = match &current.pointer {
            None => None,
            Some(pointer) => match self.inner.manifests.get(self.partition, pointer).await {
                Ok(manifest) => Some(manifest),
                Err(error) => return Ok(Event::ManifestFailed(error)),
            },
        };
        let added: Vec<Arc<Entry>> = self.stored.iter().flatten().cloned().collect();
        let tier_end = current.pointer.as_ref().map(|pointer| pointer.end);
        let base = added.first().map(|entry| entry.base()).or(tier_end).unwrap_or(Offset::ZERO);
        // Across data that was deleted before it was tiered nothing continues: what is older is deleted as well.
        let continues = tier_end.is_none_or(|end| end == base);
        let keep_from = if self.trims { current.log_start } else { Offset::ZERO };
        let before = old.as_ref().map(|old| old.entries.clone()).unwrap_or_default();
        let (dropped, mut entries): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|entry| !continues || entry.end() <= keep_from);
        if added.is_empty() && dropped.is_empty() {
            return Err(UploadError::NotApplied("nothing to change in the tier".to_owned()));
        }
        entries.extend(added);
        if entries.len() > ENTRIES_MAX {
            return Err(UploadError::NotApplied(format!("manifest is full. entries={}", entries.len())));
        }
        let attempt = self.inner.attempt();
        self.inner.in_flight.lock().insert(attempt);
        self.attempts.ids.push(attempt);
        let name = ManifestName { epoch: self.epoch, version: current.version() + 1, attempt };
        let old_chain = old.map(|old| old.epoch_chain.clone()).unwrap_or_default();
        let epoch_chain = self.segments.last().map_or(old_chain, |last| last.epoch_chain.clone());
        let (partition, epoch, version) = (self.partition, self.epoch, name.version);
        let manifest = Manifest { partition, version, epoch, entries, epoch_chain };
        let encoded = manifest.encode();
        let end = manifest.end().or(tier_end).unwrap_or(base);
        let pointer = TierPointer {
            version,
            manifest_key: self.inner.keys.manifest(partition, name),
            manifest_hash: Manifest::hash(&encoded),
            start: manifest.start().unwrap_or(end),
            end,
            bytes: manifest.bytes(),
            leader_epoch: epoch,
        };
        let key = pointer.manifest_key.clone();
        if let Err(error) = self.inner.store.put(Reason::Manifest, &key, PutPayload::from_bytes(encoded)).await {
            return Ok(Event::ManifestFailed(error));
        }
        let expected_version = current.version();
        let proposal = Proposal { partition, leader_epoch: epoch, expected_version, base, pointer };
        self.made = Some(Made { manifest: Arc::new(manifest), proposal, dropped });
        // Until the outcome is known, being interrupted must not make orphans of what may be committed.
        self.attempts.keep = true;
        Ok(Event::ManifestPut(key))
    }

    async fn propose(&self) -> Event {
        let Some(made) = &self.made else {
            return Event::NotAccepted(CommitError::NotApplied("no manifest".to_owned()));
        };
        match self.metadata.commit(&made.proposal).await {
            Ok(()) => Event::Accepted,
            Err(error) => Event::NotAccepted(error),
        }
    }

    fn end(mut self, outcome: Outcome) -> Result<(TierPointer, Vec<Arc<Entry>>), UploadError> {
        self.attempts.keep = self.upload.may_be_accepted() && outcome != Outcome::Committed;
        let base = self.segments.first().map_or(Offset::ZERO, |segment| segment.base);
        match (outcome, self.made.take()) {
            (Outcome::Committed, Some(made)) => {
                self.inner.manifests.put(&made.proposal.pointer.manifest_key, made.manifest);
                Ok((made.proposal.pointer, made.dropped))
            }
            (Outcome::Committed, None) => Err(UploadError::Unknown("committed without a manifest".to_owned())),
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

enum StoreFailure {
    Sealed(SealedError),
    Store(StoreError),
}

impl From<StoreError> for StoreFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Stopped> for StoreFailure {
    fn from(_: Stopped) -> Self {
        Self::Store(StoreError::NotApplied(Cause { kind: CauseKind::Other, text: "broker is stopping".to_owned() }))
    }
}

/// One segment into one object, checked batch by batch on the way and by its size afterwards.
async fn store_segment(
    inner: &Arc<Inner>,
    partition: TierPartition,
    epoch: LeaderEpoch,
    input: SealedInput,
    attempt: Uuid,
) -> Result<Entry, StoreFailure> {
    let name = SegmentName { base: input.base, end: input.end, epoch, attempt };
    let key = inner.keys.segment(partition, name);
    let data_bytes = input.bytes;
    let whole = data_bytes <= inner.settings.single_put_bytes_max;
    let in_memory = if whole { data_bytes } else { (inner.settings.part_bytes + PIECE_BYTES) as u64 };
    let _room = upload_room(inner, in_memory).await?;
    let header = Header { partition, base: input.base, end: input.end, epoch }.encode();
    let sections = Sections {
        producer_snapshot: input.producer_snapshot.clone(),
        epoch_chain: input.epoch_chain.clone(),
        ..Sections::default()
    };
    let mut sealed = SealedStream { inner, reading: Some(Reading::new(input)) };
    let (blocks, tail_bytes) = if whole {
        put_whole(inner, &key, &mut sealed, header, sections, data_bytes).await?
    } else {
        let parts = inner.store.put_parts(Reason::Upload, &key).await?;
        put_parts(inner, parts, &mut sealed, header, sections, data_bytes).await?
    };
    let object_bytes = HEADER_BYTES as u64 + data_bytes + tail_bytes;
    let found = inner.store.head(Reason::Upload, &key).await?;
    if found != object_bytes {
        return Err(StoreError::Corrupt { key, reason: "stored object does not have the size it was sent with" }.into());
    }
    Ok(Entry::new(name, HEADER_BYTES as u64, data_bytes, object_bytes, blocks))
}

async fn upload_room(inner: &Arc<Inner>, bytes: u64) -> Result<tokio::sync::OwnedSemaphorePermit, StoreFailure> {
    let most = inner.settings.upload_budget_bytes / UPLOAD_UNIT;
    let units = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(UPLOAD_UNIT).min(most);
    let permit = Arc::clone(&inner.upload_budget).acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await;
    permit.map_err(|_closed| Stopped.into())
}

async fn put_whole(
    inner: &Arc<Inner>,
    key: &str,
    sealed: &mut SealedStream<'_>,
    header: Bytes,
    sections: Sections,
    data_bytes: u64,
) -> Result<(Vec<Block>, u64), StoreFailure> {
    let mut pieces = vec![header];
    while let Some(piece) = sealed.piece().await? {
        pieces.push(piece);
    }
    let blocks = sealed.finish()?;
    let tail = Sections { blocks: blocks.clone(), ..sections }.encode(data_bytes);
    let tail_bytes = tail.len() as u64;
    pieces.push(tail);
    inner.store.put(Reason::Upload, key, pieces.into_iter().collect()).await?;
    Ok((blocks, tail_bytes))
}

async fn put_parts(
    inner: &Arc<Inner>,
    mut parts: Parts,
    sealed: &mut SealedStream<'_>,
    header: Bytes,
    sections: Sections,
    data_bytes: u64,
) -> Result<(Vec<Block>, u64), StoreFailure> {
    let part_bytes = inner.settings.part_bytes;
    let mut waiting = Part::default();
    waiting.push(header);
    let sent = async {
        while let Some(piece) = sealed.piece().await? {
            waiting.push(piece);
            while waiting.bytes >= part_bytes {
                parts.put(waiting.cut(part_bytes)).await?;
            }
        }
        let blocks = sealed.finish()?;
        let tail = Sections { blocks: blocks.clone(), ..sections }.encode(data_bytes);
        let tail_bytes = tail.len() as u64;
        waiting.push(tail);
        while waiting.bytes > 0 {
            parts.put(waiting.cut(part_bytes)).await?;
        }
        Ok((blocks, tail_bytes))
    };
    match sent.await {
        Ok(done) => {
            parts.complete().await?;
            Ok(done)
        }
        Err(error) => {
            parts.abort().await;
            Err(error)
        }
    }
}

/// Bytes on their way into a part.
#[derive(Default)]
struct Part {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Part {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }

    /// The next part: exactly `most`, or all that is left.
    fn cut(&mut self, most: usize) -> PutPayload {
        let mut part = Vec::new();
        let mut room = most;
        while room > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let taken = piece.split_to(piece.len().min(room));
            room -= taken.len();
            self.bytes -= taken.len();
            part.push(taken);
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        part.into_iter().collect()
    }
}

/// [`Reading`], on the file threads.
struct SealedStream<'a> {
    inner: &'a Inner,
    /// `None` only while a thread has it, or after that went wrong.
    reading: Option<Reading>,
}

impl SealedStream<'_> {
    async fn piece(&mut self) -> Result<Option<Bytes>, StoreFailure> {
        let Some(mut reading) = self.reading.take() else { return Err(Stopped.into()) };
        let work = move || {
            let piece = reading.piece(PIECE_BYTES);
            (reading, piece)
        };
        let (reading, piece) = self.inner.files.run(work).await?;
        self.reading = Some(reading);
        piece.map_err(StoreFailure::Sealed)
    }

    fn finish(&mut self) -> Result<Vec<Block>, StoreFailure> {
        let Some(reading) = self.reading.take() else { return Err(Stopped.into()) };
        reading.finish().map_err(StoreFailure::Sealed)
    }
}
