//! A node's disk: what is synced stays, of the rest a crash keeps what it likes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;

use super::chance::Chance;

/// What lies on a disk, as the node that owns it sees it.
pub trait Storage: Clone + Debug {
    type Write: Clone + Debug;

    /// Which file a write goes to. Within a file a crash keeps the order of writes, between files it does not.
    fn file(write: &Self::Write) -> usize;

    fn apply(&mut self, write: &Self::Write);

    /// Does a part of `write`, as a crash in its middle would; nothing if it is done as a whole or not at all.
    fn tear(&mut self, write: &Self::Write, chance: &mut Chance);
}

#[derive(Debug)]
pub struct Disk<S: Storage> {
    synced: S,
    /// Written and not yet synced, with their numbers.
    pending: VecDeque<(u64, S::Write)>,
    /// When the sync under way ends, and the one after it. Microseconds of the world.
    syncs: [i64; 2],
}

impl<S: Storage> Disk<S> {
    pub fn new(content: S) -> Self {
        Self {
            synced: content,
            pending: VecDeque::new(),
            syncs: [0, 0],
        }
    }

    /// When a write of now is synced, if a sync takes so long: one is under way at a time, and what comes meanwhile
    /// goes into the next one together.
    pub fn synced_at(&mut self, now: i64, takes: i64) -> i64 {
        let [current, next] = self.syncs;
        self.syncs = if now >= current.max(next) {
            [now + takes; 2]
        } else if now >= current {
            [next, next + takes]
        } else if next > current {
            return next;
        } else {
            [current, current + takes]
        };
        self.syncs[1]
    }

    /// What no crash takes away.
    pub fn synced(&self) -> &S {
        &self.synced
    }

    pub fn write(&mut self, number: u64, write: S::Write) {
        self.pending.push_back((number, write));
    }

    /// Writes up to `number` are on stable storage.
    pub fn sync(&mut self, number: u64) {
        while self.pending.front().is_some_and(|(first, _)| *first <= number) {
            let (_, write) = self.pending.pop_front().expect("it has just been seen");
            self.synced.apply(&write);
        }
    }

    /// The process or the power is gone. Each file keeps some first part of what was written to it.
    pub fn crash(&mut self, chance: &mut Chance) {
        self.syncs = [0, 0];
        let mut files: BTreeMap<usize, Vec<S::Write>> = BTreeMap::new();
        for (_, write) in self.pending.drain(..) {
            files.entry(S::file(&write)).or_default().push(write);
        }
        for writes in files.into_values() {
            let kept = chance.index(writes.len() + 1);
            for write in &writes[..kept] {
                self.synced.apply(write);
            }
            if let Some(torn) = writes.get(kept) {
                self.synced.tear(torn, chance);
            }
        }
    }
}
