//! Brokers that come and go, elections, reassignments and heartbeats: rule by rule, and as a property over random
//! histories (M2 to M6 of the invariants in research/reliability.md 2.9).

use proptest::prelude::*;
use uuid::Uuid;
use varve_log::LeaderEpoch;

use super::command::{AlterPartition, ElectUnclean, Reassign, ReplicaLog, Warrant};
use super::tests::{Cluster, TOPIC, at, create, id, register};
use super::*;
use crate::{BrokerEpoch, BrokerId, TopicId};

const MIN_2: &[(&str, &str)] = &[("min.insync.replicas", "2")];

fn ids(list: &[i32]) -> Vec<BrokerId> {
    list.iter().copied().map(id).collect()
}

impl Cluster {
    /// Five brokers; one partition with these replicas.
    fn with(replicas: &[i32], configs: &[(&str, &str)]) -> Self {
        let mut cluster = Self::of(5);
        cluster
            .apply(&create("orders", TOPIC, &[replicas], configs))
            .unwrap();
        cluster
    }

    /// The leader names this ISR, with the epochs brokers have now.
    fn isr(&mut self, isr: &[i32]) -> Result<Outcome, Rejected> {
        let command = self.isr_of(TOPIC, isr.iter().map(|b| id(*b)).collect());
        self.apply(&command)
    }

    fn isr_of(&self, topic_id: TopicId, isr: Vec<BrokerId>) -> Command {
        let partition = self.state.partition(topic_id, 0).unwrap();
        let broker = partition.leader.unwrap_or_else(|| id(1));
        let epoch = |broker: BrokerId| {
            let known = self.state.brokers.get(&broker);
            known.map_or(BrokerEpoch::new(0), |known| known.epoch)
        };
        Command::AlterPartition(AlterPartition {
            topic_id,
            partition: 0,
            broker,
            broker_epoch: epoch(broker),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr
                .into_iter()
                .map(|broker| IsrMember {
                    broker,
                    epoch: epoch(broker),
                })
                .collect(),
            recovering: false,
        })
    }

    fn shut_down(&mut self, broker: i32) {
        let epoch = self.epoch(broker);
        let broker = id(broker);
        self.apply(&Command::BeginShutdown { broker, epoch }).unwrap();
    }

    fn reassign(&mut self, replicas: Option<&[i32]>) -> Result<Outcome, Rejected> {
        self.apply(&Command::Reassign(Reassign {
            topic_id: TOPIC,
            partition: 0,
            replicas: replicas.map(ids),
            any_replication_factor: true,
        }))
    }

    fn elect(&mut self, warrant: Warrant, logs: &[(i32, i32, i64)]) -> Result<Outcome, Rejected> {
        let log = |&(broker, epoch, end): &(i32, i32, i64)| ReplicaLog {
            broker: id(broker),
            epoch: self.epoch(broker),
            last_epoch: Some(LeaderEpoch::new(epoch)),
            log_end: at(end),
        };
        let command = Command::ElectUnclean(ElectUnclean {
            topic_id: TOPIC,
            partition: 0,
            partition_epoch: self.partition().partition_epoch,
            logs: logs.iter().map(log).collect(),
            warrant,
        });
        self.apply(&command)
    }

    fn roles(&self) -> (Option<i32>, Vec<i32>, Vec<i32>, Vec<i32>) {
        let plain = |list: &[BrokerId]| list.iter().map(|id| id.value()).collect();
        let p = self.partition();
        (
            p.leader.map(BrokerId::value),
            plain(&p.isr),
            plain(&p.eligible),
            plain(&p.last_known),
        )
    }
}

