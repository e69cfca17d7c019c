//! Reassignment: other replicas for a partition, without ever having too few in sync (KIP-455, KIP-860).
//!
//! ```text
//! replicas 1 2 3 ── to 3 4 5 ──► 3 4 5 1 2 (adding 4 5, removing 1 2) ── 4 and 5 in sync ──► 3 4 5
//! ```
//! While it runs, old and new replicas are all replicas. It completes by itself (`election`) with the change that
//! brings the last added one into the ISR; then the leader epoch moves on, so that a replica that is removed
//! and added again cannot be mistaken for its former self.

use super::apply::{Outcome, Rejected};
use super::command::Reassign;
use super::election::Electorate;
use super::state::{Partition, State};
use crate::BrokerId;

impl State {
    pub(super) fn reassign(&mut self, reassign: &Reassign) -> Result<Outcome, Rejected> {
        if let Some(target) = &reassign.replicas {
            self.check_target(reassign.partition, target)?;
        }
        self.change_partition(
            (reassign.topic_id, reassign.partition),
            |electorate, partition| {
                match &reassign.replicas {
                    None => cancel(electorate, partition, reassign.partition)?,
                    Some(target) => begin(electorate, partition, target, reassign.any_replication_factor)?,
                }
                Ok(Outcome::Partition(partition.partition_epoch))
            },
        )
    }

    fn check_target(&self, partition: i32, target: &[BrokerId]) -> Result<(), Rejected> {
        if target.is_empty() {
            return Err(refused(partition, "a partition needs at least one replica"));
        }
        for (at, broker) in target.iter().enumerate() {
            if target[..at].contains(broker) {
                return Err(refused(partition, "a broker is named twice"));
            }
            if !self.brokers.contains_key(broker) {
                return Err(Rejected::UnknownBroker(*broker));
            }
        }
        Ok(())
    }
}

fn begin(
    electorate: &Electorate<'_>,
    partition: &mut Partition,
    target: &[BrokerId],
    any_factor: bool,
) -> Result<(), Rejected> {
    // What there was before any reassignment: an earlier one that is under way is replaced by this one.
    let origin = without(&partition.replicas, &partition.adding);
    if !any_factor && origin.len() != target.len() {
        return Err(Rejected::ReplicationFactorChanges {
            current: origin.len(),
            target: target.len(),
        });
    }
    // Also what an earlier one had added stays until the end: it may be all that is in sync.
    let removing = without(&partition.replicas, target);
    let adding = without(target, &origin);
    let replicas = target.iter().chain(&removing).copied().collect();
    electorate.set_replicas(partition, replicas, adding, removing);
    Ok(())
}

fn cancel(electorate: &Electorate<'_>, partition: &mut Partition, index: i32) -> Result<(), Rejected> {
    if !partition.is_reassigned() {
        return Err(Rejected::NoReassignment);
    }
    let origin = without(&partition.replicas, &partition.adding);
    let isr = without(&partition.isr, &partition.adding);
    let holders = [&partition.isr, &partition.eligible, &partition.last_known];
    let needed = |id: &BrokerId| holders.iter().any(|holders| holders.contains(id));
    // An added replica may be one of few that hold everything committed.
    if partition.adding.iter().any(needed) && isr.len() < electorate.enough_of(origin.len()) {
        return Err(refused(
            index,
            "too few of the replicas there were before are in sync",
        ));
    }
    electorate.set_replicas(partition, origin, Vec::new(), Vec::new());
    Ok(())
}

fn without(list: &[BrokerId], gone: &[BrokerId]) -> Vec<BrokerId> {
    list.iter().filter(|id| !gone.contains(id)).copied().collect()
}

fn refused(partition: i32, reason: &str) -> Rejected {
    Rejected::InvalidReplicas {
        partition,
        reason: reason.to_owned(),
    }
}
