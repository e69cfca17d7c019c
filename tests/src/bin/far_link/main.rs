//! A far-away link to an S3 server: it stands in front of one on this machine, holds back the first byte of every
//! answer, gives every connection a top speed, counts requests by method and kind, and breaks them when told to.
//!
//! ```text
//! far_link --listen 127.0.0.1:9001 --upstream 127.0.0.1:9000 --control 127.0.0.1:9002 --latency-ms 30 --jitter-ms 10 --mbps 80
//! curl 127.0.0.1:9002/counts                                   what passed since the start or the last reset
//! curl 127.0.0.1:9002/reset                                    the same, then all is 0
//! curl '127.0.0.1:9002/set?latency_ms=0&jitter_ms=0&mbps=0'    0 turns each off
//! curl '127.0.0.1:9002/fault?kind=lost_answer&method=PUT&every=3&times=10'
//! ```
//!
//! It shares two cores with what it measures: bodies go from socket to socket through a pipe and are never looked at.
//! Heads are passed on byte for byte, so signatures stay valid. One upstream connection per client connection.
//! Plain HTTP/1.1 only. A failing connection is dropped: that, too, is what far links do.

mod control;
mod counts;
mod http;
mod shape;

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use crate::counts::Counts;
use crate::http::{Body, Head, Lane};
use crate::shape::{Fault, Shape};

/// A connection on which nothing moves for so long is given up, so that threads cannot pile up.
const IDLE_MAX: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    upstream: SocketAddr,
    /// Where counts are read and the link is changed while it runs.
    #[arg(long)]
    control: SocketAddr,
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// The latency varies by up to so much either way.
    #[arg(long, default_value_t = 0)]
    jitter_ms: u64,
    /// Top speed of one connection in 10^6 bytes a second, each way.
    #[arg(long, default_value_t = 0)]
    mbps: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let shape = Arc::new(Shape::new(
        arguments.latency_ms,
        arguments.jitter_ms,
        arguments.mbps,
    ));
    let counts = Arc::new(Counts::default());
    let listener = TcpListener::bind(arguments.listen)?;
    control::serve(arguments.control, Arc::clone(&shape), Arc::clone(&counts))?;
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        let (shape, counts) = (Arc::clone(&shape), Arc::clone(&counts));
        std::thread::spawn(move || {
            // Whatever went wrong, both ends see a closed connection.
            let _ = serve(&client, arguments.upstream, &shape, &counts);
        });
    }
    Ok(())
}

fn serve(client: &TcpStream, upstream: SocketAddr, shape: &Shape, counts: &Counts) -> anyhow::Result<()> {
    counts.connected();
    let store = TcpStream::connect(upstream)?;
    for side in [client, &store] {
        side.set_nodelay(true)?;
        side.set_read_timeout(Some(IDLE_MAX))?;
        side.set_write_timeout(Some(IDLE_MAX))?;
    }
    let mut up = Lane::new(client, &store)?;
    let mut down = Lane::new(&store, client)?;
    while exchange(&mut up, &mut down, shape, counts)? {}
    Ok(())
}

/// Passes one request on and its answer back; says whether the connections can carry another.
fn exchange(up: &mut Lane<'_>, down: &mut Lane<'_>, shape: &Shape, counts: &Counts) -> anyhow::Result<bool> {
    let Some(request) = up.read_head()? else {
        return Ok(false);
    };
    let passage = counts.begin(request.kind());
    match shape.fault_for(request.method()) {
        Some(Fault::Refuse) => {
            socket2::SockRef::from(up.from).set_linger(Some(Duration::ZERO))?;
            return Ok(false);
        }
        Some(Fault::Unavailable) => {
            up.discard(request.body(None))?;
            down.to.write_all(http::SLOW_DOWN)?;
            passage.end(503, 0, 0);
            return Ok(true);
        }
        Some(Fault::Hang) => {
            up.discard(request.body(None))?;
            // Ends when the client gives up, or when it has waited longer than anybody should.
            let _ = up.read_head();
            return Ok(false);
        }
        Some(Fault::LostAnswer) => {
            send(up, &request, 0)?;
            let answer = final_head(down)?;
            down.discard(answer.body(Some(&request)))?;
            passage.end(0, 0, 0);
            return Ok(false);
        }
        Some(Fault::Truncate) => {
            send(up, &request, 0)?;
            let answer = final_head(down)?;
            down.pass_head(&answer)?;
            if let Body::Exactly(length) = answer.body(Some(&request)) {
                down.pass(Body::Exactly(length / 2), 0)?;
            }
            down.to.shutdown(Shutdown::Both)?;
            passage.end(0, 0, 0);
            return Ok(false);
        }
        None => {}
    }
    let sent = send(up, &request, shape.bytes_per_second())?;
    let answer = final_head(down)?;
    shape.first_byte_delay(Instant::now());
    down.pass_head(&answer)?;
    let body = answer.body(Some(&request));
    let received = down.pass(body, shape.bytes_per_second())?;
    passage.end(answer.status(), sent, received);
    Ok(!request.closes() && !answer.closes() && !matches!(body, Body::UntilClosed))
}

fn send(up: &mut Lane<'_>, request: &Head, speed: u64) -> anyhow::Result<u64> {
    up.pass_head(request)?;
    if request.expects_continue() {
        // Answered here; the store's own is dropped by `final_head`.
        let mut client = up.from;
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    up.pass(request.body(None), speed)
}

fn final_head(down: &mut Lane<'_>) -> anyhow::Result<Head> {
    loop {
        let Some(answer) = down.read_head()? else {
            anyhow::bail!("the store closed instead of answering")
        };
        if answer.status() >= 200 {
            return Ok(answer);
        }
    }
}
