//! A small blocking Kafka client: what the commands and the quickstart need, and nothing a broker would need.
//!
//! It knows a cluster as any other client does, from its bootstrap address and Metadata, and goes to the leader of
//! each partition and the coordinator of each group. It works against any broker that speaks the protocol.

mod batches;
mod connection;
mod consumer;
mod error;
mod groups;
mod offsets;
mod producer;
mod topics;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};
use kafka_protocol::messages::{BrokerId, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

pub(crate) use batches::{Header, Record};
use connection::Connection;
pub(crate) use connection::Waits;
pub(crate) use consumer::{Consumer, FetchLimits, Fetched};
pub(crate) use error::{Error, Result};
pub(crate) use groups::{Group, Member};
pub(crate) use offsets::At;
pub(crate) use producer::{Acks, NewRecord, Producer, ProducerSettings, partition_of};
pub(crate) use topics::{ConfigEntry, NewTopic};

/// How long passing refusals (an election, a coordinator that loads) are waited out.
const PASSING_MAX: Duration = Duration::from_secs(15);
/// Between two attempts: short against an election, long against a loop that burns a core.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Client {
    bootstrap: Vec<String>,
    waits: Waits,
    /// The connection to whichever bootstrap address answered.
    first: Connection,
    addresses: BTreeMap<i32, String>,
    to_brokers: BTreeMap<i32, Connection>,
}

/// A topic as Metadata shows it.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// Nil when the broker is too old to tell.
    pub(crate) id: Uuid,
    pub(crate) internal: bool,
    /// In order of their numbers.
    pub(crate) partitions: Vec<Partition>,
}

#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub(crate) index: i32,
    pub(crate) leader: Option<i32>,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync: Vec<i32>,
}

impl Client {
    /// Connects to the first of the comma-separated `bootstrap` addresses that answers.
    pub(crate) fn connect(bootstrap: &str, waits: Waits) -> Result<Self> {
        let bootstrap: Vec<_> = bootstrap
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty())
            .map(with_port)
            .collect();
        let first = open_any(bootstrap.iter().cloned(), waits)?;
        let mut client = Self {
            bootstrap,
            waits,
            first,
            addresses: BTreeMap::new(),
            to_brokers: BTreeMap::new(),
        };
        client.ask_metadata(Some(&[]))?;
        Ok(client)
    }

    /// Every topic of the cluster.
    pub(crate) fn topics(&mut self) -> Result<Vec<Topic>> {
        let answer = self.ask_metadata(None)?;
        let mut topics = answer.topics.into_iter().map(topic).collect::<Result<Vec<_>>>()?;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic, once each of its partitions has a leader. It is never created by asking.
    pub(crate) fn topic(&mut self, name: &str) -> Result<Topic> {
        self.patiently(|client| {
            let topic = client.topic_now(name)?;
            match topic
                .partitions
                .iter()
                .find(|partition| partition.leader.is_none())
            {
                None => Ok(topic),
                Some(partition) => {
                    error::check(LEADER_NOT_AVAILABLE, || partition_name(name, partition.index))?;
                    Ok(topic)
                }
            }
        })
    }

    /// One topic as it is at this moment, leaders or not.
    pub(crate) fn topic_now(&mut self, name: &str) -> Result<Topic> {
        let answer = self.ask_metadata(Some(&[name]))?;
        match answer.topics.into_iter().next() {
            Some(found) => topic(found),
            None => Err(Error::Corrupt {
                subject: topic_name(name),
                reason: "the broker's metadata leaves it out".to_owned(),
            }),
        }
    }

    /// Repeats `ask` while the cluster says "not yet", for a while.
    fn patiently<T>(&mut self, mut ask: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            match ask(self) {
                Err(error) if error.is_passing() && begun.elapsed() < PASSING_MAX => pause(PAUSE),
                outcome => return outcome,
            }
        }
    }

    /// A connection for questions any broker answers, or passes on.
    fn any(&mut self) -> &mut Connection {
        &mut self.first
    }

    /// The connection to one broker, opened when first needed.
    fn broker(&mut self, id: i32) -> Result<&mut Connection> {
        // An entry is not looked up by `entry()`: opening may fail, and must then leave nothing behind.
        if !self.to_brokers.contains_key(&id) {
            let connection = self.open_broker(id)?;
            self.to_brokers.insert(id, connection);
        }
        match self.to_brokers.get_mut(&id) {
            Some(connection) => Ok(connection),
            None => Err(unknown_broker(id)),
        }
    }

    /// A connection of the caller's own, for requests that run side by side with others.
    fn open_broker(&mut self, id: i32) -> Result<Connection> {
        match self.addresses.get(&id) {
            Some(address) => Connection::open(address, self.waits),
            None => Err(unknown_broker(id)),
        }
    }

    /// Drops a connection that failed; the next use opens another.
    fn forget(&mut self, id: i32) {
        self.to_brokers.remove(&id);
    }

    fn ask_metadata(&mut self, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        let topics = topics.map(|names| {
            let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_key(name)));
            names.iter().map(topic).collect()
        });
        let request = MetadataRequest::default()
            .with_topics(topics)
            .with_allow_auto_topic_creation(false);
        let answer = match self.first.call(&request) {
            Err(Error::Lost { .. }) => {
                // Asking twice changes nothing, and the connection may only have been idle for too long.
                let known = self.bootstrap.iter().chain(self.addresses.values()).cloned();
                self.first = open_any(known, self.waits)?;
                self.first.call(&request)?
            }
            outcome => outcome?,
        };
        for broker in &answer.brokers {
            let address = format!("{}:{}", host(&broker.host), broker.port);
            if self.addresses.insert(broker.node_id.0, address.clone()) != Some(address) {
                self.to_brokers.remove(&broker.node_id.0);
            }
        }
        Ok(answer)
    }
}

