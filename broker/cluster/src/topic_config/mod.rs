//! The one table of topic configuration keys: Kafka's names, defaults and meaning.
//!
//! A key is here if and only if it has an effect; any other name is refused by name. What a topic does
//! not set comes from the broker key beside it, and last from the default. [`resolve`] turns all of it
//! into a [`TopicConfig`] once, so that nobody past the edge reads a string.
//!
//! Varve's own keys start with `varve.`.

mod keys;
mod values;

use std::collections::BTreeMap;

pub use keys::{KEYS, find};
pub use values::{Column, ColumnType, ThrottledReplicas, TimestampType, ValueMode};

const NO_COMPACTION: &str = "only internal topics are compacted; write delete";

/// What a topic itself sets: key to value, as given.
pub type Overrides = imbl::OrdMap<String, String>;

/// One row of the table.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// Broker keys that give the default for topics, first one found wins.
    pub synonyms: &'static [Synonym],
    pub doc: &'static str,
    /// Not told to clients unless set: Kafka's `internal.` keys.
    pub hidden: bool,
    check: fn(&str) -> Result<(), String>,
}

/// A broker key and how many of the topic key's units one of its own is (`log.retention.hours` → ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    pub name: &'static str,
    pub scale: i64,
}

/// Kafka's configuration types, as `DescribeConfigs` tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    Int,
    Long,
    List,
    String,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ConfigError {
    #[error("unknown topic config name. key={key}")]
    Unknown { key: String },
    #[error("invalid value for configuration {key}: {reason}. value={value}")]
    Invalid {
        key: String,
        value: String,
        reason: String,
    },
    #[error("{first} and {second} contradict each other: {reason}")]
    Contradiction {
        first: String,
        second: String,
        reason: String,
    },
}

/// A topic's configuration, complete and typed. `None` is "no limit" (Kafka's -1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<u64>,
    pub segment_bytes: u32,
    pub segment_ms: i64,
    pub max_message_bytes: u32,
    pub message_timestamp_type: TimestampType,
    pub message_timestamp_before_max_ms: i64,
    pub message_timestamp_after_max_ms: i64,
    pub index_interval_bytes: u32,
    /// `cleanup.policy=compact`: internal topics only.
    pub compacted: bool,
    pub min_insync_replicas: u32,
    pub unclean_leader_election: bool,
    /// Replicas that, while they lead, give no more than their broker's throttle allows to followers that are not in sync.
    pub leader_throttled: ThrottledReplicas,
    /// Replicas that copy no faster than their broker's throttle allows, as long as they are not in sync.
    pub follower_throttled: ThrottledReplicas,
    pub remote_storage: bool,
    /// How much stays on the broker's disk once it is in the bucket. Kafka's -2 ("as `retention.*`") is resolved.
    pub local_retention_ms: Option<i64>,
    pub local_retention_bytes: Option<u64>,
    pub table: Option<TableConfig>,
}

/// `varve.table.*` of a topic that is kept as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableConfig {
    pub value: ValueMode,
    /// Empty: columns are inferred.
    pub columns: Vec<Column>,
    pub commit_interval_ms: i64,
}

/// Checks what a topic sets, without knowing any broker's own configuration: what every broker can agree on.
///
/// # Errors
/// The first key that is unknown or whose value is refused, or two that contradict each other.
pub fn check(overrides: &Overrides, internal_topic: bool) -> Result<(), ConfigError> {
    for (name, value) in overrides {
        check_one(name, value)?;
    }
    let cleanup = overrides.get("cleanup.policy").map(String::as_str);
    if !internal_topic && cleanup.is_some_and(values::compacts) {
        return Err(invalid("cleanup.policy", "compact", NO_COMPACTION));
    }
    // Local retention against retention is only judged when the topic sets both: the rest depends on
    // the broker, and `resolve` judges it there.
    let both = |name| overrides.get(name).and_then(|value| value.parse::<i64>().ok());
    for (local, total) in [
        ("local.retention.ms", "retention.ms"),
        ("local.retention.bytes", "retention.bytes"),
    ] {
        if let (Some(l), Some(t)) = (both(local), both(total)) {
            check_local(local, l, total, t)?;
        }
    }
    Ok(())
}

