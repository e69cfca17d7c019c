//! How fast, and at what price, one consumer reads a partition back over a far link.
//!
//! `cargo run --release --example cold_replay -- [MB]` starts itself again as a store: an S3 server as small as this
//! needs, 30 ± 10 ms before each answer and 80 MB/s a connection. What is read is sent into a socket, as a broker would.
//! CPU time is this process's own: client, checks, cache and sending, not the store.
#![expect(clippy::unwrap_used, reason = "a measurement stops at what goes wrong")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use varve_cache::Cache;
use varve_cluster::TopicId;
use varve_cluster::controller::TierPointer;
use varve_log::{Builder, Disk, FsDisk, LeaderEpoch, Offset, Timestamp};
use varve_tiering::{
    BucketConfig, CommitError, Committed, CursorId, MetadataError, Patience, Proposal, Reason, SealedInput,
    Settings, Tier, TierMetadata, TierPartition, open_bucket,
};

const EPOCH: LeaderEpoch = LeaderEpoch::new(1);
const FIRST_BYTE: Duration = Duration::from_millis(30);
const JITTER_MS: u64 = 10;
const BYTES_PER_SECOND: f64 = 80e6;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if args.get(1).is_some_and(|arg| arg == "serve") {
        runtime.block_on(serve());
        return;
    }
    let megabytes: usize = args.get(1).map_or(1000, |arg| arg.parse().unwrap());
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap();
    runtime.block_on(measure(megabytes));
}

async fn measure(megabytes: usize) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .arg("serve")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let (s3, drain) = line.trim().split_once(' ').unwrap();
    let config = BucketConfig {
        url: "s3://bucket/prefix".to_owned(),
        endpoint: Some(format!("http://{s3}")),
        region: Some("us-east-1".to_owned()),
        path_style: Some(true),
    };
    let state = AtomicU64::new(1);
    let chance = Arc::new(move || u128::from(state.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed)) << 64 | 7);
    let store = open_bucket(&config, Patience::default(), Arc::clone(&chance) as _)
        .await
        .unwrap();
    let handle = tokio::runtime::Handle::current();
    let cache = varve_cache::Settings {
        memory_bytes: 64 << 20,
        disk_bytes: 0,
        dir: "/nowhere".into(),
    };
    let cache = Arc::new(Cache::open(&cache, &handle).await.unwrap());
    let tier = Tier::new(Settings::new("c"), store.clone(), cache, handle, chance).unwrap();
    let partition = TierPartition {
        topic: TopicId::new(uuid::Uuid::from_u128(1)),
        index: 0,
    };
    let quorum = Arc::new(Quorum::default());
    let dir = tempfile::tempdir().unwrap();
    upload(&tier, partition, &quorum, dir.path(), megabytes).await;
    for (name, max_bytes) in [
        ("1 MiB fetches", 1 << 20),
        ("1 MiB fetches", 1 << 20),
        ("8 MiB fetches", 8 << 20),
    ] {
        replay(&tier, partition, &quorum, drain, name, max_bytes).await;
    }
    seeks(&tier, partition, &quorum).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn upload(
    tier: &Tier,
    partition: TierPartition,
    quorum: &Arc<Quorum>,
    dir: &std::path::Path,
    megabytes: usize,
) {
    let (mut offset, mut left) = (0, megabytes * 1_000_000);
    let mut sealed = Vec::new();
    let random: Vec<u8> = (0..4_000_000u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56).to_le_bytes()[0])
        .collect();
    while left > 0 {
        let base = offset;
        let mut bytes = Vec::new();
        while bytes.len() < (64 << 20) - 262_144 {
            let mut builder = Builder::new(Timestamp::new(offset));
            for i in 0..240 {
                let at = (bytes.len() + i * 1024) % (random.len() - 1024);
                builder = builder.push(Timestamp::new(offset), None, Some(&random[at..at + 1024]), &[]);
            }
            let mut batch = builder.build().to_vec();
            batch[..8].copy_from_slice(&offset.to_be_bytes());
            bytes.extend_from_slice(&batch);
            offset += 240;
        }
        left = left.saturating_sub(bytes.len());
        let path = dir.join(format!("{base:020}.log"));
        std::fs::write(&path, &bytes).unwrap();
        sealed.push(SealedInput {
            base: Offset::new(base),
            end: Offset::new(offset),
            bytes: bytes.len() as u64,
            max_timestamp: Timestamp::new(offset),
            file: FsDisk.open(&path).unwrap(),
            producer_snapshot: bytes::Bytes::new(),
            epoch_chain: bytes::Bytes::new(),
        });
    }
    let total: u64 = sealed.iter().map(|one| one.bytes).sum();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    for several in sealed.chunks(4) {
        tier.upload(partition, EPOCH, several.to_vec(), Arc::clone(quorum) as _)
            .await
            .unwrap();
    }
    let (seconds, gigabytes) = (began.elapsed().as_secs_f64(), total as f64 / 1e9);
    let (data, manifests) = (
        tier.store().requests(Reason::Upload),
        tier.store().requests(Reason::Manifest),
    );
    println!(
        "upload: {:.0} MB/s, {:.2} CPU-s/GB, {:.1} PUT/GB, {:.1} HEAD/GB",
        gigabytes * 1000.0 / seconds,
        (cpu_seconds() - cpu) / gigabytes,
        (data.puts + manifests.puts) as f64 / gigabytes,
        data.heads as f64 / gigabytes,
    );
}

