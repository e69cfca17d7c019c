//! The rules of research on clients (G28 to G37), one by one, and random histories against what must always hold.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::offsets::Aging;
use super::records::Key;
use super::shard::{Change, Loading};
use super::*;

const SETTINGS: Settings = Settings {
    initial_rebalance_delay_ms: 3_000,
    session_timeout_min_ms: 6_000,
    session_timeout_max_ms: 1_800_000,
    size_max: 100,
};

/// A group, its clock, and a log that takes everything at once unless told not to.
struct World {
    group: Group,
    now: i64,
    next: u64,
    joined: BTreeMap<u64, Result<JoinAnswer, JoinRefused>>,
    synced: BTreeMap<u64, Result<SyncAnswer, GroupError>>,
    log: Vec<records::GroupValue>,
    log_works: bool,
    /// Stores that wait because `hold` was asked for.
    held: Vec<StoreId>,
    hold: bool,
}

fn protocols(names: &[&str]) -> Vec<Protocol> {
    let metadata = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't']);
    names
        .iter()
        .map(|name| Protocol {
            name: (*name).to_owned(),
            metadata: metadata.clone(),
        })
        .collect()
}

impl World {
    fn new() -> Self {
        Self::with(SETTINGS)
    }

    fn with(settings: Settings) -> Self {
        Self {
            group: Group::new("g", settings, 0),
            now: 0,
            next: 0,
            joined: BTreeMap::new(),
            synced: BTreeMap::new(),
            log: Vec::new(),
            log_works: true,
            held: Vec::new(),
            hold: false,
        }
    }

    fn request(&mut self, member: &str) -> Join {
        self.next += 1;
        Join {
            ticket: Ticket(self.next),
            member_id: member.to_owned(),
            fresh_member_id: format!("m{}", self.next),
            instance_id: None,
            client_id: "client".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: protocols(&["range"]),
            knows_member_id_required: false,
            knows_skip_assignment: false,
        }
    }

    fn join_with(&mut self, member: &str, change: impl FnOnce(&mut Join)) -> u64 {
        let mut join = self.request(member);
        change(&mut join);
        let ticket = join.ticket.0;
        let mut effects = Vec::new();
        self.group.join(join, self.now, &mut effects);
        self.carry_out(effects);
        ticket
    }

    fn join(&mut self, member: &str) -> u64 {
        self.join_with(member, |_| {})
    }

    fn sync(&mut self, member: &str, assignments: &[(&str, &str)]) -> u64 {
        let generation = self.group.generation();
        self.sync_at(member, generation, assignments)
    }

    fn sync_at(&mut self, member: &str, generation: i32, assignments: &[(&str, &str)]) -> u64 {
        self.next += 1;
        let sync = Sync {
            ticket: Ticket(self.next),
            caller: Caller {
                member_id: member.to_owned(),
                instance_id: None,
                generation,
            },
            protocol_type: None,
            protocol: None,
            assignments: assignments
                .iter()
                .map(|(id, bytes)| ((*id).to_owned(), Bytes::copy_from_slice(bytes.as_bytes())))
                .collect(),
        };
        let mut effects = Vec::new();
        self.group.sync(sync, self.now, &mut effects);
        self.carry_out(effects);
        self.next
    }

    fn caller(&self, member: &str) -> Caller {
        Caller {
            member_id: member.to_owned(),
            instance_id: None,
            generation: self.group.generation(),
        }
    }

    fn heartbeat(&mut self, member: &str) -> Result<(), GroupError> {
        let caller = self.caller(member);
        self.group.heartbeat(&caller, self.now)
    }

    fn leave(&mut self, member: &str) -> Result<(), GroupError> {
        let leaver = Leaver {
            member_id: member.to_owned(),
            instance_id: None,
        };
        let mut effects = Vec::new();
        let answers = self.group.leave(&[leaver], self.now, &mut effects);
        self.carry_out(effects);
        answers?[0]
    }

