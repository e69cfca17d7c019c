//! The way of a sealed segment into the bucket, and of a replica out of it.
//!
//! ```text
//! look (the committed manifest) ─► put the segment ─► put the manifest ─► commit ─► look
//! ```
//! Names are never used again. A put of unknown outcome is given up, and the next try has other names; a commit of unknown
//! outcome is asked again, and the metadata says which it was. With the leadership everything here ends.

use std::sync::Arc;

use bytes::Bytes;
use varve_cluster::controller::command::CommitTier;
use varve_cluster::controller::{Command, Partition, TierPointer};
use varve_cluster::replica::Rebuild;
use varve_cluster::{BrokerEpoch, BrokerId};
use varve_log::{Offset, Seed};

use super::bug::Bug;
use super::message::{Body, Entry, Object};
use super::node::{Setup, TOPIC};
use super::replica::Replica;

/// An answer of the store is waited for so long, a commit's too.
const PATIENCE_MS: i64 = 400;

#[derive(Debug, Default)]
pub(super) struct Upload {
    stage: Stage,
    /// The manifest that was committed last, as far as is known here, under its name.
    pub(super) manifest: Option<(String, Vec<Entry>)>,
    deadline: i64,
    uploaded_end: Option<Offset>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Looking {
        number: u64,
        key: String,
    },
    Segment {
        number: u64,
        entry: Entry,
    },
    Manifest {
        number: u64,
        entries: Vec<Entry>,
        key: String,
    },
    Commit {
        number: u64,
        entries: Vec<Entry>,
        commit: Box<CommitTier>,
    },
}

/// What the broker is to send for it.
pub(super) enum Sends {
    Store(Body),
    Controller(u64, Box<Command>),
}

impl Upload {
    pub(super) fn uploaded_end(&self) -> Offset {
        self.uploaded_end.unwrap_or(Offset::ZERO)
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    pub(super) fn wake_at(&self) -> i64 {
        match self.stage {
            Stage::Idle => i64::MAX,
            _ => self.deadline,
        }
    }
}

impl Replica {
    /// The next step of the upload that is due, if any. `number` is unused so far.
    pub(super) fn upload(
        &mut self,
        setup: &Setup,
        me: BrokerId,
        partition: &Partition,
        (now, number): (i64, u64),
    ) -> Option<Sends> {
        let leads = self.leading()?.epoch();
        if partition.leader != Some(me) || partition.leader_epoch != leads {
            return None;
        }
        if !self.upload.is_idle() && now < self.upload.deadline {
            return None;
        }
        self.upload.deadline = now + PATIENCE_MS;
        match std::mem::take(&mut self.upload.stage) {
            Stage::Commit { mut entries, .. } if setup.has(Bug::CommitTwice) => {
                entries.extend(entries.last().cloned());
                let key = format!("{}/{leads}/manifest-{number:x}", self.partition);
                let object = Arc::new(Object::Manifest(entries.clone()));
                self.upload.stage = Stage::Manifest {
                    number,
                    entries,
                    key: key.clone(),
                };
                Some(Sends::Store(Body::Put { number, key, object }))
            }
            Stage::Commit { entries, commit, .. } => {
                let command = Command::CommitTier((*commit).clone());
                self.upload.stage = Stage::Commit {
                    number,
                    entries,
                    commit,
                };
                Some(Sends::Controller(number, Box::new(command)))
            }
            // Given up, if anything was under way: its names are never used again.
            _ => self.begin_upload(setup, partition, number),
        }
    }

    fn begin_upload(&mut self, setup: &Setup, partition: &Partition, number: u64) -> Option<Sends> {
        let current = partition
            .tier
            .as_ref()
            .map_or("", |tier| tier.manifest_key.as_str());
        let known = self.upload.manifest.as_ref().map(|(key, _)| key.as_str());
        let stale = setup.has(Bug::StaleManifest) && known.is_some();
        if current.is_empty() && !stale {
            self.upload.manifest = Some((String::new(), vec![]));
        } else if known != Some(current) && !stale {
            let key = current.to_owned();
            self.upload.stage = Stage::Looking {
                number,
                key: key.clone(),
            };
            return Some(Sends::Store(Body::Get { number, key }));
        }
        let leader_epoch = self.leading()?.epoch();
        let segment = self.due_for_tier(partition.tier_end())?;
        let bytes = segment_bytes(&segment)?;
        let (mut epochs, mut producers) = (self.log.epochs().clone(), self.log.producers().clone());
        epochs.truncate_from(segment.end);
        producers.truncate_from(segment.end);
        let key = match setup.has(Bug::ObjectNamesReused) {
            true => format!("{}/0/{}", self.partition, segment.base),
            false => format!("{}/{leader_epoch}/{}-{number:x}", self.partition, segment.base),
        };
        let entry = Entry {
            base: segment.base,
            end: segment.end,
            key: key.clone(),
        };
        let object = Object::Segment {
            end: segment.end,
            bytes,
            epochs,
            producers,
        };
        self.upload.stage = Stage::Segment { number, entry };
        Some(Sends::Store(Body::Put {
            number,
            key,
            object: Arc::new(object),
        }))
    }

