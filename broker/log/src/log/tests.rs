//! The log as its owner uses it, on a disk that can crash.

use super::*;
use crate::batch::{Batch, TimestampType, split};
use crate::builder::Builder;
use crate::disk::{Crash, FsDisk, SimDisk};
use crate::producers::ProducerError;
use crate::records::records;
use bytes::Bytes;
use std::time::Duration;

const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
const EPOCH: LeaderEpoch = LeaderEpoch::new(3);
const ALL: Offset = Offset::new(i64::MAX);

fn small() -> Settings {
    Settings {
        segment_bytes: 2000,
        index_interval_bytes: 200,
        ..Settings::default()
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/logs/orders-0")
}

fn open(disk: &SimDisk, settings: Settings) -> (Log, Recovered) {
    Log::open(Arc::new(disk.clone()), dir(), settings, NOW).unwrap()
}

/// `count` records whose values tell them apart.
fn batch(tag: &str, count: usize) -> Batch {
    sized(tag, count, 0)
}

fn sized(tag: &str, count: usize, padding: usize) -> Batch {
    let mut builder = Builder::new(NOW);
    for n in 0..count {
        let value = format!("{tag}/{n}{}", "x".repeat(padding));
        builder = builder.push(NOW.plus(n as i64), None, Some(value.as_bytes()), &[]);
    }
    Batch::check_produced(builder.build()).unwrap()
}

fn idempotent(id: i64, epoch: i16, sequence: i32) -> Batch {
    let bytes = Builder::new(NOW)
        .producer(id, epoch, sequence)
        .push(NOW, None, Some(b"once"), &[])
        .build();
    Batch::check_produced(bytes).unwrap()
}

fn write(log: &mut Log) {
    while let Some(turn) = log.take_writes() {
        log.wrote(turn.run()).unwrap();
    }
}

fn sync(log: &mut Log) {
    write(log);
    while let Some(turn) = log.take_syncs() {
        log.synced(turn.run()).unwrap();
    }
}

fn save(log: &mut Log) {
    sync(log);
    log.checkpoint().expect("all is durable").write().unwrap();
}

fn append(log: &mut Log, batch: &Batch) -> Appended {
    log.append(batch, EPOCH, NOW).unwrap()
}

/// All local bytes, read slice by slice.
fn read_all(log: &Log, max_bytes: usize) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let mut from = log.local_start();
    while let Some(plan) = log.plan_read(from, ALL, max_bytes, true).unwrap() {
        let slice = plan.run().unwrap();
        assert!(slice.len > 0 && slice.next_offset > from);
        batches.extend(split(&slice.read().unwrap()).map(Result::unwrap));
        from = slice.next_offset;
    }
    assert_eq!(from, log.written_end());
    batches
}

fn values(log: &Log) -> Vec<String> {
    let opened = read_all(log, 1000).into_iter().flat_map(|bytes| {
        records(&Batch::check(bytes).unwrap(), 1 << 20)
            .unwrap()
            .map(Result::unwrap)
    });
    let mut expected = log.local_start();
    opened
        .filter(|record| record.offset >= log.local_start())
        .map(|record| {
            assert_eq!(record.offset, expected);
            expected = expected.plus(1);
            String::from_utf8(record.value.unwrap().to_vec()).unwrap()
        })
        .collect()
}

#[test]
fn what_is_appended_is_read_with_its_offset_and_epoch() {
    let (mut log, _) = open(&SimDisk::new(), Settings::default());
    let first = append(&mut log, &batch("a", 3));
    let second = append(&mut log, &batch("b", 1));
    assert_eq!((first.first, first.last), (Offset::new(0), Offset::new(2)));
    assert_eq!((second.first, second.last), (Offset::new(3), Offset::new(3)));
    assert!(
        log.plan_read(Offset::ZERO, ALL, 1000, true).unwrap().is_none(),
        "not written yet"
    );
    write(&mut log);
    assert_eq!(values(&log), ["a/0", "a/1", "a/2", "b/0"]);
    let stored = Batch::check(read_all(&log, 1000)[1].clone()).unwrap();
    assert_eq!(
        (stored.header().base_offset, stored.header().leader_epoch),
        (Offset::new(3), EPOCH)
    );
}

#[test]
fn one_turn_is_one_write_per_segment() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    for n in 0..100 {
        append(&mut log, &sized("small", 1, n));
        append(&mut log, &sized("large", 1, 5000));
    }
    let (_, before, _) = disk.counts();
    write(&mut log);
    let (_, after, _) = disk.counts();
    assert_eq!(after - before, 1);
    assert_eq!(values(&log).len(), 200);
}

