//! One broker of the simulation: a log on a disk, and the role that the metadata it has seen gives it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;
use varve_cluster::controller::command::{AlterPartition, RegisterBroker};
use varve_cluster::controller::{Command, IsrMember, Partition, State};
use varve_cluster::replica::leader::Assignment;
use varve_cluster::replica::{
    self, Answer, Ask, Durability, Follower, IsrChange, Leader, Rebuild, Refusal, Step,
};
use varve_cluster::{BrokerEpoch, BrokerId, TopicId};
use varve_log::{Batch, Builder, Crash, LeaderEpoch, Log, Offset, Seed, SimDisk, Timestamp};

pub(crate) const TOPIC: TopicId = TopicId::new(Uuid::from_u128(1));
pub(crate) const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
pub(crate) const ALL: Offset = Offset::new(i64::MAX);

pub(crate) fn log_settings() -> varve_log::Settings {
    varve_log::Settings {
        segment_bytes: 700,
        index_interval_bytes: 100,
        ..varve_log::Settings::default()
    }
}

#[derive(Debug)]
pub(crate) enum Role {
    None,
    Leader(Leader),
    Follower(Follower),
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: BrokerId,
    disk: SimDisk,
    /// `None` while it is down.
    pub(crate) log: Option<Log>,
    pub(crate) role: Role,
    pub(crate) role_epoch: Option<LeaderEpoch>,
    pub(crate) epoch: BrokerEpoch,
    pub(crate) high_watermark: Offset,
    /// The metadata it has seen.
    pub(crate) seen: State,
    /// The last run ended in order.
    pub(crate) clean: bool,
    durability: Durability,
    generation: u32,
}

/// What a node found that the world must do something about.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) advanced: bool,
    pub(crate) cut_committed: i64,
    pub(crate) cuts: usize,
    pub(crate) rebuilds: usize,
    pub(crate) took_over: bool,
}