/// One key and its value.
///
/// # Errors
/// When the key is not in the table or the value is refused.
pub fn check_one(name: &str, value: &str) -> Result<(), ConfigError> {
    let key = find(name).ok_or_else(|| ConfigError::Unknown { key: name.to_owned() })?;
    (key.check)(value).map_err(|reason| invalid(name, value, &reason))
}

/// The whole configuration: the topic's own values, then the broker's (`broker` answers for a broker key),
/// then the defaults.
///
/// # Errors
/// As [`check`], and when the values that are in force contradict each other.
pub fn resolve(
    overrides: &Overrides,
    internal_topic: bool,
    broker: &dyn Fn(&str) -> Option<String>,
) -> Result<TopicConfig, ConfigError> {
    check(overrides, internal_topic)?;
    let mut given = BTreeMap::new();
    for key in KEYS {
        let value = match overrides.get(key.name) {
            Some(value) => value.clone(),
            None => key.inherited(broker)?,
        };
        given.insert(key.name, value);
    }
    let given = values::Given(given);
    let cleanup = given.text("cleanup.policy");
    // A policy that does not delete keeps everything, whatever retention says (an empty list is Kafka's "for ever").
    let (retention_ms, retention_bytes) = if values::deletes(cleanup) {
        (given.long("retention.ms")?, given.long("retention.bytes")?)
    } else {
        (-1, -1)
    };
    let (local_ms, local_bytes) = (
        given.long("local.retention.ms")?,
        given.long("local.retention.bytes")?,
    );
    check_local("local.retention.ms", local_ms, "retention.ms", retention_ms)?;
    check_local(
        "local.retention.bytes",
        local_bytes,
        "retention.bytes",
        retention_bytes,
    )?;
    let segment_bytes = match given.text("internal.segment.bytes") {
        "" => given.int("segment.bytes")?,
        _ => given.int("internal.segment.bytes")?,
    };
    Ok(TopicConfig {
        retention_ms: limit(retention_ms),
        retention_bytes: limit_bytes(retention_bytes),
        segment_bytes,
        segment_ms: given.long("segment.ms")?,
        max_message_bytes: given.int("max.message.bytes")?,
        message_timestamp_type: TimestampType::parse(given.text("message.timestamp.type"))
            .unwrap_or(TimestampType::CreateTime),
        message_timestamp_before_max_ms: given.long("message.timestamp.before.max.ms")?,
        message_timestamp_after_max_ms: given.long("message.timestamp.after.max.ms")?,
        index_interval_bytes: given.int("index.interval.bytes")?,
        // A broker's default from before it was refused changes nothing for ordinary topics.
        compacted: internal_topic && values::compacts(cleanup),
        min_insync_replicas: given.int("min.insync.replicas")?,
        unclean_leader_election: given.flag("unclean.leader.election.enable"),
        leader_throttled: given.throttled("leader.replication.throttled.replicas"),
        follower_throttled: given.throttled("follower.replication.throttled.replicas"),
        remote_storage: given.flag("remote.storage.enable"),
        local_retention_ms: if local_ms == -2 {
            limit(retention_ms)
        } else {
            limit(local_ms)
        },
        local_retention_bytes: if local_bytes == -2 {
            limit_bytes(retention_bytes)
        } else {
            limit_bytes(local_bytes)
        },
        table: table(&given)?,
    })
}

fn table(given: &values::Given) -> Result<Option<TableConfig>, ConfigError> {
    if !given.flag("varve.table.enable") {
        return Ok(None);
    }
    let columns = given.text("varve.table.columns");
    Ok(Some(TableConfig {
        value: ValueMode::parse(given.text("varve.table.value")).unwrap_or(ValueMode::Raw),
        columns: values::columns(columns)
            .map_err(|reason| invalid("varve.table.columns", columns, &reason))?,
        commit_interval_ms: given.long("varve.table.commit.interval.ms")?,
    }))
}

