//! The log against the plainest thing that could be right: a list of batches. Random appends, turns, rolls, drops,
//! truncations, kills, power failures and disk faults; one proptest seed repeats any run.

use super::*;
use crate::batch::{Batch, Header, split};
use crate::builder::Builder;
use crate::disk::{Crash, SimDisk};
use crate::producers::Verdict;
use bytes::Bytes;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::new(1_700_000_000_000);
const DIR: &str = "/logs/t-0";
const ALL: Offset = Offset::new(i64::MAX);

#[derive(Debug, Clone)]
enum Op {
    Append {
        records: usize,
        padding: usize,
        producer: Option<i64>,
    },
    NewEpoch,
    Write,
    /// Takes a turn, appends behind it, and only then runs it and hands it back.
    WriteLate,
    Sync,
    /// The same with a sync.
    SyncLate,
    Checkpoint,
    Roll,
    /// Drops segments up to so many per mille of the log.
    Drop(u16),
    Truncate(u16),
    Read {
        from: u16,
        upto: u16,
        max_bytes: usize,
    },
    Find(u16),
    CloseIdle,
    /// The process dies; what was written is still there.
    Kill,
    /// The power fails.
    Fail {
        tail: bool,
        seed: u64,
    },
    FaultyWrite(u8),
    FaultySync(u8),
    Full(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let append = (
        1usize..4,
        prop_oneof![4 => 0usize..200, 1 => 4000usize..6000],
        prop::option::of(0i64..3),
    )
        .prop_map(|(records, padding, producer)| Op::Append {
            records,
            padding,
            producer,
        });
    let read = (0u16..1100, 0u16..1100, 1usize..9000).prop_map(|(from, upto, max_bytes)| Op::Read {
        from,
        upto,
        max_bytes,
    });
    let fail = (any::<bool>(), any::<u64>()).prop_map(|(tail, seed)| Op::Fail { tail, seed });
    prop_oneof![
        24 => append,
        1 => Just(Op::NewEpoch),
        8 => Just(Op::Write),
        3 => Just(Op::WriteLate),
        5 => Just(Op::Sync),
        2 => Just(Op::SyncLate),
        3 => Just(Op::Checkpoint),
        2 => Just(Op::Roll),
        2 => (0u16..1100).prop_map(Op::Drop),
        1 => (0u16..1100).prop_map(Op::Truncate),
        6 => read,
        2 => (0u16..1100).prop_map(Op::Find),
        1 => Just(Op::CloseIdle),
        2 => Just(Op::Kill),
        3 => fail,
        1 => (0u8..4).prop_map(Op::FaultyWrite),
        1 => (0u8..4).prop_map(Op::FaultySync),
        1 => (0u16..3000).prop_map(Op::Full),
    ]
}

/// What must be true, and the log of which.
struct Model {
    disk: SimDisk,
    log: Log,
    settings: Settings,
    /// Every batch appended, as it must be stored, with its offset.
    stored: Vec<(Header, Bytes)>,
    epoch: LeaderEpoch,
    sequences: [i32; 3],
    clock: i64,
    was_truncated: bool,
    /// Counts how often the log was opened: a turn of an earlier one is nobody's.
    life: u32,
}

impl Model {
    fn new(settings: Settings) -> Self {
        let disk = SimDisk::new();
        let log = open(&disk, &settings);
        let (stored, epoch) = (Vec::new(), LeaderEpoch::new(0));
        Self {
            disk,
            log,
            settings,
            stored,
            epoch,
            sequences: [0; 3],
            clock: 0,
            was_truncated: false,
            life: 0,
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Append {
                records,
                padding,
                producer,
            } => self.append(records, padding, producer),
            Op::NewEpoch => self.epoch = self.epoch.plus(1),
            Op::Write => self.write(|_| {}),
            Op::WriteLate => self.write(|model| model.append(1, 10, Some(0))),
            Op::Sync => self.sync(|_| {}),
            Op::SyncLate => self.sync(|model| {
                model.append(2, 20, None);
                model.write(|_| {});
            }),
            Op::Checkpoint => {
                if let Some(checkpoint) = self.log.checkpoint()
                    && checkpoint.write().is_err()
                {
                    self.fail_now();
                }
            }
            Op::Roll => {
                self.log.force_roll(NOW);
            }
            Op::Drop(upto) => {
                let before = self.log.local_start();
                let dropped = self.log.drop_segments_before(self.at(upto));
                assert!(self.log.local_start() >= before && self.log.local_start() <= self.log.durable_end());
                if dropped.run().is_err() {
                    self.fail_now();
                }
            }
            Op::Truncate(to) => self.truncate(to),
            Op::Read {
                from,
                upto,
                max_bytes,
            } => self.read(self.at(from), self.at(upto), max_bytes),
            Op::Find(at) => self.find(self.at(at)),
            Op::CloseIdle => self.log.close_idle_files(),
            Op::Kill => self.kill(),
            Op::Fail { tail, seed } => self.fail(if tail { Crash::Tail } else { Crash::Unsynced }, seed),
            Op::FaultyWrite(after) => self.disk.fail_write(u32::from(after)),
            Op::FaultySync(after) => self.disk.fail_sync(u32::from(after)),
            Op::Full(room) => {
                let used = self.log.bytes();
                self.disk.set_capacity(Some(used + u64::from(room)));
            }
        }
    }

