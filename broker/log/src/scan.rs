//! Checking stored batches one by one, and telling a torn tail from damage: bytes that nobody vouches for are
//! searched for any whole batch.

use crate::batch::{HEADER_BYTES, Header, crc_holds};
use crate::disk::DiskFile;
use crate::error::Error;
use crate::offsets::Offset;
use std::ops::Range;
use std::path::Path;

const CHUNK_BYTES: usize = 1 << 20;
const MAGIC_AT: usize = 16;

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Checked {
    /// A whole batch with a CRC that holds, at or after the expected offset.
    Batch(Header),
    /// The end of the file, or something else.
    Other,
}

/// Goes over a file batch by batch.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    position: u64,
    end: u64,
    expected: Offset,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> Scan<'a> {
    /// Of bytes `position..end`, where a batch at `expected` or later must begin.
    pub(crate) const fn new(
        file: &'a dyn DiskFile,
        path: &'a Path,
        position: u64,
        end: u64,
        expected: Offset,
    ) -> Self {
        Self {
            file,
            path,
            position,
            end,
            expected,
            buffer: Vec::new(),
            buffer_at: position,
        }
    }

    /// A whole batch that goes back in offsets is [`Error::Corrupt`] at once: no torn write looks like that.
    pub(crate) fn next_batch(&mut self) -> Result<Checked, Error> {
        let left = self.end - self.position;
        if left < HEADER_BYTES as u64 {
            return Ok(Checked::Other);
        }
        let Ok(header) = Header::parse(self.bytes(HEADER_BYTES)?) else {
            return Ok(Checked::Other);
        };
        if header.batch_length as u64 > left || !crc_holds(&header, self.bytes(header.batch_length)?) {
            return Ok(Checked::Other);
        }
        if header.base_offset < self.expected {
            return Err(Error::corrupt(self.path, self.position, "offsets go back"));
        }
        self.position += header.batch_length as u64;
        self.expected = header.next_offset();
        Ok(Checked::Batch(header))
    }

    /// The next `count` bytes, of which the caller knows that the file has them.
    fn bytes(&mut self, count: usize) -> Result<&[u8], Error> {
        let at = usize::try_from(self.position - self.buffer_at).unwrap_or(usize::MAX);
        if at.saturating_add(count) > self.buffer.len() {
            let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
            self.buffer.resize(CHUNK_BYTES.max(count).min(left), 0);
            self.buffer_at = self.position;
            let read = self.file.read_exact_at(&mut self.buffer, self.position);
            read.map_err(Error::io("read", self.path))?;
            return Ok(&self.buffer[..count]);
        }
        Ok(&self.buffer[at..at + count])
    }
}

/// Whether a whole batch at `expected` or later begins anywhere in the bytes of `range`. Slow, and only asked of
/// bytes that are not what they should be.
pub(crate) fn holds_batch(
    file: &dyn DiskFile,
    path: &Path,
    range: Range<u64>,
    expected: Offset,
) -> Result<bool, Error> {
    let mut window = Vec::new();
    let mut at = range.start;
    while at + HEADER_BYTES as u64 <= range.end {
        let length = usize::try_from(range.end - at)
            .unwrap_or(usize::MAX)
            .min(CHUNK_BYTES);
        window.resize(length, 0);
        file.read_exact_at(&mut window, at)
            .map_err(Error::io("read", path))?;
        for start in 0..=length - HEADER_BYTES {
            if window[start + MAGIC_AT] != 2 {
                continue;
            }
            let begin = at + start as u64;
            if is_batch(file, path, &window[start..], begin..range.end, expected)? {
                return Ok(true);
            }
        }
        // The next window overlaps, for a header that lies across the border.
        at += (length - HEADER_BYTES + 1) as u64;
    }
    Ok(false)
}

fn is_batch(
    file: &dyn DiskFile,
    path: &Path,
    header: &[u8],
    range: Range<u64>,
    expected: Offset,
) -> Result<bool, Error> {
    let Ok(header) = Header::parse(header) else {
        return Ok(false);
    };
    let fits = header.batch_length as u64 <= range.end - range.start;
    if !fits || header.base_offset < expected || header.codec().is_none() {
        return Ok(false);
    }
    let mut batch = vec![0; header.batch_length];
    file.read_exact_at(&mut batch, range.start)
        .map_err(Error::io("read", path))?;
    Ok(crc_holds(&header, &batch))
}
