//! Which data of a tiered log may go. Pure, and only ever asked about what is committed.
//!
//! Kafka's rules: whole segments, oldest first; by time as soon as a segment's newest record is too old, by size as
//! long as what stays still reaches the limit. The log as a whole is the committed tier followed by what only the
//! local disk has; a range that lies in both counts once. While the tier is `Unknown` the answer is: nothing.
//! How much of it the local disk keeps as well is `varve_log::retention`'s to say.

use varve_log::{Offset, TierEnd, Timestamp};

/// A segment, in the tier or on the local disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub base: Offset,
    /// Exclusive.
    pub end: Offset,
    pub bytes: u64,
    pub max_timestamp: Timestamp,
}

/// `None` is Kafka's -1: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub age_ms: Option<i64>,
    pub bytes: Option<u64>,
}

/// Where the log should begin after `retention.ms` and `retention.bytes`. `tier` are the committed entries and
/// `local` the sealed local segments (never the active one), both in order; `active_bytes` is what the active one
/// holds. `None`: stay.
pub fn log_start(
    tier_end: TierEnd,
    tier: &[Extent],
    local: &[Extent],
    active_bytes: u64,
    limits: Limits,
    now: Timestamp,
) -> Option<Offset> {
    let TierEnd::Known(tier_end) = tier_end else {
        return None;
    };
    let local_only = local.iter().filter(|extent| extent.base >= tier_end);
    let all: Vec<Extent> = tier.iter().chain(local_only).copied().collect();
    expired_until(&all, active_bytes, limits, now)
}

fn expired_until(extents: &[Extent], bytes_behind: u64, limits: Limits, now: Timestamp) -> Option<Offset> {
    let mut left = extents.iter().map(|extent| extent.bytes).sum::<u64>() + bytes_behind;
    let mut until = None;
    for extent in extents {
        // Records without a time never grow old: better kept too long than lost.
        let dated = !extent.max_timestamp.is_none();
        let too_old = dated
            && limits
                .age_ms
                .is_some_and(|age| now.since(extent.max_timestamp) > age);
        let too_much = limits.bytes.is_some_and(|bytes| left - extent.bytes >= bytes);
        if !too_old && !too_much {
            break;
        }
        left -= extent.bytes;
        until = Some(extent.end);
    }
    until
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extents(start: i64, count: i64) -> Vec<Extent> {
        let one = |i: i64| Extent {
            base: Offset::new(start + i * 10),
            end: Offset::new(start + i * 10 + 10),
            bytes: 100,
            max_timestamp: Timestamp::new((start + i * 10) * 1000),
        };
        (0..count).map(one).collect()
    }

    const NEVER: Limits = Limits {
        age_ms: None,
        bytes: None,
    };

    fn known(offset: i64) -> TierEnd {
        TierEnd::Known(Offset::new(offset))
    }

    #[test]
    fn while_the_tier_is_unknown_nothing_goes() {
        let limits = Limits {
            age_ms: Some(0),
            bytes: Some(0),
        };
        let now = Timestamp::new(i64::MAX);
        assert_eq!(
            log_start(TierEnd::Unknown, &[], &extents(0, 9), 0, limits, now),
            None
        );
    }

    #[test]
    fn a_range_in_both_tiers_counts_once() {
        // 10 segments of 100 bytes: 6 in the tier, and the last 8 still local.
        let (tier, local) = (extents(0, 6), extents(20, 8));
        let keep = |bytes| Limits {
            bytes: Some(bytes),
            ..NEVER
        };
        let now = Timestamp::new(0);
        assert_eq!(log_start(known(60), &tier, &local, 0, keep(1000), now), None);
        assert_eq!(
            log_start(known(60), &tier, &local, 0, keep(900), now),
            Some(Offset::new(10))
        );
        assert_eq!(
            log_start(known(60), &tier, &local, 100, keep(1000), now),
            Some(Offset::new(10))
        );
    }

    #[test]
    fn age_counts_from_the_newest_record_of_a_segment() {
        let limits = Limits {
            age_ms: Some(15_000),
            ..NEVER
        };
        let now = Timestamp::new(30_000);
        assert_eq!(
            log_start(known(100), &extents(0, 10), &[], 0, limits, now),
            Some(Offset::new(20))
        );
    }

    proptest! {
        #[test]
        fn what_a_limit_promises_stays(
            tiered in 0i64..20, local_from in 0i64..20, count in 0i64..30,
            bytes in 0u64..4000, age in 0i64..300_000, now in 0i64..400_000,
        ) {
            let local_from = local_from.min(tiered);
            let (tier, local) = (extents(0, tiered), extents(local_from * 10, count));
            let end = known(tiered * 10);
            let by_size = log_start(end, &tier, &local, 0, Limits { bytes: Some(bytes), ..NEVER }, Timestamp::new(now));
            let all = tiered.max(local_from + count);
            let gone = by_size.map_or(0, |start| start.value() / 10);
            let left = u64::try_from(all - gone).unwrap() * 100;
            prop_assert!(by_size.is_none() || left >= bytes);
            let by_age = log_start(end, &tier, &local, 0, Limits { age_ms: Some(age), ..NEVER }, Timestamp::new(now));
            if let Some(start) = by_age {
                let newest_gone = (start.value() - 10) * 1000;
                prop_assert!(now - newest_gone > age);
            }
        }
    }
}
