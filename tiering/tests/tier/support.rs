//! What the tests of the tier share: a bucket that misbehaves, a quorum in memory, logs to upload.
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use uuid::Uuid;
use varve_cache::Cache;
use varve_cluster::TopicId;
use varve_cluster::controller::TierPointer;
use varve_log::{Builder, DiskFile, EpochChain, LeaderEpoch, Offset, Timestamp};
use varve_tiering::{
    Chance, CommitError, Committed, CursorId, MetadataError, Patience, Proposal, SealedInput, Settings,
    Store, Tier, TierMetadata, TierPartition,
};

pub(crate) const EPOCH: LeaderEpoch = LeaderEpoch::new(7);

pub(crate) fn partition() -> TierPartition {
    TierPartition {
        topic: TopicId::new(Uuid::from_u128(0xfeed)),
        index: 4,
    }
}

/// Chance with a seed.
pub(crate) fn chance(seed: u64) -> Chance {
    let state = AtomicU64::new(seed);
    Arc::new(move || {
        let half = || {
            // SplitMix64.
            let mut z = state
                .fetch_add(0x9E37_79B9_7F4A_7C15, SeqCst)
                .wrapping_add(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            u128::from(z ^ (z >> 31))
        };
        half() << 64 | half()
    })
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused before anything happened.
    Unavailable,
    /// It happened, and nobody hears of it.
    AnswerLost,
    /// Nothing happens, for ever.
    Hangs,
    /// The body ends early, without an error.
    Truncated,
    /// A byte of the body is another one.
    Flipped,
    Slow(Duration),
}

type Plan = Box<dyn FnMut(&'static str, &str) -> Option<Fault> + Send>;

/// A bucket in memory. `plan` is asked before each request: what, and which key.
pub(crate) struct FaultyBucket {
    pub(crate) inside: InMemory,
    plan: Mutex<Plan>,
    pub(crate) ranges: Mutex<Vec<(String, u64)>>,
}

impl FaultyBucket {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inside: InMemory::new(),
            plan: Mutex::new(Box::new(|_, _| None)),
            ranges: Mutex::default(),
        })
    }

    pub(crate) fn plan(&self, plan: impl FnMut(&'static str, &str) -> Option<Fault> + Send + 'static) {
        *self.plan.lock() = Box::new(plan);
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        let listed: Vec<_> = self.inside.list(None).collect().await;
        let mut keys: Vec<String> = listed
            .into_iter()
            .map(|meta| meta.unwrap().location.to_string())
            .collect();
        keys.sort();
        keys
    }

    async fn before(&self, what: &'static str, key: &Path) -> Result<Option<Fault>> {
        let fault = (self.plan.lock())(what, key.as_ref());
        match fault {
            Some(Fault::Unavailable) => Err(failed("status code: 503 Slow Down")),
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

fn failed(text: &'static str) -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: text.into(),
    }
}

impl fmt::Debug for FaultyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyBucket")
    }
}

impl fmt::Display for FaultyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyBucket")
    }
}

#[async_trait]
impl ObjectStore for FaultyBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.before("put", location).await?;
        let done = self.inside.put_opts(location, payload, options).await?;
        if fault == Some(Fault::AnswerLost) {
            Err(failed("connection reset"))
        } else {
            Ok(done)
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.before("put", location).await?;
        self.inside.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self
            .before(if options.head { "head" } else { "get" }, location)
            .await?;
        let answer = self.inside.get_opts(location, options).await?;
        if let Some(Fault::Truncated | Fault::Flipped) = fault {
            let (range, meta, attributes) = (
                answer.range.clone(),
                answer.meta.clone(),
                answer.attributes.clone(),
            );
            let mut body = answer.bytes().await?.to_vec();
            if fault == Some(Fault::Truncated) {
                body.truncate(body.len() / 2);
            } else if let Some(byte) = body.last_mut() {
                *byte ^= 1;
            }
            let body = futures::stream::once(async move { Ok(Bytes::from(body)) }).boxed();
            let payload = GetResultPayload::Stream(body);
            return Ok(GetResult {
                payload,
                meta,
                range,
                attributes,
                extensions: Default::default(),
            });
        }
        self.ranges
            .lock()
            .push((location.to_string(), answer.range.end - answer.range.start));
        Ok(answer)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inside.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inside.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inside.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inside.copy_opts(from, to, options).await
    }
}

/// What the quorum answers to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Honest,
    /// It was applied, and the answer is lost.
    AppliedUnknown,
    /// It was not, and the answer is lost as well.
    NotAppliedUnknown,
    /// It stays under way: applied when the next one is proposed, or never.
    Delayed,
}

