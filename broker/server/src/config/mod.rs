//! From what was typed to what is meant: `server.properties` with Kafka's keys → [`Config`].
//!
//! A key that is unknown, or that would have no effect here, is refused by name; nothing is ignored in silence.
//! Flags (`KEY=VALUE`) win over the environment, which wins over the file, which wins over the defaults in [`keys`].

pub mod keys;
mod listener;

pub use listener::{Advertised, Listener, Voter};

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Most partitions one request may make: Kafka's own limit. What is asked for in one number may not cost without bound.
pub(crate) const PARTITIONS_MAX: i32 = 10_000;

/// Why a configuration cannot be used; the text names the key and says what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file cannot be read: {1}. file={0}")]
    Unreadable(PathBuf, std::io::Error),
    /// A line that is not `key=value`.
    #[error("not a key=value line: write KEY=VALUE. where={0}")]
    NotAProperty(String),
    /// Keys nobody knows, or that would have no effect: all there are, so that one start tells them.
    #[error(
        "unknown configuration keys, or without effect in Varve: remove them or correct their names. keys={}",
        .0.join(", ")
    )]
    UnknownKeys(Vec<String>),
    /// A value that the key cannot take.
    #[error("bad value: {reason}. key={key}, value={value}")]
    BadValue {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What it should be.
        reason: String,
    },
}

/// When a produce request counts as written (`varve.flush`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// The write has returned: survives the end of the process, not a power cut. Apache Kafka's own durability.
    Os,
    /// The data is on stable storage.
    Group,
}

/// The bucket, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketSettings {
    /// `s3://name/prefix` or `file:///path`.
    pub url: String,
    /// URL of the S3 server, if not the standard one.
    pub endpoint: Option<String>,
    /// Region, if not the environment's.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path; `None`: as the endpoint suggests.
    pub path_style: Option<bool>,
}

/// What consumer groups may ask for.
#[derive(Debug, Clone, Copy)]
pub struct GroupSettings {
    /// How long the first rebalance waits.
    pub initial_rebalance_delay: Duration,
    /// Shortest session.
    pub session_timeout_min: Duration,
    /// Longest session.
    pub session_timeout_max: Duration,
    /// Most members.
    pub size_max: usize,
    /// How long offsets of an empty group are kept.
    pub offsets_retention: Duration,
    /// How often expired offsets are looked for.
    pub offsets_retention_check: Duration,
    /// Partitions of `__consumer_offsets`.
    pub offsets_partitions: i32,
    /// Its replicas.
    pub offsets_replication_factor: i16,
}

/// Everything a node needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node_id: i32,
    /// The cluster an empty directory is formatted for; drawn if absent.
    pub cluster_id: Option<String>,
    /// Who orders the metadata, and how long they wait for each other.
    pub quorum: QuorumSettings,
    /// A follower this far behind in time leaves the ISR.
    pub replica_lag_max: Duration,
    /// Index of the listener other brokers use.
    pub inter_broker_listener: usize,
    /// Client listeners, at least one.
    pub listeners: Vec<Listener>,
    /// What clients are told, one for each listener.
    pub advertised: Vec<Advertised>,
    /// Rack told to clients.
    pub rack: Option<String>,
    /// Data directories, at least one.
    pub log_dirs: Vec<PathBuf>,
    /// Data-plane threads.
    pub shards: usize,
    /// Partitions of a topic created without a number.
    pub partitions_default: i32,
    /// Replicas of a topic created without a number.
    pub replication_factor_default: i16,
    /// Whether asking for a topic may create it.
    pub auto_create_topics: bool,
    /// Whether topics may be deleted.
    pub delete_topics: bool,
    /// Largest request.
    pub request_bytes_max: usize,
    /// What the requests of all connections may take together.
    pub request_memory_bytes: usize,
    /// Most record bytes in a fetch answer.
    pub fetch_bytes_max: usize,
    /// A connection silent for so long is closed.
    pub idle_timeout: Duration,
    /// How often retention runs.
    pub retention_check: Duration,
    /// How long a silent producer's state is kept.
    pub producer_expiration: Duration,
    /// Consumer groups.
    pub groups: GroupSettings,
    /// When a produce request counts as written.
    pub flush: Flush,
    /// Where history lives.
    pub bucket: Option<BucketSettings>,
    /// Memory for chunks from the bucket, bytes.
    pub cache_memory_bytes: usize,
    /// What cold reads may have on the way or waiting.
    pub read_memory_bytes: usize,
    /// What uploads may hold.
    pub upload_memory_bytes: usize,
    /// Disk for chunks from the bucket, bytes; 0 for none.
    pub cache_disk_bytes: usize,
    /// Where that disk cache lives.
    pub cache_dir: PathBuf,
    /// host:port of metrics and health.
    pub http_listener: Option<String>,
    /// What was given, by key: static broker values for DescribeConfigs and defaults for topics.
    pub given: BTreeMap<String, String>,
}