#[test]
fn turns_do_not_overlap() {
    let (mut log, _) = open(&SimDisk::new(), Settings::default());
    append(&mut log, &batch("a", 1));
    let turn = log.take_writes().unwrap();
    append(&mut log, &batch("b", 1));
    assert!(log.take_writes().is_none());
    assert_eq!(log.wrote(turn.run()).unwrap(), Offset::new(1));
    write(&mut log);
    assert_eq!(values(&log), ["a/0", "b/0"]);
}

#[test]
fn a_reader_of_the_tail_reads_no_headers() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    let mut from = Offset::ZERO;
    for n in 0..50 {
        append(&mut log, &batch(&n.to_string(), 2));
        write(&mut log);
        let (before, ..) = disk.counts();
        let slice = log
            .plan_read(from, ALL, 1 << 20, true)
            .unwrap()
            .unwrap()
            .run()
            .unwrap();
        let (after, ..) = disk.counts();
        assert_eq!(after, before, "turn {n}");
        assert_eq!(slice.next_offset, log.written_end());
        from = slice.next_offset;
    }
}

#[test]
fn a_sequential_reader_of_old_data_reads_no_headers() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for n in 0..200 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    write(&mut log);
    read_all(&log, 600);
    let (before, ..) = disk.counts();
    let mut from = Offset::ZERO;
    let mut reads = 0;
    while let Some(plan) = log.plan_read(from, ALL, 600, true).unwrap() {
        from = plan.run().unwrap().next_offset;
        reads += 1;
    }
    let (after, ..) = disk.counts();
    assert!(reads > 20);
    assert_eq!(after, before);
}

#[test]
fn a_slice_ends_at_the_high_watermark_and_at_the_byte_bound() {
    let (mut log, _) = open(&SimDisk::new(), Settings::default());
    for n in 0..10 {
        append(&mut log, &batch(&n.to_string(), 10));
    }
    write(&mut log);
    let one = read_all(&log, 1)[0].len();
    for high in 1..=10i64 {
        for fits in 1..=10usize {
            for from in 0..high * 10 {
                let upto = Offset::new(high * 10);
                let from = Offset::new(from);
                let plan = log.plan_read(from, upto, one * fits, false).unwrap().unwrap();
                let slice = plan.run().unwrap();
                assert_eq!(slice.first_offset.value(), from.value() / 10 * 10);
                assert!(slice.len <= one * fits && slice.len > 0 && slice.len.is_multiple_of(one));
                assert!(slice.next_offset <= upto);
            }
        }
    }
}

#[test]
fn the_first_batch_comes_whole_if_at_least_one_is_asked_for() {
    let (mut log, _) = open(&SimDisk::new(), Settings::default());
    append(&mut log, &batch("a", 10));
    append(&mut log, &batch("b", 10));
    write(&mut log);
    let whole = log
        .plan_read(Offset::new(4), ALL, 1, true)
        .unwrap()
        .unwrap()
        .run()
        .unwrap();
    assert_eq!(
        (whole.first_offset, whole.next_offset),
        (Offset::ZERO, Offset::new(10))
    );
    let none = log
        .plan_read(Offset::new(4), ALL, 1, false)
        .unwrap()
        .unwrap()
        .run()
        .unwrap();
    assert_eq!((none.len, none.next_offset), (0, Offset::new(4)));
}

#[test]
fn asking_outside_of_the_log_says_where_it_is() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..100 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    save(&mut log);
    let tiered = log.sealed()[1].end;
    log.drop_segments_before(tiered).run().unwrap();
    assert!(matches!(
        log.plan_read(Offset::new(101), ALL, 1, true),
        Err(ReadError::OutOfRange { .. })
    ));
    assert!(matches!(
        log.plan_read(Offset::ZERO, ALL, 1, true),
        Err(ReadError::NotLocal { .. })
    ));
    assert!(log.plan_read(Offset::new(100), ALL, 1, true).unwrap().is_none());
    log.set_log_start(Offset::new(5));
    assert!(matches!(
        log.plan_read(Offset::new(4), ALL, 1, true),
        Err(ReadError::OutOfRange { .. })
    ));
}

// Replicas copy segments whole, also what lies below the log start: the lineage reaches as far back.
#[test]
fn epochs_are_known_as_far_back_as_there_are_files() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for epoch in [1, 2, 4] {
        for tag in ["a", "b"] {
            let epoch = LeaderEpoch::new(epoch);
            log.append(&batch(tag, 2), epoch, NOW).unwrap();
        }
        log.force_roll(NOW);
    }
    let epochs = |log: &Log| {
        let entries = log.epochs().entries().iter();
        entries
            .map(|one| (one.epoch.value(), one.start.value()))
            .collect::<Vec<_>>()
    };
    log.set_log_start(Offset::new(10));
    assert_eq!(epochs(&log), [(1, 0), (2, 4), (4, 8)]);
    save(&mut log);
    log.drop_segments_before(log.log_start()).run().unwrap();
    assert_eq!((log.local_base(), epochs(&log)), (Offset::new(8), vec![(4, 8)]));

    log.set_log_start(log.log_end());
    save(&mut log);
    disk.crash(Crash::Unsynced, &mut |_| 0);
    let (log, _) = open(&disk, small());
    assert_eq!((log.log_start(), epochs(&log)), (Offset::new(12), vec![(4, 8)]));
}

