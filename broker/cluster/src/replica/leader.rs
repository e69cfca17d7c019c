//! A leader's view of its replicas: how far each has come, who is in sync, and up to where data is safe.
//!
//! The high watermark may reach `x` only when
//! - the in-sync replicas are at least `min.insync.replicas` (strict, KIP-966),
//! - every member of the *maximal* ISR (the committed one and all additions asked for) holds `x`, and
//! - with [`Durability::Group`], enough of them hold `x` on stable storage that any later majority of
//!   survivors the controller may elect from has one of them among it.
//!
//! A single replica is the trivial case of the same rules. It leaves fetching, syncing and asking the
//! controller to the server.

use std::collections::BTreeMap;

use varve_log::{LeaderEpoch, Log, Offset};

use crate::{BrokerEpoch, BrokerId, PartitionEpoch};

/// What "safe" includes: `varve.flush`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the logs of the replicas; the operating system decides when it reaches the disk.
    Os,
    /// On the disks of enough of them: any `min.insync.replicas` of the ISR have one of those among them. So
    /// a smaller minimum, or a reassignment to fewer replicas than the minimum, weakens what was committed just
    /// before, until the replicas that remain have synced it.
    Group,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub durability: Durability,
    /// A follower this far behind in time leaves the ISR: `replica.lag.time.max.ms`.
    pub lag_max_ms: i64,
}

/// One leadership of one partition.
#[derive(Debug)]
pub struct Leader {
    me: BrokerId,
    epoch: LeaderEpoch,
    /// The log's end when this leadership began.
    epoch_start: Offset,
    settings: Settings,
    min_insync_replicas: u32,
    local: Ends,
    followers: BTreeMap<BrokerId, Follower>,
    isr: Vec<BrokerId>,
    partition_epoch: PartitionEpoch,
    asked: Asked,
    high_watermark: Offset,
}

/// What the controller was asked for in this partition epoch.
#[derive(Debug, Default)]
struct Asked {
    in_flight: bool,
    /// An earlier request of this partition epoch may still be carried out.
    uncertain: bool,
    /// All additions that may be in the ISR already, or may yet be: they count for the high watermark.
    additions: Vec<BrokerId>,
}

/// What became of an [`IsrChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsrAnswer {
    /// It was done, or the partition epoch or the leadership has moved on: the metadata will say.
    SeeMetadata,
    /// A member is not eligible: nothing was done.
    Refused,
    /// It may have been done, or may yet be.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    log: Offset,
    durable: Offset,
}

/// What a follower has shown in this leader epoch. Earlier fetches say nothing: its log may have been cut since.
#[derive(Clone, Copy, Debug, Default)]
struct Follower {
    ends: Option<Ends>,
    broker_epoch: Option<BrokerEpoch>,
    /// When it last held everything the leader held then.
    caught_up_at: i64,
    last_fetch: Option<(i64, Offset)>,
    /// Where the segment begins that it appends to.
    segment_base: Option<Offset>,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            log: Offset::new(0),
            durable: Offset::new(0),
        }
    }
}

/// One fetch of a follower, as the leader saw it.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    pub replica: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// It holds everything below.
    pub log_end: Offset,
    pub durable_end: Offset,
    /// Where the segment begins that it appends to, as far as that is on stable storage.
    pub segment_base: Offset,
}

/// An ISR to ask the controller for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrChange {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// With the broker epoch under which each was seen; `None` for the leader itself.
    pub isr: Vec<(BrokerId, Option<BrokerEpoch>)>,
}

/// What the controller says of the partition: its part of the metadata.
#[derive(Clone, Copy, Debug)]
pub struct Assignment<'a> {
    pub replicas: &'a [BrokerId],
    pub isr: &'a [BrokerId],
    pub partition_epoch: PartitionEpoch,
    /// `min.insync.replicas` as of the same metadata: a smaller ISR seen under an older, lower minimum would let
    /// the high watermark pass replicas that the controller counts as eligible.
    pub min_insync_replicas: u32,
}

