//! A broker's configuration and a cluster of that one broker, for tests of what handlers decide.

use uuid::Uuid;
use varve_cluster::controller::command::{CreateTopic, RegisterBroker};
use varve_cluster::controller::{Command, Listener, Outcome, State};
use varve_cluster::topic_config::Overrides;
use varve_cluster::{BrokerId, TopicId, TopicName};

use super::Caller;
use crate::config::Config;

const ME: BrokerId = BrokerId::new(1);

pub(super) fn config(pairs: &[(&str, &str)]) -> Config {
    Config::from_properties(pairs).unwrap()
}

/// Broker 1, alone.
pub(super) fn alone() -> State {
    let mut state = State::new("cluster");
    let register = RegisterBroker {
        broker: ME,
        incarnation: Uuid::from_u128(1),
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
    let Ok(Outcome::Registered(epoch)) = state.apply(1, &Command::RegisterBroker(register)) else {
        panic!("the first broker can register")
    };
    state
        .apply(2, &Command::UnfenceBroker { broker: ME, epoch })
        .unwrap();
    state
}

pub(super) fn with_topic(name: &str, partitions: usize) -> State {
    let mut state = alone();
    add_topic(&mut state, name, partitions);
    state
}

pub(super) fn add_topic(state: &mut State, name: &str, partitions: usize) {
    let create = CreateTopic {
        name: TopicName::parse(name).unwrap(),
        topic_id: TopicId::new(Uuid::new_v4()),
        assignments: vec![vec![ME]; partitions],
        configs: Overrides::new(),
    };
    state
        .apply(state.applied + 1, &Command::CreateTopic(create))
        .unwrap();
}

pub(super) fn caller(version: i16) -> Caller {
    Caller {
        version,
        client_id: None,
        listener: 0,
        peer: ([127, 0, 0, 1], 50_000).into(),
        connection: 1,
    }
}