#[test]
fn a_segment_rolls_before_it_grows_past_its_size() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..100 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    assert!(log.sealed().is_empty(), "seals are not written yet");
    write(&mut log);
    let sealed = log.sealed();
    assert!(sealed.len() > 2);
    for pair in sealed.windows(2) {
        assert_eq!(pair[0].end, pair[1].base);
    }
    for segment in &sealed {
        assert!(segment.bytes <= 2000);
        assert_eq!(segment.file().unwrap().len().unwrap(), segment.bytes);
        assert_eq!(segment.index().unwrap().entries()[0].position, 0);
    }
    assert_eq!(sealed.last().unwrap().end, log.active_base());
}

#[test]
fn a_few_sealed_segments_are_found_without_listing_all() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..1000 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    save(&mut log);
    let sealed = log.sealed();
    assert!(sealed.len() > 5);
    for (from, upto) in [(0, 1000), (1, 999), (170, 600), (600, 170), (1000, 1000)] {
        let (from, upto) = (Offset::new(from), Offset::new(upto));
        let found = log.sealed_between(from, upto, 3).into_iter().map(|one| one.end);
        let all = sealed.iter().map(|one| one.end);
        let want = all.filter(|end| *end > from && *end <= upto).take(3);
        assert_eq!(found.collect::<Vec<_>>(), want.collect::<Vec<_>>());
    }
}

#[test]
fn a_segment_rolls_by_the_age_of_its_records_and_of_its_first_append() {
    let day = 86_400_000;
    let settings = Settings {
        segment_age: Duration::from_hours(24),
        ..Settings::default()
    };
    let (mut log, _) = open(&SimDisk::new(), settings);
    let at = |time: Timestamp| Batch::check(Builder::new(time).push(time, None, None, &[]).build()).unwrap();
    assert!(!append(&mut log, &at(NOW.plus(-9 * day))).rolled);
    assert!(!append(&mut log, &at(NOW.plus(-8 * day))).rolled);
    assert!(append(&mut log, &at(NOW.plus(-7 * day))).rolled);
    assert!(!log.roll_if_old(NOW.plus(day - 1)));
    assert!(log.roll_if_old(NOW.plus(day)));
    assert!(
        !log.roll_if_old(NOW.plus(9 * day)),
        "an empty segment never rolls"
    );
}

#[test]
fn forced_rolls_seal_what_is_there() {
    let (mut log, _) = open(&SimDisk::new(), Settings::default());
    assert!(!log.force_roll(NOW));
    append(&mut log, &batch("a", 2));
    assert!(log.force_roll(NOW));
    write(&mut log);
    assert_eq!(log.sealed().len(), 1);
    assert_eq!(log.active_base(), Offset::new(2));
    assert_eq!(values(&log), ["a/0", "a/1"]);
}

#[test]
fn large_and_late_batches_are_refused() {
    let settings = Settings {
        max_message_bytes: 500,
        ..Settings::default()
    };
    let (mut log, _) = open(&SimDisk::new(), settings);
    assert!(matches!(
        log.append(&sized("a", 1, 500), EPOCH, NOW),
        Err(AppendError::TooLarge { max: 500, .. })
    ));
    let early = NOW.plus(-3_600_001);
    assert!(matches!(
        log.append(&batch("a", 1), EPOCH, early),
        Err(AppendError::BadTimestamp { .. })
    ));
    append(&mut log, &batch("a", 1));
    let stale = log.append(&batch("a", 1), LeaderEpoch::new(2), NOW);
    assert!(matches!(stale, Err(AppendError::StaleEpoch { .. })));
    assert_eq!(log.log_end(), Offset::new(1));
}

#[test]
fn with_log_append_time_the_brokers_time_is_stored() {
    let settings = Settings {
        timestamp_type: TimestampType::LogAppendTime,
        ..Settings::default()
    };
    let (mut log, _) = open(&SimDisk::new(), settings);
    let later = NOW.plus(10_000_000);
    let appended = log.append(&batch("a", 2), EPOCH, later).unwrap();
    assert_eq!(appended.append_time, Some(later));
    write(&mut log);
    let stored = Batch::check(read_all(&log, 100)[0].clone()).unwrap();
    assert!(
        records(&stored, 1000)
            .unwrap()
            .all(|record| record.unwrap().timestamp == later)
    );
    assert_eq!(log.max_timestamp(), later);
}

