//! One file of a log with its sidecar, shared by the log, its readers, and whoever uploads it. The file is opened
//! when it is first needed, and its index loaded then; both without the log's lock.

use crate::batch::{HEADER_BYTES, Header};
use crate::disk::{Disk, DiskFile};
use crate::error::Error;
use crate::index::{FOOTER_BYTES, Footer, Index, Summary};
use crate::offsets::{Offset, Timestamp};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) const LOG_SUFFIX: &str = ".log";
pub(crate) const INDEX_SUFFIX: &str = ".idx";

/// `{base:020}.log`, so that names sort as offsets do.
pub(crate) fn log_name(base: Offset) -> String {
    format!("{:020}{LOG_SUFFIX}", base.value())
}

pub(crate) fn index_name(base: Offset) -> String {
    format!("{:020}{INDEX_SUFFIX}", base.value())
}

/// The base in the name of a segment file or sidecar.
pub(crate) fn base_in(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    let is_ours = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_ours.then(|| digits.parse().ok().map(Offset::new)).flatten()
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub base: Offset,
    pub path: PathBuf,
    disk: Arc<dyn Disk>,
    open: Mutex<Open>,
    was_used: AtomicBool,
}

/// What of a segment is in memory. The lock around it is held for looking only, never over I/O.
#[derive(Debug, Default)]
struct Open {
    file: Option<Arc<dyn DiskFile>>,
    index: Option<Arc<Index>>,
}

impl Segment {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, base: Offset) -> Self {
        let path = dir.join(log_name(base));
        Self {
            base,
            path,
            disk,
            open: Mutex::default(),
            was_used: AtomicBool::new(true),
        }
    }

    pub(crate) fn create(&self) -> Result<Arc<dyn DiskFile>, Error> {
        let file = self
            .disk
            .create(&self.path)
            .map_err(Error::io("create", &self.path))?;
        self.look().file = Some(Arc::clone(&file));
        Ok(file)
    }

    pub(crate) fn file(&self) -> Result<Arc<dyn DiskFile>, Error> {
        self.was_used.store(true, Ordering::Relaxed);
        if let Some(file) = &self.look().file {
            return Ok(Arc::clone(file));
        }
        let file = self
            .disk
            .open(&self.path)
            .map_err(Error::io("open", &self.path))?;
        Ok(Arc::clone(self.look().file.get_or_insert(file)))
    }

    /// How long the file is; it is not kept open for that.
    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        let file = self
            .disk
            .open(&self.path)
            .map_err(Error::io("open", &self.path))?;
        file.len().map_err(Error::io("measure", &self.path))
    }

    /// The index of the first `bytes` bytes, from the sidecar or, failing that, from the headers. Once some of a
    /// segment's index is known it may also be that: sparser at the end, never wrong.
    pub(crate) fn index(&self, bytes: u64, interval: u32) -> Result<Arc<Index>, Error> {
        if let Some(index) = &self.look().index {
            return Ok(Arc::clone(index));
        }
        let index = match self.read_sidecar(bytes) {
            Some(index) => index,
            None => self.index_from_headers(bytes, interval)?.0,
        };
        let index = Arc::new(index);
        Ok(Arc::clone(self.look().index.get_or_insert(index)))
    }

    pub(crate) fn has_index(&self) -> bool {
        self.look().index.is_some()
    }

    pub(crate) fn keep_index(&self, index: Arc<Index>) {
        self.look().index = Some(index);
    }

    pub(crate) fn forget_index(&self) {
        self.look().index = None;
    }

    /// Lets go of file and index if nobody asked for them since the last call. Readers keep what they hold.
    pub(crate) fn close_if_idle(&self) {
        if !self.was_used.swap(false, Ordering::Relaxed) {
            *self.look() = Open::default();
        }
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_file_name(index_name(self.base))
    }

    /// The summary in the sidecar's footer; `None` if there is no sidecar that holds.
    pub(crate) fn read_footer(&self) -> Option<Footer> {
        let file = self.disk.open(&self.index_path()).ok()?;
        read_footer(&*file).map(|(footer, _)| footer)
    }

    fn read_sidecar(&self, bytes: u64) -> Option<Index> {
        let file = self.disk.open(&self.index_path()).ok()?;
        let (footer, entry_bytes) = read_footer(&*file)?;
        if footer.summary.base != self.base || footer.summary.bytes != bytes {
            return None;
        }
        let mut entries = vec![0; entry_bytes];
        file.read_exact_at(&mut entries, 0).ok()?;
        Index::decode(&entries, &footer)
    }

    /// Writes the sidecar, in place of an older one. Not synced: it can always be rebuilt.
    pub(crate) fn write_sidecar(&self, index: &Index, summary: &Summary) -> Result<(), Error> {
        let path = self.index_path();
        // An older one may be there from before a crash; only its absence is of interest.
        let _ = self.disk.remove(&path);
        let file = self.disk.create(&path).map_err(Error::io("create", &path))?;
        let content = index.encode(summary);
        file.write_vectored_at(&[IoSlice::new(&content)], 0)
            .map_err(Error::io("write", &path))
    }

    /// Index and summary of the first `bytes` bytes, which are trusted: headers are read, CRCs are not computed.
    pub(crate) fn index_from_headers(&self, bytes: u64, interval: u32) -> Result<(Index, Summary), Error> {
        self.index_upto(Offset::new(i64::MAX), bytes, interval)
    }

    /// The same for the batches that lie wholly below `upto`.
    pub(crate) fn index_upto(
        &self,
        upto: Offset,
        bytes: u64,
        interval: u32,
    ) -> Result<(Index, Summary), Error> {
        let mut index = Index::new(interval, self.base);
        let mut summary = Summary::empty(self.base, Timestamp::NONE);
        let mut walk = Walk::new(self.file()?, &self.path, 0, bytes);
        while let Some((_, header)) = walk.next_header()? {
            if header.next_offset() > upto {
                break;
            }
            index.note(&summary, header.base_offset);
            summary.add(&header, header.max_timestamp);
        }
        Ok((index, summary))
    }

    /// Takes the files' names away; who reads on may.
    pub(crate) fn remove(self: &Arc<Self>) -> Result<(), Error> {
        // A reader that has planned but not yet opened must find the file: open it for it.
        if Arc::strong_count(self) > 1 {
            self.file()?;
        }
        self.disk
            .remove(&self.path)
            .map_err(Error::io("remove", &self.path))?;
        // The sidecar may be missing; alone it is harmless.
        let _ = self.disk.remove(&self.index_path());
        Ok(())
    }

    fn look(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_footer(file: &dyn DiskFile) -> Option<(Footer, usize)> {
    let len = file.len().ok()?;
    let entry_bytes = len.checked_sub(FOOTER_BYTES as u64)?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, entry_bytes).ok()?;
    let footer = Footer::decode(&footer)?;
    (footer.entry_bytes() as u64 == entry_bytes).then_some((footer, footer.entry_bytes()))
}

