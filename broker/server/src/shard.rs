//! One data-plane thread: a pinned current-thread runtime, the connections dealt to it, and their write turns.
//!
//! Requests append to partitions under a short lock and mark them; when every connection that was ready has had
//! its turn, one `pwritev` per touched segment carries all of it to disk.

use crate::broker::Broker;
use crate::partition::Partition;
use crate::server::connection::{self, Closed};
use std::cell::RefCell;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::LocalSet;

/// Accepted connections that may wait for their shard.
const HAND_OVER_MAX: usize = 1024;

/// What a shard's own tasks share.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    touched: RefCell<Vec<Arc<Partition>>>,
    turn: Notify,
}

impl Shard {
    /// The partition has bytes to be written at the end of this turn.
    pub(crate) fn touch(&self, partition: &Arc<Partition>) {
        let mut touched = self.touched.borrow_mut();
        if !touched.last().is_some_and(|last| Arc::ptr_eq(last, partition)) {
            touched.push(Arc::clone(partition));
        }
        self.turn.notify_one();
    }

    /// Runs after the tasks that were ready with it: whatever they appended goes out together.
    async fn write_turns(&self) {
        loop {
            self.turn.notified().await;
            let touched = std::mem::take(&mut *self.touched.borrow_mut());
            for partition in touched {
                partition.write_turn();
            }
        }
    }
}

/// A running shard, seen from outside.
#[derive(Debug)]
pub(crate) struct ShardHandle {
    connections: mpsc::Sender<(TcpStream, usize)>,
}

impl ShardHandle {
    /// Deals a connection of the given listener to this shard.
    pub(crate) async fn hand_over(&self, client: TcpStream, listener: usize) {
        // An error means the shard has stopped: the node is going down and the client will see its socket close.
        let _ = self.connections.send((client, listener)).await;
    }
}

/// Starts shard `number`. It ends when `stop` turns true.
pub(crate) fn start(
    number: usize,
    broker: Arc<Broker>,
    stop: watch::Receiver<bool>,
) -> std::io::Result<(ShardHandle, JoinHandle<()>)> {
    let (connections, accepted) = mpsc::channel(HAND_OVER_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name(format!("shard-{number}"))
        .spawn(move || {
            pin(number);
            let tasks = LocalSet::new();
            runtime.block_on(tasks.run_until(run(broker, accepted, stop)));
        })?;
    Ok((ShardHandle { connections }, thread))
}

async fn run(
    broker: Arc<Broker>,
    mut accepted: mpsc::Receiver<(TcpStream, usize)>,
    mut stop: watch::Receiver<bool>,
) {
    let shard = Rc::new(Shard::default());
    let writer = Rc::clone(&shard);
    tokio::task::spawn_local(async move { writer.write_turns().await });
    loop {
        let (client, listener) = tokio::select! {
            Some(next) = accepted.recv() => next,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (broker, shard) = (Arc::clone(&broker), Rc::clone(&shard));
        tokio::task::spawn_local(async move { converse(broker, shard, client, listener).await });
    }
    // What was appended before the stop is written; its acknowledgements get a moment to leave.
    for partition in std::mem::take(&mut *shard.touched.borrow_mut()) {
        partition.write_turn();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn converse(broker: Arc<Broker>, shard: Rc<Shard>, client: TcpStream, listener: usize) {
    let peer = client.peer_addr().ok();
    let outcome = match tokio::net::TcpStream::from_std(client) {
        Ok(socket) => {
            let open = broker.metrics.connection();
            connection::serve(Arc::clone(&broker), shard, socket, (listener, open.number)).await
        }
        Err(e) => Err(Closed::Lost(e)),
    };
    match outcome {
        Ok(()) | Err(Closed::Lost(_) | Closed::Idle) => {}
        Err(reason) => broker.complaints.say(broker.clock.now(), peer, &reason),
    }
}

/// A shard keeps to its core: its partitions' state stays in that core's cache.
fn pin(number: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        let usable: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|core| allowed.is_set(*core))
            .collect();
        if usable.len() > 1 {
            cores.set(usable[number % usable.len()]);
            // Not being allowed to pin costs a little speed, nothing else.
            let _ = rustix::thread::sched_setaffinity(None, &cores);
        }
    }
}