impl Leader {
    /// Leadership in `epoch` begins with the log as it stands. `high_watermark` is the last one known
    /// locally, which may be behind the one consumers have seen ([`Leader::settled`]).
    #[must_use]
    pub fn begin(
        me: BrokerId,
        epoch: LeaderEpoch,
        (log_end, high_watermark): (Offset, Offset),
        assignment: Assignment<'_>,
        settings: Settings,
        now: i64,
    ) -> Self {
        let mut leader = Self {
            me,
            epoch,
            epoch_start: log_end,
            settings,
            min_insync_replicas: assignment.min_insync_replicas,
            // What of the log is in its files, and what on the disk, is for [`Leader::local`] to say: a leader may be
            // elected anew over appends that are still queued.
            local: Ends::default(),
            followers: BTreeMap::new(),
            isr: Vec::new(),
            partition_epoch: assignment.partition_epoch,
            asked: Asked::default(),
            high_watermark,
        };
        leader.assign(assignment, now);
        leader
    }

    /// Leadership of a partition that has no other replica. What counts as safe is what
    /// [`Leader::local`] is told to be durable.
    #[must_use]
    pub fn alone(me: BrokerId, epoch: LeaderEpoch) -> Self {
        let settings = Settings {
            durability: Durability::Group,
            lag_max_ms: i64::MAX,
        };
        let assignment = Assignment {
            replicas: &[me],
            isr: &[me],
            partition_epoch: PartitionEpoch::default(),
            min_insync_replicas: 1,
        };
        Self::begin(
            me,
            epoch,
            (Offset::new(0), Offset::new(0)),
            assignment,
            settings,
            0,
        )
    }

    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    #[must_use]
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether the high watermark has reached this leadership's beginning. Before that "latest" is not
    /// answered: the predecessor may have shown consumers more.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// Whether `replica` follows this partition.
    #[must_use]
    pub fn knows(&self, replica: BrokerId) -> bool {
        self.followers.contains_key(&replica)
    }

    #[must_use]
    pub fn isr(&self) -> &[BrokerId] {
        &self.isr
    }

    /// Whether `acks=all` may be taken at all: enough replicas are in sync, as committed.
    #[must_use]
    pub fn enough_in_sync(&self) -> bool {
        self.isr.len() >= self.min_isr()
    }

    pub fn set_min_insync_replicas(&mut self, min: u32) -> Option<Offset> {
        self.min_insync_replicas = min;
        self.advance()
    }

    /// The leader's own log has come this far. Returns the high watermark if it moved.
    pub fn local(&mut self, log_end: Offset, durable_end: Offset) -> Option<Offset> {
        self.local = Ends {
            log: self.local.log.max(log_end),
            durable: self.local.durable.max(durable_end),
        };
        self.advance()
    }

    /// A follower fetched. Returns the high watermark if it moved.
    pub fn fetched(&mut self, fetched: Fetched, now: i64) -> Option<Offset> {
        let leader_end = self.local.log;
        let follower = self.followers.get_mut(&fetched.replica)?;
        // From a process that is no more, late.
        if follower
            .broker_epoch
            .is_some_and(|known| known > fetched.broker_epoch)
        {
            return None;
        }
        // A restarted follower starts over: what its former self held counts no more.
        if follower.broker_epoch != Some(fetched.broker_epoch) {
            *follower = Follower {
                broker_epoch: Some(fetched.broker_epoch),
                ..Follower::default()
            };
            follower.caught_up_at = i64::MIN;
        }
        // Caught up at this fetch, or with this one to all that there was at the one before.
        if fetched.log_end >= leader_end {
            follower.caught_up_at = now;
        } else if let Some((at, end)) = follower.last_fetch
            && fetched.log_end >= end
        {
            follower.caught_up_at = follower.caught_up_at.max(at);
        }
        follower.last_fetch = Some((now, leader_end));
        follower.segment_base = Some(fetched.segment_base);
        follower.ends = Some(Ends {
            log: fetched.log_end,
            durable: fetched.durable_end.min(fetched.log_end),
        });
        self.advance()
    }

    /// The metadata has moved on within this leader epoch: the answer to what was asked, or a change of
    /// the controller's own. Returns the high watermark if it moved.
    pub fn assigned(&mut self, assignment: Assignment<'_>, now: i64) -> Option<Offset> {
        if assignment.partition_epoch <= self.partition_epoch {
            return None;
        }
        self.assign(assignment, now);
        self.advance()
    }