#[test]
fn after_a_power_failure_everywhere_the_last_known_replicas_decide() {
    let mut cluster = Cluster::with(&[1, 2, 3], MIN_2);
    for (broker, incarnation) in [(3, 2), (2, 2), (1, 2)] {
        cluster.apply(&register(broker, incarnation, None)).unwrap();
    }
    // As many as `min.insync.replicas`: whatever was committed is on the disk of one of them.
    assert_eq!(cluster.roles(), (None, vec![], vec![], vec![2, 1]));
    cluster.unfence(3);
    cluster.unfence(1);
    assert_eq!(cluster.roles().0, None);
    assert_eq!(unclean::waiting(&cluster.state, true).count(), 0, "2 is not back");

    cluster.unfence(2);
    let waiting: Vec<_> = unclean::waiting(&cluster.state, true).collect();
    assert_eq!(
        (waiting[0].warrant, &waiting[0].ask),
        (Warrant::LastKnown, &ids(&[2, 1]))
    );
    assert!(
        cluster
            .elect(Warrant::LastKnown, &[(1, 0, 9), (3, 0, 12)])
            .is_err()
    );
    let elected = cluster.elect(Warrant::LastKnown, &[(1, 0, 9), (2, 0, 10)]);

    assert!(matches!(elected, Ok(Outcome::Elected { leader, .. }) if leader == id(2)));
    assert_eq!(cluster.roles(), (Some(2), vec![2], vec![], vec![]));
    assert!(cluster.partition().recovering);
    assert!(cluster.isr(&[2, 1]).is_ok());
    assert!(!cluster.partition().recovering);
}

#[test]
fn nobody_is_in_sync_with_a_leader_that_recovers() {
    let mut cluster = Cluster::with(&[1, 2], &[]);
    let ask = |cluster: &mut Cluster, isr: &[i32]| {
        let Command::AlterPartition(alter) = cluster.isr_of(TOPIC, ids(isr)) else {
            unreachable!()
        };
        cluster.apply(&Command::AlterPartition(AlterPartition {
            recovering: true,
            ..alter
        }))
    };
    assert!(
        matches!(ask(&mut cluster, &[1]), Err(Rejected::Ineligible { .. })),
        "it has recovered"
    );
    cluster.fence(1);
    cluster.fence(2);
    cluster.start(1, 2, None);
    cluster.elect(Warrant::Operator, &[(1, 0, 5)]).unwrap();
    cluster.start(2, 2, None);
    assert!(matches!(
        ask(&mut cluster, &[1, 2]),
        Err(Rejected::Ineligible { .. })
    ));
    assert!(ask(&mut cluster, &[1]).is_ok());
    assert!(cluster.partition().recovering);
}

#[test]
fn an_unclean_leader_never_ends_below_the_tier() {
    let mut cluster = Cluster::with(&[1, 2, 3], &[]);
    let commit = cluster.tier(1, 0, 0, 0, 50);
    cluster.apply(&commit).unwrap();
    cluster.isr(&[1]).unwrap();
    cluster.fence(1);
    assert_eq!(cluster.roles(), (None, vec![], vec![1], vec![]));

    assert!(matches!(
        cluster.elect(Warrant::Config, &[(2, 0, 60)]),
        Err(Rejected::NoEligibleLeader { .. })
    ));
    assert!(matches!(
        cluster.elect(Warrant::Operator, &[(2, 0, 49)]),
        Err(Rejected::NoEligibleLeader { .. })
    ));
    assert!(
        cluster.elect(Warrant::Operator, &[(1, 0, 99)]).is_err(),
        "it is fenced"
    );
    cluster
        .elect(Warrant::Operator, &[(2, 0, 50), (3, 1, 49)])
        .unwrap();
    assert_eq!(
        cluster.roles(),
        (Some(2), vec![2], vec![], vec![]),
        "what 1 held counts no more"
    );
    let again = cluster.elect(Warrant::Operator, &[(3, 0, 60)]);
    assert_eq!(again, Err(Rejected::ElectionNotNeeded { leader: id(2) }));
}

#[test]
fn logs_that_were_looked_at_before_somebody_led_do_not_count() {
    let mut cluster = Cluster::with(&[1, 2], &[]);
    cluster.isr(&[1]).unwrap();
    cluster.fence(1);
    let late = Command::ElectUnclean(ElectUnclean {
        topic_id: TOPIC,
        partition: 0,
        partition_epoch: cluster.partition().partition_epoch,
        logs: vec![],
        warrant: Warrant::Operator,
    });
    cluster.unfence(1);
    cluster.fence(1);
    assert!(matches!(
        cluster.apply(&late),
        Err(Rejected::StalePartitionEpoch { .. })
    ));
}

