//! A metadata quorum of several nodes: the pure Raft of `varve_cluster::raft`, its files, and its messages on the way.
//!
//! One thread owns the replica: inputs go in one after the other, effects are carried out in their order, writes of one
//! step share one sync. Messages and answers leave before the writes they do not depend on; those that do depend wait
//! inside the replica itself. A write that fails ends the thread: what the disk holds is found out at the next start.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;
use varve_cluster::controller::{Command, Outcome, Rejected, State};
use varve_cluster::raft::{
    Answer, Config, Description, Effect, Envelope, Event, Gap, Message, Node, NodeId, Payload, Refusal,
    ReplicaState, RoleName, Snapshot, Ticket, Write,
};
use varve_log::{Disk, Offset};

use super::quorum::{MetadataQuorum, ProposeError};
use super::raft_files::{FilesError, RaftFiles};

const DIR: &str = "__cluster_metadata-0";
/// What may wait for the replica's thread.
const WAITING_MAX: usize = 4096;
/// Commands between two snapshots.
const SNAPSHOT_EVERY: i64 = 10_000;
/// Longer than the asker waits.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// A proposal looks for a leader this long.
const PROPOSE_WAIT: Duration = Duration::from_secs(30);
const PROPOSE_PAUSE: Duration = Duration::from_millis(50);

/// How messages reach other nodes.
#[async_trait]
pub(crate) trait Courier: Send + Sync + 'static {
    /// Carries a request to the node it is for.
    async fn carry(&self, request: Envelope) -> Result<Envelope, Unanswered>;

    /// Has `leader` judge a command.
    async fn forward(&self, leader: NodeId, command: &Command) -> Result<Placed, NotPlaced>;
}

/// No answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Nobody listens there: the process is gone.
    Refused,
    Lost,
}

/// A command has its place in the order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    /// Whoever has applied so much sees what it did.
    pub(crate) index: u64,
    pub(crate) judged: Result<Outcome, Rejected>,
}

/// A command has no known place in the order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum NotPlaced {
    /// It will not get one from that node: try another, or again.
    Refused(String),
    /// It may have one, or may yet get one.
    Unknown(String),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Gap(#[from] Gap),
    #[error("the metadata snapshot cannot be read: {0}")]
    Image(serde_json::Error),
    #[error("the thread of the metadata quorum cannot be started: {0}")]
    Thread(std::io::Error),
}

/// See the module's first lines.
pub(crate) struct Replicated {
    me: NodeId,
    inbox: mpsc::Sender<Input>,
    view: watch::Receiver<Arc<State>>,
    leader: watch::Receiver<Option<NodeId>>,
    description: Arc<Mutex<Option<QuorumView>>>,
    courier: Arc<dyn Courier>,
}

/// The quorum as its leader sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct QuorumView {
    pub(crate) leader: NodeId,
    pub(crate) epoch: i32,
    pub(crate) high_watermark: i64,
    pub(crate) voters: Vec<QuorumReplica>,
    pub(crate) observers: Vec<QuorumReplica>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct QuorumReplica {
    pub(crate) id: NodeId,
    pub(crate) directory: Uuid,
    pub(crate) log_end: Option<i64>,
    /// Milliseconds ago; `None` when it has not happened in this leadership.
    pub(crate) fetched_ago: Option<i64>,
    pub(crate) caught_up_ago: Option<i64>,
}

enum Input {
    Request(Envelope, oneshot::Sender<Envelope>),
    /// An answer, or a message that wants none.
    Response(Envelope),
    Unanswered {
        to: NodeId,
        id: u64,
        why: Unanswered,
    },
    Propose(Command, oneshot::Sender<Result<Placed, NotPlaced>>),
}

