//! What the group APIs have in common.

use crate::coordinators::Durable;
use crate::wire::ErrorCode;
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;

/// How long a change of a group's state may take to become durable: Kafka's `offsets.commit.timeout.ms`.
const DURABLE_MAX: Duration = Duration::from_secs(5);

/// Waits until what was appended is below the high watermark.
pub(super) async fn durable(appended: Durable) -> Result<(), ErrorCode> {
    let Some(settled) = appended else { return Ok(()) };
    match tokio::time::timeout(DURABLE_MAX, settled).await {
        Ok(Ok(Ok(()))) => Ok(()),
        // The log is dead: another broker may coordinate the group soon.
        Ok(Ok(Err(_)) | Err(_)) => Err(ErrorCode::NotCoordinator),
        // It may still become durable; the client asks again, and the same commit twice is the same commit.
        Err(_) => Err(ErrorCode::CoordinatorNotAvailable),
    }
}

/// A group that is joined needs a name.
pub(super) fn check_name(group: &str) -> Result<(), ErrorCode> {
    if group.is_empty() {
        Err(ErrorCode::InvalidGroupId)
    } else {
        Ok(())
    }
}

/// The code of an outcome.
pub(super) fn code_of(outcome: Result<(), ErrorCode>) -> i16 {
    outcome.err().unwrap_or(ErrorCode::None).code()
}

pub(super) fn owned(text: &Option<StrBytes>) -> Option<String> {
    text.as_ref().map(|text| text.to_string())
}
