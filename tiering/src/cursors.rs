//! Who is reading where. A cursor is one consumer's way through one partition; it owns its window of chunks.
//!
//! A read takes its cursor out and puts it back, so no lock is held while it waits; a read that is cancelled
//! loses its window and nothing else. Where all cursors stand stays visible meanwhile: a cursor behind another one
//! makes the front one's chunks worth keeping.

use crate::TierPartition;
use crate::read_plan::ChunkAt;
use crate::reader::ReadError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use varve_cache::{Spent, Window};
use varve_log::Offset;

/// Whatever tells consumers apart: the same for every fetch of one consumer from one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CursorId(pub u64);

/// A chunk in memory, and what it takes from the budget.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    pub(crate) _spent: Option<Spent>,
}

pub(crate) type Fetch = JoinHandle<Result<Held, ReadError>>;

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) window: Window,
    /// Where it will go on if it reads in order.
    pub(crate) next: Option<Offset>,
    pub(crate) current: Option<(ChunkAt, Held)>,
    /// Chunks behind `current`, in order, on the way or there.
    pub(crate) ahead: VecDeque<(ChunkAt, Fetch)>,
}

impl Cursor {
    pub(crate) fn new(window_max: u32) -> Self {
        Self {
            window: Window::new(window_max),
            next: None,
            current: None,
            ahead: VecDeque::new(),
        }
    }
}

#[derive(Debug)]
struct Slot {
    partition: TierPartition,
    position: Offset,
    used: Instant,
    /// `None` while a read has it.
    cursor: Option<Cursor>,
}

#[derive(Debug)]
pub(crate) struct Cursors {
    slots: Mutex<HashMap<CursorId, Slot>>,
    slots_max: usize,
}

impl Cursors {
    pub(crate) fn new(slots_max: usize) -> Self {
        Self {
            slots: Mutex::default(),
            slots_max: slots_max.max(1),
        }
    }

    pub(crate) fn take(&self, id: CursorId, partition: TierPartition, position: Offset) -> Option<Cursor> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(&id)?;
        let cursor = slot.cursor.take().filter(|_| slot.partition == partition);
        (slot.partition, slot.position, slot.used) = (partition, position, Instant::now());
        cursor
    }

    pub(crate) fn put(&self, id: CursorId, partition: TierPartition, cursor: Cursor) {
        let position = cursor.next.unwrap_or(Offset::ZERO);
        let used = Instant::now();
        let mut slots = self.slots.lock();
        if slots.len() >= self.slots_max && !slots.contains_key(&id) {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.used).map(|(id, _)| *id);
            oldest.and_then(|oldest| slots.remove(&oldest));
        }
        slots.insert(
            id,
            Slot {
                partition,
                position,
                used,
                cursor: Some(cursor),
            },
        );
    }

    /// Whether another cursor that is alive is behind `position`.
    pub(crate) fn is_followed(&self, id: CursorId, partition: TierPartition, position: Offset) -> bool {
        self.slots
            .lock()
            .iter()
            .any(|(other, slot)| *other != id && slot.partition == partition && slot.position < position)
    }

    /// Takes the windows of cursors that were not read for `idle`; returns how many chunks went unread.
    /// The least lately used goes even if it is younger, when `press` says that room is needed now.
    pub(crate) fn reclaim(&self, idle: Duration, press: bool) -> usize {
        let mut slots = self.slots.lock();
        let mut unread = 0;
        slots.retain(|_, slot| {
            let expired = slot.used.elapsed() > idle;
            if expired && let Some(cursor) = &slot.cursor {
                unread += cursor.ahead.len();
            }
            // A cursor out on a read is not idle.
            !expired || slot.cursor.is_none()
        });
        if press {
            let holds = |slot: &Slot| {
                slot.cursor
                    .as_ref()
                    .is_some_and(|c| c.current.is_some() || !c.ahead.is_empty())
            };
            let oldest = slots
                .values_mut()
                .filter(|slot| holds(slot))
                .min_by_key(|slot| slot.used);
            if let Some(cursor) = oldest.and_then(|slot| slot.cursor.as_mut()) {
                unread += cursor.ahead.len();
                cursor.current = None;
                cursor.ahead.clear();
                cursor.window.evicted_unread();
            }
        }
        unread
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.lock().len()
    }
}