impl Replicated {
    /// Opens this node's replica and starts its thread. `first` stands in for a snapshot while there is none.
    pub(crate) fn start(
        config: Config,
        (disk, dir): (Arc<dyn Disk>, &Path),
        first: (Snapshot, &str),
        courier: Arc<dyn Courier>,
        background: tokio::runtime::Handle,
    ) -> Result<Arc<Self>, StartError> {
        let (files, mut stored) = RaftFiles::open(disk, dir.join(DIR))?;
        let (first, cluster_id) = first;
        if stored.snapshot.voters.is_empty() {
            stored.snapshot = Snapshot {
                position: stored.snapshot.position,
                ..first
            };
        }
        let state = match stored.snapshot.image.is_empty() {
            true => State::new(cluster_id),
            false => serde_json::from_slice(&stored.snapshot.image).map_err(StartError::Image)?,
        };
        let (view_sender, view) = watch::channel(Arc::new(state.clone()));
        let (leader_sender, leader) = watch::channel(None);
        let (inbox, waiting) = mpsc::channel(WAITING_MAX);
        let description = Arc::default();
        let me = config.me.id;
        let began = Instant::now();
        let mut effects = vec![];
        let applied = stored.snapshot.position.end;
        let node = Node::new(config, stored, 0, &mut effects)?;
        let mut replica = Replica {
            node,
            files,
            applied,
            state,
            began,
            waiting: HashMap::new(),
            proposals: HashMap::new(),
            judged: HashMap::new(),
            tickets: 0,
            view: view_sender,
            leader: leader_sender,
            description: Arc::clone(&description),
            inbox: inbox.downgrade(),
            courier: Arc::clone(&courier),
            background,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.map_err(StartError::Thread)?;
        std::thread::Builder::new()
            .name("metadata".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(replica.run(effects, waiting)) {
                    tracing::error!(%error, "the metadata log cannot be written any more: check the disk, then restart");
                }
            })
            .map_err(StartError::Thread)?;
        Ok(Arc::new(Self {
            me,
            inbox,
            view,
            leader,
            description,
            courier,
        }))
    }

    /// Another node's request; `None` when there is no answer to give.
    pub(crate) async fn receive(&self, request: Envelope) -> Option<Envelope> {
        if let Message::EndQuorumEpoch { .. } = request.message {
            self.inbox.send(Input::Response(request)).await.ok()?;
            return None;
        }
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Input::Request(request, answer)).await.ok()?;
        // Some are never answered, and whoever asked has given up by then.
        tokio::time::timeout(ANSWER_WAIT, answered).await.ok()?.ok()
    }

    /// Judges a command here, if this node leads.
    pub(crate) async fn place(&self, command: Command) -> Result<Placed, NotPlaced> {
        let stopped = || "the metadata log has stopped".to_owned();
        let (answer, answered) = oneshot::channel();
        self.inbox
            .send(Input::Propose(command, answer))
            .await
            .map_err(|_stopped| NotPlaced::Refused(stopped()))?;
        answered
            .await
            .unwrap_or_else(|_stopped| Err(NotPlaced::Unknown(stopped())))
    }

    /// Who leads the quorum, as far as this node knows.
    pub(crate) fn leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.clone()
    }

    /// The quorum as this node sees it; `None` if another one leads it.
    pub(crate) fn describe(&self) -> Option<QuorumView> {
        self.description.lock().clone()
    }

    async fn place_somewhere(&self, command: &Command) -> Result<Placed, ProposeError> {
        let deadline = tokio::time::Instant::now() + PROPOSE_WAIT;
        loop {
            let leader = *self.leader.borrow();
            let placed = match leader {
                Some(leader) if leader == self.me => self.place(command.clone()).await,
                Some(leader) => self.courier.forward(leader, command).await,
                None => Err(NotPlaced::Refused("it has no leader".to_owned())),
            };
            match placed {
                Ok(placed) => return Ok(placed),
                Err(NotPlaced::Unknown(why)) => return Err(ProposeError::Unknown(why)),
                Err(NotPlaced::Refused(why)) if tokio::time::Instant::now() >= deadline => {
                    return Err(ProposeError::NotApplied(why));
                }
                Err(NotPlaced::Refused(_)) => tokio::time::sleep(PROPOSE_PAUSE).await,
            }
        }
    }
}

#[async_trait]
impl MetadataQuorum for Replicated {
    async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let placed = self.place_somewhere(&command).await?;
        let mut view = self.view.clone();
        let seen = view.wait_for(|state| state.applied >= placed.index).await;
        seen.map_err(|_stopped| ProposeError::Unknown("the metadata log has stopped".to_owned()))?;
        Ok(placed.judged?)
    }

    fn view(&self) -> Arc<State> {
        Arc::clone(&self.view.borrow())
    }

    fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.view.clone()
    }
}

