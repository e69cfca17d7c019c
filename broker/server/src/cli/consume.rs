//! `varve consume`: a topic's records, from any point of its history on.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{At, Client, Consumer, FetchLimits, Fetched, Record, Topic};
use super::output::{self, json_bytes};
use super::when::Place;
use super::{Cluster, progress};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    topic: String,
    /// Where to begin: beginning, end, an offset, @MILLISECONDS, or a time such as 2026-07-01T12:30:00Z.
    /// Without it: where the group was, or else the beginning.
    #[arg(long, value_name = "PLACE")]
    from: Option<Place>,
    /// Stop after this many records.
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Stop at what was the end when the command began, instead of waiting for more.
    #[arg(long, short = 'e')]
    exit: bool,
    /// Go on where this group was, and commit its progress. The group must have no other members.
    #[arg(long, short)]
    group: Option<String>,
    /// Only these partitions; may be repeated.
    #[arg(long, short)]
    partition: Vec<i32>,
    /// `value` prints the value and a line feed, `json` all there is to a record.
    #[arg(long, short, value_enum, default_value = "value")]
    format: Format,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Value,
    Json,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let format = if arguments.cluster.json {
        Format::Json
    } else {
        arguments.format
    };
    let mut client = arguments.cluster.connect()?;
    let topic = chosen(client.topic(&arguments.topic)?, &arguments.partition)?;
    let starts = starts(&mut client, &topic, &arguments)?;
    let stops = if arguments.exit {
        client.ends(&topic, At::Latest)?
    } else {
        BTreeMap::new()
    };
    let mut printer = Printer {
        out: BufWriter::with_capacity(1 << 18, io::stdout().lock()),
        topic: topic.name.clone(),
        format,
        left: arguments.count.unwrap_or(u64::MAX),
        positions: starts.clone(),
        unopened: 0,
    };
    let mut committed = BTreeMap::new();
    let mut consumer = Consumer::new(&mut client, &topic.name, starts, FetchLimits::default())?;
    let bar = progress::counter("records read", io::stdout().is_terminal());
    leave_finished(&mut consumer, &stops);
    while printer.left > 0 && !consumer.positions().is_empty() {
        for fetched in consumer.poll(&mut client)? {
            let stop = stops.get(&fetched.partition).copied().unwrap_or(i64::MAX);
            bar.inc(printer.print(&fetched, stop)?);
        }
        // Committed only once it is out: a reader that goes away sees a record twice rather than never.
        printer.out.flush()?;
        if let Some(group) = arguments
            .group
            .as_ref()
            .filter(|_| printer.positions != committed)
        {
            commit(&mut client, group, &topic.name, &printer.positions)?;
            committed.clone_from(&printer.positions);
        }
        leave_finished(&mut consumer, &stops);
    }
    bar.finish_and_clear();
    anyhow::ensure!(
        printer.unopened == 0,
        "{} offsets were passed: their batches cannot be opened",
        printer.unopened
    );
    Ok(())
}

/// The topic with only the partitions asked for.
fn chosen(mut topic: Topic, partitions: &[i32]) -> anyhow::Result<Topic> {
    for index in partitions {
        let exists = topic.indices().any(|one| one == *index);
        anyhow::ensure!(exists, "topic '{}' has no partition {index}", topic.name);
    }
    topic
        .partitions
        .retain(|partition| partitions.is_empty() || partitions.contains(&partition.index));
    Ok(topic)
}

fn starts(client: &mut Client, topic: &Topic, arguments: &Arguments) -> anyhow::Result<BTreeMap<i32, i64>> {
    let mut starts = place(client, topic, arguments.from.unwrap_or(Place::At(At::Earliest)))?;
    if let (Some(group), None) = (&arguments.group, arguments.from) {
        for ((name, index), offset) in client.committed(group)? {
            if name == topic.name {
                starts.entry(index).and_modify(|start| *start = offset);
            }
        }
    }
    Ok(starts)
}

