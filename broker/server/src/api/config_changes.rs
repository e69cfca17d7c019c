//! Changes of configuration, judged before they are proposed: what AlterConfigs and IncrementalAlterConfigs
//! have in common, and what a new topic's configuration has to fulfil as well.

use std::collections::{BTreeMap, BTreeSet};

use varve_cluster::BrokerId;
use varve_cluster::controller::{Command, ConfigOp, ConfigResource, State};
use varve_cluster::topic_config::{self, ColumnType, Overrides, TableConfig};

use super::config_entries;
use super::refusal::{Refusal, rehearse};
use crate::broker::Broker;
use crate::config::{Config, keys};
use crate::topic_settings;
use crate::wire::ErrorCode;

/// Kafka's numbers for what can be configured.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const BROKER_LOGGER: i8 = 8;

/// What a request names by type and name.
pub(super) fn resource(view: &State, kind: i8, name: &str) -> Result<ConfigResource, Refusal> {
    match kind {
        TOPIC => match view.topic_named(name) {
            Some(topic) => Ok(ConfigResource::Topic(topic.id)),
            None => Err(Refusal::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("The topic '{name}' does not exist."),
            )),
        },
        BROKER if name.is_empty() => Ok(ConfigResource::Broker(None)),
        BROKER => broker_id(name).map(|id| ConfigResource::Broker(Some(id))),
        other => Err(unsupported(other)),
    }
}

pub(super) fn broker_id(name: &str) -> Result<BrokerId, Refusal> {
    let id = name.parse().map(BrokerId::new);
    id.map_err(|_not_a_number| {
        Refusal::invalid_request(format!("Broker id must be an integer, but it is: {name}"))
    })
}

pub(super) fn unsupported(kind: i8) -> Refusal {
    Refusal::invalid_request(format!("Unsupported resource type: {kind}"))
}

/// Changes each resource of a request once. One that is named twice is refused: nobody knows which of its changes is
/// meant to stay.
pub(super) async fn each_once<'a, Resource>(
    resources: &'a [Resource],
    key: impl Fn(&'a Resource) -> (i8, &'a str),
    mut change: impl AsyncFnMut(&'a Resource) -> Result<(), Refusal>,
) -> Vec<(&'a Resource, Result<(), Refusal>)> {
    let mut times = BTreeMap::<_, usize>::new();
    for resource in resources {
        *times.entry(key(resource)).or_default() += 1;
    }
    let mut changed = Vec::with_capacity(times.len());
    for resource in resources {
        let outcome = match times.remove(&key(resource)) {
            Some(1) => change(resource).await,
            Some(_) => Err(Refusal::invalid_request(
                "Each resource must appear at most once.",
            )),
            None => continue,
        };
        changed.push((resource, outcome));
    }
    changed
}

/// Judges the change, and makes it unless it is only to be judged.
pub(super) async fn change(
    broker: &Broker,
    resource: ConfigResource,
    ops: Vec<ConfigOp>,
    validate_only: bool,
) -> Result<(), Refusal> {
    let command = Command::AlterConfigs { resource, ops };
    check(&broker.config, &broker.view(), &command)?;
    if !validate_only {
        broker.propose(command).await?;
    }
    Ok(())
}

fn check(config: &Config, view: &State, command: &Command) -> Result<(), Refusal> {
    let Command::AlterConfigs { resource, ops } = command else {
        return Ok(());
    };
    let mut keys = BTreeSet::new();
    if let Some(twice) = ops.iter().find(|op| !keys.insert(op.key())) {
        return Err(Refusal::invalid_request(format!(
            "Error due to duplicate config keys : {}",
            twice.key()
        )));
    }
    for op in ops {
        check_list(op)?;
        if let ConfigResource::Broker(_) = resource {
            check_broker_key(op)?;
        }
        if let (ConfigResource::Broker(Some(_)), ConfigOp::Set { key, value }) = (resource, op)
            && let Some(reason) = keys::not_one_brokers(key, value)
        {
            let message = format!("Invalid value {value} for configuration {key}: {reason}");
            return Err(Refusal::invalid_request(message));
        }
    }
    check_resource(view, *resource)?;
    let after = rehearse(view, command)?;
    match resource {
        ConfigResource::Topic(id) => match after.topic(*id) {
            Some(topic) => check_topic(config, &after, &topic.configs, topic.name.is_internal()),
            None => Ok(()),
        },
        ConfigResource::Broker(_) => check_broker_values(&after, *resource),
    }
}

