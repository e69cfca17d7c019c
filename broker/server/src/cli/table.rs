//! `varve table …`: topics as Iceberg tables, seen from their files in the bucket.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use varve_cluster::TopicId;
use varve_lakehouse_sink::{PartitionAudit, TableReader};
use varve_log::Offset;

use super::Cluster;
use super::bucket::{self, Metadata, Tables};
use super::client::{At, Client};
use super::output::{self, Table, cell};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show a table's rows, files, columns and how far it has come.
    Describe(OfTopic),
    /// Read every row and check that each offset is there exactly once.
    Audit(OfTopic),
}

#[derive(Debug, Args)]
pub(super) struct OfTopic {
    topic: String,
    #[command(flatten)]
    bucket: bucket::Arguments,
    #[command(flatten)]
    cluster: Cluster,
}

pub(super) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Describe(arguments) => describe(&arguments),
        Command::Audit(arguments) => audit(&arguments),
    }
}

impl OfTopic {
    /// The newest version of the table, and what reads it.
    fn open(&self) -> anyhow::Result<(Metadata, TableReader)> {
        let config = self.bucket.locate(|| self.cluster.connect())?;
        bucket::block_on(async {
            let tables = Tables::open(&config).await?;
            let metadata = tables.newest(&self.topic).await?.with_context(|| {
                format!(
                    "topic '{0}' has no table in {1}: `varve topic alter {0} --config varve.table.enable=true` \
                     makes one",
                    self.topic, config.url
                )
            })?;
            let reader = tables.reader(&metadata).await?;
            Ok((metadata, reader))
        })
    }
}

fn describe(arguments: &OfTopic) -> anyhow::Result<()> {
    let (metadata, reader) = arguments.open()?;
    let columns = columns(&metadata.json);
    let next = next_offsets(&metadata.json);
    let snapshots = metadata.json["snapshots"].as_array().map_or(0, Vec::len);
    if arguments.cluster.json {
        let columns: serde_json::Map<_, _> = columns
            .into_iter()
            .map(|(name, kind)| (name, kind.into()))
            .collect();
        output::print_json(&json!({
            "topic": arguments.topic, "metadata": metadata.location, "rows": reader.rows(), "files": reader.files(),
            "snapshots": snapshots, "next_offsets": next, "columns": columns,
        }))?;
        return Ok(());
    }
    let mut table = Table::new(["column", "type"]);
    for (name, kind) in columns {
        table.row([name, kind]);
    }
    let next: Vec<_> = next
        .iter()
        .map(|(partition, offset)| format!("{partition}: {offset}"))
        .collect();
    output::print(&format!(
        "metadata   {}\nrows       {}\nfiles      {}\nsnapshots  {snapshots}\ncomes next {}\n\n{}",
        metadata.location,
        output::grouped(reader.rows()),
        reader.files(),
        next.join(", "),
        table.render()
    ))?;
    Ok(())
}

