//! Sealed segments out to the object store, and ranges of them back.
//!
//! A sealed segment becomes one immutable object; an immutable manifest lists the objects of a partition; the
//! metadata quorum says which manifest is current, and that is the only commit point. Correctness rests on nothing
//! the object store promises beyond "what was put can be got": names are never used twice, no conditional write, no
//! listing order and no clock decides anything. The promises:
//!
//! - what a committed manifest names exists and is byte for byte what the log had;
//! - nothing that is named, or may yet become named, is ever deleted;
//! - a read returns whole, verified batches or an error that says what to do, and "not there" is never "the end".
//!
//! It leaves to the server: when to upload, who leads, the quorum itself, and what clients are told.

mod bucket;
mod collector;
mod commit;
mod credentials;
mod cursors;
mod draft;
mod encoding;
mod files;
mod hedge;
mod keys;
mod manifest;
mod manifests;
mod object;
mod plain;
mod probes;
mod read_plan;
mod reader;
pub mod retention;
mod sealed;
mod segment_upload;
mod store;
mod store_error;
mod tier;
mod timestamps;
mod upload;
mod uploader;

pub use bucket::{BucketConfig, BucketError, open_bucket};
pub use collector::{CollectError, Swept, Trimmed};
pub use commit::{CommitError, Committed, MetadataError, Proposal, TierMetadata};
pub use cursors::CursorId;
pub use keys::{Keys, ManifestName, SegmentName};
pub use manifest::{ENTRIES_MAX, Entry, Manifest};
pub use object::{Block, Header, Sections};
pub use reader::{ReadError, TierSlice};
pub use sealed::{SealedError, SealedInput};
pub use store::{Listed, Parts, Patience, Reason, Requests, Store};
pub use store_error::{Cause, CauseKind, StoreError};
pub use tier::{ReadStats, Settings, Tier};
pub use uploader::UploadError;

use std::fmt;
use std::sync::Arc;
use varve_cluster::TopicId;

/// 128 bits of chance, handed in: names of attempts and the jitter of waits are made of it.
pub type Chance = Arc<dyn Fn() -> u128 + Send + Sync>;

/// A partition, by the identity that survives renaming and re-creation of topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierPartition {
    pub topic: TopicId,
    pub index: i32,
}

impl fmt::Display for TierPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}