/// The metadata quorum, and brokers as its leader sees them.
#[derive(Debug, Clone)]
pub struct QuorumSettings {
    /// All of them, this node too; empty when this node is its own quorum.
    pub voters: Vec<Voter>,
    /// Where the others reach this one.
    pub listener: Option<Listener>,
    /// How long to wait for votes.
    pub election_timeout: Duration,
    /// How long the quorum's leader may be silent.
    pub fetch_timeout: Duration,
    /// How often a broker says that it is alive.
    pub heartbeat_interval: Duration,
    /// How long a broker may be silent.
    pub session_timeout: Duration,
    /// How leaderships go back to preferred replicas; `None`: only when an operator asks for it.
    pub balance: Option<LeaderBalance>,
}

/// See [`QuorumSettings::balance`].
#[derive(Debug, Clone, Copy)]
pub struct LeaderBalance {
    /// How often it is looked at.
    pub every: Duration,
    /// So many of a hundred may be led by others.
    pub percentage: u32,
}

impl Config {
    /// Reads a file of properties, the environment and flags, in this order of rising weight.
    pub fn load(file: Option<&Path>, flags: &[String]) -> Result<Self, ConfigError> {
        let mut given = BTreeMap::new();
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|e| ConfigError::Unreadable(path.to_owned(), e))?;
            given.extend(parse_properties(&text, &path.display().to_string())?);
        }
        given.extend(from_environment(&|name| std::env::var(name).ok()));
        for flag in flags {
            let (key, value) = property(flag).ok_or_else(|| ConfigError::NotAProperty(flag.clone()))?;
            given.insert(key, value);
        }
        Self::from_given(given)
    }

    /// From pairs alone: no file, no environment.
    pub fn from_properties(pairs: &[(&str, &str)]) -> Result<Self, ConfigError> {
        Self::from_given(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    fn from_given(given: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut unknown = vec![];
        for (key, value) in &given {
            if !is_known(key, value)? {
                unknown.push(key.clone());
            }
        }
        if !unknown.is_empty() {
            return Err(ConfigError::UnknownKeys(unknown));
        }
        let read = Reader(&given);
        check_roles(&read)?;
        check_dynamic(&given)?;
        let node_id = read.at_least("node.id", 0)?;
        let listeners = listener::parse(&read)?;
        let advertised = listener::advertised(&read, &listeners)?;
        let log_dirs: Vec<PathBuf> = match given.get("log.dirs").or_else(|| given.get("log.dir")) {
            Some(dirs) => list(dirs).into_iter().map(PathBuf::from).collect(),
            None => vec![PathBuf::from(read.text("log.dirs"))],
        };
        let Some(first_dir) = log_dirs.first().cloned() else {
            return Err(bad("log.dirs", "", "name at least one directory"));
        };
        Ok(Self {
            node_id,
            cluster_id: given.get("cluster.id").cloned(),
            inter_broker_listener: listener::inter_broker(&read, &listeners),
            listeners,
            advertised,
            quorum: quorum_settings(&read, node_id)?,
            replica_lag_max: read.millis("replica.lag.time.max.ms")?,
            rack: given.get("broker.rack").cloned(),
            log_dirs,
            shards: match given.get("num.network.threads") {
                Some(_) => read.at_least("num.network.threads", 1)?,
                None => std::thread::available_parallelism().map_or(1, Into::into),
            },
            partitions_default: read.within("num.partitions", 1..=PARTITIONS_MAX)?,
            replication_factor_default: read.at_least("default.replication.factor", 1)?,
            auto_create_topics: read.get("auto.create.topics.enable")?,
            delete_topics: read.get("delete.topic.enable")?,
            request_bytes_max: read.at_least("socket.request.max.bytes", 1024)?,
            request_memory_bytes: request_memory_bytes(&read)?,
            fetch_bytes_max: read.at_least("fetch.max.bytes", 1024)?,
            idle_timeout: read.millis("connections.max.idle.ms")?,
            retention_check: read.millis("log.retention.check.interval.ms")?,
            producer_expiration: read.millis("producer.id.expiration.ms")?,
            groups: group_settings(&read)?,
            flush: match read.text("varve.flush").as_str() {
                "os" => Flush::Os,
                "group" => Flush::Group,
                other => return Err(bad("varve.flush", other, "write os or group")),
            },
            bucket: bucket_settings(&read)?,
            read_memory_bytes: read.at_least("varve.read.memory.bytes", 16 << 20)?,
            upload_memory_bytes: read.at_least("varve.upload.memory.bytes", 68 << 20)?,
            cache_memory_bytes: read.at_least("varve.cache.memory.bytes", 0)?,
            cache_disk_bytes: read.at_least("varve.cache.disk.bytes", 0)?,
            cache_dir: given
                .get("varve.cache.dir")
                .map_or_else(|| first_dir.join("varve-cache"), PathBuf::from),
            http_listener: Some(read.text("varve.http.listener")).filter(|listener| listener != "none"),
            given,
        })
    }
}

fn is_known(key: &str, value: &str) -> Result<bool, ConfigError> {
    if keys::find(key).is_some() {
        return Ok(true);
    }
    match varve_cluster::topic_config::check_broker_default(key, value) {
        None => Ok(false),
        Some(Ok(())) => Ok(true),
        Some(Err(reason)) => Err(bad(key, value, &reason)),
    }
}

/// Keys that are read where they are needed, because they may change while the broker runs; and what only the cluster as a
/// whole can decide.
fn check_dynamic(given: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (key, value) in given {
        if let Some(Err(reason)) = keys::check_dynamic(key, value) {
            return Err(bad(key, value, reason));
        }
        if let Some(reason) = keys::not_one_brokers(key, value) {
            return Err(bad(key, value, reason));
        }
    }
    Ok(())
}

fn check_roles(read: &Reader<'_>) -> Result<(), ConfigError> {
    let text = read.text("process.roles");
    let mut roles = list(&text);
    roles.sort();
    if roles == ["broker", "controller"] {
        return Ok(());
    }
    Err(bad(
        "process.roles",
        &text,
        "one node is both: write broker,controller",
    ))
}

fn quorum_settings(read: &Reader<'_>, node_id: i32) -> Result<QuorumSettings, ConfigError> {
    let voters = listener::voters(read, node_id)?;
    Ok(QuorumSettings {
        listener: listener::controller(read, &voters)?,
        voters,
        election_timeout: read.millis("controller.quorum.election.timeout.ms")?,
        fetch_timeout: read.millis("controller.quorum.fetch.timeout.ms")?,
        heartbeat_interval: read.millis("broker.heartbeat.interval.ms")?,
        session_timeout: read.millis("broker.session.timeout.ms")?,
        balance: leader_balance(read)?,
    })
}

fn leader_balance(read: &Reader<'_>) -> Result<Option<LeaderBalance>, ConfigError> {
    let balance = LeaderBalance {
        every: Duration::from_secs(read.at_least("leader.imbalance.check.interval.seconds", 1)?),
        percentage: read.at_least("leader.imbalance.per.broker.percentage", 0)?,
    };
    let is_on: bool = read.get("auto.leader.rebalance.enable")?;
    Ok(is_on.then_some(balance))
}

fn group_settings(read: &Reader<'_>) -> Result<GroupSettings, ConfigError> {
    let minutes: u64 = read.at_least("offsets.retention.minutes", 1)?;
    Ok(GroupSettings {
        initial_rebalance_delay: read.millis("group.initial.rebalance.delay.ms")?,
        session_timeout_min: read.millis("group.min.session.timeout.ms")?,
        session_timeout_max: read.millis("group.max.session.timeout.ms")?,
        size_max: read.at_least("group.max.size", 1)?,
        offsets_retention: Duration::from_secs(minutes * 60),
        offsets_retention_check: read.millis("offsets.retention.check.interval.ms")?,
        offsets_partitions: read.within("offsets.topic.num.partitions", 1..=PARTITIONS_MAX)?,
        offsets_replication_factor: read.at_least("offsets.topic.replication.factor", 1)?,
    })
}

fn bucket_settings(read: &Reader<'_>) -> Result<Option<BucketSettings>, ConfigError> {
    let Some(url) = read.0.get("varve.bucket") else {
        return Ok(None);
    };
    if !url.starts_with("s3://") && !url.starts_with("file:///") {
        return Err(bad("varve.bucket", url, "write s3://name/prefix or file:///path"));
    }
    Ok(Some(BucketSettings {
        url: url.clone(),
        endpoint: read.0.get("varve.bucket.endpoint").cloned(),
        region: read.0.get("varve.bucket.region").cloned(),
        path_style: match read.given("varve.bucket.path.style") {
            Some(_) => Some(read.get("varve.bucket.path.style")?),
            None => None,
        },
    }))
}

/// Values by key, falling back to the table's defaults.
pub(crate) struct Reader<'a>(&'a BTreeMap<String, String>);