#[test]
fn the_preferred_leader_leads_again_once_it_is_in_sync() {
    let mut cluster = Cluster::with(&[1, 2, 3], MIN_2);
    let elect = Command::ElectPreferred {
        topic_id: TOPIC,
        partition: 0,
    };
    assert_eq!(
        cluster.apply(&elect),
        Err(Rejected::ElectionNotNeeded { leader: id(1) })
    );
    cluster.fence(1);
    cluster.unfence(1);
    assert_eq!(
        cluster.apply(&elect),
        Err(Rejected::PreferredLeaderUnavailable { preferred: id(1) })
    );
    assert_eq!(balance::preferred_elections(&cluster.state, 10, 100), []);
    cluster.isr(&[2, 3, 1]).unwrap();
    let before = cluster.partition().leader_epoch;

    assert_eq!(
        balance::preferred_elections(&cluster.state, 10, 100),
        std::slice::from_ref(&elect)
    );
    assert_eq!(balance::preferred_elections(&cluster.state, 100, 100), []);
    assert_eq!(
        cluster.apply(&elect),
        Ok(Outcome::Elected {
            leader: id(1),
            epoch: before.plus(1)
        })
    );
}

#[test]
fn a_broker_that_stops_hands_its_partitions_over_and_joins_no_isr() {
    let mut cluster = Cluster::with(&[1, 2, 3], MIN_2);
    cluster.shut_down(1);
    assert_eq!(cluster.roles(), (Some(2), vec![2, 3], vec![], vec![]));
    assert!(matches!(
        cluster.isr(&[1, 2, 3]),
        Err(Rejected::Ineligible { .. })
    ));
    let epoch = cluster.epoch(1);
    let unfence = Command::UnfenceBroker { broker: id(1), epoch };
    assert_eq!(cluster.apply(&unfence), Err(Rejected::ShuttingDown(id(1))));
    cluster.start(1, 2, Some(epoch));
    assert!(cluster.isr(&[1, 2, 3]).is_ok());
}

#[test]
fn a_wiped_disk_is_no_clean_shutdown() {
    let mut cluster = Cluster::with(&[1, 2, 3], &[("min.insync.replicas", "3")]);
    let on_disk = |incarnation, disk, clean| {
        let Command::RegisterBroker(mut register) = register(1, incarnation, clean) else {
            unreachable!()
        };
        register.directories = vec![Uuid::from_u128(disk)];
        Command::RegisterBroker(register)
    };
    cluster.apply(&on_disk(2, 7, Some(cluster.epoch(1)))).unwrap();
    assert_eq!(cluster.roles().2, [1]);
    cluster.apply(&on_disk(3, 8, Some(cluster.epoch(1)))).unwrap();
    assert_eq!(cluster.roles().2, [0; 0]);
    assert_eq!(cluster.roles().3, [1]);
}

#[test]
fn what_an_unregistered_broker_held_counts_no_more() {
    let mut cluster = Cluster::with(&[1, 2], MIN_2);
    cluster
        .apply(&Command::UnregisterBroker { broker: id(1) })
        .unwrap();
    assert_eq!(cluster.roles(), (Some(2), vec![2], vec![], vec![1]));
    cluster.fence(2);
    cluster.start(1, 9, None);
    assert_eq!(cluster.roles().0, None);
}

#[test]
fn a_smaller_minimum_empties_the_eligible_only_when_it_is_reached() {
    let mut cluster = Cluster::with(&[1, 2, 3], &[("min.insync.replicas", "3")]);
    cluster.fence(1);
    cluster.fence(2);
    assert_eq!(cluster.roles(), (Some(3), vec![3], vec![1, 2], vec![]));
    let mut set = |value: &str| {
        cluster
            .apply(&Command::AlterConfigs {
                resource: ConfigResource::Topic(TOPIC),
                ops: vec![ConfigOp::Set {
                    key: "min.insync.replicas".into(),
                    value: value.into(),
                }],
            })
            .unwrap();
        cluster.roles().2
    };
    assert_eq!(set("2"), [1, 2]);
    assert_eq!(set("1"), [0; 0]);
    assert_eq!(set("2"), [0; 0], "once gone they do not come back");
}

