//! Why an administrative request is refused: Kafka's error code for it, and words for whoever asked.

use kafka_protocol::protocol::StrBytes;
use varve_cluster::controller::placement::PlacementError;
use varve_cluster::controller::{Command, Rejected, State};
use varve_cluster::topic_config::ConfigError;
use varve_cluster::{TopicName, TopicNameError};

use crate::metadata::ProposeError;
use crate::wire::ErrorCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: ErrorCode,
    message: String,
}

impl Refusal {
    pub(super) fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
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
    let parsed = TopicName::parse(name);
    parsed.map_err(|error| {
        let reason = match error {
            TopicNameError::Empty => "the empty string is not allowed".to_owned(),
            TopicNameError::Reserved => format!("'{name}' is not allowed"),
            TopicNameError::TooLong => {
                format!("the length of '{name}' is longer than the max allowed length 249")
            }
            TopicNameError::Characters => format!(
                "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
            ),
        };
        Refusal::new(
            ErrorCode::InvalidTopicException,
            format!("Topic name is invalid: {reason}"),
        )
    })
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
        let error = match rejected {
            Rejected::Config(error) => return error.into(),
            // A client learns of brokers only by assigning replicas to them.
            Rejected::UnknownBroker(broker) => {
                return Self::new(
                    E::InvalidReplicaAssignment,
                    format!(
                        "The manual partition assignment includes broker {broker}, but no such broker is registered."
                    ),
                );
            }
            Rejected::TopicExists(_) => E::TopicAlreadyExists,
            Rejected::NameCollides(_) => E::InvalidTopicException,
            Rejected::UnknownTopic(_) => E::UnknownTopicId,
            Rejected::UnknownPartition { .. } => E::UnknownTopicOrPartition,
            Rejected::NoPartitions => E::InvalidPartitions,
            Rejected::InvalidReplicas { .. } => E::InvalidReplicaAssignment,
            Rejected::StaleBrokerEpoch { .. } => E::StaleBrokerEpoch,
            Rejected::ElectionNotNeeded { .. } => E::ElectionNotNeeded,
            Rejected::PreferredLeaderUnavailable { .. } => E::PreferredLeaderNotAvailable,
            Rejected::NoEligibleLeader { .. } => E::EligibleLeadersNotAvailable,
            Rejected::NoReassignment => E::NoReassignmentInProgress,
            Rejected::ReplicationFactorChanges { .. } => E::InvalidReplicationFactor,
            // None of these can answer a client's administrative command.
            Rejected::NotLeader { .. }
            | Rejected::StalePartitionEpoch { .. }
            | Rejected::Ineligible { .. }
            | Rejected::ShuttingDown(_)
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
        let message = match error {
            PlacementError::NoReplicas => {
                "Replication factor must be larger than 0, or -1 to use the default value.".to_owned()
            }
            PlacementError::TooFewBrokers { wanted, alive } => format!(
                "Unable to replicate the partition {wanted} time(s): The target replication factor of {wanted} \
                 cannot be reached because only {alive} broker(s) are registered."
            ),
        };
        Self::new(ErrorCode::InvalidReplicationFactor, message)
    }
}

/// In Kafka's words, which tools print and people search for.
impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        let message = match &error {
            ConfigError::Unknown { key } => format!("Unknown topic config name: {key}"),
            ConfigError::Invalid { key, value, reason } => {
                format!("Invalid value {value} for configuration {key}: {reason}")
            }
            ConfigError::Contradiction { .. } => error.to_string(),
        };
        Self::new(ErrorCode::InvalidConfig, message)
    }
}
