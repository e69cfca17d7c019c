//! One partition's log on one disk: append, read, seal, recover. Pure of network, async runtime and clock; time is
//! handed in, disks are a seam.
//!
//! A batch is opaque bytes from end to end ([`Batch`]); offsets are given out by [`Log::append`] and nowhere else;
//! [`Log`] decides under its owner's lock while turns and plans do the I/O without it. What is synced survives any
//! crash; of what is not, a tail may be missing, never something in the middle (then opening answers
//! [`Error::Corrupt`]). Which files may go is [`retention`]'s to say; what lies in the tier is others' to know.

mod batch;
mod builder;
mod checkpoint;
mod compression;
mod disk;
mod epoch;
mod error;
mod index;
mod log;
mod offsets;
mod our_bytes;
mod producers;
mod records;
mod recovery;
pub mod retention;
mod scan;
mod segment;
mod settings;
mod varint;

pub use batch::{Batch, BatchError, HEADER_BYTES, Header, Split, TimestampType, split};
pub use builder::Builder;
pub use checkpoint::Checkpoint;
pub use compression::{Codec, compress, decompress};
pub use disk::{Crash, Disk, DiskFile, FsDisk, SimDisk};
pub use epoch::{EpochChain, EpochEntry};
pub use error::Error;
pub use index::{Index, IndexEntry};
pub use log::{
    AppendError, Appended, Dropped, FoundTimestamp, Log, ReadError, ReadPlan, SealedSegment, Seed, Slice,
    SyncTurn, Synced, TimestampPlan, Truncated, Truncation, WriteTurn, Written,
};
pub use offsets::{LeaderEpoch, LogOffsets, Offset, TierEnd, Timestamp};
pub use producers::{ActiveProducer, ProducerError, Producers, Verdict};
pub use records::{Record, Records, records};
pub use recovery::Recovered;
pub use settings::Settings;