/// The replica and everything its effects touch, on its own thread.
struct Replica {
    node: Node,
    files: RaftFiles,
    /// Everything below is in `state`.
    applied: Offset,
    state: State,
    began: Instant,
    /// Requests of others that have no answer yet, by asker and number.
    waiting: HashMap<(NodeId, u64), oneshot::Sender<Envelope>>,
    proposals: HashMap<Ticket, oneshot::Sender<Result<Placed, NotPlaced>>>,
    /// What became of commands that are applied and whose proposer has not been told.
    judged: HashMap<Offset, Result<Outcome, Rejected>>,
    tickets: u64,
    view: watch::Sender<Arc<State>>,
    leader: watch::Sender<Option<NodeId>>,
    description: Arc<Mutex<Option<QuorumView>>>,
    inbox: mpsc::WeakSender<Input>,
    courier: Arc<dyn Courier>,
    background: tokio::runtime::Handle,
}

impl Replica {
    async fn run(&mut self, effects: Vec<Effect>, mut inbox: mpsc::Receiver<Input>) -> std::io::Result<()> {
        self.carry_out(effects)?;
        loop {
            let wake = self.began + Duration::from_millis(u64::try_from(self.node.wake_at()).unwrap_or(0));
            let event = match tokio::time::timeout_at(wake.into(), inbox.recv()).await {
                Ok(Some(input)) => self.event_of(input),
                Ok(None) => return Ok(()),
                Err(_elapsed) => Event::Tick,
            };
            self.step(event)?;
            *self.description.lock() = self
                .node
                .describe()
                .map(|description| view_of(description, self.now()));
        }
    }

    fn now(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn event_of(&mut self, input: Input) -> Event {
        match input {
            Input::Request(envelope, answer) => {
                // Who has gone waits no more.
                self.waiting.retain(|_, answer| !answer.is_closed());
                self.waiting.insert((envelope.from.id, envelope.id), answer);
                Event::Received(envelope)
            }
            Input::Response(envelope) => Event::Received(envelope),
            Input::Unanswered { to, id, why } => Event::Unanswered {
                to,
                id,
                refused: why == Unanswered::Refused,
            },
            Input::Propose(command, answer) => match serde_json::to_vec(&command) {
                Ok(bytes) => {
                    self.tickets += 1;
                    let ticket = Ticket(self.tickets);
                    self.proposals.insert(ticket, answer);
                    let command = Bytes::from(bytes);
                    Event::Propose { ticket, command }
                }
                Err(error) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(Err(NotPlaced::Refused(error.to_string())));
                    Event::Tick
                }
            },
        }
    }

    fn step(&mut self, event: Event) -> std::io::Result<()> {
        let mut effects = vec![];
        self.node.step(self.now(), event, &mut effects);
        self.carry_out(effects)
    }

    fn carry_out(&mut self, mut effects: Vec<Effect>) -> std::io::Result<()> {
        while !effects.is_empty() {
            let mut writes: Vec<Write> = vec![];
            let mut written = 0;
            for effect in effects.drain(..) {
                match effect {
                    Effect::Write { number, write } => {
                        writes.push(write);
                        written = number;
                    }
                    Effect::Send(envelope) => self.send(envelope),
                    Effect::Committed { high_watermark } => self.apply(high_watermark),
                    Effect::Load(snapshot) => self.load(&snapshot)?,
                    Effect::Became { role, epoch, leader } => self.became(role, epoch.value(), leader),
                    Effect::Answer { ticket, answer } => self.answer(ticket, answer),
                }
            }
            if !writes.is_empty() {
                self.files.write(writes)?;
                self.node.step(self.now(), Event::Written(written), &mut effects);
            }
            if self.applied.since(self.node.snapshot().position.end) >= SNAPSHOT_EVERY {
                let image = Bytes::from(serde_json::to_vec(&self.state)?);
                let end = self.applied;
                self.node
                    .step(self.now(), Event::SnapshotTaken { end, image }, &mut effects);
            }
        }
        Ok(())
    }

