//! Log directories: one owner at a time, and a folder `topic-partition` for each partition, as Apache Kafka has it.

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use varve_cluster::{BrokerEpoch, TopicId, TopicName};

/// Which topic a partition's folder belongs to: a topic that was deleted and made again is another one.
const OWNER_FILE: &str = "partition.metadata";
/// Says that the last run ended in order, as Apache Kafka's file of that name does (KIP-966).
const CLEAN_FILE: &str = ".kafka_cleanshutdown";
/// Ends the names of folders that are on their way out.
const DELETED: &str = "-delete";
/// Ends the names of folders that nobody knows: kept, and never opened again.
const STRAY: &str = "-stray";

/// The node's log directories, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct LogDirs {
    dirs: Vec<PathBuf>,
    clean_shutdown_of: Option<BrokerEpoch>,
    /// In each directory.
    folders: Vec<AtomicUsize>,
    _locks: Vec<File>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CleanShutdown {
    version: u32,
    broker_epoch: u64,
}

/// A partition's folder, as it says itself.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) topic_id: TopicId,
    pub(crate) index: i32,
}

impl Folder {
    /// Takes it away.
    pub(crate) fn discard(&self) -> anyhow::Result<()> {
        discard(&self.path)
    }

    /// Gives it a name under which it is not taken for a partition any more; returns where it is now.
    pub(crate) fn set_aside(&self) -> anyhow::Result<PathBuf> {
        let aside = renamed(&self.path, STRAY);
        std::fs::rename(&self.path, &aside)?;
        Ok(aside)
    }
}

impl LogDirs {
    /// Creates what is missing and takes the lock of each directory.
    pub(crate) fn open(dirs: &[PathBuf]) -> anyhow::Result<Self> {
        let locks = dirs.iter().map(|dir| lock(dir)).collect::<anyhow::Result<_>>()?;
        let opened = Self {
            dirs: dirs.to_vec(),
            clean_shutdown_of: clean_shutdown_of(dirs)?,
            folders: dirs.iter().map(|dir| count(dir)).collect::<anyhow::Result<_>>()?,
            _locks: locks,
        };
        opened.sweep()?;
        Ok(opened)
    }

    /// The uptime that ended in order and left everything on these disks, if the last one did.
    pub(crate) const fn clean_shutdown_of(&self) -> Option<BrokerEpoch> {
        self.clean_shutdown_of
    }

    /// The first one: where the metadata log lives.
    pub(crate) fn first(&self) -> &Path {
        &self.dirs[0]
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The partition's folder: where it is, or made in the directory with the fewest.
    pub(crate) fn of(&self, topic: &TopicName, id: TopicId, index: i32) -> anyhow::Result<PathBuf> {
        let name = format!("{topic}-{index}");
        for dir in &self.dirs {
            let found = dir.join(&name);
            if !found.exists() {
                continue;
            }
            if owner(&found)? == Some(id) {
                return Ok(found);
            }
            discard(&found)?;
        }
        let dir = self.emptiest();
        let made = dir.join(&name);
        std::fs::create_dir(&made)
            .with_context(|| format!("cannot create the partition's folder. dir={}", made.display()))?;
        std::fs::write(
            made.join(OWNER_FILE),
            format!("version: 0\ntopic_id: {}\n", id.uuid()),
        )?;
        File::open(dir)?.sync_all()?;
        Ok(made)
    }

    /// Every partition's folder there is.
    pub(crate) fn folders(&self) -> anyhow::Result<Vec<Folder>> {
        let mut folders = vec![];
        for dir in &self.dirs {
            for entry in std::fs::read_dir(dir)? {
                folders.extend(folder(entry?.path())?);
            }
        }
        Ok(folders)
    }

    /// Takes a partition's log files away, and leaves whose folder it is.
    pub(crate) fn empty(partition: &Path) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(partition)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != OWNER_FILE) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Gone for clients at once: the folder is renamed, then removed.
    pub(crate) fn delete(&self, topic: &TopicName, id: TopicId, index: i32) -> anyhow::Result<()> {
        let name = format!("{topic}-{index}");
        for dir in &self.dirs {
            let found = dir.join(&name);
            if found.exists() && owner(&found)? == Some(id) {
                discard(&found)?;
            }
        }
        Ok(())
    }

    /// The directory that holds the fewest folders, counting those deleted since the start.
    fn emptiest(&self) -> &Path {
        let counted = self.dirs.iter().zip(&self.folders);
        let emptiest = counted.min_by_key(|(_, folders)| folders.load(Ordering::Relaxed));
        emptiest.map_or_else(
            || self.first(),
            |(dir, folders)| {
                folders.fetch_add(1, Ordering::Relaxed);
                dir
            },
        )
    }

