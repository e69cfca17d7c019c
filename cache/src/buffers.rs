//! Buffers of one chunk that are used again.
//!
//! Every fresh 8 MiB costs 2,048 page faults and as many zeroed pages, and giving it back costs an unmap that other
//! cores hear of. A chunk's buffer comes back here when the last slice of it is gone.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub struct BufferPool {
    idle: Arc<Idle>,
}

#[derive(Debug)]
struct Idle {
    buffers: Mutex<Vec<Vec<u8>>>,
    buffers_max: usize,
    buffer_bytes: usize,
}

/// A buffer that is being filled.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    home: Option<Arc<Idle>>,
}

impl BufferPool {
    /// Keeps at most `buffers_max` idle buffers of `buffer_bytes` each.
    pub fn new(buffers_max: usize, buffer_bytes: usize) -> Self {
        let idle = Idle {
            buffers: Mutex::new(Vec::new()),
            buffers_max,
            buffer_bytes,
        };
        Self { idle: Arc::new(idle) }
    }

    /// An empty buffer with room for `bytes`.
    pub fn take(&self, bytes: usize) -> Buffer {
        // A small range in a large buffer would hold eight times what the budget thinks it holds.
        if bytes > self.idle.buffer_bytes || bytes < self.idle.buffer_bytes / 2 {
            return Buffer {
                bytes: Vec::with_capacity(bytes),
                home: None,
            };
        }
        let idle = self.idle.buffers.lock().pop();
        let bytes = idle.unwrap_or_else(|| Vec::with_capacity(self.idle.buffer_bytes));
        Buffer {
            bytes,
            home: Some(Arc::clone(&self.idle)),
        }
    }
}

impl Buffer {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The only copy between the socket's frames and the socket a consumer reads from.
    pub fn extend(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
    }

    /// Shares the buffer; it goes home when the last slice is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut idle = home.buffers.lock();
        if idle.len() < home.buffers_max {
            idle.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_is_gone() {
        let pool = BufferPool::new(2, 1024);
        let mut buffer = pool.take(1000);
        buffer.extend(&[7; 1000]);
        let address = buffer.as_ref().as_ptr();
        let whole = buffer.freeze();
        let slice = whole.slice(10..20);
        drop(whole);
        assert!(pool.idle.buffers.lock().is_empty());
        drop(slice);
        let again = pool.take(900);
        assert_eq!(again.bytes.as_ptr(), address);
        assert!(again.is_empty());
    }

    #[test]
    fn small_ranges_do_not_borrow_large_buffers() {
        let pool = BufferPool::new(2, 1024);
        drop(pool.take(100).freeze());
        assert!(pool.idle.buffers.lock().is_empty());
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let pool = BufferPool::new(2, 1024);
        let all: Vec<_> = (0..5).map(|_| pool.take(1024).freeze()).collect();
        drop(all);
        assert_eq!(pool.idle.buffers.lock().len(), 2);
    }
}
