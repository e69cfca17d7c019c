//! A broker's configuration and a cluster of that broker and others, for tests of what handlers decide.

use uuid::Uuid;
use varve_cluster::controller::command::{AlterPartition, CreateTopic, IsrMember, Reassign, RegisterBroker};
use varve_cluster::controller::{Command, Listener, Outcome, State};
use varve_cluster::topic_config::Overrides;
use varve_cluster::{BrokerId, TopicId, TopicName};

use super::Caller;
use crate::config::Config;

const ME: BrokerId = BrokerId::new(1);

pub(crate) fn config(pairs: &[(&str, &str)]) -> Config {
    Config::from_properties(pairs).unwrap()
}

/// Broker 1, alone.
pub(crate) fn alone() -> State {
    let mut state = State::new("cluster");
    add_broker(&mut state, 1, 1);
    state
}

/// A broker that has started, as `incarnation`, and may lead.
pub(crate) fn add_broker(state: &mut State, id: i32, incarnation: u128) {
    let broker = BrokerId::new(id);
    let register = RegisterBroker {
        broker,
        incarnation: Uuid::from_u128(incarnation),
        listeners: vec![Listener {
            name: "PLAINTEXT".to_owned(),
            host: "localhost".to_owned(),
            port: 9092,
            protocol: "PLAINTEXT".to_owned(),
        }],
        rack: None,
        clean_shutdown_of: None,
        directories: vec![],
    };
    let Ok(Outcome::Registered(epoch)) = state.apply(state.applied + 1, &Command::RegisterBroker(register))
    else {
        panic!("a broker can register")
    };
    state
        .apply(state.applied + 1, &Command::UnfenceBroker { broker, epoch })
        .unwrap();
}

/// A broker that is gone.
pub(crate) fn fence(state: &mut State, id: i32) {
    let broker = BrokerId::new(id);
    let epoch = state.brokers[&broker].epoch;
    state
        .apply(state.applied + 1, &Command::FenceBroker { broker, epoch })
        .unwrap();
}

/// Brokers, and a topic of one partition on all of them, the first of them preferred.
pub(crate) fn with_replicas(name: &str, replicas: &[i32]) -> State {
    let mut state = State::new("cluster");
    for id in replicas {
        add_broker(&mut state, *id, (*id).unsigned_abs().into());
    }
    let replicas = replicas.iter().copied().map(BrokerId::new).collect();
    create(&mut state, name, vec![replicas]);
    state
}

pub(crate) fn with_topic(name: &str, partitions: usize) -> State {
    let mut state = alone();
    add_topic(&mut state, name, partitions);
    state
}

pub(crate) fn add_topic(state: &mut State, name: &str, partitions: usize) {
    create(state, name, vec![vec![ME]; partitions]);
}

fn create(state: &mut State, name: &str, assignments: Vec<Vec<BrokerId>>) {
    let create = CreateTopic {
        name: TopicName::parse(name).unwrap(),
        topic_id: TopicId::new(Uuid::new_v4()),
        assignments,
        configs: Overrides::new(),
    };
    state
        .apply(state.applied + 1, &Command::CreateTopic(create))
        .unwrap();
}

/// Other replicas for a topic's first partition, and those that come are in sync at once.
pub(crate) fn reassign(state: &mut State, name: &str, replicas: &[i32]) {
    let replicas: Vec<_> = replicas.iter().copied().map(BrokerId::new).collect();
    let topic_id = state.topic_named(name).unwrap().id;
    let reassign = Reassign {
        topic_id,
        partition: 0,
        replicas: Some(replicas),
        any_replication_factor: true,
    };
    state
        .apply(state.applied + 1, &Command::Reassign(reassign))
        .unwrap();
    let partition = state.partition(topic_id, 0).unwrap();
    let leader = partition.leader.unwrap();
    let member = |id: &BrokerId| IsrMember {
        broker: *id,
        epoch: state.brokers[id].epoch,
    };
    let alter = AlterPartition {
        topic_id,
        partition: 0,
        broker: leader,
        broker_epoch: state.brokers[&leader].epoch,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        isr: partition.replicas.iter().map(member).collect(),
        recovering: false,
    };
    state
        .apply(state.applied + 1, &Command::AlterPartition(alter))
        .unwrap();
}

pub(crate) fn caller(version: i16) -> Caller {
    Caller {
        version,
        client_id: None,
        listener: 0,
        peer: ([127, 0, 0, 1], 50_000).into(),
        connection: 1,
    }
}