/// Names and types of the current schema, in its order.
fn columns(metadata: &Value) -> Vec<(String, String)> {
    let current = &metadata["current-schema-id"];
    let schemas = metadata["schemas"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let schema = schemas.iter().find(|schema| schema["schema-id"] == *current);
    let fields = schema.and_then(|schema| schema["fields"].as_array());
    let column = |field: &Value| {
        let kind = match &field["type"] {
            Value::String(name) => name.clone(),
            nested => nested["type"].as_str().unwrap_or("nested").to_owned(),
        };
        (field["name"].as_str().unwrap_or_default().to_owned(), kind)
    };
    fields
        .map(|fields| fields.iter().map(column).collect())
        .unwrap_or_default()
}

/// The offset each partition goes on from, as the table itself says.
fn next_offsets(metadata: &Value) -> BTreeMap<i32, i64> {
    let text = metadata["properties"]["varve.offsets"].as_str().unwrap_or("{}");
    serde_json::from_str(text).unwrap_or_default()
}

/// Where the log of each partition begins and ends.
type Bounds = BTreeMap<i32, (Offset, Offset)>;

fn audit(arguments: &OfTopic) -> anyhow::Result<()> {
    let (metadata, reader) = arguments.open()?;
    let topic_id = metadata.topic_id()?;
    let mut audits = bucket::block_on(async { Ok(reader.audit(TopicId::new(topic_id)).await?) })?;
    let bounds = if arguments.bucket.asks_cluster() {
        log_bounds(&mut arguments.cluster.connect()?, &arguments.topic)?
    } else {
        Bounds::new()
    };
    for (index, audit) in &mut audits {
        if let Some((start, _)) = bounds.get(index) {
            *audit = audit.against_log(*start);
        }
    }
    let faults = audits.values().map(faults).sum::<u64>();
    if arguments.cluster.json {
        let partition = |(index, audit): (&i32, &PartitionAudit)| {
            json!({
                "partition": index, "rows": audit.rows, "first": audit.first.value(), "last": audit.last.value(),
                "duplicates": audit.duplicates, "missing": audit.missing,
                "next": audit.next.map(Offset::value),
                "log_start": bounds.get(index).map(|(start, _)| start.value()),
                "log_end": bounds.get(index).map(|(_, end)| end.value()),
            })
        };
        output::print_json(&json!({
            "topic": arguments.topic, "metadata": metadata.location, "rows": reader.rows(), "exactly_once": faults == 0,
            "to_come": (!bounds.is_empty()).then(|| to_come(&audits, &bounds)),
            "partitions": audits.iter().map(partition).collect::<Vec<_>>(),
        }))?;
    } else {
        output::print(&audit_text(&metadata, &audits, &bounds, faults))?;
    }
    anyhow::ensure!(
        faults == 0,
        "the table does not hold every offset exactly once: {faults} faults"
    );
    Ok(())
}

fn log_bounds(client: &mut Client, topic: &str) -> anyhow::Result<Bounds> {
    let topic = client.topic(topic)?;
    let (starts, ends) = (
        client.ends(&topic, At::Earliest)?,
        client.ends(&topic, At::Latest)?,
    );
    let both =
        |(index, start): (i32, i64)| Some((index, (Offset::new(start), Offset::new(*ends.get(&index)?))));
    Ok(starts.into_iter().filter_map(both).collect())
}

/// Offsets of the log that the table has not reached.
fn to_come(audits: &BTreeMap<i32, PartitionAudit>, bounds: &Bounds) -> u64 {
    let behind = |(index, (start, end)): (&i32, &(Offset, Offset))| {
        let next = audits.get(index).and_then(|audit| audit.next).unwrap_or(*start);
        u64::try_from(end.since(next.max(*start))).unwrap_or(0)
    };
    bounds.iter().map(behind).sum()
}

/// Rows that are there twice, offsets that are not there, and rows beyond what the table says it holds.
/// A compacted or transactional topic has offsets without records: those show as missing, truly.
fn faults(audit: &PartitionAudit) -> u64 {
    let beyond = audit.next.is_none_or(|next| next <= audit.last);
    audit.duplicates + audit.missing + u64::from(beyond && audit.rows > 0)
}

fn audit_text(
    metadata: &Metadata,
    audits: &BTreeMap<i32, PartitionAudit>,
    bounds: &Bounds,
    faults: u64,
) -> String {
    let mut table = Table::new([
        "partition",
        "rows",
        "first",
        "last",
        "duplicates",
        "missing",
        "comes next",
        "log",
    ]);
    for (index, audit) in audits {
        let log = bounds.get(index).map(|(start, end)| format!("{start} to {end}"));
        table.row([
            index.to_string(),
            audit.rows.to_string(),
            audit.first.to_string(),
            audit.last.to_string(),
            audit.duplicates.to_string(),
            audit.missing.to_string(),
            cell(audit.next),
            cell(log),
        ]);
    }
    let verdict = match (faults, to_come(audits, bounds)) {
        (0, 0) => "every offset is there exactly once".to_owned(),
        (0, behind) => {
            format!("every offset so far is there exactly once; {behind} of the log are not in the table yet")
        }
        (faults, 0) => format!("{faults} faults"),
        (faults, behind) => format!("{faults} faults; {behind} offsets of the log are not in the table yet"),
    };
    format!("{}\n\n{}\n{verdict}\n", metadata.location, table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> PartitionAudit {
        let next = Some(Offset::new(10));
        PartitionAudit {
            rows: 10,
            first: Offset::new(0),
            last: Offset::new(9),
            duplicates: 0,
            missing: 0,
            next,
        }
    }

    #[test]
    fn a_row_beyond_what_the_table_says_it_holds_is_a_fault() {
        assert_eq!(faults(&sound()), 0);
        assert_eq!(
            faults(&PartitionAudit {
                next: Some(Offset::new(9)),
                ..sound()
            }),
            1
        );
        assert_eq!(
            faults(&PartitionAudit {
                next: None,
                ..sound()
            }),
            1
        );
        assert_eq!(
            faults(&PartitionAudit {
                missing: 2,
                duplicates: 1,
                ..sound()
            }),
            3
        );
    }

    #[test]
    fn what_the_log_has_and_the_table_has_not_reached_is_still_to_come() {
        let audits = BTreeMap::from([(0, sound())]);
        let at = |start, end| (Offset::new(start), Offset::new(end));

        assert_eq!(to_come(&audits, &Bounds::new()), 0);
        assert_eq!(to_come(&audits, &Bounds::from([(0, at(0, 10))])), 0);
        // Partition 1 has no row yet, and some of it is gone already.
        assert_eq!(
            to_come(&audits, &Bounds::from([(0, at(3, 14)), (1, at(5, 8))])),
            7
        );
    }

    #[test]
    fn columns_are_those_of_the_current_schema() {
        let metadata = json!({ "current-schema-id": 1, "schemas": [
            { "schema-id": 0, "fields": [] },
            { "schema-id": 1, "fields": [
                { "name": "offset", "type": "long" }, { "name": "headers", "type": { "type": "list" } } ] } ] });

        let expected = [("offset", "long"), ("headers", "list")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(columns(&metadata), expected);
    }
}
