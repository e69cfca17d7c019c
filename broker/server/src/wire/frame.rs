//! Frames: the four-byte length, the header, and the message behind it.

use bytes::Bytes;
use kafka_protocol::protocol::{HeaderVersion, StrBytes};

use super::header;
use super::message::{self, Body, Error};
use super::prim::{Wire, Writer};
use super::records::Part;
use super::versions::Api;

/// Enough for most answers without records, so that they are built in one allocation.
const FRAME_CAPACITY: usize = 512;

/// Who asks for what. The body behind it is still undecoded.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHeader {
    pub api_key: Api,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
}

/// Takes the header from the front of a frame (without its length prefix) and leaves the body.
///
/// A version that is not served is an error, as Kafka closes the connection then. `ApiVersions` is the
/// exception: it is handed through in any version, because its answer tells the client which ones there are.
pub fn decode_header(frame: &mut Bytes) -> Result<RequestHeader, Error> {
    let (api_key, version) = peek_api(frame)?;
    let unsupported = Error::Unsupported { api_key, version };
    let api = Api::from_key(api_key).ok_or(unsupported)?;
    if api != Api::ApiVersions && !api.accepts(version) {
        return Err(unsupported);
    }
    let header: header::RequestHeader = message::decode(frame, api.request_header_version(version))?;
    Ok(RequestHeader {
        api_key: api,
        version,
        correlation_id: header.correlation_id,
        client_id: header.client_id,
    })
}

/// Takes a request's body from the frame. Records in it are slices of the frame.
pub fn decode_request<M: Body>(frame: &mut Bytes, version: i16) -> Result<M, Error> {
    message::decode(frame, version)
}

/// A whole response frame: all memory is one allocation, cut where records are spliced in.
///
/// # Panics
/// If the version is none of the message's: requests of such versions are not let in.
pub fn encode_response<M: Body + HeaderVersion>(correlation_id: i32, version: i16, message: &M) -> Vec<Part> {
    assert!(
        M::SCHEMA_VERSIONS.contains(&version),
        "a response in no version of its schema: {version}"
    );
    let mut frame = Writer::with_capacity(FRAME_CAPACITY);
    frame.put_slice(&[0; 4]);
    let header = header::ResponseHeader { correlation_id };
    header.put(
        &mut frame,
        header::ResponseHeader::version(M::header_version(version)),
    );
    message.put(&mut frame, M::version(version));
    finish(frame)
}

fn finish(mut frame: Writer) -> Vec<Part> {
    let len = i32::try_from(frame.len() - 4).expect("no answer comes near two gigabytes");
    frame.overwrite_front(&len.to_be_bytes());
    frame.into_parts()
}