    /// Time passes, timer by timer.
    fn pass(&mut self, ms: i64) {
        let until = self.now + ms;
        while let Some(deadline) = self.group.next_deadline().filter(|deadline| *deadline <= until) {
            assert!(deadline >= self.now || self.now == until || deadline >= 0);
            self.now = deadline.max(self.now);
            let mut effects = Vec::new();
            self.group.tick(self.now, &mut effects);
            self.carry_out(effects);
            let stuck = self.group.next_deadline().is_some_and(|next| next <= deadline);
            assert!(!stuck, "a timer does not move on: {deadline}");
        }
        self.now = until;
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Joined { ticket, answer } => {
                    assert!(
                        self.joined.insert(ticket.0, answer).is_none(),
                        "answered twice: {ticket:?}"
                    );
                }
                Effect::Synced { ticket, answer } => {
                    assert!(
                        self.synced.insert(ticket.0, answer).is_none(),
                        "answered twice: {ticket:?}"
                    );
                }
                Effect::Store { id, value } => {
                    self.log.push(value);
                    self.held.push(id);
                }
            }
        }
        if !self.hold {
            self.release();
        }
    }

    /// The log answers what it was given.
    fn release(&mut self) {
        for id in std::mem::take(&mut self.held) {
            let outcome = if self.log_works {
                Ok(())
            } else {
                Err(GroupError::NotStored)
            };
            let mut effects = Vec::new();
            self.group.stored(id, outcome, self.now, &mut effects);
            self.carry_out(effects);
        }
    }

    fn answer(&self, ticket: u64) -> &JoinAnswer {
        self.joined[&ticket].as_ref().unwrap()
    }

    fn refusal(&self, ticket: u64) -> GroupError {
        self.joined[&ticket].as_ref().unwrap_err().error
    }

    /// A stable group of `count` members; returns their ids, the leader first.
    fn stable(count: usize) -> (Self, Vec<String>) {
        let mut world = Self::new();
        let tickets: Vec<u64> = (0..count).map(|_| world.join("")).collect();
        world.pass(10_000);
        let mut ids: Vec<String> = tickets
            .iter()
            .map(|t| world.answer(*t).member_id.clone())
            .collect();
        let leader = world.group.leader().unwrap().to_owned();
        ids.sort_by_key(|id| *id != leader);
        let shares: Vec<(String, String)> = ids
            .iter()
            .map(|id| (id.clone(), format!("share of {id}")))
            .collect();
        let shares: Vec<(&str, &str)> = shares
            .iter()
            .map(|(id, share)| (id.as_str(), share.as_str()))
            .collect();
        for id in ids.iter().rev() {
            world.sync(id, if *id == leader { &shares } else { &[] });
        }
        assert_eq!(world.group.state(), GroupState::Stable);
        (world, ids)
    }
}

#[test]
fn a_new_group_waits_for_more_members_then_elects_one_leader() {
    let mut world = World::new();
    let first = world.join("");
    world.pass(2_000);
    let second = world.join("");
    assert!(world.joined.is_empty(), "both wait");

    world.pass(10_000);

    let (one, two) = (world.answer(first).clone(), world.answer(second).clone());
    assert_eq!((one.generation, two.generation), (1, 1));
    assert_eq!((&one.leader, &two.leader), (&one.member_id, &one.member_id));
    assert_eq!(
        (one.members.len(), two.members.len()),
        (2, 0),
        "only the leader sees the others"
    );
    assert_eq!(one.protocol.as_deref(), Some("range"));
}

#[test]
fn the_initial_delay_grows_with_members_but_ends() {
    let mut world = World::new();
    let first = world.join_with("", |join| join.rebalance_timeout_ms = 7_000);
    for _ in 0..20 {
        world.pass(1_000);
        if world.joined.contains_key(&first) {
            break;
        }
        world.join_with("", |join| join.rebalance_timeout_ms = 7_000);
    }
    assert_eq!(world.now, 7_000);
}

#[test]
fn without_a_delay_the_first_member_starts_at_once() {
    let mut world = World::with(Settings {
        initial_rebalance_delay_ms: 0,
        ..SETTINGS
    });
    let first = world.join("");
    assert_eq!(world.answer(first).generation, 1);
}

