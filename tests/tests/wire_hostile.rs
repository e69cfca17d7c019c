//! Lengths that lie, with the memory of the process limited so that believing one of them ends it.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::Decodable;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use varve_server::wire::fetch::FetchRequest;
use varve_server::wire::metadata::MetadataRequest;
use varve_server::wire::offset_commit::OffsetCommitRequest;
use varve_server::wire::produce::ProduceRequest;

/// What decoding may take beyond what the process has when the test begins.
const ROOM: u64 = 64 << 20;

/// The only test of this file: the limit holds for the whole process.
#[test]
fn a_length_that_lies_is_an_error_before_anything_is_allocated() {
    limit_memory();

    for count in [u32::MAX, i32::MAX as u32, 1 << 30, 100_000_000, 1_000_001] {
        let classic = frame(|bytes| bytes.put_u32(count));
        let compact = frame(|bytes| put_varint(bytes, count));
        for version in 0..=18 {
            for lie in [&classic, &compact] {
                refuse::<MetadataRequest>(&[], lie, version);
                // Transactional id, acks and timeout come before the topics.
                refuse::<ProduceRequest>(&[0xff, 0xff, 0, 1, 0, 0, 0, 1], lie, version);
                refuse::<ProduceRequest>(&[0, 0, 1, 0, 0, 0, 1], lie, version);
                refuse::<FetchRequest>(&[0; 21], lie, version);
                refuse::<OffsetCommitRequest>(&[0; 4], lie, version);
            }
        }
    }
}

/// A frame of 80 bytes, all zero behind the lie.
fn frame(lie: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::new();
    lie(&mut bytes);
    bytes.resize(80, 0);
    bytes.freeze()
}

/// Some of these are well formed by chance (a lie where a plain number stands): they only must not allocate.
fn refuse<M: Decodable>(front: &[u8], lie: &Bytes, version: i16) {
    let _ = M::decode(&mut Bytes::from([front, lie].concat()), version);
}

fn put_varint(bytes: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        bytes.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    let [.., last] = value.to_be_bytes();
    bytes.put_u8(last);
}

fn limit_memory() {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let size = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .expect("VmSize");
    let kibibytes: u64 = size.trim().trim_end_matches(" kB").parse().expect("a number");
    let limit = kibibytes * 1024 + ROOM;
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(
        Resource::As,
        Rlimit {
            current: Some(limit),
            maximum,
        },
    )
    .expect("a lower limit is always allowed");
}
