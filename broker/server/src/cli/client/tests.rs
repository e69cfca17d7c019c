//! The client against a node in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest};
use tempfile::TempDir;
use varve_log::Codec;

use super::producer::Progress;
use super::{
    Acks, At, Client, Consumer, Error, FetchLimits, NewRecord, NewTopic, Producer, ProducerSettings, Record,
    Waits, topic_key, with_port,
};
use crate::config::Config;
use crate::node::Node;

/// A node of its own for one test.
struct Stage {
    client: Client,
    node: Option<Node>,
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    fn on(dir: TempDir) -> Self {
        Self::with(dir, &[])
    }

    fn with(dir: TempDir, more: &[(&str, &str)]) -> Self {
        let data = dir.path().join("data").display().to_string();
        let mut pairs = vec![
            ("process.roles", "broker,controller"),
            ("node.id", "1"),
            ("listeners", "PLAINTEXT://127.0.0.1:0"),
            ("log.dirs", &*data),
            ("varve.http.listener", "none"),
        ];
        pairs.extend(more);
        let config = Config::from_properties(&pairs);
        let node = Node::start(config.unwrap()).unwrap();
        let client = Client::connect(&node.bootstrap().to_string(), Waits::default()).unwrap();
        Self {
            client,
            node: Some(node),
            dir,
        }
    }

    /// Stops the node, changes its files, and starts it again.
    fn restart_after(mut self, change: impl FnOnce(&Path)) -> Self {
        self.node.take().unwrap().shutdown();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        change(&dir.path().join("data"));
        Self::on(dir)
    }

    fn create(&mut self, name: &str, partitions: i32) {
        let new = NewTopic {
            name,
            partitions: Some(partitions),
            ..NewTopic::default()
        };
        self.client.create_topic(&new).unwrap();
    }

    fn produce(
        &mut self,
        topic: &str,
        settings: ProducerSettings,
        records: impl Iterator<Item = NewRecord>,
    ) -> u64 {
        let mut producer = Producer::new(&mut self.client, topic, settings).unwrap();
        records.for_each(|record| producer.send(record).unwrap());
        producer.flush().unwrap();
        producer.acknowledged()
    }

    /// All records of a topic, by partition.
    fn consume(&mut self, topic: &str) -> BTreeMap<i32, Vec<Record>> {
        let described = self.client.topic(topic).unwrap();
        let starts = self.client.ends(&described, At::Earliest).unwrap();
        let ends = self.client.ends(&described, At::Latest).unwrap();
        let mut consumer = Consumer::new(&mut self.client, topic, starts, FetchLimits::default()).unwrap();
        let mut records: BTreeMap<_, Vec<_>> = BTreeMap::new();
        while consumer.positions().iter().any(|(index, at)| at < &ends[index]) {
            for fetched in consumer.poll(&mut self.client).unwrap() {
                let of_partition = records.entry(fetched.partition).or_default();
                of_partition.extend(fetched.records().map(|record| record.unwrap()));
            }
        }
        records
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown();
        }
    }
}

fn record(n: i64) -> NewRecord {
    NewRecord {
        timestamp: 1_700_000_000_000 + n,
        key: Some(Bytes::from(format!("key-{}", n % 17))),
        value: Some(Bytes::from(format!("value-{n}"))),
        headers: vec![
            ("n".to_owned(), Some(Bytes::from(n.to_string()))),
            ("n".to_owned(), None),
        ],
    }
}

#[test]
fn what_is_produced_in_small_pipelined_batches_is_consumed_in_order_key_by_key() {
    let mut stage = Stage::new();
    stage.create("t", 3);

    let settings = ProducerSettings {
        batch_bytes: 2_000,
        codec: Codec::Lz4,
        ..ProducerSettings::default()
    };
    let acknowledged = stage.produce("t", settings, (0..5_000).map(record));
    let consumed = stage.consume("t");

    assert_eq!(acknowledged, 5_000);
    assert_eq!(consumed.values().map(Vec::len).sum::<usize>(), 5_000);
    for records in consumed.values() {
        assert!(records.is_sorted_by_key(|record| record.timestamp));
        assert!(
            (0_i64..)
                .zip(records)
                .all(|(offset, record)| record.offset == offset)
        );
    }
    let first = consumed
        .values()
        .flatten()
        .find(|record| record.timestamp == 1_700_000_000_007)
        .unwrap();
    assert_eq!(first.value.as_deref(), Some(&b"value-7"[..]));
    assert_eq!(first.headers.len(), 2);
}

