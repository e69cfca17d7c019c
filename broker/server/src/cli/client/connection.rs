//! One connection to one broker: requests out, responses back in the order they were sent.
//!
//! Promises: no frame larger than [`FRAME_BYTES_MAX`] is read, memory grows with what has arrived and not with what
//! a length claims, and every wait ends. After an error the connection is spent; the caller opens another.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange};

use super::error::{Error, Result};

/// No answer is larger: a fetch is bounded by what we ask for, or by one batch.
const FRAME_BYTES_MAX: u32 = 256 << 20;
/// Taken on the word of a length prefix; beyond it memory grows with what arrives.
const FIRST_ALLOCATION_MAX: u32 = 4 << 20;
/// How we name ourselves to brokers; their logs and metrics show it.
const CLIENT_ID: &str = "varve-cli";

/// How long to wait for a connection and for an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
        }
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    address: String,
    offered: BTreeMap<i16, VersionRange>,
    next_correlation: i32,
    under_way: VecDeque<i32>,
    frame: BytesMut,
}

/// A request on its way; hand it to [`Connection::receive`], in the order of sending.
#[must_use = "every request sent must be received, or the next answer would be taken for its own"]
pub(crate) struct Ticket<R> {
    correlation: i32,
    pub(crate) version: i16,
    request: PhantomData<fn(R)>,
}

impl Connection {
    pub(crate) fn open(address: &str, waits: Waits) -> Result<Self> {
        let stream = dial(address, waits).map_err(|cause| Error::Unreachable {
            address: address.to_owned(),
            cause,
        })?;
        let mut connection = Self {
            stream,
            address: address.to_owned(),
            offered: BTreeMap::new(),
            next_correlation: 1,
            under_way: VecDeque::new(),
            frame: BytesMut::new(),
        };
        connection.negotiate()?;
        Ok(connection)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the broker offers request `R` in `version` or newer.
    pub(crate) fn offers<R: Request>(&self, version: i16) -> bool {
        self.offered
            .get(&R::KEY)
            .is_some_and(|offered| offered.max >= version)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn call<R: Request>(&mut self, request: &R) -> Result<R::Response> {
        let ticket = self.send(request)?;
        self.receive(ticket)
    }

    /// Like [`Self::call`], in no newer version than `version_max`.
    pub(crate) fn call_up_to<R: Request>(&mut self, request: &R, version_max: i16) -> Result<R::Response> {
        let ticket = self.send_up_to(request, version_max)?;
        self.receive(ticket)
    }

    pub(crate) fn send<R: Request>(&mut self, request: &R) -> Result<Ticket<R>> {
        self.send_up_to(request, i16::MAX)
    }

    pub(crate) fn send_up_to<R: Request>(&mut self, request: &R, version_max: i16) -> Result<Ticket<R>> {
        let version = self.version_for::<R>(version_max)?;
        let correlation = self.write::<R>(request, version)?;
        Ok(Ticket {
            correlation,
            version,
            request: PhantomData,
        })
    }

    /// For the one request brokers do not answer, produce without acknowledgement.
    pub(crate) fn send_unanswered<R: Request>(&mut self, request: &R, version_max: i16) -> Result<()> {
        let version = self.version_for::<R>(version_max)?;
        self.write::<R>(request, version)?;
        self.under_way.pop_back();
        Ok(())
    }

    pub(crate) fn receive<R: Request>(&mut self, ticket: Ticket<R>) -> Result<R::Response> {
        let mut frame = self.answer_to(ticket.correlation)?;
        let header_version = R::Response::header_version(ticket.version);
        ResponseHeader::decode(&mut frame, header_version)
            .and_then(|_| R::Response::decode(&mut frame, ticket.version))
            .map_err(|cause| self.not_a_broker(format!("an answer cannot be read: {cause}")))
    }

    /// The newest version of `R` that both sides know and that is at most `version_max`.
    pub(crate) fn version_for<R: Request>(&self, version_max: i16) -> Result<i16> {
        let ours = VersionRange {
            min: R::VERSIONS.min,
            max: R::VERSIONS.max.min(version_max),
        };
        match self.offered.get(&R::KEY).map(|offered| offered.intersect(&ours)) {
            Some(shared) if !shared.is_empty() => Ok(shared.max),
            _ => Err(Error::NotOffered {
                address: self.address.clone(),
                request: request_name::<R>(),
                advice: "use a newer broker, or one that serves this",
            }),
        }
    }

    /// Asks what the broker offers. An older broker answers our version with "too new" in version 0.
    fn negotiate(&mut self) -> Result<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut answer = self.api_versions(&request, 3)?;
        if answer.error_code == UNSUPPORTED_VERSION {
            answer = self.api_versions(&request, 0)?;
        }
        if answer.error_code != 0 {
            return Err(self.not_a_broker(format!("ApiVersions answered error {}", answer.error_code)));
        }
        let range = |key: kafka_protocol::messages::api_versions_response::ApiVersion| {
            (
                key.api_key,
                VersionRange {
                    min: key.min_version,
                    max: key.max_version,
                },
            )
        };
        self.offered = answer.api_keys.into_iter().map(range).collect();
        Ok(())
    }

    fn api_versions(&mut self, request: &ApiVersionsRequest, version: i16) -> Result<ApiVersionsResponse> {
        let correlation = self.write(request, version)?;
        // A stranger may close the connection or send anything; both mean "this is no broker".
        let mut frame = self.answer_to(correlation).map_err(|error| match error {
            Error::Lost { address, cause } if cause.kind() == io::ErrorKind::UnexpectedEof => {
                Error::NotABroker {
                    address,
                    reason: "it closed the connection".to_owned(),
                }
            }
            other => other,
        })?;
        let too_new = frame.get(4..6) == Some(&UNSUPPORTED_VERSION.to_be_bytes());
        let version = if too_new { 0 } else { version };
        ResponseHeader::decode(&mut frame, 0)
            .and_then(|_| ApiVersionsResponse::decode(&mut frame, version))
            .map_err(|cause| self.not_a_broker(cause.to_string()))
    }

    fn write<R: Request>(&mut self, request: &R, version: i16) -> Result<i32> {
        let correlation = self.next_correlation;
        self.next_correlation = self.next_correlation.wrapping_add(1);
        self.encode(request, version, correlation)?;
        self.stream
            .write_all(&self.frame)
            .map_err(|cause| self.lost(cause))?;
        self.under_way.push_back(correlation);
        Ok(correlation)
    }

    fn encode<R: Request>(&mut self, request: &R, version: i16, correlation: i32) -> Result<()> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        self.frame.clear();
        self.frame.extend_from_slice(&[0; 4]);
        header
            .encode(&mut self.frame, R::header_version(version))
            .and_then(|()| request.encode(&mut self.frame, version))
            .map_err(|cause| {
                Error::Usage(format!(
                    "a {} request cannot be built: {cause}",
                    request_name::<R>()
                ))
            })?;
        let length = u32::try_from(self.frame.len() - 4)
            .ok()
            .filter(|length| *length <= FRAME_BYTES_MAX)
            .ok_or_else(|| Error::Usage(format!("a request of {} bytes is too large", self.frame.len())))?;
        self.frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// The next frame, which must answer the oldest request under way. The correlation id stays in the frame.
    fn answer_to(&mut self, correlation: i32) -> Result<Bytes> {
        let frame = self.read_frame()?;
        let answered = frame
            .get(..4)
            .and_then(|id| id.try_into().ok())
            .map(i32::from_be_bytes);
        let oldest = self.under_way.pop_front();
        if answered != Some(correlation) || oldest != Some(correlation) {
            return Err(self.not_a_broker("an answer belongs to another request".to_owned()));
        }
        Ok(frame)
    }

    fn read_frame(&mut self) -> Result<Bytes> {
        let mut prefix = [0; 4];
        self.stream
            .read_exact(&mut prefix)
            .map_err(|cause| self.lost(cause))?;
        let length = u32::from_be_bytes(prefix);
        if !(4..=FRAME_BYTES_MAX).contains(&length) {
            return Err(self.not_a_broker(format!("it announces an answer of {length} bytes")));
        }
        let mut frame = Vec::with_capacity(length.min(FIRST_ALLOCATION_MAX) as usize);
        let arrived = (&mut self.stream).take(u64::from(length)).read_to_end(&mut frame);
        match arrived {
            Ok(bytes) if bytes == length as usize => Ok(Bytes::from(frame)),
            Ok(_) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Err(cause) => Err(self.lost(cause)),
        }
    }

    fn lost(&self, cause: io::Error) -> Error {
        // A read that runs into its time limit is reported as "would block"; say what it means.
        let cause = match cause.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
            }
            io::ErrorKind::UnexpectedEof => io::Error::new(cause.kind(), "connection closed"),
            _ => cause,
        };
        Error::Lost {
            address: self.address.clone(),
            cause,
        }
    }

    fn not_a_broker(&self, reason: String) -> Error {
        Error::NotABroker {
            address: self.address.clone(),
            reason,
        }
    }
}

