//! One log line for each bad connection, and no more than a few a second: the rest are counted.

use crate::server::connection::Closed;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Lines a second; a port scan must not fill a disk.
const LINES_MAX: u32 = 10;

/// See the module's first line.
#[derive(Debug)]
pub(crate) struct Complaints(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    said: u32,
    swallowed: u64,
}

impl Default for Complaints {
    fn default() -> Self {
        Self(Mutex::new(Window {
            began: Instant::now(),
            said: 0,
            swallowed: 0,
        }))
    }
}

impl Complaints {
    /// Says why we closed a connection.
    pub(crate) fn say(&self, peer: Option<SocketAddr>, reason: &Closed) {
        let mut window = self.0.lock();
        if window.began.elapsed() >= Duration::from_secs(1) {
            if window.swallowed > 0 {
                tracing::warn!(connections = window.swallowed, "more bad connections were closed");
            }
            *window = Window {
                began: Instant::now(),
                said: 0,
                swallowed: 0,
            };
        }
        if window.said == LINES_MAX {
            window.swallowed += 1;
            return;
        }
        window.said += 1;
        let peer = peer.map(tracing::field::display);
        tracing::warn!(peer, %reason, "connection closed");
    }
}
