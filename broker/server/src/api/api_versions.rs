//! ApiVersions: what this broker speaks, before anything else is known about the client.

use super::Caller;
use crate::broker::Broker;
use crate::wire::api_versions::response::ApiVersion;
use crate::wire::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use crate::wire::versions::{SERVED, Served};
use crate::wire::{Api, ErrorCode};
use std::sync::Arc;

/// From this version on clients say what software they are.
const WITH_SOFTWARE: i16 = 3;

pub(super) async fn handle(
    _: &Arc<Broker>,
    caller: &Caller,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    let software = [&request.client_software_name, &request.client_software_version];
    if caller.version >= WITH_SOFTWARE && !software.into_iter().all(|text| is_software(text)) {
        return ApiVersionsResponse {
            error_code: ErrorCode::InvalidRequest.code(),
            ..Default::default()
        };
    }
    // No features: Kafka's feature levels (metadata.version, transaction.version, …) name parts of Kafka that are
    // not here, and clients take what is not finalized as absent.
    ApiVersionsResponse {
        api_keys: SERVED.iter().map(line).collect(),
        ..Default::default()
    }
}

/// The answer to a version we do not speak, sent as version 0: only our own range, with which the client asks
/// again (KIP-511).
pub(super) fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: vec![line(Api::ApiVersions.served())],
        ..Default::default()
    }
}

fn line(served: &Served) -> ApiVersion {
    ApiVersion {
        api_key: served.api.key(),
        min_version: *served.advertised.start(),
        max_version: *served.advertised.end(),
    }
}

/// Kafka's pattern `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`: the text goes into metrics and logs.
fn is_software(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_are_judged_as_kafka_judges_them() {
        for good in [
            "librdkafka",
            "apache-kafka-java",
            "4.3.1",
            "a",
            "a--b",
            "1.0-SNAPSHOT",
        ] {
            assert!(is_software(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a_b", "é"] {
            assert!(!is_software(bad), "{bad}");
        }
    }

    #[test]
    fn a_version_from_the_future_is_told_only_the_range_of_this_api() {
        let answer = unsupported();

        assert_eq!(answer.error_code, 35);
        assert_eq!(answer.api_keys.len(), 1);
        assert_eq!(
            (answer.api_keys[0].api_key, answer.api_keys[0].max_version),
            (18, 4)
        );
    }
}
