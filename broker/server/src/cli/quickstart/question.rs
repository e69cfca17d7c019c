//! The topic as a table: waits until it holds every record, checks it, and asks it one question.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use varve_cluster::TopicId;
use varve_lakehouse_sink::{Group, GroupKey, Sum};
use varve_tiering::BucketConfig;

use super::settle::{configure, wait_for};
use super::{Home, Produced, Story};
use crate::cli::bucket::{Metadata, Tables, block_on};
use crate::cli::client::Client;
use crate::cli::output::{Table, grouped};
use crate::cli::progress;

pub(super) struct Asked {
    pub(super) rows: u64,
    pub(super) answer: Vec<Answer>,
    pub(super) metadata_location: String,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    country: String,
    orders: u64,
    amount_cents: i128,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        // A sum of a demo's orders is far below what JSON numbers hold exactly.
        let sum = i64::try_from(self.amount_cents).unwrap_or(i64::MAX);
        json!({ "country": self.country, "count": self.orders, "sum_amount_cents": sum })
    }
}

/// The same question for an engine.
pub(super) fn sql(metadata: &str) -> String {
    let path = metadata.trim_start_matches("file://");
    format!(
        "SELECT country, count(*) AS orders, sum(amount_cents) AS cents FROM iceberg_scan('{path}') \
         GROUP BY country ORDER BY country"
    )
}

/// Turns the topic into a table, out of the bucket: its local copies are gone by now.
pub(super) fn table(
    story: &Story,
    home: &Home,
    client: &mut Client,
    produced: &Produced,
) -> anyhow::Result<Asked> {
    let begun = Instant::now();
    let topic = &produced.topic.name;
    configure(client, topic, "varve.table.commit.interval.ms", Some("1000"))?;
    configure(client, topic, "varve.table.value", Some("json"))?;
    configure(client, topic, "varve.table.enable", Some("true"))?;
    let bucket = BucketConfig {
        url: home.bucket_url(),
        ..BucketConfig::default()
    };
    let tables = block_on(Tables::open(&bucket))?;
    let metadata = wait_for_rows(&tables, produced)?;
    let seconds = begun.elapsed().as_secs_f64();

    let asking = Instant::now();
    let (rows, files, answer) = block_on(async {
        let reader = tables.reader(&metadata).await?;
        let audits = reader.audit(TopicId::new(metadata.topic_id()?)).await?;
        let faults: u64 = audits
            .values()
            .map(|audit| audit.duplicates + audit.missing)
            .sum();
        ensure!(
            faults == 0,
            "the table does not hold every offset exactly once: {faults} faults"
        );
        let groups = reader.count_and_sum(&["country"], "amount_cents").await?;
        Ok((
            reader.rows(),
            reader.files(),
            groups.iter().map(answer).collect::<anyhow::Result<Vec<_>>>()?,
        ))
    })?;
    story.step(
        "table",
        &format!(
            "{} rows in {files} Parquet files, every offset exactly once, out of the bucket: {seconds:.1} s",
            grouped(rows)
        ),
    )?;
    ensure!(
        answer == expected(produced),
        "the table's answer is not what the records that were sent add up to"
    );
    story.step(
        "question",
        &format!(
            "orders and revenue by country: {:.2} s\n\n{}",
            asking.elapsed().as_secs_f64(),
            text(&answer)
        ),
    )?;
    Ok(Asked {
        rows,
        answer,
        metadata_location: metadata.location,
    })
}

fn wait_for_rows(tables: &Tables, produced: &Produced) -> anyhow::Result<Metadata> {
    let bar = progress::count("exporting", produced.records);
    let mut newest = None;
    wait_for("the table to hold every record", || {
        let (found, rows) = block_on(async {
            let Some(metadata) = tables.newest(&produced.topic.name).await? else {
                return Ok((None, 0));
            };
            // A table without any snapshot, just created, has no rows.
            let rows = tables.reader(&metadata).await?.rows();
            Ok((Some(metadata), rows))
        })?;
        bar.set_position(rows);
        newest = found;
        Ok(rows >= produced.records)
    })?;
    bar.finish_and_clear();
    newest.context("a table with rows has metadata")
}

fn answer(group: &Group) -> anyhow::Result<Answer> {
    match (group.key.as_slice(), group.sum) {
        ([GroupKey::Text(country)], Sum::Long(amount_cents)) => Ok(Answer {
            country: country.clone(),
            orders: group.count,
            amount_cents,
        }),
        (key, sum) => anyhow::bail!("orders have a country and a whole amount, not {key:?} and {sum:?}"),
    }
}

/// The answer by adding up what was sent.
fn expected(produced: &Produced) -> Vec<Answer> {
    let mut groups: BTreeMap<&str, (u64, i128)> = BTreeMap::new();
    for n in 0..produced.records {
        let order = produced.orders.nth(n);
        let group = groups.entry(order.country).or_default();
        *group = (group.0 + 1, group.1 + i128::from(order.amount_cents));
    }
    let answer = |(country, (orders, amount_cents)): (&str, (u64, i128))| Answer {
        country: country.to_owned(),
        orders,
        amount_cents,
    };
    groups.into_iter().map(answer).collect()
}

fn text(answer: &[Answer]) -> String {
    let mut table = Table::new(["   country", "orders", "revenue in EUR"]);
    for one in answer {
        let euros = u64::try_from(one.amount_cents / 100).unwrap_or(0);
        let revenue = format!("{}.{:02}", grouped(euros), one.amount_cents % 100);
        table.row([format!("   {}", one.country), grouped(one.orders), revenue]);
    }
    table.render().trim_end().to_owned()
}