#[test]
fn a_retried_batch_is_stored_once_also_after_a_restart_and_a_drop() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    append(&mut log, &idempotent(9, 0, 0));
    let placed = append(&mut log, &idempotent(9, 0, 1));
    for n in 0..60 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    log.force_roll(NOW);
    save(&mut log);
    log.drop_segments_before(ALL).run().unwrap();
    drop(log);

    let (mut log, _) = open(&disk, small());
    let again = append(&mut log, &idempotent(9, 0, 1));
    assert!(again.is_duplicate);
    assert_eq!((again.first, again.last), (placed.first, placed.last));
    let gap = log.append(&idempotent(9, 0, 3), EPOCH, NOW);
    assert!(matches!(
        gap,
        Err(AppendError::Producer(ProducerError::OutOfOrder {
            expected: 2,
            ..
        }))
    ));
}

#[test]
fn the_first_record_not_older_than_a_time_is_found() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..100i64 {
        let time = NOW.plus(-100_000 + n * 100);
        let bytes = Builder::new(time)
            .codec(crate::Codec::ALL[usize::try_from(n).unwrap() % 5])
            .push(time, None, Some(b"early"), &[])
            .push(time.plus(50), None, Some(b"late"), &[])
            .build();
        append(&mut log, &Batch::check_produced(bytes).unwrap());
    }
    write(&mut log);
    let find = |time: Timestamp| log.find_timestamp(time, ALL).run(1 << 20).unwrap();
    for n in 0..200 {
        let time = NOW.plus(-100_000 + n * 50);
        let found = FoundTimestamp {
            offset: Offset::new(n),
            timestamp: time,
            leader_epoch: EPOCH,
        };
        assert_eq!(find(time), Some(found));
        assert_eq!(find(time.plus(-49)), Some(found));
    }
    assert_eq!(find(NOW), None);
    assert_eq!(find(log.max_timestamp()).unwrap().offset, Offset::new(199));
    assert_eq!(
        log.find_timestamp(log.max_timestamp(), Offset::new(199))
            .run(1 << 20)
            .unwrap(),
        None
    );
}

#[test]
fn a_dropped_segment_can_be_read_by_who_has_planned_it() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..100 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    save(&mut log);
    let plan = log.plan_read(Offset::ZERO, ALL, 1 << 20, true).unwrap().unwrap();
    log.close_idle_files();
    log.close_idle_files();
    log.drop_segments_before(ALL).run().unwrap();
    assert!(log.local_start() > Offset::ZERO);
    let slice = plan.run().unwrap();
    assert!(
        slice
            .read()
            .is_ok_and(|bytes| bytes.len() == slice.len && !bytes.is_empty())
    );
}

#[test]
fn nothing_is_dropped_that_no_checkpoint_speaks_of() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..100 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    sync(&mut log);
    assert!(log.drop_segments_before(ALL).is_empty());
    save(&mut log);
    assert!(!log.drop_segments_before(ALL).is_empty());
}

#[test]
fn a_log_whose_data_is_all_in_the_tier_goes_on_where_it_ended() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    append(&mut log, &batch("a", 7));
    log.begin_epoch(LeaderEpoch::new(5));
    log.force_roll(NOW);
    save(&mut log);
    log.drop_segments_before(ALL).run().unwrap();
    assert_eq!(log.bytes(), 0);
    disk.crash(Crash::Unsynced, &mut |_| 0);

    let (mut log, recovered) = open(&disk, small());
    assert_eq!(recovered.cut_bytes, 0);
    assert_eq!((log.log_start(), log.log_end()), (Offset::ZERO, Offset::new(7)));
    assert_eq!(log.epochs().latest(), Some(LeaderEpoch::new(5)));
    // The removal was not synced, so the segment may be back; nothing is wrong with that.
    let appended = log.append(&batch("b", 1), LeaderEpoch::new(5), NOW).unwrap();
    assert_eq!(appended.first, Offset::new(7));
}

#[test]
fn an_empty_log_can_begin_anywhere() {
    let disk = SimDisk::new();
    let make = || Log::create_at(Arc::new(disk.clone()), dir(), small(), Offset::new(500), NOW);
    drop(make().unwrap());
    assert!(make().is_err(), "there is one already");
    let (mut log, _) = open(&disk, small());
    assert_eq!(append(&mut log, &batch("a", 1)).first, Offset::new(500));
    write(&mut log);
    assert_eq!(values(&log), ["a/0"]);
}

