//! Read-through cache of immutable object ranges.
//!
//! What is cached never changes: a key names an object that is written once and a chunk of it, so there is no
//! invalidation, no `remove` and no upsert. The cache is never trusted either: every hit is compared with the key,
//! the length and the CRC the caller expects, and one that differs is a miss. Who may spend how many bytes, which
//! chunks come next and which of them deserve the disk are decided here too, in plain functions. Where chunks come
//! from is left to the caller.

mod admission;
mod budget;
mod buffers;
mod chunk;
mod entry;
mod read_ahead;
mod store;

pub use admission::{Admission, Admit};
pub use budget::{Budget, Spent};
pub use buffers::{Buffer, BufferPool};
pub use chunk::{CHUNK_BYTES, ChunkKey, ObjectId, lay_out};
pub use read_ahead::Window;
pub use store::{Cache, Expect, OpenError, Settings, Stats};
