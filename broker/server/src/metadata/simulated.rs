//! A metadata quorum in memory that is as late, forgetful and ambiguous as a real one may be.
//!
//! What it decides to do to a proposal comes from its seed alone, so a run can be repeated.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use varve_cluster::controller::{Command, Outcome, State};

use super::quorum::{MetadataQuorum, ProposeError};

/// How often, of 100 proposals, each thing happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Refused before it entered the order.
    pub not_applied: u32,
    /// Never enters the order, but the proposer is not told so.
    pub lost: u32,
    /// Takes effect, but the answer is lost.
    pub answer_lost: u32,
    /// A proposal, and its answer, may each take up to this long.
    pub delay_max: Duration,
}

#[derive(Debug)]
pub struct Simulated {
    inner: Mutex<Inner>,
    view: watch::Sender<Arc<State>>,
}

#[derive(Debug)]
struct Inner {
    faults: Faults,
    chance: u64,
}

enum Fate {
    Served,
    NotApplied,
    Lost,
    AnswerLost,
}

impl Simulated {
    #[must_use]
    pub fn new(cluster_id: &str, seed: u64, faults: Faults) -> Self {
        let (view, _) = watch::channel(Arc::new(State::new(cluster_id)));
        Self {
            inner: Mutex::new(Inner { faults, chance: seed }),
            view,
        }
    }

    /// From now on these.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    fn fate(&self) -> (Fate, [Duration; 2]) {
        let mut inner = self.inner.lock();
        let Faults {
            not_applied,
            lost,
            answer_lost,
            delay_max,
        } = inner.faults;
        let drawn = inner.draw(100);
        let fate = match drawn {
            n if n < u64::from(not_applied) => Fate::NotApplied,
            n if n < u64::from(not_applied + lost) => Fate::Lost,
            n if n < u64::from(not_applied + lost + answer_lost) => Fate::AnswerLost,
            _ => Fate::Served,
        };
        let most = u64::try_from(delay_max.as_micros()).unwrap_or(u64::MAX);
        let mut delay = || Duration::from_micros(if most == 0 { 0 } else { inner.draw(most) });
        (fate, [delay(), delay()])
    }

    fn order(&self, command: &Command) -> Result<Outcome, ProposeError> {
        let mut outcome = None;
        self.view.send_if_modified(|view| {
            let mut next = State::clone(view);
            let judged = next.apply(view.applied + 1, command);
            let moved = judged.is_ok();
            if moved {
                *view = Arc::new(next);
            }
            outcome = Some(judged);
            moved
        });
        let Some(judged) = outcome else {
            unreachable!("the closure has run")
        };
        judged.map_err(ProposeError::Rejected)
    }
}

impl Inner {
    /// splitmix64: small, and the same everywhere.
    fn draw(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[async_trait]
impl MetadataQuorum for Simulated {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let (fate, [before, after]) = self.fate();
        tokio::time::sleep(before).await;
        let unknown = || ProposeError::Unknown("no answer came".to_owned());
        let outcome = match fate {
            Fate::Served => self.order(&command),
            Fate::NotApplied => Err(ProposeError::NotApplied("there is no leader".to_owned())),
            Fate::Lost => Err(unknown()),
            Fate::AnswerLost => {
                let _ = self.order(&command);
                Err(unknown())
            }
        };
        tokio::time::sleep(after).await;
        outcome
    }

    fn view(&self) -> Arc<State> {
        Arc::clone(&self.view.borrow())
    }

    fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.view.subscribe()
    }
}
