//! One suite, two catalogs: the simulated one, and the pointer as the cluster's own metadata state keeps it.

use async_trait::async_trait;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;
use varve_cluster::controller::command::{CommitTable, CreateTopic, RegisterBroker};
use varve_cluster::controller::{Command, Outcome, Rejected, State};
use varve_cluster::{BrokerEpoch, BrokerId, TopicId, TopicName};
use varve_lakehouse_sink::catalog::simulated::SimulatedCatalog;
use varve_lakehouse_sink::catalog::{
    Catalog, LoadError, Pointer, SwapError, TableVersion, WriterEpoch, suite,
};

#[tokio::test]
async fn the_simulated_catalog_passes_the_suite() {
    suite::run(&Simulated(SimulatedCatalog::default(), AtomicU64::new(0))).await;
}

#[tokio::test]
async fn the_metadata_state_passes_the_suite() {
    suite::run(&Metadata::new()).await;
}

struct Simulated(SimulatedCatalog, AtomicU64);

#[async_trait]
impl suite::Bench for Simulated {
    fn catalog(&self) -> &dyn Catalog {
        &self.0
    }

    async fn new_topic(&self) -> TopicId {
        TopicId::new(Uuid::from_u128(self.1.fetch_add(1, Ordering::Relaxed).into()))
    }

    async fn acquire(&self, topic_id: TopicId) -> WriterEpoch {
        self.0.acquire(topic_id)
    }
}

/// The state machine of the metadata quorum, applied directly.
struct Metadata {
    state: Mutex<State>,
    broker_epoch: BrokerEpoch,
}

const BROKER: BrokerId = BrokerId::new(1);

impl Metadata {
    fn new() -> Self {
        let mut state = State::new("cluster");
        let register = Command::RegisterBroker(RegisterBroker {
            broker: BROKER,
            incarnation: Uuid::from_u128(1),
            listeners: vec![],
            rack: None,
            clean_shutdown_of: None,
            directories: vec![],
        });
        let Ok(Outcome::Registered(broker_epoch)) = state.apply(1, &register) else {
            panic!("a broker can register")
        };
        state
            .apply(
                2,
                &Command::UnfenceBroker {
                    broker: BROKER,
                    epoch: broker_epoch,
                },
            )
            .unwrap();
        Self {
            state: Mutex::new(state),
            broker_epoch,
        }
    }

    fn apply(&self, command: &Command) -> Result<Outcome, Rejected> {
        let mut state = self.state.lock().unwrap();
        let index = state.applied + 1;
        state.apply(index, command)
    }
}

#[async_trait]
impl Catalog for Metadata {
    async fn load(&self, topic_id: TopicId) -> Result<Option<Pointer>, LoadError> {
        let state = self.state.lock().unwrap();
        Ok(state.tables.get(&topic_id).and_then(|table| {
            let metadata_location = table.metadata_location.clone()?;
            Some(Pointer {
                version: TableVersion::new(table.version),
                metadata_location,
            })
        }))
    }

    async fn commit_if_unchanged(
        &self,
        topic_id: TopicId,
        epoch: WriterEpoch,
        expected: TableVersion,
        metadata_location: &str,
    ) -> Result<TableVersion, SwapError> {
        let commit = CommitTable {
            topic_id,
            epoch: epoch.value(),
            expected_version: expected.value(),
            metadata_location: metadata_location.to_owned(),
        };
        match self.apply(&Command::CommitTable(commit)) {
            Ok(Outcome::TableCommitted { version }) => Ok(TableVersion::new(version)),
            Err(Rejected::TableFenced { .. } | Rejected::UnknownTable(_)) => Err(SwapError::Fenced),
            Err(Rejected::TableMoved { .. }) => Err(SwapError::Conflict),
            other => panic!("not an answer to a table commit: {other:?}"),
        }
    }
}

#[async_trait]
impl suite::Bench for Metadata {
    fn catalog(&self) -> &dyn Catalog {
        self
    }

    async fn new_topic(&self) -> TopicId {
        let number = self.state.lock().unwrap().applied;
        let topic_id = TopicId::new(Uuid::from_u128(number.into()));
        let create = Command::CreateTopic(CreateTopic {
            name: TopicName::parse(&format!("topic-{number}")).unwrap(),
            topic_id,
            assignments: vec![vec![BROKER]],
            configs: Default::default(),
        });
        self.apply(&create).unwrap();
        topic_id
    }

    async fn acquire(&self, topic_id: TopicId) -> WriterEpoch {
        let first = self.state.lock().unwrap().partition(topic_id, 0).cloned();
        let acquire = Command::AcquireTable {
            topic_id,
            broker: BROKER,
            epoch: self.broker_epoch,
            leader_epoch: first.unwrap().leader_epoch,
        };
        match self.apply(&acquire) {
            Ok(Outcome::TableAcquired { epoch, .. }) => WriterEpoch::new(epoch),
            other => panic!("not an answer to an acquire: {other:?}"),
        }
    }
}
