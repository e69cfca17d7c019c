//! What every catalog must do. Run it against each implementation; it panics with the sentence that does not hold.

use super::{Catalog, SwapError, TableVersion, WriterEpoch};
use async_trait::async_trait;
use varve_cluster::TopicId;

/// A catalog under test.
#[async_trait]
pub trait Bench: Send + Sync {
    fn catalog(&self) -> &dyn Catalog;
    /// A topic that the catalog may have tables for, with no table yet.
    async fn new_topic(&self) -> TopicId;
    /// Gives the table to a new writer.
    async fn acquire(&self, topic_id: TopicId) -> WriterEpoch;
}

/// Runs every sentence.
pub async fn run(bench: &dyn Bench) {
    a_table_that_was_never_committed_has_no_pointer(bench).await;
    a_commit_is_seen_by_the_next_load(bench).await;
    a_commit_on_an_old_version_changes_nothing(bench).await;
    a_fenced_writer_cannot_commit(bench).await;
    tables_do_not_touch_each_other(bench).await;
    of_many_commits_on_one_version_exactly_one_wins(bench).await;
}

async fn location(bench: &dyn Bench, topic: TopicId) -> Option<String> {
    bench
        .catalog()
        .load(topic)
        .await
        .expect("load")
        .map(|pointer| pointer.metadata_location)
}

async fn a_table_that_was_never_committed_has_no_pointer(bench: &dyn Bench) {
    let topic = bench.new_topic().await;
    bench.acquire(topic).await;

    assert_eq!(location(bench, topic).await, None);
}

async fn a_commit_is_seen_by_the_next_load(bench: &dyn Bench) {
    let topic = bench.new_topic().await;
    let epoch = bench.acquire(topic).await;

    let first = bench
        .catalog()
        .commit_if_unchanged(topic, epoch, TableVersion::NONE, "one")
        .await;
    let first = first.expect("a first commit expects no version");
    let second = bench
        .catalog()
        .commit_if_unchanged(topic, epoch, first, "two")
        .await;

    let pointer = bench
        .catalog()
        .load(topic)
        .await
        .expect("load")
        .expect("a committed table has a pointer");
    assert_eq!(
        pointer.version,
        second.expect("a commit on the newest version succeeds")
    );
    assert!(pointer.version > first, "versions grow");
    assert_eq!(pointer.metadata_location, "two");
}

async fn a_commit_on_an_old_version_changes_nothing(bench: &dyn Bench) {
    let topic = bench.new_topic().await;
    let epoch = bench.acquire(topic).await;
    bench
        .catalog()
        .commit_if_unchanged(topic, epoch, TableVersion::NONE, "one")
        .await
        .expect("first");

    let again = bench
        .catalog()
        .commit_if_unchanged(topic, epoch, TableVersion::NONE, "other")
        .await;

    assert!(matches!(again, Err(SwapError::Conflict)), "{again:?}");
    assert_eq!(location(bench, topic).await.as_deref(), Some("one"));
}

async fn a_fenced_writer_cannot_commit(bench: &dyn Bench) {
    let topic = bench.new_topic().await;
    let old = bench.acquire(topic).await;
    let version = bench
        .catalog()
        .commit_if_unchanged(topic, old, TableVersion::NONE, "one")
        .await
        .expect("first");

    let new = bench.acquire(topic).await;
    let zombie = bench
        .catalog()
        .commit_if_unchanged(topic, old, version, "zombie")
        .await;

    assert!(new > old, "epochs grow");
    assert!(matches!(zombie, Err(SwapError::Fenced)), "{zombie:?}");
    assert_eq!(location(bench, topic).await.as_deref(), Some("one"));
    bench
        .catalog()
        .commit_if_unchanged(topic, new, version, "two")
        .await
        .expect("the new writer commits");
}

async fn tables_do_not_touch_each_other(bench: &dyn Bench) {
    let (one, other) = (bench.new_topic().await, bench.new_topic().await);
    let epoch = bench.acquire(one).await;
    bench.acquire(other).await;

    bench
        .catalog()
        .commit_if_unchanged(one, epoch, TableVersion::NONE, "one")
        .await
        .expect("first");

    assert_eq!(location(bench, other).await, None);
}

async fn of_many_commits_on_one_version_exactly_one_wins(bench: &dyn Bench) {
    let topic = bench.new_topic().await;
    let epoch = bench.acquire(topic).await;
    let names: Vec<String> = (0..8).map(|n| format!("attempt-{n}")).collect();

    let attempts = names.iter().map(|name| async move {
        (
            name,
            bench
                .catalog()
                .commit_if_unchanged(topic, epoch, TableVersion::NONE, name)
                .await,
        )
    });
    let answers = futures::future::join_all(attempts).await;

    let winners: Vec<_> = answers.iter().filter(|(_, answer)| answer.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(location(bench, topic).await.as_ref(), Some(winners[0].0));
}
