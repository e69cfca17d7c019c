//! What a replica of the metadata quorum keeps on its disk: `__cluster_metadata-0/` in the first log directory.
//!
//! ```text
//! quorum-state       epoch and vote, replaced as a whole
//! snapshot           the state after a prefix of the log, replaced as a whole
//! journal            what was done to the log since, in order: append, truncate, begin elsewhere
//! ```
//!
//! Opening plays the journal back. A torn last frame was never reported as written and is cut; any other damage
//! refuses to open: a voter that has forgotten may elect who should not lead. When the log's beginning is dropped the
//! journal is written anew.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use varve_cluster::raft::{Entry, Position, QuorumState, Snapshot, Stored, Write};
use varve_log::{Disk, DiskFile, Offset};

use super::frames;

const QUORUM_STATE: &str = "quorum-state";
const SNAPSHOT: &str = "snapshot";
const JOURNAL: &str = "journal";
const FRESH: &str = ".tmp";
/// First in each file, with the version of what follows.
const MAGIC: [u8; 8] = *b"VARVEMQ1";

#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("the metadata log cannot be read or written: {cause}. path={path}")]
    Io { path: PathBuf, cause: io::Error },
    /// What was reported as written is damaged. Nothing has been changed on disk.
    #[error(
        "the metadata log is damaged: {reason}. Remove this node from the quorum and let it begin with an empty directory. path={path}, position={position}"
    )]
    Corrupt {
        path: PathBuf,
        position: usize,
        reason: &'static str,
    },
}

pub(super) struct RaftFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    journal: Arc<dyn DiskFile>,
    end: u64,
    /// What the journal has made of the log, kept to write it anew.
    start: Position,
    entries: Vec<Entry>,
}

/// One line of the journal.
#[derive(Debug, Serialize, serde::Deserialize)]
enum Line {
    Append { base: Offset, entries: Vec<Entry> },
    Truncate { end: Offset },
    Reset { start: Position },
}

impl RaftFiles {
    /// Reads what is there, or begins anew.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<(Self, Stored), FilesError> {
        let failed = |cause| FilesError::Io {
            path: dir.clone(),
            cause,
        };
        disk.create_dir(&dir).map_err(failed)?;
        let names = disk.list(&dir).map_err(failed)?;
        // Never renamed, so never read.
        for name in names.iter().filter(|name| name.ends_with(FRESH)) {
            disk.remove(&dir.join(name)).map_err(failed)?;
        }
        let has = |name: &str| names.iter().any(|other| other == name);
        let quorum: Option<QuorumState> = match has(QUORUM_STATE) {
            true => Some(read_whole(&*disk, &dir.join(QUORUM_STATE))?),
            false => None,
        };
        let snapshot: Option<Snapshot> = match has(SNAPSHOT) {
            true => Some(read_whole(&*disk, &dir.join(SNAPSHOT))?),
            false => None,
        };
        let path = dir.join(JOURNAL);
        if !has(JOURNAL) {
            let line = Line::Reset {
                start: Position::default(),
            };
            replace(&*disk, &dir, JOURNAL, &frame_of(&line).map_err(failed)?).map_err(failed)?;
        }
        let journal = disk.open(&path).map_err(failed)?;
        let mut files = Self {
            disk,
            dir: dir.clone(),
            journal,
            end: 0,
            start: Position::default(),
            entries: vec![],
        };
        files.play_back(&path)?;
        let stored = Stored {
            quorum: quorum.unwrap_or_default(),
            snapshot: snapshot.unwrap_or_default(),
            log_start: files.start,
            entries: files.entries.clone(),
        };
        Ok((files, stored))
    }

    /// Carries out writes in their order; when it returns they are on stable storage.
    pub(super) fn write(&mut self, writes: Vec<Write>) -> io::Result<()> {
        let mut dirty = false;
        for write in writes {
            match write {
                Write::QuorumState(state) => self.replace(QUORUM_STATE, &state)?,
                Write::Snapshot(snapshot) => self.replace(SNAPSHOT, &snapshot)?,
                Write::Append { base, entries } => dirty |= self.append(Line::Append { base, entries })?,
                Write::Truncate { end } => dirty |= self.append(Line::Truncate { end })?,
                Write::Reset { start } => dirty |= self.append(Line::Reset { start })?,
                Write::DropPrefix { start } => {
                    let gone = usize::try_from(start.end.since(self.start.end)).unwrap_or(0);
                    self.entries.drain(..gone.min(self.entries.len()));
                    self.start = start;
                    self.rewrite()?;
                    dirty = false;
                }
            }
        }
        match dirty {
            true => self.journal.sync_data(),
            false => Ok(()),
        }
    }

    fn append(&mut self, line: Line) -> io::Result<bool> {
        let frame = frame_of(&line)?;
        self.journal
            .write_vectored_at(&[IoSlice::new(&frame)], self.end)?;
        self.end += frame.len() as u64;
        self.apply(line);
        Ok(true)
    }

    fn apply(&mut self, line: Line) {
        match line {
            Line::Append { entries, .. } => self.entries.extend(entries),
            Line::Truncate { end } => {
                let kept = usize::try_from(end.since(self.start.end)).unwrap_or(0);
                self.entries.truncate(kept);
            }
            Line::Reset { start } => {
                self.entries.clear();
                self.start = start;
            }
        }
    }

    /// A journal that says the same in two lines, in the place of this one.
    fn rewrite(&mut self) -> io::Result<()> {
        let mut frames = frame_of(&Line::Reset { start: self.start })?;
        if !self.entries.is_empty() {
            frames.extend(frame_of(&Line::Append {
                base: self.start.end,
                entries: self.entries.clone(),
            })?);
        }
        replace(&*self.disk, &self.dir, JOURNAL, &frames)?;
        self.journal = self.disk.open(&self.dir.join(JOURNAL))?;
        self.end = self.journal.len()?;
        Ok(())
    }

    fn replace(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        replace(&*self.disk, &self.dir, name, &frame_of(content)?)
    }

    fn play_back(&mut self, path: &Path) -> Result<(), FilesError> {
        let failed = |cause| FilesError::Io {
            path: path.to_owned(),
            cause,
        };
        let bytes = read_all(&*self.journal).map_err(failed)?;
        let corrupt = |position, reason| FilesError::Corrupt {
            path: path.to_owned(),
            position,
            reason,
        };
        if !bytes.starts_with(&MAGIC) {
            return Err(corrupt(0, "it does not begin as a metadata journal does"));
        }
        let mut position = MAGIC.len();
        while position < bytes.len() {
            let Some((payload, length)) = frames::decode(&bytes[position..]) else {
                if frames::any_in(&bytes[position + 1..]) {
                    return Err(corrupt(position, "a checksum is wrong, and more follows"));
                }
                tracing::warn!(path = %path.display(), position, bytes = bytes.len() - position, "a torn end of the metadata journal was cut");
                self.journal.set_len(position as u64).map_err(failed)?;
                self.journal.sync_data().map_err(failed)?;
                break;
            };
            let line: Line =
                postcard::from_bytes(payload).map_err(|_cause| corrupt(position, "a line cannot be read"))?;
            if let Line::Append { base, .. } = &line
                && base.since(self.start.end) != i64::try_from(self.entries.len()).unwrap_or(i64::MAX)
            {
                return Err(corrupt(position, "a gap or an overlap in the log"));
            }
            self.apply(line);
            position += length;
        }
        self.end = position as u64;
        Ok(())
    }
}

