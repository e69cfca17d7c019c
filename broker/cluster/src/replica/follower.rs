//! A follower's part: what it asks its leader for next, and what it does with the answer.
//!
//! Its log changes in three ways only: by batches exactly as the leader has them, by a cut to where its lineage and
//! the leader's part (KIP-101, KIP-279; never "to the high watermark"), and, if the leader no longer has what comes
//! next, by beginning anew behind what is in the tier (KIP-405). In-memory changes of the log are made here; what
//! needs the disk comes out as a [`Step`] for the driver, who asks again when it is done.

use bytes::Bytes;
use varve_log::{Batch, EpochChain, LeaderEpoch, Log, Offset, Producers, Seed, Timestamp, Truncation, split};

use super::serve::{Answer, Ask, Refusal};
use crate::{BrokerEpoch, BrokerId};

/// One followership: of one leader in one leader epoch.
#[derive(Debug)]
pub struct Follower {
    me: BrokerId,
    broker_epoch: BrokerEpoch,
    leader: BrokerId,
    epoch: LeaderEpoch,
    high_watermark: Offset,
}

/// What an answer has come to.
#[derive(Debug)]
#[must_use = "a cut or a rebuild must be carried out"]
pub enum Step {
    /// Whatever was in it has been appended and waits to be written.
    Took {
        appended: bool,
        high_watermark: Option<Offset>,
    },
    /// Write and sync what is queued, [`Cut::plan`] it, run it, hand it back to the log, ask again.
    Cut(Cut),
    /// Prepare a [`Seed`], write and sync what is queued, `Log::restart_at` it, ask again.
    Rebuild(Rebuild),
    /// Belongs to another leadership, or to a place where this log no longer ends.
    Stale,
    /// Nothing can be done with it now: try again a little later. The metadata may know more by then.
    Wait(Wait),
}

/// What must go from the log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The log ends at `to`, at the latest. `committed` is how far the cut reaches below the high watermark this
    /// replica has known: only an unclean election can make that more than 0.
    To { to: Offset, committed: i64 },
    /// The segment that was begun at the log's end was not begun by the leader.
    Reopen,
}

/// The local log is to begin anew, empty. Its old files stay until the new beginning is durable, and that is
/// prepared first (download, verify, then install): a replica that is interrupted still has what it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebuild {
    /// At the tier's end: epochs and producers come from the footer of the object that ends there.
    FromTier { at: Offset },
    /// Nothing lies before but what retention has let go: epochs and producers begin with what comes.
    FromNothing { at: Offset },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Leadership has changed here or there: for the metadata.
    Metadata,
    /// The leader's files begin behind the end of the tier that is known here: for the metadata.
    Tier,
    /// The leader cannot read its log, or sent what it cannot hold.
    Leader(&'static str),
    /// This log takes nothing more.
    Storage,
}

impl Follower {
    /// Followership of `leader` in `epoch`. `high_watermark` is the last one known here.
    #[must_use]
    pub const fn begin(
        (me, broker_epoch): (BrokerId, BrokerEpoch),
        (leader, epoch): (BrokerId, LeaderEpoch),
        high_watermark: Offset,
    ) -> Self {
        Self {
            me,
            broker_epoch,
            leader,
            epoch,
            high_watermark,
        }
    }

    #[must_use]
    pub const fn leader(&self) -> BrokerId {
        self.leader
    }

    #[must_use]
    pub const fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Everything below is committed, and is here.
    #[must_use]
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// What must happen before the first fetch, if anything: of a partition whose beginning is in the tier, an
    /// empty replica copies only what is not.
    #[must_use]
    pub fn prepare(&self, log: &Log, tier_end: Option<Offset>) -> Option<Rebuild> {
        let empty = log.local_base() == log.log_end();
        let at = tier_end.filter(|end| empty && log.log_end() < *end)?;
        Some(Rebuild::FromTier { at })
    }

    /// The next question. It counts what is written, not what is queued: the leader takes it for held.
    #[must_use]
    pub fn ask(&self, log: &Log) -> Ask {
        Ask {
            replica: self.me,
            broker_epoch: self.broker_epoch,
            leader_epoch: self.epoch,
            from: log.written_end(),
            last_epoch: log.epochs().latest(),
            durable_end: log.durable_end(),
            segment_base: log.durable_active_base(),
            log_start: log.log_start(),
        }
    }

