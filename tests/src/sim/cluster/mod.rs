//! The whole cluster under faults: brokers with real logs on simulated disks and the real rules of replication, the real
//! metadata state machine, an object store, idempotent producers, a consumer, operators; and everything that can go wrong
//! with networks, disks, clocks, processes and buckets.
//!
//! ```text
//!   client ── produce, read ──► broker ◄── fetch ── broker ...        all over one network that loses, delays,
//!                                 │  └── put, get ──► store            repeats and reorders
//!                                 └── commands, heartbeats ──► controller (one order, the real `controller::State`)
//! ```

mod broker;
mod bug;
mod client;
mod controller;
mod faults;
mod message;
mod node;
mod oracle;
mod replica;
mod store;
mod upload;

use std::collections::BTreeMap;
use std::sync::Arc;

use varve_cluster::TopicName;
use varve_cluster::controller::command::CreateTopic;
use varve_cluster::controller::{Command, State};
use varve_cluster::replica::Durability;
use varve_log::SimDisk;

pub use bug::Bug;
pub use oracle::Tally;

use super::chance::Chance;
use super::network::Weather;
use super::world::{Boot, DiskFaults, Output, Turn, World};
use super::{Failure, Outcome};
use faults::Faults;
use message::{Call, Files, Marks, Pace, Report, Shared, StoreFaults};
use node::{Node, Setup, TOPIC};
use oracle::Oracle;

const MS: i64 = 1_000;
const SECOND: i64 = 1_000 * MS;
/// All faults over, everything must have come to rest by then.
const REST: i64 = 60 * SECOND;
/// Events between two looks at everything.
const LOOK_EVERY: u64 = 500;

/// Runs one seed, with one of the known bugs in the brokers if `bug` says so. The trace is empty unless asked for.
pub fn run(seed: u64, bug: Option<Bug>, traced: bool) -> (Outcome, Tally, String) {
    let mut scenario = Scenario::new(seed, bug, traced);
    let failure = scenario.play().err();
    if let Some(failure) = &failure {
        scenario.world.note(|| format!("{failure:?}"));
    }
    let tally = scenario.oracle.tally.clone();
    let outcome = Outcome {
        seed,
        simulated: scenario.world.now(),
        events: scenario.world.events(),
        commands: tally.acked,
        epochs: tally.elections,
        failure,
    };
    (outcome, tally, scenario.world.take_trace())
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Fault = 1,
    Weather,
    /// Not repeated.
    Ambush,
    AmbushEnds,
    /// Only moves time on.
    Look,
}

struct Scenario {
    setup: Arc<Setup>,
    world: World<Node>,
    oracle: Oracle,
    /// Drives faults; the world's own chance is left to the world.
    chance: Chance,
    faults: Faults,
    calm: bool,
    looked_at: u64,
    /// Where somebody has just joined the ISR, or has just been elected.
    prey: i32,
    has_lost_disk: bool,
}

impl Scenario {
    fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let faults = Faults::drawn(&mut chance);
        let setup = Arc::new(setup(&mut chance, bug));
        let (shared, world_chance) = (Arc::clone(&setup), Chance::new(chance.draw()));
        let start = Box::new(move |boot: Boot<'_, Files>, out: &mut Vec<_>| Node::start(&shared, &boot, out));
        let disks = DiskFaults {
            sync_max: 1,
            fails_one_in: 0,
        };
        let mut world = World::new(world_chance, Weather::CALM, disks, start, traced);
        for _ in 0..setup.brokers {
            world.add_node(Files::Broker {
                disk: SimDisk::new(),
                marks: Shared::new(Marks::default()),
            });
        }
        world.add_node(Files::Controller(Shared::new(State::new("simulated"))));
        world.add_node(Files::Store(Shared::new(BTreeMap::new())));
        world.add_node(Files::Client);
        Self {
            oracle: Oracle::new(&setup),
            setup,
            world,
            chance,
            faults,
            calm: false,
            looked_at: 0,
            prey: 0,
            has_lost_disk: false,
        }
    }

    fn play(&mut self) -> Result<(), Failure> {
        while self.oracle.state().live_brokers().count() < self.setup.brokers {
            self.wait(50 * MS)?;
        }
        self.create_topic();
        self.wait(300 * MS)?;
        self.world.timer(0, Timer::Fault as u64);
        self.world.timer(0, Timer::Weather as u64);
        let ends = self.world.now() + self.faults.lasts;
        while self.world.now() < ends {
            self.next()?;
        }
        self.heal()?;
        self.come_to_rest()
    }

