//! `varve.bucket`: from a URL to a store that is known to work, or to one line that says what to do.

use crate::Chance;
use crate::credentials::{Credentials, standard_chain};
use crate::store::{Patience, Reason, Store};
use crate::store_error::{Cause, CauseKind, NO_SUCH_BUCKET, StoreError};
use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider, Checksum};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, PutPayload, RetryConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use uuid::Uuid;

/// What S3 and its kin say when a request was signed for another region than the bucket's.
const OTHER_REGION: [&str; 4] = [
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraint",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
];

/// The `varve.bucket*` keys as they were given.
#[derive(Debug, Clone, Default)]
pub struct BucketConfig {
    /// `file:///path` or `s3://name/prefix`.
    pub url: String,
    /// For servers that are not AWS. `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` are honoured without it.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// `http://host/bucket/key` instead of `http://bucket.host/key`. By default: yes with an endpoint, no with AWS.
    pub path_style: Option<bool>,
}

/// One line each, saying what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    #[error("varve.bucket is neither file:///path nor s3://name/prefix; correct it. varve.bucket={url}")]
    BadUrl { url: String },
    #[error(
        "varve.bucket.endpoint is not an http or https address; correct it. varve.bucket.endpoint={endpoint}"
    )]
    BadEndpoint { endpoint: String },
    #[error(
        "bucket directory cannot be used; give this user a directory it may write to. varve.bucket={url}, cause={cause}"
    )]
    Directory { url: String, cause: String },
    #[error(
        "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or configure a profile or role. varve.bucket={url}, cause={cause}"
    )]
    NoCredentials { url: String, cause: String },
    #[error(
        "bucket does not exist; create it or correct varve.bucket. varve.bucket={url}, endpoint={endpoint}"
    )]
    Missing { url: String, endpoint: String },
    #[error(
        "bucket refused these credentials; check key, secret and the right to {action}. varve.bucket={url}, endpoint={endpoint}, cause={cause}"
    )]
    Refused {
        url: String,
        endpoint: String,
        action: &'static str,
        cause: String,
    },
    #[error(
        "bucket is in another region than these requests; set varve.bucket.region to the bucket's. varve.bucket.region={region}, varve.bucket={url}, endpoint={endpoint}, cause={cause}"
    )]
    Region {
        region: String,
        url: String,
        endpoint: String,
        cause: String,
    },
    #[error(
        "object store cannot be reached; check varve.bucket.endpoint and the network. endpoint={endpoint}, cause={cause}"
    )]
    Unreachable { endpoint: String, cause: String },
    #[error(
        "bucket does not give back what was put into it; this server cannot be used. varve.bucket={url}, endpoint={endpoint}, cause={cause}"
    )]
    Unsound {
        url: String,
        endpoint: String,
        cause: String,
    },
}

/// Opens the bucket and proves that it can be written, read, listed and deleted from.
pub async fn open_bucket(
    config: &BucketConfig,
    patience: Patience,
    chance: Chance,
) -> Result<Store, BucketError> {
    let bad = || BucketError::BadUrl {
        url: config.url.clone(),
    };
    let url = Url::parse(&config.url).map_err(|_not_a_url| bad())?;
    match url.scheme() {
        "file" => {
            let path = url.to_file_path().map_err(|()| bad())?;
            let store = Store::new(directory(config, path)?, "", patience, Arc::clone(&chance));
            probe(
                &store,
                &Where {
                    config,
                    endpoint: None,
                },
                chance(),
            )
            .await?;
            Ok(store)
        }
        "s3" => {
            let bucket = url
                .host_str()
                .filter(|bucket| !bucket.is_empty())
                .ok_or_else(bad)?;
            let (objects, endpoint) = s3(config, bucket).await?;
            let store = Store::new(objects, url.path(), patience, Arc::clone(&chance));
            probe(
                &store,
                &Where {
                    config,
                    endpoint: Some(endpoint),
                },
                chance(),
            )
            .await?;
            Ok(store)
        }
        _ => Err(bad()),
    }
}

fn directory(config: &BucketConfig, path: PathBuf) -> Result<Arc<dyn ObjectStore>, BucketError> {
    let failed = |cause: String| BucketError::Directory {
        url: config.url.clone(),
        cause,
    };
    std::fs::create_dir_all(&path).map_err(|cause| failed(cause.to_string()))?;
    let files = LocalFileSystem::new_with_prefix(&path).map_err(|cause| failed(cause.to_string()))?;
    // Local copies are dropped once the bucket has the data: it must survive what a disk survives.
    Ok(Arc::new(files.with_fsync(true)))
}