#[test]
fn a_producer_tells_of_each_partition_what_was_taken_and_what_is_acknowledged() {
    let mut stage = Stage::new();
    stage.create("t", 2);
    let mut producer = Producer::new(&mut stage.client, "t", ProducerSettings::default()).unwrap();
    let told = |taken, acknowledged| Progress { taken, acknowledged };

    for n in 0..3 {
        producer.send_to(1, record(n)).unwrap();
    }
    assert_eq!(producer.progress_of(1), told(3, 0), "they wait for a full batch");
    producer.flush().unwrap();

    assert_eq!(producer.progress_of(1), told(3, 3));
    assert_eq!(producer.progress_of(0), told(0, 0));
    assert_eq!(producer.leader_of(1).unwrap(), 1);
}

#[test]
fn without_acknowledgement_records_arrive_all_the_same() {
    let mut stage = Stage::new();
    stage.create("t", 1);

    for acks in [Acks::None, Acks::Leader] {
        let settings = ProducerSettings {
            acks,
            ..ProducerSettings::default()
        };
        assert_eq!(stage.produce("t", settings, (0..100).map(record)), 100);
    }
    let topic = stage.client.topic("t").unwrap();
    super::pause(Duration::from_millis(300));

    assert_eq!(stage.client.ends(&topic, At::Latest).unwrap()[&0], 200);
}

#[test]
fn a_time_is_found_as_the_first_record_not_older() {
    let mut stage = Stage::new();
    stage.create("t", 1);
    stage.produce("t", ProducerSettings::default(), (0..1000).map(|n| record(2 * n)));
    let topic = stage.client.topic("t").unwrap();

    let mut at = |timestamp| stage.client.offsets(&topic, At::Timestamp(timestamp)).unwrap()[&0];

    assert_eq!(at(1_700_000_000_501).offset, Some(251));
    assert_eq!(at(1_700_000_000_501).timestamp, 1_700_000_000_502);
    assert_eq!(at(1_800_000_000_000).offset, None);
}

#[test]
fn topics_are_listed_configured_grown_trimmed_and_deleted() {
    let mut stage = Stage::new();
    stage.create("t", 1);
    stage.produce("t", ProducerSettings::default(), (0..10).map(record));
    let client = &mut stage.client;

    let change = BTreeMap::from([("retention.ms".to_owned(), Some("86400000".to_owned()))]);
    client.alter_topic_configs("t", &change).unwrap();
    let configs = client.topic_configs("t").unwrap();
    let retention = configs.iter().find(|entry| entry.name == "retention.ms").unwrap();
    assert_eq!(
        (retention.value.as_deref(), retention.of_topic),
        (Some("86400000"), true)
    );

    client.create_partitions("t", 2).unwrap();
    let topic = client.topic("t").unwrap();
    assert_eq!(topic.partitions.len(), 2);

    let starts = client.delete_records(&topic, &BTreeMap::from([(0, 4)])).unwrap();
    assert_eq!(starts, BTreeMap::from([(0, 4)]));
    assert_eq!(client.ends(&topic, At::Earliest).unwrap()[&0], 4);
    assert!(client.local_bytes(&topic).unwrap()[&0] > 0);

    assert!(client.topics().unwrap().iter().any(|topic| topic.name == "t"));
    client.delete_topic("t").unwrap();
    let gone = client.topic("t").err().unwrap();
    assert!(
        gone.is_refused_with(ResponseError::UnknownTopicOrPartition),
        "{gone}"
    );
}

#[test]
fn a_group_without_members_is_moved_shown_and_deleted() {
    let mut stage = Stage::new();
    stage.create("t", 1);
    let client = &mut stage.client;
    let committed = BTreeMap::from([(("t".to_owned(), 0), 42)]);

    client.commit("g", &committed).unwrap();

    assert_eq!(client.committed("g").unwrap(), committed);
    assert!(client.groups().unwrap().iter().any(|group| group.id == "g"));
    assert_eq!(client.group("g").unwrap().members.len(), 0);
    client.delete_group("g").unwrap();
    assert!(client.committed("g").unwrap().is_empty());
}