    /// Takes the answer to `asked`. `tier_end` is how far the tier reaches, as the metadata has it here.
    ///
    /// A segment is begun where the leader began one, also if nothing stands in it yet: the log's write turn is due
    /// after every answer.
    pub fn take(
        &mut self,
        log: &mut Log,
        asked: &Ask,
        answer: Answer<Bytes>,
        tier_end: Option<Offset>,
        now: Timestamp,
    ) -> Step {
        // End and last epoch together name a log (KIP-101): the same end alone may be of another one, cut since.
        let is_current = asked.from == log.log_end() && asked.last_epoch == log.epochs().latest();
        if asked.leader_epoch != self.epoch || !is_current {
            return Step::Stale;
        }
        match answer {
            Answer::Batches {
                read,
                segment_base,
                high_watermark,
                log_start,
            } => {
                if segment_base < asked.from
                    && log.active_base() == asked.from
                    && log.local_base() < asked.from
                {
                    return Step::Cut(Cut::Reopen);
                }
                if segment_base == asked.from {
                    log.force_roll(now);
                }
                let appended = match read.map(|bytes| self.append(log, &bytes, now)).transpose() {
                    Ok(appended) => appended.is_some(),
                    Err(wait) => return Step::Wait(wait),
                };
                log.set_log_start(log_start);
                Step::Took {
                    appended,
                    high_watermark: self.advance(high_watermark.min(log.log_end())),
                }
            }
            Answer::Diverging { epoch, end } => self.cut(log, epoch, end),
            Answer::NotLocal {
                local_base,
                log_start,
            } => restart(log, local_base, log_start, tier_end),
            Answer::Refused(Refusal::Storage) => Step::Wait(Wait::Leader("its log is dead")),
            Answer::Refused(Refusal::Fenced | Refusal::UnknownEpoch | Refusal::NotLeader) => {
                Step::Wait(Wait::Metadata)
            }
        }
    }

    /// Batch by batch, as they are. All of them are looked at before the first is taken.
    fn append(&self, log: &mut Log, bytes: &Bytes, now: Timestamp) -> Result<(), Wait> {
        let mut batches = Vec::new();
        let (mut end, mut epoch) = (log.log_end(), log.epochs().latest());
        for one in split(bytes) {
            let batch = one
                .and_then(Batch::check)
                .map_err(|_corrupt| Wait::Leader("a batch is corrupt"))?;
            let header = batch.header();
            if header.base_offset != end {
                return Err(Wait::Leader("a batch does not go on where the log ends"));
            }
            if epoch.is_some_and(|epoch| header.leader_epoch < epoch) || header.leader_epoch > self.epoch {
                return Err(Wait::Leader("a batch is of an epoch that cannot be"));
            }
            end = header.next_offset();
            epoch = Some(header.leader_epoch);
            batches.push(batch);
        }
        for batch in &batches {
            log.append_replicated(batch, now).map_err(|_dead| Wait::Storage)?;
        }
        Ok(())
    }

    /// To where the lineages part (KIP-279): to the smaller of the leader's end of `epoch` and our own, or, if we
    /// never had that epoch, to the end of the largest we have below it; then the leader is asked again.
    fn cut(&mut self, log: &Log, epoch: LeaderEpoch, end: Offset) -> Step {
        let own = log.epochs().end_offset_for(epoch, log.log_end());
        let to = match own {
            Some((same, own_end)) if same == epoch => own_end.min(end),
            Some((_, own_end)) => own_end.min(log.log_end()),
            None => end.min(log.log_end()),
        };
        // What lies below the log start is gone for everybody.
        let committed = self.high_watermark.since(to.max(log.log_start())).max(0);
        self.high_watermark = self.high_watermark.min(to);
        Step::Cut(Cut::To { to, committed })
    }

    fn advance(&mut self, high_watermark: Offset) -> Option<Offset> {
        let moved = high_watermark > self.high_watermark;
        self.high_watermark = self.high_watermark.max(high_watermark);
        moved.then_some(high_watermark)
    }

    /// The log was cut, and ends here.
    pub fn cut_to(&mut self, log_end: Offset) {
        self.high_watermark = self.high_watermark.min(log_end);
    }

    /// The log has begun anew at `at`: what is below is in the tier or gone, and was committed.
    pub fn rebuilt(&mut self, at: Offset) {
        self.high_watermark = at;
    }
}

