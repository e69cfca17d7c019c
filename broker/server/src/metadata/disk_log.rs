//! The metadata log on disk: `__cluster_metadata-0/` in the first log directory.
//!
//! ```text
//! 00000000000000000123.snapshot    the state after command 123
//! 00000000000000000124.log         the commands from 124 on
//! ```
//!
//! Opening reads the snapshot and applies the log. A torn last frame was never acknowledged and is cut; any
//! other damage refuses to open, because a state with a hole in its history is worse than none.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use varve_cluster::controller::{Command, State};
use varve_log::{Disk, DiskFile};

use super::frames::{self, MAGIC};

/// Below this a snapshot costs more than it saves.
const LOG_BYTES_BEFORE_SNAPSHOT: u64 = 4 << 20;
const LOG: &str = ".log";
const SNAPSHOT: &str = ".snapshot";
const FRESH: &str = ".tmp";

/// One command in its place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) index: u64,
    #[serde(flatten)]
    pub(super) command: Command,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the metadata log cannot be read or written: {cause}. path={path}")]
    Io { path: PathBuf, cause: io::Error },
    /// What was acknowledged is damaged. Nothing has been changed on disk.
    #[error(
        "the metadata log is damaged: {reason}. Restore the directory from a backup or from the bucket. path={path}, position={position}"
    )]
    Corrupt {
        path: PathBuf,
        position: u64,
        reason: String,
    },
    #[error(
        "the metadata log belongs to another cluster. path={path}, cluster.id={found}, expected={wanted}"
    )]
    OtherCluster {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("the thread that writes metadata cannot be started: {0}")]
    Thread(io::Error),
}

pub(super) struct DiskLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    end: u64,
    snapshot_bytes: u64,
}

