//! One node of the quorum scenario: a Raft replica, its files, and a state machine that remembers what it was given.

use bytes::Bytes;
use uuid::Uuid;
use varve_cluster::raft::{
    Answer, Bug, Config, Effect, Entry, Envelope, Event, Node, NodeId, Payload, Position, ReplicaKey,
    RoleName, Snapshot, Soundness, Stored, Ticket, VoterSet, Write,
};
use varve_log::{LeaderEpoch, Offset};

use crate::sim::chance::Chance;
use crate::sim::disk::Storage;
use crate::sim::world::{Boot, Input, Machine, Output};

/// What may be wrong with the replicas of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sabotage(pub(super) Option<Bug>);

impl Soundness for Sabotage {
    fn has(&self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}

/// The files of a replica.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) directory: Uuid,
    pub(super) stored: Stored,
}

impl Files {
    /// The voters that a replica would start with.
    pub(super) fn voters(&self) -> VoterSet {
        let named = self
            .stored
            .entries
            .iter()
            .rev()
            .find_map(|entry| match &entry.payload {
                Payload::LeaderChange { voters, .. } | Payload::Voters(voters) => Some(voters),
                Payload::Command(_) => None,
            });
        named.unwrap_or(&self.stored.snapshot.voters).clone()
    }

    /// Whether all below `position` is here, in the snapshot or in the log.
    pub(super) fn holds(&self, position: Position) -> bool {
        let in_snapshot = position.end <= self.stored.snapshot.position.end;
        let above = position.end.since(self.stored.log_start.end);
        let before = usize::try_from(above - 1)
            .ok()
            .and_then(|at| self.stored.entries.get(at));
        in_snapshot || before.is_some_and(|entry| entry.epoch == position.epoch)
    }
}

impl Storage for Files {
    type Write = Write;

    fn file(write: &Write) -> usize {
        match write {
            Write::QuorumState(_) => 0,
            Write::Append { .. }
            | Write::Truncate { .. }
            | Write::DropPrefix { .. }
            | Write::Reset { .. } => 1,
            Write::Snapshot(_) => 2,
        }
    }

    fn apply(&mut self, write: &Write) {
        let stored = &mut self.stored;
        let at = |offset: Offset| usize::try_from(offset.since(stored.log_start.end)).unwrap_or(0);
        match write {
            Write::QuorumState(quorum) => stored.quorum = *quorum,
            Write::Append { base, entries } => {
                assert_eq!(
                    at(*base),
                    stored.entries.len(),
                    "a gap or an overlap in the log file"
                );
                stored.entries.extend(entries.iter().cloned());
            }
            Write::Truncate { end } => stored.entries.truncate(at(*end)),
            Write::DropPrefix { start } => {
                let gone = at(start.end).min(stored.entries.len());
                stored.entries.drain(..gone);
                stored.log_start = *start;
            }
            Write::Reset { start } => {
                stored.entries.clear();
                stored.log_start = *start;
            }
            Write::Snapshot(snapshot) => stored.snapshot = snapshot.clone(),
        }
    }

    fn tear(&mut self, write: &Write, chance: &mut Chance) {
        if let Write::Append { base, entries } = write {
            let whole = chance.index(entries.len() + 1);
            let entries = entries[..whole].to_vec();
            self.apply(&Write::Append { base: *base, entries });
        }
    }
}

/// What clients and administrators ask.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Propose { ticket: Ticket, command: u64 },
    Confirm { ticket: Ticket },
    AddVoter { ticket: Ticket, voter: ReplicaKey },
    RemoveVoter { ticket: Ticket, voter: ReplicaKey },
    Resign,
}

/// What the oracle is told.
#[derive(Clone, Debug)]
pub(super) enum Report {
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// With what is newly applied, and the epoch and the voters it was found committed under.
    Committed {
        high_watermark: Offset,
        entries: Vec<(Offset, Entry)>,
        epoch: LeaderEpoch,
        voters: VoterSet,
    },
    Became {
        role: RoleName,
        epoch: LeaderEpoch,
    },
    /// An image was loaded in place of the state: what it says has been applied.
    Loaded {
        position: Position,
        digest: u64,
    },
}

