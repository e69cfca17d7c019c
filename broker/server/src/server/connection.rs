//! One client connection: frames in, answers out in request order.
//!
//! Produce requests are appended as they are parsed and may wait for their acknowledgement side by side
//! ([`PIPELINE_MAX`]); every other request takes its turn after those before it are answered, as in Kafka.
//! Memory grows only with bytes that have arrived, never with a length somebody announced, and all connections together
//! stay below a limit (`memory`).

use super::memory::{OVERDRAFT_PATIENCE, Share};
use super::send;
use crate::api::{Answer, Connected, Request};
use crate::broker::Broker;
use crate::shard::Shard;
use crate::wire::records::Part;
use crate::wire::{self, Api};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Produce requests of one connection that may wait for their acknowledgement at the same time.
/// Kafka's own clients keep at most five in flight; librdkafka's default is a million.
const PIPELINE_MAX: usize = 64;
/// Request bytes of one connection that may wait so; one more request is always let in.
const PIPELINE_BYTES_MAX: usize = 16 << 20;
/// How far the read buffer grows ahead of the bytes that have arrived.
const READ_AHEAD: usize = 256 << 10;

/// Why a connection was closed by us.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    /// A length prefix outside 0..=socket.request.max.bytes.
    #[error("frame length is not possible. length={0}, socket.request.max.bytes={1}")]
    FrameLength(i32, usize),
    /// The frame is not a request we speak.
    #[error("not a request: {0}")]
    Malformed(String),
    /// As the decoder says it.
    #[error("not a request: {0}")]
    Undecodable(#[from] wire::message::Error),
    /// An `acks=0` produce request failed; closing is the only way to tell (as Kafka does).
    #[error("a produce request with acks=0 failed: {0:?}")]
    UnacknowledgedFailure(wire::ErrorCode),
    /// Request memory is used up, and this connection kept the others waiting: the rest of its frame came too slowly,
    /// or its request waited too long for its answer.
    #[error("queued.max.request.bytes is used up and a request kept the others waiting")]
    Stalled,
    /// Nothing was heard for connections.max.idle.ms.
    #[error("idle")]
    Idle,
    /// The peer or the network went away.
    #[error("connection lost: {0}")]
    Lost(#[from] std::io::Error),
}

/// An answer that waits, and how many bytes its request had.
struct Pending {
    answer: Pin<Box<dyn Future<Output = Vec<Part>>>>,
    asked: Asked,
    bytes: usize,
}

/// What was asked, and when the whole of it was here.
#[derive(Clone, Copy)]
struct Asked {
    api: Api,
    at: Instant,
}

/// Serves one connection until it ends. `Ok` when the peer closed it between requests.
pub(crate) async fn serve(
    broker: Arc<Broker>,
    shard: Rc<Shard>,
    socket: TcpStream,
    (listener, number): (usize, u64),
) -> Result<(), Closed> {
    let idle_timeout = broker.config.idle_timeout;
    let connected = Connected {
        listener,
        peer: socket.peer_addr()?,
        number,
    };
    let mut connection = Connection {
        socket,
        broker: Arc::clone(&broker),
        read: BytesMut::new(),
        held: Share::new(&broker.request_memory),
    };
    let mut pending: VecDeque<Pending> = VecDeque::new();
    loop {
        let frame = tokio::select! {
            biased;
            (answer, asked) = head(&mut pending), if !pending.is_empty() => {
                pending.pop_front();
                connection.answer(&answer, asked).await?;
                continue;
            }
            frame = connection.next_frame(broker.config.request_bytes_max, idle_timeout), if has_room(&pending) => frame?,
        };
        let Some(frame) = frame else { return Ok(()) };
        let Frame {
            bytes: frame,
            overdrawn,
        } = frame;
        let bytes = frame.len();
        let at = Instant::now();
        let request = Request::parse(frame, &connected)?;
        let asked = Asked {
            api: request.api(),
            at,
        };
        if request.is_produce() {
            match request.produce(&broker, &shard)? {
                Answer::Nothing => connection.answered(asked),
                Answer::Later(answer) => pending.push_back(Pending { answer, asked, bytes }),
            }
            continue;
        }
        while let Some(earlier) = pending.pop_front() {
            connection.answer(&earlier.answer.await, earlier.asked).await?;
        }
        // A request may wait for long: a member for its group, a fetch for news. Not with what all others wait for.
        let answer = if overdrawn {
            let handled = tokio::time::timeout(OVERDRAFT_PATIENCE, request.handle(&broker)).await;
            handled.map_err(|_elapsed| Closed::Stalled)??
        } else {
            request.handle(&broker).await?
        };
        connection.answer(&answer, asked).await?;
    }
}

fn has_room(pending: &VecDeque<Pending>) -> bool {
    pending.len() < PIPELINE_MAX
        && pending.iter().map(|waiting| waiting.bytes).sum::<usize>() < PIPELINE_BYTES_MAX
}

async fn head(pending: &mut VecDeque<Pending>) -> (Vec<Part>, Asked) {
    match pending.front_mut() {
        Some(first) => (first.answer.as_mut().await, first.asked),
        None => std::future::pending().await,
    }
}

/// A whole request, without its length.
struct Frame {
    bytes: Bytes,
    /// It came although memory was used up, and keeps everybody else from doing the same until it is gone.
    overdrawn: bool,
}

struct Connection {
    socket: TcpStream,
    broker: Arc<Broker>,
    read: BytesMut,
    /// What `read` takes of the memory all connections share.
    held: Share,
}

impl Connection {
    /// The next whole frame; `None` when the peer closed between frames. May be dropped and
    /// called again without losing bytes.
    async fn next_frame(&mut self, bytes_max: usize, idle: Duration) -> Result<Option<Frame>, Closed> {
        let deadline = Instant::now() + idle;
        loop {
            if let Some(frame) = self.take_frame(bytes_max)? {
                return Ok(Some(frame));
            }
            if self.held.is_stalled() {
                return Err(Closed::Stalled);
            }
            tokio::select! {
                biased;
                readable = self.socket.readable() => readable?,
                () = self.held.stalled() => return Err(Closed::Stalled),
                () = tokio::time::sleep_until(deadline) => return Err(Closed::Idle),
            }
            tokio::time::timeout_at(deadline, self.held.room())
                .await
                .map_err(|_elapsed| Closed::Stalled)?;
            match self.socket.try_read_buf(&mut self.read) {
                Ok(0) if self.read.is_empty() => return Ok(None),
                Ok(0) => {
                    return Err(Closed::Malformed(
                        "the connection ended inside a frame".to_owned(),
                    ));
                }
                Ok(bytes) => self.held.grow(bytes),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// A frame that has arrived whole; otherwise makes room for more of it.
    fn take_frame(&mut self, bytes_max: usize) -> Result<Option<Frame>, Closed> {
        let Some(prefix) = self.read.first_chunk::<4>() else {
            self.read.reserve(READ_AHEAD.min(4096));
            return Ok(None);
        };
        let announced = i32::from_be_bytes(*prefix);
        let Some(length) = usize::try_from(announced)
            .ok()
            .filter(|length| *length <= bytes_max)
        else {
            return Err(Closed::FrameLength(announced, bytes_max));
        };
        let missing = (4 + length).saturating_sub(self.read.len());
        if missing > 0 {
            // As much again as has come, so that a lie costs its teller: no memory without bytes.
            self.read.reserve(missing.min(self.read.len().max(READ_AHEAD)));
            return Ok(None);
        }
        self.read.advance(4);
        let frame = self.read.split_to(length).freeze();
        Ok(Some(Frame {
            overdrawn: self.held.is_overdrawn(),
            bytes: self.held.cut(frame, 4 + length),
        }))
    }

    async fn answer(&self, parts: &[Part], asked: Asked) -> Result<(), Closed> {
        send::all(&self.socket, parts).await?;
        self.answered(asked);
        Ok(())
    }

    fn answered(&self, asked: Asked) {
        let latency = &self.broker.metrics.latency;
        latency.observe(asked.api, asked.at.elapsed());
    }
}
