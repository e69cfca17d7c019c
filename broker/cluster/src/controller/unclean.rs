//! Elections of last resort: a leader for a partition that has nobody left who surely holds everything committed.
//!
//! The logs themselves decide (KIP-966, "balanced" recovery): whoever has the newest leader epoch, and in it the
//! most records. Never one that ends below what is in the tier: tiered data is committed by construction. A replica
//! that lost even that first rebuilds itself from the tier, and then reports the tier's end as its log end.
//!
//! It leaves asking the replicas to the server ([`waiting`] says whom), and believes what they say.

use super::apply::{Outcome, Rejected};
use super::command::{ElectUnclean, ReplicaLog, Warrant};
use super::state::{Partition, State, Topic};
use crate::BrokerId;

/// A partition whose replicas' logs ought to be looked at.
#[derive(Debug)]
pub struct Waiting<'a> {
    pub topic: &'a Topic,
    pub index: i32,
    pub partition: &'a Partition,
    /// On what ground it may be elected when all of `ask` have answered.
    pub warrant: Warrant,
    pub ask: Vec<BrokerId>,
}

/// Partitions without a leader that can get one by [`ElectUnclean`]: by their topic's configuration, or, if
/// `brokers_flush` (`varve.flush=group` everywhere), once all of the last known replicas are back.
pub fn waiting(state: &State, brokers_flush: bool) -> impl Iterator<Item = Waiting<'_>> {
    let leaderless = state
        .partitions()
        .filter(|(_, _, partition)| partition.leader.is_none());
    leaderless.filter_map(move |(topic, index, partition)| {
        let (warrant, ask) = ask(state, topic, partition, brokers_flush)?;
        Some(Waiting {
            topic,
            index,
            partition,
            warrant,
            ask,
        })
    })
}

fn ask(
    state: &State,
    topic: &Topic,
    partition: &Partition,
    brokers_flush: bool,
) -> Option<(Warrant, Vec<BrokerId>)> {
    let last_known = &partition.last_known;
    let all_back = partition.isr.is_empty()
        && partition.eligible.is_empty()
        && !last_known.is_empty()
        && last_known.iter().all(|id| state.is_live(*id));
    if brokers_flush && all_back {
        return Some((Warrant::LastKnown, last_known.clone()));
    }
    let live = partition.replicas.iter().filter(|id| state.is_live(**id));
    let ask: Vec<_> = live.copied().collect();
    (state.unclean_leader_election(topic) && !ask.is_empty()).then_some((Warrant::Config, ask))
}

impl State {
    pub(super) fn elect_unclean(&mut self, elect: &ElectUnclean) -> Result<Outcome, Rejected> {
        let partition = self.known_partition(elect.topic_id, elect.partition)?;
        if let Some(leader) = partition.leader {
            return Err(Rejected::ElectionNotNeeded { leader });
        }
        if partition.partition_epoch != elect.partition_epoch {
            return Err(Rejected::StalePartitionEpoch {
                current: partition.partition_epoch,
            });
        }
        self.check_warrant(partition, elect)?;
        let leader = self
            .most_complete(partition, &elect.logs)
            .ok_or_else(|| no_leader("no log of a live replica reaches the end of the tier"))?;
        self.change_partition((elect.topic_id, elect.partition), |electorate, partition| {
            electorate.elect_uncleanly(partition, leader);
            Ok(Outcome::Elected {
                leader,
                epoch: partition.leader_epoch,
            })
        })
    }

    fn check_warrant(&self, partition: &Partition, elect: &ElectUnclean) -> Result<(), Rejected> {
        let was_asked = |id: &BrokerId| {
            elect
                .logs
                .iter()
                .any(|log| log.broker == *id && self.is_current(log))
        };
        let topic = self
            .topics
            .get(&elect.topic_id)
            .ok_or(Rejected::UnknownTopic(elect.topic_id))?;
        match elect.warrant {
            Warrant::Operator => Ok(()),
            Warrant::Config if self.unclean_leader_election(topic) => Ok(()),
            Warrant::Config => Err(no_leader("unclean leader election is not enabled")),
            Warrant::LastKnown if !partition.isr.is_empty() || !partition.eligible.is_empty() => {
                Err(no_leader("a replica that holds everything may come back"))
            }
            Warrant::LastKnown
                if partition.last_known.is_empty() || !partition.last_known.iter().all(was_asked) =>
            {
                Err(no_leader("not all of the last known replicas were looked at"))
            }
            Warrant::LastKnown => Ok(()),
        }
    }

    fn most_complete(&self, partition: &Partition, logs: &[ReplicaLog]) -> Option<BrokerId> {
        let place = |log: &ReplicaLog| partition.replicas.iter().position(|id| *id == log.broker);
        logs.iter()
            .filter(|log| self.is_current(log) && self.is_live(log.broker))
            .filter(|log| log.log_end >= partition.tier_end())
            .filter_map(|log| place(log).map(|place| (log, place)))
            .max_by_key(|(log, place)| (log.last_epoch, log.log_end, std::cmp::Reverse(*place)))
            .map(|(log, _)| log.broker)
    }

    /// Said by the broker that runs now, not by a former self.
    fn is_current(&self, log: &ReplicaLog) -> bool {
        self.brokers
            .get(&log.broker)
            .is_some_and(|broker| broker.epoch == log.epoch)
    }
}

fn no_leader(reason: &str) -> Rejected {
    Rejected::NoEligibleLeader {
        reason: reason.to_owned(),
    }
}
