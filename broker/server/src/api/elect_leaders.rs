//! ElectLeaders (KIP-183, KIP-460): the preferred replica leads again; or, where nobody is left who surely holds
//! everything committed and an operator asks for it, the most complete of the logs that are left.

use super::Caller;
use super::cluster_view::text;
use super::refusal::{Refusal, told};
use crate::broker::Broker;
use crate::cluster::PartitionKey;
use crate::wire::ErrorCode;
use crate::wire::elect_leaders::response::{PartitionResult, ReplicaElectionResult};
use crate::wire::elect_leaders::{ElectLeadersRequest, ElectLeadersResponse};
use futures::StreamExt as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use varve_cluster::BrokerId;
use varve_cluster::controller::command::{ElectUnclean, ReplicaLog, Warrant};
use varve_cluster::controller::{Command, Partition, State};

/// Elections that wait for the metadata quorum at the same time.
const AT_ONCE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Election {
    Preferred,
    Unclean,
}

/// A partition that was asked for, by name.
type Wanted = (String, i32);

pub(super) async fn handle(
    broker: &Arc<Broker>,
    _: &Caller,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let election = match request.election_type {
        0 => Election::Preferred,
        1 => Election::Unclean,
        _ => {
            return ElectLeadersResponse {
                error_code: ErrorCode::InvalidRequest.code(),
                ..Default::default()
            };
        }
    };
    let view = broker.view();
    let (wanted, all): (Vec<Wanted>, bool) = match request.topic_partitions {
        Some(topics) => {
            let of = |topic: String, partitions: Vec<i32>| {
                partitions.into_iter().map(move |at| (topic.clone(), at))
            };
            let named = topics
                .into_iter()
                .flat_map(|one| of(one.topic.to_string(), one.partitions));
            (named.collect(), false)
        }
        None => (every_partition(&view), true),
    };
    let planned = plan(&view, election, wanted);
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let elected = elect(broker, election, &view, planned, deadline).await;
    ElectLeadersResponse {
        replica_election_results: results(elected, all),
        ..Default::default()
    }
}

fn every_partition(view: &State) -> Vec<Wanted> {
    let all = view.partitions();
    all.map(|(topic, index, _)| (topic.name.to_string(), index))
        .collect()
}

/// Which elections there have to be.
fn plan(
    view: &State,
    election: Election,
    wanted: Vec<Wanted>,
) -> Vec<(Wanted, Result<PartitionKey, Refusal>)> {
    let judged = wanted.into_iter().map(|wanted| {
        let judged = judge(view, election, &wanted);
        (wanted, judged)
    });
    judged.collect()
}

fn judge(view: &State, election: Election, (name, index): &Wanted) -> Result<PartitionKey, Refusal> {
    let unknown = |message| Refusal::new(ErrorCode::UnknownTopicOrPartition, message);
    let topic = view
        .topic_named(name)
        .ok_or_else(|| unknown(format!("No such topic as {name}")))?;
    let partition = topic
        .partition(*index)
        .ok_or_else(|| unknown(format!("No such partition as {name}-{index}")))?;
    match (election, partition.leader) {
        (Election::Preferred, leader)
            if leader.is_none() || leader != partition.replicas.first().copied() => {}
        (Election::Unclean, None) => {}
        (Election::Preferred | Election::Unclean, _) => {
            return Err(Refusal::new(
                ErrorCode::ElectionNotNeeded,
                "Leader election not needed for topic partition.",
            ));
        }
    }
    Ok((topic.id, *index))
}

/// Holds the elections that were planned; the rest keeps its refusal.
async fn elect(
    broker: &Arc<Broker>,
    election: Election,
    view: &State,
    planned: Vec<(Wanted, Result<PartitionKey, Refusal>)>,
    deadline: Instant,
) -> Vec<(Wanted, Result<(), Refusal>)> {
    let keys = planned.iter().filter_map(|(_, key)| key.as_ref().ok()).copied();
    let logs = match election {
        Election::Preferred => BTreeMap::new(),
        Election::Unclean => logs(broker, view, keys.collect()).await,
    };
    let hold = async |(wanted, key): (Wanted, Result<PartitionKey, Refusal>)| {
        let held = async {
            let command = match election {
                Election::Preferred => preferred(key?),
                Election::Unclean => unclean(view, key?, &logs)?,
            };
            match tokio::time::timeout_at(deadline, broker.propose(command)).await {
                Ok(outcome) => outcome.map(drop).map_err(Refusal::from),
                Err(_elapsed) => Err(Refusal::new(
                    ErrorCode::RequestTimedOut,
                    "The election is still under way.",
                )),
            }
        };
        let held = held.await;
        (wanted, held)
    };
    futures::stream::iter(planned)
        .map(hold)
        .buffered(AT_ONCE)
        .collect()
        .await
}

const fn preferred((topic_id, partition): PartitionKey) -> Command {
    Command::ElectPreferred { topic_id, partition }
}

/// Every live replica has to say what it holds: one that is passed over could be the one with the most.
fn unclean(
    view: &State,
    key: PartitionKey,
    logs: &BTreeMap<PartitionKey, Vec<ReplicaLog>>,
) -> Result<Command, Refusal> {
    let unavailable = |message: &str| Refusal::new(ErrorCode::EligibleLeadersNotAvailable, message);
    let (topic_id, index) = key;
    let partition = view
        .partition(topic_id, index)
        .ok_or_else(|| unavailable("The partition is gone."))?;
    let logs = logs.get(&key).cloned().unwrap_or_default();
    let asked = live_replicas(view, partition).count();
    if asked == 0 {
        return Err(unavailable("None of its replicas is alive."));
    }
    if logs.len() < asked {
        return Err(unavailable(
            "Not every live replica has said yet what its log holds.",
        ));
    }
    Ok(Command::ElectUnclean(ElectUnclean {
        topic_id,
        partition: index,
        partition_epoch: partition.partition_epoch,
        logs,
        warrant: Warrant::Operator,
    }))
}

