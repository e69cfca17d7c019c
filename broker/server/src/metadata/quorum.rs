//! The seam between this broker and whoever orders the cluster's commands.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use varve_cluster::controller::{Command, Outcome, Rejected, State};

/// One total order of commands, and the state they make.
#[async_trait]
pub trait MetadataQuorum: Send + Sync + 'static {
    /// Puts a command into the order. When it is answered with an outcome, the command cannot be lost any
    /// more, and [`MetadataQuorum::view`] shows what it did.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may have taken effect.
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError>;

    /// The newest state known here. It is a prefix of the one order, and never goes back.
    fn view(&self) -> Arc<State>;

    /// The state, each time it moves on. States may be skipped, never reordered.
    fn subscribe(&self) -> watch::Receiver<Arc<State>>;
}

/// Why a proposal has no outcome. First question: may it have happened?
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was judged, in its place in the order, and changed nothing. The same command will not do better.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It never entered the order. Trying again is safe.
    #[error("the metadata quorum did not take the command: {0}")]
    NotApplied(String),
    /// It may have happened, or may yet happen. Look at the state before trying again.
    #[error("it is not known whether the metadata quorum took the command: {0}")]
    Unknown(String),
}