    fn create_topic(&mut self) {
        let brokers = self.setup.brokers;
        let replicas = 2 + self.chance.index(2);
        let min = 1 + self.chance.index(replicas);
        let first = self.chance.index(brokers);
        let assignment = |partition: usize| {
            (0..replicas)
                .map(|n| message::broker((first + partition + n) % brokers))
                .collect()
        };
        let create = Command::CreateTopic(CreateTopic {
            name: TopicName::parse("orders").expect("a good name"),
            topic_id: TOPIC,
            assignments: (0..self.setup.partitions as usize).map(assignment).collect(),
            configs: [("min.insync.replicas".to_owned(), min.to_string())]
                .into_iter()
                .collect(),
        });
        self.world
            .call(self.setup.controller(), Call::Admin(Box::new(create)));
    }

    /// One event, judged.
    fn next(&mut self) -> Result<(), Failure> {
        let turn = self
            .world
            .next_turn()
            .ok_or_else(|| Failure::Stuck("nothing happens any more".to_owned()))?;
        let judged = match turn {
            Turn::Timer(tag) => {
                self.timer(tag);
                Ok(())
            }
            Turn::Node { node, outputs } | Turn::Started { node, outputs } | Turn::Died { node, outputs } => {
                let before = self.oracle.state().clone();
                let judged = self.oracle.after(&self.world, node, &outputs);
                self.bury(node, &outputs);
                self.lie_in_wait(&before);
                judged
            }
            Turn::Broken(how) => Err(how),
        };
        judged.map_err(Failure::Violation)?;
        if self.world.events() >= self.looked_at + LOOK_EVERY {
            self.looked_at = self.world.events();
            self.oracle.at_large(&self.world).map_err(Failure::Violation)?;
        }
        Ok(())
    }

    /// A process that has ended by itself: with its disk, or in order.
    fn bury(&mut self, node: usize, outputs: &[Output<Node>]) {
        for output in outputs {
            match output {
                Output::Report(Report::Dead) => {
                    self.world.crash(node);
                    // Somebody has looked: there is room again, and what the failed sync had is gone.
                    if let Files::Broker { disk, .. } = self.world.synced(node) {
                        disk.set_capacity(None);
                    }
                    if self.setup.durability == Durability::Group {
                        self.power_fails(node);
                    }
                    self.restart(node);
                }
                Output::Report(Report::Stopped | Report::Superseded) => {
                    self.world.crash(node);
                    self.restart(node);
                }
                _ => {}
            }
        }
    }

    fn timer(&mut self, tag: u64) {
        if self.calm {
            return;
        }
        if tag == Timer::Fault as u64 {
            self.strike();
            let after = self.chance.between(self.faults.every / 4..2 * self.faults.every);
            self.world.timer(after, tag);
        } else if tag == Timer::Weather as u64 {
            self.change_weather();
            self.world.timer(2 * SECOND, tag);
        } else if tag == Timer::Ambush as u64 {
            self.ambush();
        } else if tag == Timer::AmbushEnds as u64 {
            self.end_ambush();
        }
    }

    fn wait(&mut self, how_long: i64) -> Result<(), Failure> {
        let until = self.world.now() + how_long;
        self.world.timer(how_long, Timer::Look as u64);
        while self.world.now() < until {
            self.next()?;
        }
        Ok(())
    }

    /// No more faults: everybody is up, every message arrives. Clients go on for a while.
    fn heal(&mut self) -> Result<(), Failure> {
        self.calm = true;
        self.world.note(|| "calm".to_owned());
        self.world.network.heal();
        self.world.network.weather = Weather::CALM;
        let store = self.setup.store();
        self.world.call(store, Call::Store(StoreFaults::default()));
        for node in 0..self.world.nodes() {
            self.world.set_clock(node, 100);
            self.world.boot(node, 0);
            if let Files::Broker { disk, .. } = self.world.synced(node) {
                disk.set_capacity(None);
            }
        }
        self.wait(3 * SECOND)?;
        self.world.call(self.setup.client(), Call::Clients(Pace::Finish));
        Ok(())
    }

    /// Everything is acknowledged, everybody is in sync and holds the same, and what can be is in the bucket.
    fn come_to_rest(&mut self) -> Result<(), Failure> {
        let until = self.world.now() + REST;
        let mut waits = String::new();
        while self.world.now() < until {
            self.wait(500 * MS)?;
            match self.rests() {
                Ok(()) => return self.all_hold_the_same().map_err(Failure::Violation),
                Err(still) => waits = still,
            }
        }
        Err(Failure::Stuck(waits))
    }

