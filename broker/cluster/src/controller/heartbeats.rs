//! Who is alive: what the active controller knows from heartbeats, and nobody else.
//!
//! Nothing here is replicated. A new controller gives everybody a fresh session ([`Heartbeats::begin`]); what
//! must outlive it (fenced or not, shutting down since when) stands in [`State`]. Times are milliseconds of any
//! clock that only goes forward.
//!
//! ```text
//! registered ─► fenced ──(knows its own registration)──► unfenced ──(wants to stop)──► shutting down
//!                 ▲                                         │                               │
//!                 └──────────── silent for a session ───────┴── leads nothing, and every active broker
//!                                                               knows it: told to stop, fenced
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::apply::Rejected;
use super::command::Command;
use super::state::{Broker, State};
use crate::{BrokerEpoch, BrokerId};

/// What a broker says every so often (BrokerHeartbeat).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
    /// Up to here it has applied the metadata.
    pub applied: u64,
    /// It does not want to serve (yet).
    pub want_fence: bool,
    /// It wants to stop in order.
    pub want_shutdown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// It knows its own registration.
    pub caught_up: bool,
    pub fenced: bool,
    /// Nobody needs it any more.
    pub should_shut_down: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Heartbeats {
    session_ms: i64,
    heard: BTreeMap<BrokerId, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    epoch: BrokerEpoch,
    at: i64,
    applied: u64,
}

impl Heartbeats {
    /// The controller has just become active: whoever counts as alive has a whole session
    /// (`broker.session.timeout.ms`) to speak.
    #[must_use]
    pub fn begin(session_ms: i64, state: &State, now: i64) -> Self {
        let unfenced = state.brokers.values().filter(|broker| !broker.fenced);
        let fresh = |broker: &Broker| {
            let heard = Heard {
                epoch: broker.epoch,
                at: now,
                applied: 0,
            };
            (broker.id, heard)
        };
        Self {
            session_ms,
            heard: unfenced.map(fresh).collect(),
        }
    }

    /// Takes a heartbeat; what it asks for comes back as an answer, and as a command to propose if something must
    /// change for it. The answer holds already; the command may fail, and is due again with the next heartbeat.
    ///
    /// # Errors
    /// When the broker is not registered, or not in the uptime it claims: it must register anew.
    pub fn heard(
        &mut self,
        state: &State,
        beat: Heartbeat,
        now: i64,
    ) -> Result<(HeartbeatAnswer, Option<Command>), Rejected> {
        state.check_broker(beat.broker, beat.epoch)?;
        let known = state
            .brokers
            .get(&beat.broker)
            .ok_or(Rejected::UnknownBroker(beat.broker))?;
        self.heard.insert(
            beat.broker,
            Heard {
                epoch: beat.epoch,
                at: now,
                applied: beat.applied,
            },
        );
        let (should_shut_down, command) = self.judge(state, known, beat);
        let answer = HeartbeatAnswer {
            caught_up: beat.applied >= beat.epoch.value(),
            fenced: known.fenced,
            should_shut_down,
        };
        Ok((answer, command))
    }

    /// Commands for all whose session has lapsed. Call it every fraction of a session.
    #[must_use]
    pub fn lapsed(&self, state: &State, now: i64) -> Vec<Command> {
        let silent = self.silent_for(self.session_ms, state, now);
        silent.into_iter().map(|(_, fence)| fence).collect()
    }

    /// Active brokers not heard for `ms`, and what fences each: for when another sign of their death is found before
    /// the session lapses.
    #[must_use]
    pub fn silent_for(&self, ms: i64, state: &State, now: i64) -> Vec<(BrokerId, Command)> {
        let unfenced = state.brokers.values().filter(|broker| !broker.fenced);
        let silent = unfenced.filter(|broker| !self.was_heard(broker, ms, now));
        silent.map(|broker| (broker.id, fence(broker))).collect()
    }

    /// Whether a process may register as `broker`: not while another one is alive under that id
    /// (DUPLICATE_BROKER_REGISTRATION). Its own registration tried again is no other.
    #[must_use]
    pub fn may_register(&self, state: &State, broker: BrokerId, incarnation: uuid::Uuid, now: i64) -> bool {
        let Some(known) = state.brokers.get(&broker) else {
            return true;
        };
        known.incarnation == incarnation || known.fenced || !self.was_heard(known, self.session_ms, now)
    }

    /// Up to here every active broker has applied the metadata: a barrier, for deletions in the tier too. A broker
    /// that has not been heard yet holds it at 0.
    #[must_use]
    pub fn applied_by_all(&self, state: &State) -> u64 {
        state
            .live_brokers()
            .map(|broker| self.applied_by(broker))
            .min()
            .unwrap_or(state.applied)
    }

    fn judge(&self, state: &State, known: &Broker, beat: Heartbeat) -> (bool, Option<Command>) {
        let (broker, epoch) = (known.id, known.epoch);
        if known.fenced {
            let ready = !beat.want_fence && !beat.want_shutdown && beat.applied >= epoch.value();
            let may = ready && known.shutting_down.is_none();
            return (
                beat.want_shutdown,
                may.then_some(Command::UnfenceBroker { broker, epoch }),
            );
        }
        match known.shutting_down {
            Some(since) => {
                // Who still believes that it leads would send clients to a closed door.
                let may_stop = !state.leads(broker) && self.applied_by_all(state) >= since;
                (may_stop, may_stop.then(|| fence(known)))
            }
            None if beat.want_fence => (beat.want_shutdown, Some(fence(known))),
            None if beat.want_shutdown => (false, Some(Command::BeginShutdown { broker, epoch })),
            None => (false, None),
        }
    }

    fn was_heard(&self, broker: &Broker, within_ms: i64, now: i64) -> bool {
        self.heard
            .get(&broker.id)
            .is_some_and(|heard| heard.epoch == broker.epoch && now.saturating_sub(heard.at) < within_ms)
    }

    fn applied_by(&self, broker: &Broker) -> u64 {
        self.heard
            .get(&broker.id)
            .filter(|heard| heard.epoch == broker.epoch)
            .map_or(0, |heard| heard.applied)
    }
}

fn fence(broker: &Broker) -> Command {
    Command::FenceBroker {
        broker: broker.id,
        epoch: broker.epoch,
    }
}
