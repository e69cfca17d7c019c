//! One partition at one broker: a real log on a simulated disk, and the part that the metadata gives it. What the
//! server does around `varve_cluster::replica`, with the rules that can be left out.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use varve_cluster::controller::{Partition, State};
use varve_cluster::replica::follower::Cut;
use varve_cluster::replica::leader::Assignment;
use varve_cluster::replica::{self, Answer, Ask, Follower, Leader, Rebuild, Refusal, Settings, Step};
use varve_cluster::{BrokerEpoch, BrokerId};
use varve_log::{
    AppendError, Batch, Error, LeaderEpoch, Log, Offset, ProducerError, Producers, SealedSegment, Seed,
    SimDisk, SyncTurn, Verdict,
};

use super::broker::TIME;
use super::bug::Bug;
use super::message::{Look, Refused, Report, Seen};
use super::node::{Setup, TOPIC};
use super::upload::Upload;

#[derive(Debug)]
pub(super) enum Role {
    Waiting,
    Leading(Leader),
    Following(Follower),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) partition: i32,
    pub(super) log: Log,
    pub(super) role: Role,
    pub(super) role_epoch: Option<LeaderEpoch>,
    /// Counts the times when offsets below the log's end have come to mean something else, or went.
    pub(super) shape: u64,
    pub(super) upload: Upload,
    me: BrokerId,
    setup: Arc<Setup>,
    /// As it was when the last role ended.
    high_watermark: Offset,
    pub(super) write_at: Option<i64>,
    pub(super) sync: Option<(SyncTurn, i64)>,
    waiting: Vec<Waiting>,
    /// What is fetched from the tier before the log can begin anew.
    pub(super) rebuild: Option<Rebuild>,
    /// What the tier held when this was last looked at, as the metadata has it.
    pub(super) tier_end: Option<Offset>,
}

/// A batch of a producer that waits for its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) until: Offset,
    pub(super) first: Offset,
    pub(super) to: usize,
    pub(super) connection: u64,
    pub(super) place: u64,
}

/// An acknowledgement that is due, or its end.
pub(super) type Settled = (Waiting, Result<Offset, Refused>);

impl Replica {
    pub(super) fn open(
        (me, partition): (BrokerId, i32),
        setup: &Arc<Setup>,
        disk: &SimDisk,
        generation: u32,
    ) -> Result<Self, Error> {
        let dir = PathBuf::from(format!("/logs/{partition}-{generation}"));
        let settings = varve_log::Settings {
            segment_bytes: setup.segment_bytes,
            index_interval_bytes: 100,
            ..varve_log::Settings::default()
        };
        let (log, _) = Log::open(Arc::new(disk.clone()), dir, settings, TIME)?;
        Ok(Self {
            partition,
            log,
            role: Role::Waiting,
            role_epoch: None,
            shape: 0,
            upload: Upload::default(),
            me,
            setup: Arc::clone(setup),
            high_watermark: Offset::ZERO,
            write_at: None,
            sync: None,
            waiting: vec![],
            rebuild: None,
            tier_end: None,
        })
    }

    pub(super) fn high_watermark(&self) -> Offset {
        match &self.role {
            Role::Leading(leader) => leader.high_watermark(),
            Role::Following(follower) => follower.high_watermark(),
            Role::Waiting => self.high_watermark,
        }
    }

