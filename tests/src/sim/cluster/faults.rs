//! Which faults a seed has, and how they strike. In each seed some are on and others off.
//!
//! Two kinds of seeds, by what Varve promises: brokers that sync before they acknowledge lose power, all at once if it
//! comes to that; brokers that do not only lose their processes. In neither may anything acknowledged be lost.

use varve_cluster::BrokerId;
use varve_cluster::controller::command::Reassign;
use varve_cluster::controller::{Command, ConfigOp, ConfigResource};
use varve_cluster::replica::Durability;
use varve_log::Crash;

use super::message::{Call, Files, StoreFaults, broker, node};
use super::node::TOPIC;
use super::{MS, SECOND, Scenario};
use crate::sim::chance::Chance;
use crate::sim::network::Weather;

#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// How long the phase of faults is. Microseconds.
    pub(super) lasts: i64,
    pub(super) every: i64,
    weather: Weather,
    store: StoreFaults,
    blows: Vec<Blow>,
    /// Leaders are struck when somebody has just joined them, or when they have just been elected.
    ambushes: bool,
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Crash,
    CrashLeader,
    CrashAll,
    /// Down and up again before anybody notices.
    Bounce,
    ControllerGoes,
    Stop,
    Cut,
    CutOff,
    CutOneWay,
    Heal,
    Pause,
    Clock,
    DiskFails,
    DiskFull,
    DiskLost,
    Fence,
    Reassign,
    MinIsr,
    Preferred,
    DeleteRecords,
    Roll,
    Unregister,
}

const BLOWS: [Blow; 22] = [
    Blow::Crash,
    Blow::CrashLeader,
    Blow::CrashAll,
    Blow::Bounce,
    Blow::ControllerGoes,
    Blow::Stop,
    Blow::Cut,
    Blow::CutOff,
    Blow::CutOneWay,
    Blow::Heal,
    Blow::Pause,
    Blow::Clock,
    Blow::DiskFails,
    Blow::DiskFull,
    Blow::DiskLost,
    Blow::Fence,
    Blow::Reassign,
    Blow::MinIsr,
    Blow::Preferred,
    Blow::DeleteRecords,
    Blow::Roll,
    Blow::Unregister,
];

impl Faults {
    pub(super) fn drawn(chance: &mut Chance) -> Self {
        let weather = Weather {
            lost_percent: [0, 0, 1, 5, 15][chance.index(5)],
            twice_percent: [0, 5, 30][chance.index(3)],
            late_percent: [0, 2, 20][chance.index(3)],
            delay_max: [1, 3, 10][chance.index(3)] * MS,
            late_max: [20, 200, 2_000][chance.index(3)] * MS,
        };
        let store = StoreFaults {
            before_effect: [0, 5, 40][chance.index(3)],
            after_effect: [0, 5, 40][chance.index(3)],
            hung: [0, 5, 30][chance.index(3)],
            slow: [2, 50, 1_500][chance.index(3)],
        };
        // Everybody at once, early, with batches on their way: a seed in three does little else.
        let blows = if chance.one_in(3) {
            vec![Blow::CrashAll, Blow::Bounce, Blow::Preferred]
        } else {
            BLOWS.into_iter().filter(|_| chance.percent(40)).collect()
        };
        Self {
            lasts: [3, 6, 12][chance.index(3)] * SECOND,
            every: [100, 300, 900][chance.index(3)] * MS,
            weather,
            store,
            blows,
            ambushes: chance.percent(50),
            quiet: false,
        }
    }
}

impl Scenario {
    /// One spell in four is quiet, so that something gets done.
    pub(super) fn change_weather(&mut self) {
        self.faults.quiet = self.chance.one_in(4);
        let quiet = self.faults.quiet;
        self.world.network.weather = if quiet { Weather::CALM } else { self.faults.weather };
        let store = if quiet {
            StoreFaults::default()
        } else {
            self.faults.store
        };
        self.world.call(self.setup.store(), Call::Store(store));
        if quiet || self.chance.one_in(2) {
            self.world.network.heal();
        }
    }