    /// An offset so many per mille into the log; past its end for more than a thousand.
    fn at(&self, per_mille: u16) -> Offset {
        Offset::new(self.log.log_end().value() * i64::from(per_mille) / 1000)
    }

    fn append(&mut self, records: usize, padding: usize, producer: Option<i64>) {
        self.clock += 7;
        let time = NOW.plus(self.clock);
        let mut builder = Builder::new(time);
        if let Some(id) = producer {
            builder = builder.producer(id, 0, self.sequences[usize::try_from(id).unwrap()]);
        }
        for n in 0..records {
            let value = vec![u8::try_from(n).unwrap(); padding];
            builder = builder.push(time, None, Some(&value), &[]);
        }
        let batch = Batch::check_produced(builder.build()).unwrap();
        let Ok(appended) = self.log.append(&batch, self.epoch, NOW) else {
            assert!(self.log.is_dead());
            return;
        };
        assert!(!appended.is_duplicate);
        if let Some(id) = producer {
            self.sequences[usize::try_from(id).unwrap()] += i32::try_from(records).unwrap();
        }
        let header = Header {
            base_offset: appended.first,
            leader_epoch: self.epoch,
            ..*batch.header()
        };
        let mut bytes = batch.bytes().to_vec();
        crate::batch::seal_header(&mut bytes, &header);
        self.stored.push((header, bytes.into()));
    }

    fn write(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        if let Some(turn) = self.log.take_writes() {
            meanwhile(self);
            assert!(self.log.take_writes().is_none());
            match self.log.wrote(turn.run()) {
                Ok(_) => {}
                Err(Error::Io { act: "sync", .. }) => self.fail_now(),
                Err(_) => self.kill(),
            }
        }
    }

    fn sync(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        let life = self.life;
        if let Some(turn) = self.log.take_syncs() {
            meanwhile(self);
            // Meanwhile the log may have died and been opened anew; then nobody is left to take the turn back.
            if self.life == life && self.log.synced(turn.run()).is_err() {
                self.fail_now();
            }
        }
    }

    fn truncate(&mut self, to: u16) {
        while !self.log.is_dead() && self.log.written_end() < self.log.log_end() {
            self.write(|_| {});
        }
        self.write(|_| {});
        let to = self.at(to);
        let expected = self
            .stored
            .iter()
            .take_while(|(header, _)| header.next_offset() <= to)
            .count();
        let local_start = self.log.local_start();
        let Ok(Some(truncation)) = self.log.truncate_to(to) else {
            return;
        };
        self.was_truncated = true;
        if let Ok(end) = self.log.truncated(truncation.run()) {
            if to >= local_start {
                assert_eq!(
                    end,
                    self.stored
                        .get(expected)
                        .map_or(end, |(header, _)| header.base_offset)
                );
            }
            self.cut(end);
        } else {
            // Half done: it opens with or without what was to go.
            let durable = self
                .stored
                .get(expected)
                .map_or(to, |(header, _)| header.base_offset);
            self.fail_keeping(Crash::Tail, 7, durable.min(self.log.durable_end()));
        }
    }

