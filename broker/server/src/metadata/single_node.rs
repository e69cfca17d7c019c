//! A metadata quorum of one: this node alone orders the commands.
//!
//! A proposal is judged in its place, written, synced, and only then applied and answered: what was answered
//! survives a crash, what was not may have. Proposals that arrive while a sync is under way share the next
//! one. All of it happens on one thread of its own, so no one waits for the disk who did not ask to.
//!
//! A write or sync that fails ends the thread: what the disk holds is not known any more, and is found out at
//! the next start.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use varve_cluster::controller::{Command, Outcome, Rejected, State};
use varve_log::Disk;

use super::disk_log::{DiskLog, Entry};
use super::quorum::{MetadataQuorum, ProposeError};

pub use super::disk_log::OpenError;

/// Kafka's name for the metadata topic's one partition.
const DIR: &str = "__cluster_metadata-0";
/// Proposals that may wait for the disk. Whoever comes later waits for a place.
const WAITING_MAX: usize = 1024;
/// Proposals that share one sync.
const BATCH_MAX: usize = 256;

/// See the module's first lines.
#[derive(Debug)]
pub struct SingleNode {
    proposals: mpsc::Sender<Proposal>,
    view: watch::Receiver<Arc<State>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Proposal {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, ProposeError>>,
}

struct Writer {
    log: DiskLog,
    view: watch::Sender<Arc<State>>,
}

impl SingleNode {
    /// Opens the metadata log under `dir`, the first log directory, and starts the thread that writes it.
    /// `cluster_id` comes from the directory's `meta.properties` ([`super::Identity`]).
    ///
    /// # Errors
    /// When the log cannot be read, is damaged, or belongs to another cluster.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, cluster_id: &str) -> Result<Self, OpenError> {
        let (log, state) = DiskLog::open(disk, dir.join(DIR), cluster_id)?;
        let (view_sender, view) = watch::channel(Arc::new(state));
        let (proposals, waiting) = mpsc::channel(WAITING_MAX);
        let mut writer = Writer {
            log,
            view: view_sender,
        };
        let thread = std::thread::Builder::new().name("metadata".to_owned());
        let thread = thread
            .spawn(move || writer.run(waiting))
            .map_err(OpenError::Thread)?;
        Ok(Self {
            proposals,
            view,
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Ends the thread after the proposals that wait. Blocks.
    pub fn close(self) {
        let Self {
            proposals, writer, ..
        } = self;
        drop(proposals);
        if let Some(thread) = writer.into_inner()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes metadata ended with a panic");
        }
    }
}

#[async_trait]
impl MetadataQuorum for SingleNode {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || "the metadata log has stopped".to_owned();
        self.proposals
            .send(Proposal { command, answer })
            .await
            .map_err(|_cause| ProposeError::NotApplied(stopped()))?;
        answered
            .await
            .map_err(|_cause| ProposeError::Unknown(stopped()))?
    }

    fn view(&self) -> Arc<State> {
        Arc::clone(&self.view.borrow())
    }

    fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.view.clone()
    }
}

impl Writer {
    fn run(&mut self, mut waiting: mpsc::Receiver<Proposal>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while waiting.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            if let Err(error) = self.commit(std::mem::take(&mut batch)) {
                tracing::error!(path = %self.log.path().display(), %error, "the metadata log cannot be written any more: check the disk, then restart");
                return;
            }
        }
    }

    /// One group: judged in order, written and synced together, then shown and answered.
    fn commit(&mut self, batch: Vec<Proposal>) -> std::io::Result<()> {
        let mut state = State::clone(&self.view.borrow());
        let mut accepted = Vec::with_capacity(batch.len());
        let mut answers = Vec::with_capacity(batch.len());
        for Proposal { command, answer } in batch {
            let index = state.applied + 1;
            // A rejected command takes no place in this log.
            let mut next = state.clone();
            let judged: Result<Outcome, Rejected> = next.apply(index, &command);
            if judged.is_ok() {
                state = next;
                accepted.push(Entry { index, command });
            }
            answers.push((answer, judged));
        }
        if !accepted.is_empty() {
            if let Err(error) = self.log.append(&accepted) {
                for (answer, _) in answers {
                    // Whoever asked may have gone.
                    let _ = answer.send(Err(ProposeError::Unknown(format!("the disk failed: {error}"))));
                }
                return Err(error);
            }
            self.view.send_replace(Arc::new(state));
        }
        for (answer, judged) in answers {
            let _ = answer.send(judged.map_err(ProposeError::Rejected));
        }
        if self.log.snapshot_due() {
            let state = Arc::clone(&self.view.borrow());
            self.log.snapshot(&state)?;
        }
        Ok(())
    }
}