/// What comes next is not at the leader any more.
fn restart(log: &Log, local_base: Offset, log_start: Offset, tier_end: Option<Offset>) -> Step {
    match tier_end.filter(|end| *end > log_start) {
        // What lies behind its end is at the leader.
        Some(at) if at >= local_base && at > log.log_end() => Step::Rebuild(Rebuild::FromTier { at }),
        // The leader has dropped what is tiered; the metadata here does not know of all of it yet.
        Some(_) => Step::Wait(Wait::Tier),
        None if local_base > log_start => Step::Wait(Wait::Tier),
        None => Step::Rebuild(Rebuild::FromNothing { at: local_base }),
    }
}

impl Cut {
    /// `None` if there is nothing left to cut.
    ///
    /// # Errors
    /// When the log is dead.
    ///
    /// # Panics
    /// Unless everything queued has been written and no turn is out ([`Log::truncate_to`]).
    pub fn plan(&self, log: &mut Log) -> Result<Option<Truncation>, varve_log::Error> {
        match self {
            Self::To { to, .. } => log.truncate_to(*to),
            Self::Reopen => log.reopen_sealed(),
        }
    }
}

impl Rebuild {
    /// Where the log will begin.
    #[must_use]
    pub const fn at(&self) -> Offset {
        match self {
            Self::FromTier { at } | Self::FromNothing { at } => *at,
        }
    }