    /// The ISR that ought to be, if it is not the one that is. At most one change is asked for at a time; from then
    /// on its additions count, until it is known that they were not made. `eligible` says of a broker and the epoch
    /// it fetched in whether the metadata has it alive, not shutting down, and in that epoch (KIP-903).
    ///
    /// While an earlier request may still be carried out, one is due in any case, be it for the ISR there is: the
    /// first of them to arrive outdates the others.
    pub fn ask(&mut self, now: i64, eligible: impl Fn(BrokerId, BrokerEpoch) -> bool) -> Option<IsrChange> {
        if self.asked.in_flight {
            return None;
        }
        let others = self.followers.iter();
        let wanted: Vec<BrokerId> = std::iter::once(self.me)
            .chain(
                others
                    .filter(|(id, f)| self.belongs(**id, f, now, &eligible))
                    .map(|(id, _)| *id),
            )
            .collect();
        let unchanged = wanted.len() == self.isr.len() && wanted.iter().all(|id| self.isr.contains(id));
        if unchanged && !self.asked.uncertain {
            return None;
        }
        let member = |id: &BrokerId| (*id, self.followers.get(id).and_then(|f| f.broker_epoch));
        let change = IsrChange {
            leader_epoch: self.epoch,
            partition_epoch: self.partition_epoch,
            isr: wanted.iter().map(member).collect(),
        };
        self.asked.in_flight = true;
        for id in wanted {
            if !self.isr.contains(&id) && !self.asked.additions.contains(&id) {
                self.asked.additions.push(id);
            }
        }
        Some(change)
    }

    /// What became of a change that was asked for. Whatever is not a plain refusal is resolved by
    /// [`Leader::assigned`] alone. Returns the high watermark if it moved.
    pub fn answered(&mut self, change: &IsrChange, answer: IsrAnswer) -> Option<Offset> {
        if change.leader_epoch != self.epoch || change.partition_epoch != self.partition_epoch {
            return None;
        }
        match answer {
            IsrAnswer::SeeMetadata => return None,
            IsrAnswer::Refused => {
                self.asked.in_flight = false;
                if !self.asked.uncertain {
                    self.asked.additions.clear();
                }
            }
            IsrAnswer::Unknown => {
                self.asked.in_flight = false;
                self.asked.uncertain = true;
            }
        }
        self.advance()
    }

    /// Whether any replica that may lead next begins a segment at `end`, too: then what lies before is the same
    /// file on all of them, for ever, and can be uploaded as one.
    ///
    /// A segment's beginning travels with the first batch in it; before there is one that is committed, only the
    /// empty segment on everybody's disk counts.
    #[must_use]
    pub fn is_sealed_everywhere(&self, log: &Log, end: Offset) -> bool {
        let has_rolled = |id: &BrokerId| {
            if *id == self.me {
                return log.durable_active_base() >= end;
            }
            let follower = self.followers.get(id);
            follower.is_some_and(|f| f.segment_base.is_some_and(|base| base >= end))
        };
        // While fewer are in sync than ought to be, somebody eligible may lead next of whom nothing is known here.
        self.high_watermark > end || (self.enough_in_sync() && self.maximal_isr().all(has_rolled))
    }

    fn assign(&mut self, assignment: Assignment<'_>, now: i64) {
        let fresh = || Follower {
            caught_up_at: now,
            ..Follower::default()
        };
        let known = std::mem::take(&mut self.followers);
        self.followers = assignment
            .replicas
            .iter()
            .filter(|id| **id != self.me)
            .map(|id| (*id, known.get(id).copied().unwrap_or_else(fresh)))
            .collect();
        self.isr = assignment.isr.to_vec();
        self.partition_epoch = assignment.partition_epoch;
        self.min_insync_replicas = assignment.min_insync_replicas;
        self.asked = Asked::default();
    }

    fn belongs(
        &self,
        id: BrokerId,
        follower: &Follower,
        now: i64,
        eligible: &impl Fn(BrokerId, BrokerEpoch) -> bool,
    ) -> bool {
        if self.isr.contains(&id) {
            // One that restarted is out of the ISR already; until the metadata says so it may stay.
            return now.saturating_sub(follower.caught_up_at) <= self.settings.lag_max_ms;
        }
        let (Some(ends), Some(epoch)) = (follower.ends, follower.broker_epoch) else {
            return false;
        };
        // What was committed without it was counted on fewer disks: it joins with all of that on its own.
        let held = match self.settings.durability {
            Durability::Os => ends.log,
            Durability::Group => ends.durable,
        };
        held >= self.high_watermark && held >= self.epoch_start && eligible(id, epoch)
    }

