//! Why an administrative request is refused: Kafka's error code for it, and words for whoever asked.

use kafka_protocol::protocol::StrBytes;
use varve_cluster::TopicName;
use varve_cluster::controller::placement::PlacementError;
use varve_cluster::controller::{Command, Rejected, State};
use varve_cluster::topic_config::ConfigError;

use crate::metadata::ProposeError;
use crate::wire::ErrorCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: ErrorCode,
    message: String,
}

impl Refusal {
    pub(super) fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub(super) fn message(&self) -> Option<StrBytes> {
        Some(StrBytes::from_string(self.message.clone()))
    }
}

/// The two fields every answer has: code and message of a refusal, or success.
pub(super) fn told<T>(result: &Result<T, Refusal>) -> (i16, Option<StrBytes>) {
    match result {
        Ok(_) => (ErrorCode::None.code(), None),
        Err(refusal) => (refusal.error.code(), refusal.message()),
    }
}

/// A topic's name, if it is one that Kafka would take.
pub(super) fn topic_name(name: &str) -> Result<TopicName, Refusal> {
    TopicName::parse(name).map_err(|error| Refusal::new(ErrorCode::InvalidTopicException, error.to_string()))
}

/// What metadata would be after `command`: finds every reason to refuse it without changing anything.
pub(super) fn rehearse(view: &State, command: &Command) -> Result<State, Refusal> {
    let mut after = view.clone();
    after.apply(view.applied + 1, command)?;
    Ok(after)
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejected) => rejected.into(),
            // Nothing has happened: clients look for the controller again and repeat.
            ProposeError::NotApplied(reason) => Self::new(ErrorCode::NotController, reason),
            // It may have happened: clients look before they repeat.
            ProposeError::Unknown(reason) => Self::new(ErrorCode::RequestTimedOut, reason),
        }
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        use ErrorCode as E;
        let error = match &rejected {
            Rejected::TopicExists(_) => E::TopicAlreadyExists,
            Rejected::NameCollides(_) => E::InvalidTopicException,
            Rejected::UnknownTopic(_) => E::UnknownTopicId,
            Rejected::UnknownPartition { .. } => E::UnknownTopicOrPartition,
            Rejected::NoPartitions => E::InvalidPartitions,
            Rejected::InvalidReplicas { .. } | Rejected::UnknownBroker(_) => E::InvalidReplicaAssignment,
            Rejected::Config(_) => E::InvalidConfig,
            Rejected::StaleBrokerEpoch { .. } => E::StaleBrokerEpoch,
            // None of these can answer a client's administrative command.
            Rejected::NotLeader { .. }
            | Rejected::StalePartitionEpoch { .. }
            | Rejected::Ineligible { .. }
            | Rejected::TierMoved { .. }
            | Rejected::TierGap { .. }
            | Rejected::TableFenced { .. }
            | Rejected::UnknownTable(_)
            | Rejected::TableMoved { .. }
            | Rejected::ProducerIdsExhausted => E::UnknownServerError,
        };
        Self::new(error, rejected.to_string())
    }
}

impl From<PlacementError> for Refusal {
    fn from(error: PlacementError) -> Self {
        Self::new(ErrorCode::InvalidReplicationFactor, error.to_string())
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorCode::InvalidConfig, error.to_string())
    }
}