    fn send(&mut self, envelope: Envelope) {
        if is_response(&envelope.message) {
            if let Some(answer) = self.waiting.remove(&(envelope.to, envelope.id)) {
                // The connection it came by may be gone.
                let _ = answer.send(envelope);
            }
            return;
        }
        let (courier, inbox) = (Arc::clone(&self.courier), self.inbox.clone());
        self.background.spawn(async move {
            let (to, id) = (envelope.to, envelope.id);
            let input = match courier.carry(envelope).await {
                Ok(response) => Input::Response(response),
                Err(why) => Input::Unanswered { to, id, why },
            };
            if let Some(inbox) = inbox.upgrade() {
                // The thread ends with the process only.
                let _ = inbox.send(input).await;
            }
        });
    }

    fn apply(&mut self, high_watermark: Offset) {
        let entries: Vec<_> = self
            .node
            .entries(self.applied, high_watermark)
            .map(|(offset, entry)| (offset, entry.payload.clone()))
            .collect();
        let asked = !self.proposals.is_empty();
        for (offset, payload) in entries {
            self.applied = offset.plus(1);
            let index = index_of(offset);
            let Payload::Command(bytes) = payload else {
                self.state.applied = index;
                continue;
            };
            match serde_json::from_slice::<Command>(&bytes) {
                Ok(command) => {
                    let judged = self.state.apply(index, &command);
                    if asked {
                        self.judged.insert(offset, judged);
                    }
                }
                // All nodes skip it alike: it was written by a version that knows more commands.
                Err(error) => {
                    tracing::error!(index, %error, "a metadata command is not understood and has no effect here: upgrade this node");
                    self.state.applied = index;
                }
            }
        }
        self.view.send_replace(Arc::new(self.state.clone()));
    }

    fn load(&mut self, snapshot: &Snapshot) -> std::io::Result<()> {
        self.state = serde_json::from_slice(&snapshot.image)?;
        self.applied = snapshot.position.end;
        self.view.send_replace(Arc::new(self.state.clone()));
        Ok(())
    }

    fn became(&mut self, role: RoleName, epoch: i32, leader: Option<NodeId>) {
        tracing::info!(
            ?role,
            epoch,
            leader = leader.map(NodeId::value),
            "metadata quorum"
        );
        self.leader.send_replace(leader);
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let Some(proposer) = self.proposals.remove(&ticket) else {
            return;
        };
        let placed = match answer {
            Answer::Committed { offset } => match self.judged.remove(&offset) {
                Some(judged) => Ok(Placed {
                    index: index_of(offset),
                    judged,
                }),
                None => Err(NotPlaced::Unknown("its outcome was not seen".to_owned())),
            },
            Answer::Refused(refusal @ (Refusal::NotLeader { .. } | Refusal::Busy)) => {
                Err(NotPlaced::Refused(refusal.to_string()))
            }
            Answer::Refused(refusal) => Err(NotPlaced::Refused(refusal.to_string())),
            Answer::Unknown | Answer::Confirmed { .. } => {
                Err(NotPlaced::Unknown("leadership of the quorum was lost".to_owned()))
            }
        };
        // Whoever asked may have gone.
        let _ = proposer.send(placed);
        if self.proposals.is_empty() {
            self.judged.clear();
        }
    }
}

fn view_of(description: Description, now: i64) -> QuorumView {
    let replica = |state: &ReplicaState| QuorumReplica {
        id: state.replica.id,
        directory: state.replica.directory,
        log_end: state.log_end.map(Offset::value),
        fetched_ago: state.fetched_at.map(|at| now - at),
        caught_up_ago: state.caught_up_at.map(|at| now - at),
    };
    QuorumView {
        leader: description.leader,
        epoch: description.epoch.value(),
        high_watermark: description.high_watermark.value(),
        voters: description.voters.iter().map(replica).collect(),
        observers: description.observers.iter().map(replica).collect(),
    }
}

/// Index 0 is the state before any command.
fn index_of(offset: Offset) -> u64 {
    u64::try_from(offset.value()).unwrap_or(0) + 1
}

fn is_response(message: &Message) -> bool {
    match message {
        Message::VoteResponse(_)
        | Message::BeginQuorumEpochResponse { .. }
        | Message::FetchResponse(_)
        | Message::FetchSnapshotResponse(_) => true,
        Message::Vote(_)
        | Message::BeginQuorumEpoch
        | Message::EndQuorumEpoch { .. }
        | Message::Fetch(_)
        | Message::FetchSnapshot(_) => false,
    }
}
