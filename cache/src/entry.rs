//! What lies in the cache: a chunk together with its own name and checksum.
//!
//! The store below keeps a hash per entry of its own. It has answered with another key's entry before (a collision,
//! since mended), so an entry says itself whose it is, and the reader checks.

use crate::chunk::{ChunkKey, ObjectId};
use bytes::Bytes;
use foyer::Code;
use std::io::{Read, Write};

/// The key as the store below knows it. `generation` rises when an entry was found bad in this process: the bad one
/// is never removed (removal races with fetches), it is only never asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct StoredKey {
    pub(crate) key: ChunkKey,
    pub(crate) generation: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: ChunkKey,
    pub(crate) crc: u32,
    pub(crate) bytes: Bytes,
}

const KEY_BYTES: usize = 16 + 4;
const ENTRY_HEAD_BYTES: usize = KEY_BYTES + 4 + 4;
/// No chunk is longer: it would not fit a block of the disk store.
pub(crate) const ENTRY_BYTES_MAX: usize = 32 << 20;

impl Code for StoredKey {
    fn encode(&self, w: &mut impl Write) -> foyer::Result<()> {
        write_key(w, self.key)?;
        put(w, &self.generation.to_le_bytes())
    }

    fn decode(r: &mut impl Read) -> foyer::Result<Self> {
        Ok(Self {
            key: read_key(r)?,
            generation: u32::from_le_bytes(take(r)?),
        })
    }

    fn estimated_size(&self) -> usize {
        KEY_BYTES + 4
    }
}

impl Code for Entry {
    fn encode(&self, w: &mut impl Write) -> foyer::Result<()> {
        write_key(w, self.key)?;
        put(w, &self.crc.to_le_bytes())?;
        let len = u32::try_from(self.bytes.len())
            .map_err(std::io::Error::other)
            .map_err(foyer::Error::io_error)?;
        put(w, &len.to_le_bytes())?;
        put(w, &self.bytes)
    }

    fn decode(r: &mut impl Read) -> foyer::Result<Self> {
        let key = read_key(r)?;
        let crc = u32::from_le_bytes(take(r)?);
        let len = u32::from_le_bytes(take(r)?) as usize;
        if len > ENTRY_BYTES_MAX {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "cache entry is too long");
            return Err(foyer::Error::io_error(error));
        }
        let mut bytes = Vec::with_capacity(len);
        r.take(len as u64)
            .read_to_end(&mut bytes)
            .map_err(foyer::Error::io_error)?;
        if bytes.len() != len {
            let error = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "cache entry is cut short");
            return Err(foyer::Error::io_error(error));
        }
        Ok(Self {
            key,
            crc,
            bytes: bytes.into(),
        })
    }

    fn estimated_size(&self) -> usize {
        ENTRY_HEAD_BYTES + self.bytes.len()
    }
}

fn write_key(w: &mut impl Write, key: ChunkKey) -> foyer::Result<()> {
    put(w, &key.object.0.to_le_bytes())?;
    put(w, &key.chunk.to_le_bytes())
}

fn read_key(r: &mut impl Read) -> foyer::Result<ChunkKey> {
    Ok(ChunkKey {
        object: ObjectId(u128::from_le_bytes(take(r)?)),
        chunk: u32::from_le_bytes(take(r)?),
    })
}

fn put(w: &mut impl Write, bytes: &[u8]) -> foyer::Result<()> {
    w.write_all(bytes).map_err(foyer::Error::io_error)
}

fn take<const N: usize>(r: &mut impl Read) -> foyer::Result<[u8; N]> {
    let mut bytes = [0; N];
    r.read_exact(&mut bytes).map_err(foyer::Error::io_error)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_the_disk_format() {
        let key = ChunkKey {
            object: ObjectId(u128::MAX - 5),
            chunk: 9,
        };
        let entry = Entry {
            key,
            crc: 77,
            bytes: Bytes::from_static(b"layers of sediment"),
        };
        let mut stored = vec![];
        entry.encode(&mut stored).unwrap();
        assert_eq!(stored.len(), entry.estimated_size());
        let back = Entry::decode(&mut &stored[..]).unwrap();
        assert_eq!((back.key, back.crc, back.bytes), (key, 77, entry.bytes));
        let short = stored.len() - 1;
        assert!(Entry::decode(&mut &stored[..short]).is_err());
    }

    #[test]
    fn a_lying_length_allocates_nothing() {
        let mut stored = vec![0; KEY_BYTES + 4];
        stored.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(Entry::decode(&mut &stored[..]).is_err());
    }
}