#[test]
fn a_host_without_a_port_means_kafkas_port() {
    assert_eq!(with_port("broker"), "broker:9092");
    assert_eq!(with_port("broker:9094"), "broker:9094");
    assert_eq!(with_port("::1"), "[::1]:9092");
    assert_eq!(with_port("[::1]:9093"), "[::1]:9093");
}

#[test]
fn no_address_at_all_is_an_error_not_a_panic() {
    assert!(matches!(
        Client::connect(" , ", Waits::default()),
        Err(Error::Usage(_))
    ));
}

/// The error a partition's leader has for a question about its log.
fn asked(stage: &mut Stage, topic: &str) -> i16 {
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let of_topic = ListOffsetsTopic::default()
        .with_name(topic_key(topic))
        .with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![of_topic]);
    let answer = stage.client.open_broker(1).unwrap().call(&request).unwrap();
    answer.topics[0].partitions[0].error_code
}

#[test]
fn one_damaged_partition_stays_closed_and_the_rest_of_the_node_runs() {
    let mut stage = Stage::new();
    let one_a_batch = || ProducerSettings {
        batch_bytes: 1,
        ..ProducerSettings::default()
    };
    for topic in ["damaged", "sound"] {
        stage.create(topic, 1);
        stage.produce(topic, one_a_batch(), (0..20).map(record));
    }

    // As after a kill -9: no checkpoint, so the whole log is looked at.
    let mut stage = stage.restart_after(|data| {
        let partition = data.join("damaged-0");
        std::fs::remove_file(partition.join("checkpoint")).unwrap();
        let log = partition.join("00000000000000000000.log");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[200] ^= 1;
        std::fs::write(&log, bytes).unwrap();
    });

    assert_eq!(
        asked(&mut stage, "damaged"),
        ResponseError::KafkaStorageError.code()
    );
    assert_eq!(asked(&mut stage, "sound"), 0);
    stage.produce("sound", one_a_batch(), (20..30).map(record));
    assert_eq!(stage.consume("sound")[&0].len(), 30);
    // Somebody who has given the data up can have the name back.
    stage.client.delete_topic("damaged").unwrap();
    stage.create("damaged", 1);
    assert_eq!(asked(&mut stage, "damaged"), 0);
}

#[test]
fn history_in_the_bucket_goes_by_retention_also_when_tiering_was_turned_off() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = format!("file://{}/bucket", dir.path().display());
    let more = [
        ("varve.bucket", &*bucket),
        ("log.retention.check.interval.ms", "100"),
    ];
    let mut stage = Stage::with(dir, &more);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let new = NewTopic {
        name: "t",
        partitions: Some(1),
        configs: vec![
            pair("internal.segment.bytes", "2000"),
            pair("local.retention.bytes", "1"),
            pair("retention.ms", "-1"),
        ],
        ..NewTopic::default()
    };
    stage.client.create_topic(&new).unwrap();
    let settings = ProducerSettings {
        batch_bytes: 500,
        ..ProducerSettings::default()
    };
    stage.produce("t", settings, (0..1_000).map(record));
    let topic = stage.client.topic("t").unwrap();
    let mut wait_until = |at, enough: i64| {
        let begun = Instant::now();
        while stage.client.ends(&topic, at).unwrap()[&0] < enough {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{at:?} stays below {enough}"
            );
            super::pause(Duration::from_millis(50));
        }
    };
    wait_until(At::EarliestLocal, 900);

    // More than what is left on the local disk, and less than there is in both tiers.
    let value = |value: &str| Some(value.to_owned());
    let set = [
        ("remote.storage.enable".to_owned(), value("false")),
        ("retention.bytes".to_owned(), value("20000")),
    ];
    let address = stage.node.as_ref().unwrap().bootstrap().to_string();
    let mut other = Client::connect(&address, Waits::default()).unwrap();
    other.alter_topic_configs("t", &set.into()).unwrap();

    wait_until(At::Earliest, 1);
    assert!(other.ends(&topic, At::Earliest).unwrap()[&0] < 900);
}
