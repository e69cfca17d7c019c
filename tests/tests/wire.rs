//! Our messages against those of the `kafka-protocol` crate, and against input made to hurt.
//!
//! The crate was generated from Kafka 4.1: versions it lacks are checked against our own decoder only.

use std::process::Command;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as crate_messages;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, VersionRange};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use varve_server::wire;

/// One of our messages, and the crate's of the same name.
struct Pair {
    name: &'static str,
    ours: Codec,
    theirs: Codec,
}

/// What can be done with a message without naming its type.
struct Codec {
    versions: VersionRange,
    header_version: fn(i16) -> i16,
    default: fn(i16) -> anyhow::Result<Bytes>,
    /// Decodes, and encodes again what came of it.
    recode: fn(Bytes, i16) -> anyhow::Result<Bytes>,
}

fn codec<M: Message + HeaderVersion + Encodable + Decodable + Default>() -> Codec {
    Codec {
        versions: M::VERSIONS,
        header_version: M::header_version,
        default: |version| encoded(&M::default(), version),
        recode: |mut bytes, version| encoded(&M::decode(&mut bytes, version)?, version),
    }
}

fn encoded<M: Encodable>(message: &M, version: i16) -> anyhow::Result<Bytes> {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version)?;
    Ok(bytes.freeze())
}

macro_rules! pairs {
    ($($module:ident $request:ident $response:ident,)*) => {
        vec![$(
            Pair {
                name: stringify!($request),
                ours: codec::<wire::$module::$request>(),
                theirs: codec::<crate_messages::$request>(),
            },
            Pair {
                name: stringify!($response),
                ours: codec::<<wire::$module::$request as Request>::Response>(),
                theirs: codec::<crate_messages::$response>(),
            },
        )*]
    };
}

fn all() -> Vec<Pair> {
    pairs![
        produce ProduceRequest ProduceResponse,
        alter_partition_reassignments AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse,
        elect_leaders ElectLeadersRequest ElectLeadersResponse,
        fetch FetchRequest FetchResponse,
        list_offsets ListOffsetsRequest ListOffsetsResponse,
        metadata MetadataRequest MetadataResponse,
        offset_commit OffsetCommitRequest OffsetCommitResponse,
        offset_fetch OffsetFetchRequest OffsetFetchResponse,
        find_coordinator FindCoordinatorRequest FindCoordinatorResponse,
        join_group JoinGroupRequest JoinGroupResponse,
        heartbeat HeartbeatRequest HeartbeatResponse,
        leave_group LeaveGroupRequest LeaveGroupResponse,
        sync_group SyncGroupRequest SyncGroupResponse,
        describe_groups DescribeGroupsRequest DescribeGroupsResponse,
        list_groups ListGroupsRequest ListGroupsResponse,
        api_versions ApiVersionsRequest ApiVersionsResponse,
        create_topics CreateTopicsRequest CreateTopicsResponse,
        delete_topics DeleteTopicsRequest DeleteTopicsResponse,
        delete_records DeleteRecordsRequest DeleteRecordsResponse,
        init_producer_id InitProducerIdRequest InitProducerIdResponse,
        offset_for_leader_epoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
        describe_configs DescribeConfigsRequest DescribeConfigsResponse,
        alter_configs AlterConfigsRequest AlterConfigsResponse,
        describe_log_dirs DescribeLogDirsRequest DescribeLogDirsResponse,
        create_partitions CreatePartitionsRequest CreatePartitionsResponse,
        delete_groups DeleteGroupsRequest DeleteGroupsResponse,
        incremental_alter_configs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse,
        offset_delete OffsetDeleteRequest OffsetDeleteResponse,
        describe_cluster DescribeClusterRequest DescribeClusterResponse,
        describe_topic_partitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
        describe_quorum DescribeQuorumRequest DescribeQuorumResponse,
        list_config_resources ListConfigResourcesRequest ListConfigResourcesResponse,
        list_partition_reassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse,
        unregister_broker UnregisterBrokerRequest UnregisterBrokerResponse,
        describe_producers DescribeProducersRequest DescribeProducersResponse,
    ]
}

