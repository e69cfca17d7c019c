//! Who has a vote, and what a majority of them is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `node.id` of a controller or broker as the metadata quorum knows it. Negative ones are places to ask
/// (`controller.quorum.bootstrap.servers`) whose id is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(i32);

impl NodeId {
    #[must_use]
    pub const fn new(value: i32) -> Self {
        Self(value)
    }

    #[must_use]
    pub const fn value(self) -> i32 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node together with the disk it keeps its log on (KIP-853). A node that comes back with an empty disk is
/// another replica: it has forgotten what it voted and what it held, so it must not pass for the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaKey {
    pub id: NodeId,
    pub directory: Uuid,
}

impl fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:.4}", self.id, self.directory.simple().to_string())
    }
}

/// The voters and where each is reached (`host:port`, opaque here). At most one replica of a node has a vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VoterSet {
    voters: Arc<BTreeMap<ReplicaKey, Arc<str>>>,
}

impl VoterSet {
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = (ReplicaKey, Arc<str>)>) -> Self {
        Self {
            voters: Arc::new(voters.into_iter().collect()),
        }
    }

    #[must_use]
    pub fn contains(&self, replica: ReplicaKey) -> bool {
        self.voters.contains_key(&replica)
    }

    #[must_use]
    pub fn has_node(&self, id: NodeId) -> bool {
        self.voters.keys().any(|voter| voter.id == id)
    }

    pub fn iter(&self) -> impl Iterator<Item = ReplicaKey> + '_ {
        self.voters.keys().copied()
    }

    #[must_use]
    pub fn address(&self, replica: ReplicaKey) -> Option<&str> {
        self.voters.get(&replica).map(|address| &**address)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.voters.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// How many voters any two majorities share one of.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether those voters who `agree` are a majority. Never true of an empty set.
    pub fn is_majority(&self, agree: impl Fn(ReplicaKey) -> bool) -> bool {
        self.iter().filter(|voter| agree(*voter)).count() >= self.majority()
    }

    #[must_use]
    pub(super) fn with(&self, voter: ReplicaKey, address: Arc<str>) -> Self {
        let mut voters = (*self.voters).clone();
        voters.insert(voter, address);
        Self {
            voters: Arc::new(voters),
        }
    }

    #[must_use]
    pub(super) fn without(&self, voter: ReplicaKey) -> Self {
        let mut voters = (*self.voters).clone();
        voters.remove(&voter);
        Self {
            voters: Arc::new(voters),
        }
    }
}