#[test]
fn a_killed_process_loses_nothing_that_was_written() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for n in 0..50 {
        append(&mut log, &batch(&n.to_string(), 2));
        write(&mut log);
    }
    let before = values(&log);
    drop(log);
    let (log, recovered) = open(&disk, small());
    assert_eq!(values(&log), before);
    assert!(recovered.scanned_bytes > 0);
    assert_eq!(recovered.cut_bytes, 0);
    drop(log);
    let (_, again) = open(&disk, small());
    assert_eq!(again.scanned_bytes, 0, "the first recovery left a checkpoint");
}

#[test]
fn opening_below_the_recovery_point_reads_footers_only() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for n in 0..1000 {
        append(&mut log, &batch(&n.to_string(), 2));
    }
    save(&mut log);
    let segments = log.sealed().len();
    drop(log);
    let (before, ..) = disk.counts();
    let (log, recovered) = open(&disk, small());
    let (after, ..) = disk.counts();
    assert_eq!((recovered.scanned_bytes, recovered.rebuilt_sidecars), (0, 0));
    assert!(after - before <= segments as u64 + 10);
    assert_eq!(values(&log).len(), 2000);
}

#[test]
fn a_lost_or_damaged_sidecar_is_made_anew() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for n in 0..200 {
        append(&mut log, &batch(&n.to_string(), 2));
    }
    save(&mut log);
    let before = values(&log);
    let sidecars: Vec<_> = log
        .sealed()
        .iter()
        .map(|s| s.path().with_extension("idx"))
        .collect();
    drop(log);
    disk.remove(&sidecars[0]).unwrap();
    let footer = disk.open(&sidecars[1]).unwrap().len().unwrap() - 10;
    assert!(disk.corrupt(&sidecars[1], usize::try_from(footer).unwrap(), 1));
    // The entries of this one are damaged, its footer is not: noticed when it is used.
    assert!(disk.corrupt(&sidecars[2], 5, 1));
    let (log, recovered) = open(&disk, small());
    assert_eq!(recovered.rebuilt_sidecars, 2);
    assert_eq!(values(&log), before);
}

#[test]
fn a_torn_tail_is_cut_and_only_that() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    append(&mut log, &batch("kept", 3));
    write(&mut log);
    let kept = log.bytes();
    append(&mut log, &batch("torn", 3));
    write(&mut log);
    drop(log);
    let path = dir().join(crate::segment::log_name(Offset::ZERO));
    disk.open(&path).unwrap().set_len(kept + 70).unwrap();
    let (log, recovered) = open(&disk, Settings::default());
    assert_eq!(recovered.cut_bytes, 70);
    assert_eq!(values(&log), ["kept/0", "kept/1", "kept/2"]);
}

#[test]
fn damage_with_batches_behind_it_is_corruption() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    for n in 0..3 {
        append(&mut log, &batch(&n.to_string(), 3));
    }
    sync(&mut log);
    let length = usize::try_from(log.bytes()).unwrap();
    drop(log);
    let path = dir().join(crate::segment::log_name(Offset::ZERO));
    let one = length / 3;
    for at in [30, one + 9, one + 80] {
        disk.corrupt(&path, at, 0x10);
        let refused = Log::open(Arc::new(disk.clone()), dir(), Settings::default(), NOW);
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "byte {at}");
        disk.corrupt(&path, at, 0x10);
    }
    disk.corrupt(&path, length - 1, 0x10);
    let (log, _) = open(&disk, Settings::default());
    assert_eq!(log.log_end(), Offset::new(6), "only the tail is damaged");
}

#[test]
fn a_log_that_has_not_changed_needs_no_other_checkpoint() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    assert!(log.is_checkpointed(), "there is nothing to note");

    append(&mut log, &batch("a", 3));
    assert!(!log.is_checkpointed());
    sync(&mut log);
    assert!(!log.is_checkpointed());
    log.checkpoint().unwrap().write().unwrap();
    assert!(log.is_checkpointed());
    drop(log);

    let (mut log, _) = open(&disk, Settings::default());
    assert!(log.is_checkpointed(), "nor does one that was opened and left");
    append(&mut log, &batch("b", 1));
    assert!(!log.is_checkpointed());
}

#[test]
fn a_log_shorter_than_its_checkpoint_is_corruption() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    append(&mut log, &batch("a", 3));
    save(&mut log);
    drop(log);
    let path = dir().join(crate::segment::log_name(Offset::ZERO));
    disk.open(&path).unwrap().set_len(10).unwrap();
    let refused = Log::open(Arc::new(disk.clone()), dir(), Settings::default(), NOW);
    assert!(matches!(refused, Err(Error::Corrupt { .. })));
    disk.remove(&path).unwrap();
    let refused = Log::open(Arc::new(disk.clone()), dir(), Settings::default(), NOW);
    assert!(matches!(refused, Err(Error::Corrupt { .. })));
}

