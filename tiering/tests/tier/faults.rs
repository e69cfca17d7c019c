//! Uploads, commits and reads while bucket and quorum misbehave.

use crate::support::{
    Answer, EPOCH, Fault, FaultyBucket, MemoryFile, Quorum, bytes_of, metadata, partition, read_all, segment,
    store, store_with, tier,
};
use object_store::ObjectStoreExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use varve_log::Offset;
use varve_tiering::{CursorId, Patience, ReadError, UploadError};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_nobody_answered_is_repeated_under_another_name_and_its_orphan_collected() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let once = AtomicBool::new(false);
    bucket.plan(move |what, key| {
        (what == "put" && key.contains("/seg/") && !once.swap(true, SeqCst)).then_some(Fault::AnswerLost)
    });
    let segments = vec![segment(0, 10, 10, 100)];

    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();

    assert_eq!(bucket.keys().await.len(), 3, "two attempts and a manifest");
    let swept = tier.sweep(partition(), EPOCH, metadata(&quorum)).await.unwrap();
    assert_eq!((swept.deleted, swept.missing), (1, 0));
    assert_eq!(
        read_all(&tier, &quorum, Offset::ZERO, MIB).await,
        bytes_of(&segments)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_became_of_a_commit_nobody_answered_the_segments_are_committed_once() {
    for answers in [
        vec![Answer::AppliedUnknown],
        vec![Answer::NotAppliedUnknown],
        vec![Answer::NotAppliedUnknown, Answer::AppliedUnknown],
        vec![Answer::Delayed],
        vec![Answer::Delayed, Answer::NotAppliedUnknown],
    ] {
        let bucket = FaultyBucket::new();
        let tier = tier(store(&bucket), |_| {}).await;
        let quorum = Quorum::new();
        quorum.answer(&answers);
        let segments = vec![segment(0, 10, 10, 100), segment(100, 10, 10, 100)];

        let pointer = tier
            .upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
            .await
            .unwrap();

        assert_eq!(
            (quorum.commits(), &pointer),
            (1, &quorum.pointer()),
            "{answers:?}"
        );
        assert_eq!(
            bucket.keys().await.len(),
            3,
            "{answers:?}: nothing was stored twice"
        );
        assert_eq!(
            read_all(&tier, &quorum, Offset::ZERO, MIB).await,
            bytes_of(&segments)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrives_after_everybody_gave_up_finds_its_objects_still_there() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |settings| settings.upload_attempts_max = 1).await;
    let quorum = Quorum::new();
    quorum.answer(&[Answer::Delayed]);
    let segments = vec![segment(0, 10, 10, 100)];
    let done = tier
        .upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await;
    assert!(matches!(done, Err(UploadError::Unknown(_))), "{done:?}");

    // Nothing names them, the attempt is over, and yet they may not go.
    let swept = tier.sweep(partition(), EPOCH, metadata(&quorum)).await.unwrap();
    assert_eq!((swept.listed, swept.deleted), (2, 0));
    quorum.deliver();

    assert_eq!(
        read_all(&tier, &quorum, Offset::ZERO, MIB).await,
        bytes_of(&segments)
    );
    let again = tier
        .upload(partition(), EPOCH, segments, metadata(&quorum))
        .await
        .unwrap();
    assert_eq!((again, quorum.commits()), (quorum.pointer(), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_commits_nothing_and_its_objects_go() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let kept = vec![segment(0, 10, 10, 100)];
    tier.upload(partition(), EPOCH, kept.clone(), metadata(&quorum))
        .await
        .unwrap();
    let deposed = Arc::clone(&quorum);
    bucket.plan(move |what, key| {
        if what == "put" && key.contains("/man/") {
            deposed.new_leader();
        }
        None
    });
    let done = tier
        .upload(
            partition(),
            EPOCH,
            vec![segment(100, 10, 10, 100)],
            metadata(&quorum),
        )
        .await;
    assert_eq!(done, Err(UploadError::Superseded));
    bucket.plan(|_, _| None);

    let epoch = quorum.committed().leader_epoch;
    let swept = tier.sweep(partition(), epoch, metadata(&quorum)).await.unwrap();
    assert_eq!((swept.deleted, swept.missing), (2, 0));
    assert!(
        tier.sweep(partition(), EPOCH, metadata(&quorum)).await.is_err(),
        "the old leader may not collect"
    );
    assert_eq!(read_all(&tier, &quorum, Offset::ZERO, MIB).await, bytes_of(&kept));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_an_error_that_passes() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments = vec![segment(0, 10, 10, 100)];
    bucket.plan(|_, _| Some(Fault::Unavailable));
    let done = tier
        .upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await;
    assert!(matches!(done, Err(UploadError::NotApplied(_))), "{done:?}");
    bucket.plan(|_, _| None);
    let pointer = tier
        .upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    bucket.plan(|_, _| Some(Fault::Unavailable));
    let read = tier
        .read(partition(), &pointer, Offset::ZERO, MIB, CursorId(1))
        .await;
    assert!(matches!(read, Err(ReadError::Unavailable(_))), "{read:?}");
    bucket.plan(|_, _| None);
    assert_eq!(
        read_all(&tier, &quorum, Offset::ZERO, MIB).await,
        bytes_of(&segments)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_gone_is_an_alarm_and_never_the_end_of_the_data() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let pointer = tier
        .upload(
            partition(),
            EPOCH,
            vec![segment(0, 10, 10, 100)],
            metadata(&quorum),
        )
        .await
        .unwrap();
    let key = bucket
        .keys()
        .await
        .into_iter()
        .find(|key| key.contains("/seg/"))
        .unwrap();
    bucket.inside.delete(&key.into()).await.unwrap();
    let read = tier
        .read(partition(), &pointer, Offset::ZERO, MIB, CursorId(1))
        .await;
    assert!(matches!(read, Err(ReadError::Missing { .. })), "{read:?}");
    let swept = tier.sweep(partition(), EPOCH, metadata(&quorum)).await.unwrap();
    assert_eq!(swept.missing, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_does_not_leave_the_broker() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let good = segment(0, 10, 10, 100);
    for position in [70, 5000] {
        let mut bytes = bytes_of(std::slice::from_ref(&good));
        bytes[position] ^= 1;
        let bad = varve_tiering::SealedInput {
            file: Arc::new(MemoryFile(bytes.into())),
            ..good.clone()
        };
        let done = tier
            .upload(partition(), EPOCH, vec![bad], metadata(&quorum))
            .await;
        assert!(matches!(done, Err(UploadError::Corrupt(_))), "{done:?}");
    }
    let short = varve_tiering::SealedInput {
        end: Offset::new(110),
        ..good.clone()
    };
    let done = tier
        .upload(partition(), EPOCH, vec![short], metadata(&quorum))
        .await;
    assert!(matches!(done, Err(UploadError::Corrupt(_))), "{done:?}");
    assert!(bucket.keys().await.is_empty() && quorum.commits() == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_does_not_continue_the_tier_is_refused() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    tier.upload(
        partition(),
        EPOCH,
        vec![segment(0, 10, 10, 10)],
        metadata(&quorum),
    )
    .await
    .unwrap();
    let done = tier
        .upload(
            partition(),
            EPOCH,
            vec![segment(200, 10, 10, 10)],
            metadata(&quorum),
        )
        .await;
    assert_eq!(
        done,
        Err(UploadError::DoesNotFit {
            base: Offset::new(200),
            tier_end: Offset::new(100)
        })
    );

    // Unless what lies between was deleted before it got there.
    quorum.advance_log_start(Offset::new(200));
    let segments = vec![segment(200, 10, 10, 10)];
    let pointer = tier
        .upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    assert_eq!(pointer.start, Offset::new(200));
    assert_eq!(
        read_all(&tier, &quorum, Offset::new(200), MIB).await,
        bytes_of(&segments)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_straggler_is_overtaken_by_a_second_request() {
    let bucket = FaultyBucket::new();
    let tier = tier(store_with(&bucket, Patience::default()), |settings| {
        settings.window_chunks_max = 0
    })
    .await;
    let quorum = Quorum::new();
    let segments: Vec<_> = (0..60).map(|i| segment(i * 3, 3, 1, 700_000)).collect();
    let pointer = tier
        .upload(partition(), EPOCH, segments, metadata(&quorum))
        .await
        .unwrap();
    let read_until = async |mut next: Offset, end: i64| {
        while next < Offset::new(end) {
            next = tier
                .read(partition(), &pointer, next, MIB, CursorId(1))
                .await
                .unwrap()
                .next_offset;
        }
        next
    };
    // Slow enough that a busy machine does not make a straggler of one that is not.
    bucket.plan(|what, _| (what == "get").then_some(Fault::Slow(Duration::from_millis(60))));
    let next = read_until(Offset::ZERO, 174).await;
    let late = AtomicU32::new(0);
    bucket.plan(move |what, _| {
        let first = what == "get" && late.fetch_add(1, SeqCst) == 0;
        first.then_some(Fault::Slow(Duration::from_secs(30)))
    });

    let began = std::time::Instant::now();
    read_until(next, 180).await;

    // Without the second request the first would be given up after 15 seconds.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(tier.read_stats().hedged, 1);
}
