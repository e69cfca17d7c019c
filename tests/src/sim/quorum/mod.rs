//! The metadata quorum under faults: voters and observers, clients that propose unique commands, administrators who
//! change the voters, and everything that can go wrong with networks, disks, clocks and processes.

mod faults;
mod oracle;
mod replica;

use bytes::Bytes;
use uuid::Uuid;
use varve_cluster::raft::{
    Bug, Config, NodeId, Position, ReplicaKey, RoleName, Snapshot, Stored, Ticket, VoterSet,
};

use super::chance::Chance;
use super::world::{Output, Turn, World};
use super::{Failure, Outcome};
use faults::Faults;
use oracle::Oracle;
use replica::{Call, Files, Replica, Report, Sabotage, Setup, index_of, key_of};

const MS: i64 = 1_000;
const SECOND: i64 = 1_000 * MS;

/// Runs one seed, with one of the known faults in the replicas if `bug` says so. The trace is empty unless asked for.
pub fn run(seed: u64, bug: Option<Bug>, traced: bool) -> (Outcome, String) {
    let mut scenario = Scenario::new(seed, bug, traced);
    let failure = scenario.play().err();
    if let Some(failure) = &failure {
        scenario.world.note(|| format!("{failure:?}"));
    }
    let outcome = Outcome {
        seed,
        simulated: scenario.world.now(),
        events: scenario.world.events(),
        commands: scenario.oracle.commands(),
        epochs: scenario.oracle.leaders(),
        failure,
    };
    (outcome, scenario.world.take_trace())
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Propose = 1,
    Read,
    Change,
    Fault,
    Weather,
    /// Not repeated.
    Ambush,
    /// Only moves time on.
    Look,
}

struct Scenario {
    world: World<Replica>,
    oracle: Oracle,
    /// Drives clients and faults; the world's own chance is left to the world.
    chance: Chance,
    faults: Faults,
    /// How often a client proposes, on average. Microseconds.
    propose_every: i64,
    fetch_timeout: i64,
    tickets: u64,
    disks: u128,
    clients_rest: bool,
    /// Changes of the voters that may be under way: asked of a node in one of its lives.
    changes: Vec<(Ticket, usize, u32)>,
}

