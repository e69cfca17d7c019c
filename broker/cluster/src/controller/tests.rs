//! What the metadata state machine must do, rule by rule, and what must hold whatever it is told.

use proptest::prelude::*;
use uuid::Uuid;
use varve_log::{LeaderEpoch, Offset};

use super::command::{AdvanceLogStart, AlterPartition, CommitTable, CommitTier, CreateTopic, RegisterBroker};
use super::*;
use crate::topic_config::ConfigError;
use crate::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId, TopicName};

/// A cluster whose commands are given their index one after the other.
pub(super) struct Cluster {
    pub(super) state: State,
}

pub(super) const TOPIC: TopicId = TopicId::new(Uuid::from_u128(7));

pub(super) fn id(value: i32) -> BrokerId {
    BrokerId::new(value)
}

pub(super) fn at(value: i64) -> Offset {
    Offset::new(value)
}

pub(super) fn register(broker: i32, incarnation: u128, clean: Option<BrokerEpoch>) -> Command {
    Command::RegisterBroker(RegisterBroker {
        broker: id(broker),
        incarnation: Uuid::from_u128(incarnation),
        listeners: vec![],
        rack: None,
        clean_shutdown_of: clean,
        directories: vec![],
    })
}

pub(super) fn create(
    name: &str,
    topic_id: TopicId,
    assignments: &[&[i32]],
    configs: &[(&str, &str)],
) -> Command {
    Command::CreateTopic(CreateTopic {
        name: TopicName::parse(name).unwrap(),
        topic_id,
        assignments: assignments
            .iter()
            .map(|replicas| replicas.iter().map(|b| id(*b)).collect())
            .collect(),
        configs: configs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    })
}

impl Cluster {
    /// Brokers 1 to `brokers`, alive.
    pub(super) fn of(brokers: i32) -> Self {
        let mut cluster = Self {
            state: State::new("test"),
        };
        for broker in 1..=brokers {
            cluster.start(broker, 1, None);
        }
        cluster
    }

    pub(super) fn apply(&mut self, command: &Command) -> Result<Outcome, Rejected> {
        self.state.apply(self.state.applied + 1, command)
    }

    pub(super) fn start(
        &mut self,
        broker: i32,
        incarnation: u128,
        clean: Option<BrokerEpoch>,
    ) -> BrokerEpoch {
        self.apply(&register(broker, incarnation, clean)).unwrap();
        let epoch = self.epoch(broker);
        self.apply(&Command::UnfenceBroker {
            broker: id(broker),
            epoch,
        })
        .unwrap();
        epoch
    }

    pub(super) fn fence(&mut self, broker: i32) {
        let epoch = self.epoch(broker);
        self.apply(&Command::FenceBroker {
            broker: id(broker),
            epoch,
        })
        .unwrap();
    }

    pub(super) fn unfence(&mut self, broker: i32) {
        let epoch = self.epoch(broker);
        self.apply(&Command::UnfenceBroker {
            broker: id(broker),
            epoch,
        })
        .unwrap();
    }

    pub(super) fn epoch(&self, broker: i32) -> BrokerEpoch {
        self.state.brokers[&id(broker)].epoch
    }

    pub(super) fn partition(&self) -> &Partition {
        self.state.partition(TOPIC, 0).unwrap()
    }

    pub(super) fn tier(
        &self,
        broker: i32,
        expected_version: u64,
        base: i64,
        start: i64,
        end: i64,
    ) -> Command {
        let leader_epoch = self.partition().leader_epoch;
        Command::CommitTier(CommitTier {
            topic_id: TOPIC,
            partition: 0,
            broker: id(broker),
            broker_epoch: self.epoch(broker),
            leader_epoch,
            expected_version,
            base: at(base),
            pointer: TierPointer {
                version: expected_version + 1,
                manifest_key: format!("manifest-{start}-{end}"),
                manifest_hash: String::new(),
                start: at(start),
                end: at(end),
                bytes: 1,
                leader_epoch,
            },
        })
    }