/// The rules of `CommitTier`, in memory.
#[derive(Debug)]
pub(crate) struct Quorum {
    state: Mutex<QuorumState>,
}

#[derive(Debug)]
struct QuorumState {
    committed: Committed,
    delayed: Option<Proposal>,
    answers: Vec<Answer>,
    gone: bool,
    barriers: u64,
    commits: u64,
}

impl Quorum {
    pub(crate) fn new() -> Arc<Self> {
        let committed = Committed {
            pointer: None,
            leader_epoch: EPOCH,
            log_start: Offset::ZERO,
        };
        let state = QuorumState {
            committed,
            delayed: None,
            answers: vec![],
            gone: false,
            barriers: 0,
            commits: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    pub(crate) fn committed(&self) -> Committed {
        self.state.lock().committed.clone()
    }

    pub(crate) fn pointer(&self) -> TierPointer {
        self.committed().pointer.expect("something was committed")
    }

    pub(crate) fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    pub(crate) fn barriers(&self) -> u64 {
        self.state.lock().barriers
    }

    pub(crate) fn new_leader(&self) -> LeaderEpoch {
        let mut state = self.state.lock();
        state.committed.leader_epoch = state.committed.leader_epoch.plus(1);
        state.committed.leader_epoch
    }

    pub(crate) fn advance_log_start(&self, to: Offset) {
        let mut state = self.state.lock();
        state.committed.log_start = state.committed.log_start.max(to);
    }

    pub(crate) fn delete_topic(&self) {
        self.state.lock().gone = true;
    }

    /// What the next commits are answered with; afterwards honestly again.
    pub(crate) fn answer(&self, answers: &[Answer]) {
        self.state.lock().answers = answers.iter().rev().copied().collect();
    }

    /// What was under way arrives now.
    pub(crate) fn deliver(&self) {
        let mut state = self.state.lock();
        if let Some(proposal) = state.delayed.take() {
            let _ = state.apply(&proposal);
        }
    }
}

impl QuorumState {
    fn apply(&mut self, proposal: &Proposal) -> Result<(), CommitError> {
        let reject = |why: &str| Err(CommitError::Rejected(why.to_owned()));
        let old = self.committed.pointer.as_ref();
        let new = &proposal.pointer;
        if proposal.leader_epoch != self.committed.leader_epoch {
            return reject("not the leader");
        }
        if proposal.expected_version != old.map_or(0, |old| old.version)
            || new.version != proposal.expected_version + 1
        {
            return reject("tier moved");
        }
        let log_start = self.committed.log_start;
        if let Some(old) = old {
            assert!(
                new.start >= old.start && (new.start == old.start || new.start <= log_start),
                "drops what is kept"
            );
            let continues = proposal.base == old.end && new.end >= old.end;
            let skips = proposal.base > old.end && proposal.base <= log_start && new.start == proposal.base;
            assert!(continues || skips, "gap in the tier: {proposal:?} after {old:?}");
        } else {
            assert_eq!(new.start, proposal.base);
        }
        self.committed.pointer = Some(new.clone());
        self.commits += 1;
        Ok(())
    }
}

#[async_trait]
impl TierMetadata for Quorum {
    async fn current(&self, _: TierPartition) -> Result<Committed, MetadataError> {
        let state = self.state.lock();
        if state.gone {
            Err(MetadataError::Gone)
        } else {
            Ok(state.committed.clone())
        }
    }

    async fn commit(&self, proposal: &Proposal) -> Result<(), CommitError> {
        let mut state = self.state.lock();
        if let Some(delayed) = state.delayed.take() {
            let _ = state.apply(&delayed);
        }
        let unknown = || Err(CommitError::Unknown("no answer".to_owned()));
        match state.answers.pop().unwrap_or(Answer::Honest) {
            Answer::Honest => state.apply(proposal),
            Answer::AppliedUnknown => {
                let _ = state.apply(proposal);
                unknown()
            }
            Answer::NotAppliedUnknown => unknown(),
            Answer::Delayed => {
                state.delayed = Some(proposal.clone());
                unknown()
            }
        }
    }

    async fn barrier(&self) -> Result<(), MetadataError> {
        self.state.lock().barriers += 1;
        Ok(())
    }
}

/// A sealed file in memory.
#[derive(Debug)]
pub(crate) struct MemoryFile(pub Bytes);

impl DiskFile for MemoryFile {
    fn write_vectored_at(&self, _: &[io::IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let from = usize::try_from(position).unwrap().min(self.0.len());
        let len = buffer.len().min(self.0.len() - from);
        buffer[..len].copy_from_slice(&self.0[from..from + len]);
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A sealed segment of `batches` batches from `base` on, each of `records` records of `value` bytes.
pub(crate) fn segment(base: i64, batches: usize, records: usize, value: usize) -> SealedInput {
    let mut bytes = Vec::new();
    let mut offset = base;
    let mut seed = base.unsigned_abs() + 1;
    for _ in 0..batches {
        let mut builder = Builder::new(Timestamp::new(1_000_000 + offset * 10));
        for i in 0..records {
            let mut body = vec![0; value];
            for byte in &mut body {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                *byte = seed.to_be_bytes()[0];
            }
            let time = Timestamp::new(1_000_000 + (offset + i64::try_from(i).unwrap()) * 10);
            builder = builder.push(time, Some(&offset.to_be_bytes()), Some(&body), &[]);
        }
        let mut batch = builder.build().to_vec();
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        batch[12..16].copy_from_slice(&EPOCH.value().to_be_bytes());
        bytes.extend_from_slice(&batch);
        offset += i64::try_from(records).unwrap();
    }
    let mut chain = EpochChain::new();
    chain.begin(LeaderEpoch::new(3), Offset::ZERO);
    chain.begin(EPOCH, Offset::new(50));
    SealedInput {
        base: Offset::new(base),
        end: Offset::new(offset),
        bytes: bytes.len() as u64,
        max_timestamp: Timestamp::new(1_000_000 + (offset - 1) * 10),
        file: Arc::new(MemoryFile(bytes.into())),
        producer_snapshot: Bytes::from_static(b"producers"),
        epoch_chain: chain.encode().into(),
    }
}

/// All bytes of the segments, one behind the other.
pub(crate) fn bytes_of(segments: &[SealedInput]) -> Vec<u8> {
    let mut all = Vec::new();
    for segment in segments {
        let mut bytes = vec![0; usize::try_from(segment.bytes).unwrap()];
        segment.file.read_exact_at(&mut bytes, 0).unwrap();
        all.extend_from_slice(&bytes);
    }
    all
}

/// Short, because tests wait for what hangs; long enough for a machine that is busy with other tests.
pub(crate) fn patience() -> Patience {
    Patience {
        answer: Duration::from_millis(1500),
        stall: Duration::from_millis(1500),
        backoff_first: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        ..Patience::default()
    }
}

pub(crate) fn store(bucket: &Arc<FaultyBucket>) -> Store {
    store_with(bucket, patience())
}

pub(crate) fn store_with(bucket: &Arc<FaultyBucket>, patience: Patience) -> Store {
    let objects = Arc::clone(bucket) as Arc<dyn ObjectStore>;
    Store::new(objects, "some/prefix", patience, chance(1))
}

pub(crate) async fn tier(store: Store, change: impl FnOnce(&mut Settings)) -> Tier {
    let mut settings = Settings::new("cluster-1");
    change(&mut settings);
    let runtime = tokio::runtime::Handle::current();
    let cache = varve_cache::Settings {
        memory_bytes: 256 << 20,
        disk_bytes: 0,
        dir: "/nowhere".into(),
    };
    let cache = Arc::new(Cache::open(&cache, &runtime).await.unwrap());
    Tier::new(settings, store, cache, runtime, chance(2)).unwrap()
}

pub(crate) fn metadata(quorum: &Arc<Quorum>) -> Arc<dyn TierMetadata> {
    Arc::clone(quorum) as Arc<dyn TierMetadata>
}

/// All of the tier from `from` on, as one consumer reads it.
pub(crate) async fn read_all(tier: &Tier, quorum: &Quorum, from: Offset, max_bytes: usize) -> Vec<u8> {
    read_as_of(tier, &quorum.pointer(), from, max_bytes).await
}

/// All that `pointer` names from `from` on, whatever is committed meanwhile.
pub(crate) async fn read_as_of(
    tier: &Tier,
    pointer: &TierPointer,
    from: Offset,
    max_bytes: usize,
) -> Vec<u8> {
    let (mut next, mut all) = (from, Vec::new());
    while next < pointer.end {
        let slice = tier
            .read(partition(), pointer, next, max_bytes, CursorId(1))
            .await
            .unwrap();
        assert!(slice.next_offset > next);
        slice.batches.iter().for_each(|run| all.extend_from_slice(run));
        next = slice.next_offset;
    }
    all
}
