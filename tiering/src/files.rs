//! Threads for reading sealed files: a disk that hangs holds up these, never a runtime.

use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce() + Send>;

/// Jobs waiting beyond this make those who ask wait.
const JOBS_MAX: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct FileThreads {
    jobs: mpsc::Sender<Job>,
}

/// The threads are gone: the process is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopped;

impl FileThreads {
    /// They end when the last handle is dropped.
    pub(crate) fn start(count: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>(JOBS_MAX);
        let queue = Arc::new(parking_lot::Mutex::new(queue));
        for i in 0..count {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("varve-tier-{i}"))
                .spawn(move || work_through(&queue))?;
        }
        Ok(Self { jobs })
    }

    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Stopped>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more when the upload was cancelled.
            let _ = done.send(work());
        });
        self.jobs.send(job).await.map_err(|_closed| Stopped)?;
        answer.await.map_err(|_gone| Stopped)
    }
}

fn work_through(queue: &parking_lot::Mutex<mpsc::Receiver<Job>>) {
    loop {
        // The lock is held while waiting: the others wait for the lock instead, which is the same.
        let job = queue.lock().blocking_recv();
        let Some(job) = job else { return };
        job();
    }
}