#[test]
fn assignments_reach_each_member_once_they_are_stored() {
    let mut world = World::new();
    let (one, two) = (world.join(""), world.join(""));
    world.pass(10_000);
    let leader = world.group.leader().unwrap().to_owned();
    let ids = [one, two].map(|ticket| world.answer(ticket).member_id.clone());
    let follower = ids.iter().find(|id| **id != leader).unwrap().clone();

    let waits = world.sync(&follower, &[]);
    assert!(!world.synced.contains_key(&waits));
    world.hold = true;
    let leads = world.sync(&leader, &[(&leader, "a"), (&follower, "b"), ("nobody", "c")]);
    assert!(world.synced.is_empty(), "not before it is stored");
    world.hold = false;
    world.release();

    assert_eq!(world.synced[&leads].as_ref().unwrap().assignment, "a");
    assert_eq!(world.synced[&waits].as_ref().unwrap().assignment, "b");
    let stored = world.log.last().unwrap();
    assert_eq!(
        (stored.generation, stored.members.len(), stored.leader.as_ref()),
        (1, 2, Some(&leader))
    );
}

#[test]
fn an_assignment_that_cannot_be_stored_is_nobody_s() {
    let mut world = World::new();
    let one = world.join("");
    world.pass(10_000);
    let id = world.answer(one).member_id.clone();
    world.log_works = false;
    let sync = world.sync(&id, &[(&id, "a")]);
    assert_eq!(world.synced[&sync], Err(GroupError::NotStored));
    assert_eq!(world.group.state(), GroupState::PreparingRebalance);

    world.log_works = true;
    let again = world.join(&id);
    assert_eq!(world.answer(again).generation, 2);
}

#[test]
fn a_third_member_makes_the_others_join_again() {
    let (mut world, ids) = World::stable(2);
    assert_eq!(world.heartbeat(&ids[0]), Ok(()));

    let third = world.join("");

    assert_eq!(world.heartbeat(&ids[0]), Err(GroupError::RebalanceInProgress));
    let caller = world.caller(&ids[1]);
    assert_eq!(
        world.group.check_commit(&caller, world.now),
        Ok(()),
        "commits still count while preparing"
    );
    let tickets = [world.join(&ids[0]), world.join(&ids[1])];
    assert_eq!(world.answer(third).generation, 2);
    assert_eq!(tickets.map(|ticket| world.answer(ticket).generation), [2, 2]);
    let caller = world.caller(&ids[1]);
    assert_eq!(
        world.group.check_commit(&caller, world.now),
        Err(GroupError::RebalanceInProgress)
    );
    assert_eq!(world.group.leader(), Some(ids[0].as_str()), "the leader stays");
}

#[test]
fn who_does_not_join_again_in_time_is_out() {
    let (mut world, ids) = World::stable(2);
    world.join("");
    world.join(&ids[0]);
    for _ in 0..12 {
        world.pass(5_000);
        let _ = world.heartbeat(&ids[1]);
    }
    assert_eq!(world.group.state(), GroupState::CompletingRebalance);
    assert_eq!(world.heartbeat(&ids[1]), Err(GroupError::UnknownMember));
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let (mut world, ids) = World::stable(2);
    world.pass(6_000);
    world.heartbeat(&ids[0]).unwrap();
    world.pass(6_000);
    assert_eq!(world.group.state(), GroupState::PreparingRebalance);
    let again = world.join(&ids[0]);
    assert_eq!(world.answer(again).members.len(), 1);
    assert_eq!(world.heartbeat(&ids[1]), Err(GroupError::UnknownMember));
}

#[test]
fn a_commit_is_a_sign_of_life() {
    let (mut world, ids) = World::stable(1);
    for _ in 0..5 {
        world.pass(6_000);
        let caller = world.caller(&ids[0]);
        world.group.check_commit(&caller, world.now).unwrap();
    }
    assert_eq!(world.group.state(), GroupState::Stable);
}

#[test]
fn who_never_fetches_its_assignment_is_out() {
    let mut world = World::new();
    let (one, two) = (world.join(""), world.join(""));
    world.pass(10_000);
    let ids = [one, two].map(|ticket| world.answer(ticket).member_id.clone());
    let leader = world.group.leader().unwrap().to_owned();
    let other = ids.iter().find(|id| **id != leader).unwrap();
    world.sync(&leader, &[]);
    assert_eq!(world.group.state(), GroupState::Stable);
    for _ in 0..13 {
        world.pass(5_000);
        let _ = world.heartbeat(&leader);
        let _ = world.heartbeat(other);
    }
    assert_eq!(world.heartbeat(other), Err(GroupError::UnknownMember));
}

