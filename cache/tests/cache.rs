//! The cache as its callers see it: one fetch for all, every hit checked, warm after a restart.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Handle;
use varve_cache::{Admit, Cache, ChunkKey, Expect, ObjectId, Settings};

const MIB: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq)]
struct Refused(u32);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused. code={}", self.0)
    }
}

impl std::error::Error for Refused {}

fn key(chunk: u32) -> ChunkKey {
    ChunkKey {
        object: ObjectId(42),
        chunk,
    }
}

fn body(chunk: u32) -> Bytes {
    let mut seed = u64::from(chunk) + 1;
    let mut body = vec![0; MIB];
    for word in body.chunks_exact_mut(8) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.copy_from_slice(&seed.to_le_bytes());
    }
    body.into()
}

fn expect(chunk: u32) -> Expect {
    Expect {
        bytes: MIB,
        crc: crc_fast::crc32_iscsi(&body(chunk)),
    }
}

async fn open(dir: &std::path::Path, disk_bytes: usize) -> Cache {
    let settings = Settings {
        memory_bytes: 16 * MIB,
        disk_bytes,
        dir: dir.to_owned(),
    };
    Cache::open(&settings, &Handle::current()).await.unwrap()
}

async fn get(cache: &Cache, chunk: u32, admit: Admit, fetches: &Arc<AtomicU32>) -> Bytes {
    let fetches = Arc::clone(fetches);
    let fetch = move || {
        let fetches = Arc::clone(&fetches);
        async move {
            fetches.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, Refused>(body(chunk))
        }
    };
    cache.get(key(chunk), expect(chunk), admit, fetch).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_share_one_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(open(dir.path(), 0).await);
    let fetches = Arc::new(AtomicU32::new(0));
    let readers: Vec<_> = (0..32)
        .map(|_| {
            let (cache, fetches) = (Arc::clone(&cache), Arc::clone(&fetches));
            tokio::spawn(async move { get(&cache, 1, Admit::Memory, &fetches).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), body(1));
    }
    assert_eq!(fetches.load(SeqCst), 1);
    assert!(cache.peek(key(1), expect(1)).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_finds_what_went_to_disk_and_nothing_that_was_only_scanned() {
    let dir = tempfile::tempdir().unwrap();
    let fetches = Arc::new(AtomicU32::new(0));
    let cache = open(dir.path(), 256 * MIB).await;
    for chunk in 0..8 {
        get(&cache, chunk, Admit::MemoryAndDisk, &fetches).await;
    }
    for chunk in 8..16 {
        get(&cache, chunk, Admit::Memory, &fetches).await;
    }
    cache.settle().await;
    cache.close().await.unwrap();
    drop(cache);

    let cache = open(dir.path(), 256 * MIB).await;
    fetches.store(0, SeqCst);
    for chunk in 0..16 {
        assert_eq!(get(&cache, chunk, Admit::Memory, &fetches).await, body(chunk));
    }

    assert_eq!(fetches.load(SeqCst), 8);
    assert_eq!(cache.stats().hits_disk, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_entry_is_a_miss_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 0).await;
    let wrong = body(2);
    // Somebody put another chunk's bytes under this key, with a checksum that belongs to them.
    let lie = Expect {
        bytes: MIB,
        crc: crc_fast::crc32_iscsi(&wrong),
    };
    let fetch = move || {
        let wrong = wrong.clone();
        async move { Ok::<_, Refused>(wrong) }
    };
    cache.get(key(1), lie, Admit::Memory, fetch).await.unwrap();

    let fetches = Arc::new(AtomicU32::new(0));
    assert!(cache.peek(key(1), expect(1)).is_none());
    assert_eq!(get(&cache, 1, Admit::Memory, &fetches).await, body(1));
    assert_eq!(get(&cache, 1, Admit::Memory, &fetches).await, body(1));
    assert_eq!(fetches.load(SeqCst), 1);
    assert!(cache.stats().bad >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_flipped_on_disk_are_never_served() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let fetches = Arc::new(AtomicU32::new(0));
    let cache = open(dir.path(), 256 * MIB).await;
    for chunk in 0..20 {
        get(&cache, chunk, Admit::MemoryAndDisk, &fetches).await;
        cache.settle().await;
    }
    cache.close().await.unwrap();
    drop(cache);
    for file in std::fs::read_dir(dir.path().join("chunks")).unwrap() {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(file.unwrap().path())
            .unwrap();
        for position in (0..16 * MIB as u64).step_by(3 * MIB) {
            file.write_all_at(b"rotten", position + 500_000).unwrap();
        }
    }

    let cache = open(dir.path(), 256 * MIB).await;
    for chunk in 0..20 {
        assert_eq!(get(&cache, chunk, Admit::Memory, &fetches).await, body(chunk));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_fetch_reaches_the_caller_as_it_was_and_the_next_one_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 0).await;
    let error = cache
        .get(key(1), expect(1), Admit::Memory, || async {
            Err::<Bytes, _>(Refused(503))
        })
        .await;
    assert_eq!(error, Err(Refused(503)));
    let fetches = Arc::new(AtomicU32::new(0));
    assert_eq!(get(&cache, 1, Admit::Memory, &fetches).await, body(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_outlives_the_caller_that_began_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Arc::new(open(dir.path(), 0).await);
    let fetches = Arc::new(AtomicU32::new(0));
    let caller = {
        let (cache, fetches) = (Arc::clone(&cache), Arc::clone(&fetches));
        tokio::spawn(async move { get(&cache, 1, Admit::Memory, &fetches).await })
    };
    while fetches.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(cache.peek(key(1), expect(1)).is_some());
}

#[tokio::test]
async fn a_directory_of_another_format_starts_empty_and_a_file_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("chunks")).unwrap();
    std::fs::write(dir.path().join("chunks/old"), "old").unwrap();
    let cache = open(dir.path(), 256 * MIB).await;
    cache.close().await.unwrap();
    assert!(!dir.path().join("chunks/old").exists());

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let settings = Settings {
        memory_bytes: MIB,
        disk_bytes: 256 * MIB,
        dir: file,
    };
    let error = Cache::open(&settings, &Handle::current())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("cache directory cannot be used") && !error.contains('\n'),
        "{error}"
    );
}