/// Judges a broker key that gives topics a default. `None`: it is no such key.
#[must_use]
pub fn check_broker_default(name: &str, value: &str) -> Option<Result<(), String>> {
    let of_name = |key: &'static Key| key.synonyms.iter().find(|s| s.name == name).map(|s| (key, s));
    let (key, synonym) = KEYS.iter().find_map(of_name)?;
    let checked = synonym.scaled(value).map_err(|error| error.to_string());
    let judged = checked.and_then(|scaled| (key.check)(&scaled).map(|()| scaled));
    Some(judged.and_then(|scaled| match key.name {
        // Internal topics say so themselves; for all others it would only be the end of retention.
        "cleanup.policy" if values::compacts(&scaled) => Err(NO_COMPACTION.to_owned()),
        _ => Ok(()),
    }))
}

/// The broker keys that give topics their defaults.
pub fn broker_default_keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .flat_map(|key| key.synonyms)
        .map(|synonym| synonym.name)
}

impl Default for TopicConfig {
    /// What a topic has that sets nothing, on a broker that sets nothing.
    fn default() -> Self {
        Self {
            retention_ms: Some(7 * 24 * 3_600_000),
            retention_bytes: None,
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: 3_600_000,
            index_interval_bytes: 4096,
            compacted: false,
            min_insync_replicas: 1,
            unclean_leader_election: false,
            leader_throttled: ThrottledReplicas::default(),
            follower_throttled: ThrottledReplicas::default(),
            remote_storage: false,
            local_retention_ms: Some(7 * 24 * 3_600_000),
            local_retention_bytes: None,
            table: None,
        }
    }
}

impl Key {
    /// The value a topic gets that does not set this key, from the broker or from the default.
    ///
    /// # Errors
    /// When the broker's value is not one a topic could have.
    pub fn inherited(&self, broker: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
        for synonym in self.synonyms {
            let Some(value) = broker(synonym.name) else {
                continue;
            };
            let scaled = synonym.scaled(&value)?;
            (self.check)(&scaled).map_err(|reason| invalid(synonym.name, &value, &reason))?;
            return Ok(scaled);
        }
        Ok(self.default.to_owned())
    }
}

impl Synonym {
    /// `value` of the broker key in the topic key's unit. -1 is "no limit" in every unit.
    ///
    /// # Errors
    /// When a key with another unit is not a number, or does not fit.
    pub fn scaled(&self, value: &str) -> Result<String, ConfigError> {
        if self.scale == 1 {
            return Ok(value.to_owned());
        }
        let number: i64 = value
            .trim()
            .parse()
            .map_err(|_cause| invalid(self.name, value, "not a number"))?;
        if number < 0 {
            return Ok(number.to_string());
        }
        let scaled = number.checked_mul(self.scale);
        Ok(scaled
            .ok_or_else(|| invalid(self.name, value, "too large"))?
            .to_string())
    }
}

/// Local retention may not promise more than retention does (-1 is everything, -2 is "the same").
fn check_local(local: &str, local_value: i64, total: &str, total_value: i64) -> Result<(), ConfigError> {
    let fits = match (local_value, total_value) {
        (-2, _) | (_, -1) => true,
        (-1, _) => false,
        (local, total) => local <= total,
    };
    if fits {
        return Ok(());
    }
    Err(ConfigError::Contradiction {
        first: format!("{local}={local_value}"),
        second: format!("{total}={total_value}"),
        reason: "what is kept locally cannot be more than what is kept".to_owned(),
    })
}

