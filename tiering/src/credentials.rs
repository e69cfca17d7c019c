//! Credentials where the AWS tools find them: environment, profiles, SSO, processes, web identity, ECS, EC2.
//!
//! The client below asks before every request and the chain does not remember its answer, so this does, until
//! shortly before the answer expires.

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use object_store::aws::AwsCredential;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;

/// A request signed with credentials that expire under way is refused: five minutes are more than any of ours takes.
const REFRESH_BEFORE_EXPIRY: Duration = Duration::from_secs(300);

/// The standard chain: credentials, and the region and endpoint that the same files name. Without a `region` it looks
/// for one everywhere, which takes seconds where there is no metadata service to ask.
pub(crate) async fn standard_chain(region: Option<String>) -> SdkConfig {
    let https = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let chain = aws_config::defaults(BehaviorVersion::latest()).http_client(https);
    match region {
        Some(region) => chain.region(Region::new(region)).load().await,
        None => chain.load().await,
    }
}

#[derive(Debug)]
pub(crate) struct Credentials {
    provider: SharedCredentialsProvider,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    credential: Arc<AwsCredential>,
    expiry: Option<SystemTime>,
}

impl Credentials {
    pub(crate) fn new(provider: SharedCredentialsProvider) -> Self {
        Self {
            provider,
            current: Mutex::new(None),
        }
    }
}

#[async_trait]
impl object_store::CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Held over the await on purpose: whoever comes meanwhile wants the same answer.
        let mut current = self.current.lock().await;
        // The expiry is a wall-clock date given by somebody else, so it is compared with the wall clock.
        let soon = SystemTime::now() + REFRESH_BEFORE_EXPIRY;
        if let Some(held) = &*current
            && held.expiry.is_none_or(|expiry| expiry > soon)
        {
            return Ok(Arc::clone(&held.credential));
        }
        let fresh = match (self.provider.provide_credentials().await, &*current) {
            (Ok(fresh), _) => fresh,
            // The source is away for a moment and what we have is still good: use it.
            (Err(_), Some(held)) if held.expiry.is_some_and(|expiry| expiry > SystemTime::now()) => {
                return Ok(Arc::clone(&held.credential));
            }
            (Err(source), _) => {
                return Err(object_store::Error::Unauthenticated {
                    path: String::new(),
                    source: Box::new(source),
                });
            }
        };
        let credential = Arc::new(AwsCredential {
            key_id: fresh.access_key_id().to_owned(),
            secret_key: fresh.secret_access_key().to_owned(),
            token: fresh.session_token().map(ToOwned::to_owned),
        });
        *current = Some(Current {
            credential: Arc::clone(&credential),
            expiry: fresh.expiry(),
        });
        Ok(credential)
    }
}