async fn replay(
    tier: &Tier,
    partition: TierPartition,
    quorum: &Quorum,
    drain: &str,
    name: &str,
    max_bytes: usize,
) {
    let pointer = quorum.pointer.lock().unwrap().clone().unwrap();
    let mut socket = TcpStream::connect(drain).await.unwrap();
    let before = tier.store().requests(Reason::ColdRead);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let (mut next, mut delivered) = (pointer.start, 0);
    while next < pointer.end {
        let slice = tier
            .read(partition, &pointer, next, max_bytes, CursorId(1))
            .await
            .unwrap();
        for run in &slice.batches {
            socket.write_all(run).await.unwrap();
        }
        delivered += slice.bytes();
        next = slice.next_offset;
    }
    let (seconds, gigabytes) = (began.elapsed().as_secs_f64(), delivered as f64 / 1e9);
    let after = tier.store().requests(Reason::ColdRead);
    println!(
        "replay, {name}: {:.0} MB/s, {:.2} CPU-s/GB, {:.1} GET/GB, {:.3} bytes a byte, {} hedged, RSS {} MiB",
        gigabytes * 1000.0 / seconds,
        (cpu_seconds() - cpu) / gigabytes,
        (after.gets - before.gets) as f64 / gigabytes,
        (after.bytes_received - before.bytes_received) as f64 / 1e9 / gigabytes,
        tier.read_stats().hedged,
        rss_mib(),
    );
}

async fn seeks(tier: &Tier, partition: TierPartition, quorum: &Quorum) {
    let pointer = quorum.pointer.lock().unwrap().clone().unwrap();
    let mut times = Vec::new();
    let records = u64::try_from(pointer.end.value()).unwrap();
    for i in 0..24u64 {
        let offset = i64::try_from(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % records).unwrap();
        let began = Instant::now();
        tier.read(
            partition,
            &pointer,
            Offset::new(offset),
            1 << 20,
            CursorId(100 + i),
        )
        .await
        .unwrap();
        times.push(began.elapsed().as_millis());
    }
    times.sort_unstable();
    println!(
        "seek: p50 {} ms, p90 {} ms, max {} ms",
        times[12], times[21], times[23]
    );
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn rss_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() / 256
}

#[derive(Debug, Default)]
struct Quorum {
    pointer: Mutex<Option<TierPointer>>,
}

#[async_trait::async_trait]
impl TierMetadata for Quorum {
    async fn current(&self, _: TierPartition) -> Result<Committed, MetadataError> {
        let pointer = self.pointer.lock().unwrap().clone();
        Ok(Committed {
            pointer,
            leader_epoch: EPOCH,
            log_start: Offset::ZERO,
        })
    }