impl DiskLog {
    /// Reads what is there, or begins anew.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        cluster_id: &str,
    ) -> Result<(Self, State), OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |cause| OpenError::Io { path, cause }
        };
        disk.create_dir(&dir).map_err(at(&dir))?;
        let names = disk.list(&dir).map_err(at(&dir))?;
        // Left over from a stop in the middle of a snapshot: never read, because never renamed.
        for name in names.iter().filter(|name| name.ends_with(FRESH)) {
            disk.remove(&dir.join(name)).map_err(at(&dir))?;
        }
        let of_kind = |kind: &'static str| {
            names
                .iter()
                .filter(move |name| name.ends_with(kind))
                .map(|name| dir.join(name))
        };
        let (mut state, snapshot_bytes) = match of_kind(SNAPSHOT).next_back() {
            Some(path) => read_snapshot(disk.as_ref(), &path)?,
            None => (State::new(cluster_id), 0),
        };
        if *state.cluster_id != *cluster_id {
            let (found, wanted) = (state.cluster_id.to_string(), cluster_id.to_owned());
            return Err(OpenError::OtherCluster {
                path: dir,
                found,
                wanted,
            });
        }
        let snapshot = state.applied;
        let mut logs: Vec<PathBuf> = of_kind(LOG).collect();
        if logs.is_empty() {
            if snapshot > 0 {
                let reason = "the log that continues the snapshot is missing".to_owned();
                return Err(OpenError::Corrupt {
                    path: dir,
                    position: 0,
                    reason,
                });
            }
            let path = dir.join(name_of(1, LOG));
            begin(disk.as_ref(), &dir, &path).map_err(at(&path))?;
            logs.push(path);
        }
        // Usually one. After a stop in the middle of a snapshot the old one is still the history, and a new
        // one has begun behind it.
        let last = logs.len() - 1;
        let mut current = None;
        for (number, path) in logs.into_iter().enumerate() {
            let file = disk.open(&path).map_err(at(&path))?;
            let end = replay(file.as_ref(), &path, &mut state, number == last)?;
            current = Some((file, path, end));
        }
        let Some((file, path, end)) = current else {
            unreachable!("there is at least one log")
        };
        let log = Self {
            disk,
            dir,
            file,
            path,
            end,
            snapshot_bytes,
        };
        log.sweep(snapshot).map_err(at(&log.dir))?;
        Ok((log, state))
    }

    /// Makes `entries` durable with one write and one sync.
    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let frame = frames::encode(&serde_json::to_vec(entries)?)?;
        self.file.write_vectored_at(&[IoSlice::new(&frame)], self.end)?;
        self.file.sync_data()?;
        self.end += frame.len() as u64;
        Ok(())
    }

    /// A snapshot is due when replaying the log would cost more than reading one: then writing it costs no
    /// more than the commands themselves did.
    pub(super) fn snapshot_due(&self) -> bool {
        self.end > LOG_BYTES_BEFORE_SNAPSHOT.max(self.snapshot_bytes)
    }

    /// Writes `state` down and begins a new log behind it. A stop at any point leaves either the old pair
    /// or the new one readable.
    pub(super) fn snapshot(&mut self, state: &State) -> io::Result<()> {
        let path = self.dir.join(name_of(state.applied, SNAPSHOT));
        let fresh = self.dir.join(name_of(state.applied, FRESH));
        let frame = frames::encode(&serde_json::to_vec(state)?)?;
        let file = self.disk.create(&fresh)?;
        file.write_vectored_at(&[IoSlice::new(&MAGIC), IoSlice::new(&frame)], 0)?;
        file.sync_data()?;
        // The log first: a snapshot without one would be taken for damage.
        let log_path = self.dir.join(name_of(state.applied + 1, LOG));
        let log = begin(self.disk.as_ref(), &self.dir, &log_path)?;
        self.disk.rename(&fresh, &path)?;
        self.disk.sync_dir(&self.dir)?;
        self.file = log;
        self.path = log_path;
        self.end = MAGIC.len() as u64;
        self.snapshot_bytes = frame.len() as u64;
        self.sweep(state.applied)
    }

    /// Removes what the snapshot after command `snapshot` makes needless: older snapshots, and logs whose
    /// successor begins no later than the snapshot ends.
    fn sweep(&self, snapshot: u64) -> io::Result<()> {
        let names = self.disk.list(&self.dir)?;
        let index = |name: &str| {
            name.split('.')
                .next()
                .and_then(|digits| digits.parse::<u64>().ok())
        };
        let of_kind = |kind: &'static str| names.iter().filter(move |name| name.ends_with(kind));
        let old = of_kind(SNAPSHOT).filter(|name| index(name).is_some_and(|index| index < snapshot));
        let logs: Vec<&String> = of_kind(LOG).collect();
        let covered = logs
            .windows(2)
            .filter(|pair| index(pair[1]).is_some_and(|next| next <= snapshot + 1));
        for name in old.chain(covered.map(|pair| pair[0])) {
            self.disk.remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn name_of(index: u64, kind: &str) -> String {
    format!("{index:020}{kind}")
}

fn begin(disk: &dyn Disk, dir: &Path, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(path)?;
    file.write_vectored_at(&[IoSlice::new(&MAGIC)], 0)?;
    file.sync_data()?;
    disk.sync_dir(dir)?;
    Ok(file)
}

fn read_all(file: &dyn DiskFile, path: &Path) -> Result<Vec<u8>, OpenError> {
    let io = |cause| OpenError::Io {
        path: path.to_owned(),
        cause,
    };
    let length = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    Ok(bytes)
}

fn read_snapshot(disk: &dyn Disk, path: &Path) -> Result<(State, u64), OpenError> {
    let file = disk.open(path).map_err(|cause| OpenError::Io {
        path: path.to_owned(),
        cause,
    })?;
    let bytes = read_all(file.as_ref(), path)?;
    let corrupt = |reason: String| OpenError::Corrupt {
        path: path.to_owned(),
        position: 0,
        reason,
    };
    let frame = bytes.strip_prefix(&MAGIC).and_then(frames::decode);
    let (payload, length) = frame.ok_or_else(|| corrupt("the snapshot's checksum is wrong".to_owned()))?;
    let state = serde_json::from_slice(payload).map_err(|error| corrupt(error.to_string()))?;
    Ok((state, length as u64))
}

/// Applies a log to `state`, cuts a torn end of the last one, and returns where the next frame goes.
fn replay(file: &dyn DiskFile, path: &Path, state: &mut State, last: bool) -> Result<u64, OpenError> {
    let bytes = read_all(file, path)?;
    let corrupt = |position: usize, reason: String| OpenError::Corrupt {
        path: path.to_owned(),
        position: position as u64,
        reason,
    };
    let io = |cause| OpenError::Io {
        path: path.to_owned(),
        cause,
    };
    if !bytes.starts_with(&MAGIC) {
        // A file that was just being made when the process stopped holds no frame.
        if frames::any_in(&bytes) || bytes.len() > MAGIC.len() {
            return Err(corrupt(0, "it does not begin as a metadata log does".to_owned()));
        }
        file.set_len(0).map_err(io)?;
        file.write_vectored_at(&[IoSlice::new(&MAGIC)], 0).map_err(io)?;
        file.sync_data().map_err(io)?;
        return Ok(MAGIC.len() as u64);
    }
    let mut position = MAGIC.len();
    while position < bytes.len() {
        let Some((payload, length)) = frames::decode(&bytes[position..]) else {
            if !last || frames::any_in(&bytes[position + 1..]) {
                return Err(corrupt(
                    position,
                    "a checksum is wrong, and commands follow".to_owned(),
                ));
            }
            tracing::warn!(path = %path.display(), position, bytes = bytes.len() - position, "a torn command at the end of the metadata log was cut");
            file.set_len(position as u64).map_err(io)?;
            file.sync_data().map_err(io)?;
            break;
        };
        apply_frame(payload, state).map_err(|reason| corrupt(position, reason))?;
        position += length;
    }
    Ok(position as u64)
}

fn apply_frame(payload: &[u8], state: &mut State) -> Result<(), String> {
    let entries: Vec<Entry> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    for entry in entries {
        // The log reaches back behind a snapshot that a stop kept from removing it.
        if entry.index <= state.applied {
            continue;
        }
        if entry.index != state.applied + 1 {
            return Err(format!(
                "command {} follows command {}",
                entry.index, state.applied
            ));
        }
        // Only what was accepted is ever written, and the state machine has no other input.
        state.apply(entry.index, &entry.command).map_err(|rejected| {
            format!(
                "command {} was accepted once and is not any more: {rejected}",
                entry.index
            )
        })?;
    }
    Ok(())
}
