//! The bucket, for commands that read tables: found by asking the cluster, or named on the command line.

use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde_json::Value;
use uuid::Uuid;
use varve_lakehouse_sink::{Bucket, TableReader};
use varve_tiering::{BucketConfig, Patience, Reason, open_bucket};

use super::client::Client;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The bucket, file:///path or s3://name/prefix; asked from the cluster if left out.
    #[arg(long, env = "VARVE_BUCKET", value_name = "URL")]
    bucket: Option<String>,
    /// The S3 server's address, if it is not AWS.
    #[arg(long, value_name = "URL", requires = "bucket")]
    endpoint: Option<String>,
    #[arg(long, requires = "bucket")]
    region: Option<String>,
}

impl Arguments {
    /// Whether a cluster has to be there: nobody named the bucket.
    pub(super) fn asks_cluster(&self) -> bool {
        self.bucket.is_none()
    }

    /// What was given, or what the cluster itself uses.
    pub(super) fn locate(
        &self,
        connect: impl FnOnce() -> super::client::Result<Client>,
    ) -> anyhow::Result<BucketConfig> {
        if let Some(url) = &self.bucket {
            let (endpoint, region) = (self.endpoint.clone(), self.region.clone());
            return Ok(BucketConfig {
                url: url.clone(),
                endpoint,
                region,
                path_style: None,
            });
        }
        let mut configs = connect()?.broker_configs()?;
        let mut take = |key: &str| configs.remove(key).flatten().filter(|value| !value.is_empty());
        Ok(BucketConfig {
            url: take("varve.bucket").context(
                "the cluster keeps no history in a bucket: set varve.bucket on its brokers, or name one with --bucket",
            )?,
            endpoint: take("varve.bucket.endpoint"),
            region: take("varve.bucket.region"),
            path_style: take("varve.bucket.path.style").and_then(|value| value.parse().ok()),
        })
    }
}

/// The part of a bucket that holds tables.
pub(super) struct Tables {
    store: Arc<dyn ObjectStore>,
    root: String,
}

/// What a table's newest metadata file says.
pub(super) struct Metadata {
    /// The file's URI.
    pub(super) location: String,
    pub(super) json: Value,
}

impl Tables {
    pub(super) async fn open(config: &BucketConfig) -> anyhow::Result<Self> {
        let chance = Arc::new(|| Uuid::new_v4().as_u128());
        let store = open_bucket(config, Patience::default(), chance).await?;
        let root = config.url.trim_end_matches('/').to_owned();
        Ok(Self {
            store: store.object_store(Reason::Table),
            root,
        })
    }

    /// The newest metadata of a topic's table; `None` if it has no table.
    pub(super) async fn newest(&self, topic: &str) -> anyhow::Result<Option<Metadata>> {
        let folder = Path::from(format!("tables/{topic}/metadata"));
        let files: Vec<_> = self.store.list(Some(&folder)).try_collect().await?;
        // The number in front grows with each commit; of two attempts at one commit the later file is looked at.
        let numbered = |file: object_store::ObjectMeta| Some((number(file.location.filename()?)?, file));
        let newest = files
            .into_iter()
            .filter_map(numbered)
            .max_by_key(|(number, file)| (*number, file.last_modified));
        let Some((_, file)) = newest else { return Ok(None) };
        let bytes = self.store.get(&file.location).await?.bytes().await?;
        let location = format!("{}/{}", self.root, file.location);
        let json = serde_json::from_slice(&bytes).with_context(|| format!("{location} is not JSON"))?;
        Ok(Some(Metadata { location, json }))
    }

    /// The topics that have a table, in order of their names.
    #[cfg(feature = "sql")]
    pub(super) async fn topics(&self) -> anyhow::Result<Vec<String>> {
        let folders = self
            .store
            .list_with_delimiter(Some(&Path::from("tables")))
            .await?;
        let name = |folder: &Path| folder.filename().map(str::to_owned);
        let mut topics: Vec<_> = folders.common_prefixes.iter().filter_map(name).collect();
        topics.sort_unstable();
        Ok(topics)
    }

    /// A table as iceberg's own library reads it.
    #[cfg(feature = "sql")]
    pub(super) async fn iceberg(
        &self,
        topic: &str,
        metadata: &Metadata,
    ) -> anyhow::Result<iceberg::table::Table> {
        let bucket = Bucket::new(Arc::clone(&self.store), &self.root);
        let table = bucket.open_table(topic, &metadata.location).await;
        table.context("the table cannot be opened")
    }

    /// Where the bucket is, as it was given.
    #[cfg(feature = "sql")]
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) async fn reader(&self, metadata: &Metadata) -> anyhow::Result<TableReader> {
        let bucket = Bucket::new(Arc::clone(&self.store), &self.root);
        TableReader::open(bucket, &metadata.location)
            .await
            .context("the table cannot be opened")
    }
}

impl Metadata {
    /// The topic's identity, written by the sink into the table it made.
    pub(super) fn topic_id(&self) -> anyhow::Result<Uuid> {
        let id = self.json["properties"]["varve.topic-id"].as_str();
        let id = id.and_then(|text| Uuid::parse_str(text).ok());
        id.context("the table does not say which topic it belongs to: it was not written by Varve")
    }
}

/// `00012-….metadata.json` → 12.
fn number(file: &str) -> Option<u64> {
    let name = file.strip_suffix(".metadata.json")?.trim_start_matches('v');
    name.split(['-', '.']).next()?.parse().ok()
}

/// Runs the asynchronous part of a command.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    block_on_runtime(&mut tokio::runtime::Builder::new_current_thread(), work)
}

/// As [`block_on`], for work that is spread over tasks.
#[cfg(feature = "sql")]
pub(super) fn block_on_all_cores<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    block_on_runtime(&mut tokio::runtime::Builder::new_multi_thread(), work)
}

fn block_on_runtime<T>(
    runtime: &mut tokio::runtime::Builder,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    // Reaching S3 needs a TLS provider; a node in this process may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    runtime.enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_files_are_known_by_their_number() {
        assert_eq!(number("00012-8c1f.metadata.json"), Some(12));
        assert_eq!(number("v7.metadata.json"), Some(7));
        assert_eq!(number("snap-1.avro"), None);
    }
}
