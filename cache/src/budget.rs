//! The bytes all cursors of a broker together may have on the way or waiting to be read.
//!
//! Reading ahead only ever takes what is free and leaves a reserve; a reader that waits for its chunk may use the
//! reserve as well. So wide windows slow each other down, and never a reader that has nothing yet.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in KiB: a semaphore hands out 32-bit numbers of them.
const UNIT: usize = 1024;

#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    total: usize,
    reserve: usize,
}

/// Bytes taken from the budget; they return when this is dropped.
#[derive(Debug)]
pub struct Spent {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let total = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(total)),
            total,
            reserve: total / 4,
        }
    }

    /// For reading ahead: nothing is taken from the reserve.
    pub fn spend_ahead(&self, bytes: usize) -> Option<Spent> {
        let units = units(bytes)?;
        if self.free.available_permits() < units as usize + self.reserve {
            return None;
        }
        self.take(units)
    }

    /// For a reader that waits.
    pub fn spend(&self, bytes: usize) -> Option<Spent> {
        self.take(units(bytes)?)
    }

    /// For a reader that can do with no less: waits for the bytes, or for all there are if it needs more than that.
    pub async fn wait(&self, bytes: usize) -> Option<Spent> {
        let units = units(bytes.min(self.total * UNIT))?;
        let permit = Arc::clone(&self.free).acquire_many_owned(units).await.ok()?;
        Some(Spent { _permit: permit })
    }

    pub fn used_bytes(&self) -> usize {
        (self.total - self.free.available_permits().min(self.total)) * UNIT
    }

    fn take(&self, units: u32) -> Option<Spent> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units).ok()?;
        Some(Spent { _permit: permit })
    }
}

fn units(bytes: usize) -> Option<u32> {
    u32::try_from(bytes.div_ceil(UNIT)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ahead_leaves_the_reserve_to_those_who_wait() {
        let budget = Budget::new(64 << 20);
        let ahead: Vec<_> = std::iter::from_fn(|| budget.spend_ahead(8 << 20)).collect();
        assert_eq!(ahead.len(), 6);
        assert!(budget.spend(8 << 20).is_some());
    }

    #[test]
    fn what_is_dropped_returns() {
        let budget = Budget::new(16 << 20);
        let spent = budget.spend(16 << 20);
        assert!(spent.is_some() && budget.spend(1).is_none());
        assert_eq!(budget.used_bytes(), 16 << 20);
        drop(spent);
        assert_eq!(budget.used_bytes(), 0);
    }
}