    pub(super) fn log_start(&mut self, broker: i32, log_start: i64) -> Result<Outcome, Rejected> {
        let command = Command::AdvanceLogStart(AdvanceLogStart {
            topic_id: TOPIC,
            partition: 0,
            broker: id(broker),
            broker_epoch: self.epoch(broker),
            leader_epoch: self.partition().leader_epoch,
            log_start: at(log_start),
        });
        self.apply(&command)
    }
}

#[test]
fn a_restarted_broker_leads_again_in_a_later_epoch() {
    let mut cluster = Cluster::of(1);
    cluster.apply(&create("orders", TOPIC, &[&[1]], &[])).unwrap();
    let before = cluster.partition().clone();
    assert_eq!(
        (before.leader, before.leader_epoch),
        (Some(id(1)), LeaderEpoch::new(0))
    );

    cluster.start(1, 2, None);

    let after = cluster.partition();
    assert_eq!((after.leader, after.isr.as_slice()), (Some(id(1)), &[id(1)][..]));
    assert!(after.leader_epoch > before.leader_epoch);
}

#[test]
fn a_retried_registration_is_the_same_one() {
    let mut cluster = Cluster::of(1);
    let before = cluster.state.clone();
    let outcome = cluster.apply(&register(1, 1, None)).unwrap();
    assert_eq!(outcome, Outcome::Registered(before.brokers[&id(1)].epoch));
    assert_eq!(cluster.state.brokers, before.brokers);
}

#[test]
fn the_next_in_sync_replica_leads_when_the_leader_is_fenced() {
    let mut cluster = Cluster::of(3);
    cluster
        .apply(&create(
            "orders",
            TOPIC,
            &[&[1, 2, 3]],
            &[("min.insync.replicas", "2")],
        ))
        .unwrap();

    cluster.fence(1);
    assert_eq!(cluster.partition().leader, Some(id(2)));
    assert_eq!(
        cluster.partition().eligible,
        [],
        "two are in sync, which is enough"
    );
    cluster.fence(2);
    assert_eq!(
        (cluster.partition().leader, &cluster.partition().eligible[..]),
        (Some(id(3)), &[id(2)][..])
    );
    cluster.fence(3);
    assert_eq!(
        (cluster.partition().leader, cluster.partition().isr.len()),
        (None, 0)
    );

    cluster.unfence(1);
    assert_eq!(
        cluster.partition().leader,
        None,
        "broker 1 missed what 2 and 3 committed"
    );
    cluster.unfence(2);
    assert_eq!(
        (cluster.partition().leader, &cluster.partition().isr[..]),
        (Some(id(2)), &[id(2)][..])
    );
    assert_eq!(cluster.partition().eligible, [id(3)]);
}

#[test]
fn a_replica_that_may_have_lost_writes_is_not_eligible() {
    let mut cluster = Cluster::of(3);
    cluster
        .apply(&create(
            "orders",
            TOPIC,
            &[&[1, 2, 3]],
            &[("min.insync.replicas", "3")],
        ))
        .unwrap();

    let clean = cluster.epoch(1);
    cluster.start(1, 2, Some(clean));
    assert_eq!(cluster.partition().eligible, [id(1)]);
    cluster.start(2, 2, None);
    assert_eq!(cluster.partition().eligible, [id(1)], "2 was killed");
    assert_eq!(cluster.partition().leader, Some(id(3)));
}

