//! A disk in memory that forgets like a real one: what was not synced may be lost at a crash, in part or whole;
//! writes may be torn; it may be full; it may answer EIO. Chance is handed in, so a seed repeats any run.
//!
//! What survives of each file's unsynced operations is a prefix, the last of them possibly torn; so it is with
//! names in a directory. ([`Crash::Scattered`] drops any of them, as some file systems may.)

use super::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a power failure takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Everything that was not synced.
    Unsynced,
    /// A random tail of what was not synced; the write at the cut may be torn.
    Tail,
    /// Random ones of the writes that were not synced, leaving holes.
    Scattered,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    next_file: u64,
    capacity: Option<u64>,
    fail_write_in: Option<u32>,
    fail_sync_in: Option<u32>,
    fail_reads: bool,
    syncs: u64,
    writes: u64,
    reads: u64,
    // Handles from before a crash belong to a machine that is gone.
    life: u64,
}

#[derive(Debug, Default, Clone)]
struct FileState {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl SimDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Power failure. `chance(n)` gives a number in `0..n`. Handles from before answer errors; open files anew.
    pub fn crash(&self, crash: Crash, chance: &mut dyn FnMut(usize) -> usize) {
        let mut state = self.lock();
        state.life += 1;
        let changes = std::mem::take(&mut state.pending_names);
        let kept = kept_names(crash, changes.len(), chance);
        let mut names = std::mem::take(&mut state.synced_names);
        for change in changes.into_iter().take(kept) {
            change.apply(&mut names);
        }
        let living: BTreeSet<u64> = names.values().copied().collect();
        state.files.retain(|id, _| living.contains(id));
        for file in state.files.values_mut() {
            file.crash(crash, chance);
        }
        state.synced_names = names.clone();
        state.names = names;
        state.fail_write_in = None;
        state.fail_sync_in = None;
        state.fail_reads = false;
    }

    /// The write after `after` more of them fails with EIO, having written a part; later ones succeed.
    pub fn fail_write(&self, after: u32) {
        self.lock().fail_write_in = Some(after);
    }

    /// The sync after `after` more of them fails with EIO and, as on Linux, its data is lost at the next crash.
    pub fn fail_sync(&self, after: u32) {
        self.lock().fail_sync_in = Some(after);
    }

    /// Every read fails with EIO until called with `false`.
    pub fn fail_reads(&self, fail: bool) {
        self.lock().fail_reads = fail;
    }

    /// Bytes that all files together may hold; writes past it are torn with ENOSPC. `None`: no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Flips bits of a stored byte, synced or not. False if there is no such byte.
    pub fn corrupt(&self, path: &Path, position: usize, flip: u8) -> bool {
        let mut state = self.lock();
        let Some(&id) = state.names.get(path) else {
            return false;
        };
        let Some(file) = state.files.get_mut(&id) else {
            return false;
        };
        let Some(byte) = file.now.get_mut(position) else {
            return false;
        };
        *byte ^= flip;
        if let Some(byte) = file.synced.get_mut(position) {
            *byte ^= flip;
        }
        true
    }

    /// Reads, writes and syncs (of files) so far: to count what a path costs.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.lock();
        (state.reads, state.writes, state.syncs)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, id: u64, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            id,
            life,
        })
    }
}

