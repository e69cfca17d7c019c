//! The table itself, sorted by name.

use super::{Key, Kind, Synonym, values};

const fn same(name: &'static str) -> Synonym {
    Synonym { name, scale: 1 }
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// The key called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.binary_search_by(|key| key.name.cmp(name))
        .ok()
        .map(|at| &KEYS[at])
}

/// Every topic configuration key that has an effect.
pub const KEYS: &[Key] = &[
    Key {
        name: "cleanup.policy",
        kind: Kind::List,
        default: "delete",
        synonyms: &[same("log.cleanup.policy")],
        doc: "What happens to old data: delete by retention. compact is kept for internal topics; empty keeps everything.",
        hidden: false,
        check: values::cleanup_policy,
    },
    Key {
        name: "compression.type",
        kind: Kind::String,
        default: "producer",
        synonyms: &[same("compression.type")],
        doc: "Only producer: batches are stored exactly as they were sent.",
        hidden: false,
        check: values::only_producer,
    },
    Key {
        name: "follower.replication.throttled.replicas",
        kind: Kind::List,
        default: "",
        synonyms: &[],
        doc: "Replicas, partition:broker, that copy no faster than follower.replication.throttled.rate of their broker while they are not in sync; * for all.",
        hidden: false,
        check: values::throttled_replicas,
    },
    Key {
        name: "index.interval.bytes",
        kind: Kind::Int,
        default: "4096",
        synonyms: &[same("log.index.interval.bytes")],
        doc: "About how many bytes of log lie between two entries of the offset index.",
        hidden: false,
        check: values::int_from_zero,
    },
    Key {
        name: "internal.segment.bytes",
        kind: Kind::Int,
        default: "",
        synonyms: &[],
        doc: "Segment size below the floor of segment.bytes. For tests.",
        hidden: true,
        check: values::int_from_one,
    },
    Key {
        name: "leader.replication.throttled.replicas",
        kind: Kind::List,
        default: "",
        synonyms: &[],
        doc: "Replicas, partition:broker, that while they lead give no more than leader.replication.throttled.rate of their broker to followers that are not in sync; * for all.",
        hidden: false,
        check: values::throttled_replicas,
    },
    Key {
        name: "local.retention.bytes",
        kind: Kind::Long,
        default: "-2",
        synonyms: &[same("log.local.retention.bytes")],
        doc: "How many bytes of a tiered partition stay on the broker's disk: -2 as retention.bytes, -1 no limit.",
        hidden: false,
        check: values::long_or_same,
    },
    Key {
        name: "local.retention.ms",
        kind: Kind::Long,
        default: "-2",
        synonyms: &[same("log.local.retention.ms")],
        doc: "How long segments of a tiered partition stay on the broker's disk: -2 as retention.ms, -1 no limit.",
        hidden: false,
        check: values::long_or_same,
    },
    Key {
        name: "max.message.bytes",
        kind: Kind::Int,
        default: "1048588",
        synonyms: &[same("message.max.bytes")],
        doc: "Largest record batch taken, as it arrives (after compression).",
        hidden: false,
        check: values::int_from_zero,
    },
    Key {
        name: "message.timestamp.after.max.ms",
        kind: Kind::Long,
        default: "3600000",
        synonyms: &[same("log.message.timestamp.after.max.ms")],
        doc: "How far a record's timestamp may lie ahead of the broker's clock.",
        hidden: false,
        check: values::long_from_zero,
    },
    Key {
        name: "message.timestamp.before.max.ms",
        kind: Kind::Long,
        default: "9223372036854775807",
        synonyms: &[same("log.message.timestamp.before.max.ms")],
        doc: "How far a record's timestamp may lie behind the broker's clock.",
        hidden: false,
        check: values::long_from_zero,
    },
    Key {
        name: "message.timestamp.type",
        kind: Kind::String,
        default: "CreateTime",
        synonyms: &[same("log.message.timestamp.type")],
        doc: "Whether records carry the producer's time (CreateTime) or the broker's (LogAppendTime).",
        hidden: false,
        check: values::timestamp_type,
    },
    Key {
        name: "min.insync.replicas",
        kind: Kind::Int,
        default: "1",
        synonyms: &[same("min.insync.replicas")],
        doc: "How many replicas must hold a record before acks=all is answered.",
        hidden: false,
        check: values::int_from_one,
    },
    Key {
        name: "remote.storage.enable",
        kind: Kind::Boolean,
        default: "false",
        // Kafka has no broker default for this key; Varve tiers every topic where the cluster switch is on.
        synonyms: &[same("remote.log.storage.system.enable")],
        doc: "Whether sealed segments go to the bucket. On wherever a bucket is configured.",
        hidden: false,
        check: values::boolean,
    },
    Key {
        name: "retention.bytes",
        kind: Kind::Long,
        default: "-1",
        synonyms: &[same("log.retention.bytes")],
        doc: "How large a partition may grow, in both tiers together, before its oldest segments go. -1: no limit.",
        hidden: false,
        check: values::long_or_unlimited,
    },
    Key {
        name: "retention.ms",
        kind: Kind::Long,
        default: "604800000",
        synonyms: &[
            same("log.retention.ms"),
            Synonym {
                name: "log.retention.minutes",
                scale: MINUTE_MS,
            },
            Synonym {
                name: "log.retention.hours",
                scale: HOUR_MS,
            },
        ],
        doc: "How old a segment may grow, in either tier, before it goes. -1: no limit.",
        hidden: false,
        check: values::long_or_unlimited,
    },
    Key {
        name: "segment.bytes",
        kind: Kind::Int,
        default: "1073741824",
        synonyms: &[same("log.segment.bytes")],
        doc: "Size at which a segment is sealed and the next one begins.",
        hidden: false,
        check: values::segment_bytes,
    },
    Key {
        name: "segment.ms",
        kind: Kind::Long,
        default: "604800000",
        synonyms: &[
            same("log.roll.ms"),
            Synonym {
                name: "log.roll.hours",
                scale: HOUR_MS,
            },
        ],
        doc: "Age at which a segment is sealed even if it is not full.",
        hidden: false,
        check: values::long_from_one,
    },
    Key {
        name: "unclean.leader.election.enable",
        kind: Kind::Boolean,
        default: "false",
        synonyms: &[same("unclean.leader.election.enable")],
        doc: "Whether a replica that may miss acknowledged records leads when no other is left: of the live ones that with the most complete log, never one that ends before the bucket. As a broker key only for all brokers, while they run.",
        hidden: false,
        check: values::boolean,
    },
    Key {
        name: "varve.table.columns",
        kind: Kind::String,
        default: "",
        synonyms: &[],
        doc: "Columns of the table taken from JSON values, as name:type, name:type; a type is boolean, long, double or string. Empty: inferred.",
        hidden: false,
        check: values::column_list,
    },
    Key {
        name: "varve.table.commit.interval.ms",
        kind: Kind::Long,
        default: "60000",
        synonyms: &[],
        doc: "How often new records become visible in the table.",
        hidden: false,
        check: values::long_from_one,
    },
    Key {
        name: "varve.table.enable",
        kind: Kind::Boolean,
        default: "false",
        synonyms: &[],
        doc: "Whether the topic is kept as an Iceberg table in the bucket.",
        hidden: false,
        check: values::boolean,
    },
    Key {
        name: "varve.table.value",
        kind: Kind::String,
        default: "raw",
        synonyms: &[],
        doc: "What a record's value is to the table: raw bytes, or a json object with columns of its own.",
        hidden: false,
        check: values::value_mode,
    },
];
