//! The one table of broker keys: what may stand in `server.properties`, its default and what it does.
//! Defaults of topics (`log.retention.ms` and its like) are not here: `varve_cluster::topic_config` owns them.

/// One broker key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As it stands in the file; Kafka's name wherever Kafka has the concept.
    pub name: &'static str,
    /// Kafka's config types as DescribeConfigs reports them (KIP-524): see [`Kind`].
    pub kind: Kind,
    /// `None`: has no default, may be absent.
    pub default: Option<&'static str>,
    /// Meaning, unit, when to change it.
    pub doc: &'static str,
}

/// The type of a key's value, with the codes of DescribeConfigs v3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// true or false
    Boolean = 1,
    /// Any text.
    String = 2,
    /// 32 bits.
    Int = 3,
    /// 64 bits.
    Long = 5,
    /// Comma-separated.
    List = 7,
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        doc,
    }
}

/// KIP-73.
pub(crate) const LEADER_THROTTLED_RATE: &str = "leader.replication.throttled.rate";
pub(crate) const FOLLOWER_THROTTLED_RATE: &str = "follower.replication.throttled.rate";

/// Every broker key with an effect, in the order of `docs/configuration.md`.
pub const KEYS: &[Key] = &[
    key(
        "process.roles",
        Kind::List,
        Some("broker,controller"),
        "What this process is. One node is both: `broker,controller`.",
    ),
    key(
        "node.id",
        Kind::Int,
        Some("1"),
        "This node's number in the cluster; written into the data directory and never changed.",
    ),
    key(
        "listeners",
        Kind::List,
        Some("PLAINTEXT://127.0.0.1:9092"),
        "Addresses to accept on, NAME://host:port. An empty host means every address. A listener named in `controller.listener.names` is opened when the quorum has other voters.",
    ),
    key(
        "advertised.listeners",
        Kind::List,
        None,
        "Addresses clients are told to connect to; `listeners` if absent. Needed when a listener has an empty host or 0.0.0.0.",
    ),
    key(
        "listener.security.protocol.map",
        Kind::List,
        Some("PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        "Which protocol each listener name speaks; only PLAINTEXT exists so far.",
    ),
    key(
        "controller.listener.names",
        Kind::List,
        Some("CONTROLLER"),
        "Names of the listeners that belong to the metadata quorum.",
    ),
    key(
        "controller.quorum.voters",
        Kind::List,
        None,
        "id@host:port of the quorum's voters, this node among them; every node is a controller so far. Absent: one node.",
    ),
    key(
        "controller.quorum.bootstrap.servers",
        Kind::List,
        None,
        "Where the quorum can be found, for files made for Kafka; several controllers are named in `controller.quorum.voters`.",
    ),
    key(
        "controller.quorum.election.timeout.ms",
        Kind::Int,
        Some("1000"),
        "How long a controller waits for votes, once to twice, before it asks anew.",
    ),
    key(
        "controller.quorum.fetch.timeout.ms",
        Kind::Int,
        Some("2000"),
        "A leader of the quorum that is silent for so long is replaced.",
    ),
    key(
        "broker.heartbeat.interval.ms",
        Kind::Int,
        Some("500"),
        "How often a broker tells the controller that it is alive.",
    ),
    key(
        "broker.session.timeout.ms",
        Kind::Int,
        Some("3000"),
        "A broker that is silent for so long is fenced: others lead what it led.",
    ),
    key(
        "replica.lag.time.max.ms",
        Kind::Long,
        Some("10000"),
        "A follower that has not caught up for so long leaves the in-sync replicas.",
    ),
    key(
        "auto.leader.rebalance.enable",
        Kind::Boolean,
        Some("true"),
        "Whether leaderships go back to preferred replicas by themselves; the broker that leads the metadata quorum sees to it.",
    ),
    key(
        "leader.imbalance.check.interval.seconds",
        Kind::Long,
        Some("300"),
        "How often that is looked at.",
    ),
    key(
        "leader.imbalance.per.broker.percentage",
        Kind::Int,
        Some("10"),
        "If others lead more than so many of a hundred partitions that a broker is preferred for, it gets those back it can lead.",
    ),
    key(
        LEADER_THROTTLED_RATE,
        Kind::Long,
        Some("9223372036854775807"),
        "Bytes a second this broker, where topics name it in leader.replication.throttled.replicas, gives to followers that are not in sync; changed while it runs.",
    ),
    key(
        FOLLOWER_THROTTLED_RATE,
        Kind::Long,
        Some("9223372036854775807"),
        "Bytes a second this broker, where topics name it in follower.replication.throttled.replicas, copies while it is not in sync; changed while it runs.",
    ),
    key(
        "cluster.id",
        Kind::String,
        None,
        "The cluster's id, 22 characters; needed by nodes of one cluster that begin with empty directories.",
    ),
    key(
        "inter.broker.listener.name",
        Kind::String,
        None,
        "The listener brokers use among themselves; must be one of `listeners`.",
    ),
    key("broker.rack", Kind::String, None, "The rack told to clients."),
    key(
        "log.dirs",
        Kind::List,
        Some("/tmp/varve-logs"),
        "Directories for partitions, comma-separated; a new partition goes to the one with the fewest.",
    ),
    key(
        "log.dir",
        Kind::String,
        None,
        "The same for one directory; `log.dirs` wins.",
    ),
    key(
        "num.network.threads",
        Kind::Int,
        None,
        "Data-plane threads, each pinned to a core with its own runtime; the number of cores if absent.",
    ),
    key(
        "num.partitions",
        Kind::Int,
        Some("1"),
        "Partitions of a topic created without a number.",
    ),
    key(
        "default.replication.factor",
        Kind::Int,
        Some("1"),
        "Replicas of a topic created without a number.",
    ),
    key(
        "auto.create.topics.enable",
        Kind::Boolean,
        Some("true"),
        "Create a topic the first time a client that allows it asks for its metadata.",
    ),
    key(
        "delete.topic.enable",
        Kind::Boolean,
        Some("true"),
        "Whether DeleteTopics is answered.",
    ),
    key(
        "socket.request.max.bytes",
        Kind::Int,
        Some("104857600"),
        "Largest request; a larger one closes the connection.",
    ),
    key(
        "queued.max.request.bytes",
        Kind::Long,
        Some("268435456"),
        "Request bytes all connections may hold together; -1 for no limit. Beyond it requests are read one at a time.",
    ),
    key(
        "fetch.max.bytes",
        Kind::Int,
        Some("57671680"),
        "Most record bytes in one fetch answer, whatever the client asks.",
    ),
    key(
        "connections.max.idle.ms",
        Kind::Long,
        Some("600000"),
        "A connection silent for so long is closed.",
    ),
    key(
        "log.retention.check.interval.ms",
        Kind::Long,
        Some("300000"),
        "How often retention looks for segments to drop, in the bucket and on local disk.",
    ),
    key(
        "offsets.topic.num.partitions",
        Kind::Int,
        Some("50"),
        "Partitions of __consumer_offsets, fixed when it is created.",
    ),
    key(
        "offsets.topic.replication.factor",
        Kind::Int,
        Some("1"),
        "Replicas of __consumer_offsets.",
    ),
    key(
        "offsets.retention.minutes",
        Kind::Int,
        Some("10080"),
        "How long offsets of an empty group are kept (KIP-211).",
    ),
    key(
        "offsets.retention.check.interval.ms",
        Kind::Long,
        Some("600000"),
        "How often expired offsets are looked for.",
    ),
    key(
        "group.initial.rebalance.delay.ms",
        Kind::Int,
        Some("3000"),
        "How long the first rebalance of an empty group waits for more members.",
    ),
    key(
        "group.min.session.timeout.ms",
        Kind::Int,
        Some("6000"),
        "Shortest session a member may ask for.",
    ),
    key(
        "group.max.session.timeout.ms",
        Kind::Int,
        Some("1800000"),
        "Longest session a member may ask for.",
    ),
    key(
        "group.max.size",
        Kind::Int,
        Some("2147483647"),
        "Most members of a group.",
    ),
    key(
        "producer.id.expiration.ms",
        Kind::Int,
        Some("86400000"),
        "How long the state of a silent idempotent producer is kept.",
    ),
    key(
        "varve.flush",
        Kind::String,
        Some("group"),
        "When a produce request counts as written. `os`: the write reached the page cache (Apache Kafka's own durability: survives the process, not the power). `group`: it is on stable storage; one sync is in flight, the next group forms behind it.",
    ),
    key(
        "varve.bucket",
        Kind::String,
        None,
        "Where history lives: `s3://name/prefix` or `file:///path`. Absent: no tiering, no tables.",
    ),
    key(
        "varve.bucket.endpoint",
        Kind::String,
        None,
        "URL of an S3-compatible server; AWS_ENDPOINT_URL or AWS itself if absent.",
    ),
    key(
        "varve.bucket.region",
        Kind::String,
        None,
        "Region; AWS_REGION or the profile's if absent, then us-east-1.",
    ),
    key(
        "varve.bucket.path.style",
        Kind::Boolean,
        None,
        "Bucket in the path rather than in the host name. If absent: true with an endpoint, false with AWS itself.",
    ),
    key(
        "varve.read.memory.bytes",
        Kind::Long,
        Some("268435456"),
        "Memory for chunks on their way from the bucket to consumers, all together.",
    ),
    key(
        "varve.upload.memory.bytes",
        Kind::Long,
        Some("142606336"),
        "Memory for segments on their way to the bucket, all together.",
    ),
    key(
        "varve.cache.memory.bytes",
        Kind::Long,
        Some("134217728"),
        "Memory for chunks read from the bucket.",
    ),
    key(
        "varve.cache.disk.bytes",
        Kind::Long,
        Some("0"),
        "Local disk for chunks that are read again; 0 for none.",
    ),
    key(
        "varve.cache.dir",
        Kind::String,
        None,
        "Where the disk cache lives; `varve-cache` in the first log directory if absent.",
    ),
    key(
        "varve.http.listener",
        Kind::String,
        Some("127.0.0.1:9644"),
        "host:port of /metrics, /health/live, /health/ready and /tier; `none` turns it off.",
    ),
];

/// Finds a key by name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Judges a value for a key of this table that a broker takes while it runs. `None`: it is no such key.
pub(crate) fn check_dynamic(name: &str, value: &str) -> Option<Result<(), &'static str>> {
    [LEADER_THROTTLED_RATE, FOLLOWER_THROTTLED_RATE]
        .contains(&name)
        .then(|| match value.trim().parse::<i64>() {
            Ok(0..) => Ok(()),
            Ok(_) => Err("Value must be at least 0"),
            Err(_) => Err("Not a number of type LONG"),
        })
}

/// Why a value cannot come from one broker: all brokers must decide alike what it is about.
pub(crate) fn not_one_brokers(name: &str, value: &str) -> Option<&'static str> {
    (name == "unclean.leader.election.enable" && value.trim().eq_ignore_ascii_case("true")).then_some(
        "one broker cannot decide that for all: set it for a topic, or for all brokers with kafka-configs.sh --entity-type brokers --entity-default",
    )
}

/// The environment variable that sets a key: Kafka's images use `KAFKA_` with dots as underscores; ours are just upper case.
pub fn environment_name(name: &str) -> String {
    let upper = name
        .replace('_', "__")
        .replace('-', "___")
        .replace('.', "_")
        .to_uppercase();
    if name.starts_with("varve.") {
        upper
    } else {
        format!("KAFKA_{upper}")
    }
}
