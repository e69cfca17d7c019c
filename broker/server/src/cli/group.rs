//! `varve group …`

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use kafka_protocol::error::ResponseError;
use serde_json::json;

use super::Cluster;
use super::client::{At, Client, Group};
use super::consume::place;
use super::output::{self, Table, cell};
use super::when::Place;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the groups there are.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a group's members, how far it has come and how far it lags behind.
    Describe(Describe),
    /// Move a group to another place in a topic. It must have no live members.
    Reset(Reset),
    /// Delete groups and what they have committed.
    #[command(visible_alias = "rm")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Describe {
    group: String,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Reset {
    group: String,
    #[arg(long, short)]
    topic: String,
    /// Where to: beginning, end, an offset, @MILLISECONDS, or a time such as 2026-07-01T12:30:00Z.
    #[arg(long, value_name = "PLACE")]
    to: Place,
    /// Only these partitions; may be repeated.
    #[arg(long, short)]
    partition: Vec<i32>,
    /// Show what would change and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[arg(required = true)]
    groups: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(arguments) => list(&arguments),
        Command::Describe(arguments) => describe(&arguments),
        Command::Reset(arguments) => reset(&arguments),
        Command::Delete(arguments) => delete(&arguments),
    }
}

fn list(arguments: &List) -> anyhow::Result<()> {
    let groups = arguments.cluster.connect()?.groups()?;
    if arguments.cluster.json {
        for group in groups {
            output::print_json(&json!({
                "group": group.id, "state": group.state, "protocol_type": group.protocol_type,
            }))?;
        }
        return Ok(());
    }
    let mut table = Table::new(["group", "state", "protocol type"]);
    for group in groups {
        table.row([group.id, group.state, group.protocol_type]);
    }
    if table.is_empty() {
        output::print(
            "no groups yet: one appears when a consumer commits, as `varve consume --group` does\n",
        )?;
    } else {
        output::print(&table.render())?;
    }
    Ok(())
}

fn describe(arguments: &Describe) -> anyhow::Result<()> {
    let mut client = arguments.cluster.connect()?;
    let group = client.group(&arguments.group)?;
    let lags = lags(&mut client, &group)?;
    if group.state == "Dead" && lags.is_empty() {
        anyhow::bail!(
            "there is no group '{}': `varve group list` shows what there is",
            arguments.group
        );
    }
    if arguments.cluster.json {
        output::print_json(&group_json(&group, &lags))?;
    } else {
        output::print(&group_text(&group, &lags))?;
    }
    Ok(())
}

/// How far a group is in one partition.
struct Lag {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    /// `None` when the topic is gone.
    end: Option<i64>,
    member: Option<String>,
}

impl Lag {
    fn records(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }
}

/// Every partition that the group has committed in or is reading.
fn lags(client: &mut Client, group: &Group) -> anyhow::Result<Vec<Lag>> {
    let committed = client.committed(&group.id)?;
    let members: BTreeMap<_, _> = group
        .members
        .iter()
        .flat_map(|member| {
            member
                .assigned
                .iter()
                .map(move |partition| (partition.clone(), member))
        })
        .collect();
    let partitions: BTreeSet<_> = committed.keys().chain(members.keys()).cloned().collect();
    let names: BTreeSet<_> = partitions.iter().map(|(topic, _)| topic.clone()).collect();
    let mut ends = BTreeMap::new();
    for name in names {
        match client.topic(&name) {
            Ok(topic) => {
                let of_topic = client.ends(&topic, At::Latest)?;
                ends.extend(
                    of_topic
                        .into_iter()
                        .map(|(index, end)| ((name.clone(), index), end)),
                );
            }
            Err(error) if error.is_refused_with(ResponseError::UnknownTopicOrPartition) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let lag = |partition: (String, i32)| Lag {
        committed: committed.get(&partition).copied(),
        end: ends.get(&partition).copied(),
        member: members
            .get(&partition)
            .map(|member| format!("{} @ {}", member.client_id, member.host)),
        topic: partition.0,
        partition: partition.1,
    };
    Ok(partitions.into_iter().map(lag).collect())
}

fn group_json(group: &Group, lags: &[Lag]) -> serde_json::Value {
    let member = |member: &super::client::Member| {
        json!({ "member": member.id, "client_id": member.client_id, "host": member.host,
                "assigned": member.assigned.iter().map(|(topic, index)| json!([topic, index])).collect::<Vec<_>>() })
    };
    let partition = |lag: &Lag| {
        json!({ "topic": lag.topic, "partition": lag.partition, "committed": lag.committed, "log_end": lag.end,
                "lag": lag.records() })
    };
    json!({
        "group": group.id,
        "state": group.state,
        "assignor": group.assignor,
        "members": group.members.iter().map(member).collect::<Vec<_>>(),
        "partitions": lags.iter().map(partition).collect::<Vec<_>>(),
        "lag": lags.iter().filter_map(Lag::records).sum::<i64>(),
    })
}

fn group_text(group: &Group, lags: &[Lag]) -> String {
    let mut table = Table::new(["topic", "partition", "committed", "log end", "lag", "member"]);
    for lag in lags {
        table.row([
            lag.topic.clone(),
            lag.partition.to_string(),
            cell(lag.committed),
            cell(lag.end),
            cell(lag.records()),
            cell(lag.member.as_ref()),
        ]);
    }
    let assignor = if group.assignor.is_empty() {
        String::new()
    } else {
        format!(", assignor {}", group.assignor)
    };
    let total: i64 = lags.iter().filter_map(Lag::records).sum();
    format!(
        "group {}: {}, members {}{assignor}, lag {total}\n\n{}",
        group.id,
        group.state,
        group.members.len(),
        table.render()
    )
}

fn reset(arguments: &Reset) -> anyhow::Result<()> {
    let mut client = arguments.cluster.connect()?;
    let topic = client.topic(&arguments.topic)?;
    let before = client.committed(&arguments.group)?;
    let mut after = place(&mut client, &topic, arguments.to)?;
    after.retain(|index, _| arguments.partition.is_empty() || arguments.partition.contains(index));
    anyhow::ensure!(
        !after.is_empty(),
        "topic '{}' has none of the partitions asked for",
        topic.name
    );
    if !arguments.dry_run {
        let offsets = after
            .iter()
            .map(|(index, offset)| ((topic.name.clone(), *index), *offset))
            .collect();
        client.commit(&arguments.group, &offsets)?;
    }
    let was = |index: i32| before.get(&(topic.name.clone(), index)).copied();
    if arguments.cluster.json {
        for (index, offset) in &after {
            output::print_json(&json!({
                "group": arguments.group, "topic": topic.name, "partition": index, "before": was(*index),
                "after": offset, "changed": !arguments.dry_run,
            }))?;
        }
        return Ok(());
    }
    let mut table = Table::new(["topic", "partition", "before", "after"]);
    for (index, offset) in &after {
        let before = cell(was(*index));
        table.row([topic.name.clone(), index.to_string(), before, offset.to_string()]);
    }
    output::print(&table.render())?;
    if arguments.dry_run {
        output::print("nothing was changed: this was a dry run\n")?;
    }
    Ok(())
}

fn delete(arguments: &Delete) -> anyhow::Result<()> {
    let mut client = arguments.cluster.connect()?;
    for group in &arguments.groups {
        client.delete_group(group)?;
        if arguments.cluster.json {
            output::print_json(&json!({ "group": group, "deleted": true }))?;
        } else {
            output::print(&format!("deleted group {group}\n"))?;
        }
    }
    Ok(())
}