#[test]
fn an_isr_is_changed_by_the_leader_alone_and_from_what_is_current() {
    let mut cluster = Cluster::of(3);
    cluster
        .apply(&create("orders", TOPIC, &[&[1, 2, 3]], &[]))
        .unwrap();
    let stale_member = cluster.epoch(3);
    cluster.start(3, 2, None);
    let ask = |cluster: &Cluster, broker: i32, epoch: i32, isr: &[(i32, BrokerEpoch)]| {
        Command::AlterPartition(AlterPartition {
            topic_id: TOPIC,
            partition: 0,
            broker: id(broker),
            broker_epoch: cluster.epoch(broker),
            leader_epoch: cluster.partition().leader_epoch,
            partition_epoch: PartitionEpoch::new(epoch),
            isr: isr
                .iter()
                .map(|(b, epoch)| IsrMember {
                    broker: id(*b),
                    epoch: *epoch,
                })
                .collect(),
            recovering: false,
        })
    };
    let epoch = cluster.partition().partition_epoch.value();
    let [one, two, three] = [1, 2, 3].map(|b| (b, cluster.epoch(b)));
    let mut refused = |broker, epoch, isr: &[(i32, BrokerEpoch)]| {
        let command = ask(&cluster, broker, epoch, isr);
        cluster.apply(&command).unwrap_err()
    };

    assert!(matches!(
        refused(2, epoch, &[one, two]),
        Rejected::NotLeader { .. }
    ));
    assert!(matches!(
        refused(1, epoch - 1, &[one]),
        Rejected::StalePartitionEpoch { .. }
    ));
    assert!(matches!(
        refused(1, epoch, &[one, (3, stale_member)]),
        Rejected::Ineligible { .. }
    ));
    assert!(matches!(
        refused(1, epoch, &[two, three]),
        Rejected::Ineligible { .. }
    ));
    let command = ask(&cluster, 1, epoch, &[one, two, three]);
    assert_eq!(
        cluster.apply(&command),
        Ok(Outcome::Partition(PartitionEpoch::new(epoch + 1)))
    );
    assert_eq!(cluster.partition().isr.len(), 3);
}

#[test]
fn a_deposed_leader_cannot_commit_to_the_tier() {
    let mut cluster = Cluster::of(2);
    cluster.apply(&create("orders", TOPIC, &[&[1, 2]], &[])).unwrap();
    let late = cluster.tier(1, 0, 0, 0, 10);
    cluster.fence(1);

    assert!(matches!(cluster.apply(&late), Err(Rejected::NotLeader { .. })));

    let current = cluster.tier(2, 0, 0, 0, 12);
    assert!(matches!(cluster.apply(&current), Ok(Outcome::Tier(_))));
    assert_eq!(cluster.partition().tier_end(), at(12));
}

#[test]
fn a_leader_that_was_restarted_cannot_finish_its_former_self_s_commit() {
    let mut cluster = Cluster::of(1);
    cluster.apply(&create("orders", TOPIC, &[&[1]], &[])).unwrap();
    let late = cluster.tier(1, 0, 0, 0, 10);
    cluster.start(1, 2, None);
    assert!(matches!(
        cluster.apply(&late),
        Err(Rejected::StaleBrokerEpoch { .. })
    ));
}

#[test]
fn the_tier_grows_without_gap_or_overlap() {
    let mut cluster = Cluster::of(1);
    cluster.apply(&create("orders", TOPIC, &[&[1]], &[])).unwrap();
    let mut commit = |version, base, start, end| {
        let command = cluster.tier(1, version, base, start, end);
        cluster.apply(&command).map(|_| ())
    };

    assert!(
        matches!(commit(0, 5, 5, 10), Err(Rejected::TierGap { .. })),
        "0 to 5 would be missing"
    );
    commit(0, 0, 0, 10).unwrap();
    assert!(matches!(
        commit(0, 10, 0, 20),
        Err(Rejected::TierMoved { current: 1 })
    ));
    assert!(
        matches!(commit(1, 11, 0, 20), Err(Rejected::TierGap { .. })),
        "gap"
    );
    assert!(
        matches!(commit(1, 9, 0, 20), Err(Rejected::TierGap { .. })),
        "overlap"
    );
    assert!(
        matches!(commit(1, 10, 4, 20), Err(Rejected::TierGap { .. })),
        "drops what is still kept"
    );
    commit(1, 10, 0, 20).unwrap();
}

