//! `varve tier …`: which part of a topic is where.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{At, Client, Topic};
use super::output::{self, Table, cell};
use super::{Cluster, http};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show what of each partition is on local disk and what is in the bucket.
    Describe(Describe),
}

#[derive(Debug, Args)]
pub(super) struct Describe {
    topic: String,
    /// The node's HTTP listener, for the bytes in the bucket.
    #[arg(long, env = "VARVE_HTTP", value_name = "URL")]
    http: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Describe(arguments) => describe(&arguments),
    }
}

/// The offsets that divide a partition, left to right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seams {
    pub(super) log_start: i64,
    /// The first offset that is on local disk.
    pub(super) local_start: i64,
    /// Behind the last offset that is in the bucket.
    pub(super) tier_end: i64,
    pub(super) log_end: i64,
}

/// Asks the leaders where each partition's seams are.
pub(super) fn seams(client: &mut Client, topic: &Topic) -> anyhow::Result<BTreeMap<i32, Seams>> {
    let log_start = client.ends(topic, At::Earliest)?;
    let local_start = client.ends(topic, At::EarliestLocal)?;
    let last_tiered = client.offsets(topic, At::LatestTiered)?;
    let log_end = client.ends(topic, At::Latest)?;
    let of = |map: &BTreeMap<i32, i64>, index: i32| map.get(&index).copied().unwrap_or(0);
    let seams = |index: i32| {
        let log_start = of(&log_start, index);
        let last_tiered = last_tiered.get(&index).and_then(|found| found.offset);
        let seams = Seams {
            log_start,
            local_start: of(&local_start, index),
            // Nothing in the bucket yet: it ends where the log begins.
            tier_end: last_tiered.map_or(log_start, |last| last + 1),
            log_end: of(&log_end, index),
        };
        (index, seams)
    };
    Ok(topic.indices().map(seams).collect())
}

/// Bytes each partition of a topic has in the bucket, from a node's `/tier` page.
pub(super) fn bytes_in_bucket(base: &str, topic: &str) -> anyhow::Result<BTreeMap<i32, u64>> {
    let page: Vec<Value> = serde_json::from_str(&http::get(base, "/tier")?)?;
    let of_topic = page.iter().filter(|one| one["topic"] == topic);
    let bytes = |one: &Value| {
        Some((
            i32::try_from(one["partition"].as_i64()?).ok()?,
            one["tier_bytes"].as_u64()?,
        ))
    };
    Ok(of_topic.filter_map(bytes).collect())
}

fn describe(arguments: &Describe) -> anyhow::Result<()> {
    let mut client = arguments.cluster.connect()?;
    let topic = client.topic(&arguments.topic)?;
    let seams = seams(&mut client, &topic)?;
    let local = client.local_bytes(&topic)?;
    let tiered = match &arguments.http {
        Some(base) => Some(bytes_in_bucket(base, &topic.name)?),
        None => None,
    };
    let in_bucket = |index| tiered.as_ref().and_then(|bytes| bytes.get(&index).copied());
    if arguments.cluster.json {
        for (index, one) in &seams {
            output::print_json(&json!({
                "topic": topic.name, "partition": index, "log_start": one.log_start,
                "local_start": one.local_start, "tier_end": one.tier_end, "log_end": one.log_end,
                "local_bytes": local.get(index), "bucket_bytes": in_bucket(*index),
            }))?;
        }
        return Ok(());
    }
    let mut table = Table::new([
        "partition",
        "log start",
        "local start",
        "tier end",
        "log end",
        "local bytes",
        "bucket bytes",
    ]);
    for (index, one) in &seams {
        table.row([
            index.to_string(),
            one.log_start.to_string(),
            one.local_start.to_string(),
            one.tier_end.to_string(),
            one.log_end.to_string(),
            cell(local.get(index)),
            cell(in_bucket(*index)),
        ]);
    }
    output::print(&table.render())?;
    if tiered.is_none() {
        output::remark("(bytes in the bucket: pass the node's HTTP address with --http)");
    }
    Ok(())
}
