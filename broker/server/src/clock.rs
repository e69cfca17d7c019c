//! The seam `Clock`: the only place that knows what time it is. `main` hands in the real one, tests a hand-moved one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use varve_log::Timestamp;

/// Wall time, for timestamps and retention. Deadlines of waits use the runtime's own monotonic timer.
pub(crate) trait Clock: Send + Sync + 'static {
    /// Milliseconds since the epoch.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp::new(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
pub(crate) use manual::ManualClock;

#[cfg(test)]
mod manual {
    use super::{Clock, Timestamp};
    use std::sync::atomic::{AtomicI64, Ordering};

    /// A clock that stands still until it is moved.
    #[derive(Debug)]
    pub(crate) struct ManualClock(AtomicI64);

    impl ManualClock {
        pub(crate) fn new(now: Timestamp) -> Self {
            Self(AtomicI64::new(now.value()))
        }

        pub(crate) fn advance(&self, millis: i64) {
            self.0.fetch_add(millis, Ordering::SeqCst);
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Timestamp {
            Timestamp::new(self.0.load(Ordering::SeqCst))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_monotone(clock: &dyn Clock) {
        let before = clock.now();
        assert!(clock.now() >= before);
        assert!(before.value() > 0);
    }

    #[test]
    fn both_clocks_go_forward() {
        is_monotone(&SystemClock);
        let manual = ManualClock::new(Timestamp::new(5));
        is_monotone(&manual);
        manual.advance(7);
        assert_eq!(manual.now(), Timestamp::new(12));
    }
}