#[test]
fn a_failed_write_or_sync_is_the_end_of_the_log() {
    for fail in [SimDisk::fail_write as fn(&SimDisk, u32), SimDisk::fail_sync] {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, Settings::default());
        append(&mut log, &batch("a", 1));
        sync(&mut log);
        fail(&disk, 0);
        append(&mut log, &batch("b", 1));
        let written = log.take_writes().map(|turn| log.wrote(turn.run()));
        let synced = log.take_syncs().map(|turn| log.synced(turn.run()));
        assert!(matches!(written, Some(Err(_))) || matches!(synced, Some(Err(_))));
        assert!(log.is_dead());
        assert_eq!(log.append(&batch("c", 1), EPOCH, NOW), Err(AppendError::Storage));
        assert!(log.take_writes().is_none() && log.take_syncs().is_none() && log.checkpoint().is_none());
        assert_eq!(log.durable_end(), Offset::new(1));
    }
}

#[test]
fn a_full_disk_ends_the_log_and_recovery_keeps_what_was_synced() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Settings::default());
    append(&mut log, &batch("kept", 2));
    sync(&mut log);
    disk.set_capacity(Some(log.bytes() + 80));
    append(&mut log, &batch("lost", 2));
    let turn = log.take_writes().unwrap();
    assert!(log.wrote(turn.run()).is_err());
    drop(log);
    disk.set_capacity(None);
    let (log, recovered) = open(&disk, Settings::default());
    assert_eq!(recovered.cut_bytes, 80);
    assert_eq!(values(&log), ["kept/0", "kept/1"]);
}

#[test]
fn truncation_cuts_at_a_batch_and_forgets_epochs_and_producers() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for n in 0..40 {
        append(&mut log, &batch(&n.to_string(), 2));
    }
    append(&mut log, &idempotent(9, 0, 0));
    log.begin_epoch(LeaderEpoch::new(4));
    log.append(&idempotent(9, 0, 1), LeaderEpoch::new(4), NOW)
        .unwrap();
    save(&mut log);
    let truncation = log.truncate_to(Offset::new(81)).unwrap().unwrap();
    assert_eq!(log.truncated(truncation.run()).unwrap(), Offset::new(81));
    assert_eq!(log.epochs().latest(), Some(EPOCH));
    assert!(!append(&mut log, &idempotent(9, 0, 1)).is_duplicate);
    write(&mut log);

    let truncation = log.truncate_to(Offset::new(31)).unwrap().unwrap();
    assert_eq!(log.truncated(truncation.run()).unwrap(), Offset::new(30));
    append(&mut log, &batch("new", 1));
    sync(&mut log);
    let expected = values(&log);
    assert_eq!(expected.len(), 31);
    drop(log);
    let (log, _) = open(&disk, small());
    assert_eq!(values(&log), expected);
}

#[test]
fn truncating_before_all_local_data_begins_anew_there() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    for n in 0..100 {
        append(&mut log, &batch(&n.to_string(), 1));
    }
    save(&mut log);
    let tiered = log.sealed()[0].end;
    log.drop_segments_before(tiered).run().unwrap();
    let truncation = log.truncate_to(Offset::new(3)).unwrap().unwrap();
    assert_eq!(log.truncated(truncation.run()).unwrap(), Offset::new(3));
    append(&mut log, &batch("new", 1));
    sync(&mut log);
    drop(log);
    let (log, _) = open(&disk, small());
    assert_eq!(
        (log.log_end(), log.local_start()),
        (Offset::new(4), Offset::new(3))
    );
}

#[test]
fn a_follower_stores_what_the_leader_stored() {
    let (mut leader, _) = open(&SimDisk::new(), small());
    let (mut follower, _) = open(&SimDisk::new(), small());
    for n in 0..100 {
        append(&mut leader, &batch(&n.to_string(), 2));
    }
    write(&mut leader);
    for bytes in read_all(&leader, 700) {
        let batch = Batch::check(bytes).unwrap();
        let at = batch.header().base_offset;
        if leader.segment_base_of(at) == Some(at) {
            follower.force_roll(NOW);
        }
        follower.append_replicated(&batch, NOW).unwrap();
    }
    write(&mut follower);
    assert_eq!(read_all(&follower, 900), read_all(&leader, 400));
    assert_eq!(follower.epochs(), leader.epochs());
    let bases = |log: &Log| {
        log.sealed()
            .iter()
            .map(|segment| segment.base)
            .collect::<Vec<_>>()
    };
    assert_eq!(bases(&follower), bases(&leader));
    let old = Batch::check(read_all(&leader, 100)[0].clone()).unwrap();
    assert!(matches!(
        follower.append_replicated(&old, NOW),
        Err(AppendError::BeforeLogEnd { .. })
    ));
}

