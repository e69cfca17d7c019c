//! Who leads a partition, and who is in sync, as brokers come and go.
//!
//! A leader is only ever chosen from replicas that surely hold everything committed: the ISR, then the
//! eligible leader replicas (KIP-966). If neither has anyone left, the partition waits without a leader.
//!
//! One change, one step of `partition_epoch`; another leader (or none) also one step of `leader_epoch`.

use super::state::Partition;
use crate::BrokerId;

/// How a broker left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Unreachable or shut down in order: what it held, it still holds.
    Fenced,
    /// Started again without the mark of a clean shutdown: it may have lost its last writes.
    Unclean,
}

/// What the rules need to know beyond the partition itself.
pub(super) struct Electorate<'a> {
    pub(super) live: &'a dyn Fn(BrokerId) -> bool,
    /// `min.insync.replicas` of the topic.
    pub(super) min_isr: usize,
}

impl Electorate<'_> {
    /// `broker` holds no role in the partition any more. Returns whether anything changed.
    pub(super) fn depart(&self, partition: &mut Partition, broker: BrokerId, how: Departure) -> bool {
        let before = partition.clone();
        let was_in_sync = remove(&mut partition.isr, broker);
        let was_eligible = remove(&mut partition.eligible, broker);
        match how {
            Departure::Fenced => {
                if was_eligible || (was_in_sync && partition.isr.len() < self.enough(partition)) {
                    partition.eligible.push(broker);
                }
            }
            Departure::Unclean => {
                if was_in_sync || was_eligible {
                    partition.last_known.push(broker);
                }
            }
        }
        if partition.leader == Some(broker) {
            partition.leader = None;
        }
        self.settle(partition, before)
    }

    /// Fills an empty leadership if it can. Returns whether anything changed.
    pub(super) fn elect(&self, partition: &mut Partition) -> bool {
        let before = partition.clone();
        self.settle(partition, before)
    }

    /// The leader names another ISR.
    pub(super) fn set_isr(&self, partition: &mut Partition, isr: Vec<BrokerId>) {
        let before = partition.clone();
        let left: Vec<_> = partition
            .isr
            .iter()
            .copied()
            .filter(|id| !isr.contains(id))
            .collect();
        partition.isr = isr;
        if partition.isr.len() < self.enough(partition) {
            partition.eligible.extend(left);
        }
        let isr = &partition.isr;
        partition.eligible.retain(|id| !isr.contains(id));
        if !self.settle(partition, before) {
            // The leader waits to see its answer in the metadata: an equal set is a step too.
            partition.partition_epoch = partition.partition_epoch.next();
        }
    }

    fn settle(&self, partition: &mut Partition, before: Partition) -> bool {
        if partition.leader.is_none() {
            self.choose(partition);
        }
        if partition.isr.len() >= self.enough(partition) {
            partition.eligible.clear();
        }
        if !partition.isr.is_empty() || !partition.eligible.is_empty() {
            partition.last_known.clear();
        }
        if *partition == before {
            return false;
        }
        if partition.leader != before.leader {
            partition.leader_epoch = partition.leader_epoch.plus(1);
        }
        partition.partition_epoch = partition.partition_epoch.next();
        true
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
            partition.eligible.retain(|id| *id != leader);
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

    /// `min.insync.replicas`, but never more than there are replicas (KIP-966).
    fn enough(&self, partition: &Partition) -> usize {
        self.min_isr.clamp(1, partition.replicas.len().max(1))
    }
}

fn remove(list: &mut Vec<BrokerId>, broker: BrokerId) -> bool {
    let before = list.len();
    list.retain(|id| *id != broker);
    list.len() != before
}