#[test]
fn the_last_one_out_leaves_an_empty_group_that_remembers_its_generation() {
    let (mut world, ids) = World::stable(1);
    world.leave(&ids[0]).unwrap();
    assert_eq!(
        (world.group.state(), world.group.generation()),
        (GroupState::Empty, 2)
    );
    assert_eq!(world.log.last().unwrap().members.len(), 0);
    assert_eq!(world.group.aging(), Aging::Since(world.now));
    assert_eq!(world.leave(&ids[0]), Err(GroupError::UnknownMember));
}

#[test]
fn newer_clients_are_told_their_id_first_and_older_ones_never() {
    let mut world = World::new();
    let told = world.join_with("", |join| join.knows_member_id_required = true);
    let refused = world.joined[&told].clone().unwrap_err();
    assert_eq!(refused.error, GroupError::MemberIdRequired);
    let with_id = world.join_with(&refused.member_id, |join| join.knows_member_id_required = true);
    let old_client = world.join("");
    world.pass(10_000);
    assert_eq!(world.answer(with_id).member_id, refused.member_id);
    assert_eq!(world.answer(old_client).generation, 1);
}

#[test]
fn a_member_that_was_told_its_id_and_never_came_holds_nobody_up_for_long() {
    let (mut world, ids) = World::stable(1);
    world.join_with("", |join| join.knows_member_id_required = true);
    let again = world.join(&ids[0]);
    assert!(
        !world.joined.contains_key(&again),
        "the announced one is waited for"
    );
    world.pass(10_001);
    assert_eq!(world.answer(again).generation, 2);
}

#[test]
fn requests_of_another_generation_or_of_strangers_are_refused() {
    let (mut world, ids) = World::stable(2);
    let old = Caller {
        generation: 0,
        ..world.caller(&ids[0])
    };
    assert_eq!(
        world.group.heartbeat(&old, world.now),
        Err(GroupError::IllegalGeneration)
    );
    assert_eq!(
        world.group.check_commit(&old, world.now),
        Err(GroupError::IllegalGeneration)
    );
    let late = world.sync_at(&ids[0], 0, &[]);
    assert_eq!(world.synced[&late], Err(GroupError::IllegalGeneration));
    assert_eq!(world.heartbeat("stranger"), Err(GroupError::UnknownMember));
    let join = world.join("stranger");
    assert_eq!(world.refusal(join), GroupError::UnknownMember);
    let anonymous = Caller {
        member_id: String::new(),
        instance_id: None,
        generation: -1,
    };
    assert_eq!(
        world.group.check_commit(&anonymous, world.now),
        Err(GroupError::UnknownMember)
    );
}

#[test]
fn anybody_may_commit_to_a_group_nobody_has_joined() {
    let mut world = World::new();
    let anonymous = Caller {
        member_id: String::new(),
        instance_id: None,
        generation: -1,
    };
    assert_eq!(world.group.check_commit(&anonymous, 0), Ok(()));
    let member = Caller {
        generation: 3,
        ..anonymous
    };
    assert_eq!(
        world.group.check_commit(&member, 0),
        Err(GroupError::UnknownMember)
    );
    assert_eq!(world.group.aging(), Aging::EachFromCommit);
}

#[test]
fn the_protocol_is_one_that_all_speak_and_most_prefer() {
    let mut world = World::new();
    let first = world.join_with("", |join| {
        join.protocols = protocols(&["roundrobin", "range", "sticky"])
    });
    world.join_with("", |join| join.protocols = protocols(&["range", "sticky"]));
    world.join_with("", |join| join.protocols = protocols(&["sticky", "range"]));
    world.pass(7_000);
    assert_eq!(world.answer(first).protocol.as_deref(), Some("range"));

    let stranger = world.join_with("", |join| join.protocols = protocols(&["roundrobin"]));
    assert_eq!(world.refusal(stranger), GroupError::InconsistentProtocol);
    let connect = world.join_with("", |join| join.protocol_type = "connect".into());
    assert_eq!(world.refusal(connect), GroupError::InconsistentProtocol);
}