/// Brokers are configured once they have registered.
fn check_resource(view: &State, resource: ConfigResource) -> Result<(), Refusal> {
    match resource {
        ConfigResource::Broker(Some(id)) if !view.brokers.contains_key(&id) => Err(Refusal::new(
            ErrorCode::BrokerIdNotRegistered,
            format!("No node with id {id} found."),
        )),
        ConfigResource::Broker(_) | ConfigResource::Topic(_) => Ok(()),
    }
}

fn check_list(op: &ConfigOp) -> Result<(), Refusal> {
    let verb = match op {
        ConfigOp::Set { .. } | ConfigOp::Delete { .. } => return Ok(()),
        ConfigOp::Append { .. } => "APPEND",
        ConfigOp::Subtract { .. } => "SUBTRACT",
    };
    if config_entries::is_list(op.key()) {
        return Ok(());
    }
    let message = format!("Can't {verb} to key {} because its type is not LIST.", op.key());
    Err(Refusal::new(ErrorCode::InvalidConfig, message))
}

/// Keys that are unknown can still be deleted: they may have been set by another version.
fn check_broker_key(op: &ConfigOp) -> Result<(), Refusal> {
    let key = op.key();
    if config_entries::is_dynamic(key) || matches!(op, ConfigOp::Delete { .. }) {
        return Ok(());
    }
    let is_known = keys::find(key).is_some() || topic_config::check_broker_default(key, "").is_some();
    Err(if is_known {
        Refusal::invalid_request(format!("Cannot update these configs dynamically: {key}"))
    } else {
        Refusal::new(
            ErrorCode::InvalidConfig,
            format!("Unknown broker config name: {key}"),
        )
    })
}

fn check_broker_values(after: &State, resource: ConfigResource) -> Result<(), Refusal> {
    let values = match resource {
        ConfigResource::Broker(Some(id)) => after.broker_configs.get(&id),
        ConfigResource::Broker(None) => Some(&after.default_broker_configs),
        ConfigResource::Topic(_) => None,
    };
    for (key, value) in values.into_iter().flatten() {
        let own = keys::check_dynamic(key, value).map(|judged| judged.map_err(str::to_owned));
        if let Some(Err(reason)) = own.or_else(|| topic_config::check_broker_default(key, value)) {
            let message = format!("Invalid value {value} for configuration {key}: {reason}");
            return Err(Refusal::invalid_request(message));
        }
    }
    Ok(())
}

/// What a topic sets has to agree with what it inherits from this broker, and with what this broker can do.
pub(super) fn check_topic(
    config: &Config,
    view: &State,
    overrides: &Overrides,
    internal: bool,
) -> Result<(), Refusal> {
    topic_config::check(overrides, internal)?;
    let inherited = |key: &str| topic_settings::broker_value(config, view, key);
    let resolved = topic_config::resolve(overrides, internal, &inherited)?;
    check_columns(overrides, resolved.table.as_ref())?;
    if config.bucket.is_some() {
        return Ok(());
    }
    for (key, is_on) in [
        ("remote.storage.enable", resolved.remote_storage),
        ("varve.table.enable", resolved.table.is_some()),
    ] {
        if is_on {
            let message = format!("{key}=true needs a bucket, and none is configured (varve.bucket)");
            return Err(Refusal::new(ErrorCode::InvalidConfig, message));
        }
    }
    Ok(())
}

