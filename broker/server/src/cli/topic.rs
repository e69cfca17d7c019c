//! `varve topic …`

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kafka_protocol::error::ResponseError;
use serde_json::{Value, json};

use super::client::{At, ConfigEntry, NewTopic, Topic};
use super::output::{self, Table, cell};
use super::{Cluster, key_value};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a topic.
    Create(Create),
    /// List the topics there are.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a topic's partitions, offsets and configuration.
    Describe(Describe),
    /// Change a topic's configuration, or let it grow.
    Alter(Alter),
    /// Delete the oldest records of a partition, up to an offset.
    Trim(Trim),
    /// Delete topics and all their records.
    #[command(visible_alias = "rm")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    name: String,
    /// How many partitions; the broker's num.partitions if left out.
    #[arg(long, short, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// On how many brokers; the broker's default.replication.factor if left out.
    #[arg(long, short, allow_negative_numbers = true, value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A topic configuration, such as retention.ms=86400000; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Be content if it exists already.
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// The brokers' own topics too.
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Describe {
    name: String,
    /// Every configuration, not only what differs from the broker's.
    #[arg(long)]
    all_configs: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Alter {
    name: String,
    /// Set a configuration; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Take a configuration back to its default; may be repeated.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Let it grow to this many partitions in all. Keys then move to other partitions.
    #[arg(long, short, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Trim {
    name: String,
    #[arg(long, short)]
    partition: i32,
    /// The first offset to keep; `end` deletes all there is.
    #[arg(long, value_name = "OFFSET")]
    before: String,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[arg(required = true)]
    names: Vec<String>,
    /// Be content if one does not exist.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(arguments) => create(arguments),
        Command::List(arguments) => list(&arguments),
        Command::Describe(arguments) => describe(&arguments),
        Command::Alter(arguments) => alter(arguments),
        Command::Trim(arguments) => trim(&arguments),
        Command::Delete(arguments) => delete(&arguments),
    }
}

fn create(arguments: Create) -> anyhow::Result<()> {
    let Create {
        name,
        partitions,
        replication_factor,
        config,
        if_not_exists,
        cluster,
    } = arguments;
    let mut client = cluster.connect()?;
    let new = NewTopic {
        name: &name,
        partitions,
        replication_factor,
        configs: config,
    };
    let created = match client.create_topic(&new) {
        Err(error) if if_not_exists && error.is_refused_with(ResponseError::TopicAlreadyExists) => false,
        outcome => outcome.map(|()| true)?,
    };
    let topic = client.topic(&name)?;
    let partitions = topic.partitions.len();
    if cluster.json {
        output::print_json(&json!({
            "topic": name, "created": created, "id": topic.id.to_string(), "partitions": partitions,
        }))?;
    } else if created {
        output::print(&format!(
            "created topic {name} with {}\n",
            counted(partitions, "partition")
        ))?;
    } else {
        output::print(&format!(
            "topic {name} exists, with {}\n",
            counted(partitions, "partition")
        ))?;
    }
    Ok(())
}

fn list(arguments: &List) -> anyhow::Result<()> {
    let mut topics = arguments.cluster.connect()?.topics()?;
    topics.retain(|topic| arguments.internal || !topic.internal);
    let replicas = |topic: &Topic| {
        topic
            .partitions
            .first()
            .map_or(0, |partition| partition.replicas.len())
    };
    if arguments.cluster.json {
        for topic in &topics {
            output::print_json(&json!({
                "topic": topic.name, "id": topic.id.to_string(), "partitions": topic.partitions.len(),
                "replication_factor": replicas(topic), "internal": topic.internal,
            }))?;
        }
        return Ok(());
    }
    let mut table = Table::new(["topic", "partitions", "replicas"]);
    for topic in &topics {
        table.row([
            topic.name.clone(),
            topic.partitions.len().to_string(),
            replicas(topic).to_string(),
        ]);
    }
    if table.is_empty() {
        output::print("no topics yet: `varve topic create NAME` makes one\n")?;
    } else {
        output::print(&table.render())?;
    }
    Ok(())
}

fn describe(arguments: &Describe) -> anyhow::Result<()> {
    let mut client = arguments.cluster.connect()?;
    let topic = client.topic(&arguments.name)?;
    let starts = client.ends(&topic, At::Earliest)?;
    let ends = client.ends(&topic, At::Latest)?;
    let bytes = client.local_bytes(&topic)?;
    let mut configs = client.topic_configs(&arguments.name)?;
    configs.retain(|entry| arguments.all_configs || entry.of_topic);
    let facts = Facts {
        topic,
        starts,
        ends,
        bytes,
    };
    if arguments.cluster.json {
        output::print_json(&facts.json(&configs))?;
    } else {
        output::print(&facts.text(&configs))?;
    }
    Ok(())
}

/// What `describe` tells.
struct Facts {
    topic: Topic,
    starts: BTreeMap<i32, i64>,
    ends: BTreeMap<i32, i64>,
    bytes: BTreeMap<i32, i64>,
}