    /// The log ends at `end` now, and all of it is durable.
    fn cut(&mut self, end: Offset) {
        self.stored.retain(|(header, _)| header.next_offset() <= end);
        for (id, sequence) in self.sequences.iter_mut().enumerate() {
            let mut of_it = self.stored.iter().rev().map(|(header, _)| header);
            let last = of_it.find(|header| header.producer_id == i64::try_from(id).unwrap());
            *sequence = last.map_or(0, |last| last.base_sequence + last.record_count);
        }
        assert_eq!(self.log.log_end(), end);
    }

    fn kill(&mut self) {
        let written = self.log.written_end();
        let is_clean = !self.log.is_dead();
        let durable = self.log.durable_end();
        self.reopen(durable);
        if is_clean {
            assert!(
                self.log.log_end() >= written,
                "a killed process loses nothing that was written"
            );
        }
    }

    /// After a failed sync the pages are gone and only look written: no process may go on from them.
    fn fail_now(&mut self) {
        self.fail(Crash::Tail, self.clock.unsigned_abs());
    }

    fn fail(&mut self, crash: Crash, seed: u64) {
        self.fail_keeping(crash, seed, self.log.durable_end());
    }

    fn fail_keeping(&mut self, crash: Crash, seed: u64, durable: Offset) {
        self.disk.crash(crash, &mut chance(seed));
        self.reopen(durable);
    }

    fn reopen(&mut self, durable: Offset) {
        self.disk.set_capacity(None);
        self.disk.fail_write(u32::MAX);
        self.disk.fail_sync(u32::MAX);
        self.log = open(&self.disk, &self.settings);
        self.life += 1;
        let end = self.log.log_end();
        assert!(
            end >= durable,
            "what was reported durable survives: {end} >= {durable}"
        );
        assert_eq!(self.log.durable_end(), end);
        self.cut(end);
        self.check_all();
    }

    /// Byte for byte, offset by offset, and all that is derived from it.
    fn check_all(&mut self) {
        let local_start = self.log.local_start();
        let expected: Vec<_> = self
            .stored
            .iter()
            .filter(|(header, _)| header.next_offset() > local_start)
            .cloned()
            .collect();
        let mut from = local_start;
        let mut read = Vec::new();
        while let Some(plan) = self.log.plan_read(from, ALL, 3000, true).unwrap() {
            let slice = plan.run().unwrap();
            read.extend(split(&slice.read().unwrap()).map(Result::unwrap));
            assert!(slice.next_offset > from);
            from = slice.next_offset;
        }
        assert_eq!(from, self.log.written_end());
        let written = expected.iter().filter(|(header, _)| header.next_offset() <= from);
        assert!(
            read.iter().eq(written.map(|(_, bytes)| bytes)),
            "bytes differ from what was appended"
        );
        self.check_derived();
    }

    fn check_derived(&self) {
        if !self.was_truncated {
            let mut epochs = EpochChain::new();
            let mut producers = Producers::new();
            for (header, _) in &self.stored {
                epochs.begin(header.leader_epoch, header.base_offset);
                producers.record(header, NOW);
            }
            assert_eq!(self.log.epochs(), &epochs);
            assert_eq!(self.log.producers(), &producers);
        }
        for id in 0..3 {
            let of_it = self
                .stored
                .iter()
                .rev()
                .filter(|(header, _)| header.producer_id == id);
            // After a truncation the window may be shorter, but what it has is true.
            for (header, _) in of_it.take(if self.was_truncated { 1 } else { 5 }) {
                let place = Verdict::Duplicate {
                    first: header.base_offset,
                    last: header.last_offset(),
                    timestamp: header.max_timestamp,
                };
                let verdict = self.log.producers().check(header);
                assert!(
                    verdict == Ok(place) || self.was_truncated && verdict == Ok(Verdict::Accept),
                    "{verdict:?}"
                );
            }
        }
    }

