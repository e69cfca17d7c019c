//! Which chunks deserve the disk. Pure: remembers what was touched, does nothing itself.
//!
//! One reader passing once over ten terabytes must not wear out the flash nor push out what others come back for:
//! its chunks stay in memory. A chunk goes to disk when it is fetched a second time, or when another cursor is
//! known to be behind the one that fetches it.

use crate::chunk::ChunkKey;
use std::collections::{HashSet, VecDeque};

/// Where a chunk that is fetched now will be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    Memory,
    MemoryAndDisk,
}

/// The memory of what was fetched lately: keys only, oldest forgotten first.
#[derive(Debug)]
pub struct Admission {
    seen: HashSet<ChunkKey>,
    order: VecDeque<ChunkKey>,
    keys_max: usize,
}

impl Admission {
    /// 64 Ki keys remember half a terabyte of chunks in about 4 MB.
    pub const KEYS_MAX: usize = 64 * 1024;

    pub fn new(keys_max: usize) -> Self {
        Self {
            seen: HashSet::new(),
            order: VecDeque::new(),
            keys_max: keys_max.max(1),
        }
    }

    /// To be asked once per fetch from the object store.
    pub fn decide(&mut self, key: ChunkKey, has_follower: bool) -> Admit {
        let second_touch = !self.seen.insert(key);
        if !second_touch {
            self.order.push_back(key);
            if self.order.len() > self.keys_max
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
        }
        if second_touch || has_follower {
            Admit::MemoryAndDisk
        } else {
            Admit::Memory
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ObjectId;

    fn key(chunk: u32) -> ChunkKey {
        ChunkKey {
            object: ObjectId(7),
            chunk,
        }
    }

    #[test]
    fn a_scan_that_passes_once_stays_out_of_the_disk() {
        let mut admission = Admission::new(1000);
        assert!((0..500).all(|chunk| admission.decide(key(chunk), false) == Admit::Memory));
    }

    #[test]
    fn the_second_touch_goes_to_disk() {
        let mut admission = Admission::new(1000);
        admission.decide(key(1), false);
        assert_eq!(admission.decide(key(1), false), Admit::MemoryAndDisk);
    }

    #[test]
    fn a_known_follower_sends_it_to_disk_at_once() {
        let mut admission = Admission::new(1000);
        assert_eq!(admission.decide(key(1), true), Admit::MemoryAndDisk);
    }

    #[test]
    fn it_forgets_the_oldest_and_never_grows() {
        let mut admission = Admission::new(10);
        (0..100).for_each(|chunk| {
            admission.decide(key(chunk), false);
        });
        assert_eq!((admission.seen.len(), admission.order.len()), (10, 10));
        assert_eq!(admission.decide(key(0), false), Admit::Memory);
        assert_eq!(admission.decide(key(99), false), Admit::MemoryAndDisk);
    }
}
