//! Which faults a seed has, and how they strike. Each seed turns some on and leaves others off: a mix of everything
//! hides what a few faults alone would show.

use varve_cluster::raft::VoterSet;

use super::replica::{Call, key_of};
use super::{MS, SECOND, Scenario, new_disk};
use crate::sim::chance::Chance;
use crate::sim::network::Weather;
use crate::sim::world::DiskFaults;

#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// How long the phase of faults is. Microseconds.
    pub(super) lasts: i64,
    pub(super) weather: Weather,
    pub(super) disks: DiskFaults,
    /// A blow about so often.
    pub(super) every: i64,
    /// Administrators change the voters.
    pub(super) changes: bool,
    pub(super) change_every: i64,
    /// Leaders are struck when they have just been elected, or asked for other voters.
    pub(super) ambushes: bool,
    pub(super) read_every: i64,
    blows: Vec<Blow>,
    /// A quiet spell: no blow, no bad weather.
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Crash,
    CrashLeader,
    CrashAll,
    Cut,
    CutOff,
    CutOneWay,
    CutOffLeader,
    Heal,
    Pause,
    Clock,
    LoseDisk,
    Resign,
}

const BLOWS: [Blow; 12] = [
    Blow::Crash,
    Blow::CrashLeader,
    Blow::CrashAll,
    Blow::Cut,
    Blow::CutOff,
    Blow::CutOneWay,
    Blow::CutOffLeader,
    Blow::Heal,
    Blow::Pause,
    Blow::Clock,
    Blow::LoseDisk,
    Blow::Resign,
];

impl Faults {
    pub(super) fn drawn(chance: &mut Chance) -> Self {
        let weather = Weather {
            lost_percent: [0, 0, 2, 10, 30][chance.index(5)],
            twice_percent: [0, 5, 30][chance.index(3)],
            late_percent: [0, 2, 20][chance.index(3)],
            delay_max: [2, 10, 50][chance.index(3)] * MS,
            late_max: [100, 1_000, 5_000][chance.index(3)] * MS,
        };
        let disks = DiskFaults {
            sync_max: [1, 5, 40, 200][chance.index(4)] * MS,
            fails_one_in: [0, 0, 1_000, 100][chance.index(4)],
        };
        Self {
            lasts: [10, 20, 40][chance.index(3)] * SECOND,
            weather,
            disks,
            every: [200, 600, 2_000][chance.index(3)] * MS,
            changes: chance.percent(60),
            change_every: [200, 600, 2_000][chance.index(3)] * MS,
            ambushes: chance.percent(40),
            read_every: [50, 500][chance.index(2)] * MS,
            blows: BLOWS.into_iter().filter(|_| chance.percent(40)).collect(),
            quiet: false,
        }
    }
}

impl Scenario {
    /// Every few seconds; one spell in four is quiet, so that something gets done.
    pub(super) fn change_weather(&mut self) {
        self.faults.quiet = self.chance.one_in(4);
        let quiet = self.faults.quiet;
        self.world.network.weather = if quiet { Weather::CALM } else { self.faults.weather };
        self.world.disks.fails_one_in = if quiet { 0 } else { self.faults.disks.fails_one_in };
        if quiet || self.chance.one_in(2) {
            self.world.network.heal();
        }
    }

    pub(super) fn strike(&mut self) {
        let Some(blow) = self.chance.pick(&self.faults.blows) else {
            return;
        };
        if self.faults.quiet {
            return;
        }
        let nodes = self.world.nodes();
        let any = self.chance.index(nodes);
        let leader = self.leader().unwrap_or(any);
        match blow {
            Blow::Crash => self.crash(any),
            Blow::CrashLeader => self.crash(leader),
            Blow::CrashAll => (0..nodes).for_each(|node| self.crash(node)),
            Blow::Cut => {
                let side: Vec<usize> = (0..nodes).filter(|_| self.chance.one_in(2)).collect();
                self.world.network.split(&side, nodes);
            }
            Blow::CutOff => self.world.network.split(&[any], nodes),
            Blow::CutOffLeader => self.world.network.split(&[leader], nodes),
            Blow::CutOneWay => {
                let other = self.chance.index(nodes);
                self.world.network.cut(any, other);
            }
            Blow::Heal => self.world.network.heal(),
            Blow::Pause => {
                let how_long = self.chance.between(0..3 * SECOND);
                self.world.pause(any, how_long);
            }
            Blow::Clock => {
                let percent = [50, 90, 100, 110, 200][self.chance.index(5)];
                self.world.set_clock(any, percent);
            }
            Blow::LoseDisk => self.lose_disk(any),
            Blow::Resign => self.world.call(leader, Call::Resign),
        }
    }

    /// The leader goes, or is left with some of its followers.
    pub(super) fn ambush(&mut self) {
        let nodes = self.world.nodes();
        let Some(leader) = self.leader() else { return };
        if self.chance.one_in(3) {
            self.crash(leader);
        } else {
            if self.chance.one_in(2) {
                self.world.network.heal(); // Who was cut off before now meets the others.
            }
            let mut side: Vec<usize> = (0..nodes).filter(|_| self.chance.one_in(3)).collect();
            side.push(leader);
            self.world.network.split(&side, nodes);
        }
    }

    fn crash(&mut self, node: usize) {
        if self.world.machine(node).is_some() {
            self.world.crash(node);
            self.restart(node);
        }
    }

    /// After a while: a moment, or long enough for others to take over.
    pub(super) fn restart(&mut self, node: usize) {
        let most = [50 * MS, SECOND, 5 * SECOND][self.chance.index(3)];
        let after = self.chance.between(MS..most);
        self.world.boot(node, after);
    }

    /// The node comes back with an empty disk, if the quorum can bear it: of no set of voters that anybody may count
    /// with is a majority lost.
    fn lose_disk(&mut self, node: usize) {
        let key = key_of(node, self.world.synced(node).directory);
        let bears = |voters: &VoterSet| {
            let lost = voters
                .iter()
                .filter(|voter| *voter == key || self.oracle.is_lost(*voter))
                .count();
            lost == 0 || lost <= (voters.len() - 1) / 2
        };
        let running = self
            .world
            .live()
            .into_iter()
            .filter_map(|node| self.world.machine(node));
        let in_use = running.map(|replica| replica.node.voters().clone());
        let on_disk = (0..self.world.nodes()).map(|node| self.world.synced(node).voters());
        let bearable = in_use.chain(on_disk).all(|voters| bears(&voters));
        if !bearable || self.voters_may_change() {
            return;
        }
        if self.world.machine(node).is_some() {
            self.world.crash(node);
        }
        self.oracle.disk_lost(key.directory);
        let directory = self.new_directory();
        self.world
            .replace_disk(node, new_disk(directory, VoterSet::default()));
        self.restart(node);
    }
}
