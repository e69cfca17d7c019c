//! Sends a broker what no client would send, a connection each, and watches that every one of them is dealt with:
//! random bytes, a length prefix of 2 GiB, an HTTP request, a TLS hello, requests cut short, requests whose inner
//! lengths lie. Each connection must be closed by the broker, or answered where the lie happens to be harmless.
//! Prints one line of JSON; the exit code is 1 when a connection was left hanging.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use clap::Parser;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    FetchRequest, FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest, RequestHeader,
    TopicName,
    create_topics_request::CreatableTopic,
    describe_configs_request::DescribeConfigsResource,
    fetch_request::{FetchPartition, FetchTopic},
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    metadata_request::MetadataRequestTopic,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde::Serialize;

/// How long a broker may take to close a connection that it cannot understand.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long, default_value_t = 10_000)]
    frames: u64,
    #[arg(long, default_value_t = 4)]
    threads: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints this one frame of the seed in hexadecimal and sends nothing.
    #[arg(long)]
    show: Option<u64>,
    /// An existing topic with one partition: what is aimed at it must get past the lookup.
    #[arg(long, default_value = "garbage")]
    topic: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Random,
    HugeLength,
    NegativeLength,
    Http,
    TlsHello,
    Truncated,
    LyingLength,
}

const KINDS: [Kind; 7] = [
    Kind::Random,
    Kind::HugeLength,
    Kind::NegativeLength,
    Kind::Http,
    Kind::TlsHello,
    Kind::Truncated,
    Kind::LyingLength,
];

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Outcomes {
    closed: u64,
    answered: u64,
    hanging: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let requests = requests(&arguments.topic)?;
    if let Some(number) = arguments.show {
        let (kind, frame) = numbered(number, arguments.seed, &requests)?;
        println!(
            "{kind:?} {}",
            frame.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let next = AtomicU64::new(0);
    let began = Instant::now();
    let total = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.threads)
            .map(|_| scope.spawn(|| work(&arguments, &requests, &next)))
            .collect();
        let mut total: BTreeMap<Kind, Outcomes> = BTreeMap::new();
        for worker in workers {
            let done = worker
                .join()
                .map_err(|_panic| anyhow::anyhow!("a worker panicked"))??;
            for (kind, outcomes) in done {
                let sum = total.entry(kind).or_default();
                sum.closed += outcomes.closed;
                sum.answered += outcomes.answered;
                sum.hanging += outcomes.hanging;
            }
        }
        anyhow::Ok(total)
    })?;
    let hanging: u64 = total.values().map(|outcomes| outcomes.hanging).sum();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::json!({ "frames": arguments.frames, "hanging": hanging, "seconds": seconds, "kinds": total })
    );
    Ok(ExitCode::from(u8::from(hanging > 0)))
}

type Done = BTreeMap<Kind, Outcomes>;

fn work(arguments: &Arguments, requests: &[Bytes], next: &AtomicU64) -> anyhow::Result<Done> {
    let mut done = Done::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= arguments.frames {
            return Ok(done);
        }
        let (kind, frame) = numbered(number, arguments.seed, requests)?;
        let outcomes = done.entry(kind).or_default();
        match deliver(arguments.address, kind, &frame).with_context(|| format!("frame {number}, {kind:?}"))? {
            Outcome::Closed => outcomes.closed += 1,
            Outcome::Answered => outcomes.answered += 1,
            Outcome::Hanging => {
                outcomes.hanging += 1;
                eprintln!(
                    "left hanging. frame={number}, kind={kind:?}, seed={}",
                    arguments.seed
                );
            }
        }
    }
}

/// A frame depends on the seed and its number alone: any one of them can be made again.
fn numbered(number: u64, seed: u64, requests: &[Bytes]) -> anyhow::Result<(Kind, Vec<u8>)> {
    let mut chance = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let kind = KINDS[usize::try_from(number % KINDS.len() as u64)?];
    Ok((kind, frame(kind, requests, &mut chance)))
}