/// Goes from batch header to batch header through trusted bytes, reading a little at a time and skipping
/// over the bodies of large batches.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a Path,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    window: usize,
}

// Enough for the gap between two index entries at Kafka's default interval.
const FIRST_WINDOW_BYTES: usize = 4096 + HEADER_BYTES;
// A walk over many batches reads in steps of this, through small ones and over larger ones alike: skipping less
// would cost a disk more than reading on.
const WINDOW_BYTES_MAX: usize = 256 * 1024;

impl<'a> Walk<'a> {
    pub(crate) const fn new(file: Arc<dyn DiskFile>, path: &'a Path, position: u64, end: u64) -> Self {
        Self {
            file,
            path,
            position,
            end,
            buffer: Vec::new(),
            buffer_at: 0,
            window: FIRST_WINDOW_BYTES,
        }
    }

    /// The next batch that lies wholly before the end, with its position. Anything else is corruption.
    pub(crate) fn next_header(&mut self) -> Result<Option<(u64, Header)>, Error> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        if self.end - position < HEADER_BYTES as u64 {
            return Err(Error::corrupt(
                self.path,
                position,
                "partial batch header inside the log",
            ));
        }
        self.load()?;
        let at = usize::try_from(position - self.buffer_at).unwrap_or(usize::MAX);
        let header = self
            .buffer
            .get(at..)
            .and_then(|bytes| Header::parse(bytes).ok())
            .ok_or_else(|| Error::corrupt(self.path, position, "no batch header where one must be"))?;
        self.position += header.batch_length as u64;
        if self.position > self.end {
            return Err(Error::corrupt(
                self.path,
                position,
                "batch reaches past the end of the log",
            ));
        }
        Ok(Some((position, header)))
    }

    /// Whether the next header is in memory already.
    pub(crate) const fn has_next_loaded(&self) -> bool {
        self.position >= self.buffer_at
            && self.position + HEADER_BYTES as u64 <= self.buffer_at + self.buffer.len() as u64
    }

    fn load(&mut self) -> Result<(), Error> {
        if self.has_next_loaded() {
            return Ok(());
        }
        let follows_closely =
            self.position <= self.buffer_at + (self.buffer.len() + WINDOW_BYTES_MAX / 2) as u64;
        if !self.buffer.is_empty() {
            self.window = if follows_closely {
                (self.window * 4).min(WINDOW_BYTES_MAX)
            } else {
                FIRST_WINDOW_BYTES
            };
        }
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        self.buffer.resize(self.window.min(left), 0);
        self.buffer_at = self.position;
        let read = self
            .file
            .read_at(&mut self.buffer, self.position)
            .map_err(Error::io("read", self.path))?;
        self.buffer.truncate(read);
        Ok(())
    }
}
