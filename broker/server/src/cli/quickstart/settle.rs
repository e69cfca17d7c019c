//! From local disk into the bucket: sealed segments leave, then their local copies go.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use super::{Home, LOOK, Produced, STEP_MAX, Story};
use crate::cli::client::{Client, pause};
use crate::cli::output::{bytes, grouped};
use crate::cli::progress;
use crate::cli::tier::{self, Seams};

/// One line on how much of a topic has arrived in the bucket.
pub(super) fn summary(home: &Home, topic: &str) -> anyhow::Result<String> {
    Ok(format!("{} in the bucket", bytes(in_bucket(home, topic)?)))
}

/// As any node tells that is alive: each holds a replica of every partition.
fn in_bucket(home: &Home, topic: &str) -> anyhow::Result<u64> {
    let mut told = home.ids().map(|id| tier::bytes_in_bucket(&home.http(id), topic));
    let told = told
        .find_map(Result::ok)
        .context("no node shows its page /tier")?;
    Ok(told.values().sum())
}

/// Has the last, half-full segments sealed as well, and waits until the bucket has everything.
pub(super) fn into_bucket(
    story: &Story,
    home: &Home,
    client: &mut Client,
    produced: &Produced,
) -> anyhow::Result<()> {
    let topic = &produced.topic;
    let begun = Instant::now();
    // A segment that nobody writes to is sealed when it is this old.
    configure(client, &topic.name, "segment.ms", Some("1000"))?;
    let bar = progress::count("tiering", produced.records);
    wait_for("the sealed segments to reach the bucket", || {
        let seams = tier::seams(client, topic)?;
        bar.set_position(seams.values().map(|one| count(one.log_start, one.tier_end)).sum());
        bar.set_message(summary(home, &topic.name)?);
        Ok(seams.values().all(|one| one.tier_end == one.log_end))
    })?;
    bar.finish_and_clear();
    configure(client, &topic.name, "segment.ms", None)?;
    let in_bucket = in_bucket(home, &topic.name)?;
    let objects = objects(home)?.saturating_sub(produced.objects_before);
    story.step(
        "tier",
        &format!(
            "every segment is sealed and in the bucket: {}, {} new objects in {}: {:.1} s",
            bytes(in_bucket),
            grouped(objects),
            home.bucket_url(),
            begun.elapsed().as_secs_f64()
        ),
    )
}

/// Lets local retention take the local copies, and waits until the oldest local record is past the oldest of all.
pub(super) fn drop_local(story: &Story, client: &mut Client, produced: &Produced) -> anyhow::Result<()> {
    let topic = &produced.topic;
    let begun = Instant::now();
    let before: i64 = client.local_bytes(topic)?.values().sum();
    configure(client, &topic.name, "local.retention.ms", Some("1000"))?;
    let bar = progress::count("dropping", produced.records);
    let mut seams = BTreeMap::new();
    wait_for("local retention to drop the local copies", || {
        seams = tier::seams(client, topic)?;
        bar.set_position(
            seams
                .values()
                .map(|one: &Seams| count(one.log_start, one.local_start))
                .sum(),
        );
        Ok(seams.values().all(|one| one.local_start == one.log_end))
    })?;
    bar.finish_and_clear();
    let after: i64 = client.local_bytes(topic)?.values().sum();
    let only: u64 = seams
        .values()
        .map(|one| count(one.log_start, one.local_start))
        .sum();
    story.step(
        "local disk",
        &format!(
            "{} → {}: {} records are in the bucket only: {:.1} s",
            bytes(before.unsigned_abs()),
            bytes(after.unsigned_abs()),
            grouped(only),
            begun.elapsed().as_secs_f64()
        ),
    )
}

/// Looks until it is so.
pub(super) fn wait_for(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        anyhow::ensure!(
            begun.elapsed() < STEP_MAX,
            "waited {} s for {what}: the log says why",
            STEP_MAX.as_secs()
        );
        pause(LOOK);
    }
    Ok(())
}

pub(super) fn configure(
    client: &mut Client,
    topic: &str,
    key: &str,
    value: Option<&str>,
) -> anyhow::Result<()> {
    let change = BTreeMap::from([(key.to_owned(), value.map(ToOwned::to_owned))]);
    client
        .alter_topic_configs(topic, &change)
        .context("the topic's configuration could not be changed")
}

/// Offsets from one to the other.
pub(super) fn count(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(0)
}

/// How many objects the bucket holds.
pub(super) fn objects(home: &Home) -> anyhow::Result<u64> {
    let dir = home.bucket_dir();
    if dir.exists() { files_in(&dir) } else { Ok(0) }
}

/// How many files lie below a directory.
fn files_in(dir: &Path) -> anyhow::Result<u64> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() {
            files_in(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}
