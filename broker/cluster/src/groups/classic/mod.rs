//! One consumer group of the classic protocol, as a state machine.
//!
//! ```text
//! Empty ──join──▶ PreparingRebalance ──all joined, or time is up──▶ CompletingRebalance
//!   ▲                   ▲     ▲                                            │ leader's assignment stored
//!   └── last one gone ──┘     └── join, leave, session over ── Stable ◀────┘
//! ```
//!
//! Requests come in with the time and, where an answer may have to wait, a [`Ticket`]; answers and state to
//! be stored go out as [`Effect`]s. What the group promises its members it has stored first: the caller
//! reports each [`Effect::Store`] back through [`Group::stored`]. The caller also calls [`Group::tick`] when
//! [`Group::next_deadline`] has come.
//!
//! Kafka's behaviour is the standard here, down to which error is answered in which state.

mod join;
mod leave;
mod rebalance;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::member::{Member, MemberDescription, Protocol};
use super::offsets::Aging;
use super::records::{GroupValue, MemberValue};
use super::{GroupError, topics_of_subscription};

/// Names a request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names state that is on its way to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(u64);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a new group waits for more members: `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i64,
    pub session_timeout_min_ms: i32,
    pub session_timeout_max_ms: i32,
    /// Most members a group may have: `group.max.size`.
    pub size_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl GroupState {
    /// Kafka's spelling.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Join {
    pub ticket: Ticket,
    /// Empty: has none yet.
    pub member_id: String,
    /// The id it gets if it has none.
    pub fresh_member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<Protocol>,
    /// The client can be told its id and join again with it (KIP-394: JoinGroup 4 and later).
    pub knows_member_id_required: bool,
    /// The client understands `SkipAssignment` (KIP-814: JoinGroup 9 and later).
    pub knows_skip_assignment: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub leader: String,
    pub skip_assignment: bool,
    pub member_id: String,
    /// All members for the leader, nobody for the others.
    pub members: Vec<JoinedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub id: String,
    pub instance_id: Option<String>,
    pub metadata: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    pub error: GroupError,
    /// Where the error is [`GroupError::MemberIdRequired`], the id to come back with.
    pub member_id: String,
}

#[derive(Clone, Debug)]
pub struct Sync {
    pub ticket: Ticket,
    pub caller: Caller,
    /// What the member believes the group speaks, if its version says so (SyncGroup 5 and later).
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// From the leader: who gets what.
    pub assignments: Vec<(String, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncAnswer {
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    pub assignment: Bytes,
}

/// Who asks, and in which generation it believes to be (-1: none).
#[derive(Clone, Debug)]
pub struct Caller {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation: i32,
}

#[derive(Clone, Debug)]
pub struct Leaver {
    /// Empty: the member is named by its instance id (an operator removes it).
    pub member_id: String,
    pub instance_id: Option<String>,
}

/// What the caller has to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Joined {
        ticket: Ticket,
        answer: Result<JoinAnswer, JoinRefused>,
    },
    Synced {
        ticket: Ticket,
        answer: Result<SyncAnswer, GroupError>,
    },
    /// Append this to the group's log, then say [`Group::stored`].
    Store { id: StoreId, value: GroupValue },
}

/// See the module's first lines.
#[derive(Debug)]
pub struct Group {
    id: String,
    settings: Settings,
    state: GroupState,
    state_since: i64,
    protocol_type: Option<String>,
    protocol: Option<String>,
    generation: i32,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// `group.instance.id` → member id.
    instances: BTreeMap<String, String>,
    /// Ids given out to members that have yet to join with them, and until when they may.
    pending: BTreeMap<String, i64>,
    rebalance: Option<Rebalance>,
    /// Who has not asked for its assignment by then is out.
    sync_deadline: Option<i64>,
    storing: BTreeMap<StoreId, Storing>,
    next_store: u64,
    /// What the log says of the group: the last that was given to it.
    recorded: Option<GroupValue>,
}

/// Members are joining.
#[derive(Debug)]
struct Rebalance {
    deadline: i64,
    /// The group was empty: it waits out its delay, whoever has joined already.
    initial: Option<Initial>,
}

#[derive(Debug)]
struct Initial {
    /// By how much the wait may still grow.
    left_ms: i64,
    /// Somebody has joined since the last look.
    grew: bool,
}

