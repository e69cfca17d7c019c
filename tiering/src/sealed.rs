//! A sealed segment on its way into the bucket: read piece by piece, and proven again before it leaves.
//!
//! Whatever the log checked when it wrote, the disk has had the bytes since. Every batch is checked here once more
//! (header, length, CRC32C, offsets that follow on each other), so damage stays where it happened.

use crate::object::{BatchAt, Block, BlockCutter};
use bytes::Bytes;
use std::sync::Arc;
use varve_log::{Batch, DiskFile, Offset, Timestamp};

/// What the server hands over, out of `varve_log::SealedSegment`.
#[derive(Debug, Clone)]
pub struct SealedInput {
    pub base: Offset,
    /// Exclusive.
    pub end: Offset,
    pub bytes: u64,
    pub max_timestamp: Timestamp,
    pub file: Arc<dyn DiskFile>,
    /// Producer state at `end`, as varve-log encodes it.
    pub producer_snapshot: Bytes,
    /// Leader epochs up to `end`, as varve-log encodes them.
    pub epoch_chain: Bytes,
}

/// Why a segment cannot be uploaded. The local copy is to be set aside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    #[error("sealed segment cannot be read. base={base}, position={position}, cause={cause}")]
    Unreadable {
        base: Offset,
        position: u64,
        cause: String,
    },
    #[error("sealed segment is damaged. base={base}, position={position}, cause={cause}")]
    Damaged {
        base: Offset,
        position: u64,
        cause: String,
    },
}

/// Reads a segment from front to back in pieces of whole batches. Blocks; runs on a file thread.
pub(crate) struct Reading {
    input: SealedInput,
    position: u64,
    next: Offset,
    cutter: BlockCutter,
}

impl Reading {
    pub(crate) fn new(input: SealedInput) -> Self {
        let next = input.base;
        Self {
            input,
            position: 0,
            next,
            cutter: BlockCutter::new(),
        }
    }

    /// The next piece of about `want` bytes; `None` at the end.
    pub(crate) fn piece(&mut self, want: usize) -> Result<Option<Bytes>, SealedError> {
        let left = usize::try_from(self.input.bytes - self.position).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let mut len = want.min(left);
        loop {
            let mut buffer = vec![0; len];
            self.input
                .file
                .read_exact_at(&mut buffer, self.position)
                .map_err(|cause| self.unreadable(&cause))?;
            let bytes = Bytes::from(buffer);
            let whole = self.check(&bytes)?;
            if whole > 0 {
                self.position += whole as u64;
                return Ok(Some(bytes.slice(..whole)));
            }
            // Not even one batch fits: take all of it, as long as the file has it.
            let needed = bytes
                .get(8..12)
                .and_then(|len| <[u8; 4]>::try_from(len).ok())
                .map(i32::from_be_bytes);
            let needed = needed
                .and_then(|len| usize::try_from(len).ok())
                .map_or(left, |len| len.saturating_add(12));
            if needed <= len || needed > left {
                return Err(self.damaged("a batch is longer than the segment".to_owned()));
            }
            len = needed;
        }
    }

    /// How much of `bytes` is whole, good batches.
    fn check(&mut self, bytes: &Bytes) -> Result<usize, SealedError> {
        let mut batches = Vec::new();
        let mut whole = 0;
        for batch in varve_log::split(bytes) {
            let batch = batch
                .and_then(Batch::check)
                .map_err(|cause| self.damaged(cause.to_string()))?;
            let header = batch.header();
            if header.base_offset != self.next || header.next_offset() > self.input.end {
                let text = format!(
                    "offsets do not follow. offset={}, expected={}",
                    header.base_offset, self.next
                );
                return Err(self.damaged(text));
            }
            self.next = header.next_offset();
            let len = batch.bytes().len();
            batches.push(BatchAt {
                offset: header.base_offset,
                max_timestamp: header.max_timestamp,
                bytes: len,
            });
            whole += len;
        }
        self.cutter.push(&bytes[..whole], &batches);
        Ok(whole)
    }

    /// After the last piece: where the blocks are.
    pub(crate) fn finish(self) -> Result<Vec<Block>, SealedError> {
        if self.next != self.input.end {
            return Err(self.damaged(format!(
                "segment ends early. offset={}, expected={}",
                self.next, self.input.end
            )));
        }
        Ok(self.cutter.finish())
    }

    fn unreadable(&self, cause: &std::io::Error) -> SealedError {
        SealedError::Unreadable {
            base: self.input.base,
            position: self.position,
            cause: cause.to_string(),
        }
    }

    fn damaged(&self, cause: String) -> SealedError {
        SealedError::Damaged {
            base: self.input.base,
            position: self.position,
            cause,
        }
    }
}