/// How the replicas of a run are set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) sabotage: Sabotage,
    /// Commands between snapshots; 0: none are taken.
    pub(super) snapshot_every: i64,
    pub(super) image_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) node: Node<Sabotage>,
    pub(super) key: ReplicaKey,
    setup: Setup,
    /// Everything below is in `digest`.
    pub(super) applied: Offset,
    pub(super) digest: u64,
}

impl Replica {
    pub(super) fn start(
        setup: &Setup,
        boot: &Boot<'_, Files>,
        out: &mut Vec<Output<Self>>,
    ) -> Result<Self, String> {
        let files = boot.storage;
        let key = key_of(boot.node, files.directory);
        let config = Config {
            me: key,
            seed: boot.seed,
            ..setup.config.clone()
        };
        let mut effects = vec![];
        let stored = files.stored.clone();
        let (applied, digest) = image_read(&stored.snapshot);
        let node = Node::with_soundness(config, stored, setup.sabotage, boot.now, &mut effects);
        let node = node.map_err(|gap| gap.to_string())?;
        let setup = setup.clone();
        let mut replica = Self {
            node,
            key,
            setup,
            applied,
            digest,
        };
        replica.carry_out(boot.now, effects, out);
        Ok(replica)
    }

    fn carry_out(&mut self, now: i64, effects: Vec<Effect>, out: &mut Vec<Output<Self>>) {
        for effect in effects {
            match effect {
                Effect::Write { number, write } => out.push(Output::Write { number, write }),
                Effect::Send(message) => out.push(Output::Send {
                    to: index_of(message.to),
                    message,
                }),
                Effect::Committed { high_watermark } => {
                    out.push(Output::Report(self.apply(high_watermark)));
                }
                Effect::Load(snapshot) => {
                    (self.applied, self.digest) = image_read(&snapshot);
                    let (position, digest) = (snapshot.position, self.digest);
                    out.push(Output::Report(Report::Loaded { position, digest }));
                }
                Effect::Became { role, epoch, .. } => {
                    out.push(Output::Report(Report::Became { role, epoch }))
                }
                Effect::Answer { ticket, answer } => {
                    out.push(Output::Report(Report::Answer { ticket, answer }))
                }
            }
        }
        let since = self.applied.since(self.node.snapshot().position.end);
        if self.setup.snapshot_every > 0 && since >= self.setup.snapshot_every {
            self.take_snapshot(now, out);
        }
    }

    fn apply(&mut self, high_watermark: Offset) -> Report {
        let mut entries = vec![];
        for (offset, entry) in self.node.entries(self.applied, high_watermark) {
            assert_eq!(offset, self.applied, "entries are applied one after the other");
            self.digest = digest(self.digest, entry);
            self.applied = offset.plus(1);
            entries.push((offset, entry.clone()));
        }
        let (epoch, voters) = (self.node.epoch(), self.node.voters().clone());
        Report::Committed {
            high_watermark,
            entries,
            epoch,
            voters,
        }
    }

    fn take_snapshot(&mut self, now: i64, out: &mut Vec<Output<Self>>) {
        let image = image(self.applied, self.digest, self.setup.image_bytes);
        let event = Event::SnapshotTaken {
            end: self.applied,
            image,
        };
        let mut effects = vec![];
        self.node.step(now, event, &mut effects);
        // A snapshot being written is one less to take, so this ends.
        for effect in effects {
            match effect {
                Effect::Write { number, write } => out.push(Output::Write { number, write }),
                Effect::Send(message) => out.push(Output::Send {
                    to: index_of(message.to),
                    message,
                }),
                Effect::Became { role, epoch, .. } => {
                    out.push(Output::Report(Report::Became { role, epoch }))
                }
                Effect::Answer { ticket, answer } => {
                    out.push(Output::Report(Report::Answer { ticket, answer }))
                }
                Effect::Committed { high_watermark } => {
                    out.push(Output::Report(self.apply(high_watermark)));
                }
                Effect::Load(_) => unreachable!("an own snapshot is not loaded"),
            }
        }
    }
}