    fn advance(&mut self) -> Option<Offset> {
        if !self.enough_in_sync() {
            return None;
        }
        let mut logs = Vec::with_capacity(self.followers.len() + 1);
        let mut durable = Vec::with_capacity(self.followers.len() + 1);
        for id in self.maximal_isr() {
            let ends = self.ends_of(*id)?;
            logs.push(ends.log);
            durable.push(ends.durable);
        }
        let held = logs.iter().copied().min()?;
        let safe = match self.settings.durability {
            Durability::Os => held,
            // What was here before this leadership began is on this disk before any of it is called safe.
            Durability::Group if self.local.durable < self.epoch_start => return None,
            Durability::Group => {
                // The q-th largest: at least q members have it on disk. q makes every set of
                // `min.insync.replicas` members meet the members that have it.
                durable.sort_unstable_by(|a, b| b.cmp(a));
                let n = durable.len();
                let q = self
                    .min_isr()
                    .max((n + 1).saturating_sub(self.min_isr()))
                    .clamp(1, n);
                held.min(durable[q - 1])
            }
        };
        if safe <= self.high_watermark {
            return None;
        }
        self.high_watermark = safe;
        Some(safe)
    }

    /// The ISR as committed, and whoever may have joined it since.
    fn maximal_isr(&self) -> impl Iterator<Item = &BrokerId> {
        let additions = self.asked.additions.iter();
        self.isr
            .iter()
            .chain(additions.filter(|id| !self.isr.contains(id)))
    }

    /// `None` while a member has not fetched in this leader epoch: nothing is known of its log.
    fn ends_of(&self, id: BrokerId) -> Option<Ends> {
        if id == self.me {
            return Some(self.local);
        }
        self.followers.get(&id)?.ends
    }