fn live_replicas<'a>(view: &'a State, partition: &'a Partition) -> impl Iterator<Item = BrokerId> + 'a {
    let live = |id: &BrokerId| view.brokers.get(id).is_some_and(|broker| broker.is_active());
    partition.replicas.iter().copied().filter(live)
}

async fn logs(
    broker: &Broker,
    view: &State,
    keys: Vec<PartitionKey>,
) -> BTreeMap<PartitionKey, Vec<ReplicaLog>> {
    let replicas = |key: &PartitionKey| {
        let partition = view.partition(key.0, key.1);
        partition.map_or_else(Vec::new, |partition| live_replicas(view, partition).collect())
    };
    let ask = keys.into_iter().map(|key| (key, replicas(&key)));
    match &broker.membership {
        Some(membership) => membership.logs(ask).await,
        // Whoever is the whole cluster leads everything.
        None => BTreeMap::new(),
    }
}

/// By topic. Of all partitions there are, only those are told for which there was anything to do.
fn results(elected: Vec<(Wanted, Result<(), Refusal>)>, all: bool) -> Vec<ReplicaElectionResult> {
    let mut topics: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for ((topic, index), outcome) in elected {
        let unneeded = |refusal: &Refusal| refusal.error == ErrorCode::ElectionNotNeeded;
        if all && outcome.as_ref().is_err_and(unneeded) {
            continue;
        }
        let (error_code, error_message) = told(&outcome);
        topics.entry(topic).or_default().push(PartitionResult {
            partition_id: index,
            error_code,
            error_message,
        });
    }
    let result = |(topic, partition_result): (String, Vec<PartitionResult>)| ReplicaElectionResult {
        topic: text(&topic),
        partition_result,
    };
    topics.into_iter().map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{add_broker, fence, with_replicas};
    use super::*;
    use varve_log::Offset;

    /// Brokers 1, 2 and 3, and a topic on all of them whose preferred replica is 1.
    fn cluster() -> State {
        let mut view = with_replicas("orders", &[1, 2, 3]);
        fence(&mut view, 1);
        view
    }

    fn error(view: &State, election: Election, topic: &str, index: i32) -> Option<ErrorCode> {
        let refusal = judge(view, election, &(topic.to_owned(), index)).err();
        refusal.map(|refusal| refusal.error)
    }

    #[test]
    fn only_what_has_not_the_wanted_leader_needs_an_election() {
        let mut view = cluster();
        assert_eq!(error(&view, Election::Preferred, "orders", 0), None);
        assert_eq!(
            error(&view, Election::Unclean, "orders", 0),
            Some(ErrorCode::ElectionNotNeeded),
            "it has a leader"
        );
        fence(&mut view, 2);
        fence(&mut view, 3);
        assert_eq!(error(&view, Election::Unclean, "orders", 0), None);
        assert_eq!(error(&view, Election::Preferred, "orders", 0), None);
        assert_eq!(
            error(
                &with_replicas("orders", &[1, 2]),
                Election::Preferred,
                "orders",
                0
            ),
            Some(ErrorCode::ElectionNotNeeded)
        );
    }

    #[test]
    fn what_does_not_exist_is_told_by_name() {
        let view = cluster();
        for (topic, index) in [("payments", 0), ("orders", 1), ("orders", -1)] {
            assert_eq!(
                error(&view, Election::Preferred, topic, index),
                Some(ErrorCode::UnknownTopicOrPartition),
                "{topic}-{index}"
            );
        }
    }

    #[test]
    fn an_unclean_election_hears_every_live_replica_first() {
        let mut view = cluster();
        fence(&mut view, 2);
        fence(&mut view, 3);
        let key = judge(&view, Election::Unclean, &("orders".to_owned(), 0)).unwrap();
        let none = unclean(&view, key, &BTreeMap::new()).unwrap_err();
        assert_eq!(none.error, ErrorCode::EligibleLeadersNotAvailable);
        // A broker that comes back after a crash is not eligible: it may have lost its last writes.
        add_broker(&mut view, 1, 11);
        add_broker(&mut view, 2, 12);
        let log = |id: i32| ReplicaLog {
            broker: BrokerId::new(id),
            epoch: view.brokers[&BrokerId::new(id)].epoch,
            last_epoch: None,
            log_end: Offset::new(0),
        };

        let one = BTreeMap::from([(key, vec![log(1)])]);
        assert_eq!(
            unclean(&view, key, &one).unwrap_err().error,
            ErrorCode::EligibleLeadersNotAvailable
        );
        let both = BTreeMap::from([(key, vec![log(1), log(2)])]);
        let command = unclean(&view, key, &both).unwrap();
        assert!(view.clone().apply(view.applied + 1, &command).is_ok());
    }

    #[test]
    fn of_all_partitions_those_that_needed_nothing_are_not_told() {
        let judged = |error| Err(Refusal::new(error, ""));
        let elected = vec![
            (("a".to_owned(), 0), Ok(())),
            (("a".to_owned(), 1), judged(ErrorCode::ElectionNotNeeded)),
            (
                ("b".to_owned(), 0),
                judged(ErrorCode::PreferredLeaderNotAvailable),
            ),
        ];
        let codes = |all| {
            let told = results(elected.clone(), all);
            let parts = told.into_iter().flat_map(|topic| topic.partition_result);
            parts.map(|one| one.error_code).collect::<Vec<_>>()
        };
        assert_eq!(codes(true), [0, ErrorCode::PreferredLeaderNotAvailable.code()]);
        assert_eq!(codes(false).len(), 3);
    }
}