impl Reader<'_> {
    pub(crate) fn given(&self, key: &str) -> Option<&String> {
        self.0.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> String {
        let default = || {
            keys::find(key)
                .and_then(|k| k.default)
                .unwrap_or_default()
                .to_owned()
        };
        self.0.get(key).cloned().unwrap_or_else(default)
    }

    fn get<T: FromStr>(&self, key: &str) -> Result<T, ConfigError> {
        let text = self.text(key);
        text.parse()
            .map_err(|_unparsable: T::Err| bad(key, &text, &format!("write a {}", kind_name(key))))
    }

    fn at_least<T: FromStr + PartialOrd + std::fmt::Display>(
        &self,
        key: &str,
        min: T,
    ) -> Result<T, ConfigError> {
        let value = self.get(key)?;
        if value < min {
            return Err(bad(key, &self.text(key), &format!("must be at least {min}")));
        }
        Ok(value)
    }

    fn within(&self, key: &str, range: RangeInclusive<i32>) -> Result<i32, ConfigError> {
        let value = self.at_least(key, *range.start())?;
        if value > *range.end() {
            let reason = format!("must be at most {}", range.end());
            return Err(bad(key, &self.text(key), &reason));
        }
        Ok(value)
    }

    fn millis(&self, key: &str) -> Result<Duration, ConfigError> {
        Ok(Duration::from_millis(self.at_least(key, 0)?))
    }
}

