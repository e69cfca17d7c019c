//! A topic of the quickstart's own, filled with orders; with three brokers through the death of a leader.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};

use super::brokers::Brokers;
use super::events::Orders;
use super::settle::{self, wait_for};
use super::{Home, PARTITIONS, Produced, SEGMENT_BYTES, Size, Story, per_second};
use crate::cli::client::{Client, NewRecord, NewTopic, Partition, Producer, ProducerSettings};
use crate::cli::output::{bytes, grouped};
use crate::cli::progress;

/// The partition whose leader dies. It is also the one whose leader keeps the table.
const STRUCK: i32 = 0;

/// What the death of a leader showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failover {
    pub(super) leader_killed: i32,
    pub(super) next_leader: i32,
    /// From the kill to the acknowledgement of a record that was sent after it, to the same partition.
    pub(super) to_next_acknowledgement: Duration,
    /// From the start of the killed broker until every partition had all its replicas in sync again.
    pub(super) to_in_sync: Duration,
}

/// Creates a topic and sends orders until there are `bytes_min` of them.
pub(super) fn produce(
    story: &Story,
    home: &Home,
    client: &mut Client,
    brokers: Option<&mut Brokers>,
    bytes_min: u64,
) -> anyhow::Result<Produced> {
    let objects_before = settle::objects(home)?;
    let name = create_topic(client, home.size())?;
    let orders = Orders { since: month_ago()? };
    let begun = Instant::now();
    let bar = progress::bytes("producing", bytes_min);
    let mut producer = Producer::new(client, &name, ProducerSettings::default())?;
    let mut strike = brokers.map(|brokers| Strike::new(brokers, bytes_min / 2));
    let (mut records, mut sent) = (0, 0);
    while sent < bytes_min {
        let order = orders.nth(records);
        sent += (order.key.len() + order.value.len()) as u64;
        producer.send(NewRecord {
            timestamp: order.timestamp,
            key: Some(order.key.into()),
            value: Some(order.value.into()),
            headers: Vec::new(),
        })?;
        records += 1;
        if let Some(strike) = &mut strike {
            strike.look(&producer, sent)?;
        }
        if records % 10_000 == 0 {
            bar.set_position(sent);
            bar.set_message(settle::summary(home, &name)?);
        }
    }
    producer.flush()?;
    if let Some(strike) = &mut strike {
        strike.look(&producer, sent)?;
    }
    ensure!(
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
    let failover = match strike {
        Some(strike) => Some(strike.healed(story, client, &name)?),
        None => None,
    };
    Ok(Produced {
        topic: client.topic(&name)?,
        orders,
        records,
        bytes: sent,
        objects_before,
        failover,
    })
}

/// A leader is killed in the middle, and started again when its successor has acknowledged.
struct Strike<'b> {
    brokers: &'b mut Brokers,
    at_bytes: u64,
    killed: Option<Killed>,
}

struct Killed {
    leader: i32,
    at: Instant,
    /// Records of the partition that had been sent by then, acknowledged or not.
    sent: u64,
    /// When a later one was acknowledged, and by whom.
    acknowledged: Option<(Instant, i32)>,
}

impl<'b> Strike<'b> {
    fn new(brokers: &'b mut Brokers, at_bytes: u64) -> Self {
        Self {
            brokers,
            at_bytes,
            killed: None,
        }
    }

    /// Asked after each record; does what is due.
    fn look(&mut self, producer: &Producer<'_>, sent: u64) -> anyhow::Result<()> {
        match &mut self.killed {
            None if sent >= self.at_bytes => {
                // Requests are under way to it at this moment; whether it has stored them only its followers can tell.
                let leader = producer.leader_of(STRUCK)?;
                self.brokers.kill(leader)?;
                self.killed = Some(Killed {
                    leader,
                    at: Instant::now(),
                    sent: producer.progress_of(STRUCK).taken,
                    acknowledged: None,
                });
            }
            Some(killed)
                if killed.acknowledged.is_none()
                    && producer.progress_of(STRUCK).acknowledged > killed.sent =>
            {
                killed.acknowledged = Some((Instant::now(), producer.leader_of(STRUCK)?));
                self.brokers.start_again(killed.leader)?;
            }
            None | Some(_) => {}
        }
        Ok(())
    }

    /// Waits until the broker that died has caught up.
    fn healed(self, story: &Story, client: &mut Client, topic: &str) -> anyhow::Result<Failover> {
        let killed = self.killed.context("no leader was killed")?;
        let (acknowledged, next_leader) = killed
            .acknowledged
            .context("nothing was acknowledged after the leader's death")?;
        self.brokers.wait_until_ready(killed.leader)?;
        wait_for("the killed broker to catch up", || {
            let partitions = client.topic_now(topic)?.partitions;
            let whole = |one: &Partition| one.in_sync.len() == one.replicas.len();
            Ok(partitions.iter().all(|one| one.leader.is_some() && whole(one)))
        })?;
        let failover = Failover {
            leader_killed: killed.leader,
            next_leader,
            to_next_acknowledgement: acknowledged - killed.at,
            to_in_sync: acknowledged.elapsed(),
        };
        story.step(
            "failover",
            &format!(
                "broker {}, which led partition {STRUCK}, was killed (-9) after {}; broker {next_leader} acknowledged \
                 {:.1} s later; the killed one was started again and in sync after {:.1} s",
                failover.leader_killed,
                bytes(self.at_bytes),
                failover.to_next_acknowledgement.as_secs_f64(),
                failover.to_in_sync.as_secs_f64()
            ),
        )?;
        Ok(failover)
    }
}

/// `orders`, or the first of `orders-2`, `orders-3`, … that no earlier run has made.
fn create_topic(client: &mut Client, size: Size) -> anyhow::Result<String> {
    let taken: Vec<_> = client.topics()?.into_iter().map(|topic| topic.name).collect();
    let names = std::iter::once("orders".to_owned()).chain((2_u32..).map(|n| format!("orders-{n}")));
    let name = names
        .into_iter()
        .find(|name| !taken.contains(name))
        .context("no name is left")?;
    let config = |key: &str, value: String| (key.to_owned(), value);
    let mut configs = vec![
        config("segment.bytes", SEGMENT_BYTES.to_string()),
        // The orders are a month old: nothing of them is to expire.
        config("retention.ms", "-1".to_owned()),
    ];
    if size == Size::Three {
        configs.push(config("min.insync.replicas", "2".to_owned()));
    }
    client.create_topic(&NewTopic {
        name: &name,
        partitions: Some(PARTITIONS),
        replication_factor: Some(i16::try_from(size.brokers())?),
        configs,
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