    /// The store has answered a put.
    pub(super) fn put_done(
        &mut self,
        setup: &Setup,
        (me, epoch): (BrokerId, BrokerEpoch),
        partition: &Partition,
        (answered, done): (u64, bool),
        (now, number): (i64, u64),
    ) -> Option<Sends> {
        let done = done || setup.has(Bug::CommitBeforeStored);
        let leader_epoch = self.leading()?.epoch();
        match std::mem::take(&mut self.upload.stage) {
            Stage::Segment { number: asked, entry } if asked == answered && done => {
                let log_start = partition.log_start;
                let (_, old) = self.upload.manifest.clone()?;
                let kept = old.into_iter().filter(|entry| entry.end > log_start);
                self.upload.uploaded_end = Some(entry.end);
                let entries: Vec<Entry> = kept.chain([entry]).collect();
                let key = format!("{}/{leader_epoch}/manifest-{number:x}", self.partition);
                let object = Arc::new(Object::Manifest(entries.clone()));
                self.upload.deadline = now + PATIENCE_MS;
                self.upload.stage = Stage::Manifest {
                    number,
                    entries,
                    key: key.clone(),
                };
                Some(Sends::Store(Body::Put { number, key, object }))
            }
            Stage::Manifest {
                number: asked,
                entries,
                key,
            } if asked == answered && done => {
                let mut commit = commit(
                    (me, epoch),
                    self.partition,
                    partition,
                    &entries,
                    (key, leader_epoch),
                )?;
                if setup.has(Bug::CommitTwice) {
                    commit.base = commit.base.max(partition.tier_end());
                }
                let command = Command::CommitTier(commit.clone());
                self.upload.deadline = now + PATIENCE_MS;
                self.upload.stage = Stage::Commit {
                    number,
                    entries,
                    commit: Box::new(commit),
                };
                Some(Sends::Controller(number, Box::new(command)))
            }
            // Begun anew at once if it failed; with other names, because it may be there all the same.
            Stage::Segment { number: asked, .. } | Stage::Manifest { number: asked, .. }
                if asked == answered =>
            {
                None
            }
            other => {
                self.upload.stage = other;
                None
            }
        }
    }

    /// The controller has answered a commit: either way the metadata says what is committed now.
    pub(super) fn commit_done(&mut self, answered: u64) {
        if let Stage::Commit { number, .. } = &self.upload.stage
            && *number == answered
            && let Stage::Commit { entries, commit, .. } = std::mem::take(&mut self.upload.stage)
        {
            // Only if the metadata names it; another one is looked up.
            self.upload.manifest = Some((commit.pointer.manifest_key, entries));
        }
    }

    /// The committed manifest has come, for the next upload.
    pub(super) fn manifest_came(&mut self, answered: u64, object: Option<&Object>) {
        if let Stage::Looking { number, .. } = &self.upload.stage
            && *number == answered
            && let Stage::Looking { key, .. } = std::mem::take(&mut self.upload.stage)
            && let Some(Object::Manifest(entries)) = object
        {
            self.upload.manifest = Some((key, entries.clone()));
        }
    }

    /// What of the tier a leader would keep, if it knows the committed manifest.
    pub(super) fn kept(&self, partition: &Partition) -> Option<Vec<String>> {
        let (key, entries) = self.upload.manifest.as_ref()?;
        let is_current = partition
            .tier
            .as_ref()
            .is_some_and(|tier| tier.manifest_key == *key);
        let keys = entries.iter().map(|entry| entry.key.clone());
        is_current.then(|| keys.chain([key.clone()]).collect())
    }
}

/// The manifest after this one; its key must be the one the metadata names, or nothing is committed.
fn commit(
    (me, epoch): (BrokerId, BrokerEpoch),
    index: i32,
    partition: &Partition,
    entries: &[Entry],
    (manifest_key, leader_epoch): (String, varve_log::LeaderEpoch),
) -> Option<CommitTier> {
    let last = entries.last()?;
    let start = entries.first()?.base;
    let version = partition.tier_version();
    Some(CommitTier {
        topic_id: TOPIC,
        partition: index,
        broker: me,
        broker_epoch: epoch,
        leader_epoch,
        expected_version: version,
        base: last.base,
        pointer: TierPointer {
            version: version + 1,
            manifest_key,
            manifest_hash: String::new(),
            start,
            end: last.end,
            bytes: 0,
            leader_epoch,
        },
    })
}

pub(super) fn segment_bytes(segment: &varve_log::SealedSegment) -> Option<Bytes> {
    let mut bytes = vec![0; usize::try_from(segment.bytes).ok()?];
    segment.file().ok()?.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes.into())
}

/// What a new beginning needs from the bucket, step by step.
#[derive(Debug)]
pub(super) struct Restoring {
    pub(super) rebuild: Rebuild,
    pub(super) number: u64,
    pub(super) deadline: i64,
}

/// From the manifest: the object that ends there.
pub(super) fn object_ending(object: &Object, at: Offset) -> Option<String> {
    match object {
        Object::Manifest(entries) => entries
            .iter()
            .find(|entry| entry.end == at)
            .map(|entry| entry.key.clone()),
        Object::Segment { .. } => None,
    }
}

/// From that object: what the log begins with.
pub(super) fn seed_from(object: &Object, log_start: Offset) -> Option<Seed> {
    match object {
        Object::Segment {
            end,
            epochs,
            producers,
            ..
        } => Some(Seed {
            at: *end,
            log_start: log_start.min(*end),
            epochs: epochs.clone(),
            producers: producers.clone(),
        }),
        Object::Manifest(_) => None,
    }
}
