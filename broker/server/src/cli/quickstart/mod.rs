//! `varve quickstart`: the whole path on one machine, in under a minute, measured and checked as a user would.
//!
//! It starts a node in this process and from then on is its client: Kafka requests, the HTTP pages, and the table's
//! files in the bucket. Nothing that is shown is taken from inside the node.

mod events;
mod home;
mod question;
mod replay;
mod settle;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use self::events::Orders;
use self::home::Home;
use self::question::{Answer, Asked};
use self::replay::Replayed;
use super::client::{Client, NewRecord, NewTopic, Producer, ProducerSettings, Topic, Waits};
use super::output::{bytes, grouped, print, print_json, remark};
use super::{progress, server};
use crate::config::Config;
use crate::node::Node;

const PARTITIONS: i32 = 3;
/// A little above 100 MiB, so that it is "at least 100 MB" however one counts.
const BYTES_MIN: u64 = 105_000_000;
/// Small segments, for there to be several of each partition.
const SEGMENT_BYTES: u32 = 8 << 20;
/// How long any one step may take before something is wrong.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether a step is done.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the node's data and its bucket go; ./varve-quickstart if left out. An earlier run's is used again.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End when all is shown instead of serving until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Print one JSON object with the figures as the last line on stdout; the story goes to stderr.
    #[arg(long)]
    json: bool,
}

/// Says what happens, where it does not disturb.
struct Story {
    json: bool,
    step: std::cell::Cell<u32>,
}

impl Story {
    fn step(&self, title: &str, text: &str) -> anyhow::Result<()> {
        self.step.set(self.step.get() + 1);
        self.say(&format!("{}. {title:<10} {text}", self.step.get()))
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        if self.json {
            remark(text);
        } else {
            print(&format!("{text}\n"))?;
        }
        Ok(())
    }
}

/// What was produced: everything later is compared with it.
struct Produced {
    topic: Topic,
    orders: Orders,
    records: u64,
    bytes: u64,
    /// Objects that were in the bucket before.
    objects_before: u64,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    server::log_to_stderr(server::LogFormat::Text, "warn");
    let story = Story {
        json: arguments.json,
        step: std::cell::Cell::new(0),
    };
    let home = Home::open(arguments.dir.as_deref())?;
    let properties = home.properties();
    let pairs: Vec<_> = properties
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let node = Node::start(Config::from_properties(&pairs)?)?;
    let told = home
        .write_config()
        .and_then(|()| tell(&story, &home, &node, begun));
    let outcome = told.and_then(|()| {
        if arguments.once {
            return Ok(());
        }
        story.say("\nserving until Ctrl-C")?;
        server::wait_for_end()
    });
    node.shutdown();
    outcome
}

fn tell(story: &Story, home: &Home, node: &Node, begun: Instant) -> anyhow::Result<()> {
    let bootstrap = node.bootstrap().to_string();
    let http = node
        .http()
        .context("the quickstart's node has an HTTP listener")?
        .to_string();
    let again = if home.used_before {
        ", with what an earlier run left"
    } else {
        ""
    };
    story.say(&format!("a Varve node in {}{again}\n", home.dir().display()))?;
    story.step(
        "node",
        &format!("Kafka protocol on {bootstrap}, pages on http://{http}/metrics and /tier"),
    )?;

    let mut client = Client::connect(&bootstrap, Waits::default())?;
    let objects_before = settle::objects(home)?;
    let produced = Produced {
        objects_before,
        ..produce(story, &mut client, &http)?
    };
    settle::into_bucket(story, home, &mut client, &http, &produced)?;
    settle::drop_local(story, &mut client, &produced)?;
    let replayed = replay::from_bucket(story, &mut client, &http, &produced)?;
    let table = question::table(story, home, &mut client, &produced)?;
    let seconds = begun.elapsed().as_secs_f64();
    story.say(&format!("\nall of it in {seconds:.1} s"))?;

    let name = &produced.topic.name;
    story.say(&next_steps(
        &bootstrap,
        &http,
        home,
        name,
        &table.metadata_location,
    ))?;
    if story.json {
        let mut figures = figures(&produced, &replayed, &table);
        figures["seconds"] = json!(seconds);
        figures["bootstrap_server"] = json!(bootstrap);
        figures["http"] = json!(format!("http://{http}"));
        figures["dir"] = json!(home.dir());
        print_json(&figures)?;
    }
    anyhow::ensure!(
        replayed.differences == 0,
        "{} records came back different",
        replayed.differences
    );
    Ok(())
}

