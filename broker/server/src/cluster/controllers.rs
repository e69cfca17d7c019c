//! The way to the other controllers.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kafka_protocol::messages::EnvelopeRequest;
use varve_cluster::controller::command::ReplicaLog;
use varve_cluster::controller::{Command, Heartbeat, HeartbeatAnswer, Rejected};
use varve_cluster::raft::{Envelope, Message, NodeId};

use super::{PartitionKey, Peer, PeerError, Question, Reply, decode, encode};
use crate::metadata::replicated::{Courier, NotPlaced, Placed, QuorumView, Unanswered};

/// `controller.quorum.request.timeout.ms`: longer than a leader keeps a fetch that has nothing to get.
const MESSAGE_WAIT: Duration = Duration::from_secs(2);
/// A command is answered when a majority has it.
const COMMAND_WAIT: Duration = Duration::from_secs(10);

/// One node, over connections that do not wait for each other's long answers.
struct Links {
    fetches: Peer,
    messages: Peer,
    commands: Peer,
}

/// See the module's first line.
pub(crate) struct Controllers(BTreeMap<NodeId, Links>);

impl Controllers {
    /// `addresses` of all controllers but this one, host:port.
    pub(crate) fn new(me: i32, addresses: impl IntoIterator<Item = (NodeId, String)>) -> Self {
        let links = |address: String| {
            let peer = |kind: &str| Peer::new(address.clone(), &format!("varve-{me}-{kind}"));
            Links {
                fetches: peer("quorum-fetch"),
                messages: peer("quorum"),
                commands: peer("commands"),
            }
        };
        Self(
            addresses
                .into_iter()
                .map(|(id, address)| (id, links(address)))
                .collect(),
        )
    }

    /// Tells the controller `leader` that a broker is alive; `None` when it did not answer or does not lead.
    pub(crate) async fn heartbeat(
        &self,
        leader: NodeId,
        heartbeat: Heartbeat,
    ) -> Option<Result<HeartbeatAnswer, Rejected>> {
        let links = self.0.get(&leader)?;
        match ask(&links.commands, &Question::Heartbeat(heartbeat), MESSAGE_WAIT).await {
            Ok(Reply::Heartbeat(answer)) => answer,
            Ok(_) | Err(_) => None,
        }
    }

    /// What another broker's logs hold; every node is broker and controller.
    pub(crate) async fn logs(
        &self,
        broker: NodeId,
        keys: Vec<PartitionKey>,
    ) -> Option<Vec<Option<ReplicaLog>>> {
        let links = self.0.get(&broker)?;
        match ask(&links.commands, &Question::Logs(keys), MESSAGE_WAIT).await {
            Ok(Reply::Logs(logs)) => Some(logs),
            Ok(_) | Err(_) => None,
        }
    }

    /// How the quorum stands, as `leader` sees it.
    pub(crate) async fn describe(&self, leader: NodeId) -> Option<QuorumView> {
        let links = self.0.get(&leader)?;
        match ask(&links.commands, &Question::Describe, MESSAGE_WAIT).await {
            Ok(Reply::Describe(view)) => view,
            Ok(_) | Err(_) => None,
        }
    }
}

#[async_trait]
impl Courier for Controllers {
    async fn carry(&self, request: Envelope) -> Result<Envelope, Unanswered> {
        let links = self.0.get(&request.to).ok_or(Unanswered::Lost)?;
        let peer = match &request.message {
            Message::Fetch(_) | Message::FetchSnapshot(_) => &links.fetches,
            _ => &links.messages,
        };
        match ask(peer, &Question::Quorum(request), MESSAGE_WAIT).await {
            Ok(Reply::Quorum(answer)) => answer.ok_or(Unanswered::Lost),
            Ok(_) => Err(Unanswered::Lost),
            Err(error) => {
                tracing::debug!(%error, "a message of the metadata quorum was not answered");
                Err(match error.is_refused() {
                    true => Unanswered::Refused,
                    false => Unanswered::Lost,
                })
            }
        }
    }

    async fn forward(&self, leader: NodeId, command: &Command) -> Result<Placed, NotPlaced> {
        let refused = |why: String| Err(NotPlaced::Refused(why));
        let Some(links) = self.0.get(&leader) else {
            return refused(format!("controller {leader} has no address"));
        };
        let command = match serde_json::to_vec(command) {
            Ok(command) => command,
            Err(error) => return refused(error.to_string()),
        };
        match ask(&links.commands, &Question::Place(command), COMMAND_WAIT).await {
            Ok(Reply::Place(placed)) => placed,
            Ok(_) => Err(NotPlaced::Unknown(
                "the controller's answer is another question's".to_owned(),
            )),
            Err(error @ PeerError::Unreachable { .. }) => refused(error.to_string()),
            Err(error) => Err(NotPlaced::Unknown(error.to_string())),
        }
    }
}

async fn ask(peer: &Peer, question: &Question, wait: Duration) -> Result<Reply, PeerError> {
    let misunderstood = |reason: &str| PeerError::Misunderstood {
        address: peer.address().to_owned(),
        reason: reason.to_owned(),
    };
    let question = encode(question).ok_or_else(|| misunderstood("the question cannot be encoded"))?;
    let request = EnvelopeRequest::default()
        .with_request_data(Bytes::from(question))
        .with_request_principal(Some(Bytes::new()));
    let response = peer.call(&request, 0, wait).await?;
    let answer = response.response_data.filter(|_| response.error_code == 0);
    let answer = answer.ok_or_else(|| misunderstood("it refuses what only nodes of a cluster ask"))?;
    decode(&answer).ok_or_else(|| misunderstood("its answer cannot be read"))
}
