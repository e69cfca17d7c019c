//! The throttles of copying, at the rates operators set while the broker runs (KIP-73, KIP-226).

use parking_lot::Mutex;
use varve_cluster::controller::State;
use varve_cluster::replica::Throttle;
use varve_log::Timestamp;

use crate::config::{Config, keys};
use crate::topic_settings;

/// Replicas in sync are never throttled.
#[derive(Debug)]
pub(crate) struct Throttles {
    /// What this broker gives to throttled followers.
    pub(crate) given: Limit,
    /// What it copies as one.
    pub(crate) taken: Limit,
}

impl Default for Throttles {
    fn default() -> Self {
        let limit = |key| Limit {
            key,
            throttle: Mutex::default(),
        };
        Self {
            given: limit(keys::LEADER_THROTTLED_RATE),
            taken: limit(keys::FOLLOWER_THROTTLED_RATE),
        }
    }
}

/// One of the two.
#[derive(Debug)]
pub(crate) struct Limit {
    /// Its rate in bytes a second.
    key: &'static str,
    throttle: Mutex<Throttle>,
}

impl Limit {
    /// Whether throttled replicas may go on now.
    pub(crate) fn is_open(&self, config: &Config, view: &State, now: Timestamp) -> bool {
        let rate = topic_settings::broker_value(config, view, self.key);
        match rate.and_then(|rate| rate.trim().parse().ok()) {
            Some(rate) => self.throttle.lock().is_open(rate, now.value()),
            None => true,
        }
    }

    /// So much was copied by throttled replicas.
    pub(crate) fn spend(&self, bytes: usize) {
        if bytes > 0 {
            self.throttle.lock().spend(bytes);
        }
    }
}