/// Kafka's rule: no limit, or room for the largest request.
fn request_memory_bytes(read: &Reader<'_>) -> Result<usize, ConfigError> {
    let key = "queued.max.request.bytes";
    match read.get::<i64>(key)? {
        -1 => Ok(usize::MAX),
        _ => read.at_least(key, read.get("socket.request.max.bytes")?),
    }
}

fn kind_name(key: &str) -> &'static str {
    match keys::find(key).map(|k| k.kind) {
        Some(keys::Kind::Boolean) => "true or false",
        Some(keys::Kind::Int | keys::Kind::Long) => "whole number in its range",
        Some(keys::Kind::String | keys::Kind::List) | None => "text",
    }
}

pub(crate) fn bad(key: &str, value: &str, reason: &str) -> ConfigError {
    ConfigError::BadValue {
        key: key.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Comma-separated, trimmed, without empty parts.
pub(crate) fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Java's properties format as far as `server.properties` uses it: comments with # or !, `key=value` or `key: value`,
/// lines continued with a backslash.
fn parse_properties(text: &str, file: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next.trim());
        }
        let (key, value) =
            property(&line).ok_or_else(|| ConfigError::NotAProperty(format!("{file}:{}", number + 1)))?;
        found.insert(key, value);
    }
    Ok(found)
}