    pub(super) fn strike(&mut self) {
        let blow = self.chance.pick(&self.faults.blows);
        let Some(blow) = blow.filter(|_| !self.faults.quiet) else {
            return;
        };
        let brokers = self.setup.brokers;
        let any = self.chance.index(brokers);
        match blow {
            Blow::Crash => self.crash(any),
            Blow::CrashLeader => {
                let leader = self.some_leader().unwrap_or(any);
                self.crash(leader);
            }
            Blow::CrashAll => (0..brokers).for_each(|node| self.crash(node)),
            Blow::Bounce => {
                self.crash_only(any);
                self.world.boot(any, MS);
            }
            Blow::ControllerGoes => {
                let controller = self.setup.controller();
                self.world.crash(controller);
                let after = self.chance.between(MS..2 * SECOND);
                self.world.boot(controller, after);
            }
            Blow::Stop => self.world.call(any, Call::Stop),
            Blow::Pause => {
                let how_long = self.chance.between(0..2 * SECOND);
                self.world.pause(any, how_long);
            }
            Blow::Clock => {
                let percent = [50, 90, 100, 110, 200][self.chance.index(5)];
                self.world.set_clock(any, percent);
            }
            Blow::Cut | Blow::CutOff | Blow::CutOneWay | Blow::Heal => self.cut_ways(blow, any),
            Blow::DiskFails | Blow::DiskFull => self.harm_disk(blow, any),
            Blow::DiskLost => self.lose_disk(any),
            Blow::Fence
            | Blow::Reassign
            | Blow::MinIsr
            | Blow::Preferred
            | Blow::DeleteRecords
            | Blow::Roll
            | Blow::Unregister => self.administer(blow, any),
        }
    }

    fn cut_ways(&mut self, blow: Blow, any: usize) {
        let nodes = self.world.nodes();
        match blow {
            Blow::Cut => {
                let side: Vec<usize> = (0..nodes).filter(|_| self.chance.one_in(2)).collect();
                self.world.network.split(&side, nodes);
            }
            Blow::CutOff => self.world.network.split(&[any], nodes),
            Blow::CutOneWay => {
                let other = self.chance.index(nodes);
                self.world.network.cut(any, other);
            }
            _ => self.world.network.heal(),
        }
    }

    fn harm_disk(&mut self, blow: Blow, any: usize) {
        let after = u32::try_from(self.chance.below(6)).unwrap_or(0);
        let (writes, full) = (self.chance.one_in(2), blow == Blow::DiskFull);
        if let Files::Broker { disk, .. } = self.world.synced(any) {
            match (full, writes) {
                (true, _) => disk.set_capacity(Some(0)),
                (false, true) => disk.fail_write(after),
                (false, false) => disk.fail_sync(after),
            }
        }
    }

    /// The broker comes back at once with an empty disk; its leaders hear of that late. Once in a run, and only while others
    /// surely hold all that it held (`min.insync.replicas` of 2 or more bear it); and not where power fails, because a disk less is
    /// a copy less of what was synced.
    fn lose_disk(&mut self, node: usize) {
        let (me, state) = (broker(node), self.oracle.state());
        let spared = |one: &varve_cluster::controller::Partition| {
            !one.replicas.contains(&me)
                || (one.leader.is_some_and(|leader| leader != me) && one.isr.len() > 1)
        };
        let bearable = state.partitions().all(|(_, _, partition)| spared(partition));
        let is_down = self.world.machine(node).is_none();
        let spare = self.min_isr() > 1 && self.setup.durability == Durability::Os;
        if self.has_lost_disk || is_down || !bearable || !spare {
            return;
        }
        self.has_lost_disk = true;
        let leaders: Vec<BrokerId> = state.partitions().filter_map(|(_, _, one)| one.leader).collect();
        self.world.crash(node);
        let files = Files::Broker {
            disk: varve_log::SimDisk::new(),
            marks: super::message::Shared::new(super::message::Marks::default()),
        };
        self.world.replace_disk(node, files);
        for leader in leaders {
            self.world.network.cut(node, super::message::node(leader));
        }
        self.world.boot(node, MS);
    }

    /// What is half done when a leader goes is where the old mistakes are.
    pub(super) fn lie_in_wait(&mut self, before: &varve_cluster::controller::State) {
        if self.calm || !self.faults.ambushes || self.faults.quiet {
            return;
        }
        let now = self.oracle.state();
        if now.applied == before.applied {
            return;
        }
        let changed = (0..self.setup.partitions).find(|index| {
            let (old, new) = (before.partition(TOPIC, *index), now.partition(TOPIC, *index));
            let grown = |(old, new): (
                &varve_cluster::controller::Partition,
                &varve_cluster::controller::Partition,
            )| {
                new.isr.len() > old.isr.len() || (new.leader.is_some() && new.leader != old.leader)
            };
            old.zip(new).is_some_and(grown)
        });
        let Some(changed) = changed.filter(|_| self.chance.one_in(3)) else {
            return;
        };
        self.prey = changed;
        // The leader does not hear what has just been decided, nor the youngest member of its ISR what comes now.
        let partition = self.oracle.state().partition(TOPIC, changed);
        let (leader, last) = partition.map_or((None, None), |one| {
            (one.leader.map(node), one.isr.last().copied().map(node))
        });
        if let (Some(leader), Some(last), true) = (leader, last, self.chance.one_in(2)) {
            self.world.network.cut(self.setup.controller(), leader);
            self.world.network.cut(leader, last);
            self.world.network.cut(last, leader);
            let after = self.chance.between(20 * MS..1_500 * MS);
            self.world.timer(after, super::Timer::AmbushEnds as u64);
        } else {
            let after = self.chance.between(0..30 * MS);
            self.world.timer(after, super::Timer::Ambush as u64);
        }
    }

