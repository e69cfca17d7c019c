//! Who leads a partition, and who is in sync, as brokers come and go.
//!
//! A leader is chosen from replicas that surely hold everything committed: the ISR, then the eligible leader
//! replicas (KIP-966). If neither has anyone alive the partition waits without a leader; only an explicit command
//! ([`super::unclean`]) chooses from the rest.
//!
//! Whoever leaves an ISR that falls below `min.insync.replicas` stays eligible: below that nothing is committed,
//! so nothing can be missed. Whoever leaves it, or `eligible`, without a clean shutdown is remembered in
//! `last_known`. Both are emptied once enough replicas are in sync again.
//!
//! One change, one step of `partition_epoch`; another leader (or none), or another set of replicas, also one step
//! of `leader_epoch`.

use super::state::Partition;
use crate::BrokerId;

/// How a broker left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Unreachable or shut down in order: what it held, it still holds.
    Fenced,
    /// Started again without the mark of a clean shutdown, or gone for good: it may have lost its last writes.
    Unclean,
}

/// What the rules need to know beyond the partition itself.
pub(super) struct Electorate<'a> {
    /// May lead and be in sync.
    pub(super) live: &'a dyn Fn(BrokerId) -> bool,
    /// `min.insync.replicas` of the topic.
    pub(super) min_isr: usize,
}

impl Electorate<'_> {
    /// `broker` holds no role in the partition any more. Returns whether anything changed.
    pub(super) fn depart(&self, partition: &mut Partition, broker: BrokerId, how: Departure) -> bool {
        let before = partition.clone();
        partition.isr.retain(|id| *id != broker);
        let lost = (how == Departure::Unclean).then_some(broker);
        self.settle(partition, &before, lost)
    }

    /// Looks at the partition anew, after the world around it has changed: fills an empty leadership if it can,
    /// and follows another `min.insync.replicas`. Returns whether anything changed.
    ///
    /// Kafka empties the eligible whenever that key changes; it has to only when the ISR is large enough now.
    pub(super) fn review(&self, partition: &mut Partition) -> bool {
        let before = partition.clone();
        self.settle(partition, &before, None)
    }

    /// The leader names another ISR.
    pub(super) fn set_isr(&self, partition: &mut Partition, isr: Vec<BrokerId>, recovering: bool) {
        let before = partition.clone();
        partition.isr = isr;
        partition.recovering = recovering;
        if !self.settle(partition, &before, None) {
            // The leader waits to see its answer in the metadata: an equal set is a step too, and it outdates
            // whatever else the leader has asked for.
            partition.partition_epoch = partition.partition_epoch.next();
        }
    }

    /// `leader`, who is in sync, leads from now on.
    pub(super) fn hand_over(&self, partition: &mut Partition, leader: BrokerId) {
        let before = partition.clone();
        partition.leader = Some(leader);
        self.settle(partition, &before, None);
    }

    /// `leader` leads although it may miss what was committed: its log is the truth from now on.
    pub(super) fn elect_uncleanly(&self, partition: &mut Partition, leader: BrokerId) {
        let before = Partition {
            isr: Vec::new(),
            eligible: Vec::new(),
            last_known: Vec::new(),
            ..partition.clone()
        };
        partition.leader = Some(leader);
        partition.isr = vec![leader];
        partition.recovering = true;
        self.settle(partition, &before, None);
    }

    /// `replicas`, of which `adding` are new and `removing` will go, take the place of those there were.
    pub(super) fn set_replicas(
        &self,
        partition: &mut Partition,
        replicas: Vec<BrokerId>,
        adding: Vec<BrokerId>,
        removing: Vec<BrokerId>,
    ) {
        let before = partition.clone();
        partition.replicas = replicas;
        partition.adding = adding;
        partition.removing = removing;
        let replicas = &partition.replicas;
        partition.isr.retain(|id| replicas.contains(id));
        self.settle(partition, &before, None);
    }

    /// How many replicas must be in sync: `min.insync.replicas`, but never more than there are (KIP-966).
    pub(super) fn enough_of(&self, replicas: usize) -> usize {
        self.min_isr.clamp(1, replicas.max(1))
    }

    fn settle(&self, partition: &mut Partition, before: &Partition, lost: Option<BrokerId>) -> bool {
        self.complete_reassignment(partition);
        let enough = self.enough_of(partition.replicas.len());
        let is_replica = |id: &BrokerId| partition.replicas.contains(id);
        let held: Vec<BrokerId> = union(&before.eligible, &before.isr)
            .into_iter()
            .filter(is_replica)
            .collect();
        partition.eligible = held.clone();
        partition.eligible.retain(|id| Some(*id) != lost);
        let leads = |id: &BrokerId| partition.isr.contains(id);
        if !partition.leader.is_some_and(|leader| leads(&leader)) {
            partition.leader = None;
            self.choose(partition);
        }
        let isr = &partition.isr;
        partition.eligible.retain(|id| !isr.contains(id));
        partition.last_known = union(&before.last_known, &held);
        let (replicas, eligible) = (&partition.replicas, &partition.eligible);
        partition
            .last_known
            .retain(|id| replicas.contains(id) && !isr.contains(id) && !eligible.contains(id));
        if isr.len() >= enough {
            partition.eligible.clear();
            partition.last_known.clear();
        }
        if *partition == *before {
            return false;
        }
        if partition.leader != before.leader || shrank(partition, before) {
            partition.leader_epoch = before.leader_epoch.plus(1);
        }
        partition.partition_epoch = before.partition_epoch.next();
        true
    }

    /// KIP-455: done when every added replica is in sync and enough of those that stay are.
    fn complete_reassignment(&self, partition: &mut Partition) {
        if !partition.is_reassigned() {
            return;
        }
        let target = partition.target();
        let staying = |id: &&BrokerId| target.contains(id);
        let isr: Vec<_> = partition.isr.iter().filter(staying).copied().collect();
        let caught_up = partition.adding.iter().all(|id| isr.contains(id));
        if !caught_up || isr.len() < self.enough_of(target.len()) {
            return;
        }
        partition.isr = isr;
        partition.replicas = target;
        partition.adding.clear();
        partition.removing.clear();
    }

    fn choose(&self, partition: &mut Partition) {
        let first_live = |among: &[BrokerId]| {
            partition
                .replicas
                .iter()
                .copied()
                .find(|id| among.contains(id) && (self.live)(*id))
        };
        if let Some(leader) = first_live(&partition.isr) {
            partition.leader = Some(leader);
        } else if let Some(leader) = first_live(&partition.eligible) {
            partition.isr = vec![leader];
            partition.leader = Some(leader);
        } else if partition.isr.is_empty() && partition.eligible.is_empty() {
            // Of a single replica there is no second opinion: what it recovered is what there is.
            // With more replicas the choice needs their logs, and is not taken here.
            if let [only] = partition.replicas[..]
                && (self.live)(only)
            {
                partition.isr = vec![only];
                partition.leader = Some(only);
            }
        }
    }
}

/// Members in their order, the later list's at the end.
fn union(earlier: &[BrokerId], later: &[BrokerId]) -> Vec<BrokerId> {
    let old = earlier.iter().filter(|id| !later.contains(id));
    old.chain(later).copied().collect()
}

/// Replicas have gone, at the end of a reassignment or of an attempt at one.
fn shrank(partition: &Partition, before: &Partition) -> bool {
    before.replicas.iter().any(|id| !partition.replicas.contains(id))
        || (before.is_reassigned() && !partition.is_reassigned())
}