#[test]
fn a_sync_that_names_another_protocol_is_refused() {
    let (mut world, ids) = World::stable(1);
    let mut effects = Vec::new();
    let sync = Sync {
        ticket: Ticket(99),
        caller: world.caller(&ids[0]),
        protocol_type: Some("consumer".into()),
        protocol: Some("sticky".into()),
        assignments: vec![],
    };
    world.group.sync(sync, world.now, &mut effects);
    let expected = Effect::Synced {
        ticket: Ticket(99),
        answer: Err(GroupError::InconsistentProtocol),
    };
    assert_eq!(effects, [expected]);
}

#[test]
fn session_timeouts_out_of_range_and_full_groups_are_refused() {
    let mut world = World::with(Settings {
        size_max: 1,
        ..SETTINGS
    });
    let short = world.join_with("", |join| join.session_timeout_ms = 5_999);
    assert_eq!(world.refusal(short), GroupError::InvalidSessionTimeout);
    world.join("");
    let second = world.join("");
    assert_eq!(world.refusal(second), GroupError::GroupFull);
}

#[test]
fn a_follower_that_joins_a_stable_group_with_nothing_new_disturbs_nobody() {
    let (mut world, ids) = World::stable(2);
    let again = world.join(&ids[1]);
    assert_eq!(
        (world.answer(again).generation, world.group.state()),
        (1, GroupState::Stable)
    );
    let changed = world.join_with(&ids[1], |join| join.protocols = protocols(&["range", "sticky"]));
    assert!(!world.joined.contains_key(&changed));
    assert_eq!(world.group.state(), GroupState::PreparingRebalance);
}

#[test]
fn a_leader_that_joins_again_asks_for_a_rebalance() {
    let (mut world, ids) = World::stable(2);
    let leader = world.join(&ids[0]);
    assert_eq!(world.group.state(), GroupState::PreparingRebalance);
    world.join(&ids[1]);
    assert_eq!(world.answer(leader).generation, 2);
}

#[test]
fn a_cooperative_member_may_join_again_at_once() {
    let (mut world, ids) = World::stable(2);
    for generation in 2..5 {
        let tickets = [world.join(&ids[0]), world.join(&ids[1])];
        assert_eq!(
            tickets.map(|ticket| world.answer(ticket).generation),
            [generation; 2]
        );
        world.sync(&ids[1], &[]);
        world.sync(&ids[0], &[]);
    }
}

fn static_join(instance: &str) -> impl FnOnce(&mut Join) + '_ {
    move |join| {
        join.instance_id = Some(instance.to_owned());
        join.knows_skip_assignment = true;
    }
}

/// Two static members `a` and `b`, stable; returns their member ids.
fn static_pair() -> (World, [String; 2]) {
    let mut world = World::new();
    let tickets = [
        world.join_with("", static_join("a")),
        world.join_with("", static_join("b")),
    ];
    world.pass(10_000);
    let ids = tickets.map(|ticket| world.answer(ticket).member_id.clone());
    world.sync(&ids[1], &[]);
    world.sync(&ids[0], &[(&ids[0], "for a"), (&ids[1], "for b")]);
    assert_eq!(
        (world.group.state(), world.group.leader()),
        (GroupState::Stable, Some(ids[0].as_str()))
    );
    (world, ids)
}

#[test]
fn a_static_member_comes_back_to_its_assignment_without_a_rebalance() {
    let (mut world, ids) = static_pair();

    let back = world.join_with("", static_join("b"));

    let answer = world.answer(back).clone();
    assert_eq!((answer.generation, world.group.state()), (1, GroupState::Stable));
    assert_ne!(answer.member_id, ids[1]);
    let sync = world.sync(&answer.member_id, &[]);
    assert_eq!(world.synced[&sync].as_ref().unwrap().assignment, "for b");
    let stored = world.log.last().unwrap();
    assert!(
        stored
            .members
            .iter()
            .any(|member| member.id == answer.member_id && member.assignment == "for b")
    );

    let old = Caller {
        instance_id: Some("b".into()),
        ..world.caller(&ids[1])
    };
    assert_eq!(
        world.group.heartbeat(&old, world.now),
        Err(GroupError::FencedInstance)
    );
    assert_eq!(world.heartbeat(&ids[1]), Err(GroupError::UnknownMember));
}

