//! What the values of topic configuration mean: the parsers and checks the table points to.

use std::collections::{BTreeMap, BTreeSet};

use super::{ConfigError, invalid};
use crate::BrokerId;

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

impl TimestampType {
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "CreateTime" => Some(Self::CreateTime),
            "LogAppendTime" => Some(Self::LogAppendTime),
            _ => None,
        }
    }
}

/// `leader.replication.throttled.replicas` and its like: which copies of a topic are throttled (KIP-73).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThrottledReplicas {
    All,
    /// Partitions and brokers.
    Listed(BTreeSet<(i32, BrokerId)>),
}

impl ThrottledReplicas {
    pub(super) fn parse(value: &str) -> Option<Self> {
        if value.trim() == "*" {
            return Some(Self::All);
        }
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        let replica = |item: &str| {
            let (partition, broker) = item.split_once(':')?;
            let (partition, broker): (u16, u32) = (partition.parse().ok()?, broker.parse().ok()?);
            Some((i32::from(partition), BrokerId::new(i32::try_from(broker).ok()?)))
        };
        items.map(replica).collect::<Option<_>>().map(Self::Listed)
    }

    #[must_use]
    pub fn holds(&self, partition: i32, broker: BrokerId) -> bool {
        match self {
            Self::All => true,
            Self::Listed(replicas) => replicas.contains(&(partition, broker)),
        }
    }
}

impl Default for ThrottledReplicas {
    fn default() -> Self {
        Self::Listed(BTreeSet::new())
    }
}

/// `varve.table.value`: what a record's value is to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueMode {
    /// Bytes, in one column.
    Raw,
    /// A JSON object, its members in columns of their own too.
    Json,
}

impl ValueMode {
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "raw" => Some(Self::Raw),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// One of `varve.table.columns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
}

/// Column types, by Iceberg's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    String,
    Date,
    Timestamp,
    Timestamptz,
}

impl ColumnType {
    fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "string" => Self::String,
            "date" => Self::Date,
            "timestamp" => Self::Timestamp,
            "timestamptz" => Self::Timestamptz,
            _ => return None,
        })
    }
}

/// Every table has these already.
const FIXED_COLUMNS: [&str; 6] = ["partition", "offset", "timestamp", "key", "headers", "value"];

/// `name:type, name:type`; empty for none.
pub(super) fn columns(value: &str) -> Result<Vec<Column>, String> {
    let mut columns: Vec<Column> = Vec::new();
    for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, kind) = item
            .split_once(':')
            .ok_or_else(|| format!("{item} is not name:type"))?;
        let (name, kind) = (name.trim(), kind.trim());
        let kind = ColumnType::parse(kind).ok_or_else(|| format!("{kind} is not a column type"))?;
        if name.is_empty() || FIXED_COLUMNS.contains(&name) || columns.iter().any(|c| c.name == name) {
            return Err(format!("column name is empty, taken or reserved: {name}"));
        }
        columns.push(Column {
            name: name.to_owned(),
            kind,
        });
    }
    Ok(columns)
}

/// Whether a `cleanup.policy` compacts.
pub(super) fn compacts(value: &str) -> bool {
    value.split(',').any(|policy| policy.trim() == "compact")
}

/// Whether a `cleanup.policy` lets retention delete.
pub(super) fn deletes(value: &str) -> bool {
    value.split(',').any(|policy| policy.trim() == "delete")
}

/// Every key with the value in force.
pub(super) struct Given(pub(super) BTreeMap<&'static str, String>);

impl Given {
    pub(super) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(super) fn throttled(&self, key: &str) -> ThrottledReplicas {
        ThrottledReplicas::parse(self.text(key)).unwrap_or_default()
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.text(key).eq_ignore_ascii_case("true")
    }

    pub(super) fn long(&self, key: &str) -> Result<i64, ConfigError> {
        let value = self.text(key);
        number(value).map_err(|reason| invalid(key, value, &reason))
    }

    pub(super) fn int(&self, key: &str) -> Result<u32, ConfigError> {
        let value = self.long(key)?;
        u32::try_from(value).map_err(|_cause| invalid(key, &value.to_string(), "out of range"))
    }
}

fn number(value: &str) -> Result<i64, String> {
    value.trim().parse().map_err(|_cause| "not a number".to_owned())
}

fn at_least(value: &str, least: i64, most: i64) -> Result<(), String> {
    match number(value)? {
        n if n < least => Err(format!("value must be at least {least}")),
        n if n > most => Err(format!("value must be at most {most}")),
        _ => Ok(()),
    }
}

const INT_MAX: i64 = i32::MAX as i64;

pub(super) fn long_or_unlimited(value: &str) -> Result<(), String> {
    at_least(value, -1, i64::MAX)
}

pub(super) fn long_or_same(value: &str) -> Result<(), String> {
    at_least(value, -2, i64::MAX)
}

pub(super) fn long_from_zero(value: &str) -> Result<(), String> {
    at_least(value, 0, i64::MAX)
}

pub(super) fn long_from_one(value: &str) -> Result<(), String> {
    at_least(value, 1, i64::MAX)
}

pub(super) fn int_from_zero(value: &str) -> Result<(), String> {
    at_least(value, 0, INT_MAX)
}

pub(super) fn int_from_one(value: &str) -> Result<(), String> {
    at_least(value, 1, INT_MAX)
}

/// Kafka's own floor since 4.0: smaller segments cost more files than they are worth.
pub(super) fn segment_bytes(value: &str) -> Result<(), String> {
    at_least(value, 1024 * 1024, INT_MAX)
}

pub(super) fn boolean(value: &str) -> Result<(), String> {
    if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
        return Ok(());
    }
    Err("value must be true or false".to_owned())
}

pub(super) fn throttled_replicas(value: &str) -> Result<(), String> {
    match ThrottledReplicas::parse(value) {
        Some(_) => Ok(()),
        None => Err(
            "value must be * or a list of replicas, [partitionId]:[brokerId],[partitionId]:[brokerId],..."
                .to_owned(),
        ),
    }
}

pub(super) fn only_producer(value: &str) -> Result<(), String> {
    if value == "producer" {
        return Ok(());
    }
    Err("only producer: batches are stored exactly as they were sent".to_owned())
}

pub(super) fn cleanup_policy(value: &str) -> Result<(), String> {
    let mut policies = value
        .split(',')
        .map(str::trim)
        .filter(|policy| !policy.is_empty());
    match policies.find(|policy| !matches!(*policy, "delete" | "compact")) {
        Some(other) => Err(format!("{other} is not a cleanup policy")),
        None => Ok(()),
    }
}

pub(super) fn timestamp_type(value: &str) -> Result<(), String> {
    match TimestampType::parse(value) {
        Some(_) => Ok(()),
        None => Err("value must be CreateTime or LogAppendTime".to_owned()),
    }
}

pub(super) fn value_mode(value: &str) -> Result<(), String> {
    match ValueMode::parse(value) {
        Some(_) => Ok(()),
        None => Err("value must be raw or json".to_owned()),
    }
}

pub(super) fn column_list(value: &str) -> Result<(), String> {
    columns(value).map(|_| ())
}