fn limit(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

fn limit_bytes(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

fn invalid(key: &str, value: &str, reason: &str) -> ConfigError {
    ConfigError::Invalid {
        key: key.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Overrides {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn no_broker(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn every_default_is_a_legal_value() {
        let config = resolve(&set(&[]), false, &no_broker).unwrap();

        assert_eq!(config, TopicConfig::default());
        for key in KEYS {
            assert!(key.hidden || (key.check)(key.default).is_ok(), "{}", key.name);
        }
    }

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let refused = check(&set(&[("retention.hours", "1")]), false).unwrap_err();
        assert_eq!(
            refused,
            ConfigError::Unknown {
                key: "retention.hours".into()
            }
        );
        assert!(refused.to_string().contains("retention.hours"));
    }

    #[test]
    fn a_topic_wins_over_the_broker_and_the_broker_over_the_default() {
        let broker = |key: &str| match key {
            "log.retention.hours" => Some("2".to_owned()),
            "log.segment.bytes" => Some("2097152".to_owned()),
            _ => None,
        };
        let config = resolve(&set(&[("segment.bytes", "1048576")]), false, &broker).unwrap();

        assert_eq!(config.retention_ms, Some(7_200_000));
        assert_eq!(config.segment_bytes, 1_048_576);
    }

    #[test]
    fn a_broker_key_in_finer_units_wins() {
        let broker = |key: &str| match key {
            "log.retention.ms" => Some("-1".to_owned()),
            "log.retention.hours" => Some("2".to_owned()),
            _ => None,
        };
        assert_eq!(resolve(&set(&[]), false, &broker).unwrap().retention_ms, None);
    }

    #[test]
    fn a_broker_s_defaults_for_topics_are_judged_like_a_topic_s_own() {
        assert_eq!(check_broker_default("log.retention.hours", "1"), Some(Ok(())));
        assert!(
            check_broker_default("log.retention.hours", "soon")
                .unwrap()
                .is_err()
        );
        assert!(check_broker_default("log.segment.bytes", "1").unwrap().is_err());
        for compacts in ["compact", "compact,delete", "delete, compact"] {
            let judged = check_broker_default("log.cleanup.policy", compacts).unwrap();
            assert!(judged.unwrap_err().contains("delete"), "{compacts}");
        }
        assert_eq!(check_broker_default("log.cleanup.policy", "delete"), Some(Ok(())));
        assert_eq!(check_broker_default("log.dirs", "/data"), None);
        assert!(broker_default_keys().any(|key| key == "log.roll.hours"));
    }

    #[test]
    fn local_retention_cannot_exceed_retention() {
        for (local, total, fits) in [
            ("5", "10", true),
            ("10", "5", false),
            ("-1", "10", false),
            ("-1", "-1", true),
            ("-2", "10", true),
        ] {
            let ms = set(&[("local.retention.ms", local), ("retention.ms", total)]);
            let bytes = set(&[("local.retention.bytes", local), ("retention.bytes", total)]);
            assert_eq!(check(&ms, false).is_ok(), fits, "{local} {total}");
            assert_eq!(check(&bytes, false).is_ok(), fits, "{local} {total}");
        }
        // Only the broker's value makes this one wrong.
        let broker = |key: &str| (key == "log.retention.ms").then(|| "10".to_owned());
        assert!(resolve(&set(&[("local.retention.ms", "20")]), false, &broker).is_err());
    }

    #[test]
    fn only_internal_topics_are_compacted() {
        let compact = set(&[("cleanup.policy", "compact")]);
        assert!(
            matches!(check(&compact, false), Err(ConfigError::Invalid { key, .. }) if key == "cleanup.policy")
        );
        assert!(resolve(&compact, true, &no_broker).unwrap().compacted);
    }

    #[test]
    fn values_without_effect_are_refused() {
        for (key, value) in [
            ("unclean.leader.election.enable", "maybe"),
            ("compression.type", "zstd"),
            ("segment.bytes", "0"),
            ("min.insync.replicas", "0"),
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("message.timestamp.type", "createtime"),
            ("varve.table.value", "avro"),
            ("varve.table.columns", "a:text"),
            ("varve.table.columns", "offset:long"),
        ] {
            assert!(
                matches!(check_one(key, value), Err(ConfigError::Invalid { .. })),
                "{key}={value}"
            );
        }
    }

    #[test]
    fn a_table_topic_knows_its_columns() {
        let overrides = set(&[
            ("varve.table.enable", "true"),
            ("varve.table.value", "json"),
            ("varve.table.columns", "carrier:string, delay:int"),
        ]);
        let table = resolve(&overrides, false, &no_broker).unwrap().table.unwrap();

        assert_eq!(table.value, ValueMode::Json);
        assert_eq!(
            table.columns[1],
            Column {
                name: "delay".into(),
                kind: ColumnType::Int
            }
        );
    }
}
