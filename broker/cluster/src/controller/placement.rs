//! Where the replicas of new partitions go: leaders spread evenly, replicas over as many racks as there are.

use std::collections::BTreeMap;

use super::state::State;
use crate::BrokerId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("replication factor must be at least 1")]
    NoReplicas,
    #[error(
        "replication factor is larger than the number of brokers alive. replication_factor={wanted}, brokers={alive}"
    )]
    TooFewBrokers { wanted: usize, alive: usize },
}

/// Replicas for `partitions` new partitions, the preferred leader first. `start` is any number; different
/// ones begin at different brokers, so that topics of one partition do not all land on the first.
///
/// # Errors
/// When fewer brokers are alive than replicas are asked for.
pub fn place(
    state: &State,
    partitions: usize,
    replication_factor: usize,
    start: usize,
) -> Result<Vec<Vec<BrokerId>>, PlacementError> {
    let brokers = interleaved(state);
    if replication_factor == 0 {
        return Err(PlacementError::NoReplicas);
    }
    if brokers.len() < replication_factor {
        return Err(PlacementError::TooFewBrokers {
            wanted: replication_factor,
            alive: brokers.len(),
        });
    }
    let one = |partition: usize| replicas_of(&brokers, replication_factor, start.wrapping_add(partition));
    Ok((0..partitions).map(one).collect())
}

/// Brokers alive, one rack after the other in turn.
fn interleaved(state: &State) -> Vec<(BrokerId, Option<&str>)> {
    let mut racks: BTreeMap<Option<&str>, Vec<BrokerId>> = BTreeMap::new();
    for broker in state.live_brokers() {
        racks.entry(broker.rack.as_deref()).or_default().push(broker.id);
    }
    let longest = racks.values().map(Vec::len).max().unwrap_or(0);
    let row = |at: usize| {
        racks
            .iter()
            .filter_map(move |(rack, ids)| ids.get(at).map(|id| (*id, *rack)))
    };
    (0..longest).flat_map(row).collect()
}

fn replicas_of(brokers: &[(BrokerId, Option<&str>)], count: usize, turn: usize) -> Vec<BrokerId> {
    let n = brokers.len();
    let leader = turn % n;
    // Followers are shifted once per full round, so that the load of a lost leader spreads over all others.
    let shift = if n > 1 { (turn / n) % (n - 1) } else { 0 };
    let followers = (0..n - 1).map(|at| (leader + 1 + (shift + at) % (n - 1)) % n);
    let order: Vec<usize> = std::iter::once(leader).chain(followers).collect();
    let mut chosen: Vec<usize> = Vec::with_capacity(count);
    // First one per rack, then whoever comes next.
    for fresh_racks_only in [true, false] {
        for &at in &order {
            let rack_taken = chosen.iter().any(|taken| brokers[*taken].1 == brokers[at].1);
            let passed_over = chosen.contains(&at) || (fresh_racks_only && rack_taken);
            if !passed_over && chosen.len() < count {
                chosen.push(at);
            }
        }
    }
    chosen.into_iter().map(|at| brokers[at].0).collect()
}
