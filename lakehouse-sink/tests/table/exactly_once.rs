//! Each record is in the table exactly once, whatever the catalog does.

use crate::lake::{Lake, NOON, batch, packed, placed, run};
use bytes::Bytes;
use varve_cluster::TopicId;
use varve_lakehouse_sink::catalog::simulated::Fault;
use varve_lakehouse_sink::{CommitError, PushError};
use varve_log::Offset;

#[tokio::test]
async fn rows_appear_with_their_commit_and_survive_reopening() {
    let lake = Lake::new();
    let mut table = lake.writer().await;
    table.push(0, &run(0, 10)).await.unwrap();
    table.push(1, &run(100, 5)).await.unwrap();
    assert_eq!(lake.reader().await.rows(), 0);

    let committed = table.commit(NOON).await.unwrap();

    assert_eq!(
        (committed.rows, committed.files, table.pending_rows()),
        (15, 1, 0)
    );
    assert_eq!(lake.rows().await, [(0, 10, 10), (1, 5, 105)]);
    let again = lake.writer().await;
    assert_eq!(
        again.progress(),
        &[(0, Offset::new(10)), (1, Offset::new(105))].into()
    );
    assert_eq!(again.metadata_location(), committed.metadata_location);
}

#[tokio::test]
async fn what_the_table_has_is_skipped_even_in_the_middle_of_a_batch() {
    let lake = Lake::new();
    let mut table = lake.writer().await;
    table.push(0, &run(0, 10)).await.unwrap();
    table.commit(NOON).await.unwrap();
    table.skip_to(1, Offset::new(3));

    let again = table.push(0, &run(0, 10)).await.unwrap();
    let half = table.push(1, &run(0, 10)).await.unwrap();
    table.commit(NOON).await.unwrap();

    assert_eq!((again.rows, half.rows), (0, 7));
    assert_eq!(lake.rows().await, [(0, 10, 10), (1, 7, 10)]);
}

#[tokio::test]
async fn a_gap_is_an_error_until_it_is_said_to_be_meant() {
    let lake = Lake::new();
    let mut table = lake.writer().await;
    table.push(0, &run(0, 10)).await.unwrap();

    let gap = table.push(0, &run(12, 3)).await;
    assert!(
        matches!(gap, Err(PushError::Gap { partition: 0, expected, found })
        if expected == Offset::new(10) && found == Offset::new(12))
    );

    table.skip_to(0, Offset::new(12));
    table.push(0, &run(12, 3)).await.unwrap();
    table.commit(NOON).await.unwrap();
    let (_, audit) = lake.audit().await[0];
    assert_eq!((audit.rows, audit.missing, audit.duplicates), (13, 2, 0));
}

#[tokio::test]
async fn bytes_that_are_no_batch_are_refused_and_the_rest_stays_good() {
    let lake = Lake::new();
    let mut table = lake.writer().await;
    let good = run(0, 2);
    let mut bad = run(2, 2).to_vec();
    let last = bad.len() - 1;
    bad[last] ^= 1;

    let both = Bytes::from([good.to_vec(), bad].concat());
    let refused = table.push(0, &both).await;

    assert!(matches!(refused, Err(PushError::Corrupt { partition: 0, .. })));
    table.push(0, &run(2, 2)).await.unwrap();
    table.commit(NOON).await.unwrap();
    assert_eq!(lake.rows().await, [(0, 4, 4)]);
}

#[tokio::test]
async fn a_batch_that_cannot_be_opened_is_passed_counted_once_and_missing_in_the_audit() {
    let mut lake = Lake::new();
    lake.settings.decompressed_bytes_max = 10_000;
    let mut table = lake.writer().await;
    let bomb = |base| placed(packed(&"0".repeat(20_000)), base);

    // The first, one in the middle, and the last.
    for (base, bytes) in [
        (0, bomb(0)),
        (1, run(1, 2)),
        (3, bomb(3)),
        (4, run(4, 1)),
        (5, bomb(5)),
    ] {
        let pushed = table.push(0, &bytes).await.unwrap();
        assert_eq!(pushed.next, Some(Offset::new(base + 1 + i64::from(base == 1))));
        table.commit(NOON).await.unwrap();
    }
    table.push(0, &bomb(3)).await.unwrap();

    assert_eq!((table.total_rows(), table.unopened_offsets()), (3, 3));
    let (_, audit) = lake.audit().await[0];
    assert_eq!((audit.rows, audit.missing, audit.duplicates), (3, 2, 0));
    assert_eq!(audit.against_log(Offset::ZERO).missing, 3);
    let again = lake.writer().await;
    assert_eq!(again.progress(), &[(0, Offset::new(6))].into());
}