#[test]
fn entries_leave_the_tier_only_below_the_logs_start() {
    let mut cluster = Cluster::of(1);
    cluster.apply(&create("orders", TOPIC, &[&[1]], &[])).unwrap();
    let command = cluster.tier(1, 0, 0, 0, 20);
    cluster.apply(&command).unwrap();
    assert_eq!(cluster.log_start(1, 10), Ok(Outcome::LogStart(at(10))));
    assert_eq!(
        cluster.log_start(1, 5),
        Ok(Outcome::LogStart(at(10))),
        "never backwards"
    );

    let too_much = cluster.tier(1, 1, 20, 11, 20);
    assert!(matches!(cluster.apply(&too_much), Err(Rejected::TierGap { .. })));
    let just_right = cluster.tier(1, 1, 20, 10, 20);
    cluster.apply(&just_right).unwrap();

    // DeleteRecords went past the tier: what lay between is gone by order, and nothing is missing.
    cluster.log_start(1, 50).unwrap();
    let beyond = cluster.tier(1, 2, 45, 45, 60);
    cluster.apply(&beyond).unwrap();
    assert_eq!(cluster.partition().tier_end(), at(60));

    cluster.log_start(1, 60).unwrap();
    let emptied = cluster.tier(1, 3, 60, 60, 60);
    cluster.apply(&emptied).unwrap();
}

#[test]
fn a_deleted_topic_leaves_a_tombstone_until_it_is_purged() {
    let mut cluster = Cluster::of(1);
    cluster.apply(&create("orders", TOPIC, &[&[1]], &[])).unwrap();
    let command = cluster.tier(1, 0, 0, 0, 20);
    cluster.apply(&command).unwrap();

    cluster.apply(&Command::DeleteTopic { topic_id: TOPIC }).unwrap();
    assert!(cluster.state.topic_named("orders").is_none());
    assert_eq!(
        cluster.state.tombstones[&TOPIC].partitions[0]
            .tier
            .as_ref()
            .unwrap()
            .end,
        at(20)
    );
    assert!(matches!(
        cluster.apply(&create("orders", TOPIC, &[&[1]], &[])),
        Err(Rejected::TopicExists(_))
    ));
    let again = TopicId::new(Uuid::from_u128(8));
    cluster.apply(&create("orders", again, &[&[1]], &[])).unwrap();

    cluster.apply(&Command::TopicPurged { topic_id: TOPIC }).unwrap();
    assert!(cluster.state.tombstones.is_empty());
    assert!(matches!(
        cluster.apply(&Command::TopicPurged { topic_id: TOPIC }),
        Err(Rejected::UnknownTopic(_))
    ));
}

#[test]
fn a_topic_is_refused_for_its_name_its_replicas_or_its_configuration() {
    let mut cluster = Cluster::of(2);
    cluster.apply(&create("a.b", TOPIC, &[&[1]], &[])).unwrap();
    let other = TopicId::new(Uuid::from_u128(9));
    let mut refused = |name, replicas: &[&[i32]], configs: &[(&str, &str)]| {
        cluster
            .apply(&create(name, other, replicas, configs))
            .unwrap_err()
    };

    assert!(matches!(refused("a.b", &[&[1]], &[]), Rejected::TopicExists(_)));
    assert!(matches!(refused("a_b", &[&[1]], &[]), Rejected::NameCollides(_)));
    assert_eq!(refused("t", &[], &[]), Rejected::NoPartitions);
    assert!(matches!(
        refused("t", &[&[1, 1]], &[]),
        Rejected::InvalidReplicas { .. }
    ));
    assert!(matches!(
        refused("t", &[&[1], &[1, 2]], &[]),
        Rejected::InvalidReplicas { partition: 1, .. }
    ));
    assert_eq!(refused("t", &[&[3]], &[]), Rejected::UnknownBroker(id(3)));
    assert!(matches!(
        refused("t", &[&[1]], &[("no.such.key", "1")]),
        Rejected::Config(ConfigError::Unknown { .. })
    ));
}

