//! The real disk: positioned reads and writes, no mmap, no O_DIRECT.

use super::{Disk, DiskFile};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

// Linux takes at most 1024 slices (UIO_MAXIOV) in one call.
const SLICES_MAX: usize = 1024;

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct FsDisk;

impl Disk for FsDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(FsFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(FsFile(
            OpenOptions::new().read(true).write(true).open(path)?,
        )))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is not UTF-8 is not one of ours.
                names.extend(entry.file_name().into_string().ok());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct FsFile(File);

impl DiskFile for FsFile {
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
        for group in slices.chunks(SLICES_MAX) {
            let bytes: usize = group.iter().map(|slice| slice.len()).sum();
            let written = write_once(&self.0, group, position)?;
            if written < bytes {
                self.write_rest(group, written, position)?;
            }
            position += bytes as u64;
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> io::Result<()> {
        // Never retried: after a failed sync the kernel may call the lost pages clean.
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

impl FsFile {
    /// After a short write (a signal, a disk nearly full, more than 2 GiB): the rest slice by slice, so that a
    /// real error shows itself.
    fn write_rest(&self, group: &[IoSlice<'_>], mut skip: usize, mut position: u64) -> io::Result<()> {
        for slice in group {
            let skipped = skip.min(slice.len());
            self.0
                .write_all_at(&slice[skipped..], position + skipped as u64)?;
            skip -= skipped;
            position += slice.len() as u64;
        }
        Ok(())
    }
}

fn write_once(file: &File, group: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pwritev(file, group, position) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
