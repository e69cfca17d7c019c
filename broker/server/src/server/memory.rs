//! The request bytes that all connections may hold together: Kafka's `queued.max.request.bytes` (KIP-72).
//!
//! Kafka reserves a frame's announced length before reading it, so that whoever announces much and sends nothing keeps
//! others out. Here only bytes that have arrived count. When they are used up, one connection at a time may go on to
//! the end of its frame; so there is always somebody who can finish, and the bytes held stay below the limit plus a
//! largest request, plus [`FREE_BYTES`] for each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// A connection may always hold so much: what small requests need, fetches of replicas among them, gets through.
pub(crate) const FREE_BYTES: usize = 8 << 10;

pub(crate) struct RequestMemory {
    bytes_max: usize,
    held: AtomicUsize,
    released: Notify,
    /// The right to read on although everything is used up.
    overdraft: Arc<Semaphore>,
}

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            held: AtomicUsize::new(0),
            released: Notify::new(),
            overdraft: Arc::new(Semaphore::new(1)),
        })
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn is_used_up(&self) -> bool {
        self.held_bytes() >= self.bytes_max
    }
}

/// What one connection's read buffer, or one frame cut from it, holds.
pub(crate) struct Share {
    memory: Arc<RequestMemory>,
    bytes: usize,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl Share {
    pub(crate) fn new(memory: &Arc<RequestMemory>) -> Self {
        Self {
            memory: Arc::clone(memory),
            bytes: 0,
            overdraft: None,
        }
    }

    pub(crate) fn grow(&mut self, bytes: usize) {
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Whether this one alone may read on: it must not take long.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.overdraft.is_some()
    }

    /// Waits until more may be read. May be dropped and called again.
    pub(crate) async fn room(&mut self) {
        while self.bytes >= FREE_BYTES {
            // Asked for before looking, so that no release in between is missed.
            let released = self.memory.released.notified();
            if !self.memory.is_used_up() {
                self.overdraft = None;
                return;
            }
            if self.overdraft.is_some() {
                return;
            }
            tokio::select! {
                permit = Arc::clone(&self.memory.overdraft).acquire_owned() => self.overdraft = permit.ok(),
                () = released => {}
            }
        }
    }

    /// `frame`, the first `bytes` of what is held here: counted until its last reference is gone.
    pub(crate) fn cut(&mut self, frame: Bytes, bytes: usize) -> Bytes {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let share = Self {
            memory: Arc::clone(&self.memory),
            bytes,
            overdraft: self.overdraft.take(),
        };
        Bytes::from_owner(Counted { frame, _share: share })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let before = self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if before >= self.memory.bytes_max {
            self.memory.released.notify_waiters();
        }
    }
}

struct Counted {
    frame: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MAX: usize = 100 << 10;

    #[test]
    fn a_frame_is_counted_until_its_last_slice_is_gone() {
        let memory = RequestMemory::new(MAX);
        let mut share = Share::new(&memory);
        share.grow(50);

        let frame = share.cut(Bytes::from(vec![0; 40]), 44);
        let slice = frame.slice(8..16);
        drop((frame, share));
        assert_eq!(memory.held_bytes(), 44);

        drop(slice);
        assert_eq!(memory.held_bytes(), 0);
    }

    #[test]
    fn when_all_is_used_up_one_connection_may_finish_and_the_others_wait_for_it() {
        let memory = RequestMemory::new(MAX);
        let [mut first, mut second, mut small] = [60 << 10, 60 << 10, 100].map(|bytes| {
            let mut share = Share::new(&memory);
            share.grow(bytes);
            share
        });

        assert!(first.room().now_or_never().is_some() && first.is_overdrawn());
        assert!(second.room().now_or_never().is_none());
        assert!(small.room().now_or_never().is_some() && !small.is_overdrawn());

        let frame = first.cut(Bytes::from(vec![0; 60 << 10]), 60 << 10);
        assert!(second.room().now_or_never().is_none(), "its bytes are still held");
        drop(frame);
        assert!(second.room().now_or_never().is_some() && !second.is_overdrawn());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_release() {
        let memory = RequestMemory::new(MAX);
        let [mut first, mut second, mut third] = [0; 3].map(|_| {
            let mut share = Share::new(&memory);
            share.grow(40 << 10);
            share
        });
        first.room().await;
        second.room().now_or_never();

        let (waiting, ()) = tokio::join!(second.room(), async { drop(third.cut(Bytes::new(), 40 << 10)) });
        let () = waiting;
        assert!(!second.is_overdrawn());
    }
}
