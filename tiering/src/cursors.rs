//! Who is reading where. A cursor is one consumer's way through one partition; it owns its window of chunks.
//!
//! A read takes its cursor out and puts it back, so no lock is held while it waits; a read that is cancelled
//! loses its window and nothing else. Where all cursors stand stays visible meanwhile: a cursor behind another one
//! makes the front one's chunks worth keeping.

use crate::TierPartition;
use crate::read_plan::{ChunkAt, Place};
use crate::reader::ReadError;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use varve_cache::{Spent, Window};
use varve_log::Offset;

/// Whatever tells consumers apart: the same for every fetch of one consumer from one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CursorId(pub u64);

/// Bytes in memory, and what they take from the budget.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    pub(crate) _spent: Option<Spent>,
}

/// Blocks of a chunk in memory: all of them, or those of the small range a seek begins with.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) at: ChunkAt,
    pub(crate) blocks: Range<usize>,
    pub(crate) held: Arc<Held>,
}

impl Current {
    pub(crate) fn chunk(at: ChunkAt, held: Held) -> Self {
        Self {
            blocks: at.entry.chunk_blocks(at.chunk),
            at,
            held: Arc::new(held),
        }
    }

    pub(crate) fn is_chunk(&self) -> bool {
        self.blocks == self.at.entry.chunk_blocks(self.at.chunk)
    }

    pub(crate) fn holds(&self, place: &Place) -> bool {
        self.at.key() == place.at.key() && self.blocks.contains(&place.block)
    }
}

pub(crate) type Fetch = JoinHandle<Result<Held, ReadError>>;

#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) window: Window,
    /// Where it will go on if it reads in order.
    pub(crate) next: Option<Offset>,
    pub(crate) current: Option<Current>,
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

impl Slot {
    fn ahead(&self) -> usize {
        self.cursor.as_ref().map_or(0, |cursor| cursor.ahead.len())
    }

    fn holds(&self) -> bool {
        self.cursor
            .as_ref()
            .is_some_and(|cursor| cursor.current.is_some() || !cursor.ahead.is_empty())
    }
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

    /// Whether another cursor, read within `idle`, is behind `position`.
    pub(crate) fn is_followed(
        &self,
        id: CursorId,
        partition: TierPartition,
        position: Offset,
        idle: Duration,
    ) -> bool {
        self.slots.lock().iter().any(|(other, slot)| {
            let behind = slot.partition == partition && slot.position < position;
            *other != id && behind && slot.used.elapsed() < idle
        })
    }

    /// Takes the windows of cursors that were not read for `idle`; returns how many chunks went unread.
    pub(crate) fn reclaim_idle(&self, idle: Duration) -> usize {
        let mut slots = self.slots.lock();
        let expired = |slot: &Slot| slot.used.elapsed() > idle;
        let unread = slots.values().filter(|slot| expired(slot)).map(Slot::ahead).sum();
        slots.retain(|_, slot| !expired(slot));
        unread
    }

    /// Takes the window of the cursor that was not read for longest: another one waits for its first chunk.
    pub(crate) fn reclaim_one(&self) -> usize {
        let mut slots = self.slots.lock();
        let holding = slots.values_mut().filter(|slot| slot.holds());
        let Some(oldest) = holding.min_by_key(|slot| slot.used) else {
            return 0;
        };
        let unread = oldest.ahead();
        if let Some(cursor) = &mut oldest.cursor {
            cursor.current = None;
            cursor.ahead.clear();
            cursor.window.evicted_unread();
        }
        unread
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.lock().len()
    }
}
