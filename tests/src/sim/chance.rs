//! All chance of a run, from its seed. Our own few lines, so that a seed means the same run for ever.

use std::ops::Range;

#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        // Seeds stand side by side (1, 2, 3, …); what is drawn from them should not.
        let mut chance = Self {
            state: seed.wrapping_mul(0xd134_2543_de82_ef95),
        };
        chance.draw();
        chance
    }

    /// splitmix64.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to `below`, which is not 0.
    pub fn below(&mut self, below: u64) -> u64 {
        self.draw() % below.max(1)
    }

    pub fn index(&mut self, below: usize) -> usize {
        usize::try_from(self.below(below as u64)).expect("an index fits")
    }

    pub fn between(&mut self, range: Range<i64>) -> i64 {
        let width = u64::try_from(range.end - range.start).unwrap_or(0);
        range.start + i64::try_from(self.below(width)).expect("below an i64")
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.index(from.len())])
    }
}