#[test]
fn a_static_leader_comes_back_as_leader_only_if_it_knows_not_to_assign() {
    let (mut world, ids) = static_pair();
    let back = world.join_with("", static_join("a"));
    let answer = world.answer(back).clone();
    assert!(answer.skip_assignment && answer.leader == answer.member_id && answer.members.len() == 2);

    let older = world.join_with("", |join| join.instance_id = Some("a".to_owned()));
    let older = world.answer(older).clone();
    assert!(!older.skip_assignment && older.leader != older.member_id && older.members.is_empty());
    assert_ne!(older.leader, ids[0]);
}

#[test]
fn a_static_member_whose_return_cannot_be_stored_has_not_returned() {
    let (mut world, ids) = static_pair();
    world.log_works = false;
    let back = world.join_with("", static_join("a"));
    assert_eq!(world.refusal(back), GroupError::NotStored);
    let old = Caller {
        instance_id: Some("a".into()),
        ..world.caller(&ids[0])
    };
    assert_eq!(world.group.heartbeat(&old, world.now), Ok(()));
    assert_eq!(world.group.leader(), Some(ids[0].as_str()));
}

#[test]
fn a_static_member_that_waits_is_fenced_by_the_process_that_takes_its_place() {
    let mut world = World::new();
    let first = world.join_with("", static_join("a"));
    let second = world.join_with("", static_join("a"));
    assert_eq!(world.refusal(first), GroupError::FencedInstance);
    world.pass(10_000);
    assert_eq!(world.answer(second).generation, 1);
}

#[test]
fn an_absent_static_member_keeps_its_place_through_a_rebalance() {
    let (mut world, ids) = static_pair();
    let third = world.join_with("", static_join("c"));
    for _ in 0..12 {
        world.pass(5_000);
        for id in &ids {
            let _ = world.heartbeat(id);
        }
    }
    assert_eq!(
        world.answer(third).members.len(),
        3,
        "it leads, as the only one who came"
    );
    assert_eq!(world.group.leader(), Some(world.answer(third).member_id.as_str()));
}

#[test]
fn an_operator_removes_a_static_member_by_its_instance_id() {
    let (mut world, _) = static_pair();
    let leavers = ["a", "nobody"].map(|instance| Leaver {
        member_id: String::new(),
        instance_id: Some(instance.to_owned()),
    });
    let mut effects = Vec::new();
    let answers = world.group.leave(&leavers, world.now, &mut effects).unwrap();
    assert_eq!(answers, [Ok(()), Err(GroupError::UnknownMember)]);
    assert_eq!(
        (world.group.state(), world.group.members().count()),
        (GroupState::PreparingRebalance, 1)
    );
}

#[test]
fn only_an_empty_group_is_deleted_and_only_unread_topics_lose_their_offsets() {
    let (mut world, ids) = World::stable(1);
    assert_eq!(world.group.delete(), Err(GroupError::NonEmpty));
    assert_eq!(
        world.group.check_offset_delete("t"),
        Err(GroupError::SubscribedToTopic)
    );
    assert_eq!(world.group.check_offset_delete("other"), Ok(()));
    assert_eq!(world.group.aging(), Aging::OtherTopics(vec!["t"]));
    world.leave(&ids[0]).unwrap();
    assert_eq!(world.group.check_offset_delete("t"), Ok(()));
    assert_eq!(world.group.delete(), Ok(()));
    let join = world.join("");
    assert_eq!(world.refusal(join), GroupError::CoordinatorNotAvailable);
}

#[test]
fn members_of_a_restored_group_go_on_where_they_were() {
    let (world, ids) = World::stable(2);
    let mut again = World::new();
    again.group = Group::restore("g", world.log.last().unwrap().clone(), SETTINGS, 0);
    for id in &ids {
        assert_eq!(again.heartbeat(id), Ok(()));
    }
    let sync = again.sync(&ids[1], &[]);
    assert_eq!(
        again.synced[&sync].as_ref().unwrap().assignment,
        format!("share of {}", ids[1]).as_str()
    );
    again.pass(10_001);
    assert_eq!(
        again.group.state(),
        GroupState::Empty,
        "sessions began anew and are over"
    );
    assert_eq!(again.group.generation(), 2);
}

