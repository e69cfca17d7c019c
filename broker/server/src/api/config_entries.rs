//! What a configuration key is set to, and where that comes from: the topic, this broker, all brokers, the
//! file, or the default, in Kafka's order.

use std::borrow::Cow;
use std::collections::BTreeSet;

use varve_cluster::BrokerId;
use varve_cluster::controller::State;
use varve_cluster::topic_config::{self, Kind, Overrides, Synonym as BrokerKey};

use crate::config::{Config, keys};
use crate::topic_settings;

/// Kafka's numbers for where a value comes from; a smaller one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
}

impl Source {
    pub(super) const fn code(self) -> i8 {
        self as i8
    }
}

/// One place where the value could come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Synonym {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) source: Source,
}

/// One key as DescribeConfigs tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Cow<'static, str>,
    pub(super) value: Option<String>,
    pub(super) source: Source,
    /// Cannot be changed while the broker runs.
    pub(super) read_only: bool,
    pub(super) kind: i8,
    pub(super) doc: Cow<'static, str>,
    /// From the one in force to the default.
    pub(super) synonyms: Vec<Synonym>,
}

/// Every key of a topic that sets `overrides`.
pub(super) fn of_topic(config: &Config, view: &State, overrides: &Overrides) -> Vec<Entry> {
    let told = |key: &&topic_config::Key| !key.hidden || overrides.contains_key(key.name);
    topic_config::KEYS
        .iter()
        .filter(told)
        .map(|key| topic_entry(config, view, overrides, key))
        .collect()
}

fn topic_entry(
    config: &Config,
    view: &State,
    overrides: &Overrides,
    key: &'static topic_config::Key,
) -> Entry {
    let inherited = key.inherited(&|broker_key| topic_settings::broker_value(config, view, broker_key));
    let own = overrides.get(key.name);
    let own_synonym = own.map(|value| Synonym {
        name: key.name,
        value: value.clone(),
        source: Source::Topic,
    });
    let names: Vec<&'static str> = key.synonyms.iter().map(|synonym| synonym.name).collect();
    let mut synonyms: Vec<Synonym> = own_synonym.into_iter().chain(set(config, view, &names)).collect();
    // Of several broker keys the coarsest one carries the default (`log.retention.hours`); like Kafka we tell it
    // only behind a value that is set.
    if let Some(last) = key.synonyms.last()
        && (key.synonyms.len() == 1 || !synonyms.is_empty())
    {
        synonyms.push(default_of(key, last));
    }
    Entry {
        name: key.name.into(),
        value: Some(
            own.cloned()
                .or_else(|| inherited.ok())
                .unwrap_or_else(|| key.default.to_owned()),
        ),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        read_only: false,
        kind: kind_code(key.kind),
        doc: key.doc.into(),
        synonyms,
    }
}

/// The default, as the broker key that carries it says it.
fn default_of(key: &topic_config::Key, broker_key: &BrokerKey) -> Synonym {
    Synonym {
        name: broker_key.name,
        value: unscaled(key.default, broker_key),
        source: Source::Default,
    }
}

fn unscaled(value: &str, broker_key: &BrokerKey) -> String {
    match value.parse::<i64>() {
        Ok(number) if broker_key.scale > 1 => (number / broker_key.scale).to_string(),
        Ok(_) | Err(_) => value.to_owned(),
    }
}

