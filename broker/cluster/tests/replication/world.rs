//! The cluster and the chance that drives it.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use varve_cluster::controller::command::{CommitTier, CreateTopic, ElectUnclean, Reassign, ReplicaLog};
use varve_cluster::controller::{
    Command, ConfigOp, ConfigResource, Outcome, Partition, Rejected, State, TierPointer, unclean,
};
use varve_cluster::replica::{Answer, Ask, Durability, IsrAnswer, IsrChange, Rebuild};
use varve_cluster::{BrokerEpoch, BrokerId, TopicName};
use varve_log::{Crash, EpochChain, Offset, Producers, Seed};

use super::checks::{Truth, bytes_of, check_same};
use super::node::{Found, Node, Role, TOPIC};

/// What brokers do not promise to survive together: with `PowerFailures` they flush in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Faults {
    PowerFailures,
    Kills,
}

/// How much has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) committed: i64,
    pub(crate) elections: usize,
    pub(crate) cuts: usize,
    pub(crate) rebuilds: usize,
    pub(crate) tiered: usize,
    pub(crate) recoveries: usize,
    pub(crate) reassignments: usize,
    pub(crate) misaligned: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.elections += other.elections;
        self.cuts += other.cuts;
        self.rebuilds += other.rebuilds;
        self.tiered += other.tiered;
        self.recoveries += other.recoveries;
        self.reassignments += other.reassignments;
        self.misaligned += other.misaligned;
    }
}

/// Something on its way.
#[derive(Debug)]
enum Message {
    Fetch {
        to: usize,
        ask: Ask,
    },
    Answer {
        to: usize,
        ask: Ask,
        answer: Answer<Bytes>,
    },
    Isr {
        from: usize,
        epoch: BrokerEpoch,
        change: IsrChange,
        command: Command,
    },
    IsrAnswer {
        to: usize,
        epoch: BrokerEpoch,
        change: IsrChange,
        answer: IsrAnswer,
    },
}

pub(crate) struct World {
    chance: StdRng,
    faults: Faults,
    pub(crate) state: State,
    history: Vec<State>,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    truth: Truth,
    seeds: BTreeMap<Offset, EpochChain>,
    now: i64,
    tag: u64,
    steps: u64,
    violence: u32,
    /// Asks and syncs late.
    slow: Option<usize>,
    /// Hears nothing of the metadata.
    blind: Option<usize>,
    incarnation: u128,
    pub(crate) tally: Tally,
    /// Tells what happens: `VARVE_TRACE=1`.
    trace: bool,
}

fn broker(at: usize) -> BrokerId {
    BrokerId::new(i32::try_from(at).unwrap() + 1)
}

