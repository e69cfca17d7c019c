//! What can go wrong between this client and a cluster, told so that a person knows what to do next.
//!
//! One variant per different reaction. The first question about anything that was sent is whether it may have
//! happened: [`Error::Lost`] says "perhaps", every other variant says "no".

use std::fmt;
use std::io;

use kafka_protocol::error::ResponseError;

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody listens there: nothing was sent.
    #[error(
        "no broker answers at {address} ({cause}): start one with `varve server --config FILE`, or name \
         another with --bootstrap-server HOST:PORT"
    )]
    Unreachable { address: String, cause: io::Error },

    /// The connection ended, or went silent, with a request under way. It may have happened.
    #[error(
        "the broker at {address} stopped answering ({cause}): look at its log, then look whether the \
         command took effect before repeating it"
    )]
    Lost { address: String, cause: io::Error },

    /// Something answers, but not in Kafka's protocol.
    #[error("what listens at {address} does not speak Kafka's protocol ({reason}): check the port")]
    NotABroker { address: String, reason: String },

    /// The broker is too old, or does not offer this.
    #[error("the broker at {address} does not offer {request}: {advice}")]
    NotOffered {
        address: String,
        request: &'static str,
        advice: &'static str,
    },

    /// The broker understood and declined. Nothing happened, unless the code itself says otherwise.
    #[error("{0}")]
    Refused(Refusal),

    /// What the broker sent cannot be right: stored records damaged, or an answer that contradicts the question.
    #[error("{subject}: {reason}")]
    Corrupt { subject: String, reason: String },

    /// What the person asked for cannot be asked of a broker.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Whether the same question may soon be answered: an election, a coordinator still loading.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_passing(),
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::NotABroker { .. }
            | Self::NotOffered { .. }
            | Self::Corrupt { .. }
            | Self::Usage(_) => false,
        }
    }

    /// Whether the broker declined with exactly this code.
    pub(crate) fn is_refused_with(&self, code: ResponseError) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == code)
    }
}

/// A broker's "no": about what, which code, and the broker's own words if it had any.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) subject: String,
    pub(crate) code: ResponseError,
    pub(crate) words: Option<String>,
}

impl Refusal {
    fn is_passing(&self) -> bool {
        // An unknown topic is retriable for Kafka (metadata may lag) but not for a person who mistyped a name.
        self.code.is_retriable()
            && !matches!(
                self.code,
                ResponseError::UnknownTopicOrPartition | ResponseError::CorruptMessage
            )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.subject, advice(self.code))?;
        if let Some(words) = self.words.as_deref().filter(|words| !words.is_empty()) {
            write!(out, " (the broker says: {})", words.trim_end_matches('.'))?;
        }
        Ok(())
    }
}

/// Turns the code in a response into a result.
pub(crate) fn check(code: i16, subject: impl FnOnce() -> String) -> Result<()> {
    check_with(code, None, subject)
}

/// Like [`check`], for responses that carry the broker's own words beside the code.
pub(crate) fn check_with(code: i16, words: Option<&str>, subject: impl FnOnce() -> String) -> Result<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(code) => {
            let words = words.map(ToOwned::to_owned);
            Err(Error::Refused(Refusal {
                subject: subject(),
                code,
                words,
            }))
        }
    }
}

/// The sentence for a code: what it means here, and what to do about it.
fn advice(code: ResponseError) -> String {
    let text = match code {
        ResponseError::UnknownTopicOrPartition | ResponseError::UnknownTopicId => {
            "it does not exist; `varve topic list` shows what does"
        }
        ResponseError::TopicAlreadyExists => {
            "it exists already; choose another name, or pass --if-not-exists to accept it as it is"
        }
        ResponseError::InvalidTopicException => {
            "not a legal topic name; use up to 249 of letters, digits, '.', '_' and '-'"
        }
        ResponseError::InvalidPartitions => "not a possible number of partitions; it can only grow",
        ResponseError::InvalidReplicationFactor => {
            "there are fewer live brokers than replicas asked for; lower --replication-factor or start more"
        }
        ResponseError::InvalidConfig => {
            "a configuration is not accepted; `varve topic describe` shows keys and values"
        }
        ResponseError::OffsetOutOfRange => {
            "there is no such offset any more, or not yet; `varve topic describe` shows the range"
        }
        ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge => {
            "larger than the topic takes; raise its max.message.bytes with `varve topic alter`"
        }
        ResponseError::GroupIdNotFound => "there is no such group; `varve group list` shows what there is",
        ResponseError::NonEmptyGroup | ResponseError::UnknownMemberId => {
            "the group has live members; stop its consumers first"
        }
        ResponseError::GroupSubscribedToTopic => "the group's members read this topic; stop them first",
        ResponseError::TopicAuthorizationFailed
        | ResponseError::GroupAuthorizationFailed
        | ResponseError::ClusterAuthorizationFailed => "not permitted for this user; ask for an ACL",
        ResponseError::InvalidRecord => {
            "the broker does not take such a record; a compacted topic needs keys"
        }
        ResponseError::InvalidTimestamp => {
            "a timestamp is too far from the broker's clock; see message.timestamp.after.max.ms"
        }
        ResponseError::NotEnoughReplicas => {
            "too few replicas are in sync; wait for brokers, or lower min.insync.replicas"
        }
        ResponseError::NotEnoughReplicasAfterAppend => {
            "written, but to fewer replicas than min.insync.replicas asks for"
        }
        ResponseError::LeaderNotAvailable | ResponseError::NotLeaderOrFollower => {
            "no leader right now; try again when its brokers are up"
        }
        ResponseError::CoordinatorNotAvailable | ResponseError::CoordinatorLoadInProgress => {
            "its coordinator is not ready yet; try again in a moment"
        }
        ResponseError::KafkaStorageError => "the broker cannot use its disk; look at its log",
        ResponseError::RequestTimedOut => "not finished in time; look whether it took effect, then try again",
        other => return format!("{other} (Kafka error {})", other.code()),
    };
    format!("{text} (Kafka error {})", code.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_zero_is_no_error() {
        assert!(check(0, || "never asked".to_owned()).is_ok());
    }

    #[test]
    fn a_refusal_names_its_subject_what_to_do_and_the_brokers_words() {
        let error = check_with(38, Some("replication factor 3 > 1."), || {
            "topic 'orders'".to_owned()
        });

        let text = error.map_or_else(|error| error.to_string(), |()| String::new());

        assert!(
            text.starts_with("topic 'orders': there are fewer live brokers"),
            "{text}"
        );
        assert!(
            text.ends_with("(the broker says: replication factor 3 > 1)"),
            "{text}"
        );
    }

    #[test]
    fn an_election_passes_but_a_mistyped_topic_does_not() {
        let passing = |code| check(code, String::new).is_err_and(|error| error.is_passing());

        assert!(passing(ResponseError::LeaderNotAvailable.code()));
        assert!(!passing(ResponseError::UnknownTopicOrPartition.code()));
    }
}
