//! How far away the store seems, and what goes wrong on the way. Changed while the link runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;

/// What happens to a chosen request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// The connection is reset before the store sees anything.
    Refuse,
    /// 503 SlowDown before the store sees anything.
    Unavailable,
    /// The request is taken and never answered.
    Hang,
    /// The store does it, and the client never hears so.
    LostAnswer,
    /// Half of the answer's body, then the end.
    Truncate,
}

impl Fault {
    pub(crate) fn named(name: &str) -> anyhow::Result<Option<Self>> {
        Ok(Some(match name {
            "refuse" => Self::Refuse,
            "unavailable" => Self::Unavailable,
            "hang" => Self::Hang,
            "lost_answer" => Self::LostAnswer,
            "truncate" => Self::Truncate,
            "none" => return Ok(None),
            other => bail!("no such fault: {other}"),
        }))
    }
}

/// Which requests a fault meets: every so many-th of a method, and no more than so many in all.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FaultPlan {
    pub(crate) fault: Fault,
    pub(crate) method: Option<String>,
    pub(crate) every: u64,
    pub(crate) times: u64,
    pub(crate) seen: u64,
}

pub(crate) struct Shape {
    latency_ms: AtomicU64,
    jitter_ms: AtomicU64,
    mbps: AtomicU64,
    drawn: AtomicU64,
    plan: Mutex<Option<FaultPlan>>,
}

impl Shape {
    pub(crate) fn new(latency_ms: u64, jitter_ms: u64, mbps: u64) -> Self {
        Self {
            latency_ms: AtomicU64::new(latency_ms),
            jitter_ms: AtomicU64::new(jitter_ms),
            mbps: AtomicU64::new(mbps),
            drawn: AtomicU64::new(0),
            plan: Mutex::new(None),
        }
    }

    pub(crate) fn set(&self, name: &str, value: u64) -> anyhow::Result<()> {
        let setting = match name {
            "latency_ms" => &self.latency_ms,
            "jitter_ms" => &self.jitter_ms,
            "mbps" => &self.mbps,
            other => bail!("no such setting: {other}"),
        };
        setting.store(value, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn plan_fault(&self, plan: Option<FaultPlan>) {
        *self.lock() = plan;
    }

    pub(crate) fn fault_for(&self, method: &str) -> Option<Fault> {
        let mut slot = self.lock();
        let plan = slot.as_mut()?;
        if plan.times == 0 || plan.method.as_deref().is_some_and(|only| only != method) {
            return None;
        }
        plan.seen += 1;
        if !plan.seen.is_multiple_of(plan.every.max(1)) {
            return None;
        }
        plan.times -= 1;
        Some(plan.fault)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<FaultPlan>> {
        self.plan
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn bytes_per_second(&self) -> u64 {
        self.mbps.load(Ordering::Relaxed) * 1_000_000
    }

    pub(crate) fn first_byte_delay(&self, now: Instant) {
        let jitter_us = self.jitter_ms.load(Ordering::Relaxed) * 1000;
        // Evenly spread and the same in every run: the n-th request of a run always meets the n-th delay.
        let draw = spread(self.drawn.fetch_add(1, Ordering::Relaxed)) % (2 * jitter_us + 1);
        let latency_us = self.latency_ms.load(Ordering::Relaxed) * 1000;
        rest_until(now + Duration::from_micros((latency_us + draw).saturating_sub(jitter_us)));
    }
}

/// SplitMix64: neighbours go far apart.
fn spread(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Waits until `done` bytes since `began` are no more than `speed` bytes a second.
pub(crate) fn keep_pace(began: Instant, done: u64, speed: u64) {
    if speed > 0 {
        rest_until(began + Duration::from_nanos(done * 1000 / (speed / 1_000_000)));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a link is slow in real time; that is all this program is for"
)]
fn rest_until(moment: Instant) {
    // Shorter rests cost more than they shape.
    const REST_MIN: Duration = Duration::from_millis(1);
    let rest = moment.saturating_duration_since(Instant::now());
    if rest >= REST_MIN {
        std::thread::sleep(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_every_third_put_and_ends_after_its_times() {
        let shape = Shape::new(0, 0, 0);
        shape.plan_fault(Some(FaultPlan {
            fault: Fault::LostAnswer,
            method: Some("PUT".to_owned()),
            every: 3,
            times: 2,
            seen: 0,
        }));

        let met: Vec<usize> = (1..=12).filter(|_| shape.fault_for("PUT").is_some()).collect();

        assert_eq!(met, [3, 6]);
        assert_eq!(shape.fault_for("GET"), None);
    }
}