#[test]
fn a_cut_leaves_no_segment_begun_where_the_log_ends() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    append(&mut log, &batch("a", 3));
    log.force_roll(NOW);
    append(&mut log, &batch("b", 1));
    save(&mut log);
    let truncation = log.truncate_to(Offset::new(3)).unwrap().unwrap();
    assert_eq!(log.truncated(truncation.run()).unwrap(), Offset::new(3));
    assert_eq!(log.active_base(), Offset::ZERO);
    append(&mut log, &batch("c", 1));
    save(&mut log);
    drop(log);
    let (log, _) = open(&disk, small());
    assert_eq!(values(&log).len(), 4);
    assert!(log.sealed().is_empty());
}

#[test]
fn a_crash_that_keeps_the_cut_but_not_the_removals_leaves_no_gap() {
    // How many syncs succeed before one fails: somewhere among them the segment is cut and not yet synced.
    for succeed in 0..6 {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, small());
        for n in 0..100 {
            append(&mut log, &batch(&n.to_string(), 1));
        }
        save(&mut log);
        let all = values(&log);
        let truncation = log.truncate_to(Offset::new(3)).unwrap().unwrap();
        disk.fail_sync(succeed);
        let _ = log.truncated(truncation.run());
        drop(log);
        let mut is_names = true;
        disk.crash(Crash::Tail, &mut |below| match std::mem::take(&mut is_names) {
            true => 0,
            false => below - 1,
        });
        let (log, _) = open(&disk, small());
        assert_eq!(values(&log), all[..values(&log).len()]);
    }
}

#[test]
fn a_reign_that_wrote_nothing_stays_forgotten_over_a_restart() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    append(&mut log, &batch("a", 2));
    log.begin_epoch(EPOCH.plus(4));
    save(&mut log);
    // It follows again, and its leader never heard of that reign.
    assert!(log.truncate_to(Offset::new(2)).unwrap().is_none());
    append(&mut log, &batch("b", 2));
    sync(&mut log);
    let expected = log.epochs().clone();
    assert_eq!(expected.latest(), Some(EPOCH));
    drop(log);
    assert_eq!(open(&disk, small()).0.epochs(), &expected);
}

#[test]
fn a_roll_is_taken_back_while_nothing_was_appended() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, small());
    assert!(log.reopen_sealed().unwrap().is_none());
    append(&mut log, &batch("a", 3));
    log.force_roll(NOW);
    save(&mut log);
    assert_eq!(log.segment_base_of(Offset::new(3)), Some(Offset::new(3)));
    let truncation = log.reopen_sealed().unwrap().unwrap();
    assert_eq!(log.truncated(truncation.run()).unwrap(), Offset::new(3));
    assert_eq!(log.segment_base_of(Offset::new(3)), Some(Offset::ZERO));
    append(&mut log, &batch("b", 1));
    write(&mut log);
    assert!(log.reopen_sealed().unwrap().is_none());
    save(&mut log);
    let expected = values(&log);
    drop(log);
    assert_eq!(values(&open(&disk, small()).0), expected);
}

fn seed_at(at: i64) -> Seed {
    let mut epochs = EpochChain::new();
    epochs.begin(LeaderEpoch::new(1), Offset::ZERO);
    epochs.begin(LeaderEpoch::new(6), Offset::new(2));
    let mut producers = Producers::new();
    let mut header = *idempotent(9, 0, 0).header();
    header.base_offset = Offset::new(at - 1);
    producers.record(&header, NOW);
    Seed {
        at: Offset::new(at),
        log_start: Offset::new(1),
        epochs,
        producers,
    }
}

#[test]
fn a_log_that_begins_anew_keeps_what_it_was_told_and_nothing_else() {
    for at in [3, 7, 60, 500] {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, small());
        for n in 0..60 {
            append(&mut log, &batch(&n.to_string(), 1));
        }
        save(&mut log);
        let seed = seed_at(at);
        let restart = log.restart_at(seed.clone()).unwrap();
        assert_eq!(log.truncated(restart.run()).unwrap(), seed.at);
        assert_eq!(
            (log.local_start(), log.log_start()),
            (seed.at, seed.log_start.min(seed.at))
        );
        assert_eq!((log.epochs(), log.producers()), (&seed.epochs, &seed.producers));
        let newest = LeaderEpoch::new(7);
        assert!(
            log.append(&idempotent(9, 0, 0), newest, NOW)
                .unwrap()
                .is_duplicate
        );
        log.append(&batch("new", 1), newest, NOW).unwrap();
        save(&mut log);
        drop(log);

        let (log, _) = open(&disk, small());
        assert_eq!((log.local_start(), log.log_end()), (seed.at, seed.at.plus(1)));
        assert_eq!(log.log_start(), seed.log_start.min(seed.at));
        assert_eq!(log.epochs().epoch_at(Offset::new(1)), Some(LeaderEpoch::new(1)));
    }
}

