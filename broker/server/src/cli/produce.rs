//! `varve produce`: lines in, records out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;
use varve_log::Codec;

use super::client::{Acks, NewRecord, Producer, ProducerSettings};
use super::output;
use super::{Cluster, progress};

/// Lines read ahead of what is sent.
const LINES_AHEAD: usize = 4096;
/// When no line has come for this long, what there is goes out: `tail -f x | varve produce t` must not lag.
const LINGER: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    topic: String,
    /// Lines are KEY, this, VALUE; without it a line is all value.
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A header for every record; may be repeated.
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = super::key_value)]
    header: Vec<(String, String)>,
    /// Read lines from this file instead of stdin.
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Send to this partition, whatever the key.
    #[arg(long, short)]
    partition: Option<i32>,
    /// Which replicas must have stored a record.
    #[arg(long, value_enum, default_value = "all")]
    acks: Acks,
    /// How batches are compressed.
    #[arg(long, short = 'z', value_enum, default_value = "none")]
    compression: Compression,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd => Codec::Zstd,
        }
    }
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<()> {
    // An empty separator would make every line's key empty: surely not meant.
    anyhow::ensure!(
        arguments.key_separator.as_deref() != Some(""),
        "--key-separator must not be empty"
    );
    let mut client = arguments.cluster.connect()?;
    let settings = ProducerSettings {
        acks: arguments.acks,
        codec: arguments.compression.codec(),
        ..ProducerSettings::default()
    };
    let mut producer = Producer::new(&mut client, &arguments.topic, settings)?;
    let lines = read_lines(arguments.file.as_ref())?;
    let begun = Instant::now();
    let outcome = send_all(&arguments, &lines, &mut producer);
    let (records, partitions) = (producer.acknowledged(), producer.partitions());
    if let Err(error) = outcome {
        return Err(error).with_context(|| format!("after {records} acknowledged records"));
    }
    let seconds = begun.elapsed().as_secs_f64();
    if arguments.cluster.json {
        output::print_json(&json!({
            "topic": arguments.topic, "records": records, "partitions": partitions, "seconds": seconds,
        }))?;
    } else {
        output::remark(&format!(
            "{} records acknowledged in {seconds:.2} s",
            output::grouped(records)
        ));
    }
    Ok(())
}

fn send_all(
    arguments: &Arguments,
    lines: &Receiver<io::Result<Vec<u8>>>,
    producer: &mut Producer<'_>,
) -> anyhow::Result<()> {
    let talking = arguments.file.is_none() && io::stdin().is_terminal();
    let bar = progress::counter("records sent", talking);
    let mut waiting = false;
    loop {
        let line = match lines.recv_timeout(LINGER) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Timeout) if waiting => {
                producer.flush()?;
                waiting = false;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => match lines.recv() {
                Ok(line) => line?,
                Err(_closed) => break,
            },
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let record = record(arguments, line)?;
        match arguments.partition {
            Some(partition) => producer.send_to(partition, record)?,
            None => producer.send(record)?,
        }
        waiting = true;
        bar.inc(1);
    }
    producer.flush()?;
    bar.finish_and_clear();
    Ok(())
}

fn record(arguments: &Arguments, line: Vec<u8>) -> anyhow::Result<NewRecord> {
    let line = Bytes::from(line);
    let (key, value) = match &arguments.key_separator {
        None => (None, line),
        Some(separator) => {
            let at = find(&line, separator.as_bytes()).with_context(|| {
                format!(
                    "a line has no key: it does not contain '{separator}': {}",
                    String::from_utf8_lossy(&line)
                )
            })?;
            (Some(line.slice(..at)), line.slice(at + separator.len()..))
        }
    };
    let header = |(name, value): &(String, String)| (name.clone(), Some(Bytes::from(value.clone())));
    let headers = arguments.header.iter().map(header).collect();
    Ok(NewRecord {
        timestamp: now(),
        key,
        value: Some(value),
        headers,
    })
}

fn find(line: &[u8], separator: &[u8]) -> Option<usize> {
    line.windows(separator.len())
        .position(|window| window == separator)
}

/// Reads on a thread of its own, so that sending can tell "no line yet" from "no more lines".
fn read_lines(file: Option<&PathBuf>) -> anyhow::Result<Receiver<io::Result<Vec<u8>>>> {
    let source: Box<dyn io::Read + Send> = match file {
        Some(path) => Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => {
            if io::stdin().is_terminal() {
                output::remark("each line becomes a record; end with Ctrl-D");
            }
            Box::new(io::stdin())
        }
    };
    let (sender, receiver) = mpsc::sync_channel(LINES_AHEAD);
    thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let mut source = BufReader::with_capacity(1 << 20, source);
        loop {
            let mut line = Vec::new();
            let message = match source.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {
                    let ending = if line.ends_with(b"\r\n") {
                        2
                    } else {
                        usize::from(line.ends_with(b"\n"))
                    };
                    line.truncate(line.len() - ending);
                    Ok(line)
                }
                Err(cause) => Err(cause),
            };
            let last = message.is_err();
            if sender.send(message).is_err() || last {
                break;
            }
        }
    })?;
    Ok(receiver)
}

fn now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_ends_the_key() {
        assert_eq!(find(b"a::b::c", b"::"), Some(1));
        assert_eq!(find(b"abc", b"::"), None);
        assert_eq!(find(b"", b":"), None);
    }

    #[test]
    fn line_endings_do_not_belong_to_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        std::fs::write(&path, b"one\r\ntwo\n\nlast").unwrap();

        let lines: Vec<_> = read_lines(Some(&path))
            .unwrap()
            .iter()
            .map(|line| line.unwrap())
            .collect();

        assert_eq!(lines, [&b"one"[..], b"two", b"", b"last"]);
    }
}
