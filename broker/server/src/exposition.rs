//! The page `/metrics`: OpenMetrics text made from the data plane's counters and from what each part tells when
//! asked. Nothing is kept twice, so nothing can disagree.

use crate::broker::Broker;
use crate::latency::Times;
use crate::partition::{Partition, PartitionId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use varve_cluster::controller::Partition as Metadata;
use varve_log::TierEnd;

/// One family of metrics: the row of `docs/metrics.md`.
#[derive(Debug)]
pub struct Family {
    /// As on the page, without what its kind appends.
    pub name: &'static str,
    /// What it says, with its unit.
    pub help: &'static str,
    pub kind: Kind,
    /// What its samples are told apart by.
    pub labels: &'static [&'static str],
    read: fn(&Broker) -> Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    Gauge,
    /// Counted in buckets, each with those below it; their label is `le`.
    Histogram,
}

impl Kind {
    /// What stands behind the family's name on the page.
    #[must_use]
    pub const fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["_total"],
            Self::Gauge => &[""],
            Self::Histogram => &["_bucket", "_sum", "_count"],
        }
    }
}

/// A value with its labels, in the order of the family's.
#[derive(Debug)]
struct Sample {
    labels: Vec<String>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Times(Times),
}

fn number(labels: Vec<String>, value: u64) -> Sample {
    let value = Value::Number(value);
    Sample { labels, value }
}

fn one(value: u64) -> Vec<Sample> {
    vec![number(vec![], value)]
}

const fn family(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Broker) -> Vec<Sample>,
) -> Family {
    Family {
        name,
        help,
        kind,
        labels,
        read,
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Broker) -> Vec<Sample>,
) -> Family {
    family(Kind::Counter, name, labels, help, read)
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&Broker) -> Vec<Sample>,
) -> Family {
    family(Kind::Gauge, name, labels, help, read)
}

/// The labels of what is told of each partition.
const PARTITION: &[&str] = &["topic", "partition"];
/// And of each partition of a topic that a group reads.
const GROUP: &[&str] = &["consumergroup", "topic", "partition"];
const REQUESTS: &[&str] = &["verb", "reason"];