#[test]
fn a_coordinator_that_resigns_leaves_nobody_waiting() {
    let (mut world, ids) = World::stable(2);
    let waiting = world.join(&ids[0]);
    let mut effects = Vec::new();
    world
        .group
        .resign(GroupError::CoordinatorNotAvailable, &mut effects);
    world.carry_out(effects);
    assert_eq!(world.refusal(waiting), GroupError::CoordinatorNotAvailable);
}

fn committed(at: i64) -> records::OffsetValue {
    records::OffsetValue {
        offset: at,
        leader_epoch: 0,
        metadata: String::new(),
        commit_timestamp: at,
        expire_timestamp: -1,
        topic_id: uuid::Uuid::nil(),
    }
}

#[test]
fn a_shard_is_a_fold_over_its_records_and_can_be_written_anew() {
    let (world, _) = World::stable(2);
    let mut changes = vec![
        Change::offset("g", "t", 0, &committed(10)).unwrap(),
        Change::offset("g", "t", 1, &committed(11)).unwrap(),
        Change::offset("alone", "t", 0, &committed(12)).unwrap(),
        Change::tombstone(&Key::Offset {
            group: "g".into(),
            topic: "t".into(),
            partition: 1,
        })
        .unwrap(),
        Change {
            key: Bytes::from_static(&[0, 3, 0, 1, b'x']),
            value: Some(Bytes::from_static(b"kept")),
        },
    ];
    changes.extend(world.log.iter().map(|value| Change::group("g", value).unwrap()));
    let load = |changes: &[Change]| {
        let mut loading = Loading::default();
        for (at, change) in changes.iter().enumerate() {
            loading
                .replay(i64::try_from(at).unwrap(), &change.key, change.value.as_ref())
                .unwrap();
        }
        loading.finish(SETTINGS, 0)
    };

    let shard = load(&changes);
    assert_eq!(shard.offsets("g").unwrap().get("t", 0).unwrap().offset, 10);
    assert_eq!(shard.offsets("g").unwrap().get("t", 1), None);
    assert_eq!(shard.group("g").unwrap().state(), GroupState::Stable);
    assert_eq!(shard.group("alone").unwrap().state(), GroupState::Empty);

    let anew = shard.live_records().unwrap();
    assert_eq!(anew.len(), 4);
    assert_eq!(load(&anew).live_records().unwrap(), anew);
}

#[test]
fn what_nobody_needs_expires_and_groups_with_nothing_left_go() {
    let (mut world, ids) = World::stable(1);
    world.pass(1_000);
    world.leave(&ids[0]).unwrap();
    let emptied = world.now;
    let mut loading = Loading::default();
    for change in [
        Change::offset("g", "t", 0, &committed(10)).unwrap(),
        Change::group("g", world.log.last().unwrap()).unwrap(),
    ] {
        loading.replay(0, &change.key, change.value.as_ref()).unwrap();
    }
    let mut shard = loading.finish(SETTINGS, emptied);

    assert_eq!(shard.expired(emptied + 99, 100), []);
    let keys = shard.expired(emptied + 100, 100);
    assert_eq!(keys.len(), 2);
    keys.iter().for_each(|key| shard.forget(key, 9));
    assert_eq!(shard.groups().count(), 0);
}

#[derive(Clone, Debug)]
enum Move {
    JoinNew { modern: bool, instance: Option<u8> },
    JoinAgain(usize),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Pass(i64),
    LogFails(bool),
    Hold(bool),
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (any::<bool>(), prop::option::of(0..2u8)).prop_map(|(modern, instance)| Move::JoinNew { modern, instance }),
        6 => (0..6usize).prop_map(Move::JoinAgain),
        6 => (0..6usize).prop_map(Move::Sync),
        3 => (0..6usize).prop_map(Move::Heartbeat),
        2 => (0..6usize).prop_map(Move::Leave),
        3 => (0..15_000i64).prop_map(Move::Pass),
        1 => any::<bool>().prop_map(Move::LogFails),
        1 => any::<bool>().prop_map(Move::Hold),
    ]
}