enum Outcome {
    Closed,
    Answered,
    Hanging,
}

fn deliver(address: SocketAddr, kind: Kind, frame: &[u8]) -> anyhow::Result<Outcome> {
    let mut connection =
        TcpStream::connect_timeout(&address, PATIENCE).context("the broker takes no connection")?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    // A million connections must not leave a million ports waiting.
    socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO))?;
    // A broker may close while we still write: that is an answer, too.
    let sent = connection.write_all(frame);
    // Some of this may be the honest beginning of something longer, so it has to end. The other kinds declare
    // a size that no frame may have: for those the broker must close without being asked.
    if sent.is_ok() && matches!(kind, Kind::Random | Kind::Truncated | Kind::LyingLength) {
        let _ = connection.shutdown(Shutdown::Write);
    }
    let mut answer = [0; 4096];
    let mut answered = false;
    loop {
        match connection.read(&mut answer) {
            Ok(0) if answered => return Ok(Outcome::Answered),
            Ok(0) => return Ok(Outcome::Closed),
            Ok(_) if matches!(kind, Kind::LyingLength) => return Ok(Outcome::Answered),
            Ok(_) => answered = true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Outcome::Hanging);
            }
            Err(_reset) => return Ok(Outcome::Closed),
        }
    }
}

fn frame(kind: Kind, requests: &[Bytes], chance: &mut StdRng) -> Vec<u8> {
    let mut noise = |length: usize| {
        let mut bytes = vec![0; length];
        chance.fill_bytes(&mut bytes);
        bytes
    };
    match kind {
        Kind::Random => {
            let length = 1 + usize::from(noise(1)[0]) * 8;
            noise(length)
        }
        Kind::HugeLength => [&0x7FFF_FFFF_i32.to_be_bytes()[..], &noise(64)].concat(),
        Kind::NegativeLength => [&(-5_i32).to_be_bytes()[..], &noise(64)].concat(),
        Kind::Http => {
            b"GET / HTTP/1.1\r\nHost: broker:9092\r\nUser-Agent: lost\r\nAccept: */*\r\n\r\n".to_vec()
        }
        Kind::TlsHello => {
            // A record of type handshake, TLS 1.0 as every hello says, and a client hello of 1.2 inside.
            [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &noise(506)].concat()
        }
        Kind::Truncated => {
            let mut frame = requests[chance.random_range(0..requests.len())].to_vec();
            frame.truncate(chance.random_range(1..frame.len()));
            frame
        }
        Kind::LyingLength => {
            let mut frame = requests[chance.random_range(0..requests.len())].to_vec();
            lie(&mut frame, chance);
            frame
        }
    }
}

/// Overwrites a place behind the header with a length that cannot be, as a fixed number or as a varint. Where the place
/// holds no length, the request is merely odd: the broker may answer it.
fn lie(frame: &mut [u8], chance: &mut StdRng) {
    // Behind the frame's length, the header with its client id, and the numbers a Fetch begins with (a wait of 24 days
    // is not what is tested here).
    const FIRST: usize = 36;
    const LIES: [&[u8]; 6] = [
        &[0x7F, 0xFF, 0xFF, 0xFF],
        &[0x80, 0, 0, 0],
        &[0xFF, 0xFF, 0xFF, 0xFE],
        &[0x00, 0xFF, 0xFF, 0xFF],
        &[0xFF, 0xFF, 0xFF, 0xFF, 0x07],
        &[0xFF, 0xFF, 0xFF, 0x7F],
    ];
    let lie = LIES[chance.random_range(0..LIES.len())];
    let last = frame.len().saturating_sub(lie.len());
    let at = if last > FIRST {
        chance.random_range(FIRST..last)
    } else {
        last.max(4)
    };
    let end = (at + lie.len()).min(frame.len());
    frame[at..end].copy_from_slice(&lie[..end - at]);
}

