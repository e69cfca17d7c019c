//! Where recovery may begin: up to here everything is on stable storage, and this was known then. One small file
//! per log, replaced at once; losing it costs a scan of the log, nothing else.
//!
//! ```text
//! magic 8 | body length u32 | body | crc u32 (of all before it)          little endian
//! body: active segment at the recovery point (base i64 | end i64 | bytes u64 | three timestamps i64)
//!       | first segment i64 | log start i64 | epochs (len u32, bytes) | producers (len u32, bytes)
//! ```

use crate::batch::crc32c;
use crate::disk::Disk;
use crate::epoch::EpochChain;
use crate::error::Error;
use crate::index::Summary;
use crate::offsets::Offset;
use crate::our_bytes::{BytesIn, count_u32};
use crate::producers::Producers;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

pub(crate) const NAME: &str = "checkpoint";
pub(crate) const NEW_NAME: &str = "checkpoint.new";
const MAGIC: &[u8; 8] = b"VRVCKP01";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// The active segment as it was at the recovery point, which is its end. Everything up to there is durable;
    /// producers and epochs are as they were exactly there.
    pub active: Summary,
    /// Base of the oldest segment.
    pub first_segment: Offset,
    pub log_start: Offset,
    pub epochs: EpochChain,
    pub producers: Producers,
}

/// A checkpoint ready to be written, without the log's lock.
#[derive(Debug)]
#[must_use = "a checkpoint does nothing until it is written"]
pub struct Checkpoint {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) state: State,
    pub(crate) checkpointed: Arc<AtomicI64>,
}

impl Checkpoint {
    /// Recovery will begin here.
    pub const fn recovery_point(&self) -> Offset {
        self.state.recovery_point()
    }

    /// Writes it in place of the last one and syncs it. Blocks. Two of one log must not be written at once.
    pub fn write(&self) -> Result<(), Error> {
        write(&*self.disk, &self.dir, &self.state)?;
        self.checkpointed
            .store(self.state.recovery_point().value(), Ordering::Release);
        Ok(())
    }
}

impl State {
    /// Everything below is durable.
    pub(crate) const fn recovery_point(&self) -> Offset {
        self.active.end
    }

    /// The log was empty: nothing before this is part of it.
    pub(crate) fn begins_anew(&self) -> bool {
        self.active.bytes == 0 && self.first_segment == self.active.base
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.active.encode_into(&mut body);
        body.extend_from_slice(&self.first_segment.value().to_le_bytes());
        body.extend_from_slice(&self.log_start.value().to_le_bytes());
        for part in [self.epochs.encode(), self.producers.encode()] {
            body.extend_from_slice(&count_u32(part.len()).to_le_bytes());
            body.extend_from_slice(&part);
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&count_u32(body.len()).to_le_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(&crc32c(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c(content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut from = BytesIn::new(content);
        if from.bytes(8)? != MAGIC || from.u32()? as usize != from.left() {
            return None;
        }
        let part = |from: &mut BytesIn<'_>| {
            let length = from.u32()? as usize;
            from.bytes(length).map(<[u8]>::to_vec)
        };
        Some(Self {
            active: Summary::decode(&mut from)?,
            first_segment: Offset::new(from.i64()?),
            log_start: Offset::new(from.i64()?),
            epochs: EpochChain::decode(&part(&mut from)?)?,
            producers: Producers::decode(&part(&mut from)?)?,
        })
    }
}

pub(crate) fn write(disk: &dyn Disk, dir: &Path, state: &State) -> Result<(), Error> {
    let (new, path) = (dir.join(NEW_NAME), dir.join(NAME));
    // One that was left half written is in the way.
    let _ = disk.remove(&new);
    let put = || -> io::Result<()> {
        let file = disk.create(&new)?;
        file.write_vectored_at(&[IoSlice::new(&state.encode())], 0)?;
        file.sync_data()?;
        disk.rename(&new, &path)?;
        disk.sync_dir(dir)
    };
    put().map_err(Error::io("write", &path))
}

/// `Ok(None)` if there is none, or none that holds (`found_damaged` is set then).
pub(crate) fn read(disk: &dyn Disk, dir: &Path, found_damaged: &mut bool) -> Result<Option<State>, Error> {
    let path = dir.join(NAME);
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", &path)(error)),
    };
    let read = || -> io::Result<Vec<u8>> {
        let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let state = State::decode(&read().map_err(Error::io("read", &path))?);
    *found_damaged = state.is_none();
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::offsets::LeaderEpoch;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_damage_is_noticed() {
        let (disk, dir) = (SimDisk::new(), Path::new("/log"));
        disk.create_dir(dir).unwrap();
        let mut epochs = EpochChain::new();
        epochs.begin(LeaderEpoch::new(4), Offset::new(2));
        let state = State {
            active: Summary {
                bytes: 1234,
                end: Offset::new(90),
                ..Summary::empty(Offset::new(80), crate::Timestamp::new(7))
            },
            first_segment: Offset::new(40),
            log_start: Offset::new(2),
            epochs,
            producers: Producers::new(),
        };
        write(&disk, dir, &state).unwrap();
        write(&disk, dir, &state).unwrap();
        let mut damaged = false;
        assert_eq!(read(&disk, dir, &mut damaged).unwrap(), Some(state));
        assert!(!damaged);

        disk.corrupt(&dir.join(NAME), 20, 1);
        assert_eq!(read(&disk, dir, &mut damaged).unwrap(), None);
        assert!(damaged);
    }
}