    pub(super) fn ambush(&mut self) {
        if let Some(leader) = self.leader_of(self.prey) {
            self.crash(leader);
        }
    }

    /// Who was kept in the dark dies before it hears of anything.
    pub(super) fn end_ambush(&mut self) {
        self.ambush();
        self.world.network.heal();
    }

    fn administer(&mut self, blow: Blow, any: usize) {
        let index = i32::try_from(self.chance.index(self.setup.partitions as usize)).unwrap_or(0);
        let leader = self.leader_of(index).unwrap_or(any);
        let percent = u8::try_from(self.chance.below(100)).unwrap_or(0);
        let known = self.oracle.state().brokers.get(&broker(any));
        let command = match blow {
            Blow::Fence => known.map(|known| Command::FenceBroker {
                broker: known.id,
                epoch: known.epoch,
            }),
            // Only one that is gone: who is alive hears of it when it is started again.
            Blow::Unregister if self.world.machine(any).is_none() => known.map(|known| {
                let broker = known.id;
                Command::UnregisterBroker { broker }
            }),
            Blow::Preferred => Some(Command::ElectPreferred {
                topic_id: TOPIC,
                partition: index,
            }),
            Blow::Reassign => self.reassignment(index),
            Blow::MinIsr => Some(self.other_min_isr()),
            Blow::DeleteRecords => {
                let call = Call::DeleteRecords {
                    partition: index,
                    percent,
                };
                self.world.call(leader, call);
                None
            }
            Blow::Roll => {
                self.world.call(leader, Call::Roll { partition: index });
                None
            }
            _ => None,
        };
        if let Some(command) = command {
            self.world
                .call(self.setup.controller(), Call::Admin(Box::new(command)));
        }
    }

    /// To fewer replicas than `min.insync.replicas` never, where power fails: see `Durability::Group`.
    fn reassignment(&mut self, partition: i32) -> Option<Command> {
        let brokers = self.setup.brokers;
        let count = 1 + self.chance.index(3.min(brokers));
        let first = self.chance.index(brokers);
        let replicas: Vec<BrokerId> = (0..count).map(|n| broker((first + n) % brokers)).collect();
        if self.setup.durability == Durability::Group && count < self.min_isr() {
            return None;
        }
        let replicas = (!self.chance.one_in(4)).then_some(replicas);
        Some(Command::Reassign(Reassign {
            topic_id: TOPIC,
            partition,
            replicas,
            any_replication_factor: true,
        }))
    }

    fn min_isr(&self) -> usize {
        let state = self.oracle.state();
        state
            .topic(TOPIC)
            .map_or(1, |topic| state.min_insync_replicas(topic))
    }

    /// Never a smaller one where power fails, for the same reason.
    fn other_min_isr(&mut self) -> Command {
        let least = match self.setup.durability {
            Durability::Group => self.min_isr().min(3),
            Durability::Os => 1,
        };
        let value = (least + self.chance.index(4 - least)).to_string();
        Command::AlterConfigs {
            resource: ConfigResource::Topic(TOPIC),
            ops: vec![ConfigOp::Set {
                key: "min.insync.replicas".to_owned(),
                value,
            }],
        }
    }

    fn leader_of(&self, partition: i32) -> Option<usize> {
        let partition = self.oracle.state().partition(TOPIC, partition)?;
        partition.leader.map(node)
    }

    fn some_leader(&mut self) -> Option<usize> {
        let index = i32::try_from(self.chance.index(self.setup.partitions as usize)).ok()?;
        self.leader_of(index)
    }

    fn crash(&mut self, node: usize) {
        if self.crash_only(node) {
            self.restart(node);
        }
    }

    /// The process dies; where disks are synced, the power goes.
    pub(super) fn crash_only(&mut self, node: usize) -> bool {
        if self.world.machine(node).is_none() {
            return false;
        }
        self.world.crash(node);
        if self.setup.durability == Durability::Group {
            self.power_fails(node);
        }
        true
    }

    pub(super) fn power_fails(&mut self, node: usize) {
        let crash = match self.chance.one_in(2) {
            true => Crash::Unsynced,
            false => Crash::Tail,
        };
        if let Files::Broker { disk, .. } = self.world.synced(node) {
            let chance = &mut self.chance;
            disk.crash(crash, &mut |below| chance.index(below));
        }
    }

    /// After a while: a moment, or long enough for others to take over.
    pub(super) fn restart(&mut self, node: usize) {
        let most = [20 * MS, 500 * MS, 3 * SECOND][self.chance.index(3)];
        let after = self.chance.between(MS..most);
        self.world.boot(node, after);
    }
}
