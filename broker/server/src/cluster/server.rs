//! The controller listener: answers what other nodes ask, one question of a connection after the other.
//!
//! It stands apart from the client listeners, because this broker can serve clients only after the quorum has
//! registered it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, EnvelopeRequest, EnvelopeResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::{Membership, Question, Reply, decode, encode};
use crate::metadata::replicated::NotPlaced;

/// A piece of a snapshot, or as many commands as one fetch carries, with room to spare.
const FRAME_BYTES_MAX: usize = 64 << 20;
const FIRST_ALLOCATION_MAX: usize = 1 << 20;
/// Nodes have a few connections each.
const CONNECTIONS_MAX: usize = 256;
/// UNSUPPORTED_VERSION: what is asked is nothing we know.
const UNSUPPORTED_VERSION: i16 = 35;
const ENVELOPE_VERSION: i16 = 0;

/// Accepts until told to stop.
pub(crate) async fn serve(
    listener: std::net::TcpListener,
    membership: Arc<Membership>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (socket, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, "the controller listener has no room for another connection");
            continue;
        };
        let (membership, mut stop) = (Arc::clone(&membership), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            let outcome = tokio::select! {
                outcome = converse(socket, peer, &membership) => outcome,
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%peer, %error, "connection to the controller listener closed");
                }
                Ok(()) | Err(_) => {}
            }
        });
    }
}

async fn converse(mut socket: TcpStream, peer: SocketAddr, membership: &Membership) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut out = BytesMut::new();
    while let Some(mut frame) = read_frame(&mut socket).await? {
        let not_ours = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no question of a node. peer={peer}"),
            )
        };
        let key = frame.get(..2).map(|key| i16::from_be_bytes([key[0], key[1]]));
        if key != Some(ApiKey::Envelope as i16) {
            return Err(not_ours());
        }
        let header = RequestHeader::decode(&mut frame, 2).map_err(|_malformed| not_ours())?;
        let request =
            EnvelopeRequest::decode(&mut frame, ENVELOPE_VERSION).map_err(|_malformed| not_ours())?;
        let reply = match decode::<Question>(&request.request_data) {
            Some(question) => encode(&answer(membership, question).await),
            None => None,
        };
        let response = EnvelopeResponse::default()
            .with_error_code(if reply.is_some() { 0 } else { UNSUPPORTED_VERSION })
            .with_response_data(reply.map(Bytes::from));
        out.clear();
        out.extend_from_slice(&[0; 4]);
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut out, 1)
            .and_then(|()| response.encode(&mut out, ENVELOPE_VERSION))
            .map_err(io::Error::other)?;
        let length = i32::try_from(out.len() - 4).map_err(io::Error::other)?;
        out[..4].copy_from_slice(&length.to_be_bytes());
        socket.write_all(&out).await?;
    }
    Ok(())
}

/// `None` when the peer closed between questions.
async fn read_frame(socket: &mut TcpStream) -> io::Result<Option<Bytes>> {
    let length = match socket.read_i32().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut frame = BytesMut::with_capacity(length.min(FIRST_ALLOCATION_MAX));
    let mut rest = socket.take(length as u64);
    while frame.len() < length {
        if rest.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(frame.freeze()))
}

async fn answer(membership: &Membership, question: Question) -> Reply {
    match question {
        Question::Quorum(envelope) => Reply::Quorum(membership.quorum().receive(envelope).await),
        Question::Place(command) => Reply::Place(match serde_json::from_slice(&command) {
            Ok(command) => membership.quorum().place(command).await,
            Err(error) => Err(NotPlaced::Refused(error.to_string())),
        }),
        Question::Heartbeat(beat) => Reply::Heartbeat(membership.hear(beat)),
        Question::Logs(keys) => Reply::Logs(membership.own_logs(&keys)),
        Question::Describe => Reply::Describe(membership.quorum().describe()),
    }
}