fn figures(produced: &Produced, replayed: &Replayed, table: &Asked) -> Value {
    json!({
        "topic": produced.topic.name,
        "records_produced": produced.records,
        "bytes_produced": produced.bytes,
        "bytes_replayed_from_bucket": replayed.bytes,
        "batch_bytes_served_from_bucket": replayed.batch_bytes_served,
        "replay_seconds": replayed.seconds,
        "differences": replayed.differences,
        "table_rows": table.rows,
        "table_metadata": table.metadata_location,
        "answer": table.answer.iter().map(Answer::json).collect::<Vec<_>>(),
    })
}

/// Creates a topic of its own and fills it.
fn produce(story: &Story, client: &mut Client, http: &str) -> anyhow::Result<Produced> {
    let name = create_topic(client)?;
    let orders = Orders { since: month_ago()? };
    let begun = Instant::now();
    let bar = progress::bytes("producing", BYTES_MIN);
    let mut producer = Producer::new(client, &name, ProducerSettings::default())?;
    let (mut records, mut sent) = (0, 0);
    while sent < BYTES_MIN {
        let order = orders.nth(records);
        let length = (order.key.len() + order.value.len()) as u64;
        producer.send(NewRecord {
            timestamp: order.timestamp,
            key: Some(order.key.into()),
            value: Some(order.value.into()),
            headers: Vec::new(),
        })?;
        records += 1;
        sent += length;
        if records % 10_000 == 0 {
            bar.set_position(sent);
            bar.set_message(settle::summary(http, &name)?);
        }
    }
    producer.flush()?;
    anyhow::ensure!(
        producer.acknowledged() == records,
        "not every record was acknowledged"
    );
    bar.finish_and_clear();
    let took = begun.elapsed();
    story.step(
        "produce",
        &format!(
            "{} orders of a shop, {}, into topic {name}: {:.1} s, {}/s",
            grouped(records),
            bytes(sent),
            took.as_secs_f64(),
            bytes(per_second(sent, took))
        ),
    )?;
    let topic = client.topic(&name)?;
    Ok(Produced {
        topic,
        orders,
        records,
        bytes: sent,
        objects_before: 0,
    })
}

/// `orders`, or the first of `orders-2`, `orders-3`, … that no earlier run has made.
fn create_topic(client: &mut Client) -> anyhow::Result<String> {
    let taken: Vec<_> = client.topics()?.into_iter().map(|topic| topic.name).collect();
    let names = std::iter::once("orders".to_owned()).chain((2_u32..).map(|n| format!("orders-{n}")));
    let name = names
        .into_iter()
        .find(|name| !taken.contains(name))
        .context("no name is left")?;
    let config = |key: &str, value: String| (key.to_owned(), value);
    client.create_topic(&NewTopic {
        name: &name,
        partitions: Some(PARTITIONS),
        replication_factor: Some(1),
        configs: vec![
            config("segment.bytes", SEGMENT_BYTES.to_string()),
            // The orders are a month old: nothing of them is to expire.
            config("retention.ms", "-1".to_owned()),
        ],
    })?;
    client.topic(&name)?;
    Ok(name)
}

fn month_ago() -> anyhow::Result<i64> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let month = Duration::from_secs(45 * 24 * 60 * 60);
    Ok(i64::try_from(now.saturating_sub(month).as_millis())?)
}

fn per_second(bytes: u64, took: Duration) -> u64 {
    let per_second = u128::from(bytes) * 1000 / took.as_millis().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

fn next_steps(bootstrap: &str, http: &str, home: &Home, topic: &str, metadata: &str) -> String {
    let config = home.config_file();
    let config = config.display();
    let sql = if cfg!(feature = "sql") {
        format!("\n  varve sql -b {bootstrap} 'select count(*) from \"{topic}\"'")
    } else {
        String::new()
    };
    format!(
        "
try next, in another terminal:
  varve consume {topic} -b {bootstrap} --count 3 --format json
  varve tier describe {topic} -b {bootstrap} --http http://{http}
  varve table audit {topic} -b {bootstrap}
  kcat -b {bootstrap} -C -t {topic} -c 3
  duckdb -c \"INSTALL iceberg; LOAD iceberg; {}\"{sql}
  curl -s http://{http}/metrics
start the node again later:
  varve server --config {config}",
        question::sql(metadata)
    )
}