impl Machine for Replica {
    type Message = Envelope;
    type Call = Call;
    type Storage = Files;
    type Report = Report;

    fn step(&mut self, now: i64, input: Input<Self>, out: &mut Vec<Output<Self>>) {
        let event = match input {
            Input::Wake => Event::Tick,
            Input::Message(envelope) => Event::Received(envelope),
            Input::Refused { message, .. } => Event::Unanswered {
                to: message.to,
                id: message.id,
                refused: true,
            },
            Input::Synced(number) => Event::Written(number),
            Input::Call(Call::Propose { ticket, command }) => Event::Propose {
                ticket,
                command: Bytes::copy_from_slice(&command.to_le_bytes()),
            },
            Input::Call(Call::Confirm { ticket }) => Event::Confirm { ticket },
            Input::Call(Call::AddVoter { ticket, voter }) => Event::AddVoter {
                ticket,
                voter,
                address: "simulated:9093".into(),
            },
            Input::Call(Call::RemoveVoter { ticket, voter }) => Event::RemoveVoter { ticket, voter },
            Input::Call(Call::Resign) => Event::Resign,
        };
        let mut effects = vec![];
        self.node.step(now, event, &mut effects);
        self.carry_out(now, effects, out);
    }

    fn wake_at(&self) -> i64 {
        self.node.wake_at()
    }
}

pub(super) fn key_of(node: usize, directory: Uuid) -> ReplicaKey {
    let id = NodeId::new(i32::try_from(node).expect("few nodes"));
    ReplicaKey { id, directory }
}

/// Far away when it is nobody here.
pub(super) fn index_of(id: NodeId) -> usize {
    usize::try_from(id.value()).unwrap_or(usize::MAX)
}

/// The number a command was proposed under.
pub(super) fn command_of(payload: &Payload) -> Option<u64> {
    match payload {
        Payload::Command(bytes) => bytes.as_ref().try_into().ok().map(u64::from_le_bytes),
        Payload::LeaderChange { .. } | Payload::Voters(_) => None,
    }
}

/// A log's digest after one more entry: two logs with the same digest are the same log.
pub(super) fn digest(before: u64, entry: &Entry) -> u64 {
    let kind = match &entry.payload {
        Payload::Command(_) => command_of(&entry.payload).unwrap_or(0),
        Payload::LeaderChange { leader, voters } => voters
            .iter()
            .fold(index_of(leader.to_owned()) as u64 ^ 0x4c00, |mixed, voter| {
                mix(mixed, voter_bits(voter))
            }),
        Payload::Voters(voters) => voters
            .iter()
            .fold(0x5600, |mixed, voter| mix(mixed, voter_bits(voter))),
    };
    mix(mix(before, kind), u64::from(entry.epoch.value().unsigned_abs()))
}

fn voter_bits(voter: ReplicaKey) -> u64 {
    let (high, low) = voter.directory.as_u64_pair();
    mix(high, low) ^ u64::from(voter.id.value().unsigned_abs())
}

fn mix(a: u64, b: u64) -> u64 {
    let mut z = a
        .rotate_left(17)
        .wrapping_add(b)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 27)
}

fn image(applied: Offset, digest: u64, bytes: usize) -> Bytes {
    let mut image = Vec::with_capacity(bytes.max(16));
    image.extend_from_slice(&applied.value().to_le_bytes());
    image.extend_from_slice(&digest.to_le_bytes());
    image.resize(bytes.max(16), 0x5a);
    Bytes::from(image)
}

fn image_read(snapshot: &Snapshot) -> (Offset, u64) {
    let image = &snapshot.image;
    let number = |from: usize| image.get(from..from + 8).and_then(|bytes| bytes.try_into().ok());
    let applied = number(0).map_or(0, i64::from_le_bytes);
    (Offset::new(applied), number(8).map_or(0, u64::from_le_bytes))
}