#[test]
fn configs_are_set_deleted_appended_and_subtracted() {
    let mut cluster = Cluster::of(1);
    cluster.apply(&create("orders", TOPIC, &[&[1]], &[])).unwrap();
    let mut alter = |ops: Vec<ConfigOp>| {
        cluster.apply(&Command::AlterConfigs {
            resource: ConfigResource::Topic(TOPIC),
            ops,
        })?;
        Ok::<_, Rejected>(cluster.state.topic(TOPIC).unwrap().configs.clone())
    };
    let op = |key: &str, value: &str| (key.to_owned(), value.to_owned());

    let (key, value) = op("retention.ms", "5");
    assert_eq!(
        alter(vec![ConfigOp::Set { key, value }]).unwrap()["retention.ms"],
        "5"
    );
    let (key, value) = op("cleanup.policy", "delete");
    assert_eq!(
        alter(vec![ConfigOp::Subtract { key, value }]).unwrap()["cleanup.policy"],
        ""
    );
    let (key, value) = op("cleanup.policy", "delete");
    assert_eq!(
        alter(vec![ConfigOp::Append { key, value }]).unwrap()["cleanup.policy"],
        "delete"
    );
    let (key, value) = op("cleanup.policy", "compact");
    assert!(alter(vec![ConfigOp::Append { key, value }]).is_err());
    let configs = alter(vec![ConfigOp::Delete {
        key: "retention.ms".into(),
    }])
    .unwrap();
    assert!(!configs.contains_key("retention.ms"));
}

#[test]
fn producer_ids_are_given_out_once() {
    let mut cluster = Cluster::of(1);
    let epoch = cluster.epoch(1);
    let command = Command::AllocateProducerIds {
        broker: id(1),
        epoch,
        count: 1000,
    };
    assert_eq!(
        cluster.apply(&command),
        Ok(Outcome::ProducerIds {
            first: 0,
            count: 1000
        })
    );
    assert_eq!(
        cluster.apply(&command),
        Ok(Outcome::ProducerIds {
            first: 1000,
            count: 1000
        })
    );
}

#[test]
fn a_table_has_one_committer_and_one_order() {
    let mut cluster = Cluster::of(2);
    cluster.apply(&create("orders", TOPIC, &[&[1, 2]], &[])).unwrap();
    let acquire = |cluster: &mut Cluster, broker: i32| {
        let (epoch, leader_epoch) = (cluster.epoch(broker), cluster.partition().leader_epoch);
        cluster.apply(&Command::AcquireTable {
            topic_id: TOPIC,
            broker: id(broker),
            epoch,
            leader_epoch,
        })
    };
    let commit = |cluster: &mut Cluster, epoch, expected_version, location: &str| {
        cluster.apply(&Command::CommitTable(CommitTable {
            topic_id: TOPIC,
            epoch,
            expected_version,
            metadata_location: location.to_owned(),
        }))
    };

    assert!(matches!(
        acquire(&mut cluster, 2),
        Err(Rejected::NotLeader { .. })
    ));
    acquire(&mut cluster, 1).unwrap();
    assert_eq!(
        commit(&mut cluster, 1, 0, "v1"),
        Ok(Outcome::TableCommitted { version: 1 })
    );
    assert_eq!(
        commit(&mut cluster, 1, 0, "v1'"),
        Err(Rejected::TableMoved { current: 1 })
    );
    cluster.fence(1);
    assert_eq!(
        commit(&mut cluster, 1, 1, "v2"),
        Err(Rejected::TableFenced { current: 1 }),
        "its leadership has ended, though nobody has taken the table over yet"
    );
    cluster.unfence(1);
    assert!(matches!(
        acquire(&mut cluster, 1),
        Err(Rejected::NotLeader { .. })
    ));
    let taken = acquire(&mut cluster, 2);
    assert_eq!(
        taken,
        Ok(Outcome::TableAcquired {
            epoch: 2,
            version: 1,
            metadata_location: Some("v1".into())
        })
    );
    assert_eq!(
        commit(&mut cluster, 1, 1, "v2"),
        Err(Rejected::TableFenced { current: 2 })
    );
    assert_eq!(
        commit(&mut cluster, 2, 1, "v2"),
        Ok(Outcome::TableCommitted { version: 2 })
    );
}

