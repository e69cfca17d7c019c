//! Requests to other nodes of the cluster: one connection each, opened when it is needed and again after it broke.
//!
//! Nodes of one cluster trust each other, so answers are decoded by the protocol library; a frame's length is bounded
//! all the same.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// No answer is larger: a fetch is bounded by what was asked for, or by one batch.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// Taken on the word of a length prefix; beyond it memory grows with what arrives.
const FIRST_ALLOCATION_MAX: usize = 4 << 20;
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// Why there is no answer. First question: may the request have been carried out?
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// It was never sent.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable { address: String, cause: io::Error },
    /// It was sent, and may have been carried out.
    #[error("{address} did not answer: {cause}")]
    Lost { address: String, cause: io::Error },
    /// The answer is none that we know: another version, or no node of ours.
    #[error("{address} does not speak like a node of this cluster: {reason}")]
    Misunderstood { address: String, reason: String },
}

impl PeerError {
    /// The other host answers that nobody listens at the address.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Unreachable { cause, .. } if cause.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// See the module's first lines. Requests take turns: whoever waits for long answers has a peer of its own.
#[derive(Debug)]
pub(crate) struct Peer {
    address: String,
    client_id: StrBytes,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    correlation: i32,
    frame: BytesMut,
}

impl Peer {
    /// `address` is host:port; `client_id` is how the other node's logs and metrics name us.
    pub(crate) fn new(address: String, client_id: &str) -> Self {
        Self {
            address,
            client_id: StrBytes::from_string(client_id.to_owned()),
            connection: Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request in `version` and waits for its answer, `wait` at the longest.
    pub(crate) async fn call<R: Request>(
        &self,
        request: &R,
        version: i16,
        wait: Duration,
    ) -> Result<R::Response, PeerError> {
        let mut slot = self.connection.lock().await;
        // Taken out, and put back only after a whole answer: a call that is given up leaves half an answer behind.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address).await?,
        };
        let answered =
            tokio::time::timeout(wait, connection.exchange(request, version, &self.client_id)).await;
        let frame = answered
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|cause| PeerError::Lost {
                address: self.address.clone(),
                cause,
            })?;
        let answer = connection
            .decode::<R>(frame, version)
            .map_err(|reason| PeerError::Misunderstood {
                address: self.address.clone(),
                reason,
            })?;
        *slot = Some(connection);
        Ok(answer)
    }
}

impl Connection {
    async fn open(address: &str) -> Result<Self, PeerError> {
        let unreachable = |cause| PeerError::Unreachable {
            address: address.to_owned(),
            cause,
        };
        let connected = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(address)).await;
        let stream = connected
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        Ok(Self {
            stream,
            correlation: 0,
            frame: BytesMut::new(),
        })
    }

    /// The answer's frame, without its length.
    async fn exchange<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        client_id: &StrBytes,
    ) -> io::Result<Bytes> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(client_id.clone()));
        self.frame.clear();
        self.frame.extend_from_slice(&[0; 4]);
        header
            .encode(&mut self.frame, R::header_version(version))
            .and_then(|()| request.encode(&mut self.frame, version))
            .map_err(|cause| io::Error::new(io::ErrorKind::InvalidInput, cause.to_string()))?;
        let length = i32::try_from(self.frame.len() - 4)
            .map_err(|_too_large| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&self.frame).await?;
        self.read_frame().await
    }

    async fn read_frame(&mut self) -> io::Result<Bytes> {
        let length = self.stream.read_i32().await?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| (4..=FRAME_BYTES_MAX).contains(length))
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut frame = BytesMut::with_capacity(length.min(FIRST_ALLOCATION_MAX));
        let mut rest = (&mut self.stream).take(length as u64);
        while frame.len() < length {
            if rest.read_buf(&mut frame).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(frame.freeze())
    }

    fn decode<R: Request>(&self, mut frame: Bytes, version: i16) -> Result<R::Response, String> {
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version));
        let header = header.map_err(|cause| cause.to_string())?;
        if header.correlation_id != self.correlation {
            return Err("an answer belongs to another request".to_owned());
        }
        R::Response::decode(&mut frame, version).map_err(|cause| cause.to_string())
    }
}