impl Node {
    pub(crate) fn new(id: BrokerId, durability: Durability, seen: State) -> Self {
        Self {
            id,
            disk: SimDisk::new(),
            log: None,
            role: Role::None,
            role_epoch: None,
            epoch: BrokerEpoch::new(0),
            high_watermark: Offset::ZERO,
            seen,
            clean: false,
            durability,
            generation: 0,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.log.is_some()
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from(format!("/logs/{}-{}", self.id, self.generation))
    }

    /// Opens the log and says how it would register.
    pub(crate) fn start(&mut self, incarnation: u128) -> Command {
        let disk = Arc::new(self.disk.clone());
        let (log, _) = Log::open(disk, self.dir(), log_settings(), NOW).expect("a crash never corrupts");
        self.log = Some(log);
        let clean = std::mem::take(&mut self.clean);
        Command::RegisterBroker(RegisterBroker {
            broker: self.id,
            incarnation: Uuid::from_u128(incarnation),
            listeners: vec![],
            rack: None,
            clean_shutdown_of: clean.then_some(self.epoch),
            directories: vec![],
        })
    }

    /// The process dies; with a `crash` the power fails.
    pub(crate) fn stop(&mut self, crash: Option<Crash>, chance: &mut dyn FnMut(usize) -> usize) {
        self.log = None;
        self.role = Role::None;
        self.role_epoch = None;
        self.high_watermark = Offset::ZERO;
        if let Some(crash) = crash {
            self.disk.crash(crash, chance);
        }
    }

    /// Ends in order: everything on disk, then the mark of it.
    pub(crate) fn stop_cleanly(&mut self) {
        self.settle_log();
        if let Some(log) = &mut self.log
            && let Some(checkpoint) = log.checkpoint()
        {
            checkpoint.write().unwrap();
        }
        self.clean = true;
        self.stop(None, &mut |_| 0);
    }

    /// Takes its role from metadata it sees now.
    pub(crate) fn see(&mut self, state: &State, now: i64) -> Found {
        self.seen = state.clone();
        let mut found = Found::default();
        if !self.is_up() || state.applied < self.epoch.value() {
            return found;
        }
        let Some(partition) = state.partition(TOPIC, 0).cloned() else {
            return found;
        };
        if !partition.replicas.contains(&self.id) {
            self.forget();
            return found;
        }
        let is_new = self.role_epoch.is_none_or(|epoch| partition.leader_epoch > epoch);
        if !is_new {
            self.follow_metadata(&partition, now, &mut found);
            return found;
        }
        self.keep_high_watermark();
        self.role = Role::None;
        match partition.leader {
            Some(leader) if leader == self.id => self.take_over(&partition, now, &mut found),
            Some(leader) => {
                self.role = Role::Follower(Follower::begin(
                    (self.id, self.epoch),
                    (leader, partition.leader_epoch),
                    self.high_watermark,
                ));
            }
            None => {}
        }
        self.role_epoch = Some(partition.leader_epoch);
        found
    }

    fn follow_metadata(&mut self, partition: &Partition, now: i64, found: &mut Found) {
        let min = self.min_isr();
        if let Role::Leader(leader) = &mut self.role {
            let assignment = assignment(partition, min);
            found.advanced |= leader.assigned(assignment, now).is_some();
        }
    }

    fn take_over(&mut self, partition: &Partition, now: i64, found: &mut Found) {
        self.settle_log();
        let settings = replica::Settings {
            durability: self.durability,
            lag_max_ms: 30,
        };
        let min = self.min_isr();
        let Some(log) = &mut self.log else { return };
        let tier_end = partition.tier.as_ref().map(|tier| tier.end);
        let taken = replica::take_over(
            log,
            (self.id, partition.leader_epoch),
            (self.high_watermark, tier_end),
            assignment(partition, min),
            settings,
            now,
        );
        self.role = Role::Leader(taken.expect("nobody without what is tiered is elected"));
        found.took_over = true;
    }

    fn min_isr(&self) -> u32 {
        let topic = self.seen.topic(TOPIC).unwrap();
        u32::try_from(self.seen.min_insync_replicas(topic)).unwrap()
    }

    /// No replica any more: its files go.
    fn forget(&mut self) {
        self.generation += 1;
        self.role = Role::None;
        self.role_epoch = None;
        self.high_watermark = Offset::ZERO;
        let disk = Arc::new(self.disk.clone());
        self.log = Some(Log::open(disk, self.dir(), log_settings(), NOW).unwrap().0);
    }

    fn keep_high_watermark(&mut self) {
        self.high_watermark = match &self.role {
            Role::Leader(leader) => leader.high_watermark(),
            Role::Follower(follower) => follower.high_watermark(),
            Role::None => self.high_watermark,
        };
    }

    pub(crate) fn known_high_watermark(&self) -> Offset {
        match &self.role {
            Role::Leader(leader) => leader.high_watermark(),
            Role::Follower(follower) => follower.high_watermark(),
            Role::None => self.high_watermark,
        }
    }

    pub(crate) fn write(&mut self) {
        if let Some(log) = &mut self.log {
            while let Some(turn) = log.take_writes() {
                log.wrote(turn.run()).unwrap();
            }
        }
    }

    pub(crate) fn sync(&mut self) {
        if let Some(log) = &mut self.log {
            while let Some(turn) = log.take_syncs() {
                log.synced(turn.run()).unwrap();
            }
        }
    }

    pub(crate) fn settle_log(&mut self) {
        self.write();
        self.sync();
    }

    /// The leader hears of its own log. True if the high watermark moved.
    pub(crate) fn tell_leader(&mut self) -> bool {
        let (Role::Leader(leader), Some(log)) = (&mut self.role, &self.log) else {
            return false;
        };
        leader.local(log.written_end(), log.durable_end()).is_some()
    }

    pub(crate) fn append(&mut self, records: usize, tag: u64) {
        let (Role::Leader(leader), Some(log)) = (&self.role, &mut self.log) else {
            return;
        };
        let mut builder = Builder::new(NOW);
        for n in 0..records {
            let value = format!("{tag}/{n}/{}", "x".repeat(usize::try_from(tag % 90).unwrap()));
            builder = builder.push(NOW, None, Some(value.as_bytes()), &[]);
        }
        let batch = Batch::check_produced(builder.build()).unwrap();
        log.append(&batch, leader.epoch(), NOW).unwrap();
    }

    /// Its next question and to whom; or the rebuild that must come first.
    pub(crate) fn ask(&self) -> Option<Result<(BrokerId, Ask), Rebuild>> {
        let (Role::Follower(follower), Some(log)) = (&self.role, &self.log) else {
            return None;
        };
        if let Some(rebuild) = follower.prepare(log, self.tier_end()) {
            return Some(Err(rebuild));
        }
        Some(Ok((follower.leader(), follower.ask(log))))
    }

    fn tier_end(&self) -> Option<Offset> {
        let partition = self.seen.partition(TOPIC, 0)?;
        partition.tier.as_ref().map(|tier| tier.end)
    }

    pub(crate) fn serve(&mut self, ask: &Ask, max: usize, now: i64) -> (Answer<Bytes>, bool) {
        self.write();
        self.tell_leader();
        let (Role::Leader(leader), Some(log)) = (&mut self.role, &self.log) else {
            return (Answer::Refused(Refusal::NotLeader), false);
        };
        let served = replica::serve(leader, log, ask, (max, true), now);
        let advanced = served.advanced.is_some();
        let answer = match served.answer {
            Answer::Batches {
                read,
                segment_base,
                high_watermark,
                log_start,
            } => Answer::Batches {
                read: read.map(|plan| plan.run().unwrap().read().unwrap()),
                segment_base,
                high_watermark,
                log_start,
            },
            Answer::Diverging { epoch, end } => Answer::Diverging { epoch, end },
            Answer::NotLocal {
                local_base,
                log_start,
            } => Answer::NotLocal {
                local_base,
                log_start,
            },
            Answer::Refused(refusal) => Answer::Refused(refusal),
        };
        (answer, advanced)
    }

    /// Takes an answer and carries out what it comes to. `seed` gives what the tier knows at an offset.
    pub(crate) fn take(
        &mut self,
        asked: &Ask,
        answer: Answer<Bytes>,
        seed: impl Fn(Rebuild) -> Seed,
    ) -> Found {
        let tier_end = self.tier_end();
        let mut found = Found::default();
        let (Role::Follower(follower), Some(log)) = (&mut self.role, &mut self.log) else {
            return found;
        };
        match follower.take(log, asked, answer, tier_end, NOW) {
            Step::Took { .. } => self.write(),
            Step::Cut(cut) => {
                if let replica::follower::Cut::To { committed, .. } = cut {
                    found.cut_committed = committed;
                    found.cuts += 1;
                }
                self.settle_log();
                let (Role::Follower(follower), Some(log)) = (&mut self.role, &mut self.log) else {
                    return found;
                };
                if let Some(truncation) = cut.plan(log).unwrap() {
                    log.truncated(truncation.run()).unwrap();
                }
                follower.cut_to(log.log_end());
            }
            Step::Rebuild(rebuild) => {
                self.rebuild(seed(rebuild));
                found.rebuilds += 1;
            }
            Step::Stale | Step::Wait(_) => {}
        }
        found
    }

    pub(crate) fn rebuild(&mut self, seed: Seed) {
        self.settle_log();
        let (Role::Follower(follower), Some(log)) = (&mut self.role, &mut self.log) else {
            return;
        };
        let restart = log.restart_at(seed).unwrap();
        let at = log.truncated(restart.run()).unwrap();
        follower.rebuilt(at);
    }

    /// The ISR it wants, as a command.
    pub(crate) fn wants_isr(&mut self, now: i64) -> Option<(IsrChange, Command)> {
        let seen = &self.seen;
        let Role::Leader(leader) = &mut self.role else {
            return None;
        };
        let eligible = |id: BrokerId, epoch: BrokerEpoch| {
            let known = seen.brokers.get(&id);
            known.is_some_and(|broker| broker.is_active() && broker.epoch == epoch)
        };
        let change = leader.ask(now, eligible)?;
        let member = |(broker, epoch): &(BrokerId, Option<BrokerEpoch>)| IsrMember {
            broker: *broker,
            // Of a member that has not fetched yet: as the metadata has it.
            epoch: epoch.unwrap_or_else(|| seen.brokers[broker].epoch),
        };
        let command = Command::AlterPartition(AlterPartition {
            topic_id: TOPIC,
            partition: 0,
            broker: self.id,
            broker_epoch: self.epoch,
            leader_epoch: change.leader_epoch,
            partition_epoch: change.partition_epoch,
            isr: change.isr.iter().map(member).collect(),
            recovering: false,
        });
        Some((change, command))
    }
}

fn assignment(partition: &Partition, min_insync_replicas: u32) -> Assignment<'_> {
    Assignment {
        replicas: &partition.replicas,
        isr: &partition.isr,
        partition_epoch: partition.partition_epoch,
        min_insync_replicas,
    }
}