#[test]
fn placement_spreads_leaders_and_racks() {
    let mut cluster = Cluster::of(0);
    for (broker, rack) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")] {
        let mut command = register(broker, 1, None);
        if let Command::RegisterBroker(register) = &mut command {
            register.rack = Some(rack.to_owned());
        }
        cluster.apply(&command).unwrap();
        cluster.unfence(broker);
    }
    let rack = |broker: &BrokerId| cluster.state.brokers[broker].rack.clone();

    let placed = placement::place(&cluster.state, 20, 3, 3).unwrap();

    let mut leads = std::collections::BTreeMap::new();
    for replicas in &placed {
        let racks: std::collections::BTreeSet<_> = replicas.iter().map(rack).collect();
        assert_eq!((replicas.len(), racks.len()), (3, 3), "{replicas:?}");
        *leads.entry(replicas[0]).or_insert(0) += 1;
    }
    assert!(leads.values().all(|count| *count == 4), "{leads:?}");
    assert!(placement::place(&cluster.state, 1, 6, 0).is_err());
}

/// Commands of which some make sense and some do not: both kinds must be judged alike everywhere.
#[expect(clippy::too_many_lines, reason = "one entry per command")]
fn any_command() -> impl Strategy<Value = Command> {
    let broker = || (1..4i32).prop_map(id);
    let epoch = || (1..20u64).prop_map(BrokerEpoch::new);
    let topic = || (1..4u128).prop_map(|n| TopicId::new(Uuid::from_u128(n)));
    let leader_epoch = || (0..4i32).prop_map(LeaderEpoch::new);
    prop_oneof![
        (1..4i32, 1..4u128, prop::option::of(epoch())).prop_map(|(b, i, clean)| register(b, i, clean)),
        (broker(), epoch()).prop_map(|(broker, epoch)| Command::UnfenceBroker { broker, epoch }),
        (broker(), epoch()).prop_map(|(broker, epoch)| Command::FenceBroker { broker, epoch }),
        (
            topic(),
            prop::collection::vec(prop::collection::vec(1..4i32, 1..4), 0..3),
            0..3u8
        )
            .prop_map(|(topic, replicas, min)| {
                let replicas: Vec<&[i32]> = replicas.iter().map(Vec::as_slice).collect();
                let name = format!("t{}", topic.uuid().as_u128() % 3);
                create(
                    &name,
                    topic,
                    &replicas,
                    &[("min.insync.replicas", &min.to_string())],
                )
            }),
        topic().prop_map(|topic_id| Command::DeleteTopic { topic_id }),
        topic().prop_map(|topic_id| Command::TopicPurged { topic_id }),
        (
            topic(),
            prop::collection::vec(prop::collection::vec(broker(), 1..3), 0..3)
        )
            .prop_map(|(topic_id, assignments)| Command::AddPartitions {
                topic_id,
                assignments
            }),
        (broker(), epoch(), 0..9u32).prop_map(|(broker, epoch, count)| Command::AllocateProducerIds {
            broker,
            epoch,
            count
        }),
        (
            (topic(), broker(), epoch()),
            leader_epoch(),
            0..5i32,
            prop::collection::vec((broker(), epoch()), 0..4)
        )
            .prop_map(
                |((topic_id, broker, broker_epoch), leader_epoch, partition_epoch, isr)| {
                    Command::AlterPartition(AlterPartition {
                        topic_id,
                        partition: 0,
                        broker,
                        broker_epoch,
                        leader_epoch,
                        partition_epoch: PartitionEpoch::new(partition_epoch),
                        isr: isr
                            .into_iter()
                            .map(|(broker, epoch)| IsrMember { broker, epoch })
                            .collect(),
                        recovering: false,
                    })
                }
            ),
        (
            (topic(), broker(), epoch()),
            leader_epoch(),
            0..3u64,
            (0..9i64, 0..9i64, 0..9i64)
        )
            .prop_map(
                |((topic_id, broker, broker_epoch), leader_epoch, expected_version, (base, start, end))| {
                    Command::CommitTier(CommitTier {
                        topic_id,
                        partition: 0,
                        broker,
                        broker_epoch,
                        leader_epoch,
                        expected_version,
                        base: at(base),
                        pointer: TierPointer {
                            version: expected_version + 1,
                            manifest_key: String::new(),
                            manifest_hash: String::new(),
                            start: at(start),
                            end: at(end),
                            bytes: 0,
                            leader_epoch,
                        },
                    })
                }
            ),
        ((topic(), broker(), epoch()), leader_epoch(), 0..9i64).prop_map(
            |((topic_id, broker, broker_epoch), leader_epoch, log_start)| {
                Command::AdvanceLogStart(AdvanceLogStart {
                    topic_id,
                    partition: 0,
                    broker,
                    broker_epoch,
                    leader_epoch,
                    log_start: at(log_start),
                })
            }
        ),
        (topic(), broker(), epoch(), leader_epoch()).prop_map(|(topic_id, broker, epoch, leader_epoch)| {
            Command::AcquireTable {
                topic_id,
                broker,
                epoch,
                leader_epoch,
            }
        }),
        (topic(), 0..3u64, 0..3u64).prop_map(|(topic_id, epoch, expected_version)| {
            Command::CommitTable(CommitTable {
                topic_id,
                epoch,
                expected_version,
                metadata_location: "l".into(),
            })
        }),
    ]
}

