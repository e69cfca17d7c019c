//! When to ask a second time for what is late. Pure but for its counters.
//!
//! Object stores answer most requests quickly and a few very late; a second request after 1.5 times the 95th
//! percentile nearly always overtakes a straggler. At most one request in fifty may be such a second one, so a store
//! that is slow altogether is not asked twice as often.

use parking_lot::Mutex;
use std::time::Duration;

/// The latest fetches of a chunk's size: enough for a percentile, quick to follow a change.
const SAMPLES: usize = 128;
/// Before this many are known nothing is called late.
const SAMPLES_MIN: usize = 20;
/// A local disk answers in less; asking it twice wins nothing.
const DELAY_MIN: Duration = Duration::from_millis(20);
const SHARE: u64 = 50;

#[derive(Debug, Default)]
pub(crate) struct Hedge {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    samples: Vec<Duration>,
    next: usize,
    asked: u64,
    hedged: u64,
}

impl Hedge {
    /// To be called for each first request: when it counts as late. `None`: never.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        state.asked += 1;
        if state.samples.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted = state.samples.clone();
        let at = sorted.len() * 95 / 100;
        let (_, p95, _) = sorted.select_nth_unstable(at);
        Some((*p95 * 3 / 2).max(DELAY_MIN))
    }

    /// Whether the budget has one more; takes it.
    pub(crate) fn take(&self) -> bool {
        let mut state = self.state.lock();
        let free = (state.hedged + 1) * SHARE <= state.asked;
        state.hedged += u64::from(free);
        free
    }

    pub(crate) fn took(&self, time: Duration) {
        let mut state = self.state.lock();
        if state.samples.len() < SAMPLES {
            state.samples.push(time);
        } else {
            let next = state.next;
            state.samples[next] = time;
        }
        state.next = (state.next + 1) % SAMPLES;
    }

    pub(crate) fn hedged(&self) -> u64 {
        self.state.lock().hedged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_late_before_there_is_experience() {
        let hedge = Hedge::default();
        (0..SAMPLES_MIN - 1).for_each(|_| hedge.took(Duration::from_millis(100)));
        assert_eq!(hedge.patience(), None);
        hedge.took(Duration::from_millis(100));
        assert_eq!(hedge.patience(), Some(Duration::from_millis(150)));
    }

    #[test]
    fn at_most_one_in_fifty_is_asked_twice() {
        let hedge = Hedge::default();
        let mut second = 0;
        for _ in 0..1000 {
            hedge.patience();
            second += u32::from(hedge.take());
        }
        assert_eq!(second, 20);
    }

    #[test]
    fn it_follows_what_is_usual_now() {
        let hedge = Hedge::default();
        (0..500).for_each(|_| hedge.took(Duration::from_millis(40)));
        (0..SAMPLES).for_each(|_| hedge.took(Duration::from_millis(200)));
        assert_eq!(hedge.patience(), Some(Duration::from_millis(300)));
    }
}