    /// The seed of a log before which there is nothing; `None` if it must be fetched from the tier.
    #[must_use]
    pub fn seed(&self) -> Option<Seed> {
        match self {
            Self::FromTier { .. } => None,
            // The leader's log start may lie inside its first segment: that is copied whole.
            Self::FromNothing { at } => Some(Seed {
                at: *at,
                log_start: *at,
                epochs: EpochChain::new(),
                producers: Producers::new(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use varve_log::{Builder, Settings, SimDisk};

    use super::*;
    use crate::PartitionEpoch;
    use crate::replica::leader::{Assignment, Durability, Leader};
    use crate::replica::{self, Served, serve, take_over};

    const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
    const A: BrokerId = BrokerId::new(1);
    const B: BrokerId = BrokerId::new(2);

    fn at(value: i64) -> Offset {
        Offset::new(value)
    }

    fn empty() -> Log {
        let dir = std::path::PathBuf::from("/t-0");
        Log::open(Arc::new(SimDisk::new()), dir, Settings::default(), NOW)
            .unwrap()
            .0
    }

    fn settle(log: &mut Log) {
        while let Some(turn) = log.take_writes() {
            log.wrote(turn.run()).unwrap();
        }
        while let Some(turn) = log.take_syncs() {
            log.synced(turn.run()).unwrap();
        }
    }

    fn append(log: &mut Log, epoch: i32, records: usize) {
        let mut builder = Builder::new(NOW);
        for _ in 0..records {
            builder = builder.push(NOW, None, Some(format!("of {epoch}").as_bytes()), &[]);
        }
        let batch = Batch::check_produced(builder.build()).unwrap();
        log.append(&batch, LeaderEpoch::new(epoch), NOW).unwrap();
        settle(log);
    }

    fn lead(log: &mut Log, epoch: i32) -> Leader {
        let assignment = Assignment {
            replicas: &[A, B],
            isr: &[A, B],
            partition_epoch: PartitionEpoch::new(0),
            min_insync_replicas: 1,
        };
        let settings = replica::Settings {
            durability: Durability::Os,
            lag_max_ms: 1000,
        };
        let who = (A, LeaderEpoch::new(epoch));
        take_over(log, who, (at(0), None), assignment, settings, 0).unwrap()
    }

    fn follow(epoch: i32) -> Follower {
        Follower::begin((B, BrokerEpoch::new(1)), (A, LeaderEpoch::new(epoch)), at(0))
    }

    fn answer(leader: &mut Leader, log: &Log, ask: &Ask) -> Answer<Bytes> {
        leader.local(log.written_end(), log.durable_end());
        let Served { answer, .. } = serve(leader, log, ask, (1 << 20, true), 0);
        match answer {
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
        }
    }

    /// Asks and takes until nothing changes; the cuts that were made.
    fn catch_up(follower: &mut Follower, log: &mut Log, leader: &mut Leader, leaders: &Log) -> Vec<i64> {
        let mut cuts = Vec::new();
        for _ in 0..20 {
            let ask = follower.ask(log);
            let answer = answer(leader, leaders, &ask);
            match follower.take(log, &ask, answer, None, NOW) {
                Step::Took { .. } => settle(log),
                Step::Cut(cut) => {
                    settle(log);
                    if let Some(truncation) = cut.plan(log).unwrap() {
                        log.truncated(truncation.run()).unwrap();
                    }
                    follower.cut_to(log.log_end());
                    cuts.push(log.log_end().value());
                }
                other => panic!("{other:?}"),
            }
        }
        cuts
    }

    #[test]
    fn a_follower_holds_what_its_leader_holds_and_learns_what_is_committed() {
        let (mut leaders, mut own) = (empty(), empty());
        append(&mut leaders, 0, 3);
        let (mut leader, mut follower) = (lead(&mut leaders, 1), follow(1));
        append(&mut leaders, 1, 2);
        assert_eq!(
            catch_up(&mut follower, &mut own, &mut leader, &leaders),
            [0_i64; 0]
        );
        assert_eq!((own.log_end(), follower.high_watermark()), (at(5), at(5)));
        assert_eq!(own.epochs(), leaders.epochs());
        assert_eq!(leader.high_watermark(), at(5));
    }

    // KIP-279: after two quick failovers one question is not enough.
    #[test]
    fn a_follower_goes_back_reign_by_reign_until_it_meets_its_leader() {
        let (mut leaders, mut own) = (empty(), empty());
        for log in [&mut leaders, &mut own] {
            append(log, 0, 4);
        }
        append(&mut own, 2, 3);
        append(&mut own, 4, 3);
        append(&mut leaders, 3, 9);
        let (mut leader, mut follower) = (lead(&mut leaders, 5), follow(5));

        let cuts = catch_up(&mut follower, &mut own, &mut leader, &leaders);

        assert_eq!(cuts, [7, 4], "first what epoch 4 wrote, then what epoch 2 wrote");
        assert_eq!((own.log_end(), own.epochs().entries().len()), (at(13), 2));
    }

    /// Everything in local files.
    fn bytes(log: &Log) -> Bytes {
        let plan = log.plan_replica_read(log.local_base(), 1 << 20, true).unwrap();
        plan.unwrap().run().unwrap().read().unwrap()
    }

    // What lies below the log start is still in segments that are copied and uploaded whole.
    #[test]
    fn what_another_reign_wrote_below_the_log_start_is_cut_too() {
        for (uncommitted, start) in [([2, 3], 11), ([2, 4], 7)] {
            let (mut leaders, mut own) = (empty(), empty());
            for log in [&mut leaders, &mut own] {
                append(log, 0, 4);
            }
            for records in uncommitted {
                append(&mut own, 2, records);
            }
            for records in [2, 3, 4] {
                append(&mut leaders, 3, records);
            }
            for log in [&mut leaders, &mut own] {
                log.set_log_start(at(start));
            }
            let (mut leader, mut follower) = (lead(&mut leaders, 5), follow(5));

            let cuts = catch_up(&mut follower, &mut own, &mut leader, &leaders);

            assert_eq!(cuts, [4], "to where the lineages part");
            assert_eq!((own.log_start(), own.log_end()), (at(start), at(13)));
            assert_eq!(own.epochs().entries()[..2], leaders.epochs().entries()[..2]);
            assert_eq!(bytes(&own), bytes(&leaders));
        }
    }

    #[test]
    fn a_segment_begins_where_the_leader_began_one() {
        let (mut leaders, mut own) = (empty(), empty());
        let (mut leader, mut follower) = (lead(&mut leaders, 0), follow(0));
        append(&mut leaders, 0, 3);
        leaders.force_roll(NOW);
        append(&mut leaders, 0, 2);
        leaders.force_roll(NOW);
        settle(&mut leaders);
        catch_up(&mut follower, &mut own, &mut leader, &leaders);
        let bases = |log: &Log| {
            log.sealed()
                .iter()
                .map(|one| (one.base, one.end))
                .collect::<Vec<_>>()
        };
        assert_eq!(bases(&own), bases(&leaders));
        assert_eq!(own.active_base(), at(5), "an empty segment too");
    }

    #[test]
    fn an_answer_to_another_log_or_leadership_is_stale() {
        let (mut leaders, mut own) = (empty(), empty());
        let (mut leader, mut follower) = (lead(&mut leaders, 1), follow(1));
        append(&mut leaders, 1, 3);
        let ask = follower.ask(&own);
        let late = answer(&mut leader, &leaders, &ask);
        catch_up(&mut follower, &mut own, &mut leader, &leaders);
        assert!(matches!(
            follower.take(&mut own, &ask, late.clone(), None, NOW),
            Step::Stale
        ));
        assert!(matches!(
            follow(2).take(&mut empty(), &ask, late, None, NOW),
            Step::Stale
        ));
        assert_eq!(own.log_end(), at(3));
    }

    #[test]
    fn another_epoch_is_refused_by_whoever_knows_the_later_one() {
        let mut leaders = empty();
        let mut leader = lead(&mut leaders, 3);
        for (epoch, refusal) in [(2, Refusal::Fenced), (4, Refusal::UnknownEpoch)] {
            let ask = follow(epoch).ask(&empty());
            assert_eq!(answer(&mut leader, &leaders, &ask), Answer::Refused(refusal));
        }
        let stranger = Ask {
            replica: BrokerId::new(9),
            ..follow(3).ask(&empty())
        };
        assert_eq!(
            answer(&mut leader, &leaders, &stranger),
            Answer::Refused(Refusal::NotLeader)
        );
    }

    #[test]
    fn what_cannot_be_the_leaders_log_is_not_taken() {
        let mut leaders = empty();
        append(&mut leaders, 4, 2);
        let mut leader = lead(&mut leaders, 5);
        let ask = follow(5).ask(&empty());
        let Answer::Batches { read: Some(good), .. } = answer(&mut leader, &leaders, &ask) else {
            panic!("two records are there")
        };
        let mut damaged = good.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let mut elsewhere = good.to_vec();
        elsewhere[7] = 1;
        let mut later = good.to_vec();
        later[15] = 6;
        for bad in [damaged, elsewhere, later] {
            let mut own = empty();
            let answer = Answer::Batches {
                read: Some(bad.into()),
                segment_base: at(0),
                high_watermark: at(0),
                log_start: at(0),
            };
            let step = follow(5).take(&mut own, &ask, answer, None, NOW);
            assert!(matches!(step, Step::Wait(Wait::Leader(_))), "{step:?}");
            assert_eq!(own.log_end(), at(0));
        }
    }

    #[test]
    fn what_the_leader_has_dropped_comes_from_the_tier_or_is_gone() {
        let mut own = empty();
        let ask = follow(0).ask(&own);
        let mut step = |local_base, log_start, tier_end: Option<i64>| {
            let gone = Answer::NotLocal {
                local_base: at(local_base),
                log_start: at(log_start),
            };
            match follow(0).take(&mut own, &ask, gone, tier_end.map(at), NOW) {
                Step::Rebuild(rebuild) => Some(rebuild),
                Step::Wait(Wait::Tier) => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(step(50, 0, Some(80)), Some(Rebuild::FromTier { at: at(80) }));
        assert_eq!(step(50, 0, Some(40)), None, "the metadata here is behind");
        assert_eq!(step(50, 0, None), None);
        assert_eq!(step(50, 60, None), Some(Rebuild::FromNothing { at: at(50) }));
        assert_eq!(
            step(50, 60, Some(40)),
            Some(Rebuild::FromNothing { at: at(50) }),
            "what was tiered is gone as well"
        );
    }

    #[test]
    fn nobody_leads_without_what_is_in_the_tier() {
        let mut log = empty();
        append(&mut log, 0, 5);
        let assignment = Assignment {
            replicas: &[A],
            isr: &[A],
            partition_epoch: PartitionEpoch::new(0),
            min_insync_replicas: 1,
        };
        let settings = replica::Settings {
            durability: Durability::Os,
            lag_max_ms: 1000,
        };
        let who = (A, LeaderEpoch::new(1));
        let refused = take_over(&mut log, who, (at(0), Some(at(9))), assignment, settings, 0);
        assert_eq!(refused.unwrap_err(), Rebuild::FromTier { at: at(9) });
        let leader = take_over(&mut log, who, (at(0), Some(at(4))), assignment, settings, 0).unwrap();
        assert!(leader.high_watermark() >= at(4));
        assert_eq!(log.epochs().latest(), Some(LeaderEpoch::new(1)));
    }
}