/// Honest requests in their oldest and newest encodings, none of which changes anything when it is understood.
fn requests(topic: &str) -> anyhow::Result<Vec<Bytes>> {
    let text = |text: &str| StrBytes::from_string(text.to_owned());
    let name = || TopicName(text(topic));
    let metadata = MetadataRequest::default()
        .with_topics(Some(vec![
            MetadataRequestTopic::default().with_name(Some(name()));
            3
        ]))
        .with_allow_auto_topic_creation(false);
    // Records that are none: refused as corrupt when the lie leaves them reachable.
    let records = PartitionProduceData::default()
        .with_index(0)
        .with_records(Some(Bytes::from(vec![7; 200])));
    let produce = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![
            TopicProduceData::default()
                .with_name(name())
                .with_partition_data(vec![records]),
        ]);
    let fetch = FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![FetchTopic::default().with_topic(name()).with_partitions(
            vec![FetchPartition::default().with_partition_max_bytes(1 << 20); 2],
        )]);
    let list_offsets = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_topics(vec![
            ListOffsetsTopic::default()
                .with_name(name())
                .with_partitions(vec![ListOffsetsPartition::default().with_timestamp(-1); 2]),
        ]);
    let create_topics = CreateTopicsRequest::default()
        .with_validate_only(true)
        .with_timeout_ms(1000)
        .with_topics(vec![
            CreatableTopic::default()
                .with_name(name())
                .with_num_partitions(1)
                .with_replication_factor(1),
        ]);
    let configs = DescribeConfigsRequest::default().with_resources(vec![
        DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic)),
    ]);
    let groups = DescribeGroupsRequest::default().with_groups(vec![text("nobody").into(); 4]);
    let coordinator = FindCoordinatorRequest::default().with_key(text("nobody"));
    let coordinators = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("nobody"); 4]);
    let api_versions = ApiVersionsRequest::default()
        .with_client_software_name(text("lost"))
        .with_client_software_version(text("0"));
    Ok(vec![
        encode(ApiKey::ApiVersions, 3, &api_versions)?,
        encode(ApiKey::Metadata, 4, &metadata)?,
        encode(ApiKey::Metadata, 12, &metadata)?,
        encode(ApiKey::Produce, 3, &produce)?,
        encode(ApiKey::Produce, 9, &produce)?,
        encode(ApiKey::Fetch, 4, &fetch)?,
        encode(ApiKey::Fetch, 12, &fetch)?,
        encode(ApiKey::ListOffsets, 7, &list_offsets)?,
        encode(ApiKey::CreateTopics, 7, &create_topics)?,
        encode(ApiKey::DescribeConfigs, 4, &configs)?,
        encode(ApiKey::DescribeGroups, 5, &groups)?,
        encode(ApiKey::FindCoordinator, 1, &coordinator)?,
        encode(ApiKey::FindCoordinator, 4, &coordinators)?,
    ])
}

fn encode(key: ApiKey, version: i16, body: &impl Encodable) -> anyhow::Result<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.extend_from_slice(&[0; 4]);
    RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("garbage")))
        .encode(&mut bytes, key.request_header_version(version))?;
    body.encode(&mut bytes, version)?;
    let length = i32::try_from(bytes.len() - 4)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_made_again_from_its_seed() {
        let requests = requests("t").unwrap();

        for kind in KINDS {
            let make = |seed| frame(kind, &requests, &mut StdRng::seed_from_u64(seed));
            assert_eq!(make(7), make(7));
        }
    }

    #[test]
    fn a_lie_leaves_the_outer_length_true() {
        for (n, request) in requests("t").unwrap().iter().enumerate() {
            let mut lying = request.to_vec();

            lie(&mut lying, &mut StdRng::seed_from_u64(n as u64));

            assert_eq!(lying.len(), request.len());
            assert_eq!(lying[..4], request[..4]);
        }
    }
}