impl Scenario {
    fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut chance = Chance::new(seed);
        let faults = Faults::drawn(&mut chance);
        let setup = setup(&mut chance, bug);
        let voters = [1, 3, 3, 3, 4, 5][chance.index(6)];
        let others = chance.index(4);
        let (fetch_timeout, propose_every) =
            (setup.config.fetch_timeout, [20, 60, 200][chance.index(3)] * MS);
        let start = Box::new(move |boot: super::world::Boot<'_, Files>, out: &mut Vec<_>| {
            Replica::start(&setup, &boot, out)
        });
        let world_chance = Chance::new(chance.draw());
        let mut world = World::new(world_chance, faults.weather, faults.disks, start, traced);
        let directory = |node: usize| Uuid::from_u128(node as u128 + 1);
        let keys = (0..voters).map(|node| (key_of(node, directory(node)), "simulated:9093".into()));
        let first = VoterSet::new(keys);
        for node in 0..voters + others {
            let voters = if node < voters {
                first.clone()
            } else {
                VoterSet::default()
            };
            world.add_node(new_disk(directory(node), voters));
        }
        Self {
            disks: (voters + others + 1) as u128,
            oracle: Oracle::default(),
            chance,
            faults,
            propose_every,
            fetch_timeout,
            tickets: 0,
            world,
            clients_rest: false,
            changes: vec![],
        }
    }

    fn play(&mut self) -> Result<(), Failure> {
        let ends = self.faults.lasts;
        for (timer, after) in [
            (Timer::Propose, 0),
            (Timer::Read, 0),
            (Timer::Change, SECOND),
            (Timer::Fault, SECOND),
            (Timer::Weather, 4 * SECOND),
        ] {
            self.world.timer(after, timer as u64);
        }
        while self.world.now() < ends {
            self.next()?;
        }
        self.calm()?;
        self.come_to_rest("after all faults")?;
        self.disturb()
    }

    /// One event, judged.
    fn next(&mut self) -> Result<(), Failure> {
        let turn = self
            .world
            .next_turn()
            .ok_or_else(|| Failure::Stuck("nothing happens any more".to_owned()))?;
        match turn {
            Turn::Timer(tag) => {
                self.timer(tag);
                Ok(())
            }
            Turn::Node { node, outputs } => {
                let judged = self.oracle.after(&self.world, node, &outputs);
                self.meddle(&outputs);
                judged
            }
            Turn::Started { node, outputs } => self
                .oracle
                .started(&self.world, node)
                .and_then(|()| self.oracle.after(&self.world, node, &outputs)),
            Turn::Died { node, outputs } => {
                let judged = self.oracle.after(&self.world, node, &outputs);
                self.restart(node);
                judged
            }
            Turn::Broken(how) => Err(how),
        }
        .map_err(Failure::Violation)
    }

    fn timer(&mut self, tag: u64) {
        if self.clients_rest {
            return;
        }
        let again = |timer: Timer| tag == timer as u64;
        let every = if again(Timer::Propose) {
            self.propose();
            self.propose_every
        } else if again(Timer::Read) {
            self.read();
            self.faults.read_every
        } else if again(Timer::Change) {
            if self.faults.changes {
                self.change_voters();
            }
            self.faults.change_every
        } else if again(Timer::Fault) {
            self.strike();
            self.faults.every
        } else if again(Timer::Weather) {
            self.change_weather();
            4 * SECOND
        } else {
            if again(Timer::Ambush) {
                self.ambush();
            }
            return;
        };
        let after = self.chance.between(every / 4..2 * every);
        self.world.timer(after, tag);
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// The node that leads in the latest epoch, as far as it knows itself.
    fn leader(&self) -> Option<usize> {
        let leading = |node: &usize| {
            self.world
                .machine(*node)
                .is_some_and(|replica| replica.node.is_leader())
        };
        let epoch = |node: &usize| self.world.machine(*node).map(|replica| replica.node.epoch());
        (0..self.world.nodes()).filter(leading).max_by_key(epoch)
    }

    /// Mostly the leader, sometimes anybody.
    fn somebody(&mut self) -> usize {
        let anybody = self.chance.index(self.world.nodes());
        if self.chance.one_in(6) {
            anybody
        } else {
            self.leader().unwrap_or(anybody)
        }
    }

    fn propose(&mut self) -> Ticket {
        let to = self.somebody();
        let burst = if self.chance.one_in(10) { 8 } else { 1 };
        for _ in 0..burst {
            let ticket = self.ticket();
            let command = ticket.0;
            self.oracle.propose(ticket, command);
            self.world.call(to, Call::Propose { ticket, command });
        }
        Ticket(self.tickets)
    }

    fn read(&mut self) -> Ticket {
        // An old leader that still believes in itself is the one to catch.
        let leading = |node: &usize| {
            self.world
                .machine(*node)
                .is_some_and(|replica| replica.node.is_leader())
        };
        let leaders: Vec<usize> = (0..self.world.nodes()).filter(leading).collect();
        let to = self.chance.pick(&leaders).unwrap_or(0);
        let ticket = self.ticket();
        self.oracle.read(ticket);
        self.world.call(to, Call::Confirm { ticket });
        ticket
    }

    /// What an administrator would do next: take out a voter whose disk is gone, or one more or one fewer.
    fn change_voters(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(replica) = self.world.machine(leader) else {
            return;
        };
        let voters: Vec<ReplicaKey> = replica.node.voters().iter().collect();
        let lost = voters.iter().copied().find(|voter| self.oracle.is_lost(*voter));
        let keys = (0..self.world.nodes()).map(|node| key_of(node, self.world.synced(node).directory));
        let spare: Vec<ReplicaKey> = keys.filter(|key| !voters.contains(key)).collect();
        let grow = voters.len() < 3 || (voters.len() < 5 && self.chance.one_in(2));
        let times = 1 + self.chance.index(3);
        for _ in 0..times {
            let ticket = self.ticket();
            let call = match (lost, self.chance.pick(&spare)) {
                (Some(voter), _) => Call::RemoveVoter { ticket, voter },
                (None, Some(voter)) if grow => Call::AddVoter { ticket, voter },
                (None, _) => {
                    let own = key_of(leader, self.world.synced(leader).directory);
                    let silent = voters
                        .iter()
                        .copied()
                        .filter(|voter| self.is_silent(leader, *voter));
                    let silent: Vec<ReplicaKey> = silent.collect();
                    let missed = self.chance.pick(&silent).filter(|_| self.chance.percent(70));
                    let other = self.chance.pick(&voters).unwrap_or(own);
                    let other = if self.chance.one_in(4) { own } else { other };
                    let voter = missed.unwrap_or(other);
                    Call::RemoveVoter { ticket, voter }
                }
            };
            self.lie_in_wait();
            self.oracle.change_voters(ticket);
            self.changes.push((ticket, leader, self.world.life(leader)));
            self.world.call(leader, call);
        }
    }

    /// Whether `leader` would not hear from that voter now: whom an administrator would take for dead.
    fn is_silent(&self, leader: usize, voter: ReplicaKey) -> bool {
        let node = index_of(voter.id);
        self.world.machine(node).is_none() || !self.world.network.passes(node, leader)
    }

    fn voters_may_change(&mut self) -> bool {
        let (world, oracle) = (&self.world, &self.oracle);
        self.changes
            .retain(|(ticket, node, life)| oracle.is_open(*ticket) && world.life(*node) == *life);
        !self.changes.is_empty()
    }

    /// Administrators are quick: who has just been elected is asked for another set of voters at once.
    fn meddle(&mut self, outputs: &[Output<Replica>]) {
        let elected = |output: &Output<Replica>| {
            matches!(
                output,
                Output::Report(Report::Became {
                    role: RoleName::Leader,
                    ..
                })
            )
        };
        if self.clients_rest || !outputs.iter().any(elected) {
            return;
        }
        if self.faults.changes && self.chance.one_in(2) {
            self.change_voters();
        }
        self.lie_in_wait();
    }

    /// What is half done when a leader goes is where the old mistakes are.
    fn lie_in_wait(&mut self) {
        if self.faults.ambushes && self.chance.one_in(2) {
            let most = [2, 20, 100][self.chance.index(3)] * MS;
            let after = self.chance.between(0..most);
            self.world.timer(after, Timer::Ambush as u64);
        }
    }

    /// No more faults, no more clients: everybody is up, every message arrives.
    fn calm(&mut self) -> Result<(), Failure> {
        self.clients_rest = true;
        self.world.note(|| "calm".to_owned());
        self.world.network.heal();
        self.world.network.weather = super::network::Weather::CALM;
        self.world.disks.fails_one_in = 0;
        self.world.disks.sync_max = MS;
        for node in 0..self.world.nodes() {
            self.world.set_clock(node, 100);
            self.world.boot(node, 0);
        }
        self.wait(10 * self.fetch_timeout)
    }

    fn wait(&mut self, how_long: i64) -> Result<(), Failure> {
        let until = self.world.now() + how_long * MS;
        self.world.timer(how_long * MS, Timer::Look as u64);
        while self.world.now() < until {
            self.next()?;
        }
        Ok(())
    }

    fn applied_by_all(&self) -> i64 {
        let running = self
            .world
            .live()
            .into_iter()
            .filter_map(|node| self.world.machine(node));
        running.map(|replica| replica.applied.value()).sum()
    }

    /// Within twenty fetch timeouts (of the last progress) there is a leader, a read and a proposal are answered, and all who run have
    /// applied the same.
    fn come_to_rest(&mut self, when: &str) -> Result<(), Failure> {
        let patience = 20 * self.fetch_timeout * MS;
        let mut until = self.world.now() + patience;
        let mut waits = "nobody leads".to_owned();
        let (mut read, mut proposed) = (None, None);
        let mut applied = 0;
        while self.world.now() < until {
            self.wait(self.fetch_timeout / 4)?;
            let Some(leader) = self.leader() else { continue };
            let before = std::mem::replace(&mut applied, self.applied_by_all());
            if applied > before {
                until = self.world.now() + patience; // There is a lot to catch up with.
            }
            let all_agree = self.all_agree(leader);
            let open =
                |oracle: &Oracle, ticket: Option<Ticket>| ticket.is_none_or(|ticket| oracle.is_open(ticket));
            match all_agree {
                Err(behind) => waits = behind,
                // Nothing is proposed before all agree: what an earlier leader left must not wait for that.
                Ok(()) if read.is_none() => read = Some(self.read()),
                Ok(()) if open(&self.oracle, read) => waits = "a read is not answered".to_owned(),
                Ok(()) if proposed.is_none() => proposed = Some(self.propose()),
                Ok(()) if open(&self.oracle, proposed) => waits = "a proposal is not answered".to_owned(),
                Ok(()) => return Ok(()),
            }
        }
        Err(Failure::Stuck(format!("{when}: {waits}")))
    }

    fn all_agree(&self, leader: usize) -> Result<(), String> {
        let Some(first) = self.world.machine(leader) else {
            return Err("the leader is down".to_owned());
        };
        let end = first.node.log_end().end;
        for node in self.world.live() {
            let Some(replica) = self.world.machine(node) else {
                continue;
            };
            let applied = replica.applied;
            if applied != end {
                return Err(format!("node {node} has applied {applied} of {end}"));
            }
            self.oracle.agrees(replica)?;
        }
        Ok(())
    }

    /// KIP-996 and the quorum check: a voter that was cut off and comes back deposes nobody, and a leader that is cut
    /// off does not go on leading.
    fn disturb(&mut self) -> Result<(), Failure> {
        let Some((leader, epoch)) = self.leader_and_epoch() else {
            return Ok(());
        };
        let Some(replica) = self.world.machine(leader) else {
            return Ok(());
        };
        let voters: Vec<ReplicaKey> = replica.node.voters().iter().collect();
        let alive: Vec<usize> = self
            .world
            .live()
            .into_iter()
            .filter(|node| voters.contains(&key_of(*node, self.world.synced(*node).directory)))
            .collect();
        if alive.len() < voters.len() / 2 + 2 || !alive.contains(&leader) {
            return Ok(()); // Not one voter can be spared.
        }
        let follower = alive
            .iter()
            .copied()
            .find(|node| *node != leader)
            .unwrap_or(leader);
        self.cut_off(follower)?;
        self.wait(6 * self.fetch_timeout)?;
        if self.leader_and_epoch() != Some((leader, epoch)) {
            let what = format!("node {follower} was cut off, came back, and deposed node {leader}");
            return Err(Failure::Violation(what));
        }
        self.cut_off(leader)?;
        if self
            .world
            .machine(leader)
            .is_some_and(|replica| replica.node.epoch() == epoch && replica.node.is_leader())
        {
            let what = format!("node {leader} leads epoch {epoch} long after it was cut off");
            return Err(Failure::Violation(what));
        }
        self.come_to_rest("after the leader was cut off")
    }

    fn leader_and_epoch(&self) -> Option<(usize, varve_log::LeaderEpoch)> {
        let leader = self.leader()?;
        Some((leader, self.world.machine(leader)?.node.epoch()))
    }

    /// For eight fetch timeouts, at the end of which what it did meanwhile is still on the way.
    fn cut_off(&mut self, node: usize) -> Result<(), Failure> {
        let nodes = self.world.nodes();
        self.world.note(|| format!("node {node} is cut off"));
        self.world.network.split(&[node], nodes);
        self.wait(8 * self.fetch_timeout)?;
        self.world.network.heal();
        Ok(())
    }

    fn new_directory(&mut self) -> Uuid {
        self.disks += 1;
        Uuid::from_u128(self.disks)
    }
}

