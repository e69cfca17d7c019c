//! Whose data this is: `meta.properties` in each log directory, as Kafka has it.
//!
//! An empty directory is formatted; one that belongs to another node or another cluster is refused before
//! anything is written to it.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use varve_log::Disk;

const FILE: &str = "meta.properties";
const FRESH_FILE: &str = "meta.properties.tmp";
/// No file of this kind is larger; what is, is something else.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What the directories say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 22 characters of base64url, Kafka's way to write a UUID.
    pub cluster_id: String,
    /// One for each directory, in the order given.
    pub directories: Vec<Uuid>,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "log directory belongs to another node: set node.id={found} or use another directory. dir={dir}, node.id={wanted}"
    )]
    OtherNode {
        dir: PathBuf,
        found: String,
        wanted: i32,
    },
    #[error(
        "log directory belongs to another cluster: use directories of one cluster. dir={dir}, cluster.id={found}, expected={wanted}"
    )]
    OtherCluster {
        dir: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("meta.properties cannot be understood: {reason}. dir={dir}")]
    Malformed { dir: PathBuf, reason: String },
    #[error("meta.properties cannot be read or written: {cause}. dir={dir}")]
    Io { dir: PathBuf, cause: io::Error },
}

struct Found {
    cluster_id: String,
    node_id: String,
    directory: Option<Uuid>,
}

impl Identity {
    /// Reads `meta.properties` in each of `dirs`; directories without one are formatted, with ids from
    /// `fresh`. The cluster id given (`cluster.id`), or else the first
    /// directory's, is the one all must have.
    ///
    /// # Errors
    /// When a directory belongs to somebody else, or cannot be used.
    pub fn open(
        disk: &dyn Disk,
        dirs: &[PathBuf],
        node_id: i32,
        given: Option<&str>,
        fresh: &mut dyn FnMut() -> Uuid,
    ) -> Result<Self, IdentityError> {
        let found = dirs
            .iter()
            .map(|dir| read(disk, dir))
            .collect::<Result<Vec<_>, _>>()?;
        let first = || {
            found
                .iter()
                .flatten()
                .map(|found| found.cluster_id.clone())
                .next()
        };
        let known = given.map(str::to_owned).or_else(first);
        let cluster_id = known.unwrap_or_else(|| text_of(printable(fresh)));
        for (dir, found) in dirs.iter().zip(&found) {
            let Some(found) = found else { continue };
            if found.node_id != node_id.to_string() {
                let found = found.node_id.clone();
                return Err(IdentityError::OtherNode {
                    dir: dir.clone(),
                    found,
                    wanted: node_id,
                });
            }
            if found.cluster_id != cluster_id {
                let found = found.cluster_id.clone();
                return Err(IdentityError::OtherCluster {
                    dir: dir.clone(),
                    found,
                    wanted: cluster_id,
                });
            }
        }
        let mut directories = Vec::with_capacity(dirs.len());
        for (dir, found) in dirs.iter().zip(found) {
            let directory = match found.and_then(|found| found.directory) {
                Some(directory) => directory,
                None => {
                    let directory = printable(fresh);
                    write(disk, dir, &cluster_id, node_id, directory).map_err(|cause| IdentityError::Io {
                        dir: dir.clone(),
                        cause,
                    })?;
                    directory
                }
            };
            directories.push(directory);
        }
        Ok(Self {
            cluster_id,
            directories,
        })
    }
}

fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Found>, IdentityError> {
    let io = |cause| IdentityError::Io {
        dir: dir.to_owned(),
        cause,
    };
    let malformed = |reason: &str| IdentityError::Malformed {
        dir: dir.to_owned(),
        reason: reason.to_owned(),
    };
    let file = match disk.open(&dir.join(FILE)) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(io(cause)),
    };
    let length = file.len().map_err(io)?;
    let length = usize::try_from(length).ok().filter(|_| length <= FILE_BYTES_MAX);
    let mut bytes = vec![0; length.ok_or_else(|| malformed("it is too large"))?];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    let text = String::from_utf8(bytes).map_err(|_cause| malformed("it is not text"))?;
    let value = |key: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        pairs
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned())
    };
    let required = |key: &str| value(key).ok_or_else(|| malformed(&format!("{key} is missing")));
    if required("version")? != "1" {
        return Err(malformed("its version is not 1"));
    }
    let directory = match value("directory.id") {
        Some(text) => Some(uuid_of(&text).ok_or_else(|| malformed("directory.id is not an id"))?),
        None => None,
    };
    Ok(Some(Found {
        cluster_id: required("cluster.id")?,
        node_id: required("node.id")?,
        directory,
    }))
}