#[test]
fn a_crash_while_a_log_begins_anew_leaves_the_old_one_or_the_new_one() {
    for failing in 0..12 {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, small());
        for n in 0..60 {
            append(&mut log, &batch(&n.to_string(), 1));
        }
        save(&mut log);
        let old = values(&log);
        let restart = log.restart_at(seed_at(500)).unwrap();
        disk.fail_sync(failing);
        let _ = log.truncated(restart.run());
        drop(log);
        let mut number = failing as usize;
        disk.crash(Crash::Tail, &mut |below| {
            number = number.wrapping_mul(31).wrapping_add(7);
            number % below.max(1)
        });
        let (log, _) = open(&disk, small());
        if log.log_end() == Offset::new(500) {
            assert!(values(&log).is_empty());
            assert_eq!(log.epochs().latest(), Some(LeaderEpoch::new(6)));
        } else {
            assert_eq!(values(&log), old);
        }
    }
}

#[test]
fn bytes_since_an_offset_are_about_right() {
    let (mut log, _) = open(&SimDisk::new(), small());
    for n in 0..100 {
        append(&mut log, &sized(&n.to_string(), 1, 50));
    }
    assert_eq!(log.bytes_since(Offset::ZERO), log.bytes());
    assert_eq!(log.bytes_since(log.log_end()), 0);
    let half = log.bytes_since(Offset::new(50));
    assert!(half.abs_diff(log.bytes() / 2) < 400, "{half} of {}", log.bytes());
}

#[test]
fn the_real_disk_keeps_a_log_too() {
    let home = tempfile::tempdir().unwrap();
    let open = || Log::open(Arc::new(FsDisk), home.path().join("orders-0"), small(), NOW).unwrap();
    let (mut log, _) = open();
    for n in 0..100 {
        append(&mut log, &sized(&n.to_string(), 2, n));
    }
    save(&mut log);
    append(&mut log, &batch("last", 1));
    write(&mut log);
    let before = values(&log);
    drop(log);
    let (mut log, _) = open();
    assert_eq!(values(&log), before);
    save(&mut log);
    let all = log.active_base();
    log.drop_segments_before(all).run().unwrap();
    assert_eq!(log.local_start(), all);
}

#[test]
fn readers_without_the_lock_see_whole_batches_while_the_log_grows_rolls_and_drops() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    let home = tempfile::tempdir().unwrap();
    let settings = Settings {
        segment_bytes: 50_000,
        sync_on_seal: false,
        ..Settings::default()
    };
    let (log, _) = Log::open(Arc::new(FsDisk), home.path().join("orders-0"), settings, NOW).unwrap();
    let (log, is_done) = (Mutex::new(log), AtomicBool::new(false));
    let follow = || {
        let (mut from, mut seen) = (Offset::ZERO, 0);
        while !is_done.load(Ordering::Acquire) || from < log.lock().unwrap().written_end() {
            let plan = log.lock().unwrap().plan_read(from, ALL, 20_000, true);
            let slice = match plan {
                Ok(Some(plan)) => plan.run().unwrap(),
                Ok(None) => continue,
                Err(ReadError::NotLocal { local_start, .. }) => {
                    from = local_start;
                    continue;
                }
                Err(other) => panic!("{other}"),
            };
            for bytes in split(&slice.read().unwrap()) {
                let batch = Batch::check(bytes.unwrap()).unwrap();
                assert!(batch.header().next_offset() > from);
                from = batch.header().next_offset();
                seen += 1;
            }
        }
        seen
    };
    std::thread::scope(|threads| {
        let readers = [threads.spawn(follow), threads.spawn(follow)];
        for n in 0..3000 {
            log.lock()
                .unwrap()
                .append(&sized("r", 1 + n % 3, n % 400 * 20), EPOCH, NOW)
                .unwrap();
            let turn = log.lock().unwrap().take_writes().unwrap();
            let written = turn.run();
            log.lock().unwrap().wrote(written).unwrap();
            if n % 200 == 199 {
                let turn = log.lock().unwrap().take_syncs().unwrap();
                let synced = turn.run();
                log.lock().unwrap().synced(synced).unwrap();
                let checkpoint = log.lock().unwrap().checkpoint().unwrap();
                checkpoint.write().unwrap();
                let upto = Offset::new(log.lock().unwrap().log_end().value() / 2);
                let dropped = log.lock().unwrap().drop_segments_before(upto);
                dropped.run().unwrap();
                log.lock().unwrap().close_idle_files();
            }
        }
        is_done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
