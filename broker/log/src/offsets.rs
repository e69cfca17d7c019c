//! The numbers a log counts in, each its own type so that an offset is never added to a byte position, and
//! the one chain of offsets that every partition keeps.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The place of one record in its partition. Counted from 0, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(i64);

impl Offset {
    pub const ZERO: Self = Self(0);

    /// Any `i64`; the caller has checked that a wire value is not negative.
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    pub const fn value(self) -> i64 {
        self.0
    }

    /// Saturates: a lying header cannot wrap an offset around.
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// Records from `earlier` up to `self`; negative when `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which reign of a partition's leadership wrote something. Only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaderEpoch(i32);

impl LeaderEpoch {
    pub const fn new(value: i32) -> Self {
        Self(value)
    }

    pub const fn value(self) -> i32 {
        self.0
    }

    pub const fn plus(self, reigns: i32) -> Self {
        Self(self.0.saturating_add(reigns))
    }
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970, as Kafka counts time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// What Kafka writes where there is no time.
    pub const NONE: Self = Self(-1);

    pub const fn new(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn value(self) -> i64 {
        self.0
    }

    pub const fn plus(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to `self`.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    pub const fn is_none(self) -> bool {
        self.0 < 0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far the tier holds a partition. `Unknown` until the metadata has been applied: nothing may be dropped then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TierEnd {
    Unknown,
    /// Everything below this offset is committed in the tier.
    Known(Offset),
}

/// Where a partition begins and ends. Left to right these never decrease:
/// log_start ≤ local_start ≤ tier_end ≤ last_stable ≤ high_watermark ≤ log_end
///
/// Without a tier `local_start` is `log_start`, and `tier_end` is `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOffsets {
    pub log_start: Offset,
    pub local_start: Offset,
    pub tier_end: TierEnd,
    pub last_stable: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
}

impl LogOffsets {
    /// The first link of the chain that is broken, in words; `None` when all hold.
    ///
    /// `local_start ≤ tier_end` is asked only of a partition that has dropped tiered data: before its first
    /// upload a partition is local from `log_start`, wherever the tier stands.
    pub fn broken_link(&self) -> Option<&'static str> {
        let tier_holds_what_is_gone = match self.tier_end {
            TierEnd::Known(tier_end) => self.local_start <= tier_end || self.local_start == self.log_start,
            TierEnd::Unknown => true,
        };
        let tier_is_stable = match self.tier_end {
            TierEnd::Known(tier_end) => tier_end <= self.last_stable,
            TierEnd::Unknown => true,
        };
        [
            (
                self.log_start <= self.local_start,
                "log_start is past local_start",
            ),
            (tier_holds_what_is_gone, "local_start is past tier_end"),
            (tier_is_stable, "tier_end is past last_stable"),
            (
                self.local_start <= self.last_stable,
                "local_start is past last_stable",
            ),
            (
                self.last_stable <= self.high_watermark,
                "last_stable is past high_watermark",
            ),
            (
                self.high_watermark <= self.log_end,
                "high_watermark is past log_end",
            ),
        ]
        .into_iter()
        .find_map(|(holds, broken)| (!holds).then_some(broken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> LogOffsets {
        LogOffsets {
            log_start: Offset::new(1),
            local_start: Offset::new(2),
            tier_end: TierEnd::Known(Offset::new(3)),
            last_stable: Offset::new(4),
            high_watermark: Offset::new(5),
            log_end: Offset::new(6),
        }
    }

    #[test]
    fn a_chain_in_order_has_no_broken_link() {
        assert_eq!(chain().broken_link(), None);
    }

    #[test]
    fn dropping_past_the_tier_breaks_the_chain() {
        let broken = LogOffsets {
            tier_end: TierEnd::Known(Offset::new(1)),
            ..chain()
        };
        assert_eq!(broken.broken_link(), Some("local_start is past tier_end"));
    }

    #[test]
    fn an_unknown_tier_breaks_nothing() {
        assert_eq!(
            LogOffsets {
                tier_end: TierEnd::Unknown,
                ..chain()
            }
            .broken_link(),
            None
        );
    }
}
