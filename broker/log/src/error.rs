//! What can go wrong with a log on its disk, by what the caller does about it.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused. The log (and, for EIO, its whole log directory) is dead until it is opened anew.
    #[error("disk refused to {act}. path={}, cause={source}", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// What is stored is not what was written, at a place where nothing may be cut off. The replica is to be set
    /// aside and fetched again; retrying does not help.
    #[error("log is corrupt: {reason}. path={}, position={position}", path.display())]
    Corrupt {
        path: PathBuf,
        position: u64,
        reason: &'static str,
    },
    /// An earlier failure has made this log dead.
    #[error("log is dead after an earlier disk failure. path={}", path.display())]
    Dead { path: PathBuf },
}

impl Error {
    pub(crate) fn corrupt(path: &Path, position: u64, reason: &'static str) -> Self {
        Self::Corrupt {
            path: path.to_path_buf(),
            position,
            reason,
        }
    }

    /// For the closure of `map_err`: `disk.open(path).map_err(Error::io("open", path))`.
    pub(crate) fn io(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            act,
            path: path.to_path_buf(),
            source,
        }
    }
}