fn versions(codec: &Codec) -> std::ops::RangeInclusive<i16> {
    codec.versions.min..=codec.versions.max
}

/// Bytes that often happen to be a message: small numbers, short lengths, some letters.
fn plausible(random: &mut StdRng) -> Bytes {
    let len = random.random_range(1..200);
    let byte = |_| match random.random_range(0..100) {
        0..64 => 0,
        64..80 => 1,
        80..90 => 2,
        90..94 => 3,
        94..98 => b'a',
        _ => random.random_range(0..=255u8),
    };
    (0..len).map(byte).collect()
}

/// Well-formed encodings of `version` with something in them, found by trying.
fn samples(codec: &Codec, version: i16, seed: u64) -> Vec<Bytes> {
    let mut random = StdRng::seed_from_u64(seed);
    let found = (0..2000).filter_map(|_| (codec.recode)(plausible(&mut random), version).ok());
    found.take(40).collect()
}

#[test]
fn generated_messages_are_what_the_schemas_say() {
    let output = Command::new(env!("CARGO_BIN_EXE_gen_wire"))
        .arg("--check")
        .output()
        .unwrap();

    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn defaults_and_headers_are_byte_for_byte_those_of_the_protocol_crate() {
    for Pair { name, ours, theirs } in all() {
        for version in versions(&ours).filter(|version| versions(&theirs).contains(version)) {
            let (our_header, their_header) =
                ((ours.header_version)(version), (theirs.header_version)(version));
            assert_eq!(our_header, their_header, "{name} {version}");
            // The crate refuses some defaults in versions that cannot say them.
            if let Ok(bytes) = (theirs.default)(version) {
                assert_eq!((ours.default)(version).unwrap(), bytes, "{name} {version}");
            }
        }
    }
}

#[test]
fn filled_messages_are_byte_for_byte_those_of_the_protocol_crate() {
    for Pair { name, ours, theirs } in all() {
        let mut compared = 0;
        for version in versions(&ours) {
            for bytes in samples(&ours, version, 1) {
                assert_eq!(
                    (ours.recode)(bytes.clone(), version).unwrap(),
                    bytes,
                    "{name} {version}"
                );
                if versions(&theirs).contains(&version) {
                    let again = (theirs.recode)(bytes.clone(), version);
                    assert_eq!(again.unwrap(), bytes, "{name} {version} {bytes:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 0, "{name} was never compared");
    }
}

#[test]
fn every_message_cut_short_is_an_error() {
    for Pair { name, ours, .. } in all() {
        for version in versions(&ours) {
            let mut whole = samples(&ours, version, 2);
            whole.push((ours.default)(version).unwrap());
            for bytes in whole {
                for cut in 0..bytes.len() {
                    let result = (ours.recode)(bytes.slice(..cut), version);
                    assert!(result.is_err(), "{name} {version} cut to {cut} of {bytes:?}");
                }
            }
        }
    }
}

#[test]
fn what_follows_a_message_is_left_in_the_buffer() {
    for Pair { name, ours, .. } in all() {
        let version = ours.versions.max;
        let mut bytes = BytesMut::from(&(ours.default)(version).unwrap()[..]);
        bytes.extend_from_slice(b"the rest");

        assert_eq!(
            (ours.recode)(bytes.freeze(), version).unwrap(),
            (ours.default)(version).unwrap(),
            "{name}"
        );
    }
}

proptest! {
    #[test]
    fn random_bytes_make_no_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        for Pair { ours, .. } in all() {
            for version in versions(&ours) {
                let _ = (ours.recode)(bytes.clone(), version);
            }
        }
    }

    #[test]
    fn random_frames_make_no_header_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = wire::decode_header(&mut Bytes::from(bytes));
    }

    #[test]
    fn a_spoiled_message_makes_no_decoder_panic(seed: u64, at: prop::sample::Index, byte: u8) {
        for Pair { ours, .. } in all() {
            let version = ours.versions.max;
            let mut random = StdRng::seed_from_u64(seed);
            let Ok(bytes) = (ours.recode)(plausible(&mut random), version) else { continue };
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = (ours.recode)(Bytes::from(bytes), version);
        }
    }
}