/// What must hold of every partition in every state (reliability invariants M3, M4, R1, T1).
fn check_partition(state: &State, topic: &Topic, partition: &Partition) {
    for broker in &partition.isr {
        assert!(state.is_live(*broker), "a fenced broker is in sync");
    }
    if let Some(leader) = partition.leader {
        assert!(partition.isr.contains(&leader));
    }
    let enough = state
        .min_insync_replicas(topic)
        .clamp(1, partition.replicas.len());
    assert!(partition.isr.len() < enough || partition.eligible.is_empty());
    assert!(
        partition
            .isr
            .iter()
            .all(|id| partition.replicas.contains(id) && !partition.eligible.contains(id))
    );
    if let Some(tier) = &partition.tier {
        assert!(tier.start <= tier.end && tier.start <= partition.log_start.max(tier.start));
    }
}

/// What may never go back between two states.
fn check_step(before: &State, after: &State) {
    for (id, old) in &before.topics {
        let Some(new) = after.topics.get(id) else { continue };
        for (old, new) in old.partitions.iter().zip(&new.partitions) {
            assert!(new.leader_epoch >= old.leader_epoch && new.partition_epoch >= old.partition_epoch);
            assert!(new.log_start >= old.log_start && new.tier_version() >= old.tier_version());
            assert!(new.leader == old.leader || new.leader_epoch > old.leader_epoch);
            assert!(new.tier_end() >= old.tier_end());
        }
    }
    assert!(after.next_producer_id >= before.next_producer_id);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_same_commands_make_the_same_state_and_rejected_ones_none(
        commands in prop::collection::vec(any_command(), 1..60)
    ) {
        let mut first = Cluster::of(2);
        let mut second = Cluster { state: serde_json::from_str(&serde_json::to_string(&first.state).unwrap()).unwrap() };
        for command in &commands {
            let before = first.state.clone();
            let read: Command = serde_json::from_str(&serde_json::to_string(command).unwrap()).unwrap();
            prop_assert_eq!(&read, command);

            let outcome = first.apply(command);

            prop_assert_eq!(&outcome, &second.apply(&read));
            prop_assert_eq!(&first.state, &second.state);
            if outcome.is_err() {
                prop_assert_eq!(&State { applied: before.applied, ..first.state.clone() }, &before);
            }
            check_step(&before, &first.state);
            for topic in first.state.topics.values() {
                topic.partitions.iter().for_each(|partition| check_partition(&first.state, topic, partition));
            }
        }
        let read: State = serde_json::from_str(&serde_json::to_string(&first.state).unwrap()).unwrap();
        prop_assert_eq!(read, first.state);
    }
}
