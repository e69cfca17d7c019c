//! Accepts connections and deals them out to the shards in turn.

use crate::config::Listener;
use crate::shard::ShardHandle;
use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Connections the kernel may hold for us while we accept.
const BACKLOG: i32 = 1024;

/// A listener that has its port.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: TcpListener,
    pub(crate) address: SocketAddr,
}

/// Takes the port, before anything else is started, so that an occupied one is told at once.
pub(crate) fn bind(listener: &Listener) -> anyhow::Result<Bound> {
    let host = if listener.host.is_empty() {
        "0.0.0.0"
    } else {
        &listener.host
    };
    let place = format!("{}://{host}:{}", listener.name, listener.port);
    let address = (host, listener.port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| {
            format!("the listener's host has no address: correct `listeners`. listener={place}")
        })?;
    let take = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let socket = take().with_context(|| {
        format!("the listener's address cannot be taken: stop what holds it or choose another port. listener={place}")
    })?;
    let address = socket.local_addr()?;
    Ok(Bound { socket, address })
}

/// Accepts until told to stop. Runs on any runtime; the connection's work happens on its shard.
pub(crate) async fn accept(
    bound: Bound,
    listener: usize,
    shards: Arc<[ShardHandle]>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let socket = tokio::net::TcpListener::from_std(bound.socket)?;
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        match accepted {
            Ok((client, _)) => {
                let client = client.into_std()?;
                client.set_nodelay(true)?;
                turn += 1;
                shards[turn % shards.len()].hand_over(client, listener).await;
            }
            Err(error) => {
                // Out of descriptors, mostly: the connections that exist go on; try again soon.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
