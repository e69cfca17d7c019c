//! `varve quickstart`: the whole path on one machine, in under a minute, measured and checked as a user would.
//!
//! It starts a node in this process, or three in processes of their own of which one is killed on the way, and from
//! then on is their client: Kafka requests, the HTTP pages, and the table's files in the bucket. Nothing that is shown
//! is taken from inside a node.

mod brokers;
mod events;
mod home;
mod produce;
mod question;
mod replay;
mod settle;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use self::brokers::Brokers;
use self::events::Orders;
use self::home::Home;
use self::produce::Failover;
use self::question::{Answer, Asked};
use self::replay::Replayed;
use super::client::{Client, Topic, Waits};
use super::output::{print, print_json, remark};
use super::server;
use crate::config::Config;
use crate::node::Node;

const PARTITIONS: i32 = 3;
/// A little above 100 MiB, so that it is "at least 100 MB" however one counts.
const BYTES: u64 = 105_000_000;
/// Less would not fill a request to each partition before and after a leader dies.
const BYTES_MIN: u64 = 10_000_000;
/// Small segments, for there to be several of each partition.
const SEGMENT_BYTES: u32 = 8 << 20;
/// How long any one step may take before something is wrong.
const STEP_MAX: Duration = Duration::from_secs(120);
/// Between two looks at whether a step is done.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the data and the bucket go; ./varve-quickstart, or ./varve-quickstart-3, if left out. An earlier run's is
    /// used again.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// 1, or 3: then each is a process of its own, records are replicated three times, and a leader is killed (-9)
    /// in the middle.
    #[arg(long, value_name = "1|3", default_value = "1", value_parser = size)]
    brokers: Size,
    /// How many bytes of events are produced, at least.
    #[arg(long, default_value_t = BYTES, value_parser = clap::value_parser!(u64).range(BYTES_MIN..))]
    bytes: u64,
    /// End when all is shown instead of serving until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Print one JSON object with the figures as the last line on stdout; the story goes to stderr.
    #[arg(long)]
    json: bool,
}

/// How many brokers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// In this process.
    One,
    /// Each in its own.
    Three,
}

impl Size {
    fn brokers(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 3,
        }
    }
}

fn size(text: &str) -> Result<Size, String> {
    match text {
        "1" => Ok(Size::One),
        "3" => Ok(Size::Three),
        _ => Err("a quickstart has 1 broker or 3".to_owned()),
    }
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
    /// With three brokers.
    failover: Option<Failover>,
}

/// The brokers, wherever they run.
enum Running {
    Here(Node),
    Apart(Brokers),
}

impl Running {
    fn start(home: &Home) -> anyhow::Result<Self> {
        if home.size() == Size::Three {
            return Ok(Self::Apart(Brokers::start(home)?));
        }
        let properties = home.properties(1);
        let pairs: Vec<_> = properties
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        Ok(Self::Here(Node::start(Config::from_properties(&pairs)?)?))
    }

    /// Those that can be killed.
    fn apart(&mut self) -> Option<&mut Brokers> {
        match self {
            Self::Here(_) => None,
            Self::Apart(brokers) => Some(brokers),
        }
    }

    fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Here(node) => {
                node.shutdown();
                Ok(())
            }
            Self::Apart(brokers) => brokers.stop(),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    server::log_to_stderr(server::LogFormat::Text, "warn");
    let story = Story {
        json: arguments.json,
        step: std::cell::Cell::new(0),
    };
    let home = Home::open(arguments.dir.as_deref(), arguments.brokers)?;
    let mut running = Running::start(&home)?;
    let told = home
        .write_config()
        .and_then(|()| tell(&story, &home, running.apart(), arguments.bytes, begun));
    let outcome = told.and_then(|()| {
        if arguments.once {
            return Ok(());
        }
        story.say("\nserving until Ctrl-C")?;
        server::wait_for_end(std::future::pending())
    });
    let stopped = running.stop();
    outcome.and(stopped)
}

fn tell(
    story: &Story,
    home: &Home,
    brokers: Option<&mut Brokers>,
    bytes_min: u64,
    begun: Instant,
) -> anyhow::Result<()> {
    introduce(story, home)?;
    let mut client = Client::connect(&home.bootstrap(), Waits::default())?;
    let produced = produce::produce(story, home, &mut client, brokers, bytes_min)?;
    settle::into_bucket(story, home, &mut client, &produced)?;
    settle::drop_local(story, &mut client, &produced)?;
    let replayed = replay::from_bucket(story, home, &mut client, &produced)?;
    let table = question::table(story, home, &mut client, &produced)?;
    let seconds = begun.elapsed().as_secs_f64();
    story.say(&format!("\nall of it in {seconds:.1} s"))?;
    story.say(&next_steps(home, &produced.topic.name, &table.metadata_location))?;
    if story.json {
        let mut figures = figures(&produced, &replayed, &table);
        figures["seconds"] = json!(seconds);
        figures["brokers"] = json!(home.size().brokers());
        figures["bootstrap_server"] = json!(home.bootstrap());
        figures["http"] = json!(format!("http://{}", home.http(1)));
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

fn introduce(story: &Story, home: &Home) -> anyhow::Result<()> {
    let again = if home.used_before {
        ", with what an earlier run left"
    } else {
        ""
    };
    let (who, title) = match home.size() {
        Size::One => ("a Varve node", "node"),
        Size::Three => ("three Varve brokers", "brokers"),
    };
    story.say(&format!("{who} in {}{again}\n", home.dir().display()))?;
    let pages: Vec<_> = home.ids().map(|id| format!("http://{}", home.http(id))).collect();
    story.step(
        title,
        &format!(
            "Kafka protocol on {}, pages on {}/metrics and /tier",
            home.bootstrap(),
            pages.join(", ")
        ),
    )
}

fn figures(produced: &Produced, replayed: &Replayed, table: &Asked) -> Value {
    let mut figures = json!({
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
    });
    if let Some(failover) = &produced.failover {
        figures["leader_killed"] = json!(failover.leader_killed);
        figures["next_leader"] = json!(failover.next_leader);
        figures["seconds_to_next_acknowledgement"] = json!(failover.to_next_acknowledgement.as_secs_f64());
        figures["seconds_to_in_sync"] = json!(failover.to_in_sync.as_secs_f64());
    }
    figures
}

fn per_second(bytes: u64, took: Duration) -> u64 {
    let per_second = u128::from(bytes) * 1000 / took.as_millis().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

fn next_steps(home: &Home, topic: &str, metadata: &str) -> String {
    let (bootstrap, http) = (home.bootstrap(), home.http(1));
    let what = match home.size() {
        Size::One => "start the node again later",
        Size::Three => "start the brokers again later, each in a terminal",
    };
    let again: String = home
        .ids()
        .map(|id| format!("\n  varve server --config {}", home.config_file(id).display()))
        .collect();
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
{what}:{again}",
        question::sql(metadata)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quickstart_has_one_broker_or_three() {
        assert_eq!(size("1"), Ok(Size::One));
        assert_eq!(size("3"), Ok(Size::Three));
        for other in ["0", "2", "5", "-3", "three", ""] {
            assert!(size(other).is_err_and(|said| said.contains("1 broker or 3")));
        }
    }
}
