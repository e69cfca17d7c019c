//! One log line for each bad connection, and no more than a few a second: the rest are counted.

use crate::server::connection::Closed;
use parking_lot::Mutex;
use std::net::SocketAddr;
use varve_log::Timestamp;

/// Lines a second; a port scan must not fill a disk.
const LINES_MAX: u32 = 10;

/// See the module's first line.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    /// Seconds since the epoch.
    second: i64,
    said: u32,
    swallowed: u64,
}

impl Complaints {
    /// Says why we closed a connection.
    pub(crate) fn say(&self, now: Timestamp, peer: Option<SocketAddr>, reason: &Closed) {
        let second = now.value() / 1000;
        let mut window = self.0.lock();
        if window.second != second {
            if window.swallowed > 0 {
                tracing::warn!(connections = window.swallowed, "more bad connections were closed");
            }
            *window = Window {
                second,
                ..Window::default()
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
