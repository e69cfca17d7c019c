//! Everything once more from the beginning, each record compared with the one that was sent.

use std::collections::BTreeMap;
use std::time::Instant;

use super::events::{Order, Orders};
use super::{Home, PARTITIONS, Produced, Story, per_second};
use crate::cli::client::{At, Client, Consumer, FetchLimits, Record, partition_of};
use crate::cli::output::{bytes, grouped};
use crate::cli::progress;
use crate::cli::{http, tier};

/// What came back.
pub(super) struct Replayed {
    /// Bytes of keys and values of records that were on no local disk when they were asked for.
    pub(super) bytes: u64,
    /// What the nodes themselves counted as served from the bucket, batch headers included.
    pub(super) batch_bytes_served: u64,
    /// Records that are missing, surplus, out of place, or not what was sent.
    pub(super) differences: u64,
    pub(super) seconds: f64,
}

pub(super) fn from_bucket(
    story: &Story,
    home: &Home,
    client: &mut Client,
    produced: &Produced,
) -> anyhow::Result<Replayed> {
    let topic = &produced.topic;
    let seams = tier::seams(client, topic)?;
    let served_before = served_from_bucket(home)?;
    let begun = Instant::now();
    let mut checks: BTreeMap<i32, Check> = topic
        .indices()
        .map(|index| (index, Check::new(produced, index)))
        .collect();
    let starts = client.ends(topic, At::Earliest)?;
    let mut consumer = Consumer::new(client, &topic.name, starts, FetchLimits::default())?;
    let bar = progress::bytes("replaying", produced.bytes);
    let mut from_bucket = 0;
    while !consumer.positions().is_empty() {
        for fetched in consumer.poll(client)? {
            let (Some(check), Some(seam)) =
                (checks.get_mut(&fetched.partition), seams.get(&fetched.partition))
            else {
                continue;
            };
            for record in fetched.records() {
                let record = record?;
                let length = check.compare(&record);
                // Below the oldest local record there is nothing but the bucket for it to come from.
                from_bucket += if record.offset < seam.local_start {
                    length
                } else {
                    0
                };
                bar.inc(length);
            }
            if fetched.next_offset() >= seam.log_end {
                consumer.leave(fetched.partition);
            }
        }
    }
    let took = begun.elapsed();
    bar.finish_and_clear();
    let differences = checks.into_values().map(Check::finish).sum();
    let served = served_from_bucket(home)?.saturating_sub(served_before);
    anyhow::ensure!(
        served >= from_bucket,
        "the nodes counted only {served} bytes served from the bucket for {from_bucket} bytes received"
    );
    story.step(
        "replay",
        &format!(
            "{} of {} came from the bucket: {:.1} s, {}/s; compared byte for byte, {} differences",
            bytes(from_bucket),
            bytes(produced.bytes),
            took.as_secs_f64(),
            bytes(per_second(from_bucket, took)),
            grouped(differences)
        ),
    )?;
    Ok(Replayed {
        bytes: from_bucket,
        batch_bytes_served: served,
        differences,
        seconds: took.as_secs_f64(),
    })
}

/// The nodes' own count, from their metrics pages.
fn served_from_bucket(home: &Home) -> anyhow::Result<u64> {
    let mut served = 0;
    for id in home.ids() {
        let page = http::get(&home.http(id), "/metrics")?;
        served += http::counter(&page, "varve_fetch_bytes_total", "tier=\"bucket\"").unwrap_or(0);
    }
    Ok(served)
}

/// The orders of one partition, made again one by one beside those that come back.
struct Check {
    orders: Orders,
    partition: i32,
    /// The next order to look at, of any partition, and how many were sent.
    next: u64,
    sent: u64,
    expected_offset: i64,
    differences: u64,
}

impl Check {
    fn new(produced: &Produced, partition: i32) -> Self {
        Self {
            orders: produced.orders,
            partition,
            next: 0,
            sent: produced.records,
            expected_offset: 0,
            differences: 0,
        }
    }

    /// Compares a record with the one that was sent in its place; answers the bytes of its key and value.
    fn compare(&mut self, record: &Record) -> u64 {
        let same = match self.next_order() {
            Some(order) => {
                record.offset == self.expected_offset
                    && record.timestamp == order.timestamp
                    && record.key.as_deref() == Some(order.key.as_bytes())
                    && record.value.as_deref() == Some(order.value.as_bytes())
                    && record.headers.is_empty()
            }
            None => false,
        };
        self.expected_offset = record.offset + 1;
        self.differences += u64::from(!same);
        let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        length(&record.key) + length(&record.value)
    }

    fn next_order(&mut self) -> Option<Order> {
        while self.next < self.sent {
            let n = self.next;
            self.next += 1;
            let partition = partition_of(self.orders.key(n).as_bytes(), PARTITIONS.unsigned_abs() as usize);
            if i32::try_from(partition) == Ok(self.partition) {
                return Some(self.orders.nth(n));
            }
        }
        None
    }

    /// The differences, with the records that never came.
    fn finish(mut self) -> u64 {
        while self.next_order().is_some() {
            self.differences += 1;
        }
        self.differences
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn check() -> Check {
        let orders = Orders { since: 0 };
        Check {
            orders,
            partition: 1,
            next: 0,
            sent: 300,
            expected_offset: 0,
            differences: 0,
        }
    }

    fn records() -> Vec<Record> {
        let mut source = check();
        let orders = std::iter::from_fn(|| source.next_order());
        let record = |(offset, order): (i64, Order)| Record {
            offset,
            timestamp: order.timestamp,
            key: Some(Bytes::from(order.key)),
            value: Some(Bytes::from(order.value)),
            headers: Vec::new(),
        };
        (0..).zip(orders).map(record).collect()
    }

    fn differences(records: &[Record]) -> u64 {
        let mut check = check();
        for record in records {
            check.compare(record);
        }
        check.finish()
    }

    #[test]
    fn what_was_sent_has_no_differences() {
        assert!(records().len() > 50);
        assert_eq!(differences(&records()), 0);
    }

    #[test]
    fn one_byte_one_missing_one_surplus_and_one_twice_are_each_noticed() {
        let mut changed = records();
        changed[3].value = Some(Bytes::from_static(b"{}"));
        assert_eq!(differences(&changed), 1);

        let mut missing = records();
        missing.pop();
        assert_eq!(differences(&missing), 1);

        let mut surplus = records();
        surplus.push(surplus[0].clone());
        assert_eq!(differences(&surplus), 1);

        let mut twice = records();
        twice[5] = twice[4].clone();
        assert!(differences(&twice) > 0);
    }
}
