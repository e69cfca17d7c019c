//! The whole path: sealed segments into a bucket, committed, read back byte for byte, expired, collected.

use crate::support::{
    EPOCH, FaultyBucket, Quorum, bytes_of, chance, metadata, partition, read_all, segment, store, tier,
};
use object_store::ObjectStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use varve_log::{LeaderEpoch, Offset, Timestamp};
use varve_tiering::{BucketConfig, CursorId, Patience, ReadError, Reason, SealedInput, open_bucket};

const MIB: usize = 1 << 20;

/// Three segments of about 20 MiB in batches of about 100 KB.
fn large() -> Vec<SealedInput> {
    let first = segment(100, 200, 10, 10_000);
    let second = segment(first.end.value(), 200, 10, 10_000);
    let third = segment(second.end.value(), 30, 1, 700_000);
    vec![first, second, third]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_uploaded_is_read_back_byte_for_byte_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = BucketConfig {
        url: format!("file://{}/bucket", dir.path().display()),
        ..Default::default()
    };
    let store = open_bucket(&config, Patience::default(), chance(5))
        .await
        .unwrap();
    let tier = tier(store, |_| {}).await;
    let quorum = Quorum::new();
    let segments = large();

    let pointer = tier
        .upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();

    assert_eq!(pointer, quorum.pointer());
    assert_eq!((pointer.start, pointer.end), (Offset::new(100), segments[2].end));
    assert_eq!(
        read_all(&tier, &quorum, pointer.start, MIB).await,
        bytes_of(&segments)
    );
    assert_eq!(quorum.commits(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_costs_one_get_a_chunk_and_downloads_nothing_twice() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments = large();
    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();

    let all = read_all(&tier, &quorum, Offset::new(100), MIB).await;

    assert_eq!(all, bytes_of(&segments));
    let requests = tier.store().requests(Reason::ColdRead);
    // Seven chunks (20, 20 and 21 MB), and the small range the first read begins with.
    assert_eq!(requests.gets, 8, "{:?}", bucket.ranges.lock());
    assert!(requests.bytes_received < all.len() as u64 + 2 * MIB as u64);
    assert_eq!(tier.read_stats().probes, 1);
    assert_eq!(tier.read_stats().dropped_unread, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_downloads_about_a_megabyte() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments = large();
    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    let pointer = quorum.pointer();
    bucket.ranges.lock().clear();

    let slice = tier
        .read(partition(), &pointer, Offset::new(1555), 64 * 1024, CursorId(1))
        .await
        .unwrap();

    // The batch of ten that holds offset 1555, whole, although it is larger than was asked for.
    assert_eq!(slice.next_offset, Offset::new(1560));
    let ranges = bucket.ranges.lock().clone();
    assert!(ranges.len() == 1 && ranges[0].1 <= MIB as u64, "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_read_that_is_repeated_or_goes_on_nearby_downloads_nothing_twice() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    tier.upload(partition(), EPOCH, large(), metadata(&quorum))
        .await
        .unwrap();
    let pointer = quorum.pointer();
    bucket.ranges.lock().clear();
    let read = |from| tier.read(partition(), &pointer, from, 64 * 1024, CursorId(1));

    let first = read(pointer.start).await.unwrap();
    assert!(
        tier.read_stats().budget_used_bytes > 0,
        "what it holds is charged"
    );
    assert_eq!(read(pointer.start).await.unwrap(), first);
    assert_eq!(bucket.ranges.lock().len(), 1);

    // Reading on opens the chunk around it, once, and is answered from what is there.
    let second = read(first.next_offset).await.unwrap();
    read(second.next_offset).await.unwrap();
    assert_eq!(tier.read_stats().probes, 1);
    assert!(bucket.ranges.lock().len() <= 2, "{:?}", bucket.ranges.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_reads_of_many_cost_one_get_and_stay_below_the_budget() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |settings| settings.read_budget_bytes = 2 * MIB).await;
    let quorum = Quorum::new();
    tier.upload(partition(), EPOCH, large(), metadata(&quorum))
        .await
        .unwrap();
    let pointer = quorum.pointer();
    bucket.ranges.lock().clear();
    let everywhere = (0..40).map(|reader| {
        let (tier, pointer) = (tier.clone(), pointer.clone());
        async move {
            // Half of them at the same place, the others far from each other.
            let from = pointer.start.plus(if reader < 20 { 0 } else { reader * 100 });
            let read = tier.read(partition(), &pointer, from, MIB, CursorId(reader as u64));
            read.await.unwrap();
        }
    });
    let (done, used) = (Arc::new(AtomicBool::new(false)), tier.clone());
    let watch = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let mut most = 0;
            while !done.load(SeqCst) {
                most = most.max(used.read_stats().budget_used_bytes);
                tokio::task::yield_now().await;
            }
            most
        }
    });
    futures::future::join_all(everywhere).await;
    done.store(true, SeqCst);
    let most = watch.await.unwrap();
    assert!(most > 0 && most <= 2 * MIB as u64, "{most}");
    assert!(bucket.ranges.lock().len() <= 21, "{:?}", bucket.ranges.lock());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_every_size_from_everywhere_give_the_same_bytes() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments = large();
    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    let all = bytes_of(&segments);
    for max_bytes in [1, 99_999, 3 * MIB, 100 * MIB] {
        assert_eq!(
            read_all(&tier, &quorum, Offset::new(100), max_bytes).await,
            all,
            "max_bytes={max_bytes}"
        );
    }
    // From the middle of a batch: the whole batch comes, as Kafka does it.
    let tail = read_all(&tier, &quorum, Offset::new(2103), MIB).await;
    assert_eq!(tail, all[all.len() - tail.len()..]);
    let first = i64::from_be_bytes(tail[..8].try_into().unwrap());
    assert_eq!(first, 2100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_consumers_of_one_range_cost_as_many_gets_as_one() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments = large();
    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    let pointer = quorum.pointer();
    let consumers: Vec<_> = (0..4)
        .map(|id| {
            let (tier, pointer) = (tier.clone(), pointer.clone());
            tokio::spawn(async move {
                let (mut next, mut bytes) = (pointer.start, 0);
                while next < pointer.end {
                    let slice = tier
                        .read(partition(), &pointer, next, MIB, CursorId(id))
                        .await
                        .unwrap();
                    (next, bytes) = (slice.next_offset, bytes + slice.bytes());
                }
                bytes
            })
        })
        .collect();
    for consumer in consumers {
        assert_eq!(consumer.await.unwrap(), bytes_of(&segments).len());
    }
    let gets = tier.store().requests(Reason::ColdRead).gets;
    assert!(gets <= 7 + 4, "{gets} GETs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_of_nearly_nothing_slows_readers_down_and_stops_none() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |settings| settings.read_budget_bytes = 9 * MIB).await;
    let quorum = Quorum::new();
    let segments = large();
    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    let pointer = quorum.pointer();
    let consumers: Vec<_> = (0..6)
        .map(|id| {
            let (tier, pointer) = (tier.clone(), pointer.clone());
            tokio::spawn(async move {
                let (mut next, mut bytes) = (pointer.start, 0);
                while next < pointer.end {
                    let slice = tier
                        .read(partition(), &pointer, next, MIB, CursorId(id))
                        .await
                        .unwrap();
                    (next, bytes) = (slice.next_offset, bytes + slice.bytes());
                }
                bytes
            })
        })
        .collect();
    for consumer in consumers {
        assert_eq!(consumer.await.unwrap(), bytes_of(&segments).len());
    }
    assert!(tier.read_stats().budget_used_bytes <= 9 * MIB as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_segments_go_up_in_parts_of_the_same_bytes() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |settings| {
        settings.single_put_bytes_max = 1 << 20;
        settings.part_bytes = 5 << 20;
        settings.upload_budget_bytes = 30 << 20;
    })
    .await;
    let quorum = Quorum::new();
    let segments = large();
    tier.upload(partition(), EPOCH, segments.clone(), metadata(&quorum))
        .await
        .unwrap();
    assert_eq!(
        read_all(&tier, &quorum, Offset::new(100), MIB).await,
        bytes_of(&segments)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_found_where_the_record_is() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments = large();
    let pointer = tier
        .upload(partition(), EPOCH, segments, metadata(&quorum))
        .await
        .unwrap();
    let find = |millis| {
        let (tier, pointer) = (tier.clone(), pointer.clone());
        async move {
            tier.find_timestamp(partition(), &pointer, Timestamp::new(millis))
                .await
                .unwrap()
        }
    };
    // Records are ten milliseconds apart, the first at offset 100.
    assert_eq!(find(0).await, Some((Offset::new(100), Timestamp::new(1_001_000))));
    assert_eq!(
        find(1_015_551).await,
        Some((Offset::new(1556), Timestamp::new(1_015_560)))
    );
    assert_eq!(
        find(1_041_290).await,
        Some((Offset::new(4129), Timestamp::new(1_041_290)))
    );
    assert_eq!(find(1_041_291).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_epochs_are_answered_from_the_manifest() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let pointer = tier
        .upload(
            partition(),
            EPOCH,
            vec![segment(0, 10, 10, 10)],
            metadata(&quorum),
        )
        .await
        .unwrap();
    let end = async |epoch| {
        tier.end_offset_for_epoch(partition(), &pointer, LeaderEpoch::new(epoch))
            .await
            .unwrap()
    };
    assert_eq!(end(3).await, Some((LeaderEpoch::new(3), Offset::new(50))));
    assert_eq!(end(7).await, Some((EPOCH, Offset::new(100))));
    assert_eq!(end(8).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_data_leaves_in_order_and_reads_below_say_so() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let quorum = Quorum::new();
    let segments: Vec<_> = (0..4).map(|i| segment(i * 100, 10, 10, 100)).collect();
    for one in &segments {
        tier.upload(partition(), EPOCH, vec![one.clone()], metadata(&quorum))
            .await
            .unwrap();
    }
    assert_eq!(bucket.keys().await.len(), 4 + 4);

    quorum.advance_log_start(Offset::new(250));
    let trimmed = tier.trim(partition(), EPOCH, metadata(&quorum)).await.unwrap();

    assert_eq!(trimmed.objects, 2);
    assert_eq!((quorum.pointer().start, quorum.barriers()), (Offset::new(200), 1));
    let below = tier
        .read(partition(), &quorum.pointer(), Offset::new(150), MIB, CursorId(1))
        .await;
    assert!(matches!(below, Err(ReadError::OutOfRange { .. })));
    assert_eq!(
        read_all(&tier, &quorum, Offset::new(200), MIB).await,
        bytes_of(&segments[2..])
    );

    let swept = tier.sweep(partition(), EPOCH, metadata(&quorum)).await.unwrap();
    assert_eq!(
        (swept.missing, bucket.keys().await.len()),
        (0, 3),
        "two segments and one manifest stay"
    );

    quorum.advance_log_start(Offset::new(400));
    tier.trim(partition(), EPOCH, metadata(&quorum)).await.unwrap();
    assert_eq!(
        (quorum.pointer().start, quorum.pointer().end),
        (Offset::new(400), Offset::new(400))
    );
    let next = segment(400, 10, 10, 100);
    tier.upload(partition(), EPOCH, vec![next.clone()], metadata(&quorum))
        .await
        .unwrap();
    assert_eq!(
        read_all(&tier, &quorum, Offset::new(400), MIB).await,
        bytes_of(&[next])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_leaves_nothing_and_others_are_untouched() {
    let bucket = FaultyBucket::new();
    let tier = tier(store(&bucket), |_| {}).await;
    let (quorum, neighbour) = (Quorum::new(), Quorum::new());
    let other = varve_tiering::TierPartition {
        index: 44,
        ..partition()
    };
    tier.upload(
        partition(),
        EPOCH,
        vec![segment(0, 10, 10, 100)],
        metadata(&quorum),
    )
    .await
    .unwrap();
    tier.upload(other, EPOCH, vec![segment(0, 10, 10, 100)], metadata(&neighbour))
        .await
        .unwrap();
    assert!(
        tier.delete_partition(partition(), metadata(&quorum))
            .await
            .is_err(),
        "it still exists"
    );

    quorum.delete_topic();
    assert_eq!(
        tier.delete_partition(partition(), metadata(&quorum))
            .await
            .unwrap()
            .deleted,
        2
    );
    assert_eq!(
        tier.delete_partition(partition(), metadata(&quorum))
            .await
            .unwrap()
            .listed,
        0
    );
    assert_eq!(bucket.keys().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_is_an_object_store_for_others_below_the_same_prefix() {
    let bucket = FaultyBucket::new();
    let store = store(&bucket);
    let plain = store.object_store(Reason::Table);
    let path = object_store::path::Path::from("table/metadata/v1.json");
    object_store::ObjectStoreExt::put(&*plain, &path, "{}".into())
        .await
        .unwrap();
    assert_eq!(bucket.keys().await, ["some/prefix/table/metadata/v1.json"]);
    let got = object_store::ObjectStoreExt::get(&*plain, &path).await.unwrap();
    assert_eq!(got.meta.location, path);
    assert_eq!(got.bytes().await.unwrap(), "{}");
    let listed = plain.list_with_delimiter(Some(&"table".into())).await.unwrap();
    assert_eq!(listed.common_prefixes, ["table/metadata".into()]);
    assert_eq!(
        store.get(Reason::Table, "table/metadata/v1.json").await.unwrap(),
        "{}"
    );
    let requests = store.requests(Reason::Table);
    assert_eq!((requests.puts, requests.gets, requests.lists), (1, 2, 1));
}