async fn s3(config: &BucketConfig, bucket: &str) -> Result<(Arc<dyn ObjectStore>, String), BucketError> {
    let chain = standard_chain(config.region.clone()).await;
    let no_credentials = |cause: String| BucketError::NoCredentials {
        url: config.url.clone(),
        cause,
    };
    let provider = chain
        .credentials_provider()
        .ok_or_else(|| no_credentials("no provider".to_owned()))?;
    let credentials = Credentials::new(provider);
    object_store::CredentialProvider::get_credential(&credentials)
        .await
        .map_err(|error| no_credentials(crate::store_error::one_line(&error)))?;

    let endpoint = config
        .endpoint
        .clone()
        .or_else(|| std::env::var("AWS_ENDPOINT_URL_S3").ok())
        .or_else(|| chain.endpoint_url().map(ToOwned::to_owned));
    let region = chain
        .region()
        .map_or_else(|| "us-east-1".to_owned(), ToString::to_string);
    connect(config, bucket, endpoint, &region, Arc::new(credentials))
}

fn connect(
    config: &BucketConfig,
    bucket: &str,
    endpoint: Option<String>,
    region: &str,
    credentials: AwsCredentialProvider,
) -> Result<(Arc<dyn ObjectStore>, String), BucketError> {
    let path_style = config.path_style.unwrap_or_else(|| endpoint.is_some());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_credentials(credentials)
        .with_virtual_hosted_style_request(!path_style)
        // SHA-256 over every body costs more than everything else an upload does. CRC-64/NVME is what S3 itself
        // keeps, all servers we know accept it, and the data carries its own CRCs besides.
        .with_unsigned_payload(true)
        .with_checksum_algorithm(Checksum::CRC64NVME)
        .with_retry(no_retries())
        .with_client_options(client());
    let mut shown = format!("https://s3.{region}.amazonaws.com");
    if let Some(endpoint) = endpoint {
        let parsed = Url::parse(&endpoint)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        let parsed = parsed.filter(Url::has_host);
        let parsed = parsed.ok_or_else(|| BucketError::BadEndpoint {
            endpoint: endpoint.clone(),
        })?;
        shown.clone_from(&endpoint);
        builder = builder.with_endpoint(addressed(&parsed, bucket, path_style));
    }
    let objects = builder.build().map_err(|error| BucketError::Refused {
        url: config.url.clone(),
        endpoint: shown.clone(),
        action: "use it",
        cause: crate::store_error::one_line(&error),
    })?;
    Ok((Arc::new(objects), shown))
}

/// With virtual-hosted addressing the client expects an endpoint that has the bucket's name in it.
fn addressed(endpoint: &Url, bucket: &str, path_style: bool) -> String {
    let plain = endpoint.as_str().trim_end_matches('/');
    match (path_style, plain.split_once("://")) {
        (false, Some((scheme, rest))) => format!("{scheme}://{bucket}.{rest}"),
        _ => plain.to_owned(),
    }
}

/// All retrying is [`Store`]'s, where it is counted and where a write is never repeated blindly.
fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        retry_timeout: Duration::ZERO,
        backoff: BackoffConfig::default(),
    }
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(true)
        .with_connect_timeout(Duration::from_secs(5))
        // Deadlines are [`Store`]'s and follow the size of the transfer; one number for all would be wrong.
        .with_timeout_disabled()
        .with_read_timeout_disabled()
        .with_pool_idle_timeout(Duration::from_secs(20))
        .with_pool_max_idle_per_host(64)
}

struct Where<'a> {
    config: &'a BucketConfig,
    /// `None`: a directory.
    endpoint: Option<String>,
}

async fn probe(store: &Store, place: &Where<'_>, chance: u128) -> Result<(), BucketError> {
    let key = format!("varve-probe/{}", Uuid::from_u128(chance).simple());
    let body = Bytes::from_static(b"varve was here, and will be gone in a moment\n");
    let payload = PutPayload::from_bytes(body.clone());
    store
        .put(Reason::Probe, &key, payload)
        .await
        .map_err(|error| place.explain("write objects", error))?;
    let read = store
        .get(Reason::Probe, &key)
        .await
        .map_err(|error| place.explain("read objects", error))?;
    if read != body {
        return Err(place.unsound("a marker object came back with other bytes"));
    }
    let listed = store.list(Reason::Probe, "varve-probe").await;
    let listed = listed.map_err(|error| place.explain("list objects", error))?;
    if !listed.iter().any(|listed| listed.key == key) {
        return Err(place.unsound("a marker object is missing from the listing"));
    }
    store
        .delete(Reason::Probe, &key)
        .await
        .map_err(|error| place.explain("delete objects", error))
}

