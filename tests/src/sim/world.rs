//! The world: nodes, what passes between them, and one queue of what happens next in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::{Debug, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::chance::Chance;
use super::disk::{Disk, Storage};
use super::network::{Network, Weather};

/// What runs on a node: a pure state machine with the shell that carries out its effects.
pub trait Machine: Sized + Debug {
    type Message: Clone + Debug;
    /// What clients and people ask of it.
    type Call: Clone + Debug;
    type Storage: Storage;
    /// What it tells the scenario.
    type Report: Debug;

    /// `now` in milliseconds of this node's own clock.
    fn step(&mut self, now: i64, input: Input<Self>, out: &mut Vec<Output<Self>>);

    /// When it wants to be stepped again at the latest, on its own clock.
    fn wake_at(&self) -> i64;
}

#[derive(Debug)]
pub enum Input<M: Machine> {
    Wake,
    Message(M::Message),
    /// What it sent to a node came to a host on which no process listens.
    Refused {
        to: usize,
        message: M::Message,
    },
    Call(M::Call),
    /// All writes up to this number are synced.
    Synced(u64),
}

#[derive(Debug)]
pub enum Output<M: Machine> {
    Send {
        to: usize,
        message: M::Message,
    },
    Write {
        number: u64,
        write: <M::Storage as Storage>::Write,
    },
    Report(M::Report),
}

/// What a node starts with.
#[derive(Debug)]
pub struct Boot<'a, S> {
    pub node: usize,
    pub storage: &'a S,
    pub now: i64,
    /// Differs for each start of each node.
    pub seed: u64,
}

type Start<M> = Box<dyn FnMut(Boot<'_, <M as Machine>::Storage>, &mut Vec<Output<M>>) -> Result<M, String>>;

/// One event that has happened.
#[derive(Debug)]
pub enum Turn<M: Machine> {
    /// A node took an input; what it put out is on its way.
    Node {
        node: usize,
        outputs: Vec<Output<M>>,
    },
    Started {
        node: usize,
        outputs: Vec<Output<M>>,
    },
    /// The process ended: its disk failed. What it had put out before that has happened.
    Died {
        node: usize,
        outputs: Vec<Output<M>>,
    },
    /// The scenario's own.
    Timer(u64),
    /// A broken promise: the machine panicked, or would not start.
    Broken(String),
}

/// How a node's clock runs against the world's: in percent, from an offset in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Clock {
    offset: i64,
    percent: i64,
    since: i64,
}

#[derive(Debug)]
struct Node<M: Machine> {
    machine: Option<M>,
    disk: Disk<M::Storage>,
    /// Counts starts. What was meant for an earlier one is gone.
    life: u32,
    clock: Clock,
    woken_at: i64,
    paused_until: i64,
}

#[derive(Debug)]
enum Due<M: Machine> {
    Deliver {
        from: usize,
        to: usize,
        message: M::Message,
    },
    Wake {
        node: usize,
        life: u32,
        at: i64,
    },
    Synced {
        node: usize,
        life: u32,
        number: u64,
    },
    Call {
        node: usize,
        call: M::Call,
    },
    Boot {
        node: usize,
    },
    Timer(u64),
}

/// How long a sync takes, and how often a write fails.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    pub sync_max: i64,
    /// Of this many writes one fails, and ends the process. 0: none.
    pub fails_one_in: u64,
}

pub struct World<M: Machine> {
    /// Microseconds since the world began.
    now: i64,
    pub chance: Chance,
    pub network: Network,
    pub disks: DiskFaults,
    nodes: Vec<Node<M>>,
    start: Start<M>,
    /// By time, then in the order of scheduling.
    queue: BinaryHeap<Reverse<(i64, u64)>>,
    due: BTreeMap<u64, Due<M>>,
    scheduled: u64,
    events: u64,
    trace: Option<String>,
}

impl<M: Machine> World<M> {
    pub fn new(chance: Chance, weather: Weather, disks: DiskFaults, start: Start<M>, traced: bool) -> Self {
        Self {
            now: 0,
            chance,
            network: Network::new(weather),
            disks,
            nodes: vec![],
            start,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            scheduled: 0,
            events: 0,
            trace: traced.then(String::new),
        }
    }

    /// A node that starts at once.
    pub fn add_node(&mut self, content: M::Storage) -> usize {
        self.nodes.push(Node {
            machine: None,
            disk: Disk::new(content),
            life: 0,
            clock: Clock {
                offset: 1_000,
                percent: 100,
                since: 0,
            },
            woken_at: i64::MAX,
            paused_until: 0,
        });
        let node = self.nodes.len() - 1;
        self.schedule(0, Due::Boot { node });
        node
    }

