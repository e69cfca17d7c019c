//! One member of a group.

use bytes::Bytes;

use super::classic::Ticket;

/// One way a member can be assigned work: an assignor's name and what the member says to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    pub metadata: Bytes,
}

/// How long a member gets before its first join is answered: past that its connection is taken for dead.
pub(super) const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;

#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    /// In the order the member prefers them.
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// Its first join has not been answered yet.
    pub(super) new: bool,
    pub(super) joining: Option<Ticket>,
    pub(super) syncing: Option<Ticket>,
    /// It was told its generation and has not asked for its assignment since.
    pub(super) owes_sync: bool,
    /// Without a sign of life until then it is out.
    pub(super) session_deadline: i64,
}

/// What `DescribeGroups` tells of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    /// Empty unless the group is stable.
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl Member {
    #[must_use]
    pub fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    /// What it says to `protocol`; empty if it does not speak it.
    #[must_use]
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|known| known.name == protocol);
        found.map(|known| known.metadata.clone()).unwrap_or_default()
    }

    #[must_use]
    pub(super) fn speaks(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|known| known.name == protocol)
    }

    /// Whether its session can run out now. One that waits for our answer has given its sign of life by
    /// waiting; a new one that waits does have an end, because nobody else would notice that it is gone.
    #[must_use]
    pub(super) fn can_expire(&self) -> bool {
        self.new || (self.joining.is_none() && self.syncing.is_none())
    }

    pub(super) fn seen(&mut self, now: i64) {
        self.session_deadline = now.saturating_add(i64::from(self.session_timeout_ms));
    }
}
