//! The bucket as other crates know it: an `object_store::ObjectStore` over [`Store`].
//!
//! Keys are relative to the bucket's prefix, requests are counted under one reason, and reads have the retries of
//! [`Store`]: a body is complete before anything of it is handed on. Writes go through as they come, once.

use crate::store::{Reason, Store};
use crate::store_error::StoreError;
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;

#[derive(Debug, Clone)]
pub(crate) struct Plain {
    store: Store,
    reason: Reason,
}

impl Plain {
    pub(crate) fn new(store: Store, reason: Reason) -> Self {
        Self { store, reason }
    }

    fn full(&self, location: &Path) -> Path {
        self.store.path(location.as_ref())
    }

    fn way(&self, prefix: Option<&Path>) -> Path {
        self.store.path(prefix.map_or("", Path::as_ref))
    }

    fn relative(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.location = Path::from(self.store.key(&meta.location));
        meta
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "varve bucket for {}: {}",
            self.reason.name(),
            self.store.objects()
        )
    }
}

#[async_trait]
impl ObjectStore for Plain {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.count_put(self.reason, payload.content_length());
        self.store
            .objects()
            .put_opts(&self.full(location), payload, options)
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.count_put(self.reason, 0);
        self.store
            .objects()
            .put_multipart_opts(&self.full(location), options)
            .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let full = self.full(location);
        if options.head {
            self.store.count_head(self.reason);
            let answer = self.store.objects().get_opts(&full, options).await?;
            let meta = self.relative(answer.meta.clone());
            return Ok(GetResult { meta, ..answer });
        }
        // Only a plain read may be answered by one of ours; conditions and versions go straight through.
        let plain = options.if_match.is_none()
            && options.if_none_match.is_none()
            && options.if_modified_since.is_none()
            && options.if_unmodified_since.is_none()
            && options.version.is_none();
        if let (true, Some(GetRange::Bounded(range))) = (plain, options.range.clone()) {
            let got = self
                .store
                .get_range(self.reason, location.as_ref(), range.clone(), None)
                .await;
            return match got {
                Ok(bytes) => Ok(whole(location, range.end, range, bytes)),
                // Shorter than asked for: object_store's contract is to hand on what there is.
                Err(StoreError::Corrupt { .. }) => self.store.objects().get_opts(&full, options).await,
                Err(error) => Err(foreign(location, error)),
            };
        }
        self.store.count_get(self.reason);
        let answer = self.store.objects().get_opts(&full, options).await?;
        let meta = self.relative(answer.meta.clone());
        Ok(GetResult { meta, ..answer })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (this, back) = (self.clone(), self.clone());
        let full = locations.map_ok(move |location| {
            this.store.count_delete(this.reason);
            this.full(&location)
        });
        let deleted = self.store.objects().delete_stream(full.boxed());
        deleted
            .map_ok(move |path| Path::from(back.store.key(&path)))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.count_list(self.reason);
        let full = self.way(prefix);
        let this = self.clone();
        self.store
            .objects()
            .list(Some(&full))
            .map_ok(move |meta| this.relative(meta))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.count_list(self.reason);
        let full = self.way(prefix);
        let mut listed = self.store.objects().list_with_delimiter(Some(&full)).await?;
        listed.objects = listed
            .objects
            .into_iter()
            .map(|meta| self.relative(meta))
            .collect();
        listed.common_prefixes = listed
            .common_prefixes
            .iter()
            .map(|path| Path::from(self.store.key(path)))
            .collect();
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.count_put(self.reason, 0);
        self.store
            .objects()
            .copy_opts(&self.full(from), &self.full(to), options)
            .await
    }
}

fn whole(location: &Path, size: u64, range: std::ops::Range<u64>, bytes: bytes::Bytes) -> GetResult {
    // The size is not known from a range; its end is the least it can be. Who needs it asks with `head`.
    let meta = ObjectMeta {
        location: location.clone(),
        last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
        size,
        e_tag: None,
        version: None,
    };
    let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
    GetResult {
        payload,
        meta,
        range,
        attributes: Default::default(),
        extensions: Default::default(),
    }
}

fn foreign(location: &Path, error: StoreError) -> Error {
    let path = location.to_string();
    match error {
        StoreError::Missing { .. } => Error::NotFound {
            path,
            source: Box::new(error),
        },
        other => Error::Generic {
            store: "varve bucket",
            source: Box::new(other),
        },
    }
}