/// What happens once it is stored, or could not be.
#[derive(Debug)]
enum Storing {
    Assignment {
        generation: i32,
        assignments: BTreeMap<String, Bytes>,
    },
    Emptied,
    Replaced(Box<Replaced>),
}

/// A static member has come back under a new id, in a group that need not rebalance for it.
#[derive(Debug)]
struct Replaced {
    ticket: Ticket,
    answer: JoinAnswer,
    generation: i32,
    old: Member,
    was_leader: bool,
}

impl Group {
    #[must_use]
    pub fn new(id: impl Into<String>, settings: Settings, now: i64) -> Self {
        Self {
            id: id.into(),
            settings,
            state: GroupState::Empty,
            state_since: now,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            rebalance: None,
            sync_deadline: None,
            storing: BTreeMap::new(),
            next_store: 0,
            recorded: None,
        }
    }

    /// The group as it was stored. Its members' sessions begin anew at `now`.
    #[must_use]
    pub fn restore(id: impl Into<String>, value: GroupValue, settings: Settings, now: i64) -> Self {
        let mut group = Self::new(id, settings, now);
        group.recorded = Some(value.clone());
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|kind| !kind.is_empty());
        if value.state_timestamp >= 0 {
            group.state_since = value.state_timestamp;
        }
        if value.members.is_empty() {
            return group;
        }
        group.state = GroupState::Stable;
        group.leader = value.leader;
        let protocol = value.protocol.clone().unwrap_or_default();
        group.protocol = value.protocol;
        for stored in value.members {
            let mut member = restored(stored, &protocol);
            member.seen(now);
            if let Some(instance) = &member.instance_id {
                group.instances.insert(instance.clone(), member.id.clone());
            }
            group.members.insert(member.id.clone(), member);
        }
        group
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn state(&self) -> GroupState {
        self.state
    }

    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    #[must_use]
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The protocol in force, once members have agreed on one.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// What `DescribeGroups` tells: metadata and assignments only while they are in force.
    #[must_use]
    pub fn describe(&self) -> Vec<MemberDescription> {
        let stable = self.state == GroupState::Stable;
        let protocol = self.protocol.as_deref().filter(|_| stable);
        let describe = |member: &Member| MemberDescription {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: protocol
                .map(|protocol| member.metadata(protocol))
                .unwrap_or_default(),
            assignment: if stable {
                member.assignment.clone()
            } else {
                Bytes::new()
            },
        };
        self.members.values().map(describe).collect()
    }

    /// The topics its members read, if they say so in the way consumers do. `None`: not known.
    #[must_use]
    pub fn subscribed_topics(&self) -> Option<BTreeSet<&str>> {
        if self.protocol_type.as_deref() != Some("consumer") {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let spoken = member
                .protocols
                .iter()
                .find(|known| Some(&known.name) == self.protocol.as_ref());
            let spoken = spoken.or_else(|| member.protocols.first())?;
            topics.extend(topics_of_subscription(&spoken.metadata)?);
        }
        Some(topics)
    }

