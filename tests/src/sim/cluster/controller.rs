//! The controller: one state machine, one order, and who is alive. The order itself is simple here (whatever arrives is
//! applied and durable at once): that three of them agree on one is the other scenario's matter. It can be
//! unreachable, restarted (it then knows nobody's heartbeat), and heard late.

use std::collections::BTreeMap;
use std::sync::Arc;

use varve_cluster::BrokerId;
use varve_cluster::PartitionEpoch;
use varve_cluster::controller::command::{ElectUnclean, ReplicaLog, Warrant};
use varve_cluster::controller::{Command, Heartbeats, Outcome, Rejected, State, unclean};

use super::bug::Bug;
use super::message::{Body, Message, Report, Shared, broker, node};
use super::node::{Node, Setup};
use crate::sim::world::Output;

type Out = Vec<Output<Node>>;

#[derive(Debug)]
pub(super) struct Controller {
    me: usize,
    setup: Arc<Setup>,
    disk: Shared<State>,
    pub(super) state: State,
    heard: Heartbeats,
    round: u64,
    /// Leaderless partitions whose replicas have been asked in this round.
    looking: BTreeMap<i32, Looking>,
    look_at: i64,
}

#[derive(Debug)]
struct Looking {
    partition_epoch: PartitionEpoch,
    warrant: Warrant,
    ask: Vec<BrokerId>,
    logs: Vec<ReplicaLog>,
}

impl Controller {
    pub(super) fn start(me: usize, setup: &Arc<Setup>, disk: Shared<State>, now: i64, round: u64) -> Self {
        let state = disk.get().clone();
        Self {
            me,
            setup: Arc::clone(setup),
            heard: Heartbeats::begin(setup.session_ms, &state, now),
            disk,
            state,
            round,
            looking: BTreeMap::new(),
            look_at: now,
        }
    }

    pub(super) fn receive(&mut self, now: i64, message: Message, out: &mut Out) {
        let Message { from, body } = message;
        match body {
            Body::Propose { number, command } => {
                let command = self.sabotaged(*command);
                let outcome = self.apply(&command, out);
                self.send(from, Body::Proposed { number, outcome }, out);
            }
            Body::Beat(beat) => {
                let epoch = beat.epoch;
                let heard = self.heard.heard(&self.state, beat, now);
                let answer = heard.map(|(answer, command)| {
                    if let Some(command) = command {
                        // What fails is due again with the next heartbeat.
                        let _ = self.apply(&command, out);
                    }
                    answer
                });
                self.send(from, Body::Beaten { epoch, answer }, out);
            }
            Body::Follow { applied } if applied < self.state.applied => {
                self.send(from, Body::Metadata(Arc::new(self.state.clone())), out);
            }
            Body::Logs { round, logs } if round == self.round => self.told(from, logs, out),
            _ => {}
        }
    }

    pub(super) fn command(&mut self, command: &Command, out: &mut Out) {
        // An operator's wish may be refused.
        let _ = self.apply(command, out);
    }

    pub(super) fn wake(&mut self, now: i64, out: &mut Out) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + self.setup.session_ms / 4;
        for fence in self.heard.lapsed(&self.state, now) {
            let _ = self.apply(&fence, out);
        }
        self.ask_for_logs(out);
    }

    pub(super) const fn wake_at(&self) -> i64 {
        self.look_at
    }

    fn apply(&mut self, command: &Command, out: &mut Out) -> Result<Outcome, Rejected> {
        let outcome = self.state.apply(self.state.applied + 1, command);
        *self.disk.get() = self.state.clone();
        let view = Arc::new(self.state.clone());
        out.push(Output::Report(Report::Applied(Arc::clone(&view))));
        for broker in 0..self.setup.brokers {
            self.send(broker, Body::Metadata(Arc::clone(&view)), out);
        }
        outcome
    }

    fn ask_for_logs(&mut self, out: &mut Out) {
        self.round += 1;
        let state = self.state.clone();
        self.looking = unclean::waiting(&state, true)
            .map(|one| {
                let looking = Looking {
                    partition_epoch: one.partition.partition_epoch,
                    warrant: one.warrant,
                    ask: one.ask,
                    logs: vec![],
                };
                (one.index, looking)
            })
            .collect();
        let mut asked: BTreeMap<BrokerId, Vec<i32>> = BTreeMap::new();
        for (partition, looking) in &self.looking {
            for broker in &looking.ask {
                asked.entry(*broker).or_default().push(*partition);
            }
        }
        let round = self.round;
        for (broker, partitions) in asked {
            self.send(node(broker), Body::LogsOf { round, partitions }, out);
        }
    }

    fn told(&mut self, from: usize, logs: Vec<(i32, ReplicaLog)>, out: &mut Out) {
        for (partition, log) in logs {
            let Some(looking) = self.looking.get_mut(&partition) else {
                continue;
            };
            if !looking.logs.iter().any(|known| known.broker == broker(from)) {
                looking.logs.push(log);
            }
            if looking.logs.len() < looking.ask.len() {
                continue;
            }
            if let Some(looking) = self.looking.remove(&partition) {
                let elect = election(partition, looking);
                // The partition may have moved on, and is looked at again.
                let _ = self.apply(&elect, out);
            }
        }
    }

    /// A controller that checks less: what it would not look at is made right before it looks.
    fn sabotaged(&self, command: Command) -> Command {
        match command {
            Command::AlterPartition(mut alter) if self.setup.has(Bug::StaleFetchJoinsIsr) => {
                for member in &mut alter.isr {
                    if let Some(known) = self.state.brokers.get(&member.broker) {
                        member.epoch = known.epoch;
                    }
                }
                Command::AlterPartition(alter)
            }
            Command::CommitTier(mut commit) if self.setup.has(Bug::UploaderNotFenced) => {
                if let Some(partition) = self.state.partition(commit.topic_id, commit.partition)
                    && let Some(leader) = partition.leader
                {
                    commit.broker = leader;
                    commit.broker_epoch = self.state.brokers[&leader].epoch;
                    commit.leader_epoch = partition.leader_epoch;
                    commit.expected_version = partition.tier_version();
                    commit.base = partition.tier_end();
                    commit.pointer.version = partition.tier_version() + 1;
                    commit.pointer.leader_epoch = partition.leader_epoch;
                    commit.pointer.end = commit.pointer.end.max(partition.tier_end());
                }
                Command::CommitTier(commit)
            }
            other => other,
        }
    }

    fn send(&self, to: usize, body: Body, out: &mut Out) {
        let message = Message { from: self.me, body };
        out.push(Output::Send { to, message });
    }
}

fn election(partition: i32, looking: Looking) -> Command {
    Command::ElectUnclean(ElectUnclean {
        topic_id: super::node::TOPIC,
        partition,
        partition_epoch: looking.partition_epoch,
        logs: looking.logs,
        warrant: looking.warrant,
    })
}
