//! Any sequence of uploads, lost answers, crashes, new leaders, retention and collection keeps the promises.

use crate::support::{
    Answer, Fault, FaultyBucket, Quorum, bytes_of, metadata, partition, read_as_of, segment, store, tier,
};
use object_store::ObjectStoreExt;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use varve_log::{LeaderEpoch, Offset};
use varve_tiering::{Manifest, SealedInput, Tier};

#[derive(Debug, Clone)]
enum Op {
    /// Seals segments and uploads all that is not tiered, with these faults and answers.
    Upload {
        segments: usize,
        faults: Vec<u8>,
        answers: Vec<u8>,
    },
    /// The same, given up somewhere on the way.
    Cancelled {
        segments: usize,
        after_ms: u64,
        faults: Vec<u8>,
        answers: Vec<u8>,
    },
    /// What was still under way to the quorum arrives.
    Deliver,
    /// Another broker takes over; the old one does not know yet.
    NewLeader,
    /// Retention or DeleteRecords, in thousandths of the log.
    Advance(usize),
    Trim,
    Sweep,
    /// Whoever led before tries again with its old epoch.
    Zombie {
        segments: usize,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let faults = || prop::collection::vec(0u8..12, 0..12);
    let answers = || prop::collection::vec(0u8..5, 0..4);
    let upload = (1usize..4, faults(), answers());
    let op = prop_oneof![
        5 => upload.clone().prop_map(|(segments, faults, answers)| Op::Upload { segments, faults, answers }),
        2 => (upload, 0u64..6).prop_map(|((segments, faults, answers), after_ms)| {
            Op::Cancelled { segments, after_ms, faults, answers }
        }),
        1 => Just(Op::Deliver),
        1 => Just(Op::NewLeader),
        2 => (0usize..1000).prop_map(Op::Advance),
        2 => Just(Op::Trim),
        2 => Just(Op::Sweep),
        1 => (1usize..3).prop_map(|segments| Op::Zombie { segments }),
    ];
    prop::collection::vec(op, 1..16)
}

struct World {
    bucket: Arc<FaultyBucket>,
    quorum: Arc<Quorum>,
    tier: Tier,
    log: Vec<SealedInput>,
    epoch: LeaderEpoch,
    old_epochs: Vec<LeaderEpoch>,
}

impl World {
    async fn new() -> Self {
        let bucket = FaultyBucket::new();
        let tier = tier(store(&bucket), |settings| settings.upload_attempts_max = 4).await;
        let quorum = Quorum::new();
        let epoch = quorum.committed().leader_epoch;
        Self {
            bucket,
            quorum,
            tier,
            log: vec![],
            epoch,
            old_epochs: vec![],
        }
    }

    fn seal(&mut self, count: usize) {
        for _ in 0..count {
            let base = self.log.last().map_or(0, |last| last.end.value());
            self.log.push(segment(base, 3, 2, 50));
        }
    }

    fn log_end(&self) -> i64 {
        self.log.last().map_or(0, |last| last.end.value())
    }

    /// What a leader would offer: all local segments behind the tier that the log still has.
    fn untiered(&self) -> Vec<SealedInput> {
        let committed = self.quorum.committed();
        let tier_end = committed.pointer.map_or(Offset::ZERO, |pointer| pointer.end);
        let untiered = self.log.iter().filter(|segment| segment.base >= tier_end);
        untiered
            .filter(|segment| segment.end > committed.log_start)
            .cloned()
            .collect()
    }