impl Facts {
    fn json(&self, configs: &[ConfigEntry]) -> Value {
        let of = |map: &BTreeMap<i32, i64>, index| map.get(&index).copied();
        let partition = |partition: &super::client::Partition| {
            json!({
                "partition": partition.index, "leader": partition.leader, "replicas": partition.replicas,
                "in_sync": partition.in_sync, "log_start": of(&self.starts, partition.index),
                "log_end": of(&self.ends, partition.index), "local_bytes": of(&self.bytes, partition.index),
            })
        };
        let config = |entry: &ConfigEntry| {
            (
                entry.name.clone(),
                json!({ "value": entry.value, "source": entry.source }),
            )
        };
        json!({
            "topic": self.topic.name,
            "id": self.topic.id.to_string(),
            "internal": self.topic.internal,
            "partitions": self.topic.partitions.iter().map(partition).collect::<Vec<_>>(),
            "configs": configs.iter().map(config).collect::<serde_json::Map<_, _>>(),
        })
    }

    fn text(&self, configs: &[ConfigEntry]) -> String {
        let of = |map: &BTreeMap<i32, i64>, index| cell(map.get(&index));
        let ids = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        let mut table = Table::new([
            "partition",
            "leader",
            "replicas",
            "in sync",
            "log start",
            "log end",
            "local bytes",
        ]);
        for partition in &self.topic.partitions {
            table.row([
                partition.index.to_string(),
                cell(partition.leader),
                ids(&partition.replicas),
                ids(&partition.in_sync),
                of(&self.starts, partition.index),
                of(&self.ends, partition.index),
                of(&self.bytes, partition.index),
            ]);
        }
        let mut text = format!(
            "topic {}, id {}\n\n{}",
            self.topic.name,
            self.topic.id,
            table.render()
        );
        if !configs.is_empty() {
            let mut table = Table::new(["configuration", "value", "set in"]);
            for entry in configs {
                let value = entry.value.clone().unwrap_or_else(|| "(hidden)".to_owned());
                table.row([entry.name.clone(), value, entry.source.to_owned()]);
            }
            text.push('\n');
            text.push_str(&table.render());
        }
        text
    }
}

fn alter(arguments: Alter) -> anyhow::Result<()> {
    let Alter {
        name,
        config,
        unset,
        partitions,
        cluster,
    } = arguments;
    let mut changes: BTreeMap<_, _> = unset.into_iter().map(|key| (key, None)).collect();
    changes.extend(config.into_iter().map(|(key, value)| (key, Some(value))));
    anyhow::ensure!(
        !changes.is_empty() || partitions.is_some(),
        "nothing to change: pass --config KEY=VALUE, --unset KEY or --partitions N"
    );
    let mut client = cluster.connect()?;
    if !changes.is_empty() {
        client.alter_topic_configs(&name, &changes)?;
    }
    if let Some(count) = partitions {
        client.create_partitions(&name, count)?;
    }
    if cluster.json {
        output::print_json(&json!({ "topic": name, "configs": changes, "partitions": partitions }))?;
    } else {
        output::print(&format!("changed topic {name}\n"))?;
    }
    Ok(())
}

fn trim(arguments: &Trim) -> anyhow::Result<()> {
    let before = match arguments.before.as_str() {
        "end" => -1,
        digits => digits
            .parse()
            .ok()
            .filter(|offset| *offset >= 0)
            .ok_or_else(|| anyhow::anyhow!("--before takes an offset, or `end`, not '{digits}'"))?,
    };
    let mut client = arguments.cluster.connect()?;
    let topic = client.topic(&arguments.name)?;
    let starts = client.delete_records(&topic, &BTreeMap::from([(arguments.partition, before)]))?;
    let start = starts.get(&arguments.partition).copied().unwrap_or(before);
    if arguments.cluster.json {
        output::print_json(
            &json!({ "topic": topic.name, "partition": arguments.partition, "log_start": start }),
        )?;
    } else {
        output::print(&format!(
            "{}-{} now begins at offset {start}\n",
            topic.name, arguments.partition
        ))?;
    }
    Ok(())
}

fn delete(arguments: &Delete) -> anyhow::Result<()> {
    let mut client = arguments.cluster.connect()?;
    for name in &arguments.names {
        let deleted = match client.delete_topic(name) {
            Err(error)
                if arguments.if_exists && error.is_refused_with(ResponseError::UnknownTopicOrPartition) =>
            {
                false
            }
            outcome => outcome.map(|()| true)?,
        };
        if arguments.cluster.json {
            output::print_json(&json!({ "topic": name, "deleted": deleted }))?;
        } else if deleted {
            output::print(&format!("deleted topic {name}\n"))?;
        } else {
            output::print(&format!("there is no topic {name}\n"))?;
        }
    }
    Ok(())
}

/// "1 partition", "3 partitions".
fn counted(count: usize, what: &str) -> String {
    if count == 1 {
        format!("1 {what}")
    } else {
        format!("{count} {what}s")
    }
}