const UNSUPPORTED_VERSION: i16 = 35;

/// Tries every address the name resolves to: "localhost" is often ::1 first, and brokers often listen on 127.0.0.1.
fn dial(address: &str, waits: Waits) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "the name resolves to no address");
    for socket in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, waits.connect) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(waits.answer))?;
                stream.set_write_timeout(Some(waits.answer))?;
                return Ok(stream);
            }
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

fn request_name<R>() -> &'static str {
    let path = std::any::type_name::<R>();
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers the first bytes of the first connection with `answer`, then closes.
    fn stranger(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 16];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        address
    }

    fn refusal_of(answer: &'static [u8]) -> Error {
        let waits = Waits {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(1),
        };
        Connection::open(&stranger(answer), waits).err().unwrap()
    }

    #[test]
    fn a_closed_port_is_unreachable_and_the_advice_names_the_address() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        };

        let error = Connection::open(&address, Waits::default()).err().unwrap();

        assert!(matches!(error, Error::Unreachable { .. }));
        assert!(error.to_string().contains(&address));
    }

    #[test]
    fn a_web_server_is_not_a_broker() {
        let error = refusal_of(b"HTTP/1.1 400 Bad Request\r\n\r\n");

        assert!(matches!(error, Error::NotABroker { .. }), "{error}");
    }

    #[test]
    fn a_claimed_length_of_two_gigabytes_is_refused_before_memory_is_taken() {
        let error = refusal_of(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1]);

        assert!(matches!(error, Error::NotABroker { .. }), "{error}");
    }

    #[test]
    fn an_answer_with_another_requests_number_is_not_accepted() {
        let error = refusal_of(&[0, 0, 0, 6, 0, 0, 0, 99, 0, 0]);

        assert!(error.to_string().contains("another request"), "{error}");
    }

    #[test]
    fn a_connection_closed_in_the_middle_of_an_answer_is_not_success() {
        let error = refusal_of(&[0, 0, 0, 60, 0, 0, 0, 1]);

        assert!(
            matches!(error, Error::NotABroker { .. } | Error::Lost { .. }),
            "{error}"
        );
    }
}