#[test]
fn a_reassignment_grows_catches_up_and_shrinks() {
    let mut cluster = Cluster::with(&[1, 2, 3], MIN_2);
    let epoch = cluster.partition().leader_epoch;
    cluster.reassign(Some(&[3, 4, 5])).unwrap();
    let p = cluster.partition();
    assert_eq!(
        (&p.replicas, &p.adding, &p.removing),
        (&ids(&[3, 4, 5, 1, 2]), &ids(&[4, 5]), &ids(&[1, 2]))
    );
    assert_eq!((p.leader, p.leader_epoch), (Some(id(1)), epoch));
    assert_eq!(cluster.state.reassignments().count(), 1);

    cluster.isr(&[1, 2, 3, 4]).unwrap();
    assert!(cluster.partition().is_reassigned(), "5 is missing");
    cluster.isr(&[1, 2, 3, 4, 5]).unwrap();

    let p = cluster.partition();
    assert!(!p.is_reassigned());
    assert_eq!((&p.replicas, &p.isr), (&ids(&[3, 4, 5]), &ids(&[3, 4, 5])));
    assert_eq!((p.leader, p.leader_epoch), (Some(id(3)), epoch.plus(1)));
}

#[test]
fn a_reassignment_that_keeps_the_leader_still_begins_a_new_epoch() {
    let mut cluster = Cluster::with(&[1, 2], &[]);
    let epoch = cluster.partition().leader_epoch;
    cluster.reassign(Some(&[1])).unwrap();
    assert_eq!(cluster.roles(), (Some(1), vec![1], vec![], vec![]));
    assert_eq!(cluster.partition().leader_epoch, epoch.plus(1));
}

#[test]
fn a_reassignment_waits_for_enough_in_sync_replicas() {
    let mut cluster = Cluster::with(&[1, 2, 3], MIN_2);
    cluster.isr(&[1, 2]).unwrap();
    cluster.reassign(Some(&[3, 4])).unwrap();
    cluster.isr(&[1, 2, 4]).unwrap();
    assert!(
        cluster.partition().is_reassigned(),
        "3 stays but is behind: 4 alone is too few"
    );
    cluster.isr(&[1, 2, 3, 4]).unwrap();
    assert_eq!(cluster.partition().replicas, ids(&[3, 4]));
}

#[test]
fn a_reassignment_can_be_cancelled_unless_it_is_all_there_is() {
    let mut cluster = Cluster::with(&[1, 2], MIN_2);
    assert_eq!(cluster.reassign(None), Err(Rejected::NoReassignment));
    cluster.reassign(Some(&[3, 4])).unwrap();
    cluster.isr(&[1, 2, 3]).unwrap();
    cluster.reassign(None).unwrap();
    assert_eq!(
        (cluster.partition().replicas.clone(), cluster.roles().1),
        (ids(&[1, 2]), vec![1, 2])
    );

    cluster.reassign(Some(&[3, 4])).unwrap();
    cluster.isr(&[1, 2, 3]).unwrap();
    cluster.fence(2);
    assert!(matches!(
        cluster.reassign(None),
        Err(Rejected::InvalidReplicas { .. })
    ));
    // Another target instead: what the first one added stays until it is done.
    cluster.reassign(Some(&[1, 5])).unwrap();
    let p = cluster.partition();
    assert_eq!((&p.adding, &p.isr), (&ids(&[5]), &ids(&[1, 3])));
}

#[test]
fn a_reassignment_is_refused_for_its_target() {
    let mut cluster = Cluster::with(&[1, 2], &[]);
    for bad in [&[][..], &[1, 1]] {
        assert!(matches!(
            cluster.reassign(Some(bad)),
            Err(Rejected::InvalidReplicas { .. })
        ));
    }
    assert_eq!(
        cluster.reassign(Some(&[1, 9])),
        Err(Rejected::UnknownBroker(id(9)))
    );
    let other_factor = Command::Reassign(Reassign {
        topic_id: TOPIC,
        partition: 0,
        replicas: Some(ids(&[1])),
        any_replication_factor: false,
    });
    assert_eq!(
        cluster.apply(&other_factor),
        Err(Rejected::ReplicationFactorChanges {
            current: 2,
            target: 1
        })
    );
}