impl Where<'_> {
    fn explain(&self, action: &'static str, error: StoreError) -> BucketError {
        let url = self.config.url.clone();
        let Some(endpoint) = self.endpoint.clone() else {
            return BucketError::Directory {
                url,
                cause: error.to_string(),
            };
        };
        let cause = match error {
            StoreError::Missing { .. } => return self.unsound("a marker object is gone again"),
            StoreError::Corrupt { reason, .. } => return self.unsound(reason),
            StoreError::NotApplied(cause) | StoreError::Unknown(cause) => cause,
        };
        let Cause {
            kind,
            code,
            text: cause,
        } = cause;
        match code.as_deref() {
            Some(NO_SUCH_BUCKET) => return BucketError::Missing { url, endpoint },
            Some(code) if OTHER_REGION.contains(&code) => {
                let region = self.config.region.as_deref().unwrap_or("(not set)").to_owned();
                return BucketError::Region {
                    region,
                    url,
                    endpoint,
                    cause,
                };
            }
            Some(_) | None => {}
        }
        match kind {
            CauseKind::Refused => BucketError::Refused {
                url,
                endpoint,
                action,
                cause,
            },
            CauseKind::Unreachable | CauseKind::Busy | CauseKind::Other => {
                BucketError::Unreachable { endpoint, cause }
            }
        }
    }

    fn unsound(&self, cause: &str) -> BucketError {
        let endpoint = self.endpoint.clone().unwrap_or_default();
        BucketError::Unsound {
            url: self.config.url.clone(),
            endpoint,
            cause: cause.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::aws::AwsCredential;

    fn chance() -> Chance {
        Arc::new(|| Uuid::new_v4().as_u128())
    }

    async fn open(url: &str) -> Result<Store, BucketError> {
        let config = BucketConfig {
            url: url.to_owned(),
            ..BucketConfig::default()
        };
        open_bucket(&config, Patience::default(), chance()).await
    }

    #[tokio::test]
    async fn a_directory_is_made_and_left_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/bucket");
        let store = open(&format!("file://{}", path.display())).await.unwrap();
        assert!(store.list(Reason::Probe, "").await.unwrap().is_empty());
        assert_eq!(store.requests(Reason::Probe).puts, 1);
    }

    #[tokio::test]
    async fn what_is_no_bucket_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for url in ["", "nonsense", "gs://x", "s3:///", "file://relative"] {
            let error = open(url).await.unwrap_err();
            assert!(matches!(error, BucketError::BadUrl { .. }), "{url}: {error}");
        }
        let error = open(&format!("file://{}", file.display())).await.unwrap_err();
        assert!(
            matches!(error, BucketError::Directory { .. }) && !error.to_string().contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn virtual_hosted_addresses_name_the_bucket() {
        let endpoint = Url::parse("http://127.0.0.1:9000/").unwrap();
        assert_eq!(addressed(&endpoint, "b", true), "http://127.0.0.1:9000");
        assert_eq!(addressed(&endpoint, "b", false), "http://b.127.0.0.1:9000");
    }

    /// A server that answers everything with this.
    async fn server(answer: &'static str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        format!("http://{address}")
    }

    async fn open_s3(endpoint: &str) -> BucketError {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = "s3://sediment/log".to_owned();
        let config = BucketConfig {
            url,
            ..BucketConfig::default()
        };
        let key = AwsCredential {
            key_id: "id".to_owned(),
            secret_key: "secret".to_owned(),
            token: None,
        };
        let credentials = Arc::new(object_store::StaticCredentialProvider::new(key));
        let made = connect(
            &config,
            "sediment",
            Some(endpoint.to_owned()),
            "us-east-1",
            credentials,
        );
        let (objects, shown) = match made {
            Ok(made) => made,
            Err(error) => return error,
        };
        let store = Store::new(objects, "log", Patience::default(), chance());
        probe(
            &store,
            &Where {
                config: &config,
                endpoint: Some(shown),
            },
            1,
        )
        .await
        .unwrap_err()
    }

    #[tokio::test]
    async fn each_way_an_s3_bucket_fails_has_its_own_line() {
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 40\r\nConnection: close\r\n\r\n\
                       <Error><Code>NoSuchBucket</Code></Error>";
        let error = open_s3(&server(missing).await).await;
        assert!(matches!(error, BucketError::Missing { .. }), "{error}");

        let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 49\r\nConnection: close\r\n\r\n\
                       <Error><Code>SignatureDoesNotMatch</Code></Error>";
        let error = open_s3(&server(refused).await).await;
        assert!(matches!(error, BucketError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("SignatureDoesNotMatch") && !error.to_string().contains('\n'));

        let unknown_key = "HTTP/1.1 404 Not Found\r\nContent-Length: 46\r\nConnection: close\r\n\r\n\
                           <Error><Code>InvalidAccessKeyId</Code></Error>";
        let error = open_s3(&server(unknown_key).await).await;
        assert!(matches!(error, BucketError::Refused { .. }), "{error}");

        let elsewhere = "HTTP/1.1 400 Bad Request\r\nContent-Length: 56\r\nConnection: close\r\n\r\n\
                         <Error><Code>AuthorizationHeaderMalformed</Code></Error>";
        let error = open_s3(&server(elsewhere).await).await;
        assert!(matches!(error, BucketError::Region { .. }), "{error}");
        assert!(error.to_string().contains("set varve.bucket.region"), "{error}");

        let error = open_s3("http://127.0.0.1:1").await;
        assert!(matches!(error, BucketError::Unreachable { .. }), "{error}");
        let error = open_s3("127.0.0.1:9000").await;
        assert!(matches!(error, BucketError::BadEndpoint { .. }), "{error}");
    }
}
