//! A bucket that fails on request: a PUT refused, or done and reported as failed; reads that fail; deletes that fail.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Fails about `per_mille` of a thousand calls, chosen by a seed.
#[derive(Debug, Default)]
pub(crate) struct FaultyStore {
    inner: InMemory,
    per_mille: AtomicU32,
    chance: AtomicU64,
    failed: AtomicU64,
}

impl FaultyStore {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            chance: AtomicU64::new(seed),
            ..Self::default()
        }
    }

    pub(crate) fn fail(&self, per_mille: u32) {
        self.per_mille.store(per_mille, Ordering::Relaxed);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn fails(&self) -> bool {
        let step = self.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let fails = mix(step) % 1000 < u64::from(self.per_mille.load(Ordering::Relaxed));
        self.failed.fetch_add(u64::from(fails), Ordering::Relaxed);
        fails
    }

    fn try_it(&self) -> Result<()> {
        if self.fails() { Err(down()) } else { Ok(()) }
    }
}

pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn down() -> Error {
    Error::Generic {
        store: "faulty",
        source: "simulated".into(),
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.try_it()?;
        let done = self.inner.put_opts(at, payload, options).await?;
        self.try_it()?;
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.try_it()?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.try_it()?;
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, all: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.fails() {
            return Box::pin(futures::stream::once(async { Err(down()) }));
        }
        self.inner.delete_stream(all)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.try_it()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