fn beat(cluster: &Cluster, broker: i32) -> Heartbeat {
    Heartbeat {
        broker: id(broker),
        epoch: cluster.epoch(broker),
        applied: cluster.state.applied,
        want_fence: false,
        want_shutdown: false,
    }
}

#[test]
fn a_silent_broker_is_fenced_and_one_that_speaks_again_unfenced() {
    let mut cluster = Cluster::of(2);
    let mut heartbeats = Heartbeats::begin(3000, &cluster.state, 1000);
    heartbeats.heard(&cluster.state, beat(&cluster, 1), 3000).unwrap();
    assert_eq!(heartbeats.lapsed(&cluster.state, 3999), []);
    let silent = heartbeats.silent_for(1000, &cluster.state, 3999);
    assert!(matches!(silent[..], [(broker, _)] if broker == id(2)));
    assert!(!heartbeats.may_register(&cluster.state, id(2), Uuid::from_u128(99), 3999));
    let lapsed = heartbeats.lapsed(&cluster.state, 4000);
    assert!(matches!(lapsed[..], [Command::FenceBroker { broker, .. }] if broker == id(2)));
    cluster.apply(&lapsed[0]).unwrap();
    assert!(heartbeats.may_register(&cluster.state, id(2), Uuid::from_u128(99), 4000));

    let behind = Heartbeat {
        applied: cluster.epoch(2).value() - 1,
        ..beat(&cluster, 2)
    };
    let (answer, command) = heartbeats.heard(&cluster.state, behind, 4100).unwrap();
    assert_eq!((answer.caught_up, answer.fenced, command), (false, true, None));
    let (_, command) = heartbeats.heard(&cluster.state, beat(&cluster, 2), 4200).unwrap();
    cluster.apply(&command.unwrap()).unwrap();
    assert!(cluster.state.brokers[&id(2)].is_active());

    let former = Heartbeat {
        epoch: BrokerEpoch::new(0),
        ..beat(&cluster, 2)
    };
    assert!(matches!(
        heartbeats.heard(&cluster.state, former, 4300),
        Err(Rejected::StaleBrokerEpoch { .. })
    ));
}

#[test]
fn a_broker_may_stop_when_everybody_knows_that_it_leads_nothing() {
    let mut cluster = Cluster::with(&[1, 2, 3], MIN_2);
    let mut heartbeats = Heartbeats::begin(3000, &cluster.state, 0);
    let stop = |cluster: &Cluster| Heartbeat {
        want_shutdown: true,
        ..beat(cluster, 1)
    };
    let known = cluster.state.applied;
    let (answer, command) = heartbeats.heard(&cluster.state, stop(&cluster), 10).unwrap();
    assert!(!answer.should_shut_down);
    cluster.apply(&command.unwrap()).unwrap();

    for broker in 2..=5 {
        let applied = if broker == 4 { known } else { cluster.state.applied };
        let beat = Heartbeat {
            applied,
            ..beat(&cluster, broker)
        };
        heartbeats.heard(&cluster.state, beat, 20).unwrap();
    }
    assert_eq!(heartbeats.applied_by_all(&cluster.state), known);
    let (answer, command) = heartbeats.heard(&cluster.state, stop(&cluster), 30).unwrap();
    assert_eq!(
        (answer.should_shut_down, command),
        (false, None),
        "4 may still send clients to it"
    );

    heartbeats.heard(&cluster.state, beat(&cluster, 4), 40).unwrap();
    let (answer, command) = heartbeats.heard(&cluster.state, stop(&cluster), 50).unwrap();
    assert!(answer.should_shut_down);
    cluster.apply(&command.unwrap()).unwrap();
    let (answer, command) = heartbeats.heard(&cluster.state, stop(&cluster), 60).unwrap();
    assert_eq!(
        (answer.should_shut_down, command),
        (true, None),
        "it asks until it hears it"
    );
}