const LEADER_NOT_AVAILABLE: i16 = 5;

/// Waits between two attempts of a command: nobody simulates a command line's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the command line is a person's process: it may sleep"
)]
pub(crate) fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// How messages name a topic.
pub(crate) fn topic_name(topic: &str) -> String {
    format!("topic '{topic}'")
}

/// How messages name a partition.
pub(crate) fn partition_name(topic: &str, index: i32) -> String {
    format!("partition {topic}-{index}")
}

fn topic_key(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn topic(found: MetadataResponseTopic) -> Result<Topic> {
    let name = found.name.map(|name| name.to_string()).unwrap_or_default();
    match found.error_code {
        // "No leader yet" is told partition by partition below.
        LEADER_NOT_AVAILABLE => {}
        code => error::check(code, || topic_name(&name))?,
    }
    let ids = |brokers: Vec<BrokerId>| brokers.into_iter().map(|id| id.0).collect();
    let partition =
        |found: kafka_protocol::messages::metadata_response::MetadataResponsePartition| Partition {
            index: found.partition_index,
            leader: Some(found.leader_id.0).filter(|id| *id >= 0),
            replicas: ids(found.replica_nodes),
            in_sync: ids(found.isr_nodes),
        };
    let mut partitions: Vec<_> = found.partitions.into_iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.index);
    Ok(Topic {
        name,
        id: found.topic_id,
        internal: found.is_internal,
        partitions,
    })
}

fn open_any(addresses: impl Iterator<Item = String>, waits: Waits) -> Result<Connection> {
    let mut failure = Error::Usage("no address to connect to: pass --bootstrap-server HOST:PORT".to_owned());
    for address in addresses {
        match Connection::open(&address, waits) {
            Ok(connection) => return Ok(connection),
            // The first failure is the telling one: it is about the address that was asked for.
            Err(error) if matches!(failure, Error::Usage(_)) => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn unknown_broker(id: i32) -> Error {
    Error::Corrupt {
        subject: format!("broker {id}"),
        reason: "the cluster names it as a leader but does not say where it is".to_owned(),
    }
}

/// A bare host name means Kafka's own port.
fn with_port(address: &str) -> String {
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| {
        !port.is_empty()
            && port.bytes().all(|digit| digit.is_ascii_digit())
            && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port {
        address.to_owned()
    } else {
        format!("{}:9092", host(address))
    }
}

/// An IPv6 address needs brackets before a port.
fn host(name: &str) -> String {
    if name.contains(':') && !name.starts_with('[') {
        format!("[{name}]")
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests;