fn kept_names(crash: Crash, pending: usize, chance: &mut dyn FnMut(usize) -> usize) -> usize {
    match crash {
        Crash::Unsynced => 0,
        Crash::Tail | Crash::Scattered => chance(pending + 1),
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Set(path, id) => {
                names.insert(path, id);
            }
            Self::Remove(path) => {
                names.remove(&path);
            }
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(&from) {
                    names.insert(to, id);
                }
            }
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        match self {
            Self::Set(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl FileState {
    fn crash(&mut self, crash: Crash, chance: &mut dyn FnMut(usize) -> usize) {
        let pending = std::mem::take(&mut self.pending);
        let mut left = std::mem::take(&mut self.synced);
        match crash {
            Crash::Unsynced => {}
            Crash::Tail => {
                let whole = chance(pending.len() + 1);
                for (number, change) in pending.iter().enumerate().take(whole + 1) {
                    let part = if number < whole {
                        usize::MAX
                    } else {
                        chance(change.bytes() + 1)
                    };
                    change.apply(&mut left, part);
                }
            }
            Crash::Scattered => {
                for change in pending.iter().filter(|_| chance(2) == 0) {
                    change.apply(&mut left, usize::MAX);
                }
            }
        }
        self.now.clone_from(&left);
        self.synced = left;
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now, usize::MAX);
        self.pending.push(change);
    }
}

impl Change {
    const fn bytes(&self) -> usize {
        match self {
            Self::Write { bytes, .. } => bytes.len(),
            Self::SetLen(_) => 0,
        }
    }

    /// Only the first `part` bytes of a write.
    fn apply(&self, content: &mut Vec<u8>, part: usize) {
        match self {
            Self::Write { position, bytes } => {
                let bytes = &bytes[..part.min(bytes.len())];
                let end = position + bytes.len();
                if content.len() < end && !bytes.is_empty() {
                    content.resize(end, 0);
                }
                if !bytes.is_empty() {
                    content[*position..end].copy_from_slice(bytes);
                }
            }
            Self::SetLen(len) if part > 0 => content.resize(*len, 0),
            Self::SetLen(_) => {}
        }
    }
}

impl State {
    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.files.get(id))
            .map(|file| file.now.len() as u64)
            .sum()
    }

    fn rename(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.pending_names.push(change);
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

/// Counts a planned failure down; true when it is due.
fn is_due(planned: &mut Option<u32>) -> bool {
    match *planned {
        Some(0) => {
            *planned = None;
            true
        }
        Some(left) => {
            *planned = Some(left - 1);
            false
        }
        None => false,
    }
}

impl Disk for SimDisk {
    // Directories last at once: that a partition's directory exists is the server's business, not a log's.
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.lock().dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, FileState::default());
        state.rename(NameChange::Set(path.to_path_buf(), id));
        let life = state.life;
        Ok(self.handle(id, life))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock();
        let &id = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let life = state.life;
        Ok(self.handle(id, life))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let inside: Vec<_> = state
            .names
            .keys()
            .filter(|path| path.starts_with(dir))
            .cloned()
            .collect();
        for path in inside {
            state.rename(NameChange::Remove(path));
        }
        state.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if is_due(&mut state.fail_sync_in) {
            return Err(eio());
        }
        let pending = std::mem::take(&mut state.pending_names);
        let (done, left): (Vec<_>, Vec<_>) = pending.into_iter().partition(|change| change.touches(dir));
        for change in done {
            change.apply(&mut state.synced_names);
        }
        state.pending_names = left;
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.lock();
        if state.life != self.life {
            return Err(io::Error::other("handle from before the crash"));
        }
        act(&mut state)
    }

    fn of<'a>(&self, state: &'a mut State) -> io::Result<&'a mut FileState> {
        state
            .files
            .get_mut(&self.id)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for SimFile {
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let position = usize::try_from(position).map_err(io::Error::other)?;
        self.with(|state| {
            state.writes += 1;
            let mut failure = None;
            if is_due(&mut state.fail_write_in) {
                bytes.truncate(bytes.len() / 2);
                failure = Some(eio());
            }
            if let Some(capacity) = state.capacity {
                let used = state.used();
                let len = self.of(state)?.now.len() as u64;
                let room = capacity
                    .saturating_sub(used - len)
                    .saturating_sub(position as u64);
                if (bytes.len() as u64) > room {
                    bytes.truncate(usize::try_from(room).map_err(io::Error::other)?);
                    failure = Some(io::ErrorKind::StorageFull.into());
                }
            }
            self.of(state)?.change(Change::Write { position, bytes });
            failure.map_or(Ok(()), Err)
        })
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let position = usize::try_from(position).map_err(io::Error::other)?;
        self.with(|state| {
            state.reads += 1;
            if state.fail_reads {
                return Err(eio());
            }
            let file = self.of(state)?;
            let rest = file.now.get(position..).unwrap_or(&[]);
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.syncs += 1;
            let fails = is_due(&mut state.fail_sync_in);
            let file = self.of(state)?;
            if fails {
                // The pages are marked clean all the same: a second sync would not bring them to the disk.
                file.pending.clear();
                return Err(eio());
            }
            file.synced.clone_from(&file.now);
            file.pending.clear();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(self.of(state)?.now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.with(|state| {
            self.of(state)?.change(Change::SetLen(len));
            Ok(())
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