/// A column is made with the type it was asked for, or not at all. Judged here and not where a stored configuration is
/// read: a topic that was given such a column before keeps the wider one it got.
fn check_columns(overrides: &Overrides, table: Option<&TableConfig>) -> Result<(), Refusal> {
    let columns = table.map_or(&[][..], |table| &table.columns);
    let Some((column, instead)) = columns
        .iter()
        .find_map(|column| Some((column, instead_of(column.kind)?)))
    else {
        return Ok(());
    };
    let given = overrides.get("varve.table.columns").map_or("", String::as_str);
    let message = format!(
        "Invalid value {given} for configuration varve.table.columns: columns are boolean, long, double or string so far; \
         give {} the type {instead}",
        column.name
    );
    Err(Refusal::new(ErrorCode::InvalidConfig, message))
}

/// What to write for a type that no column can have yet.
fn instead_of(kind: ColumnType) -> Option<&'static str> {
    match kind {
        ColumnType::Boolean | ColumnType::Long | ColumnType::Double | ColumnType::String => None,
        ColumnType::Int => Some("long"),
        ColumnType::Float => Some("double"),
        // Engines cast them.
        ColumnType::Date | ColumnType::Timestamp | ColumnType::Timestamptz => Some("string"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{config, with_topic};
    use super::*;

    fn judge(view: &State, resource: ConfigResource, ops: &[ConfigOp]) -> Result<(), Refusal> {
        check(
            &config(&[]),
            view,
            &Command::AlterConfigs {
                resource,
                ops: ops.to_vec(),
            },
        )
    }

    fn set(key: &str, value: &str) -> ConfigOp {
        ConfigOp::Set {
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    fn append(key: &str, value: &str) -> ConfigOp {
        ConfigOp::Append {
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn a_change_of_a_topic_is_judged_as_a_whole() {
        let view = with_topic("orders", 1);
        let topic = resource(&view, TOPIC, "orders").unwrap();
        let long = set("local.retention.ms", "99999999999");

        assert_eq!(judge(&view, topic, &[set("retention.ms", "60000")]), Ok(()));
        assert_eq!(judge(&view, topic, &[append("cleanup.policy", "delete")]), Ok(()));
        for (ops, error, word) in [
            (
                vec![set("retention.hours", "1")],
                ErrorCode::InvalidConfig,
                "retention.hours",
            ),
            (
                vec![set("retention.ms", "soon")],
                ErrorCode::InvalidConfig,
                "retention.ms",
            ),
            (
                vec![append("retention.ms", "1")],
                ErrorCode::InvalidConfig,
                "not LIST",
            ),
            (vec![long], ErrorCode::InvalidConfig, "local.retention.ms"),
            (
                vec![set("remote.storage.enable", "true")],
                ErrorCode::InvalidConfig,
                "varve.bucket",
            ),
            (
                vec![set("varve.table.enable", "true")],
                ErrorCode::InvalidConfig,
                "varve.bucket",
            ),
            (
                vec![set("retention.ms", "1"), set("retention.ms", "2")],
                ErrorCode::InvalidRequest,
                "duplicate config keys",
            ),
        ] {
            let refusal = judge(&view, topic, &ops).unwrap_err();
            assert_eq!(refusal.error, error, "{ops:?}");
            assert!(refusal.message().unwrap().contains(word), "{refusal:?}");
        }
    }

    #[test]
    fn a_column_type_that_would_quietly_be_another_is_refused() {
        let config = config(&[("varve.bucket", "file:///tmp/bucket")]);
        let view = with_topic("orders", 1);
        let judged = |columns: &str| {
            let pairs = [
                ("varve.table.enable", "true"),
                ("varve.table.value", "json"),
                ("varve.table.columns", columns),
            ];
            let overrides = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
            check_topic(&config, &view, &overrides.into_iter().collect(), false)
        };

        assert_eq!(judged("a:long, b:double, c:string, d:boolean"), Ok(()));
        for (column, instead) in [
            ("x:int", "long"),
            ("x:float", "double"),
            ("x:date", "string"),
            ("x:timestamp", "string"),
            ("x:timestamptz", "string"),
        ] {
            let refusal = judged(&format!("a:long, {column}")).unwrap_err();
            assert_eq!(refusal.error, ErrorCode::InvalidConfig, "{column}");
            assert!(
                refusal
                    .message()
                    .unwrap()
                    .ends_with(&format!("give x the type {instead}"))
            );
        }
    }

    #[test]
    fn a_running_broker_takes_the_defaults_of_topics_and_throttles_and_nothing_else() {
        let view = with_topic("orders", 1);
        let broker = resource(&view, BROKER, "1").unwrap();

        assert_eq!(judge(&view, broker, &[set("log.retention.ms", "60000")]), Ok(()));
        let throttle = set("leader.replication.throttled.rate", "1048576");
        assert_eq!(judge(&view, broker, std::slice::from_ref(&throttle)), Ok(()));
        let everybody = resource(&view, BROKER, "").unwrap();
        let unclean = set("unclean.leader.election.enable", "true");
        assert_eq!(
            judge(&view, everybody, &[unclean]),
            Ok(()),
            "together they can decide it"
        );
        let nobody = resource(&view, BROKER, "9").unwrap();
        assert_eq!(
            judge(&view, nobody, &[throttle]).unwrap_err().error,
            ErrorCode::BrokerIdNotRegistered
        );
        for (op, error) in [
            (
                set("leader.replication.throttled.rate", "-1"),
                ErrorCode::InvalidRequest,
            ),
            (
                set("follower.replication.throttled.rate", "fast"),
                ErrorCode::InvalidRequest,
            ),
            (set("log.dirs", "/data"), ErrorCode::InvalidRequest),
            (set("log.retention.hours", "1"), ErrorCode::InvalidRequest),
            (
                set("unclean.leader.election.enable", "true"),
                ErrorCode::InvalidRequest,
            ),
            (set("no.such.key", "1"), ErrorCode::InvalidConfig),
            (set("log.retention.ms", "soon"), ErrorCode::InvalidRequest),
            (set("log.cleanup.policy", "compact"), ErrorCode::InvalidRequest),
            (
                set("log.cleanup.policy", "compact,delete"),
                ErrorCode::InvalidRequest,
            ),
            (append("log.cleanup.policy", "compact"), ErrorCode::InvalidRequest),
        ] {
            assert_eq!(
                judge(&view, broker, std::slice::from_ref(&op)).unwrap_err().error,
                error,
                "{op:?}"
            );
        }
        let gone = ConfigOp::Delete {
            key: "no.such.key".to_owned(),
        };
        assert_eq!(judge(&view, broker, &[gone]), Ok(()));
    }

    #[test]
    fn resources_are_found_by_type_and_name() {
        let view = with_topic("orders", 1);

        assert_eq!(resource(&view, BROKER, "").unwrap(), ConfigResource::Broker(None));
        for (kind, name, error) in [
            (TOPIC, "payments", ErrorCode::UnknownTopicOrPartition),
            (BROKER, "one", ErrorCode::InvalidRequest),
            (99, "", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(
                resource(&view, kind, name).unwrap_err().error,
                error,
                "{kind} {name}"
            );
        }
    }

    #[tokio::test]
    async fn a_resource_named_twice_is_refused_once_and_changed_never() {
        let asked = ["a", "b", "a", "c", "a"];
        let mut changed = vec![];
        let outcomes = each_once(
            &asked,
            |name| (TOPIC, name),
            async |name| {
                changed.push(*name);
                Ok(())
            },
        )
        .await;

        let outcomes: Vec<_> = outcomes
            .into_iter()
            .map(|(name, outcome)| (*name, outcome.is_ok()))
            .collect();
        assert_eq!(outcomes, [("a", false), ("b", true), ("c", true)]);
        assert_eq!(changed, ["b", "c"]);
    }
}