    fn read(&self, from: Offset, upto: Offset, max_bytes: usize) {
        // High watermarks stand between batches.
        let before = |offset: Offset| {
            let at = self
                .stored
                .partition_point(|(header, _)| header.next_offset() <= offset);
            self.stored
                .get(at)
                .map_or_else(|| self.log.log_end(), |(header, _)| header.base_offset)
        };
        let upto = before(upto);
        let plan = match self.log.plan_read(from, upto, max_bytes, true) {
            Ok(plan) => plan,
            Err(ReadError::OutOfRange { .. }) => return assert!(from > self.log.log_end()),
            Err(ReadError::NotLocal { local_start, .. }) => return assert!(from < local_start),
        };
        let Some(plan) = plan else {
            return assert!(from >= upto.min(self.log.written_end()));
        };
        let slice = plan.run().unwrap();
        let at = self
            .stored
            .partition_point(|(header, _)| header.next_offset() <= from);
        let mut left = &slice.read().unwrap()[..];
        for (number, (header, bytes)) in self.stored[at..].iter().enumerate() {
            if left.is_empty() {
                assert!(number > 0, "at least one batch");
                assert_eq!(slice.next_offset, header.base_offset);
                break;
            }
            assert!(left.starts_with(bytes), "batch at {} differs", header.base_offset);
            assert!(header.next_offset() <= upto);
            left = &left[bytes.len()..];
            assert!(number == 0 || slice.len <= max_bytes);
        }
        assert!(left.is_empty());
    }

    fn find(&self, near: Offset) {
        let local = self.stored.iter().filter(|(header, _)| {
            header.next_offset() > self.log.local_start() && header.next_offset() <= self.log.written_end()
        });
        let at = self
            .stored
            .partition_point(|(header, _)| header.next_offset() <= near);
        let asked = self
            .stored
            .get(at)
            .map_or(NOW, |(header, _)| header.max_timestamp);
        let expected = local
            .map(|(header, _)| (header.base_offset, header.max_timestamp))
            .find(|&(_, timestamp)| timestamp >= asked);
        let found = self.log.find_timestamp(asked, ALL).run(1 << 20).unwrap();
        assert_eq!(found.map(|found| (found.offset, found.timestamp)), expected);
    }
}

/// A small generator: any seed gives the same run everywhere.
fn chance(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |n| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % n
    }
}

fn open(disk: &SimDisk, settings: &Settings) -> Log {
    Log::open(Arc::new(disk.clone()), PathBuf::from(DIR), settings.clone(), NOW)
        .unwrap()
        .0
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_log_is_the_list(
        ops in prop::collection::vec(op(), 1..160),
        segment_bytes in prop_oneof![Just(20_000u32), Just(60_000), Just(1 << 20)],
        index_interval_bytes in prop_oneof![Just(1u32), Just(300), Just(4096)],
    ) {
        let mut model = Model::new(Settings { segment_bytes, index_interval_bytes, ..Settings::default() });
        for op in ops {
            model.run(op);
        }
        if !model.log.is_dead() {
            model.disk.set_capacity(None);
            model.check_all();
        }
    }

    // A file system that keeps any of the unsynced writes leaves holes. Then the log may refuse to open, but never
    // opens with less than was durable, nor with something else.
    #[test]
    fn holes_are_refused_or_cut_but_never_read_over(
        ops in prop::collection::vec(op(), 1..60),
        seed: u64,
    ) {
        let mut model = Model::new(Settings { segment_bytes: 20_000, ..Settings::default() });
        for op in ops {
            model.run(op);
        }
        let durable = model.log.durable_end();
        let mut chance = chance(seed);
        model.disk.set_capacity(None);
        model.disk.crash(Crash::Scattered, &mut chance);
        let disk: Arc<dyn Disk> = Arc::new(model.disk.clone());
        match Log::open(disk, PathBuf::from(DIR), model.settings.clone(), NOW) {
            Ok((log, _)) => {
                prop_assert!(log.log_end() >= durable);
                model.log = log;
                model.cut(model.log.log_end());
                model.check_all();
            }
            Err(error) => prop_assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
        }
    }
}