/// An empty disk; that of a first voter knows who the first voters are (KIP-853, `kafka-storage format`).
fn new_disk(directory: Uuid, voters: VoterSet) -> Files {
    let snapshot = Snapshot {
        position: Position::default(),
        voters,
        image: Bytes::new(),
    };
    Files {
        directory,
        stored: Stored {
            snapshot,
            ..Stored::default()
        },
    }
}

fn setup(chance: &mut Chance, bug: Option<Bug>) -> Setup {
    // Kafka's proportions, mostly sped up: more elections in the same time.
    let election_timeout = [100, 300, 1_000][chance.index(3)];
    let me = key_of(0, Uuid::nil());
    let config = Config {
        me,
        bootstrap: (0..5).map(NodeId::new).collect(),
        election_timeout,
        fetch_timeout: 2 * election_timeout,
        request_timeout: 3 * election_timeout / 2,
        fetch_wait: election_timeout / 2,
        retry_backoff: (election_timeout / 20).max(1),
        fetch_entries_max: [1, 3, 100][chance.index(3)],
        snapshot_chunk_bytes_max: [7, 64, 1_000][chance.index(3)],
        entries_behind_snapshot: [0, 5, 50][chance.index(3)],
        proposals_max: [4, 1_000][chance.index(2)],
        seed: 0,
    };
    Setup {
        config,
        sabotage: Sabotage(bug),
        snapshot_every: [0, 5, 20, 100][chance.index(4)],
        image_bytes: [16, 100, 400][chance.index(3)],
    }
}
