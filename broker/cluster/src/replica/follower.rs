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
            segment_base: log.active_base(),
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
        if asked.leader_epoch != self.epoch || asked.from != log.log_end() {
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
        let committed = self.high_watermark.since(to).max(0);
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