/// Replaces a file as a whole or not at all.
fn replace(disk: &dyn Disk, dir: &Path, name: &str, frames: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{name}{FRESH}"));
    let file = disk.create(&fresh)?;
    file.write_vectored_at(&[IoSlice::new(&MAGIC), IoSlice::new(frames)], 0)?;
    file.sync_data()?;
    disk.rename(&fresh, &dir.join(name))?;
    disk.sync_dir(dir)
}

fn read_whole<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T, FilesError> {
    let read = disk.open(path).and_then(|file| read_all(&*file));
    let bytes = read.map_err(|cause| FilesError::Io {
        path: path.to_owned(),
        cause,
    })?;
    let frame = bytes.strip_prefix(&MAGIC).and_then(frames::decode);
    let content = frame.and_then(|(payload, _)| postcard::from_bytes(payload).ok());
    content.ok_or_else(|| FilesError::Corrupt {
        path: path.to_owned(),
        position: 0,
        reason: "its checksum is wrong",
    })
}

fn frame_of(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let payload = postcard::to_stdvec(content).map_err(io::Error::other)?;
    frames::encode(&payload)
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use varve_cluster::raft::Payload;
    use varve_log::{Crash, LeaderEpoch, SimDisk};

    use super::*;

    fn entry(epoch: i32, text: &'static str) -> Entry {
        Entry {
            epoch: LeaderEpoch::new(epoch),
            payload: Payload::Command(Bytes::from_static(text.as_bytes())),
        }
    }

    fn append(base: i64, entries: Vec<Entry>) -> Write {
        Write::Append {
            base: Offset::new(base),
            entries,
        }
    }

    fn reopened(disk: &SimDisk) -> (RaftFiles, Stored) {
        RaftFiles::open(Arc::new(disk.clone()), PathBuf::from("/m")).unwrap()
    }

    #[test]
    fn what_was_written_is_found_after_a_crash() {
        let disk = SimDisk::new();
        let (mut files, stored) = reopened(&disk);
        assert_eq!(stored, Stored::default());
        let quorum = QuorumState {
            epoch: LeaderEpoch::new(3),
            voted: None,
        };
        let start = Position {
            end: Offset::new(1),
            epoch: LeaderEpoch::new(1),
        };
        files
            .write(vec![
                Write::QuorumState(quorum),
                append(0, vec![entry(1, "a"), entry(1, "b"), entry(2, "lost")]),
                Write::Truncate { end: Offset::new(2) },
                append(2, vec![entry(3, "c")]),
                Write::DropPrefix { start },
                append(3, vec![entry(3, "d")]),
            ])
            .unwrap();
        drop(files);
        disk.crash(Crash::Unsynced, &mut |_| 0);

        let (_, stored) = reopened(&disk);

        assert_eq!(stored.quorum, quorum);
        assert_eq!(stored.log_start, start);
        assert_eq!(stored.entries, [entry(1, "b"), entry(3, "c"), entry(3, "d")]);
    }
}
