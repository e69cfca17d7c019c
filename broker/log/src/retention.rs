//! Which local segments may go, by time and by size. Pure: it looks at what is sealed and says up to where;
//! [`crate::Log::drop_segments_before`] does it. Segments go oldest first, whole, and with a tier never past what
//! is committed there.

use crate::log::SealedSegment;
use crate::offsets::{Offset, TierEnd, Timestamp};
use crate::settings::millis;
use std::time::Duration;

/// How long local data stays. With a tier these are `local.retention.*`, without one `retention.*`; the caller has
/// resolved -1 (`None`: no bound) and -2 (the same as `retention.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub time: Option<Duration>,
    pub bytes: Option<u64>,
}

/// What holds a partition's data besides its local files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiering {
    /// What goes here is gone: only `cleanup.policy=delete` asks for it.
    Off,
    /// Nothing goes that the tier does not have.
    On(TierEnd),
}

/// The state of a partition that retention looks at.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// [`crate::Log::sealed`].
    pub sealed: &'a [SealedSegment],
    /// [`crate::Log::bytes`], the active segment included.
    pub bytes: u64,
    pub log_start: Offset,
    pub high_watermark: Offset,
}

/// Segments that end at or before the returned offset may go; without a tier it is the new log start too. `None` if
/// none may.
pub fn drop_before(local: &Local<'_>, policy: &Policy, tiering: Tiering, now: Timestamp) -> Option<Offset> {
    let limit = match tiering {
        Tiering::Off => local.high_watermark,
        Tiering::On(TierEnd::Known(tier_end)) => tier_end.min(local.high_watermark),
        Tiering::On(TierEnd::Unknown) => return None,
    };
    let mut bytes = local.bytes;
    let mut end = None;
    for segment in local.sealed.iter().take_while(|segment| segment.end <= limit) {
        let is_too_much = policy
            .bytes
            .is_some_and(|max| bytes.saturating_sub(segment.bytes) >= max);
        let is_deleted = segment.end <= local.log_start;
        if !is_deleted && !is_too_much && !is_expired(segment, policy, now) {
            break;
        }
        bytes = bytes.saturating_sub(segment.bytes);
        end = Some(segment.end);
    }
    end
}

/// Whether an active segment whose largest timestamp is `max_timestamp` has itself expired: then it is to be
/// sealed ([`crate::Log::force_roll`]) so that it can go.
pub fn is_active_expired(max_timestamp: Timestamp, policy: &Policy, now: Timestamp) -> bool {
    !max_timestamp.is_none()
        && policy
            .time
            .is_some_and(|keep| now.since(max_timestamp) > millis(keep))
}

fn is_expired(segment: &SealedSegment, policy: &Policy, now: Timestamp) -> bool {
    let newest = if segment.max_timestamp.is_none() {
        segment.last_append
    } else {
        segment.max_timestamp
    };
    !newest.is_none() && policy.time.is_some_and(|keep| now.since(newest) > millis(keep))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sealed_for_tests;

    const DAY: i64 = 86_400_000;
    const NOW: Timestamp = Timestamp::new(100 * DAY);

    /// Ten segments of 100 records and 1000 bytes, one a day, the newest a day old.
    fn ten() -> Vec<SealedSegment> {
        (0..10)
            .map(|n| sealed_for_tests(n * 100, (n + 1) * 100, 1000, (90 + n) * DAY))
            .collect()
    }

    fn local(sealed: &[SealedSegment]) -> Local<'_> {
        Local {
            sealed,
            bytes: 10_500,
            log_start: Offset::ZERO,
            high_watermark: Offset::new(5000),
        }
    }

    fn policy(days: Option<u64>, bytes: Option<u64>) -> Policy {
        Policy {
            time: days.map(|days| Duration::from_hours(24 * days)),
            bytes,
        }
    }

    #[test]
    fn what_is_older_than_the_time_goes() {
        let dropped = drop_before(&local(&ten()), &policy(Some(7), None), Tiering::Off, NOW);
        assert_eq!(dropped, Some(Offset::new(300)));
    }

    #[test]
    fn size_is_kept_at_or_just_above_the_bound() {
        let dropped = drop_before(&local(&ten()), &policy(None, Some(4000)), Tiering::Off, NOW);
        assert_eq!(dropped, Some(Offset::new(600)));
    }

    #[test]
    fn nothing_goes_that_the_tier_does_not_have() {
        let all = policy(Some(0), Some(0));
        let tiered = Tiering::On(TierEnd::Known(Offset::new(250)));
        assert_eq!(
            drop_before(&local(&ten()), &all, tiered, NOW),
            Some(Offset::new(200))
        );
        assert_eq!(
            drop_before(&local(&ten()), &all, Tiering::On(TierEnd::Unknown), NOW),
            None
        );
    }

    #[test]
    fn nothing_above_the_high_watermark_goes() {
        let sealed = ten();
        let low = Local {
            high_watermark: Offset::new(199),
            ..local(&sealed)
        };
        assert_eq!(
            drop_before(&low, &policy(Some(0), None), Tiering::Off, NOW),
            Some(Offset::new(100))
        );
    }

    #[test]
    fn what_lies_below_the_log_start_goes_whatever_its_age() {
        let sealed = ten();
        let deleted = Local {
            log_start: Offset::new(450),
            ..local(&sealed)
        };
        assert_eq!(
            drop_before(&deleted, &policy(None, None), Tiering::Off, NOW),
            Some(Offset::new(400))
        );
    }

    #[test]
    fn without_bounds_everything_stays() {
        assert_eq!(
            drop_before(&local(&ten()), &policy(None, None), Tiering::Off, NOW),
            None
        );
    }
}