    fn misbehave(&self, faults: Vec<u8>, answers: &[u8]) {
        let mut faults = faults.into_iter();
        self.bucket.plan(move |_, _| match faults.next()? {
            0 => Some(Fault::Unavailable),
            1 => Some(Fault::AnswerLost),
            2 => Some(Fault::Flipped),
            3 => Some(Fault::Truncated),
            4 => Some(Fault::Slow(Duration::from_millis(2))),
            _ => None,
        });
        let answers: Vec<Answer> = answers
            .iter()
            .map(|answer| match answer {
                0 => Answer::AppliedUnknown,
                1 => Answer::NotAppliedUnknown,
                2 => Answer::Delayed,
                _ => Answer::Honest,
            })
            .collect();
        self.quorum.answer(&answers);
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Upload {
                segments,
                faults,
                answers,
            } => {
                self.upload(segments, faults, &answers, Duration::from_secs(60))
                    .await;
            }
            Op::Cancelled {
                segments,
                after_ms,
                faults,
                answers,
            } => {
                self.upload(segments, faults, &answers, Duration::from_millis(after_ms))
                    .await;
            }
            Op::Deliver => self.quorum.deliver(),
            Op::NewLeader => {
                self.old_epochs.push(self.epoch);
                self.epoch = self.quorum.new_leader();
            }
            Op::Advance(share) => {
                let log_end = usize::try_from(self.log_end()).unwrap();
                let to = i64::try_from(log_end * share / 1000).unwrap();
                self.quorum.advance_log_start(Offset::new(to));
            }
            Op::Trim => drop(
                self.tier
                    .trim(partition(), self.epoch, metadata(&self.quorum))
                    .await,
            ),
            Op::Sweep => drop(
                self.tier
                    .sweep(partition(), self.epoch, metadata(&self.quorum))
                    .await,
            ),
            Op::Zombie { segments } => {
                let Some(epoch) = self.old_epochs.last().copied() else {
                    return;
                };
                self.seal(segments);
                let done = self
                    .tier
                    .upload(partition(), epoch, self.untiered(), metadata(&self.quorum))
                    .await;
                assert!(
                    done.is_err() || self.untiered().is_empty(),
                    "a fenced leader has committed"
                );
                assert!(
                    self.tier
                        .sweep(partition(), epoch, metadata(&self.quorum))
                        .await
                        .is_err()
                );
            }
        }
        self.bucket.plan(|_, _| None);
        self.quorum.answer(&[]);
    }

    async fn upload(&mut self, segments: usize, faults: Vec<u8>, answers: &[u8], patience: Duration) {
        self.seal(segments);
        self.misbehave(faults, answers);
        let upload = self
            .tier
            .upload(partition(), self.epoch, self.untiered(), metadata(&self.quorum));
        // Whether it worked, failed or was cut off: what must hold holds in any case.
        let _ = tokio::time::timeout(patience, upload).await;
    }

    async fn check(&self) {
        let committed = self.quorum.committed();
        let Some(pointer) = committed.pointer else { return };
        let path = |key: &str| object_store::path::Path::from(format!("some/prefix/{key}"));
        let encoded = self
            .bucket
            .inside
            .get(&path(&pointer.manifest_key))
            .await
            .unwrap();
        // Decoding refuses gaps and overlaps.
        let manifest = Manifest::decode(&encoded.bytes().await.unwrap()).unwrap();
        assert_eq!(manifest.start().unwrap_or(pointer.end), pointer.start);
        assert_eq!(manifest.end().unwrap_or(pointer.end), pointer.end);
        let keys = self.bucket.keys().await;
        for entry in &manifest.entries {
            let attempt = entry.name.attempt.simple().to_string();
            assert!(
                keys.iter().any(|key| key.contains(&attempt)),
                "a named object is gone: {attempt}"
            );
        }
        let source: Vec<SealedInput> = self
            .log
            .iter()
            .filter(|segment| segment.base >= pointer.start && segment.end <= pointer.end)
            .cloned()
            .collect();
        // An upload that was cut off may still be committed while this looks: the pointer in hand decides.
        assert_eq!(
            read_as_of(&self.tier, &pointer, pointer.start, 700).await,
            bytes_of(&source)
        );
    }

    /// When all is quiet again, everything arrives and nothing is left over.
    async fn settle(&mut self) {
        self.quorum.deliver();
        self.old_epochs.push(self.epoch);
        self.epoch = self.quorum.new_leader();
        let untiered = self.untiered();
        if !untiered.is_empty() {
            self.tier
                .upload(partition(), self.epoch, untiered, metadata(&self.quorum))
                .await
                .unwrap();
        }
        self.tier
            .trim(partition(), self.epoch, metadata(&self.quorum))
            .await
            .unwrap();
        let swept = self
            .tier
            .sweep(partition(), self.epoch, metadata(&self.quorum))
            .await
            .unwrap();
        assert_eq!(swept.missing, 0);
        let committed = self.quorum.committed();
        let entries = match &committed.pointer {
            Some(pointer) => self
                .tier
                .manifest(partition(), pointer)
                .await
                .unwrap()
                .entries
                .len(),
            None => 0,
        };
        let expected = entries + usize::from(committed.pointer.is_some());
        assert_eq!(self.bucket.keys().await.len(), expected, "orphans are left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_tier_stays_whole_whatever_happens(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in ops {
                world.run(op).await;
                world.check().await;
            }
            world.settle().await;
            world.check().await;
        });
    }
}
