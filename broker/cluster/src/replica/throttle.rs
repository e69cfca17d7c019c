//! How fast replicas may be copied that an operator has throttled (KIP-73): a rate, with a second's worth saved up at
//! most. One answer may overdraw it; then everybody waits until that is made good.

/// See the module. Times in milliseconds of one clock.
#[derive(Debug, Default)]
pub struct Throttle {
    /// Bytes that may be copied now; below zero: owed.
    allowance: i64,
    seen_at: Option<i64>,
}

impl Throttle {
    /// Whether anything may be copied now, at `rate` bytes a second.
    pub fn is_open(&mut self, rate: u64, now: i64) -> bool {
        let rate = i64::try_from(rate).unwrap_or(i64::MAX);
        match self.seen_at {
            None => (self.allowance, self.seen_at) = (rate, Some(now)),
            // The clock was set back.
            Some(at) if now < at => self.seen_at = Some(now),
            Some(at) => {
                let earned = i128::from(rate) * i128::from(now.saturating_sub(at)) / 1_000;
                // Less than a byte is earned by waiting longer.
                if earned > 0 {
                    let earned = i64::try_from(earned).unwrap_or(i64::MAX);
                    self.allowance = self.allowance.saturating_add(earned).min(rate);
                    self.seen_at = Some(now);
                }
            }
        }
        rate > 0 && self.allowance > 0
    }

    /// So much has been copied.
    pub fn spend(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.allowance = self.allowance.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes copied in `seconds`, looking every `pause` ms and taking `answer` bytes whenever that is allowed.
    fn copied(rate: u64, answer: usize, pause: usize, seconds: i64) -> usize {
        let mut throttle = Throttle::default();
        let looks = (0..seconds * 1_000).step_by(pause);
        let mut answers = 0;
        for now in looks {
            if throttle.is_open(rate, now) {
                throttle.spend(answer);
                answers += 1;
            }
        }
        answers * answer
    }

    #[test]
    fn in_the_long_run_the_rate_is_kept_however_large_an_answer_is() {
        for (rate, answer, pause) in [
            (1 << 20, 10 << 20, 100),
            (1 << 20, 1 << 10, 1),
            (100, 1, 1),
            (1, 1, 100),
            (10 << 20, 1 << 20, 50),
        ] {
            let copied = copied(rate, answer, pause, 1_000);
            let most = usize::try_from(rate).unwrap() * 1_001 + answer;
            assert!(copied <= most, "rate={rate}, answer={answer}: {copied}");
            assert!(
                copied * 10 >= usize::try_from(rate).unwrap() * 8_000,
                "rate={rate}: {copied}"
            );
        }
    }

    #[test]
    fn nothing_is_saved_up_beyond_a_second() {
        let mut throttle = Throttle::default();
        assert!(throttle.is_open(1_000, 0));
        throttle.spend(1_000);
        assert!(!throttle.is_open(1_000, 0));
        assert!(throttle.is_open(1_000, 3_600_000));
        throttle.spend(1_001);
        assert!(!throttle.is_open(1_000, 3_600_001));
    }

    #[test]
    fn a_rate_of_nothing_copies_nothing_and_a_clock_set_back_owes_nothing() {
        let mut throttle = Throttle::default();
        assert!(!throttle.is_open(0, 0));
        assert!(!throttle.is_open(0, 1_000_000));
        assert!(throttle.is_open(1_000, 1_001_000));
        assert!(throttle.is_open(1_000, 5), "the clock was set back");
        throttle.spend(usize::MAX);
        assert!(!throttle.is_open(u64::MAX, 6), "owed, and not wrapped around");
    }
}