/// One source's value of a broker key.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where any of the broker keys `names` is set on this broker, strongest first.
fn set(config: &Config, view: &State, names: &[&'static str]) -> Vec<Synonym> {
    let me = BrokerId::new(config.node_id);
    let sources: [(Source, Lookup<'_>); 3] = [
        (Source::DynamicBroker, &|key| {
            view.broker_configs.get(&me)?.get(key).cloned()
        }),
        (Source::DynamicDefaultBroker, &|key| {
            view.default_broker_configs.get(key).cloned()
        }),
        (Source::StaticBroker, &|key| given(config, key)),
    ];
    let of_source = |(source, value): (Source, Lookup<'_>)| {
        let found = names.iter().filter_map(|name| {
            Some(Synonym {
                name,
                value: value(name)?,
                source,
            })
        });
        found.collect::<Vec<_>>()
    };
    sources.into_iter().flat_map(of_source).collect()
}

/// What stands in the file, the environment or the flags.
fn given(config: &Config, key: &str) -> Option<String> {
    if key == topic_settings::TIERING_KEY {
        return config.bucket.as_ref().map(|_| "true".to_owned());
    }
    config.given.get(key).cloned()
}

/// Every key of this broker, by name.
pub(super) fn of_broker(config: &Config, view: &State) -> Vec<Entry> {
    let own = keys::KEYS.iter().map(|key| broker_entry(config, view, key));
    let names: BTreeSet<&'static str> = topic_config::broker_default_keys().collect();
    let for_topics = names
        .into_iter()
        .map(|name| topic_default_entry(config, view, name));
    let mut entries: Vec<Entry> = own.chain(for_topics).collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn broker_entry(config: &Config, view: &State, key: &'static keys::Key) -> Entry {
    let mut synonyms = set(config, view, &[key.name]);
    let default = |value: &str| Synonym {
        name: key.name,
        value: value.to_owned(),
        source: Source::Default,
    };
    synonyms.extend(key.default.map(default));
    entry_of(key.name, synonyms, key.kind as i8, key.doc.into())
}

/// A broker key that gives topics a default.
fn topic_default_entry(config: &Config, view: &State, name: &'static str) -> Entry {
    let mut synonyms = set(config, view, &[name]);
    let Some((key, broker_key)) = topic_key_of(name) else {
        unreachable!("a topic key gave out the name of this broker key: {name}")
    };
    let carries_default = key.synonyms.last().is_some_and(|last| last.name == name);
    synonyms.extend(carries_default.then(|| default_of(key, broker_key)));
    // Kafka's keys in minutes and hours are 32 bits wide, whatever the topic's key is.
    let kind = if broker_key.scale > 1 { Kind::Int } else { key.kind };
    let doc = format!("Default for topics ({}): {}", key.name, key.doc);
    entry_of(name, synonyms, kind_code(kind), doc.into())
}

fn entry_of(name: &'static str, synonyms: Vec<Synonym>, kind: i8, doc: Cow<'static, str>) -> Entry {
    Entry {
        name: name.into(),
        value: synonyms.first().map(|synonym| synonym.value.clone()),
        source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
        read_only: !is_dynamic(name),
        kind,
        doc,
        synonyms,
    }
}

/// What all brokers share dynamically: only what is set.
pub(super) fn of_all_brokers(config: &Config, view: &State) -> Vec<Entry> {
    let shared = |entry: Entry| {
        let value = view.default_broker_configs.get(&*entry.name)?.clone();
        let synonyms = entry.synonyms.into_iter();
        let synonyms = synonyms
            .filter(|synonym| synonym.source == Source::DynamicDefaultBroker)
            .collect();
        Some(Entry {
            value: Some(value),
            source: Source::DynamicDefaultBroker,
            synonyms,
            ..entry
        })
    };
    of_broker(config, view).into_iter().filter_map(shared).collect()
}

/// Whether a broker takes a new value of the key while it runs: the defaults of topics, in the topic's own unit, and the
/// throttles of copying.
pub(super) fn is_dynamic(name: &str) -> bool {
    let is_default = || topic_key_of(name).is_some_and(|(_, synonym)| synonym.scale == 1);
    keys::check_dynamic(name, "").is_some() || (name != topic_settings::TIERING_KEY && is_default())
}

fn topic_key_of(broker_key: &str) -> Option<(&'static topic_config::Key, &'static BrokerKey)> {
    topic_config::KEYS.iter().find_map(|key| {
        let synonym = key.synonyms.iter().find(|synonym| synonym.name == broker_key)?;
        Some((key, synonym))
    })
}

/// Whether the value of a topic or broker key is a list.
pub(super) fn is_list(name: &str) -> bool {
    let of_topic = topic_config::find(name).or_else(|| topic_key_of(name).map(|(key, _)| key));
    of_topic.is_some_and(|key| key.kind == Kind::List)
        || keys::find(name).is_some_and(|key| key.kind == keys::Kind::List)
}

fn kind_code(kind: Kind) -> i8 {
    let kind = match kind {
        Kind::Boolean => keys::Kind::Boolean,
        Kind::Int => keys::Kind::Int,
        Kind::Long => keys::Kind::Long,
        Kind::List => keys::Kind::List,
        Kind::String => keys::Kind::String,
    };
    kind as i8
}

#[cfg(test)]
mod tests {
    use super::super::test_cluster::{config, with_topic};
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> Overrides {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn entry(entries: Vec<Entry>, name: &str) -> Entry {
        entries.into_iter().find(|entry| entry.name == name).unwrap()
    }

    #[test]
    fn a_value_names_every_place_it_could_come_from_strongest_first() {
        let config = config(&[("log.retention.ms", "5000"), ("log.retention.hours", "2")]);
        let mut view = with_topic("orders", 1);
        view.default_broker_configs = overrides(&[("log.retention.ms", "4000")]);

        let own = of_topic(&config, &view, &overrides(&[("retention.ms", "3000")]));
        let retention = entry(own, "retention.ms");

        assert_eq!(
            (retention.value.as_deref(), retention.source),
            (Some("3000"), Source::Topic)
        );
        let told: Vec<_> = retention
            .synonyms
            .iter()
            .map(|s| (s.name, s.value.as_str(), s.source.code()))
            .collect();
        assert_eq!(
            told,
            [
                ("retention.ms", "3000", 1),
                ("log.retention.ms", "4000", 3),
                ("log.retention.ms", "5000", 4),
                ("log.retention.hours", "2", 4),
                ("log.retention.hours", "168", 5),
            ]
        );
    }

    #[test]
    fn a_value_of_the_broker_s_file_is_told_in_the_topic_s_unit() {
        let entries = of_topic(
            &config(&[("log.retention.hours", "2")]),
            &with_topic("orders", 1),
            &overrides(&[]),
        );
        let retention = entry(entries, "retention.ms");

        assert_eq!(
            (retention.value.as_deref(), retention.source),
            (Some("7200000"), Source::StaticBroker)
        );
    }

    #[test]
    fn hidden_keys_are_told_only_where_they_are_set() {
        let (config, view) = (config(&[]), with_topic("orders", 1));
        let hidden = |set: &[(&str, &str)]| {
            let entries = of_topic(&config, &view, &overrides(set));
            entries.iter().any(|entry| entry.name == "internal.segment.bytes")
        };
        assert!(!hidden(&[]));
        assert!(hidden(&[("internal.segment.bytes", "1000")]));
    }

    #[test]
    fn a_broker_has_each_key_once_and_says_which_can_change() {
        let entries = of_broker(&config(&[]), &with_topic("orders", 1));

        assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(entry(entries.clone(), "log.dirs").read_only);
        assert!(entry(entries.clone(), "log.retention.hours").read_only);
        assert!(!entry(entries.clone(), "log.retention.ms").read_only);
        assert!(!entry(entries, "follower.replication.throttled.rate").read_only);
    }

    #[test]
    fn the_defaults_of_all_brokers_are_told_only_where_set() {
        let mut view = with_topic("orders", 1);
        assert_eq!(of_all_brokers(&config(&[]), &view), []);
        view.default_broker_configs = overrides(&[("log.retention.ms", "4000")]);

        let entries = of_all_brokers(&config(&[("log.retention.ms", "5000")]), &view);

        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].value.as_deref(), Some("4000"));
        assert_eq!(entries[0].synonyms.len(), 1);
    }
}