    async fn commit(&self, proposal: &Proposal) -> Result<(), CommitError> {
        *self.pointer.lock().unwrap() = Some(proposal.pointer.clone());
        Ok(())
    }

    async fn barrier(&self) -> Result<(), MetadataError> {
        Ok(())
    }
}

type Objects = Arc<Mutex<BTreeMap<String, bytes::Bytes>>>;

async fn serve() {
    let s3 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{} {}", s3.local_addr().unwrap(), drain.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = drain.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 20];
                while socket.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
            });
        }
    });
    let objects = Objects::default();
    let count = Arc::new(AtomicU64::new(0));
    loop {
        let (socket, _) = s3.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        tokio::spawn(connection(socket, Arc::clone(&objects), Arc::clone(&count)));
    }
}

async fn connection(mut socket: TcpStream, objects: Objects, count: Arc<AtomicU64>) -> Option<()> {
    let mut inbox: Vec<u8> = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = inbox.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut more = vec![0; 64 << 10];
            let len = socket.read(&mut more).await.ok().filter(|len| *len > 0)?;
            inbox.extend_from_slice(&more[..len]);
        };
        let head = String::from_utf8_lossy(&inbox[..head_end]).to_ascii_lowercase();
        let field = |name: &str| {
            head.split("\r\n")
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let length: usize = field("content-length:").map_or(0, |len| len.parse().unwrap());
        inbox.drain(..head_end);
        let mut body = std::mem::take(&mut inbox);
        let had = body.len().min(length);
        inbox = body.split_off(had);
        body.resize(length, 0);
        socket.read_exact(&mut body[had..]).await.ok()?;
        let chance = count.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed) >> 40;
        let jitter = Duration::from_millis(chance % (2 * JITTER_MS + 1));
        tokio::time::sleep(FIRST_BYTE + jitter - Duration::from_millis(JITTER_MS)).await;
        let mut words = head.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (status, extra, answer) = handle(&objects, &method, &target, field("range:"), body);
        let len = answer.len();
        let fields = format!(
            "HTTP/1.1 {status}\r\nETag: \"x\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n{extra}\
             Content-Length: {len}\r\n\r\n"
        );
        socket.write_all(fields.as_bytes()).await.ok()?;
        if method == "head" {
            continue;
        }
        let began = Instant::now();
        for (i, piece) in answer.chunks(256 << 10).enumerate() {
            socket.write_all(piece).await.ok()?;
            let due = Duration::from_secs_f64(((i << 18) + piece.len()) as f64 / BYTES_PER_SECOND);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
    }
}

fn handle(
    objects: &Objects,
    method: &str,
    target: &str,
    range: Option<&str>,
    body: Vec<u8>,
) -> (&'static str, String, bytes::Bytes) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut objects = objects.lock().unwrap();
    let none = bytes::Bytes::new;
    match method {
        "put" => {
            objects.insert(path.to_owned(), body.into());
            ("200 OK", String::new(), none())
        }
        "delete" => {
            objects.remove(path);
            ("204 No Content", String::new(), none())
        }
        "get" if query.contains("list-type") => {
            let entry = |(key, body): (&String, &bytes::Bytes)| {
                let key = key.trim_start_matches("/bucket/");
                let date = "2026-01-01T00:00:00.000Z";
                format!(
                    "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>{date}</LastModified><ETag>x</ETag></Contents>",
                    body.len()
                )
            };
            let list: String = objects.iter().map(entry).collect();
            (
                "200 OK",
                String::new(),
                format!("<ListBucketResult>{list}</ListBucketResult>").into(),
            )
        }
        _ => match (
            objects.get(path),
            range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')),
        ) {
            (None, _) => ("404 Not Found", String::new(), none()),
            (Some(body), Some((from, to))) => {
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                let extra = format!("Content-Range: bytes {from}-{to}/{}\r\n", body.len());
                ("206 Partial Content", extra, body.slice(from..=to))
            }
            (Some(body), None) => ("200 OK", String::new(), body.clone()),
        },
    }
}
