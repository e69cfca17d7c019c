//! iceberg's `Storage` over any object store: one client, one retry policy, one set of metrics.
//!
//! Table metadata holds absolute URIs so that a stranger's engine can open it from the metadata file alone.
//! A store knows only keys below its own root, so every call strips the root's URI here and nowhere else.

use crate::commit;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind, Result, Runtime, TableIdent};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Parts of a multipart upload; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts of one file in flight: bounds what a slow store can pile up in memory.
const PARTS_IN_FLIGHT: usize = 4;

/// A store and the absolute URI of its root, e.g. `s3://bucket/prefix` or `file:///var/lib/varve/bucket`.
///
/// iceberg asks for serde (typetag) so that plans can travel. Ours never do: a copy that went through serde has
/// no store and answers every call with an error.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Bucket {
    #[serde(skip)]
    store: Option<Arc<dyn ObjectStore>>,
    root: String,
}

impl Bucket {
    pub fn new(store: Arc<dyn ObjectStore>, root_uri: &str) -> Self {
        Self {
            store: Some(store),
            root: root_uri.trim_end_matches('/').to_owned(),
        }
    }

    /// Where the table of a topic lives.
    pub fn table_location(&self, topic: &str) -> String {
        format!("{}/tables/{topic}", self.root)
    }

    /// One version of a table as iceberg's own library, and engines built on it, read it. To be called, and the table
    /// used, inside a tokio runtime.
    pub async fn open_table(&self, name: &str, metadata_location: &str) -> Result<iceberg::table::Table> {
        let io = self.file_io();
        let metadata = commit::read_metadata(&io, metadata_location).await?;
        iceberg::table::Table::builder()
            .identifier(TableIdent::from_strs(["varve", name])?)
            .metadata(metadata)
            .metadata_location(metadata_location)
            .file_io(io)
            .runtime(Runtime::try_current()?)
            .readonly(true)
            .build()
    }

    pub(crate) fn file_io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(self.clone())).build()
    }

    /// The store and the key that a URI means.
    pub(crate) fn at(&self, uri: &str) -> Result<(&Arc<dyn ObjectStore>, Path)> {
        let outside = || {
            Error::new(
                ErrorKind::DataInvalid,
                format!("not a file of this bucket: {uri}"),
            )
        };
        let key = uri
            .strip_prefix(self.root.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        let key = Path::parse(key.ok_or_else(outside)?).map_err(|cause| outside().with_source(cause))?;
        let no_store = || Error::new(ErrorKind::Unexpected, "a bucket that was serialised has no store");
        Ok((self.store.as_ref().ok_or_else(no_store)?, key))
    }

    /// File names directly below a folder, without it.
    pub(crate) async fn names_in(&self, folder: &str) -> Result<Vec<String>> {
        let (store, prefix) = self.at(folder)?;
        let listed = store.list_with_delimiter(Some(&prefix)).await.map_err(failed)?;
        Ok(listed
            .objects
            .into_iter()
            .filter_map(|o| o.location.filename().map(str::to_owned))
            .collect())
    }

    /// Deletes what it can of `uris`. What stays behind costs space and nothing else, so failures are only told.
    pub(crate) async fn delete_all(&self, uris: impl IntoIterator<Item = String>) {
        for uri in uris {
            if let Err(cause) = self.delete(&uri).await {
                tracing::warn!(%uri, %cause, "could not delete a file that no table version refers to");
            }
        }
    }
}

fn failed(cause: object_store::Error) -> Error {
    use object_store::Error as Store;
    let final_answer = matches!(
        cause,
        Store::NotFound { .. } | Store::AlreadyExists { .. } | Store::Precondition { .. }
    );
    Error::new(ErrorKind::Unexpected, "object store failed")
        .with_source(cause)
        .with_retryable(!final_answer)
}

struct Reader(Arc<dyn ObjectStore>, Path);

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.0.get_range(&self.1, range).await.map_err(failed)
    }
}

/// Collects up to a part, and only then starts a multipart upload: most metadata files are one small PUT.
struct Writer {
    store: Arc<dyn ObjectStore>,
    key: Path,
    small: Vec<u8>,
    large: Option<WriteMultipart>,
    closed: bool,
}

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if self.closed {
            return Err(Error::new(ErrorKind::Unexpected, "written to after close"));
        }
        if self.large.is_none() && self.small.len() + bytes.len() <= PART_BYTES {
            self.small.extend_from_slice(&bytes);
            return Ok(());
        }
        if self.large.is_none() {
            let upload = self.store.put_multipart(&self.key).await.map_err(failed)?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            upload.write(&std::mem::take(&mut self.small));
            self.large = Some(upload);
        }
        if let Some(upload) = &mut self.large {
            upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(failed)?;
            upload.put(bytes);
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        match self.large.take() {
            Some(upload) => upload.finish().await.map(drop),
            None => {
                let bytes = std::mem::take(&mut self.small);
                self.store.put(&self.key, PutPayload::from(bytes)).await.map(drop)
            }
        }
        .map_err(failed)
    }
}

#[async_trait]
#[typetag::serde]
impl Storage for Bucket {
    async fn exists(&self, uri: &str) -> Result<bool> {
        let (store, key) = self.at(uri)?;
        match store.head(&key).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(cause) => Err(failed(cause)),
        }
    }

    async fn metadata(&self, uri: &str) -> Result<FileMetadata> {
        let (store, key) = self.at(uri)?;
        Ok(FileMetadata {
            size: store.head(&key).await.map_err(failed)?.size,
        })
    }

    async fn read(&self, uri: &str) -> Result<Bytes> {
        let (store, key) = self.at(uri)?;
        store
            .get(&key)
            .await
            .map_err(failed)?
            .bytes()
            .await
            .map_err(failed)
    }

    async fn reader(&self, uri: &str) -> Result<Box<dyn FileRead>> {
        let (store, key) = self.at(uri)?;
        Ok(Box::new(Reader(Arc::clone(store), key)))
    }

    async fn write(&self, uri: &str, bytes: Bytes) -> Result<()> {
        let mut writer = self.writer(uri).await?;
        writer.write(bytes).await?;
        writer.close().await
    }

    async fn writer(&self, uri: &str) -> Result<Box<dyn FileWrite>> {
        let (store, key) = self.at(uri)?;
        Ok(Box::new(Writer {
            store: Arc::clone(store),
            key,
            small: Vec::new(),
            large: None,
            closed: false,
        }))
    }

    async fn delete(&self, uri: &str) -> Result<()> {
        let (store, key) = self.at(uri)?;
        match store.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(failed(cause)),
        }
    }

    async fn delete_prefix(&self, uri: &str) -> Result<()> {
        let (store, key) = self.at(uri)?;
        let all = store.list(Some(&key)).map_ok(|found| found.location).boxed();
        store
            .delete_stream(all)
            .try_for_each(async |_| Ok(()))
            .await
            .map_err(failed)
    }

    async fn delete_stream(&self, mut uris: BoxStream<'static, String>) -> Result<()> {
        while let Some(uri) = uris.next().await {
            self.delete(&uri).await?;
        }
        Ok(())
    }

    fn new_input(&self, uri: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), uri.to_owned()))
    }

    fn new_output(&self, uri: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), uri.to_owned()))
    }
}

#[typetag::serde]
impl StorageFactory for Bucket {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}
