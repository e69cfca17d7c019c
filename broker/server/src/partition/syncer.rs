//! `varve.flush=group`: one sync in flight, the next group forms behind it. No timer.

use super::Partition;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;

/// Partitions with bytes that are written but not yet on stable storage.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Arc<Partition>>,
    stopped: bool,
}

impl Syncer {
    /// Starts the thread that syncs; it ends after [`Self::stop`].
    pub(crate) fn start() -> std::io::Result<(Arc<Self>, std::thread::JoinHandle<()>)> {
        let syncer = Arc::new(Self::default());
        let worker = Arc::clone(&syncer);
        let thread = std::thread::Builder::new()
            .name("log-sync".to_owned())
            .spawn(move || worker.run())?;
        Ok((syncer, thread))
    }

    /// Joins the group that forms behind the sync in flight.
    pub(crate) fn enqueue(&self, partition: Arc<Partition>) {
        self.queue.lock().waiting.push(partition);
        self.wake.notify_one();
    }

    /// The thread ends once its queue is empty.
    pub(crate) fn stop(&self) {
        self.queue.lock().stopped = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        loop {
            let mut queue = self.queue.lock();
            while queue.waiting.is_empty() {
                if queue.stopped {
                    return;
                }
                self.wake.wait(&mut queue);
            }
            let group = std::mem::take(&mut queue.waiting);
            drop(queue);
            for partition in group {
                partition.sync();
            }
        }
    }
}