    pub fn now(&self) -> i64 {
        self.now
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// `None` while it is down.
    pub fn machine(&self, node: usize) -> Option<&M> {
        self.nodes[node].machine.as_ref()
    }

    pub fn live(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| self.machine(*node).is_some())
            .collect()
    }

    /// What a crash of `node` would surely leave.
    pub fn synced(&self, node: usize) -> &M::Storage {
        self.nodes[node].disk.synced()
    }

    pub fn life(&self, node: usize) -> u32 {
        self.nodes[node].life
    }

    pub fn call(&mut self, node: usize, call: M::Call) {
        self.schedule(0, Due::Call { node, call });
    }

    pub fn timer(&mut self, after: i64, tag: u64) {
        self.schedule(after, Due::Timer(tag));
    }

    /// What is not synced may be lost, and all that was meant for this life of the node.
    pub fn crash(&mut self, node: usize) {
        self.note(|| format!("node {node} crashes"));
        let Node {
            machine,
            disk,
            life,
            woken_at,
            ..
        } = &mut self.nodes[node];
        *machine = None;
        *life += 1;
        *woken_at = i64::MAX;
        disk.crash(&mut self.chance);
    }

    pub fn boot(&mut self, node: usize, after: i64) {
        self.schedule(after, Due::Boot { node });
    }

    /// The node gets another disk. Only while it is down.
    pub fn replace_disk(&mut self, node: usize, content: M::Storage) {
        assert!(self.machine(node).is_none(), "a running node keeps its disk");
        self.note(|| format!("node {node} gets a new disk"));
        self.nodes[node].disk = Disk::new(content);
    }

    /// It does nothing for a while, and then finds everything that has arrived.
    pub fn pause(&mut self, node: usize, how_long: i64) {
        self.note(|| format!("node {node} pauses for {how_long} us"));
        self.nodes[node].paused_until = self.now + how_long;
    }

    /// From now on the node's clock runs at `percent` of the world's.
    pub fn set_clock(&mut self, node: usize, percent: i64) {
        self.note(|| format!("the clock of node {node} runs at {percent} %"));
        let offset = self.clock(node);
        let since = self.now;
        self.nodes[node].clock = Clock {
            offset,
            percent,
            since,
        };
        self.wake_again(node);
    }

    /// The node's own clock, in milliseconds.
    pub fn clock(&self, node: usize) -> i64 {
        let clock = self.nodes[node].clock;
        clock.offset + (self.now - clock.since) * clock.percent / 100_000
    }

