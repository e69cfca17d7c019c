//! What a topic's configuration means for one log. The server turns Kafka's keys into this.

use crate::batch::TimestampType;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `segment.bytes`: a segment is sealed before it would grow past this.
    pub segment_bytes: u32,
    /// `segment.ms`: a segment is sealed when a batch is this much younger than its first one, and by
    /// `Log::roll_if_old` when this has passed since its first append.
    pub segment_age: Duration,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`: of one batch as sent, compressed.
    pub max_message_bytes: u32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`; `None` for any.
    pub timestamp_before_max: Option<Duration>,
    /// `message.timestamp.after.max.ms`; `None` for any.
    pub timestamp_after_max: Option<Duration>,
    /// Sync a segment when it is sealed, before the next one is written to. So that after a power failure no
    /// batch stands behind a hole; on with `varve.flush=group`, where the sync is due anyway.
    pub sync_on_seal: bool,
}

/// Kafka's defaults.
impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_age: Duration::from_hours(7 * 24),
            index_interval_bytes: 4096,
            max_message_bytes: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max: None,
            timestamp_after_max: Some(Duration::from_hours(1)),
            sync_on_seal: true,
        }
    }
}

/// For comparing with differences of timestamps; what does not fit is "for ever".
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