    /// Never more than there are replicas: a topic of one replica can be written whatever is configured.
    fn min_isr(&self) -> usize {
        let replicas = self.followers.len() + 1;
        usize::try_from(self.min_insync_replicas)
            .unwrap_or(usize::MAX)
            .clamp(1, replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: BrokerId = BrokerId::new(1);
    const B: BrokerId = BrokerId::new(2);
    const C: BrokerId = BrokerId::new(3);

    fn at(value: i64) -> Offset {
        Offset::new(value)
    }

    fn leader(isr: &[BrokerId], replicas: &[BrokerId], min: u32, durability: Durability) -> Leader {
        let settings = Settings {
            durability,
            lag_max_ms: 10_000,
        };
        let assignment = Assignment {
            replicas,
            isr,
            partition_epoch: PartitionEpoch::new(0),
            min_insync_replicas: min,
        };
        Leader::begin(ME, LeaderEpoch::new(0), (at(0), at(0)), assignment, settings, 0)
    }

    fn fetch(leader: &mut Leader, replica: BrokerId, end: i64, durable: i64, now: i64) -> Option<Offset> {
        let broker_epoch = BrokerEpoch::new(1);
        leader.fetched(
            Fetched {
                replica,
                broker_epoch,
                log_end: at(end),
                durable_end: at(durable),
                segment_base: at(0),
            },
            now,
        )
    }

    #[test]
    fn a_single_replica_is_safe_once_written_or_once_synced() {
        let mut os = leader(&[ME], &[ME], 2, Durability::Os);
        assert_eq!(os.local(at(5), at(0)), Some(at(5)));

        let mut group = leader(&[ME], &[ME], 1, Durability::Group);
        assert_eq!(group.local(at(5), at(0)), None);
        assert_eq!(group.local(at(5), at(4)), Some(at(4)));
    }

    #[test]
    fn the_high_watermark_waits_for_every_member_of_the_isr() {
        let mut leader = leader(&[ME, B, C], &[ME, B, C], 2, Durability::Os);
        leader.local(at(10), at(0));
        assert_eq!(fetch(&mut leader, B, 8, 0, 1), None);
        assert_eq!(fetch(&mut leader, C, 6, 0, 1), Some(at(6)));
        assert_eq!(fetch(&mut leader, C, 9, 0, 2), Some(at(8)));
        assert_eq!(fetch(&mut leader, B, 7, 0, 3), None, "never backwards");
        assert_eq!(leader.high_watermark(), at(8));
    }

    #[test]
    fn two_of_three_disks_are_enough_for_a_minimum_of_two() {
        let mut leader = leader(&[ME, B, C], &[ME, B, C], 2, Durability::Group);
        leader.local(at(10), at(0));
        fetch(&mut leader, B, 10, 9, 1);
        assert_eq!(fetch(&mut leader, C, 10, 7, 1), Some(at(7)));
        assert_eq!(leader.local(at(10), at(10)), Some(at(9)));
    }

    #[test]
    fn too_few_in_sync_replicas_stop_the_high_watermark() {
        let mut leader = leader(&[ME], &[ME, B, C], 2, Durability::Os);
        assert_eq!(leader.local(at(10), at(10)), None);
        assert!(!leader.enough_in_sync());
    }

    #[test]
    fn a_replica_asked_for_counts_before_the_answer() {
        let mut leader = leader(&[ME, B], &[ME, B, C], 2, Durability::Os);
        leader.local(at(10), at(0));
        fetch(&mut leader, B, 10, 0, 1);
        fetch(&mut leader, C, 10, 0, 1);

        let change = leader.ask(1, |_, _| true).unwrap();
        assert_eq!(change.isr.len(), 3);
        assert_eq!(leader.ask(1, |_, _| true), None, "one at a time");
        leader.local(at(20), at(0));
        assert_eq!(
            fetch(&mut leader, B, 20, 0, 2),
            None,
            "C may already be in the ISR"
        );

        assert_eq!(leader.answered(&change, IsrAnswer::Refused), Some(at(20)));
    }

    #[test]
    fn a_replica_joins_with_everything_committed_on_its_disk() {
        let mut leader = leader(&[ME], &[ME, B], 1, Durability::Group);
        leader.local(at(10), at(10));
        fetch(&mut leader, B, 10, 9, 1);
        assert_eq!(leader.ask(1, |_, _| true), None);
        fetch(&mut leader, B, 10, 10, 2);
        assert!(leader.ask(2, |_, _| true).is_some());
    }

    #[test]
    fn a_request_of_unknown_outcome_counts_until_the_metadata_has_moved() {
        let mut leader = leader(&[ME, B], &[ME, B, C], 2, Durability::Os);
        leader.local(at(10), at(0));
        fetch(&mut leader, B, 10, 0, 1);
        fetch(&mut leader, C, 10, 0, 1);
        let first = leader.ask(1, |_, _| true).unwrap();
        assert_eq!(leader.answered(&first, IsrAnswer::Unknown), None);
        leader.local(at(20), at(0));
        fetch(&mut leader, B, 20, 0, 2);

        // C is fenced meanwhile. The first request may still arrive, so another is due, and its refusal proves nothing.
        let second = leader.ask(2, |_, _| false).unwrap();
        assert_eq!(second.isr.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ME, B]);
        assert_eq!(leader.answered(&second, IsrAnswer::Refused), None);
        assert_eq!(leader.high_watermark(), at(10));

        let third = leader.ask(3, |_, _| false).unwrap();
        let assignment = Assignment {
            replicas: &[ME, B, C],
            isr: &[ME, B],
            partition_epoch: PartitionEpoch::new(1),
            min_insync_replicas: 2,
        };
        assert_eq!(leader.assigned(assignment, 3), Some(at(20)));
        assert_eq!(
            leader.answered(&third, IsrAnswer::Unknown),
            None,
            "an answer that comes late"
        );
        assert_eq!(leader.ask(4, |_, _| false), None);
    }

    #[test]
    fn a_fetch_of_a_former_process_says_nothing() {
        let mut leader = leader(&[ME, B], &[ME, B], 1, Durability::Os);
        leader.local(at(10), at(0));
        let mut from = |epoch, end| {
            let fetched = Fetched {
                replica: B,
                broker_epoch: BrokerEpoch::new(epoch),
                log_end: at(end),
                durable_end: at(0),
                segment_base: at(0),
            };
            leader.fetched(fetched, 1)
        };
        assert_eq!(from(2, 3), Some(at(3)));
        assert_eq!(from(1, 10), None);
        assert_eq!(from(2, 4), Some(at(4)));
    }

    #[test]
    fn a_new_leader_syncs_what_it_has_before_it_calls_any_of_it_safe() {
        let settings = Settings {
            durability: Durability::Group,
            lag_max_ms: 10_000,
        };
        let assignment = Assignment {
            replicas: &[ME, B, C],
            isr: &[ME, B, C],
            partition_epoch: PartitionEpoch::new(0),
            min_insync_replicas: 2,
        };
        let mut leader = Leader::begin(ME, LeaderEpoch::new(3), (at(10), at(7)), assignment, settings, 0);
        fetch(&mut leader, B, 10, 10, 1);
        assert_eq!(fetch(&mut leader, C, 10, 10, 1), None);
        assert_eq!(leader.local(at(10), at(10)), Some(at(10)));
    }

    #[test]
    fn a_segment_is_sealed_everywhere_once_all_have_rolled_or_a_batch_behind_it_is_committed() {
        let disk = std::sync::Arc::new(varve_log::SimDisk::new());
        let now = varve_log::Timestamp::new(1);
        let settings = varve_log::Settings::default();
        let mut log = Log::create_at(disk, "/t-0".into(), settings, at(0), now).unwrap();
        let record = varve_log::Builder::new(now).push(now, None, None, &[]);
        let batch = varve_log::Batch::check_produced(record.build()).unwrap();
        log.append(&batch, LeaderEpoch::new(0), now).unwrap();
        log.force_roll(now);
        let turn = log.take_writes().unwrap();
        log.wrote(turn.run()).unwrap();

        let mut leader = leader(&[ME, B], &[ME, B], 2, Durability::Os);
        leader.local(at(1), at(0));
        let follower = |segment_base| Fetched {
            replica: B,
            broker_epoch: BrokerEpoch::new(1),
            log_end: at(1),
            durable_end: at(0),
            segment_base: at(segment_base),
        };
        leader.fetched(follower(0), 1);
        assert!(!leader.is_sealed_everywhere(&log, at(1)), "B has not rolled");
        leader.fetched(follower(1), 2);
        assert!(
            !leader.is_sealed_everywhere(&log, at(1)),
            "our own roll is not on the disk"
        );
        let turn = log.take_syncs().unwrap();
        log.synced(turn.run()).unwrap();
        assert!(leader.is_sealed_everywhere(&log, at(1)));
        leader.fetched(follower(0), 3);
        assert!(!leader.is_sealed_everywhere(&log, at(1)));
        assert!(
            leader.is_sealed_everywhere(&log, at(0)),
            "a batch behind it is committed"
        );
    }

    #[test]
    fn a_follower_that_falls_behind_leaves_and_comes_back_caught_up() {
        let mut leader = leader(&[ME, B, C], &[ME, B, C], 2, Durability::Os);
        leader.local(at(10), at(0));
        fetch(&mut leader, B, 10, 0, 9_000);
        fetch(&mut leader, C, 3, 0, 9_000);
        leader.local(at(20), at(0));
        fetch(&mut leader, B, 20, 0, 10_500);

        let change = leader.ask(10_500, |_, _| true).unwrap();
        assert_eq!(change.isr.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [ME, B]);
        let assignment = Assignment {
            replicas: &[ME, B, C],
            isr: &[ME, B],
            partition_epoch: PartitionEpoch::new(1),
            min_insync_replicas: 2,
        };
        assert_eq!(leader.assigned(assignment, 10_600), Some(at(20)));

        fetch(&mut leader, C, 19, 0, 11_000);
        assert_eq!(leader.ask(11_000, |_, _| true), None, "below the high watermark");
        fetch(&mut leader, C, 20, 0, 11_100);
        assert!(leader.ask(11_100, |_, _| false).is_none(), "fenced or restarted");
        assert_eq!(leader.ask(11_100, |_, _| true).unwrap().isr.len(), 3);
    }

    #[test]
    fn latest_is_not_answered_before_this_leadership_has_caught_up() {
        let settings = Settings {
            durability: Durability::Os,
            lag_max_ms: 10_000,
        };
        let assignment = Assignment {
            replicas: &[ME, B],
            isr: &[ME, B],
            partition_epoch: PartitionEpoch::new(4),
            min_insync_replicas: 1,
        };
        let mut leader = Leader::begin(ME, LeaderEpoch::new(3), (at(10), at(7)), assignment, settings, 0);
        assert!(!leader.settled());
        assert_eq!(
            leader.local(at(10), at(10)),
            None,
            "B has not fetched in this epoch"
        );
        fetch(&mut leader, B, 10, 0, 1);
        assert!(leader.settled());
    }
}
