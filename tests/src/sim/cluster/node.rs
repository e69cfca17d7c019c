//! The nodes of this world: brokers, a controller, an object store, and a client that stands for all of them.

use std::sync::Arc;

use uuid::Uuid;
use varve_cluster::TopicId;
use varve_cluster::replica::Durability;

use super::broker::Broker;
use super::bug::Bug;
use super::client::Client;
use super::controller::Controller;
use super::message::{Call, Files, Message, Report};
use super::store::Store;
use crate::sim::world::{Boot, Input, Machine, Output};

pub(super) const TOPIC: TopicId = TopicId::new(Uuid::from_u128(1));

/// What all nodes of a run have in common. Times in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) brokers: usize,
    pub(super) partitions: i32,
    pub(super) producers: usize,
    pub(super) durability: Durability,
    pub(super) tiered: bool,
    pub(super) session_ms: i64,
    pub(super) lag_max_ms: i64,
    pub(super) segment_bytes: u32,
    /// A sync takes up to so long.
    pub(super) sync_max_ms: i64,
    /// What is appended is written so much later, at most.
    pub(super) write_max_ms: i64,
    /// A producer makes a batch about so often.
    pub(super) produce_every_ms: i64,
    pub(super) request_timeout_ms: i64,
    /// A later acknowledgement tells the producer of earlier ones, too.
    pub(super) implicit_acks: bool,
    /// Of so many looks at a partition its leader begins a segment in one.
    pub(super) rolls_one_in: u64,
    pub(super) bug: Option<Bug>,
}

impl Setup {
    pub(super) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub(super) const fn controller(&self) -> usize {
        self.brokers
    }

    pub(super) const fn store(&self) -> usize {
        self.brokers + 1
    }

    pub(super) const fn client(&self) -> usize {
        self.brokers + 2
    }
}

#[derive(Debug)]
pub(super) enum Node {
    Broker(Box<Broker>),
    Controller(Box<Controller>),
    Store(Box<Store>),
    Client(Box<Client>),
}

impl Node {
    pub(super) fn start(
        setup: &Arc<Setup>,
        boot: &Boot<'_, Files>,
        out: &mut Vec<Output<Self>>,
    ) -> Result<Self, String> {
        let (me, now, seed) = (boot.node, boot.now, boot.seed);
        Ok(match boot.storage {
            Files::Broker { disk, marks } => {
                let mut broker = Broker::start(me, setup, (disk.clone(), marks.clone()), now, seed);
                broker.work(now, out);
                Self::Broker(Box::new(broker))
            }
            Files::Controller(state) => {
                Self::Controller(Box::new(Controller::start(me, setup, state.clone(), now, seed)))
            }
            Files::Store(objects) => Self::Store(Box::new(Store::start(me, objects.clone(), seed))),
            Files::Client => Self::Client(Box::new(Client::start(me, setup, now, seed))),
        })
    }

    pub(super) fn broker(&self) -> Option<&Broker> {
        match self {
            Self::Broker(broker) => Some(broker),
            Self::Controller(_) | Self::Store(_) | Self::Client(_) => None,
        }
    }

    pub(super) fn client(&self) -> Option<&Client> {
        match self {
            Self::Client(client) => Some(client),
            Self::Broker(_) | Self::Store(_) | Self::Controller(_) => None,
        }
    }
}

impl Machine for Node {
    type Message = Message;
    type Call = Call;
    type Storage = Files;
    type Report = Report;

    fn step(&mut self, now: i64, input: Input<Self>, out: &mut Vec<Output<Self>>) {
        match self {
            Self::Broker(broker) => {
                match input {
                    Input::Message(message) => broker.receive(now, message, out),
                    Input::Call(call) => broker.call(now, &call, out),
                    Input::Wake | Input::Synced(_) | Input::Refused { .. } => {}
                }
                broker.work(now, out);
            }
            Self::Controller(controller) => match input {
                Input::Message(message) => controller.receive(now, message, out),
                Input::Call(Call::Admin(command)) => controller.command(&command, out),
                Input::Call(_) | Input::Wake | Input::Synced(_) | Input::Refused { .. } => {
                    controller.wake(now, out)
                }
            },
            Self::Store(store) => {
                match input {
                    Input::Message(message) => store.receive(now, message),
                    Input::Call(Call::Store(faults)) => store.faults = faults,
                    Input::Call(_) | Input::Wake | Input::Synced(_) | Input::Refused { .. } => {}
                }
                store.wake(now, out);
            }
            Self::Client(client) => {
                match input {
                    Input::Message(message) => client.receive(now, message, out),
                    Input::Call(Call::Clients(pace)) => client.pace = pace,
                    Input::Call(_) | Input::Wake | Input::Synced(_) | Input::Refused { .. } => {}
                }
                client.work(now, out);
            }
        }
    }

    fn wake_at(&self) -> i64 {
        match self {
            Self::Broker(broker) => broker.wake_at(),
            Self::Controller(controller) => controller.wake_at(),
            Self::Store(store) => store.wake_at(),
            Self::Client(client) => client.wake_at(),
        }
    }
}
