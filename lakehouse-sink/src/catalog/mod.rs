//! The seam that decides which metadata file is a table: one pointer per topic, moved by compare-and-set under a
//! writer epoch. The real one goes through the metadata quorum, the simulated one forgets and lies on request;
//! both pass [`suite`].

pub mod simulated;
pub mod suite;

use async_trait::async_trait;
use std::fmt;
use varve_cluster::TopicId;

/// The writer's tenure, issued by the metadata quorum. A higher one fences all lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterEpoch(u64);

impl WriterEpoch {
    pub const fn new(epoch: u64) -> Self {
        Self(epoch)
    }

    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for WriterEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a table's pointer has moved; zero before the table exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableVersion(u64);

impl TableVersion {
    /// What a first commit expects.
    pub const NONE: Self = Self(0);

    pub const fn new(version: u64) -> Self {
        Self(version)
    }

    pub const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The newest committed metadata file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    pub version: TableVersion,
    pub metadata_location: String,
}

pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The pointer could not be read. Trying again is safe.
#[derive(Debug, thiserror::Error)]
#[error("the table's pointer could not be read")]
pub struct LoadError(#[source] pub Cause);

/// Why a pointer did not move, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It did not move: it stands at another version than expected.
    #[error("the table has moved on")]
    Conflict,
    /// It did not move: a newer writer has the table.
    #[error("a newer writer has the table")]
    Fenced,
    /// It did not move, and trying again is safe.
    #[error("the table's pointer was not moved")]
    NotApplied(#[source] Cause),
    /// It may have moved, now or later. Look before anything else.
    #[error("the table's pointer may have been moved")]
    Unknown(#[source] Cause),
}

#[async_trait]
pub trait Catalog: Send + Sync {
    /// The pointer as of now: linearizable, so it shows every move that was answered before the call.
    async fn load(&self, topic_id: TopicId) -> Result<Option<Pointer>, LoadError>;

    /// Moves the pointer if it stands at `expected` and no epoch above `epoch` has been issued.
    async fn commit_if_unchanged(
        &self,
        topic_id: TopicId,
        epoch: WriterEpoch,
        expected: TableVersion,
        metadata_location: &str,
    ) -> Result<TableVersion, SwapError>;
}