fn property(line: &str) -> Option<(String, String)> {
    let at = line.find(['=', ':'])?;
    let key = line[..at].trim();
    (!key.is_empty()).then(|| (key.to_owned(), line[at + 1..].trim().to_owned()))
}

fn from_environment(lookup: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let topic_defaults = varve_cluster::topic_config::broker_default_keys();
    let names = keys::KEYS.iter().map(|key| key.name).chain(topic_defaults);
    names
        .filter_map(|name| Some((name.to_owned(), lookup(&keys::environment_name(name))?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_combined_mode_file_is_understood() {
        let text = "# a comment\nprocess.roles=broker,controller\nnode.id=7\ncontroller.quorum.voters=7@localhost:9093\n\
                    listeners=PLAINTEXT://:9092,CONTROLLER://:9093\nadvertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
                    controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs=/data/a, \\\n  /data/b\nlog.retention.hours=1\n";
        let config = Config::from_given(parse_properties(text, "test").unwrap()).unwrap();
        assert_eq!(config.node_id, 7);
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.advertised[0].port, 9092);
        assert_eq!(
            config.log_dirs,
            [PathBuf::from("/data/a"), PathBuf::from("/data/b")]
        );
    }

    #[test]
    fn a_key_without_effect_is_refused_by_name() {
        let error = Config::from_properties(&[("zookeeper.connect", "localhost:2181")]).unwrap_err();
        assert!(error.to_string().contains("keys=zookeeper.connect"), "{error}");
    }

    #[test]
    fn all_unknown_keys_are_named_at_once() {
        let pairs = [
            ("zookeeper.connect", "z"),
            ("node.id", "1"),
            ("num.io.threads", "8"),
        ];
        let error = Config::from_properties(&pairs).unwrap_err().to_string();
        assert!(
            error.ends_with("keys=num.io.threads, zookeeper.connect"),
            "{error}"
        );
    }

    #[test]
    fn a_bad_value_names_key_and_value() {
        for (key, value) in [
            ("num.partitions", "many"),
            ("num.partitions", "99999999"),
            ("offsets.topic.num.partitions", "0"),
            ("log.cleanup.policy", "compact"),
            ("log.cleanup.policy", "compact,delete"),
            ("varve.flush", "sometimes"),
            ("varve.bucket", "gs://x"),
            ("node.id", "-4"),
            ("unclean.leader.election.enable", "true"),
            ("leader.imbalance.check.interval.seconds", "0"),
            ("follower.replication.throttled.rate", "-1"),
            ("process.roles", "broker"),
        ] {
            let error = Config::from_properties(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_environment_speaks_kafkas_images_dialect() {
        let found = from_environment(&|name| match name {
            "KAFKA_NUM_PARTITIONS" => Some("3".into()),
            "VARVE_FLUSH" => Some("group".into()),
            _ => None,
        });
        assert_eq!(found.get("num.partitions").map(String::as_str), Some("3"));
        assert_eq!(found.get("varve.flush").map(String::as_str), Some("group"));
    }
}
