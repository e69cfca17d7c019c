//! The request bytes that all connections may hold together: Kafka's `queued.max.request.bytes` (KIP-72).
//!
//! Kafka reserves a frame's announced length before reading it, so that whoever announces much and sends nothing keeps
//! others out. Here only bytes that have arrived count. When they are used up, one connection at a time may go on to
//! the end of its frame; so there is always somebody who can finish, and the bytes held stay below the limit plus a
//! largest request, plus [`FREE_BYTES`] for each connection.
//!
//! Whoever goes on so has a deadline, for the rest of the frame and again for the answer; and while memory is used up,
//! every frame that has begun must make [`Progress`]. So bytes cannot be held by sending slowly, and there is always
//! somebody next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A connection may always hold so much: what small requests need, fetches of replicas among them, gets through.
pub(crate) const FREE_BYTES: usize = 8 << 10;

/// How long somebody may take over the rest of a frame, or over its answer, while nobody else can send a large one.
pub(crate) const OVERDRAFT_PATIENCE: Duration = Duration::from_secs(10);
/// What a frame must bring in each turn of this length while memory is used up: 64 KiB/s, slower than any link that
/// large requests are sent over.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);
const PROGRESS_BYTES: usize = 192 << 10;

pub(crate) struct RequestMemory {
    bytes_max: usize,
    held: AtomicUsize,
    released: Notify,
    /// The right to read on although everything is used up.
    overdraft: Arc<Semaphore>,
    overdraft_patience: Duration,
    progress_interval: Duration,
}

impl RequestMemory {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Self::with_patience(bytes_max, OVERDRAFT_PATIENCE, PROGRESS_INTERVAL)
    }

    fn with_patience(
        bytes_max: usize,
        overdraft_patience: Duration,
        progress_interval: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            held: AtomicUsize::new(0),
            released: Notify::new(),
            overdraft: Arc::new(Semaphore::new(1)),
            overdraft_patience,
            progress_interval,
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
    overdraft: Option<Overdraft>,
    progress: Progress,
}

/// The right to read on, until a time that no byte moves.
struct Overdraft {
    _permit: OwnedSemaphorePermit,
    until: Instant,
}

/// What has come since a time.
struct Progress {
    bytes: usize,
    since: Instant,
}

impl Progress {
    fn begin() -> Self {
        Self {
            bytes: 0,
            since: Instant::now(),
        }
    }
}

impl Share {
    pub(crate) fn new(memory: &Arc<RequestMemory>) -> Self {
        Self {
            memory: Arc::clone(memory),
            bytes: 0,
            overdraft: None,
            progress: Progress::begin(),
        }
    }

    pub(crate) fn grow(&mut self, bytes: usize) {
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
        if self.bytes < FREE_BYTES {
            self.progress = Progress::begin();
        }
        self.bytes += bytes;
        self.progress.bytes += bytes;
    }

    /// Whether this one alone may read on, to the end of its frame.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.overdraft.is_some()
    }

    /// Waits for as long as the peer may be late. May be dropped and called again.
    pub(crate) async fn stalled(&mut self) {
        if self.bytes < FREE_BYTES && self.overdraft.is_none() {
            // Holds nothing that others lack, and what it holds grows only by reading.
            return std::future::pending().await;
        }
        while !self.is_stalled() {
            let turn_ends = self.progress.since + self.memory.progress_interval;
            let taken = self.overdraft.as_ref();
            tokio::time::sleep_until(taken.map_or(turn_ends, |taken| taken.until.min(turn_ends))).await;
        }
    }

    /// The rest of a frame is too late: others need the memory that is held here.
    pub(crate) fn is_stalled(&mut self) -> bool {
        let now = Instant::now();
        if self.overdraft.as_ref().is_some_and(|taken| taken.until <= now) {
            return true;
        }
        let turn = now - self.progress.since;
        if turn < self.memory.progress_interval {
            return false;
        }
        // A turn that went on for longer was one in which nobody here was reading.
        let is_slow = self.progress.bytes < PROGRESS_BYTES && turn < 2 * self.memory.progress_interval;
        self.progress = Progress::begin();
        is_slow && self.bytes >= FREE_BYTES && self.memory.is_used_up()
    }

    /// Waits until more may be read. May be dropped and called again.
    pub(crate) async fn room(&mut self) {
        if self.bytes < FREE_BYTES || self.try_room() {
            return;
        }
        self.wait_for_room().await;
        // The peer could not send meanwhile.
        self.progress = Progress::begin();
    }

    /// `true`: may read on.
    fn try_room(&mut self) -> bool {
        if !self.memory.is_used_up() {
            self.overdraft = None;
        }
        !self.memory.is_used_up() || self.is_overdrawn()
    }

    async fn wait_for_room(&mut self) {
        loop {
            let memory = Arc::clone(&self.memory);
            // Asked for before looking, so that no release in between is missed.
            let released = memory.released.notified();
            if self.try_room() {
                return;
            }
            tokio::select! {
                permit = Arc::clone(&self.memory.overdraft).acquire_owned() => {
                    let until = Instant::now() + self.memory.overdraft_patience;
                    self.overdraft = permit.ok().map(|permit| Overdraft { _permit: permit, until });
                }
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
            progress: Progress::begin(),
        };
        self.progress = Progress::begin();
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

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_byte_now_and_then_buys_no_time_for_the_rest_of_a_frame() {
        let memory = RequestMemory::with_patience(MAX, 5 * SHORT, SHORT);
        let mut share = Share::new(&memory);
        share.grow(MAX);
        share.room().await;
        assert!(share.is_overdrawn());

        let began = Instant::now();
        while tokio::time::timeout(SHORT / 2, share.stalled()).await.is_err() {
            // As fast as it must be, and yet never done.
            share.grow(PROGRESS_BYTES);
            share.room().await;
            assert!(began.elapsed() < 50 * SHORT, "its time never ends");
        }
        assert!(began.elapsed() >= 4 * SHORT, "it had its time");
    }

    #[tokio::test]
    async fn slow_frames_are_given_up_when_memory_is_used_up_and_only_then() {
        let memory = RequestMemory::with_patience(MAX, 50 * SHORT, SHORT);
        let [mut slow, mut small] = [60 << 10, 100].map(|bytes| {
            let mut share = Share::new(&memory);
            share.grow(bytes);
            share
        });
        assert!(tokio::time::timeout(4 * SHORT, slow.stalled()).await.is_err());

        let mut other = Share::new(&memory);
        other.grow(60 << 10);
        let mut drips = 0;
        while tokio::time::timeout(SHORT / 3, slow.stalled()).await.is_err() {
            slow.grow(1);
            drips += 1;
            assert!(drips < 100, "a byte now and then is enough for it");
        }
        let small = tokio::time::timeout(4 * SHORT, small.stalled()).await;
        assert!(small.is_err(), "it holds nothing that others lack");
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
