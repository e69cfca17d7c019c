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

use varve_log::{LeaderEpoch, Offset};

use crate::{BrokerEpoch, BrokerId, PartitionEpoch};

/// What "safe" includes: `varve.flush`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the logs of the replicas; the operating system decides when it reaches the disk.
    Os,
    /// On the disks of enough of them.
    Group,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub durability: Durability,
    pub min_insync_replicas: u32,
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
    local: Ends,
    followers: BTreeMap<BrokerId, Follower>,
    isr: Vec<BrokerId>,
    partition_epoch: PartitionEpoch,
    /// The ISR asked for and not yet answered. Its additions already count for the high watermark.
    asked: Option<Vec<BrokerId>>,
    high_watermark: Offset,
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
            // Nothing is known to be on the disk until the first sync of this leadership says so.
            local: Ends {
                log: log_end,
                durable: Offset::new(0),
            },
            followers: BTreeMap::new(),
            isr: Vec::new(),
            partition_epoch: assignment.partition_epoch,
            asked: None,
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
            min_insync_replicas: 1,
            lag_max_ms: i64::MAX,
        };
        let assignment = Assignment {
            replicas: &[me],
            isr: &[me],
            partition_epoch: PartitionEpoch::default(),
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

    /// The same broker was elected again, without having led in between: what followers have shown counts
    /// no more, its own log still does.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        assert!(
            epoch > self.epoch,
            "leader epochs only grow: {epoch} after {}",
            self.epoch
        );
        self.epoch = epoch;
        self.epoch_start = self.local.log;
        self.asked = None;
        for follower in self.followers.values_mut() {
            follower.ends = None;
            follower.last_fetch = None;
        }
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
        self.settings.min_insync_replicas = min;
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

    /// The ISR that ought to be, if it is not the one that is. At most one change is asked for at a time;
    /// from then on its additions count, whether or not the answer ever comes.
    pub fn ask(&mut self, now: i64, eligible: impl Fn(BrokerId, BrokerEpoch) -> bool) -> Option<IsrChange> {
        if self.asked.is_some() {
            return None;
        }
        let wanted: Vec<BrokerId> = std::iter::once(self.me)
            .chain(
                self.followers
                    .iter()
                    .filter(|(id, f)| self.belongs(**id, f, now, &eligible))
                    .map(|(id, _)| *id),
            )
            .collect();
        let unchanged = wanted.len() == self.isr.len() && wanted.iter().all(|id| self.isr.contains(id));
        if unchanged {
            return None;
        }
        let member = |id: &BrokerId| (*id, self.followers.get(id).and_then(|f| f.broker_epoch));
        let change = IsrChange {
            leader_epoch: self.epoch,
            partition_epoch: self.partition_epoch,
            isr: wanted.iter().map(member).collect(),
        };
        self.asked = Some(wanted);
        Some(change)
    }

    /// The controller has refused for good: what was asked for did not and will not happen. An unknown
    /// outcome is no refusal; it is resolved by [`Leader::assigned`] alone.
    pub fn refused(&mut self) -> Option<Offset> {
        self.asked = None;
        self.advance()
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
        self.asked = None;
    }

    fn belongs(
        &self,
        id: BrokerId,
        follower: &Follower,
        now: i64,
        eligible: &impl Fn(BrokerId, BrokerEpoch) -> bool,
    ) -> bool {
        if self.isr.contains(&id) {
            return now.saturating_sub(follower.caught_up_at) <= self.settings.lag_max_ms;
        }
        let (Some(ends), Some(epoch)) = (follower.ends, follower.broker_epoch) else {
            return false;
        };
        ends.log >= self.high_watermark && ends.log >= self.epoch_start && eligible(id, epoch)
    }

    fn advance(&mut self) -> Option<Offset> {
        if !self.enough_in_sync() {
            return None;
        }
        let asked = self.asked.iter().flatten().filter(|id| !self.isr.contains(id));
        let mut logs = Vec::with_capacity(self.followers.len() + 1);
        let mut durable = Vec::with_capacity(self.followers.len() + 1);
        for id in self.isr.iter().chain(asked) {
            let ends = self.ends_of(*id)?;
            logs.push(ends.log);
            durable.push(ends.durable);
        }
        let held = logs.iter().copied().min()?;
        let safe = match self.settings.durability {
            Durability::Os => held,
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
        usize::try_from(self.settings.min_insync_replicas)
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
            min_insync_replicas: min,
            lag_max_ms: 10_000,
        };
        let assignment = Assignment {
            replicas,
            isr,
            partition_epoch: PartitionEpoch::new(0),
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

        assert_eq!(leader.refused(), Some(at(20)));
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
            min_insync_replicas: 1,
            lag_max_ms: 10_000,
        };
        let assignment = Assignment {
            replicas: &[ME, B],
            isr: &[ME, B],
            partition_epoch: PartitionEpoch::new(4),
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
