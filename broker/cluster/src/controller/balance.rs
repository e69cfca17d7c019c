//! Bringing leaders back to their preferred replicas, after the brokers they had to leave are back
//! (`auto.leader.rebalance.enable`).

use std::collections::BTreeMap;

use super::command::Command;
use super::state::{Partition, State};
use crate::BrokerId;

/// The elections that are due: for every broker of whose preferred partitions more than `percentage`
/// (`leader.imbalance.per.broker.percentage`) are led by others, all those it can lead now. At most `max`.
#[must_use]
pub fn preferred_elections(state: &State, percentage: u32, max: usize) -> Vec<Command> {
    let mut preferred: BTreeMap<BrokerId, (u64, u64)> = BTreeMap::new();
    for (_, _, partition) in state.partitions() {
        if let Some(first) = partition.replicas.first() {
            let (all, elsewhere) = preferred.entry(*first).or_default();
            *all += 1;
            *elsewhere += u64::from(partition.leader != Some(*first));
        }
    }
    let is_off = |broker: &BrokerId| {
        preferred
            .get(broker)
            .is_some_and(|(all, elsewhere)| elsewhere * 100 > all * u64::from(percentage))
    };
    let due = |partition: &Partition| match partition.replicas.first() {
        // One that is being moved finds its leader when it has arrived.
        Some(first) => {
            partition.leader.is_some_and(|leader| leader != *first)
                && partition.isr.contains(first)
                && !partition.is_reassigned()
                && is_off(first)
        }
        None => false,
    };
    let found = state.partitions().filter(|(_, _, partition)| due(partition));
    found
        .take(max)
        .map(|(topic, partition, _)| Command::ElectPreferred {
            topic_id: topic.id,
            partition,
        })
        .collect()
}