/// Whole or not at all: a new file, synced, then put in its place.
fn write(disk: &dyn Disk, dir: &Path, cluster_id: &str, node_id: i32, directory: Uuid) -> io::Result<()> {
    disk.create_dir(dir)?;
    let (fresh, place) = (dir.join(FRESH_FILE), dir.join(FILE));
    let mut text = String::from("#\n");
    let directory = text_of(directory);
    let _ = write!(
        text,
        "cluster.id={cluster_id}\ndirectory.id={directory}\nnode.id={node_id}\nversion=1\n"
    );
    if disk.open(&fresh).is_ok() {
        disk.remove(&fresh)?;
    }
    let file = disk.create(&fresh)?;
    file.write_vectored_at(&[IoSlice::new(text.as_bytes())], 0)?;
    file.sync_data()?;
    disk.rename(&fresh, &place)?;
    disk.sync_dir(dir)
}

/// Kafka never makes an id that begins with a dash: on a command line it would read as an option.
fn printable(fresh: &mut dyn FnMut() -> Uuid) -> Uuid {
    loop {
        let id = fresh();
        if !text_of(id).starts_with('-') {
            return id;
        }
    }
}

fn text_of(id: Uuid) -> String {
    URL_SAFE_NO_PAD.encode(id.as_bytes())
}

fn uuid_of(text: &str) -> Option<Uuid> {
    Uuid::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use varve_log::SimDisk;

    use super::*;

    fn open(disk: &SimDisk, dirs: &[&str], node_id: i32) -> Result<Identity, IdentityError> {
        let dirs: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
        for dir in &dirs {
            disk.create_dir(dir).unwrap();
        }
        let mut next = 0u128;
        Identity::open(disk, &dirs, node_id, None, &mut || {
            next += 1;
            Uuid::from_u128(next << 64 | next)
        })
    }

    #[test]
    fn an_empty_directory_is_formatted_once() {
        let disk = SimDisk::new();
        let first = open(&disk, &["/a", "/b"], 1).unwrap();
        assert_eq!(first.cluster_id.len(), 22);
        assert_ne!(first.directories[0], first.directories[1]);
        assert_eq!(open(&disk, &["/a", "/b"], 1).unwrap(), first);
    }

    #[test]
    fn a_directory_added_later_joins_the_cluster() {
        let disk = SimDisk::new();
        let first = open(&disk, &["/a"], 1).unwrap();
        assert_eq!(
            open(&disk, &["/new", "/a"], 1).unwrap().cluster_id,
            first.cluster_id
        );
    }

    #[test]
    fn somebody_else_s_directory_is_refused_by_name() {
        let disk = SimDisk::new();
        open(&disk, &["/a"], 1).unwrap();
        let refused = open(&disk, &["/a"], 2).unwrap_err();
        assert!(matches!(&refused, IdentityError::OtherNode { found, .. } if found == "1"));
        assert!(refused.to_string().contains("node.id=1"), "{refused}");

        let mut twice = 0;
        let mut other = || {
            twice += 1;
            Uuid::from_u128(0x7777 << 64 | twice)
        };
        Identity::open(&disk, &[PathBuf::from("/c")], 1, None, &mut other).unwrap();
        assert!(matches!(
            open(&disk, &["/a", "/c"], 1),
            Err(IdentityError::OtherCluster { .. })
        ));
    }

    #[test]
    fn kafka_s_own_file_is_understood() {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/k")).unwrap();
        let file = disk.create(Path::new("/k/meta.properties")).unwrap();
        let text = "#\n#Thu Nov 20 21:00:00 UTC 2025\nnode.id=3\nversion=1\ndirectory.id=AAAAAAAAAAAAAAAAAAAAZA\ncluster.id=MkU3OEVBNTcwNTJENDM2Qg\n";
        file.write_vectored_at(&[IoSlice::new(text.as_bytes())], 0)
            .unwrap();
        assert_eq!(
            open(&disk, &["/k"], 3).unwrap().cluster_id,
            "MkU3OEVBNTcwNTJENDM2Qg"
        );
    }
}
