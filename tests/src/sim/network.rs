//! The network between the nodes: each message gets a fate.

use std::collections::BTreeSet;

use super::chance::Chance;

/// How bad the network is. Times in microseconds of the world.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub lost_percent: u64,
    pub twice_percent: u64,
    /// Of messages that take up to `late_max` instead of `delay_max`, and so are overtaken.
    pub late_percent: u64,
    pub delay_max: i64,
    pub late_max: i64,
}

impl Weather {
    pub const CALM: Self = Self {
        lost_percent: 0,
        twice_percent: 0,
        late_percent: 0,
        delay_max: 3_000,
        late_max: 3_000,
    };
}

#[derive(Debug)]
pub struct Network {
    pub weather: Weather,
    /// Ways (from, to) on which nothing passes.
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    pub fn new(weather: Weather) -> Self {
        Self {
            weather,
            cut: BTreeSet::new(),
        }
    }

    /// After which times a message sent now arrives: never, once, or more than once.
    pub fn fate(&self, from: usize, to: usize, chance: &mut Chance) -> Vec<i64> {
        let weather = self.weather;
        if self.cut.contains(&(from, to)) || chance.percent(weather.lost_percent) {
            return vec![];
        }
        let copies = if chance.percent(weather.twice_percent) {
            2
        } else {
            1
        };
        (0..copies)
            .map(|_| {
                let late = chance.percent(weather.late_percent);
                let most = if late { weather.late_max } else { weather.delay_max };
                100 + chance.between(0..most.max(1))
            })
            .collect()
    }

    /// Whether what is under way there still arrives: a cut swallows it.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut.insert((from, to));
        }
    }

    /// Nothing passes between `side` and the rest of `nodes`.
    pub fn split(&mut self, side: &[usize], nodes: usize) {
        for inside in side.iter().copied() {
            for outside in (0..nodes).filter(|node| !side.contains(node)) {
                self.cut(inside, outside);
                self.cut(outside, inside);
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn is_whole(&self) -> bool {
        self.cut.is_empty()
    }
}
