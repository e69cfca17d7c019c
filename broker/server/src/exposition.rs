//! The page `/metrics`: OpenMetrics text made from the data plane's counters and from what each part tells when
//! asked. Nothing is kept twice, so nothing can disagree.

use crate::broker::Broker;
use crate::partition::Partition;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use varve_log::TierEnd;

/// One family of metrics: the row of `docs/metrics.md`.
#[derive(Debug)]
pub struct Family {
    /// As on the page, without `_total`.
    pub name: &'static str,
    /// What it says, with its unit.
    pub help: &'static str,
    /// Whether it only grows (then `_total` is appended).
    pub counter: bool,
    read: fn(&Broker) -> Vec<Sample>,
}

/// A value with its labels.
#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: u64,
}

fn one(value: u64) -> Vec<Sample> {
    vec![Sample {
        labels: vec![],
        value,
    }]
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Broker) -> Vec<Sample>) -> Family {
    Family {
        name,
        help,
        counter: true,
        read,
    }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Broker) -> Vec<Sample>) -> Family {
    Family {
        name,
        help,
        counter: false,
        read,
    }
}

/// Every metric there is.
pub const FAMILIES: &[Family] = &[
    counter(
        "kafka_server_brokertopicmetrics_messagesin",
        "Records appended.",
        |b| one(b.metrics.records_in.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_bytesin",
        "Record batch bytes appended.",
        |b| one(b.metrics.bytes_in.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_bytesout",
        "Record batch bytes answered to fetches.",
        |b| one(b.metrics.bytes_out_local.load(Relaxed) + b.metrics.bytes_out_tier.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_replicationbytesin",
        "Record batch bytes copied from leaders.",
        |b| one(b.metrics.copied_in.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_replicationbytesout",
        "Record batch bytes given to followers.",
        |b| one(b.metrics.copied_out.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_totalproducerequests",
        "Produce requests.",
        |b| one(b.metrics.produces.load(Relaxed)),
    ),
    counter(
        "kafka_server_brokertopicmetrics_totalfetchrequests",
        "Fetch requests.",
        |b| one(b.metrics.fetches.load(Relaxed)),
    ),
    counter("varve_requests", "Requests of any API.", |b| {
        one(b.metrics.requests.load(Relaxed))
    }),
    counter("varve_connections", "Connections accepted.", |b| {
        one(b.metrics.connections_opened.load(Relaxed))
    }),
    gauge(
        "kafka_server_socket_server_metrics_connection_count",
        "Connections open now.",
        |b| one(u64::try_from(b.metrics.connections()).unwrap_or(0)),
    ),
    counter(
        "varve_fetch_bytes",
        "Record batch bytes answered, by the tier they came from.",
        |b| {
            let by = |tier: &str, value| Sample {
                labels: vec![("tier", tier.to_owned())],
                value,
            };
            vec![
                by("local", b.metrics.bytes_out_local.load(Relaxed)),
                by("bucket", b.metrics.bytes_out_tier.load(Relaxed)),
            ]
        },
    ),
    gauge(
        "kafka_server_replicamanager_partitioncount",
        "Partitions held.",
        |b| one(b.partitions.all().len() as u64),
    ),
    gauge(
        "kafka_server_replicamanager_leadercount",
        "Partitions led.",
        |b| one(b.partitions.led().len() as u64),
    ),
    gauge(
        "kafka_server_replicamanager_offlinereplicacount",
        "Partitions held whose log could not be opened: they stay closed, see the log of the node.",
        |b| one(b.partitions.closed_count() as u64),
    ),
    gauge(
        "kafka_server_replicamanager_underreplicatedpartitions",
        "Partitions led with fewer in-sync replicas than replicas.",
        |b| {
            let view = b.view();
            let led = view.partitions().filter(|(_, _, one)| one.leader == Some(b.id()));
            one(led
                .filter(|(_, _, one)| one.isr.len() < one.target().len())
                .count() as u64)
        },
    ),
    gauge(
        "kafka_server_replicamanager_reassigningpartitions",
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
        "kafka_controller_kafkacontroller_activecontrollercount",
        "1 on the node that leads the metadata quorum.",
        |_| one(1),
    ),
    gauge("kafka_log_log_size", "Bytes on local disk.", |b| {
        each(b, |p| p.with_log(|log| log.bytes()))
    }),
    gauge(
        "kafka_log_log_logstartoffset",
        "Where the log begins, in the bucket or here.",
        |b| each(b, |p| offset(p.offsets().log_start)),
    ),
    gauge("kafka_log_log_logendoffset", "Where the log ends.", |b| {
        each(b, |p| offset(p.offsets().log_end))
    }),
    gauge(
        "varve_tier_lag_records",
        "Offsets that are committed but not yet in the bucket.",
        tiered,
    ),
    gauge("varve_tier_bytes", "Bytes in the bucket.", |b| {
        each(b, |p| p.tier().map_or(0, |tier| tier.bytes))
    }),
    counter(
        "varve_bucket_requests",
        "Requests to the object store, by verb and reason.",
        |b| bucket(b, false),
    ),
    counter(
        "varve_bucket_bytes",
        "Bytes to and from the object store, by verb and reason.",
        |b| bucket(b, true),
    ),
    counter("varve_cache_lookups", "Chunk lookups, by outcome.", cache),
    counter(
        "varve_cold_reads",
        "Reads answered from the bucket or its cache.",
        |b| cold(b, |r| r.reads),
    ),
    counter("varve_cold_read_bytes", "Bytes those reads returned.", |b| {
        cold(b, |r| r.bytes_served)
    }),
    counter(
        "varve_cold_read_hedges",
        "Second GETs sent because the first was late.",
        |b| cold(b, |r| r.hedged),
    ),
    gauge(
        "varve_cold_read_budget_bytes",
        "Read-ahead held in memory now.",
        |b| cold(b, |r| r.budget_used_bytes),
    ),
    gauge(
        "varve_request_memory_bytes",
        "Request bytes held by all connections now.",
        |b| one(b.request_memory.held_bytes() as u64),
    ),
    gauge(
        "kafka_consumergroup_lag",
        "Offsets between a group's commit and the partition's end.",
        |b| groups(b, true),
    ),
    gauge(
        "kafka_consumergroup_current_offset",
        "A group's committed offset.",
        |b| groups(b, false),
    ),
    gauge("varve_table_rows", "Rows in a topic's table.", |b| {
        tables(b, |table| table.rows)
    }),
    gauge(
        "varve_table_lag_records",
        "Offsets that are committed but not yet in the table.",
        |b| tables(b, |table| table.lag),
    ),
    counter(
        "varve_table_skipped_records",
        "Offsets of batches that could not be opened and are not in the table.",
        |b| tables(b, |table| table.skipped),
    ),
];

fn offset(offset: varve_log::Offset) -> u64 {
    u64::try_from(offset.value()).unwrap_or(0)
}

fn each(broker: &Broker, read: impl Fn(&Partition) -> u64) -> Vec<Sample> {
    let partitions = broker.partitions.all();
    partitions
        .iter()
        .map(|p| Sample {
            labels: labels(p),
            value: read(p),
        })
        .collect()
}

fn labels(partition: &Partition) -> Vec<(&'static str, String)> {
    vec![
        ("topic", partition.id.topic.to_string()),
        ("partition", partition.id.index.to_string()),
    ]
}

fn tiered(broker: &Broker) -> Vec<Sample> {
    let behind = |partition: &Partition| {
        let offsets = partition.offsets();
        let TierEnd::Known(end) = offsets.tier_end else {
            return 0;
        };
        u64::try_from(offsets.high_watermark.value() - end.value()).unwrap_or(0)
    };
    let mut partitions = broker.partitions.all();
    partitions.retain(|partition| partition.is_tiered());
    partitions
        .iter()
        .map(|p| Sample {
            labels: labels(p),
            value: behind(p),
        })
        .collect()
}

fn bucket(broker: &Broker, bytes: bool) -> Vec<Sample> {
    let Some(tier) = &broker.tier else { return vec![] };
    tier.requests()
        .into_iter()
        .map(|used| Sample {
            labels: vec![("verb", used.verb.to_owned()), ("reason", used.reason.to_owned())],
            value: if bytes { used.bytes } else { used.requests },
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
    let by = |outcome: &str, value| Sample {
        labels: vec![("outcome", outcome.to_owned())],
        value,
    };
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
        let end = view
            .topic_named(&commit.topic)
            .and_then(|topic| broker.partition(topic.id, commit.partition))
            .map(|partition| partition.offsets().high_watermark);
        let value = if lag {
            end.map_or(0, |end| end.value() - commit.offset.value())
        } else {
            commit.offset.value()
        };
        samples.push(Sample {
            labels: vec![
                ("consumergroup", commit.group),
                ("topic", commit.topic),
                ("partition", commit.partition.to_string()),
            ],
            value: u64::try_from(value).unwrap_or(0),
        });
    }
    samples
}

fn tables(broker: &Broker, read: fn(&crate::tables::Status) -> u64) -> Vec<Sample> {
    let tables = broker.tables.lock();
    tables
        .iter()
        .map(|(topic, status)| Sample {
            labels: vec![("topic", topic.clone())],
            value: read(status),
        })
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
    let (counter, gauge) = (ConstCounter::new(0u64), ConstGauge::new(0i64));
    let kind = if family.counter {
        counter.metric_type()
    } else {
        gauge.metric_type()
    };
    let mut metrics = encoder.encode_descriptor(family.name, family.help, None, kind)?;
    for sample in (family.read)(broker) {
        let metric = metrics.encode_family(&sample.labels)?;
        if family.counter {
            ConstCounter::new(sample.value).encode(metric)?;
        } else {
            ConstGauge::new(i64::try_from(sample.value).unwrap_or(i64::MAX)).encode(metric)?;
        }
    }
    Ok(())
}
