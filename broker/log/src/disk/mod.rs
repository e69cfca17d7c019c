//! The seam to the file system: the only file calls of a log. [`FsDisk`] is the real one; [`SimDisk`] lives in
//! memory and can crash, tear, fill up and fail. Both pass the suite at the end of this file.
//!
//! Everything blocks. Errors are plain `io::Error`s; what they mean for a log is decided above.

mod fs;
mod sim;

pub use fs::FsDisk;
pub use sim::{Crash, SimDisk};

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// A file system, as far as a log needs one.
pub trait Disk: Debug + Send + Sync {
    /// Makes `dir` and what is missing above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// A new empty file, open for reading and writing. It must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, open for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of the files in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Takes a file's name away; who has it open may go on reading.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Puts `from` in the place of `to`, at once.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes `dir` with all that is in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` last.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file. Positions are bytes from its start.
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `slices`, one behind the other, from `position` on. After an error any part may have been written.
    fn write_vectored_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Makes the content, and a length that it needs, last.
    fn sync_data(&self) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// For sendfile; `None` where there is no real file.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        if self.read_at(buffer, position)? == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// The one behaviour both disks have.
#[cfg(test)]
mod suite {
    use super::*;
    use std::path::PathBuf;

    fn on_both(test: impl Fn(&dyn Disk, PathBuf)) {
        let real = tempfile::tempdir().unwrap();
        test(&FsDisk, real.path().join("a/log"));
        test(&SimDisk::new(), PathBuf::from("/sim/a/log"));
    }

    fn fresh(disk: &dyn Disk, path: &Path) -> Arc<dyn DiskFile> {
        disk.create_dir(path.parent().unwrap()).unwrap();
        disk.create(path).unwrap()
    }

    #[test]
    fn what_is_written_is_read_also_over_slice_borders() {
        on_both(|disk, dir| {
            let file = fresh(disk, &dir.join("f"));
            file.write_vectored_at(
                &[IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defg")],
                0,
            )
            .unwrap();
            file.write_vectored_at(&[IoSlice::new(b"XY")], 2).unwrap();
            let mut read = [0; 20];
            assert_eq!(file.read_at(&mut read, 1).unwrap(), 6);
            assert_eq!(&read[..6], b"bXYefg");
            assert_eq!(file.read_at(&mut read, 7).unwrap(), 0);
            assert!(file.read_exact_at(&mut read, 0).is_err());
        });
    }

    #[test]
    fn more_slices_than_the_kernel_takes_at_once_are_all_written_in_order() {
        on_both(|disk, dir| {
            let file = fresh(disk, &dir.join("f"));
            let numbers: Vec<_> = (0..5000u32).map(u32::to_be_bytes).collect();
            let slices: Vec<_> = numbers.iter().map(|n| IoSlice::new(n)).collect();
            file.write_vectored_at(&slices, 3).unwrap();
            let mut read = vec![0; 20_000];
            file.read_exact_at(&mut read, 3).unwrap();
            assert_eq!(read, numbers.concat());
            assert_eq!(file.len().unwrap(), 20_003);
        });
    }

    #[test]
    fn a_removed_file_can_be_read_by_who_has_it_open() {
        on_both(|disk, dir| {
            let file = fresh(disk, &dir.join("f"));
            file.write_vectored_at(&[IoSlice::new(b"kept")], 0).unwrap();
            disk.remove(&dir.join("f")).unwrap();
            assert_eq!(
                disk.open(&dir.join("f")).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            assert_eq!(
                disk.remove(&dir.join("f")).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            let mut read = [0; 4];
            file.read_exact_at(&mut read, 0).unwrap();
            assert_eq!(&read, b"kept");
        });
    }

    #[test]
    fn names_are_listed_in_order_and_rename_replaces() {
        on_both(|disk, dir| {
            for name in ["c", "a", "b"] {
                let file = fresh(disk, &dir.join(name));
                file.write_vectored_at(&[IoSlice::new(name.as_bytes())], 0)
                    .unwrap();
            }
            disk.rename(&dir.join("c"), &dir.join("a")).unwrap();
            assert_eq!(disk.list(&dir).unwrap(), ["a", "b"]);
            let mut read = [0; 1];
            disk.open(&dir.join("a"))
                .unwrap()
                .read_exact_at(&mut read, 0)
                .unwrap();
            assert_eq!(&read, b"c");
            disk.sync_dir(&dir).unwrap();
        });
    }

    #[test]
    fn creating_over_a_file_is_refused_and_a_missing_directory_is_not_found() {
        on_both(|disk, dir| {
            fresh(disk, &dir.join("f"));
            assert_eq!(
                disk.create(&dir.join("f")).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            assert_eq!(
                disk.create(&dir.join("no/f")).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
            assert_eq!(
                disk.list(&dir.join("no")).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        });
    }

    #[test]
    fn a_removed_directory_takes_its_files_along() {
        on_both(|disk, dir| {
            fresh(disk, &dir.join("f"));
            disk.remove_dir(&dir).unwrap();
            assert_eq!(disk.list(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
            disk.create_dir(&dir).unwrap();
            assert!(disk.list(&dir).unwrap().is_empty());
        });
    }

    #[test]
    fn a_shortened_file_grows_again_with_zeros() {
        on_both(|disk, dir| {
            let file = fresh(disk, &dir.join("f"));
            file.write_vectored_at(&[IoSlice::new(b"abcdef")], 0).unwrap();
            file.set_len(2).unwrap();
            assert_eq!(file.len().unwrap(), 2);
            file.write_vectored_at(&[IoSlice::new(b"z")], 4).unwrap();
            file.sync_data().unwrap();
            let mut read = [1; 5];
            file.read_exact_at(&mut read, 0).unwrap();
            assert_eq!(&read, b"ab\0\0z");
        });
    }
}