#[tokio::test]
async fn a_refused_commit_keeps_its_rows_for_the_next() {
    let lake = Lake::new();
    let mut table = lake.writer().await;
    table.push(0, &run(0, 10)).await.unwrap();
    lake.catalog.inject([Some(Fault::NotApplied)]);

    let refused = table.commit(NOON).await;
    assert!(matches!(refused, Err(CommitError::NotApplied(_))));
    table.push(0, &run(10, 5)).await.unwrap();
    table.commit(NOON).await.unwrap();

    assert_eq!(lake.rows().await, [(0, 15, 15)]);
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_not_repeated() {
    for fault in [Fault::AnswerLost, Fault::RequestLost, Fault::Delayed] {
        let lake = Lake::new();
        let mut table = lake.writer().await;
        table.push(0, &run(0, 10)).await.unwrap();
        lake.catalog.inject([Some(fault)]);

        let committed = table.commit(NOON).await.unwrap();

        assert_eq!(committed.rows, 10, "{fault:?}");
        assert_eq!(lake.rows().await, [(0, 10, 10)], "{fault:?}");
        table.push(0, &run(10, 1)).await.unwrap();
        table.commit(NOON).await.unwrap();
        assert_eq!(lake.rows().await, [(0, 11, 11)], "{fault:?}");
    }
}

#[tokio::test]
async fn a_table_in_doubt_takes_no_rows_until_it_knows() {
    let lake = Lake::new();
    let mut table = lake.writer().await;
    table.push(0, &run(0, 10)).await.unwrap();
    lake.catalog
        .inject([Some(Fault::AnswerLost), Some(Fault::LoadFails)]);

    let unknown = table.commit(NOON).await;
    assert!(matches!(unknown, Err(CommitError::Unknown(_))));
    assert!(matches!(
        table.push(0, &run(10, 1)).await,
        Err(PushError::InDoubt)
    ));

    assert_eq!(table.commit(NOON).await.unwrap().rows, 10);
    table.push(0, &run(10, 1)).await.unwrap();
    table.commit(NOON).await.unwrap();
    assert_eq!(lake.rows().await, [(0, 11, 11)]);
}

#[tokio::test]
async fn a_deposed_writer_adds_nothing_and_cleans_up_after_itself() {
    let lake = Lake::new();
    let mut old = lake.writer().await;
    old.push(0, &run(0, 10)).await.unwrap();

    let mut new = lake.writer().await;
    new.push(0, &run(0, 20)).await.unwrap();
    new.commit(NOON).await.unwrap();
    let zombie = old.commit(NOON).await;

    assert!(matches!(zombie, Err(CommitError::Fenced)));
    assert!(matches!(old.push(0, &run(10, 1)).await, Err(PushError::Fenced)));
    assert_eq!(lake.rows().await, [(0, 20, 20)]);
    assert_eq!(lake.files("data").await.len(), 1);
}

#[tokio::test]
async fn a_commit_that_arrives_after_its_writer_was_deposed_changes_nothing() {
    let lake = Lake::new();
    let mut old = lake.writer().await;
    old.push(0, &run(0, 10)).await.unwrap();
    lake.catalog
        .inject([Some(Fault::Delayed), Some(Fault::LoadFails)]);
    assert!(matches!(old.commit(NOON).await, Err(CommitError::Unknown(_))));

    let mut new = lake.writer().await;
    new.push(0, &run(0, 20)).await.unwrap();
    new.commit(NOON).await.unwrap();

    // It looks first and sees that the table went on; should it try once more, it learns that it was deposed.
    assert!(matches!(old.commit(NOON).await, Err(CommitError::Overtaken)));
    old.push(0, &run(20, 1)).await.unwrap();
    assert!(matches!(old.commit(NOON).await, Err(CommitError::Fenced)));
    assert_eq!(lake.rows().await, [(0, 20, 20)]);
    assert_eq!(lake.files("data").await.len(), 1);
}

#[tokio::test]
async fn files_of_a_commit_that_did_happen_outlive_the_writer_that_never_knew() {
    let lake = Lake::new();
    let mut old = lake.writer().await;
    old.push(0, &run(0, 10)).await.unwrap();
    lake.catalog
        .inject([Some(Fault::AnswerLost), Some(Fault::LoadFails)]);
    assert!(matches!(old.commit(NOON).await, Err(CommitError::Unknown(_))));

    let mut new = lake.writer().await;
    assert_eq!(new.progress()[&0], Offset::new(10));
    new.push(0, &run(10, 5)).await.unwrap();
    new.commit(NOON).await.unwrap();
    // It asks whether its move happened, sees that the table has moved on, and must not tidy away live files.
    let known = old.commit(NOON).await;

    assert!(
        matches!(known, Err(CommitError::Overtaken | CommitError::Fenced)),
        "{known:?}"
    );
    assert_eq!(lake.rows().await, [(0, 15, 15)]);
}

#[tokio::test]
async fn two_tables_under_one_epoch_cannot_both_add_the_same_rows() {
    let lake = Lake::new();
    let epoch = lake.acquire();
    let mut one = lake.try_writer(epoch).await.unwrap();
    let mut other = lake.try_writer(epoch).await.unwrap();
    one.push(0, &run(0, 10)).await.unwrap();
    other.push(0, &run(0, 7)).await.unwrap();

    one.commit(NOON).await.unwrap();
    let overtaken = other.commit(NOON).await;

    assert!(matches!(overtaken, Err(CommitError::Overtaken)));
    assert_eq!(other.progress()[&0], Offset::new(10));
    other.push(0, &run(10, 3)).await.unwrap();
    other.commit(NOON).await.unwrap();
    assert_eq!(lake.rows().await, [(0, 13, 13)]);
}

#[tokio::test]
async fn a_topic_made_anew_gets_a_table_of_its_own_with_newer_file_names() {
    let mut lake = Lake::new();
    let mut table = lake.writer().await;
    table.push(0, &run(0, 10)).await.unwrap();
    table.commit(NOON).await.unwrap();

    lake.topic.id = TopicId::new(uuid::Uuid::from_u128(8));
    let mut anew = lake.writer().await;
    assert!(anew.progress().is_empty());
    anew.push(0, &batch(0, &["x"])).await.unwrap();
    let committed = anew.commit(NOON).await.unwrap();

    assert_eq!(lake.rows().await, [(0, 1, 1)]);
    let names = lake.files("metadata").await;
    let newest = names
        .iter()
        .rfind(|name| name.ends_with(".metadata.json"))
        .unwrap();
    assert!(committed.metadata_location.ends_with(newest));
}

#[tokio::test]
async fn metadata_stays_small_and_rows_complete_over_many_commits() {
    let mut lake = Lake::new();
    lake.settings.manifests_max = 5;
    lake.settings.snapshots_max = 4;
    lake.settings.previous_versions_max = 3;
    let mut table = lake.writer().await;

    for n in 0..40 {
        table.push(0, &run(n * 3, 3)).await.unwrap();
        table.commit(NOON.plus(n)).await.unwrap();
    }

    assert_eq!(lake.rows().await, [(0, 120, 120)]);
    let names = lake.files("metadata").await;
    let count = |what: &str| names.iter().filter(|name| name.contains(what)).count();
    assert!(count(".metadata.json") <= 4, "{names:?}");
    assert!(count("snap-") <= 5, "{names:?}");
    assert!(names.len() <= 30, "{names:?}");
}