/// The offset of a place in each partition. A time after the newest record means the end.
pub(super) fn place(client: &mut Client, topic: &Topic, place: Place) -> anyhow::Result<BTreeMap<i32, i64>> {
    match place {
        Place::Offset(offset) => {
            let (starts, ends) = (client.ends(topic, At::Earliest)?, client.ends(topic, At::Latest)?);
            let within = |(index, end): (i32, i64)| {
                let start = starts.get(&index).copied().unwrap_or(0);
                let chosen = offset.clamp(start, end.max(start));
                if chosen != offset {
                    output::remark(&format!(
                        "{}-{index} holds offsets {start} to {end}: taking {chosen}",
                        topic.name
                    ));
                }
                (index, chosen)
            };
            Ok(ends.into_iter().map(within).collect())
        }
        Place::At(at) => {
            let found = client.offsets(topic, at)?;
            let ends = client.ends(topic, At::Latest)?;
            let offset = |(index, end)| {
                let found = found.get(&index).and_then(|found| found.offset);
                (index, found.unwrap_or(end))
            };
            Ok(ends.into_iter().map(offset).collect())
        }
    }
}

fn leave_finished(consumer: &mut Consumer, stops: &BTreeMap<i32, i64>) {
    let finished: Vec<_> = consumer
        .positions()
        .iter()
        .filter(|(index, position)| stops.get(index).is_some_and(|stop| *position >= stop))
        .map(|(index, _)| *index)
        .collect();
    for index in finished {
        consumer.leave(index);
    }
}

fn commit(
    client: &mut Client,
    group: &str,
    topic: &str,
    positions: &BTreeMap<i32, i64>,
) -> anyhow::Result<()> {
    let offsets = positions
        .iter()
        .map(|(index, offset)| ((topic.to_owned(), *index), *offset))
        .collect();
    client.commit(group, &offsets)?;
    Ok(())
}

struct Printer<W: Write> {
    out: W,
    topic: String,
    format: Format,
    /// Records still wanted.
    left: u64,
    /// Behind the last record printed of each partition.
    positions: BTreeMap<i32, i64>,
    /// Offsets passed because their batch could not be opened.
    unopened: u64,
}

impl<W: Write> Printer<W> {
    /// Prints the records below `stop`, as many as are still wanted; answers how many that were.
    fn print(&mut self, fetched: &Fetched, stop: i64) -> anyhow::Result<u64> {
        let mut printed = 0;
        for record in fetched.records() {
            let record = match record {
                Ok(record) => record,
                Err(unopened) if self.left == 0 || unopened.base >= stop => return Ok(printed),
                Err(unopened) => {
                    output::remark(&format!("{}-{}: {unopened}", self.topic, fetched.partition));
                    self.positions.insert(fetched.partition, unopened.next);
                    self.unopened += u64::try_from(unopened.next - unopened.base).unwrap_or(0);
                    continue;
                }
            };
            if self.left == 0 || record.offset >= stop {
                return Ok(printed);
            }
            self.print_record(fetched.partition, &record)?;
            self.positions.insert(fetched.partition, record.offset + 1);
            self.left -= 1;
            printed += 1;
        }
        if self.left > 0 {
            // Offsets without records, such as the markers of transactions, are passed as well.
            self.positions
                .insert(fetched.partition, fetched.next_offset().min(stop));
        }
        Ok(printed)
    }

    fn print_record(&mut self, partition: i32, record: &Record) -> io::Result<()> {
        match self.format {
            Format::Value => self.out.write_all(record.value.as_deref().unwrap_or_default())?,
            Format::Json => write!(self.out, "{}", record_json(&self.topic, partition, record))?,
        }
        self.out.write_all(b"\n")
    }
}

fn record_json(topic: &str, partition: i32, record: &Record) -> Value {
    let header = |(name, value): &super::client::Header| {
        json!([String::from_utf8_lossy(name), json_bytes(value.as_deref())])
    };
    json!({
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": json_bytes(record.key.as_deref()),
        "value": json_bytes(record.value.as_deref()),
        "headers": record.headers.iter().map(header).collect::<Vec<_>>(),
    })
}