    /// Finishes deletions that a stop interrupted.
    fn sweep(&self) -> anyhow::Result<()> {
        for dir in &self.dirs {
            for entry in std::fs::read_dir(dir)? {
                let path = entry?.path();
                if path.is_dir() && path.to_string_lossy().ends_with(DELETED) {
                    std::fs::remove_dir_all(path)?;
                }
            }
        }
        Ok(())
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    if dir.exists() && !dir.is_dir() {
        bail!(
            "a log directory is a file: name a directory in log.dirs. path={}",
            dir.display()
        );
    }
    std::fs::create_dir_all(dir).with_context(|| {
        format!(
            "a log directory cannot be created: check its parent and its rights. path={}",
            dir.display()
        )
    })?;
    let file = File::create(dir.join(".lock")).with_context(|| {
        format!(
            "a log directory cannot be written: check its rights. path={}",
            dir.display()
        )
    })?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "a log directory is in use by another process: stop it or name another in log.dirs. path={}",
            dir.display()
        );
    }
    Ok(file)
}

fn count(dir: &Path) -> anyhow::Result<AtomicUsize> {
    Ok(AtomicUsize::new(std::fs::read_dir(dir)?.count()))
}

/// Leaves in each directory that the uptime `epoch` ended in order: everything it held is on the disk.
pub(crate) fn mark_clean_shutdown(dirs: &[PathBuf], epoch: BrokerEpoch) -> anyhow::Result<()> {
    let mark = serde_json::to_vec(&CleanShutdown {
        version: 0,
        broker_epoch: epoch.value(),
    })?;
    for dir in dirs {
        let mut file = File::create(dir.join(CLEAN_FILE))?;
        file.write_all(&mark)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Takes the marks away: from here on only another orderly end may say so.
fn clean_shutdown_of(dirs: &[PathBuf]) -> anyhow::Result<Option<BrokerEpoch>> {
    let mut epochs = vec![];
    for dir in dirs {
        let path = dir.join(CLEAN_FILE);
        let Ok(text) = std::fs::read(&path) else {
            epochs.push(None);
            continue;
        };
        std::fs::remove_file(&path)?;
        File::open(dir)?.sync_all()?;
        let mark: Option<CleanShutdown> = serde_json::from_slice(&text).ok();
        epochs.push(mark.map(|mark| BrokerEpoch::new(mark.broker_epoch)));
    }
    let first = epochs.first().copied().flatten();
    Ok(first.filter(|_| epochs.iter().all(|epoch| *epoch == first)))
}

fn owner(partition: &Path) -> anyhow::Result<Option<TopicId>> {
    let path = partition.join(OWNER_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot be read. path={}", path.display())),
    };
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("topic_id: "))
        .and_then(|id| id.trim().parse().ok());
    Ok(id.map(TopicId::new))
}

/// `None` for what is no partition's folder.
fn folder(path: PathBuf) -> anyhow::Result<Option<Folder>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let index = name.rsplit_once('-').and_then(|(_, index)| index.parse().ok());
    let Some(index) = index.filter(|_| path.is_dir()) else {
        return Ok(None);
    };
    Ok(owner(&path)?.map(|topic_id| Folder {
        path,
        topic_id,
        index,
    }))
}

fn discard(partition: &Path) -> anyhow::Result<()> {
    let away = renamed(partition, DELETED);
    std::fs::rename(partition, &away)?;
    std::fs::remove_dir_all(&away).with_context(|| format!("cannot be removed. path={}", away.display()))
}

fn renamed(partition: &Path, ending: &str) -> PathBuf {
    partition.with_file_name(format!(
        "{}.{}{ending}",
        partition.file_name().unwrap_or_default().to_string_lossy(),
        uuid::Uuid::new_v4().simple()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    #[test]
    fn a_topic_made_again_does_not_inherit_the_old_ones_files() {
        let home = tempfile::tempdir().unwrap();
        let dirs = LogDirs::open(&[home.path().to_owned()]).unwrap();
        let (old, new) = (
            TopicId::new(uuid::Uuid::new_v4()),
            TopicId::new(uuid::Uuid::new_v4()),
        );
        let before = dirs.of(&name("orders"), old, 0).unwrap();
        std::fs::write(before.join("00000000000000000000.log"), "old").unwrap();

        let after = dirs.of(&name("orders"), new, 0).unwrap();

        assert_eq!(before, after);
        assert!(!after.join("00000000000000000000.log").exists());
    }

    #[test]
    fn two_processes_cannot_share_a_directory() {
        let home = tempfile::tempdir().unwrap();
        let _first = LogDirs::open(&[home.path().to_owned()]).unwrap();
        let second = LogDirs::open(&[home.path().to_owned()]).unwrap_err();
        assert!(second.to_string().contains("in use"), "{second}");
    }

    #[test]
    fn an_orderly_end_is_told_once_and_by_all_directories_or_not_at_all() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [one.path().to_owned(), two.path().to_owned()];
        let told = || LogDirs::open(&dirs).unwrap().clean_shutdown_of();
        assert_eq!(told(), None);

        mark_clean_shutdown(&dirs, BrokerEpoch::new(7)).unwrap();
        assert_eq!(told(), Some(BrokerEpoch::new(7)));
        assert_eq!(told(), None, "whoever was killed since has not ended in order");

        mark_clean_shutdown(&dirs[..1], BrokerEpoch::new(8)).unwrap();
        assert_eq!(told(), None, "the other disk may be a new one");
    }

    #[test]
    fn a_file_is_not_a_directory() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("data");
        std::fs::write(&file, "").unwrap();
        assert!(
            LogDirs::open(&[file])
                .unwrap_err()
                .to_string()
                .contains("is a file")
        );
    }
}