/// Every metric there is.
pub const FAMILIES: &[Family] = &[
    counter(
        "kafka_server_brokertopicmetrics_messagesin",
        &[],
        "Records appended.",
        |b| one(b.metrics.records_in.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_bytesin",
        &[],
        "Record batch bytes appended.",
        |b| one(b.metrics.bytes_in.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_bytesout",
        &[],
        "Record batch bytes answered to fetches.",
        |b| one(b.metrics.bytes_out_local.load(Relaxed) + b.metrics.bytes_out_tier.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_replicationbytesin",
        &[],
        "Record batch bytes copied from leaders.",
        |b| one(b.metrics.copied_in.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_replicationbytesout",
        &[],
        "Record batch bytes given to followers.",
        |b| one(b.metrics.copied_out.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_totalproducerequests",
        &[],
        "Produce requests.",
        |b| one(b.metrics.produces.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_totalfetchrequests",
        &[],
        "Fetch requests.",
        |b| one(b.metrics.fetches.load(Relaxed)),
    ),
    counter("varve_requests", &[], "Requests of any API.", |b| {
        one(b.metrics.requests.load(Relaxed))
    }),
    family(
        Kind::Histogram,
        "varve_request_seconds",
        &["request"],
        "From a whole request to its whole answer, waiting for replicas or for news included.",
        |b| {
            let times = b.metrics.latency.times().into_iter();
            times
                .map(|times| Sample {
                    labels: vec![format!("{:?}", times.api)],
                    value: Value::Times(times),
                })
                .collect()
        },
    ),
    counter("varve_connections", &[], "Connections accepted.", |b| {
        one(b.metrics.connections_opened.load(Relaxed))
    }),
    gauge(
        "kafka_server_socket_server_metrics_connection_count",
        &[],
        "Connections open now.",
        |b| one(u64::try_from(b.metrics.connections()).unwrap_or(0)),
    ),
    counter(
        "varve_fetch_bytes",
        &["tier"],
        "Record batch bytes answered, by the tier they came from.",
        |b| {
            let by = |tier: &str, value| number(vec![tier.to_owned()], value);
            vec![
                by("local", b.metrics.bytes_out_local.load(Relaxed)),
                by("bucket", b.metrics.bytes_out_tier.load(Relaxed)),
            ]
        },
    ),
    gauge(
        "kafka_server_replicamanager_partitioncount",
        &[],
        "Partitions held.",
        |b| one(b.partitions.all().len() as u64),
    ),
    gauge(
        "kafka_server_replicamanager_leadercount",
        &[],
        "Partitions led.",
        |b| one(b.partitions.led().len() as u64),
    ),
    gauge(
        "kafka_server_replicamanager_offlinereplicacount",
        &[],
        "Partitions held whose log could not be opened: they stay closed, see the log of the node.",
        |b| one(b.partitions.closed_count() as u64),
    ),
    gauge(
        "kafka_server_replicamanager_underreplicatedpartitions",
        &[],
        "Partitions led with fewer in-sync replicas than replicas.",
        |b| one(under_replicated(b)),
    ),
    gauge(
        "kafka_server_replicamanager_reassigningpartitions",
        &[],
        "Partitions led whose replicas are being moved.",
        |b| {
            let view = b.view();
            let led = view
                .reassignments()
                .filter(|(_, _, one)| one.leader == Some(b.id()));
            one(led.count() as u64)
        },
    ),
    gauge(
        "kafka_server_replicamanager_underminisrpartitioncount",
        &[],
        "Partitions led with fewer in-sync replicas than min.insync.replicas: producers with acks=all are refused.",
        |b| {
            one(b
                .partitions
                .led()
                .iter()
                .filter(|led| !led.enough_in_sync())
                .count() as u64)
        },
    ),
    counter(
        "kafka_server_replicamanager_isrshrinks",
        &[],
        "Times that in-sync replicas of a partition led have become fewer.",
        |b| one(b.partitions.isr_changes.shrinks.load(Relaxed)),
    ),
    counter(
        "kafka_server_replicamanager_isrexpands",
        &[],
        "Times that in-sync replicas of a partition led have become more.",
        |b| one(b.partitions.isr_changes.expands.load(Relaxed)),
    ),
    gauge(
        "kafka_controller_kafkacontroller_activecontrollercount",
        &[],
        "1 on the node that leads the metadata quorum.",
        |b| {
            one(b
                .membership
                .as_ref()
                .is_none_or(|member| member.quorum().describe().is_some())
                .into())
        },
    ),
    gauge(
        "kafka_controller_kafkacontroller_offlinepartitionscount",
        &[],
        "Partitions of the cluster that nobody leads, as this node knows.",
        |b| {
            one(b
                .view()
                .partitions()
                .filter(|(_, _, one)| one.leader.is_none())
                .count() as u64)
        },
    ),
    gauge(
        "kafka_controller_kafkacontroller_activebrokercount",
        &[],
        "Brokers of the cluster that may lead and follow, as this node knows.",
        |b| one(b.view().live_brokers().count() as u64),
    ),
    gauge(
        "kafka_controller_kafkacontroller_fencedbrokercount",
        &[],
        "Brokers that are registered and silent, as this node knows.",
        |b| one(b.view().brokers.values().filter(|broker| broker.fenced).count() as u64),
    ),
    gauge("kafka_log_log_size", PARTITION, "Bytes on local disk.", |b| {
        each(b, |p| p.with_log(|log| log.bytes()))
    }),
    gauge(
        "kafka_log_log_logstartoffset",
        PARTITION,
        "Where the log begins, in the bucket or here.",
        |b| each(b, |p| offset(p.offsets().log_start)),
    ),
    gauge(
        "kafka_log_log_logendoffset",
        PARTITION,
        "Where the log ends.",
        |b| each(b, |p| offset(p.offsets().log_end)),
    ),
    gauge(
        "varve_tier_lag_records",
        PARTITION,
        "Offsets of a partition led that are committed but not yet in the bucket.",
        |b| led(b, tier_lag),
    ),
    gauge(
        "varve_tier_bytes",
        PARTITION,
        "Bytes of a partition led in the bucket.",
        |b| led(b, |p| p.tier().map(|tier| tier.bytes)),
    ),
    counter(
        "varve_bucket_requests",
        REQUESTS,
        "Requests to the object store, by verb and reason.",
        |b| bucket(b, false),
    ),
    counter(
        "varve_bucket_bytes",
        REQUESTS,
        "Bytes to and from the object store, by verb and reason.",
        |b| bucket(b, true),
    ),
    counter(
        "varve_cache_lookups",
        &["outcome"],
        "Chunk lookups, by outcome.",
        cache,
    ),
    counter(
        "varve_cold_reads",
        &[],
        "Reads answered from the bucket or its cache.",
        |b| cold(b, |r| r.reads),
    ),
    counter("varve_cold_read_bytes", &[], "Bytes those reads returned.", |b| {
        cold(b, |r| r.bytes_served)
    }),
    counter(
        "varve_cold_read_hedges",
        &[],
        "Second GETs sent because the first was late.",
        |b| cold(b, |r| r.hedged),
    ),
    gauge(
        "varve_cold_read_budget_bytes",
        &[],
        "Read-ahead held in memory now.",
        |b| cold(b, |r| r.budget_used_bytes),
    ),
    gauge(
        "varve_request_memory_bytes",
        &[],
        "Request bytes held by all connections now.",
        |b| one(b.request_memory.held_bytes() as u64),
    ),
    gauge(
        "kafka_consumergroup_lag",
        GROUP,
        "Offsets between a group's commit and the partition's end.",
        |b| groups(b, true),
    ),
    gauge(
        "kafka_consumergroup_current_offset",
        GROUP,
        "A group's committed offset.",
        |b| groups(b, false),
    ),
    gauge("varve_table_rows", &["topic"], "Rows in a topic's table.", |b| {
        tables(b, |table| table.rows)
    }),
    gauge(
        "varve_table_lag_records",
        &["topic"],
        "Offsets that are committed but not yet in the table.",
        |b| tables(b, |table| table.lag),
    ),
    counter(
        "varve_table_skipped_records",
        &["topic"],
        "Offsets of batches that could not be opened and are not in the table.",
        |b| tables(b, |table| table.skipped),
    ),
];

fn offset(offset: varve_log::Offset) -> u64 {
    u64::try_from(offset.value()).unwrap_or(0)
}

fn each(broker: &Broker, read: impl Fn(&Partition) -> u64) -> Vec<Sample> {
    samples(&broker.partitions.all(), |partition| Some(read(partition)))
}

/// What all replicas have alike is told by the leader alone, so that sums over the brokers are right.
fn led(broker: &Broker, read: impl Fn(&Partition) -> Option<u64>) -> Vec<Sample> {
    samples(&broker.partitions.led(), read)
}

fn samples(partitions: &[Arc<Partition>], read: impl Fn(&Partition) -> Option<u64>) -> Vec<Sample> {
    let labels = |id: &PartitionId| vec![id.topic.to_string(), id.index.to_string()];
    let sample = |p: &Arc<Partition>| Some(number(labels(&p.id), read(p)?));
    partitions.iter().filter_map(sample).collect()
}

fn tier_lag(partition: &Partition) -> Option<u64> {
    if !partition.is_tiered() {
        return None;
    }
    let offsets = partition.offsets();
    let end = match offsets.tier_end {
        TierEnd::Known(end) => end,
        TierEnd::Unknown => offsets.log_start,
    };
    Some(u64::try_from(offsets.high_watermark.since(end)).unwrap_or(0))
}

fn under_replicated(broker: &Broker) -> u64 {
    let view = broker.view();
    let led = view
        .partitions()
        .filter(|(_, _, one)| one.leader == Some(broker.id()));
    // Replicas that a reassignment adds are on their way, not missing.
    let missing = |one: &Metadata| {
        let mut settled = one.replicas.iter().filter(|id| !one.adding.contains(id));
        settled.any(|id| !one.isr.contains(id))
    };
    led.filter(|(_, _, one)| missing(one)).count() as u64
}

fn bucket(broker: &Broker, bytes: bool) -> Vec<Sample> {
    let Some(tier) = &broker.tier else { return vec![] };
    tier.requests()
        .into_iter()
        .map(|used| {
            let value = if bytes { used.bytes } else { used.requests };
            number(vec![used.verb.to_owned(), used.reason.to_owned()], value)
        })
        .collect()
}

fn cold(broker: &Broker, read: fn(&varve_tiering::ReadStats) -> u64) -> Vec<Sample> {
    broker
        .tier
        .as_ref()
        .map_or_else(Vec::new, |tier| one(read(&tier.reads())))
}

fn cache(broker: &Broker) -> Vec<Sample> {
    let Some(tier) = &broker.tier else { return vec![] };
    let stats = tier.cache();
    let by = |outcome: &str, value| number(vec![outcome.to_owned()], value);
    vec![
        by("memory", stats.hits_memory),
        by("disk", stats.hits_disk),
        by("fetched", stats.fetched),
        by("bad", stats.bad),
    ]
}

fn groups(broker: &Broker, lag: bool) -> Vec<Sample> {
    let view = broker.view();
    let mut samples = vec![];
    for commit in broker.groups.committed() {
        // Any replica knows the end, though a follower learns it one fetch late; without one here the lag is unknown.
        let end = view
            .topic_named(&commit.topic)
            .and_then(|topic| broker.partitions.get(topic.id, commit.partition))
            .map(|partition| partition.offsets().high_watermark);
        let value = match (lag, end) {
            (false, _) => commit.offset.value(),
            (true, Some(end)) => end.value() - commit.offset.value(),
            (true, None) => continue,
        };
        samples.push(number(
            vec![commit.group, commit.topic, commit.partition.to_string()],
            u64::try_from(value).unwrap_or(0),
        ));
    }
    samples
}

fn tables(broker: &Broker, read: fn(&crate::tables::Status) -> u64) -> Vec<Sample> {
    let tables = broker.tables.lock();
    tables
        .iter()
        .map(|(topic, status)| number(vec![topic.clone()], read(status)))
        .collect()
}

/// The page.
pub(crate) fn text(broker: &Arc<Broker>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(Arc::clone(broker))));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

struct Page(Arc<Broker>);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in FAMILIES {
            encode(family, &self.0, &mut encoder)?;
        }
        Ok(())
    }
}

fn encode(family: &Family, broker: &Broker, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    let mut metrics = encoder.encode_descriptor(family.name, family.help, None, kind)?;
    for sample in (family.read)(broker) {
        debug_assert_eq!(family.labels.len(), sample.labels.len(), "{}", family.name);
        let labels: Vec<_> = family.labels.iter().copied().zip(&sample.labels).collect();
        let mut metric = metrics.encode_family(&labels)?;
        match (&sample.value, family.kind) {
            (Value::Number(value), Kind::Counter) => ConstCounter::new(*value).encode(metric)?,
            (Value::Number(value), Kind::Gauge | Kind::Histogram) => {
                ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(metric)?;
            }
            (Value::Times(times), _) => {
                metric.encode_histogram::<NoLabelSet>(times.seconds, times.count, &times.buckets, None)?;
            }
        }
    }
    Ok(())
}