/// One step of a history: numbers that choose among what makes sense in the state there is, now and then not.
#[derive(Clone, Debug)]
enum Move {
    Restart { broker: i32, clean: bool },
    Fence(i32),
    Unfence(i32),
    ShutDown(i32),
    Unregister(i32),
    Isr(Vec<i32>),
    Prefer,
    Reassign(Option<Vec<i32>>),
    Unclean(Vec<(i32, i32, i64)>, bool),
    MinIsr(u8),
}

fn any_move() -> impl Strategy<Value = Move> {
    let broker = || 1..6i32;
    let some = || prop::collection::vec(1..6i32, 1..5);
    prop_oneof![
        3 => (broker(), any::<bool>()).prop_map(|(broker, clean)| Move::Restart { broker, clean }),
        3 => broker().prop_map(Move::Fence),
        6 => broker().prop_map(Move::Unfence),
        1 => broker().prop_map(Move::ShutDown),
        1 => broker().prop_map(Move::Unregister),
        8 => some().prop_map(Move::Isr),
        1 => Just(Move::Prefer),
        3 => prop::option::weighted(0.7, some()).prop_map(Move::Reassign),
        1 => (prop::collection::vec((1..6i32, 0..3i32, 0..9i64), 1..4), any::<bool>())
            .prop_map(|(logs, forced)| Move::Unclean(logs, forced)),
        1 => (1..4u8).prop_map(Move::MinIsr),
    ]
}

impl Move {
    fn run(&self, cluster: &mut Cluster, step: u128) -> Result<Outcome, Rejected> {
        let epoch = |broker: i32| {
            let known = cluster.state.brokers.get(&id(broker));
            known.map_or(BrokerEpoch::new(0), |known| known.epoch)
        };
        let command = match self {
            Self::Restart { broker, clean } => register(*broker, 100 + step, clean.then(|| epoch(*broker))),
            Self::Fence(broker) => Command::FenceBroker {
                broker: id(*broker),
                epoch: epoch(*broker),
            },
            Self::Unfence(broker) => Command::UnfenceBroker {
                broker: id(*broker),
                epoch: epoch(*broker),
            },
            Self::ShutDown(broker) => Command::BeginShutdown {
                broker: id(*broker),
                epoch: epoch(*broker),
            },
            Self::Unregister(broker) => Command::UnregisterBroker { broker: id(*broker) },
            Self::Isr(others) => {
                let leader = cluster.partition().leader.map_or(1, BrokerId::value);
                let mut isr = vec![leader];
                for other in others {
                    if !isr.contains(other) {
                        isr.push(*other);
                    }
                }
                cluster.isr_of(TOPIC, ids(&isr))
            }
            Self::Prefer => Command::ElectPreferred {
                topic_id: TOPIC,
                partition: 0,
            },
            Self::Reassign(target) => return cluster.reassign(target.as_deref()),
            Self::Unclean(logs, forced) => {
                let known = |log: &&(i32, i32, i64)| cluster.state.brokers.contains_key(&id(log.0));
                let logs: Vec<_> = logs.iter().filter(known).copied().collect();
                let warrant = if *forced {
                    Warrant::Operator
                } else {
                    Warrant::LastKnown
                };
                return cluster.elect(warrant, &logs);
            }
            Self::MinIsr(min) => Command::AlterConfigs {
                resource: ConfigResource::Topic(TOPIC),
                ops: vec![ConfigOp::Set {
                    key: "min.insync.replicas".into(),
                    value: min.to_string(),
                }],
            },
        };
        cluster.apply(&command)
    }
}

/// M3, M4 and the shape of everything else.
fn check_state(state: &State, topic: &Topic, partition: &Partition) {
    let p = partition;
    let enough = state.min_insync_replicas(topic).clamp(1, p.replicas.len());
    assert!(
        p.isr
            .iter()
            .all(|id| state.brokers.get(id).is_some_and(Broker::is_active)),
        "M3: {p:?}"
    );
    assert!(
        p.isr.len() < enough || (p.eligible.is_empty() && p.last_known.is_empty()),
        "M4: {p:?}"
    );
    let groups = [&p.isr, &p.eligible, &p.last_known];
    let mut all: Vec<_> = groups.into_iter().flatten().copied().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "nobody has two roles: {p:?}");
    assert!(all.iter().all(|id| p.replicas.contains(id)), "{p:?}");
    assert!(p.leader.is_none_or(|leader| p.isr.contains(&leader)), "{p:?}");
    assert!(
        p.isr.is_empty() || p.leader.is_some(),
        "somebody could lead: {p:?}"
    );
    assert!(
        p.adding
            .iter()
            .chain(&p.removing)
            .all(|id| p.replicas.contains(id)),
        "{p:?}"
    );
    assert!(!p.target().is_empty(), "{p:?}");
}

