//! How far ahead of a cursor to read. Pure: no clock, no I/O.
//!
//! A seek costs one small range, so the window is closed after it. The first read that follows on opens it to one
//! chunk, and every chunk a cursor walks into doubles it: 1, 2, 4, 8. Thirty milliseconds and 80 MB/s a connection
//! then make eight GETs in flight, which is what a link of 500 MB/s wants.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    chunks: u32,
    max: u32,
}

impl Window {
    /// 8 chunks of 8 MiB: bandwidth times delay of a fast link, and all that a cursor may hold.
    pub const MAX_CHUNKS: u32 = 8;

    pub fn new(max: u32) -> Self {
        Self { chunks: 0, max }
    }

    /// How many chunks to have on the way or ready behind the one being read.
    pub fn ahead(&self) -> u32 {
        self.chunks
    }

    /// The cursor jumped: nobody knows whether it will read on.
    pub fn seek(&mut self) {
        self.chunks = 0;
    }

    /// The cursor moved on into the next chunk.
    pub fn sequential(&mut self) {
        self.chunks = (self.chunks * 2).clamp(1.min(self.max), self.max);
    }

    /// Only `ready` chunks could be asked for: the byte budget is used up. Growing further would only
    /// make the next attempt fail as well.
    pub fn starved(&mut self, ready: u32) {
        self.chunks = self.chunks.min(ready.max(1)).min(self.max);
    }

    /// A chunk read ahead was dropped before it was read: it was too early.
    pub fn evicted_unread(&mut self) {
        self.chunks /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_on_each_chunk_read_in_order() {
        let mut window = Window::new(8);
        let mut seen = vec![];
        for _ in 0..6 {
            window.sequential();
            seen.push(window.ahead());
        }
        assert_eq!(seen, [1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn a_seek_closes_it() {
        let mut window = Window::new(8);
        window.sequential();
        window.sequential();
        window.seek();
        assert_eq!(window.ahead(), 0);
    }

    #[test]
    fn it_stops_growing_when_the_budget_is_used_up() {
        let mut window = Window::new(8);
        (0..4).for_each(|_| window.sequential());
        window.starved(3);
        assert_eq!(window.ahead(), 3);
        window.starved(0);
        assert_eq!(window.ahead(), 1);
    }

    #[test]
    fn it_shrinks_when_a_chunk_is_dropped_unread() {
        let mut window = Window::new(8);
        (0..4).for_each(|_| window.sequential());
        window.evicted_unread();
        assert_eq!(window.ahead(), 4);
    }

    #[test]
    fn a_window_of_nothing_stays_closed() {
        let mut window = Window::new(0);
        window.sequential();
        assert_eq!(window.ahead(), 0);
    }
}