/// API key and version stand at the front of every header of every version.
fn peek_api(frame: &Bytes) -> Result<(i16, i16), Error> {
    let [a, b, c, d] = *frame.first_chunk().ok_or(Error::Malformed("it ends early"))?;
    Ok((i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::api_versions::ApiVersionsResponse;
    use crate::wire::fetch::{FetchResponse, response};
    use crate::wire::heartbeat::HeartbeatResponse;
    use crate::wire::produce::{ProduceRequest, request};
    use crate::wire::records::Records;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::protocol::Encodable;
    use std::sync::Arc;
    use varve_log::{Disk, FsDisk};

    fn request_frame(api_key: i16, version: i16, is_flexible: bool, body: &[u8]) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_i16(api_key);
        frame.put_i16(version);
        frame.put_i32(7);
        // The client's name keeps its two-byte length even in the flexible header.
        frame.put_i16(2);
        frame.put_slice(b"me");
        if is_flexible {
            frame.put_u8(0);
        }
        frame.put_slice(body);
        frame.freeze()
    }

    fn joined(parts: &[Part]) -> Vec<u8> {
        let memory = parts.iter().map(|part| match part {
            Part::Memory(bytes) => bytes.to_vec(),
            Part::File { len, .. } => vec![b'f'; *len],
        });
        memory.flatten().collect()
    }

    fn fetched(parts: Vec<Part>) -> FetchResponse {
        let partition = response::PartitionData {
            records: Some(Records { parts }),
            ..Default::default()
        };
        let topic = response::FetchableTopicResponse {
            partitions: vec![partition],
            ..Default::default()
        };
        FetchResponse {
            responses: vec![topic],
            ..Default::default()
        }
    }

    #[test]
    fn a_header_says_who_asks_for_what_and_leaves_the_body() {
        for (version, is_flexible) in [(3, false), (4, true)] {
            let mut frame = request_frame(12, version, is_flexible, b"body");

            let header = decode_header(&mut frame).unwrap();

            assert_eq!(
                (header.api_key, header.version, header.correlation_id),
                (Api::Heartbeat, version, 7)
            );
            assert_eq!(header.client_id.as_deref(), Some("me"));
            assert_eq!(frame, "body");
        }
    }

    #[test]
    fn what_is_not_served_is_an_error_except_the_question_what_is() {
        for (api_key, version) in [(17, 0), (0, 2), (0, 14), (12, -1), (9999, 0)] {
            let refused = decode_header(&mut request_frame(api_key, version, false, b""));
            assert_eq!(refused, Err(Error::Unsupported { api_key, version }));
        }
        let header = decode_header(&mut request_frame(18, 99, true, b"whatever")).unwrap();
        assert_eq!((header.api_key, header.version), (Api::ApiVersions, 99));
    }

    #[test]
    fn the_records_of_a_request_are_slices_of_its_frame() {
        let records = Bytes::from(vec![7; 5000]);
        let partition = request::PartitionProduceData {
            records: Some(records.into()),
            ..Default::default()
        };
        let topic = request::TopicProduceData {
            partition_data: vec![partition],
            ..Default::default()
        };
        let mut body = BytesMut::new();
        ProduceRequest {
            topic_data: vec![topic],
            ..Default::default()
        }
        .encode(&mut body, 9)
        .unwrap();
        let body = body.freeze();

        let mut decoded: ProduceRequest = decode_request(&mut body.clone(), 9).unwrap();

        let records = decoded.topic_data[0].partition_data[0]
            .records
            .take()
            .unwrap()
            .into_bytes()
            .unwrap();
        assert!(body.as_ptr_range().contains(&records.as_ptr()));
    }

    #[test]
    fn a_response_has_its_length_the_correlation_id_and_the_right_header() {
        let classic = joined(&encode_response(7, 3, &HeartbeatResponse::default()));
        assert_eq!(classic, [0, 0, 0, 10, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
        let flexible = joined(&encode_response(7, 4, &HeartbeatResponse::default()));
        assert_eq!(flexible, [0, 0, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_answer_to_api_versions_never_has_a_flexible_header() {
        let frame = joined(&encode_response(7, 3, &ApiVersionsResponse::default()));

        // Length, correlation id, and at once the error code and the empty list.
        assert_eq!(frame[4..], [0, 0, 0, 7, 0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn large_records_are_parts_of_their_own_and_never_copied() {
        let memory = Bytes::from(vec![b'm'; 5000]);
        let dir = tempfile::tempdir().unwrap();
        let file = FsDisk.create(&dir.path().join("segment")).unwrap();
        let parts = vec![
            Part::Memory(memory.clone()),
            Part::File {
                file: Arc::clone(&file),
                position: 9,
                len: 10,
            },
            Part::Memory(Bytes::from_static(b"small")),
        ];

        let frame = encode_response(1, 12, &fetched(parts));

        let Part::Memory(sent) = &frame[1] else {
            panic!("the second part is the large batch")
        };
        assert_eq!(sent.as_ptr(), memory.as_ptr());
        assert_eq!(
            frame[2],
            Part::File {
                file,
                position: 9,
                len: 10
            }
        );
        assert_eq!(frame.len(), 4);
        let expected = [&memory[..], &[b'f'; 10], b"small"].concat();
        let all_in_memory = encode_response(1, 12, &fetched(vec![Part::Memory(expected.into())]));
        assert_eq!(joined(&frame), joined(&all_in_memory));
    }

    #[test]
    fn a_length_counts_the_records_beside_the_frame() {
        let frame = joined(&encode_response(
            1,
            4,
            &fetched(vec![Part::Memory(vec![1; 3000].into())]),
        ));

        assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    }
}