    fn rests(&self) -> Result<(), String> {
        let client = self.world.machine(self.setup.client()).and_then(Node::client);
        if !client.is_some_and(client::Client::has_finished) {
            return Err("a producer's batch is not acknowledged".to_owned());
        }
        let state = self.oracle.state();
        for index in 0..self.setup.partitions {
            let partition = state.partition(TOPIC, index).ok_or("the topic is not there")?;
            if partition.leader.is_none() {
                return Err(format!("nobody leads {index}: {partition:?}"));
            }
            if partition.is_reassigned() || partition.isr.len() < partition.replicas.len() {
                return Err(format!("not all of {index} are in sync: {partition:?}"));
            }
            self.replicas_rest(index, partition)?;
        }
        Ok(())
    }

    fn replicas_rest(
        &self,
        index: i32,
        partition: &varve_cluster::controller::Partition,
    ) -> Result<(), String> {
        let end = self.oracle.committed(index);
        for id in &partition.replicas {
            let broker = self.world.machine(message::node(*id)).and_then(Node::broker);
            let Some(replica) = broker.and_then(|broker| broker.replicas.get(&index)) else {
                return Err(format!("broker {id} does not hold {index}"));
            };
            let ends = (replica.log.log_end(), replica.high_watermark());
            if ends != (end, end) {
                return Err(format!(
                    "broker {id} has {ends:?} of {index}, of which {end} is committed: {:?}",
                    replica.role
                ));
            }
            if !self.setup.tiered {
                continue;
            }
            if let Some(segment) = replica.due_for_tier(partition.tier_end()) {
                return Err(format!(
                    "segment {} of {index} does not get into the bucket, which ends at {}",
                    segment.base,
                    partition.tier_end()
                ));
            }
        }
        Ok(())
    }

    /// R3 and R11 when all has healed: the same log, in the same files.
    fn all_hold_the_same(&mut self) -> Result<(), String> {
        self.oracle.at_large(&self.world)?;
        for index in 0..self.setup.partitions {
            let partition = self.oracle.state().partition(TOPIC, index);
            let replicas = partition.map_or(&[][..], |partition| &partition.replicas[..]);
            let held = replicas.iter().filter_map(|id| {
                let broker = self.world.machine(message::node(*id)).and_then(Node::broker)?;
                Some((id, &broker.replicas.get(&index)?.log))
            });
            let held: Vec<_> = held.collect();
            // What all of them still have.
            let from = held.iter().map(|(_, log)| log.local_base()).max();
            // A segment that has just been begun, and is empty, may not be everywhere yet.
            let upto = held.iter().map(|(_, log)| log.active_base()).min();
            let files = |log: &varve_log::Log| -> Vec<_> {
                let sealed = log.sealed().into_iter();
                let those = sealed.filter(|one| Some(one.base) >= from && Some(one.end) <= upto);
                those
                    .map(|one| (one.base, one.end, upload::segment_bytes(&one)))
                    .collect()
            };
            let bases = |log: &varve_log::Log| -> Vec<_> {
                files(log).iter().map(|(base, end, _)| (*base, *end)).collect()
            };
            for pair in held.windows(2) {
                let [(one, log), (other, other_log)] = pair else {
                    continue;
                };
                if files(log) != files(other_log) {
                    return Err(format!(
                        "R11: brokers {one} and {other} have other segments of {index}: {:?}, {:?}",
                        bases(log),
                        bases(other_log)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn setup(chance: &mut Chance, bug: Option<Bug>) -> Setup {
    Setup {
        brokers: 3 + chance.index(3),
        partitions: 1 + i32::try_from(chance.index(2)).unwrap_or(0),
        producers: 1 + chance.index(3),
        durability: match chance.one_in(2) {
            true => Durability::Group,
            false => Durability::Os,
        },
        tiered: !chance.one_in(3),
        session_ms: [300, 900, 2_000][chance.index(3)],
        lag_max_ms: [150, 500, 1_500][chance.index(3)],
        segment_bytes: [500, 1_200, 5_000][chance.index(3)],
        sync_max_ms: [1, 5, 40][chance.index(3)],
        write_max_ms: [1, 3, 20][chance.index(3)],
        produce_every_ms: [10, 40, 150][chance.index(3)],
        request_timeout_ms: [100, 400, 1_500][chance.index(3)],
        implicit_acks: !chance.one_in(3),
        rolls_one_in: [3, 20, 1_000][chance.index(3)],
        bug,
    }
}