    pub(super) const fn leading(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leading(leader) => Some(leader),
            Role::Following(_) | Role::Waiting => None,
        }
    }

    /// Takes its part from the metadata. What waited for a leadership that is over comes back.
    pub(super) fn see(
        &mut self,
        epoch: BrokerEpoch,
        state: &State,
        now: i64,
        reports: &mut Vec<Report>,
    ) -> Result<Vec<Settled>, Error> {
        let Some(partition) = state.partition(TOPIC, self.partition) else {
            return Ok(vec![]);
        };
        self.tier_end = partition.tier.as_ref().map(|tier| tier.end);
        let min = self.min_isr(state);
        let mut given_up = vec![];
        if self.role_epoch.is_none_or(|known| partition.leader_epoch > known) {
            self.high_watermark = self.high_watermark();
            if self.role_epoch.is_none() && partition.log_start < self.log.log_start() {
                self.log.restore_log_start(partition.log_start);
            }
            given_up = self.give_up();
            let old = std::mem::take(&mut self.upload);
            if self.setup.has(Bug::StaleManifest) {
                self.upload.manifest = old.manifest;
            }
            self.rebuild = None;
            self.role = Role::Waiting;
            self.role_epoch = Some(partition.leader_epoch);
            match partition.leader {
                Some(leader) if leader == self.me => {
                    self.take_over(partition, min, now);
                    reports.push(Report::Led {
                        partition: self.partition,
                        epoch: partition.leader_epoch,
                    });
                }
                Some(leader) => self.follow(epoch, (leader, partition.leader_epoch), reports)?,
                None => {}
            }
        } else if let Role::Leading(leader) = &mut self.role {
            leader.assigned(assignment(partition, min), now);
        }
        if partition.log_start > self.log.log_start() {
            self.log.set_log_start(partition.log_start);
        }
        Ok(given_up)
    }

    fn follow(
        &mut self,
        epoch: BrokerEpoch,
        leader: (BrokerId, LeaderEpoch),
        reports: &mut Vec<Report>,
    ) -> Result<(), Error> {
        if self.setup.has(Bug::TruncateToHighWatermark) {
            self.cut(
                Cut::To {
                    to: self.high_watermark,
                    committed: 0,
                },
                reports,
            )?;
        }
        self.role = Role::Following(Follower::begin((self.me, epoch), leader, self.high_watermark));
        Ok(())
    }

    fn take_over(&mut self, partition: &Partition, min: u32, now: i64) {
        let settings = Settings {
            durability: self.setup.durability,
            lag_max_ms: self.setup.lag_max_ms,
        };
        let tier_end = partition.tier.as_ref().map(|tier| tier.end);
        let taken = replica::take_over(
            &mut self.log,
            (self.me, partition.leader_epoch),
            (self.high_watermark, tier_end),
            assignment(partition, min),
            settings,
            now,
        );
        self.role = Role::Leading(taken.expect("nobody without what is tiered is elected"));
    }

    fn min_isr(&self, state: &State) -> u32 {
        if self.setup.has(Bug::MinIsrNotStrict) {
            return 1;
        }
        let min = state
            .topic(TOPIC)
            .map_or(1, |topic| state.min_insync_replicas(topic));
        u32::try_from(min).unwrap_or(1)
    }

    fn give_up(&mut self) -> Vec<Settled> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_iter()
            .map(|one| (one, Err(Refused::Unknown)))
            .collect()
    }

    /// A producer's batch, in its turn.
    pub(super) fn append(&mut self, batch: Bytes, waiting: Waiting, now: i64) -> Option<Settled> {
        let refused = |why| Some((waiting, Err(why)));
        let Role::Leading(leader) = &self.role else {
            return refused(Refused::Retry);
        };
        let batch = Batch::check_produced(batch).expect("clients make sound batches");
        let is_stored = matches!(
            self.log.producers().check(batch.header()),
            Ok(Verdict::Duplicate { .. })
        );
        if !leader.enough_in_sync() && !is_stored {
            return refused(Refused::Retry);
        }
        let appended = match self.log.append(&batch, leader.epoch(), TIME) {
            Ok(appended) => appended,
            Err(AppendError::Producer(ProducerError::OutOfOrder { .. })) => {
                return refused(Refused::OutOfOrder);
            }
            Err(_) => return refused(Refused::Retry),
        };
        let waiting = Waiting {
            first: appended.first,
            until: appended.last.plus(1),
            ..waiting
        };
        let early = self.setup.has(Bug::AckBeforeCommitted)
            || (appended.is_duplicate && self.setup.has(Bug::DuplicateAckedUncommitted));
        if !appended.is_duplicate && self.write_at.is_none() {
            self.write_at = Some(now);
        }
        if early || waiting.until <= leader.high_watermark() {
            return Some((waiting, Ok(waiting.first)));
        }
        self.waiting.push(waiting);
        None
    }

    /// The leader hears of its own log; who waited for that is told.
    pub(super) fn advance(&mut self) -> Vec<Settled> {
        if let Role::Leading(leader) = &mut self.role {
            leader.local(self.log.written_end(), self.log.durable_end());
        }
        let committed = self.high_watermark();
        let done = self.waiting.extract_if(.., |one| one.until <= committed);
        done.map(|one| (one, Ok(one.first))).collect()
    }

    pub(super) fn write(&mut self) -> Result<(), Error> {
        self.write_at = None;
        while let Some(turn) = self.log.take_writes() {
            self.log.wrote(turn.run())?;
        }
        Ok(())
    }

    /// All that is written is on the disk, whatever was under way.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        self.write()?;
        if let Some((turn, _)) = self.sync.take() {
            self.log.synced(turn.run())?;
        }
        while let Some(turn) = self.log.take_syncs() {
            self.log.synced(turn.run())?;
        }
        Ok(())
    }

    pub(super) fn ask(&self) -> Option<(BrokerId, Ask)> {
        let Role::Following(follower) = &self.role else {
            return None;
        };
        let mut ask = follower.ask(&self.log);
        if self.setup.has(Bug::AckQueued) {
            ask.from = self.log.log_end();
        }
        if self.setup.has(Bug::DurableBeforeSync) {
            ask.durable_end = ask.from;
        }
        Some((follower.leader(), ask))
    }

    /// What must be fetched from the tier before the first question.
    pub(super) fn prepare(&self) -> Option<Rebuild> {
        match &self.role {
            Role::Following(follower) => follower.prepare(&self.log, self.tier_end),
            Role::Leading(_) | Role::Waiting => None,
        }
    }

    pub(super) fn serve(&mut self, ask: &Ask, max: usize, now: i64) -> Answer<Bytes> {
        let Role::Leading(leader) = &mut self.role else {
            return Answer::Refused(Refusal::NotLeader);
        };
        let mut ask = *ask;
        if self.setup.has(Bug::NoDivergenceCheck) && ask.from <= self.log.log_end() {
            // As if it had named whoever wrote that here.
            let before = ask.from.plus(-1);
            ask.last_epoch = self.log.epochs().epoch_at(before).or(ask.last_epoch);
        }
        let served = replica::serve(leader, &self.log, &ask, (max, true), now);
        match served.answer {
            Answer::Batches {
                read,
                segment_base,
                high_watermark,
                log_start,
            } => {
                let read = read.map(|plan| plan.run().map(|slice| slice.read()));
                match read.transpose() {
                    Ok(read) => Answer::Batches {
                        read: read.and_then(Result::ok),
                        segment_base,
                        high_watermark,
                        log_start,
                    },
                    Err(_) => Answer::Refused(Refusal::Storage),
                }
            }
            Answer::Diverging { epoch, end } => Answer::Diverging { epoch, end },
            Answer::NotLocal {
                local_base,
                log_start,
            } => Answer::NotLocal {
                local_base,
                log_start,
            },
            Answer::Refused(refusal) => Answer::Refused(refusal),
        }
    }

    /// Takes a leader's answer and carries out what it comes to; `Some` if the log is to begin anew.
    pub(super) fn take(
        &mut self,
        asked: &Ask,
        answer: Answer<Bytes>,
        reports: &mut Vec<Report>,
    ) -> Result<Option<Rebuild>, Error> {
        let Role::Following(follower) = &mut self.role else {
            return Ok(None);
        };
        if let (true, Answer::Diverging { end, .. }) = (self.setup.has(Bug::OneLookupOnly), &answer) {
            let cut = Cut::To {
                to: (*end).min(self.log.log_end()),
                committed: 0,
            };
            self.cut(cut, reports)?;
            return Ok(None);
        }
        match follower.take(&mut self.log, asked, answer, self.tier_end, TIME) {
            Step::Took { appended, .. } => {
                if appended && self.setup.has(Bug::FollowersRoll) && self.log.log_end().value() % 7 == 0 {
                    self.log.force_roll(TIME);
                }
                if !self.setup.has(Bug::AckQueued) {
                    self.write()?;
                }
                Ok(None)
            }
            Step::Cut(cut) => {
                self.cut(cut, reports)?;
                Ok(None)
            }
            Step::Rebuild(rebuild) => Ok(Some(rebuild)),
            Step::Stale | Step::Wait(_) => Ok(None),
        }
    }

    fn cut(&mut self, cut: Cut, reports: &mut Vec<Report>) -> Result<(), Error> {
        self.settle()?;
        if let Cut::To { committed, .. } = cut
            && committed > 0
        {
            reports.push(Report::CutCommitted {
                partition: self.partition,
                records: committed,
            });
        }
        if let Some(truncation) = cut.plan(&mut self.log)? {
            self.log.truncated(truncation.run())?;
            self.shape += 1;
            reports.push(Report::Cut);
            if self.setup.has(Bug::ProducersForgottenAtCut) {
                self.log.expire_producers(TIME, 0);
            }
        }
        if let Role::Following(follower) = &mut self.role {
            follower.cut_to(self.log.log_end());
        }
        Ok(())
    }

    /// The log begins anew.
    pub(super) fn begin_anew(&mut self, mut seed: Seed, reports: &mut Vec<Report>) -> Result<(), Error> {
        self.rebuild = None;
        self.settle()?;
        if self.setup.has(Bug::ProducersForgottenAtRebuild) {
            seed.producers = Producers::new();
        }
        let restart = self.log.restart_at(seed)?;
        let at = self.log.truncated(restart.run())?;
        self.shape += 1;
        reports.push(Report::Rebuilt {
            partition: self.partition,
        });
        if let Role::Following(follower) = &mut self.role {
            follower.rebuilt(at);
        }
        Ok(())
    }

    /// What a consumer sees.
    pub(super) fn read(&self, epoch: LeaderEpoch, what: Look) -> Option<Seen> {
        let leader = self.leading().filter(|leader| leader.epoch() == epoch)?;
        let high_watermark = leader.high_watermark();
        match what {
            Look::Latest if leader.settled() || self.setup.has(Bug::LatestBeforeSettled) => {
                Some(Seen::Latest(high_watermark))
            }
            Look::Latest => None,
            Look::From(from) => {
                let upto = match self.setup.has(Bug::ReadUncommitted) {
                    true => self.log.log_end(),
                    false => high_watermark,
                };
                let from = from.max(self.log.local_start());
                let plan = self.log.plan_read(from, upto, 1_000, true).ok()??;
                let bytes = plan.run().ok()?.read().ok()?;
                Some(Seen::Batches { from, bytes })
            }
        }
    }

    /// Sealed, committed, not yet in the bucket, and the same file on all who may lead next.
    pub(super) fn due_for_tier(&self, from: Offset) -> Option<SealedSegment> {
        let leader = self.leading()?;
        let upto = match self.setup.has(Bug::UploadUncommitted) {
            true => self.log.log_end(),
            false => leader.high_watermark(),
        };
        let segment = self.log.sealed_between(from, upto, 1).into_iter().next()?;
        let everywhere = leader.is_sealed_everywhere(&self.log, segment.end);
        (everywhere || self.setup.has(Bug::UploadBeforeSealedEverywhere)).then_some(segment)
    }

    /// Local files that the tier holds, or that nobody can ask for any more, go.
    pub(super) fn drop_local(&mut self) -> Result<(), Error> {
        let committed = self.tier_end.unwrap_or(Offset::ZERO);
        let upto = if self.setup.has(Bug::RetentionIgnoresTier) {
            self.high_watermark()
        } else if self.setup.has(Bug::RetentionBeforeCommit) {
            committed.max(self.upload.uploaded_end())
        } else {
            committed
        };
        let before = self.log.local_base();
        self.log
            .drop_segments_before(upto.max(self.log.log_start()))
            .run()?;
        if self.log.local_base() != before {
            self.shape += 1;
        }
        Ok(())
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