fn at(broker: BrokerId) -> usize {
    usize::try_from(broker.value()).unwrap() - 1
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let count = chance.random_range(3..=5);
        let violence = chance.random_range(0..12);
        let durability = match faults {
            Faults::PowerFailures => Durability::Group,
            Faults::Kills => Durability::Os,
        };
        let state = State::new("sim");
        let nodes = (0..count).map(|at| Node::new(broker(at), durability, state.clone()));
        let mut world = Self {
            nodes: nodes.collect(),
            chance,
            faults,
            history: vec![state.clone()],
            state,
            messages: Vec::new(),
            truth: Truth::default(),
            seeds: BTreeMap::new(),
            now: 0,
            tag: 0,
            steps: 0,
            violence,
            slow: None,
            blind: None,
            incarnation: 0,
            tally: Tally::default(),
            trace: std::env::var_os("VARVE_TRACE").is_some(),
        };
        for node in 0..count {
            world.start(node);
            world.unfence(node);
        }
        let replicas = world.chance.random_range(2..=3);
        let min: usize = world.chance.random_range(1..=replicas);
        let create = Command::CreateTopic(CreateTopic {
            name: TopicName::parse("orders").unwrap(),
            topic_id: TOPIC,
            assignments: vec![(0..replicas).map(broker).collect()],
            configs: [("min.insync.replicas".to_owned(), min.to_string())]
                .into_iter()
                .collect(),
        });
        world.apply(&create).unwrap();
        for node in 0..count {
            world.see_latest(node);
        }
        world
    }

    fn partition(&self) -> &Partition {
        self.state.partition(TOPIC, 0).unwrap()
    }

    fn apply(&mut self, command: &Command) -> Result<Outcome, Rejected> {
        let before = self.state.partition(TOPIC, 0).and_then(|p| p.leader);
        let outcome = self.state.apply(self.state.applied + 1, command);
        let after = self.state.partition(TOPIC, 0).and_then(|p| p.leader);
        self.tally.elections += usize::from(after.is_some() && after != before);
        self.history.push(self.state.clone());
        if self.trace {
            let p = self.state.partition(TOPIC, 0);
            let roles = p.map(|p| (p.leader, p.leader_epoch, &p.isr, &p.eligible, &p.last_known));
            println!("{} {command:?} -> {outcome:?} {roles:?}", self.steps);
        }
        outcome
    }

    fn any(&mut self) -> usize {
        self.chance.random_range(0..self.nodes.len())
    }

    fn one_of(&mut self, which: impl Fn(&Self, usize) -> bool) -> Option<usize> {
        let those: Vec<usize> = (0..self.nodes.len()).filter(|node| which(self, *node)).collect();
        let at = self.chance.random_range(0..those.len().max(1));
        those.get(at).copied()
    }

    fn is_active(&self, node: usize) -> bool {
        let known = self.state.brokers.get(&broker(node));
        known.is_some_and(varve_cluster::controller::Broker::is_active)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.chance.random_range(0..n) == 0
    }

    pub(crate) fn step(&mut self) {
        self.now += self.chance.random_range(0..4);
        // Some histories are calm, some are not.
        match self.chance.random_range(0..10_000 + 40 * self.violence) {
            0..4000 => self.deliver(),
            4000..6000 => {
                let node = self.any();
                if self.slow != Some(node) || self.one_in(10) {
                    self.ask(node);
                }
            }
            6000..7200 => self.append(),
            7200..8200 => {
                let node = self.any();
                if self.slow != Some(node) || self.one_in(10) {
                    self.sync(node);
                }
            }
            8200..9000 => self.see_something(),
            9000..9500 => {
                let node = self.any();
                self.want_isr(node);
            }
            9500..9550 => self.checkpoint(),
            9550..9580 => self.roll(),
            9580..9700 => self.tier(),
            9700..9800 => {
                if let Some(node) = self.one_of(|world, node| !world.nodes[node].is_up()) {
                    self.start(node);
                }
            }
            9800..9970 => {
                let waits = |world: &Self, node| !world.is_active(node) && world.blind != Some(node);
                if let Some(node) = self.one_of(waits) {
                    self.unfence(node);
                }
            }
            9970..10_000 => self.recover(),
            _ => self.harm(),
        }
        self.steps += 1;
        if self.steps.is_multiple_of(10) {
            self.check();
        }
    }

    fn harm(&mut self) {
        match self.chance.random_range(0..100) {
            0..25 => self.lose(),
            25..32 => self.stop(),
            32..36 => self.stop_all(),
            36..52 => self.bounce(),
            52..58 => self.shut_down(),
            58..68 => {
                let node = self.victim();
                self.fence(node);
            }
            68..78 => {
                let (node, ends) = (self.any(), self.one_in(3));
                self.slow = (!ends).then_some(node);
            }
            78..86 => {
                let (node, ends) = (self.victim(), self.one_in(3));
                self.blind = (!ends).then_some(node);
            }
            86..93 => self.reassign(),
            93..97 => self.set_min_isr(),
            _ => {
                let _ = self.apply(&Command::ElectPreferred {
                    topic_id: TOPIC,
                    partition: 0,
                });
            }
        }
    }

    fn check(&self) {
        for node in &self.nodes {
            self.truth.check(node);
        }
        self.truth.check_tier(self.tier_end());
    }

    fn tier_end(&self) -> Offset {
        self.partition()
            .tier
            .as_ref()
            .map_or(Offset::ZERO, |tier| tier.end)
    }

    fn tell_ends(&self, what: &str) {
        if !self.trace {
            return;
        }
        let ends = |node: &Node| {
            let log = node.log.as_ref()?;
            let ends = (log.log_end(), log.durable_end(), node.known_high_watermark());
            Some((node.id, node.role_epoch, ends, log.epochs().latest()))
        };
        let all: Vec<_> = self.nodes.iter().filter_map(ends).collect();
        println!("{} {what}: {all:?}", self.steps);
    }

    fn take(&mut self, node: usize, found: &Found) {
        if found.cuts + found.rebuilds > 0 || found.took_over || found.advanced {
            self.tell_ends("took");
        }
        assert_eq!(found.cut_committed, 0, "{} cuts what was committed", broker(node));
        self.tally.cuts += found.cuts;
        self.tally.rebuilds += found.rebuilds;
        if found.took_over {
            // Also one that was deposed before it heard of its election had everything then, but may learn late.
            let current = self.partition().leader == Some(broker(node))
                && self.nodes[node].role_epoch == Some(self.partition().leader_epoch);
            if current {
                self.truth.check_leader(&self.nodes[node]);
            }
            self.truth.commit(&self.nodes[node]);
        }
        if found.advanced {
            self.truth.commit(&self.nodes[node]);
        }
    }

    fn see(&mut self, node: usize, index: usize) {
        let state = self.history[index].clone();
        if state.applied < self.nodes[node].seen.applied {
            return;
        }
        let found = self.nodes[node].see(&state, self.now);
        self.take(node, &found);
    }

    fn see_latest(&mut self, node: usize) {
        self.see(node, self.history.len() - 1);
    }

    fn see_something(&mut self) {
        let node = self.any();
        if self.blind == Some(node) {
            return;
        }
        let seen = usize::try_from(self.nodes[node].seen.applied).unwrap();
        let index = self.chance.random_range(seen..self.history.len());
        self.see(node, index);
    }

    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.chance.random_range(0..self.messages.len());
        let message = self.messages.swap_remove(at);
        self.arrive(message);
    }

    fn arrive(&mut self, message: Message) {
        match message {
            Message::Fetch { to, ask } => {
                if self.nodes[to].is_up() {
                    let max = self.chance.random_range(1..1500);
                    let (answer, advanced) = self.nodes[to].serve(&ask, max, self.now);
                    // What the leader's own writes moved is committed too.
                    if self.trace && advanced {
                        self.tell_ends("advanced");
                    }
                    if advanced || self.nodes[to].known_high_watermark() > self.truth.high_watermark {
                        self.truth.commit(&self.nodes[to]);
                    }
                    let to = at(ask.replica);
                    self.messages.push(Message::Answer { to, ask, answer });
                }
            }
            Message::Answer { to, ask, answer } => {
                // A connection ends with its process.
                if self.nodes[to].is_up() && self.nodes[to].epoch == ask.broker_epoch {
                    let seeds = &self.seeds;
                    let found = self.nodes[to].take(&ask, answer, |rebuild| seed(seeds, rebuild));
                    self.take(to, &found);
                }
            }
            Message::Isr {
                from,
                epoch,
                change,
                command,
            } => {
                let answer = match self.apply(&command) {
                    Err(Rejected::Ineligible { .. }) => IsrAnswer::Refused,
                    Ok(_) | Err(_) => IsrAnswer::SeeMetadata,
                };
                self.messages.push(Message::IsrAnswer {
                    to: from,
                    epoch,
                    change,
                    answer,
                });
            }
            Message::IsrAnswer {
                to,
                epoch,
                change,
                answer,
            } => self.isr_answered(to, epoch, &change, answer),
        }
    }

    fn isr_answered(&mut self, to: usize, epoch: BrokerEpoch, change: &IsrChange, answer: IsrAnswer) {
        let node = &mut self.nodes[to];
        if let Role::Leader(leader) = &mut node.role
            && node.epoch == epoch
            && leader.answered(change, answer).is_some()
        {
            self.truth.commit(&self.nodes[to]);
        }
    }

    /// A message is lost, or its sender only believes so.
    fn lose(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let index = self.chance.random_range(0..self.messages.len());
        let comes_late = self.one_in(2);
        let (to, epoch, change) = match &self.messages[index] {
            Message::Isr {
                from, epoch, change, ..
            } => (*from, *epoch, change.clone()),
            Message::IsrAnswer {
                to, epoch, change, ..
            } => (*to, *epoch, change.clone()),
            Message::Fetch { .. } | Message::Answer { .. } => {
                if !comes_late {
                    self.messages.swap_remove(index);
                }
                return;
            }
        };
        self.isr_answered(to, epoch, &change, IsrAnswer::Unknown);
        let is_answer = matches!(self.messages[index], Message::IsrAnswer { .. });
        if is_answer || !comes_late {
            self.messages.swap_remove(index);
        }
    }

    fn ask(&mut self, node: usize) {
        match self.nodes[node].ask() {
            Some(Ok((leader, ask))) => self.messages.push(Message::Fetch { to: at(leader), ask }),
            Some(Err(rebuild)) => {
                let seed = seed(&self.seeds, rebuild);
                self.nodes[node].rebuild(seed);
                self.tally.rebuilds += 1;
            }
            None => {}
        }
    }

    fn append(&mut self) {
        let node = self.any();
        self.tag += 1;
        let records = self.chance.random_range(1..4);
        self.nodes[node].append(records, self.tag);
        if !self.one_in(4) {
            self.nodes[node].write();
        }
        self.tell(node);
    }

    fn sync(&mut self, node: usize) {
        self.nodes[node].settle_log();
        self.tell(node);
    }

    fn tell(&mut self, node: usize) {
        if self.nodes[node].tell_leader() {
            self.truth.commit(&self.nodes[node]);
        }
    }

    fn want_isr(&mut self, node: usize) {
        let epoch = self.nodes[node].epoch;
        if let Some((change, command)) = self.nodes[node].wants_isr(self.now) {
            self.messages.push(Message::Isr {
                from: node,
                epoch,
                change,
                command,
            });
        }
    }

    fn checkpoint(&mut self) {
        let node = self.any();
        let checkpoint = self.nodes[node].log.as_mut().and_then(varve_log::Log::checkpoint);
        if let Some(checkpoint) = checkpoint {
            checkpoint.write().unwrap();
        }
    }

    fn roll(&mut self) {
        let index = self.any();
        let node = &mut self.nodes[index];
        if let (Role::Leader(_), Some(log)) = (&node.role, &mut node.log) {
            log.force_roll(super::node::NOW);
        }
        node.write();
    }

    /// Uploads the leader's next sealed segment, and lets everybody drop what is in the tier.
    fn tier(&mut self) {
        let index = self.any();
        let node = &self.nodes[index];
        let (Role::Leader(leader), Some(log)) = (&node.role, &node.log) else {
            return self.drop_tiered(index);
        };
        let pointer = node.seen.partition(TOPIC, 0).unwrap().tier.clone();
        let base = pointer.as_ref().map_or(Offset::ZERO, |tier| tier.end);
        let Some(segment) = log.sealed().into_iter().find(|one| one.end > base) else {
            return;
        };
        if segment.end > leader.high_watermark() || !leader.is_sealed_everywhere(log, segment.end) {
            return;
        }
        if segment.base != base {
            self.tally.misaligned += 1;
            return;
        }
        let version = pointer.as_ref().map_or(0, |tier| tier.version);
        let mut chain = log.epochs().clone();
        chain.truncate_from(segment.end);
        let bytes = bytes_of(&segment);
        let commit = Command::CommitTier(CommitTier {
            topic_id: TOPIC,
            partition: 0,
            broker: node.id,
            broker_epoch: node.epoch,
            leader_epoch: leader.epoch(),
            expected_version: version,
            base,
            pointer: TierPointer {
                version: version + 1,
                manifest_key: String::new(),
                manifest_hash: String::new(),
                start: Offset::ZERO,
                end: segment.end,
                bytes: 0,
                leader_epoch: leader.epoch(),
            },
        });
        if self.apply(&commit).is_ok() {
            self.truth.tiered.insert(base, (segment.end, bytes));
            self.seeds.insert(segment.end, chain);
            self.tally.tiered += 1;
        }
    }

    fn drop_tiered(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let tiered = node.seen.partition(TOPIC, 0).and_then(|p| p.tier.as_ref());
        if let (Some(tier), Some(log)) = (tiered, &mut node.log) {
            log.drop_segments_before(tier.end).run().unwrap();
        }
    }

    /// The leader, as often as not.
    fn victim(&mut self) -> usize {
        let any = self.any();
        let leader = self.partition().leader.map(at);
        if self.one_in(2) {
            leader.unwrap_or(any)
        } else {
            any
        }
    }

    fn stop(&mut self) {
        let node = self.victim();
        self.stop_one(node);
    }

    fn stop_one(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.tell_ends("before a stop");
        let crash = match self.faults {
            Faults::Kills => None,
            Faults::PowerFailures => Some(if self.one_in(2) {
                Crash::Unsynced
            } else {
                Crash::Tail
            }),
        };
        let chance = &mut self.chance;
        self.nodes[node].stop(crash, &mut |below| chance.random_range(0..below.max(1)));
    }

    /// Down and up again before anybody has noticed.
    fn bounce(&mut self) {
        let node = self.victim();
        self.stop_one(node);
        self.start(node);
        self.unfence(node);
    }

    fn stop_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.stop_one(node);
        }
    }

    fn shut_down(&mut self) {
        let node = self.any();
        if !self.nodes[node].is_up() {
            return;
        }
        let begin = Command::BeginShutdown {
            broker: broker(node),
            epoch: self.nodes[node].epoch,
        };
        let _ = self.apply(&begin);
        self.nodes[node].stop_cleanly();
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            return;
        }
        self.incarnation += 1;
        let register = self.nodes[node].start(self.incarnation);
        let Ok(Outcome::Registered(epoch)) = self.apply(&register) else {
            unreachable!("a registration is never refused")
        };
        self.nodes[node].epoch = epoch;
        self.tell_ends("after a start");
    }

    fn fence(&mut self, node: usize) {
        let _ = self.apply(&Command::FenceBroker {
            broker: broker(node),
            epoch: self.nodes[node].epoch,
        });
    }

    fn unfence(&mut self, node: usize) {
        if !self.nodes[node].is_up() {
            return self.fence(node);
        }
        // It has caught up with its own registration.
        self.see_latest(node);
        let _ = self.apply(&Command::UnfenceBroker {
            broker: broker(node),
            epoch: self.nodes[node].epoch,
        });
    }

    /// Unclean recovery from the last known replicas, which loses nothing.
    fn recover(&mut self) {
        let Some(waiting) = unclean::waiting(&self.state, true).next() else {
            return;
        };
        if waiting.ask.iter().any(|id| !self.nodes[at(*id)].is_up()) {
            return;
        }
        let look = |id: &BrokerId| {
            let node = &self.nodes[at(*id)];
            let log = node.log.as_ref().unwrap();
            ReplicaLog {
                broker: *id,
                epoch: node.epoch,
                last_epoch: log.epochs().latest(),
                log_end: log.log_end(),
            }
        };
        let elect = Command::ElectUnclean(ElectUnclean {
            topic_id: TOPIC,
            partition: 0,
            partition_epoch: waiting.partition.partition_epoch,
            logs: waiting.ask.iter().map(look).collect(),
            warrant: waiting.warrant,
        });
        self.apply(&elect)
            .expect("the most complete of them reaches the tier");
        self.tally.recoveries += 1;
    }

    fn reassign(&mut self) {
        let count = self.chance.random_range(1..=3);
        let first = self.any();
        let target = (0..count).map(|n| broker((first + n) % self.nodes.len()));
        let replicas: Vec<_> = target.collect();
        if self.faults == Faults::PowerFailures && replicas.len() < self.min_isr() {
            return;
        }
        let replicas = (!self.one_in(4)).then_some(replicas);
        let reassign = Command::Reassign(Reassign {
            topic_id: TOPIC,
            partition: 0,
            replicas,
            any_replication_factor: true,
        });
        self.tally.reassignments += usize::from(self.apply(&reassign).is_ok());
    }

    fn min_isr(&self) -> usize {
        self.state.min_insync_replicas(self.state.topic(TOPIC).unwrap())
    }

    /// Under power failures never a smaller one: see `Durability::Group`.
    fn set_min_isr(&mut self) {
        let least = match self.faults {
            Faults::PowerFailures => self.min_isr().min(3),
            Faults::Kills => 1,
        };
        let value = self.chance.random_range(least..=3).to_string();
        let key = "min.insync.replicas".to_owned();
        self.apply(&Command::AlterConfigs {
            resource: ConfigResource::Topic(TOPIC),
            ops: vec![ConfigOp::Set { key, value }],
        })
        .unwrap();
    }

    /// Everything is up and everything arrives: all replicas are in sync, hold the same, and commit what comes.
    pub(crate) fn heal(&mut self) {
        (self.slow, self.blind) = (None, None);
        for round in 0..60 {
            for node in 0..self.nodes.len() {
                self.start(node);
                self.see_latest(node);
                self.unfence(node);
            }
            self.recover();
            for node in 0..self.nodes.len() {
                self.see_latest(node);
                self.ask(node);
                self.sync(node);
                self.want_isr(node);
            }
            self.now += 10;
            for message in std::mem::take(&mut self.messages) {
                self.arrive(message);
            }
            // Whatever was asked for without an answer.
            for message in std::mem::take(&mut self.messages) {
                self.arrive(message);
            }
            self.check();
            if round > 10 && self.converged() {
                break;
            }
        }
        assert!(self.converged(), "{:?} {:?}", self.partition(), self.nodes);
        let replicas: Vec<_> = self
            .partition()
            .replicas
            .iter()
            .map(|id| &self.nodes[at(*id)])
            .collect();
        check_same(&replicas);
        self.tally.committed = self.truth.high_watermark.value();
    }

    fn converged(&self) -> bool {
        let p = self.partition();
        let Some(leader) = p.leader else { return false };
        let end = self.nodes[at(leader)].log.as_ref().unwrap().log_end();
        let here = |id: &BrokerId| {
            let node = &self.nodes[at(*id)];
            let log = node.log.as_ref().unwrap();
            log.log_end() == end && node.known_high_watermark() == end
        };
        !p.is_reassigned() && p.isr.len() == p.replicas.len() && p.replicas.iter().all(here)
    }
}

/// What the footer of the object that ends there says.
fn seed(seeds: &BTreeMap<Offset, EpochChain>, rebuild: Rebuild) -> Seed {
    rebuild.seed().unwrap_or_else(|| Seed {
        at: rebuild.at(),
        log_start: Offset::ZERO,
        epochs: seeds[&rebuild.at()].clone(),
        producers: Producers::new(),
    })
}
