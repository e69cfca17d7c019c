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