    /// Adds a line to the trace, if there is one.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let _ = writeln!(trace, "{:>10} {}", self.now, line());
        }
    }

    pub fn take_trace(&mut self) -> String {
        self.trace.take().unwrap_or_default()
    }

    /// The next event.
    pub fn next_turn(&mut self) -> Option<Turn<M>> {
        loop {
            let Reverse((at, key)) = self.queue.pop()?;
            let due = self.due.remove(&key).expect("what is queued is due once");
            self.now = self.now.max(at);
            if let Some(turn) = self.happen(due) {
                self.events += 1;
                return Some(turn);
            }
        }
    }

    fn happen(&mut self, due: Due<M>) -> Option<Turn<M>> {
        match due {
            Due::Timer(tag) => Some(Turn::Timer(tag)),
            Due::Boot { node } => self.start_node(node),
            Due::Call { node, call } => self.input(node, Input::Call(call)),
            Due::Deliver { from, to, message } => {
                if !self.network.passes(from, to) {
                    None
                } else if self.nodes[to].machine.is_some() {
                    self.input(to, Input::Message(message))
                } else if self.network.passes(to, from) {
                    self.input(from, Input::Refused { to, message })
                } else {
                    None
                }
            }
            Due::Wake { node, life, at } => {
                let current = &mut self.nodes[node];
                if current.life != life || current.woken_at != at {
                    return None; // Another wake has taken its place.
                }
                current.woken_at = i64::MAX;
                self.input(node, Input::Wake)
            }
            Due::Synced { node, life, number } => {
                let current = &mut self.nodes[node];
                if current.life != life {
                    return None;
                }
                current.disk.sync(number);
                self.input(node, Input::Synced(number))
            }
        }
    }

    fn start_node(&mut self, node: usize) -> Option<Turn<M>> {
        if self.nodes[node].machine.is_some() {
            return None;
        }
        self.nodes[node].life += 1;
        let now = self.clock(node);
        let seed = self.chance.draw();
        self.note(|| format!("node {node} starts"));
        let storage = self.nodes[node].disk.synced();
        let boot = Boot {
            node,
            storage,
            now,
            seed,
        };
        let mut outputs = vec![];
        let started = catch_unwind(AssertUnwindSafe(|| (self.start)(boot, &mut outputs)));
        match started {
            Ok(Ok(machine)) => {
                self.nodes[node].machine = Some(machine);
                let died = self.carry_out(node, &mut outputs);
                Some(if died {
                    Turn::Died { node, outputs }
                } else {
                    Turn::Started { node, outputs }
                })
            }
            Ok(Err(refused)) => Some(Turn::Broken(format!("node {node} does not start: {refused}"))),
            Err(panic) => Some(Turn::Broken(format!(
                "node {node} panics at its start: {}",
                said(&*panic)
            ))),
        }
    }

    fn input(&mut self, node: usize, input: Input<M>) -> Option<Turn<M>> {
        let paused = self.nodes[node].paused_until;
        if paused > self.now {
            self.postpone(node, input, paused);
            return None;
        }
        let now = self.clock(node);
        let mut machine = self.nodes[node].machine.take()?;
        self.note(|| format!("node {node} <- {input:?}"));
        let mut outputs = vec![];
        let stepped = catch_unwind(AssertUnwindSafe(|| machine.step(now, input, &mut outputs)));
        if let Err(panic) = stepped {
            return Some(Turn::Broken(format!("node {node} panics: {}", said(&*panic))));
        }
        self.nodes[node].machine = Some(machine);
        let died = self.carry_out(node, &mut outputs);
        Some(if died {
            Turn::Died { node, outputs }
        } else {
            Turn::Node { node, outputs }
        })
    }

    fn postpone(&mut self, node: usize, input: Input<M>, until: i64) {
        let life = self.nodes[node].life;
        let due = match input {
            Input::Wake => {
                self.nodes[node].woken_at = until;
                Due::Wake {
                    node,
                    life,
                    at: until,
                }
            }
            Input::Message(message) => Due::Deliver {
                from: node,
                to: node,
                message,
            },
            // It finds out when it runs again.
            Input::Refused { to, message } => Due::Deliver {
                from: node,
                to,
                message,
            },
            Input::Call(call) => Due::Call { node, call },
            Input::Synced(number) => Due::Synced { node, life, number },
        };
        self.schedule(until - self.now, due);
    }

    /// True if a write failed, and the process with it. What came after that write is taken out of `outputs`.
    fn carry_out(&mut self, node: usize, outputs: &mut Vec<Output<M>>) -> bool {
        for (place, output) in outputs.iter().enumerate() {
            self.note(|| format!("node {node} -> {output:?}"));
            match output {
                Output::Report(_) => {}
                Output::Send { to, message } => self.send(node, *to, message),
                Output::Write { number, write } => {
                    let fails = self.disks.fails_one_in;
                    let disk = &mut self.nodes[node].disk;
                    disk.write(*number, write.clone());
                    if fails > 0 && self.chance.one_in(fails) {
                        self.crash(node);
                        outputs.truncate(place);
                        return true;
                    }
                    let takes = 50 + self.chance.between(0..self.disks.sync_max.max(1));
                    let Node { disk, life, .. } = &mut self.nodes[node];
                    let (after, life) = (disk.synced_at(self.now, takes) - self.now, *life);
                    self.schedule(
                        after,
                        Due::Synced {
                            node,
                            life,
                            number: *number,
                        },
                    );
                }
            }
        }
        self.wake_again(node);
        false
    }

    fn send(&mut self, from: usize, to: usize, message: &M::Message) {
        if to < self.nodes.len() {
            for after in self.network.fate(from, to, &mut self.chance) {
                let message = message.clone();
                self.schedule(after, Due::Deliver { from, to, message });
            }
        }
    }

    fn wake_again(&mut self, node: usize) {
        let now = self.clock(node);
        let Node {
            machine: Some(machine),
            clock,
            woken_at,
            life,
            ..
        } = &mut self.nodes[node]
        else {
            return;
        };
        let wait = machine.wake_at().saturating_sub(now).clamp(1, 3_600_000);
        let at = self.now + (wait * 100_000 / clock.percent.max(1)).max(1) + 1;
        if at < *woken_at || *woken_at <= self.now {
            *woken_at = at;
            let (life, node) = (*life, node);
            self.schedule(at - self.now, Due::Wake { node, life, at });
        }
    }

    fn schedule(&mut self, after: i64, due: Due<M>) {
        self.scheduled += 1;
        self.due.insert(self.scheduled, due);
        self.queue
            .push(Reverse((self.now + after.max(0), self.scheduled)));
    }
}

/// The words of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().cloned();
    words
        .or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()))
        .unwrap_or_default()
}
