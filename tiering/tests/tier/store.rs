//! One suite for every object store, and what the wrapper makes of one that misbehaves.

use crate::support::{Fault, FaultyBucket, chance, patience, store};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use varve_tiering::{BucketConfig, CauseKind, Patience, Reason, Store, StoreError, open_bucket};

const MIB: usize = 1 << 20;

async fn on_both(test: impl AsyncFn(Store)) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let config = BucketConfig {
        url,
        ..Default::default()
    };
    test(
        open_bucket(&config, Patience::default(), chance(3))
            .await
            .unwrap(),
    )
    .await;
    test(store(&FaultyBucket::new())).await;
}

async fn put(store: &Store, key: &str, body: &Bytes) {
    store.put(Reason::Upload, key, body.clone().into()).await.unwrap();
}

#[tokio::test]
async fn what_is_put_is_got_whole_and_in_ranges() {
    on_both(async |store| {
        let body = Bytes::from((0..=255u8).cycle().take(3 * MIB).collect::<Vec<_>>());
        put(&store, "a/b/c", &body).await;
        assert_eq!(store.get(Reason::ColdRead, "a/b/c").await.unwrap(), body);
        let crc = crc_fast::crc32_iscsi(&body[5..2_000_005]);
        let range = store
            .get_range(Reason::ColdRead, "a/b/c", 5..2_000_005, Some(crc))
            .await
            .unwrap();
        assert_eq!(range, body.slice(5..2_000_005));
        assert_eq!(
            store.head(Reason::Upload, "a/b/c").await.unwrap(),
            body.len() as u64
        );
    })
    .await;
}

#[tokio::test]
async fn a_range_over_the_end_or_with_another_checksum_is_corrupt_and_never_served() {
    on_both(async |store| {
        put(&store, "k", &Bytes::from_static(b"0123456789")).await;
        let over = store.get_range(Reason::ColdRead, "k", 5..20, None).await;
        assert!(matches!(over, Err(StoreError::Corrupt { .. })), "{over:?}");
        let wrong = store.get_range(Reason::ColdRead, "k", 5..8, Some(1)).await;
        assert!(matches!(wrong, Err(StoreError::Corrupt { .. })), "{wrong:?}");
    })
    .await;
}

#[tokio::test]
async fn what_is_not_there_is_missing_and_may_be_deleted_again() {
    on_both(async |store| {
        let missing = StoreError::Missing {
            key: "no/where".to_owned(),
        };
        assert_eq!(
            store.get(Reason::ColdRead, "no/where").await.unwrap_err(),
            missing
        );
        assert_eq!(
            store.head(Reason::ColdRead, "no/where").await.unwrap_err(),
            missing
        );
        store.delete(Reason::Scrub, "no/where").await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn listings_show_keys_as_they_were_put() {
    on_both(async |store| {
        for key in ["p/1/x", "p/1/y", "p/10/z"] {
            put(&store, key, &Bytes::from_static(b"body")).await;
        }
        let mut listed = store.list(Reason::Scrub, "p/1").await.unwrap();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        let keys: Vec<_> = listed
            .iter()
            .map(|listed| (listed.key.as_str(), listed.bytes))
            .collect();
        assert_eq!(keys, [("p/1/x", 4), ("p/1/y", 4)]);
        store.delete(Reason::Scrub, "p/1/x").await.unwrap();
        assert_eq!(store.list(Reason::Scrub, "p/1").await.unwrap().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn parts_become_one_object_and_an_aborted_one_leaves_none() {
    on_both(async |store| {
        let part = Bytes::from(vec![7; 5 * MIB]);
        let mut parts = store.put_parts(Reason::Upload, "large").await.unwrap();
        parts.put(part.clone().into()).await.unwrap();
        parts.put(part.slice(..100).into()).await.unwrap();
        parts.complete().await.unwrap();
        assert_eq!(
            store.head(Reason::Upload, "large").await.unwrap(),
            5 * MIB as u64 + 100
        );
        let mut parts = store.put_parts(Reason::Upload, "gone").await.unwrap();
        parts.put(part.into()).await.unwrap();
        parts.abort().await;
        assert!(store.head(Reason::Upload, "gone").await.is_err());
    })
    .await;
}

/// The first `count` requests of one kind go wrong.
fn first(bucket: &FaultyBucket, what: &'static str, count: u32, fault: Fault) -> Arc<AtomicU32> {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    bucket.plan(move |this, _| (this == what && counter.fetch_add(1, SeqCst) < count).then_some(fault));
    asked
}

#[tokio::test]
async fn reading_survives_a_store_that_is_busy_slow_or_cuts_answers_short() {
    for fault in [Fault::Unavailable, Fault::Hangs, Fault::Truncated] {
        let bucket = FaultyBucket::new();
        let store = store(&bucket);
        put(&store, "k", &Bytes::from_static(b"0123456789")).await;
        let asked = first(&bucket, "get", 2, fault);
        let got = store.get_range(Reason::ColdRead, "k", 2..6, None).await;
        assert_eq!(got.unwrap(), "2345", "{fault:?}");
        assert_eq!(
            (asked.load(SeqCst), store.requests(Reason::ColdRead).gets),
            (3, 3)
        );
    }
}

#[tokio::test]
async fn a_byte_flipped_on_the_way_is_fetched_again_and_one_flipped_for_good_is_reported() {
    let bucket = FaultyBucket::new();
    let store = store(&bucket);
    put(&store, "k", &Bytes::from_static(b"0123456789")).await;
    let crc = Some(crc_fast::crc32_iscsi(b"2345"));
    first(&bucket, "get", 1, Fault::Flipped);
    assert_eq!(
        store.get_range(Reason::ColdRead, "k", 2..6, crc).await.unwrap(),
        "2345"
    );
    first(&bucket, "get", u32::MAX, Fault::Flipped);
    let got = store.get_range(Reason::ColdRead, "k", 2..6, crc).await;
    assert!(matches!(got, Err(StoreError::Corrupt { .. })), "{got:?}");
}

#[tokio::test]
async fn a_store_that_never_answers_is_given_up_in_bounded_time() {
    let bucket = FaultyBucket::new();
    let store = store(&bucket);
    let asked = first(&bucket, "get", u32::MAX, Fault::Hangs);
    let began = std::time::Instant::now();
    let got = store.get(Reason::ColdRead, "k").await;
    assert!(matches!(got, Err(StoreError::NotApplied(cause)) if cause.kind == CauseKind::Busy));
    assert_eq!(asked.load(SeqCst), patience().attempts_max);
    assert!(began.elapsed() < patience().answer * patience().attempts_max * 2);
}

#[tokio::test]
async fn a_put_without_an_answer_is_unknown_and_not_repeated() {
    let bucket = FaultyBucket::new();
    let store = store(&bucket);
    for fault in [Fault::AnswerLost, Fault::Hangs, Fault::Unavailable] {
        let asked = first(&bucket, "put", 1, fault);
        let done = store.put(Reason::Upload, "k", "body".into()).await;
        assert!(matches!(done, Err(StoreError::Unknown(_))), "{fault:?}: {done:?}");
        assert_eq!(asked.load(SeqCst), 1);
    }
}