/// Plays clients: each join that succeeded has an id to go on with.
fn play(world: &mut World, step: &Move) {
    let mut ids: Vec<String> = world.group.members().map(|member| member.id.clone()).collect();
    let told = world
        .joined
        .values()
        .filter_map(|answer| answer.as_ref().err())
        .map(|refused| refused.member_id.clone());
    ids.extend(told.filter(|id| !id.is_empty()).take(2));
    let pick = |at: usize| {
        if ids.is_empty() {
            "stranger".to_owned()
        } else {
            ids[at % ids.len()].clone()
        }
    };
    match step {
        Move::JoinNew { modern, instance } => {
            let (modern, instance) = (*modern, instance.map(|n| format!("i{n}")));
            world.join_with("", |join| {
                join.knows_member_id_required = modern;
                join.knows_skip_assignment = modern;
                join.instance_id = instance;
            });
        }
        Move::JoinAgain(at) => {
            let id = pick(*at);
            let instance = world
                .group
                .members()
                .find(|member| member.id == id)
                .and_then(|m| m.instance_id.clone());
            world.join_with(&id, |join| join.instance_id = instance);
        }
        Move::Sync(at) => {
            let id = pick(*at);
            let shares: Vec<(String, String)> = ids
                .iter()
                .map(|id| (id.clone(), format!("{id} has this")))
                .collect();
            let shares: Vec<(&str, &str)> = shares.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            world.sync(&id, &shares);
        }
        Move::Heartbeat(at) => drop(world.heartbeat(&pick(*at))),
        Move::Leave(at) => drop(world.leave(&pick(*at))),
        Move::Pass(ms) => world.pass(*ms),
        Move::LogFails(fails) => world.log_works = !fails,
        Move::Hold(hold) => {
            world.hold = *hold;
            if !hold {
                world.release();
            }
        }
    }
}

/// What holds after every step.
fn check(world: &World) {
    let group = &world.group;
    let ids: BTreeSet<&str> = group.members().map(|member| member.id.as_str()).collect();
    match group.state() {
        GroupState::Empty => assert!(ids.is_empty()),
        GroupState::PreparingRebalance => {}
        GroupState::CompletingRebalance | GroupState::Stable => {
            assert!(
                group.leader().is_some_and(|leader| ids.contains(leader)),
                "a leader that is a member"
            );
            let protocol = group.protocol().unwrap();
            assert!(
                group
                    .members()
                    .all(|m| m.protocols.iter().any(|p| p.name == protocol))
            );
        }
        GroupState::Dead => panic!("nobody deleted it"),
    }
    let instances: Vec<_> = group
        .members()
        .filter_map(|member| member.instance_id.as_ref())
        .collect();
    assert_eq!(
        instances.len(),
        instances.iter().collect::<BTreeSet<_>>().len(),
        "one member per instance"
    );
    // One leader per generation, and nobody is given somebody else's share.
    let mut leaders: BTreeMap<i32, BTreeSet<&str>> = BTreeMap::new();
    for answer in world.joined.values().flatten() {
        if !answer.members.is_empty() && !answer.skip_assignment {
            leaders
                .entry(answer.generation)
                .or_default()
                .insert(&answer.member_id);
        }
    }
    assert!(leaders.values().all(|leaders| leaders.len() == 1), "{leaders:?}");
    assert!(
        world
            .log
            .windows(2)
            .all(|pair| pair[0].generation <= pair[1].generation)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_clients_do_a_group_keeps_its_rules_and_answers_everybody(
        moves in prop::collection::vec(any_move(), 1..80)
    ) {
        let mut world = World::new();
        let mut generation = 0;
        for step in &moves {
            play(&mut world, step);
            check(&world);
            prop_assert!(world.group.generation() >= generation, "generations only grow");
            generation = world.group.generation();
        }
        // In the end: the log works, nobody says anything any more, and everybody has been answered.
        world.log_works = true;
        world.hold = false;
        world.release();
        world.pass(1_000_000);
        prop_assert_eq!(world.group.state(), GroupState::Empty);
        prop_assert_eq!(world.group.next_deadline(), None);
        let answered = world.joined.len() + world.synced.len();
        prop_assert_eq!(u64::try_from(answered).unwrap(), world.next, "every join and sync has its answer");
    }
}