/// M2 and M5, and that nobody but an unclean election forgets who may hold what is committed.
fn check_change(old: &Partition, new: &Partition, made_by: &Move, enough: usize) {
    assert!(new.leader_epoch >= old.leader_epoch && new.partition_epoch >= old.partition_epoch);
    assert!(
        old == new || new.partition_epoch == old.partition_epoch.next(),
        "one step"
    );
    assert!(new.leader == old.leader || new.leader_epoch > old.leader_epoch);
    let fewer = old.replicas.iter().any(|id| !new.replicas.contains(id));
    assert!(!fewer || new.leader_epoch > old.leader_epoch, "{old:?} {new:?}");
    if fewer && old.isr != new.isr {
        assert!(new.isr.len() >= enough, "M5: {old:?} {new:?}");
    }
    // Whom the last committed records were entrusted to: below the minimum, nobody else could get any.
    if !matches!(made_by, Move::Unclean(..)) && new.isr.len() < enough {
        let holders = |p: &Partition| [p.isr.clone(), p.eligible.clone(), p.last_known.clone()].concat();
        let known = holders(new);
        let kept = holders(old).into_iter().filter(|id| new.replicas.contains(id));
        for holder in kept {
            assert!(known.contains(&holder), "{holder} is forgotten: {old:?} {new:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_brokers_the_roles_of_replicas_hold(
        replicas in prop_oneof![Just(vec![1]), Just(vec![1, 2]), Just(vec![1, 2, 3]), Just(vec![2, 1, 4, 5])],
        min in 1..4u8,
        moves in prop::collection::vec(any_move(), 1..80),
    ) {
        let mut cluster = Cluster::with(&replicas, &[("min.insync.replicas", &min.to_string())]);
        for (step, made) in (0..).zip(&moves) {
            let old = cluster.partition().clone();
            let outcome = made.run(&mut cluster, step);
            let new = cluster.partition().clone();
            if outcome.is_err() {
                prop_assert_eq!(&old, &new);
            }
            let topic = cluster.state.topic(TOPIC).unwrap();
            let enough = cluster.state.min_insync_replicas(topic).clamp(1, new.replicas.len());
            check_state(&cluster.state, topic, &new);
            check_change(&old, &new, made, enough);
        }
    }

    #[test]
    fn replicas_are_placed_over_as_many_racks_as_there_are(
        racks in prop::collection::vec(0..4u8, 1..9),
        partitions in 1..20usize,
        start in 0..50usize,
    ) {
        let mut cluster = Cluster::of(0);
        for (broker, rack) in (1..).zip(&racks) {
            let Command::RegisterBroker(mut register) = register(broker, 1, None) else { unreachable!() };
            register.rack = Some(rack.to_string());
            cluster.apply(&Command::RegisterBroker(register)).unwrap();
            cluster.unfence(broker);
        }
        let rack_of = |id: &BrokerId| cluster.state.brokers[id].rack.clone();
        let all: std::collections::BTreeSet<_> = racks.iter().collect();
        for factor in 1..=racks.len() {
            let placed = placement::place(&cluster.state, partitions, factor, start).unwrap();
            let mut leads = std::collections::BTreeMap::new();
            for replicas in &placed {
                let brokers: std::collections::BTreeSet<_> = replicas.iter().collect();
                let racks: std::collections::BTreeSet<_> = replicas.iter().map(rack_of).collect();
                prop_assert_eq!(brokers.len(), factor);
                prop_assert_eq!(racks.len(), factor.min(all.len()));
                *leads.entry(replicas[0]).or_insert(0usize) += 1;
            }
            let most = leads.values().max().copied().unwrap_or(0);
            prop_assert!(most <= partitions.div_ceil(racks.len()), "{:?}", leads);
        }
    }
}