    /// From when on what it has committed ages (KIP-211).
    #[must_use]
    pub fn aging(&self) -> Aging<'_> {
        match self.state {
            _ if self.protocol_type.is_none() && self.members.is_empty() => Aging::EachFromCommit,
            GroupState::Empty => Aging::Since(self.state_since),
            GroupState::Stable => match self.subscribed_topics() {
                Some(topics) => Aging::OtherTopics(topics.into_iter().collect()),
                None => Aging::No,
            },
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Dead => Aging::No,
        }
    }

    /// Whether nothing would be lost with it but its committed offsets.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == GroupState::Empty && self.pending.is_empty() && self.storing.is_empty()
    }

    /// Whether a member may commit now. It is a sign of life, too.
    ///
    /// # Errors
    /// What the client is told.
    pub fn check_commit(&mut self, caller: &Caller, now: i64) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let anonymous = caller.generation < 0 && caller.member_id.is_empty() && caller.instance_id.is_none();
        if anonymous {
            // Whoever assigns partitions itself may commit to a group nobody has joined.
            return match self.state {
                GroupState::Empty => Ok(()),
                _ => Err(GroupError::UnknownMember),
            };
        }
        if caller.generation < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        self.check_member(&caller.member_id, caller.instance_id.as_deref())?;
        self.check_generation(caller.generation)?;
        self.seen(&caller.member_id, now);
        if self.state == GroupState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member says it is alive.
    ///
    /// # Errors
    /// What the client is told; [`GroupError::RebalanceInProgress`] asks it to join again.
    pub fn heartbeat(&mut self, caller: &Caller, now: i64) -> Result<(), GroupError> {
        if self.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        self.check_member(&caller.member_id, caller.instance_id.as_deref())?;
        self.check_generation(caller.generation)?;
        self.seen(&caller.member_id, now);
        match self.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMember),
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    /// Deletes the group.
    ///
    /// # Errors
    /// While it has members.
    pub fn delete(&mut self) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::CoordinatorNotAvailable),
            GroupState::Empty if self.pending.is_empty() && self.storing.is_empty() => {
                self.state = GroupState::Dead;
                Ok(())
            }
            _ => Err(GroupError::NonEmpty),
        }
    }

    /// Whether offsets of `topic` may be deleted now.
    ///
    /// # Errors
    /// While members read it, or might.
    pub fn check_offset_delete(&self, topic: &str) -> Result<(), GroupError> {
        match self.state {
            GroupState::Dead => Err(GroupError::CoordinatorNotAvailable),
            GroupState::Empty => Ok(()),
            _ if self.protocol_type.as_deref() != Some("consumer") => Err(GroupError::NonEmpty),
            _ => match self.subscribed_topics() {
                Some(topics) if !topics.contains(topic) => Ok(()),
                Some(_) | None => Err(GroupError::SubscribedToTopic),
            },
        }
    }

    /// This broker coordinates the group no longer: whoever waits is told so.
    pub fn resign(&mut self, error: GroupError, effects: &mut Vec<Effect>) {
        for member in self.members.values_mut() {
            refuse_waiting(member, error, effects);
        }
        for storing in std::mem::take(&mut self.storing).into_values() {
            if let Storing::Replaced(replaced) = storing {
                let answer = Err(JoinRefused {
                    error,
                    member_id: replaced.answer.member_id,
                });
                effects.push(Effect::Joined {
                    ticket: replaced.ticket,
                    answer,
                });
            }
        }
        self.state = GroupState::Dead;
    }

    /// The group as it is stored, with these assignments.
    fn value(&self, assignments: &BTreeMap<String, Bytes>, now: i64) -> GroupValue {
        let protocol = self.protocol.clone().unwrap_or_default();
        let member = |member: &Member| MemberValue {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(&protocol),
            assignment: assignments.get(&member.id).cloned().unwrap_or_default(),
        };
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp: now,
            members: self.members.values().map(member).collect(),
        }
    }

    /// The group's record in the log, if it has one.
    #[must_use]
    pub fn recorded(&self) -> Option<&GroupValue> {
        self.recorded.as_ref()
    }

    fn check_generation(&self, generation: i32) -> Result<(), GroupError> {
        if generation == self.generation {
            Ok(())
        } else {
            Err(GroupError::IllegalGeneration)
        }
    }

    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance_id {
            match self.instances.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(GroupError::UnknownMember)
        }
    }

    fn seen(&mut self, member_id: &str, now: i64) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.seen(now);
        }
    }

    fn enter(&mut self, state: GroupState, now: i64) {
        self.state = state;
        self.state_since = now;
    }
}

/// Answers whatever a member waits for with an error.
fn refuse_waiting(member: &mut Member, error: GroupError, effects: &mut Vec<Effect>) {
    if let Some(ticket) = member.joining.take() {
        let answer = Err(JoinRefused {
            error,
            member_id: member.id.clone(),
        });
        effects.push(Effect::Joined { ticket, answer });
    }
    if let Some(ticket) = member.syncing.take() {
        effects.push(Effect::Synced {
            ticket,
            answer: Err(error),
        });
    }
}

fn restored(stored: MemberValue, protocol: &str) -> Member {
    Member {
        id: stored.id,
        instance_id: stored.instance_id,
        client_id: stored.client_id,
        client_host: stored.client_host,
        session_timeout_ms: stored.session_timeout_ms,
        rebalance_timeout_ms: stored.rebalance_timeout_ms,
        protocols: vec![Protocol {
            name: protocol.to_owned(),
            metadata: stored.subscription,
        }],
        assignment: stored.assignment,
        new: false,
        joining: None,
        syncing: None,
        owes_sync: false,
        session_deadline: 0,
    }
}
