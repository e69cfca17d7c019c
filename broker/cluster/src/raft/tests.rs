//! Short stories of a few replicas. The long ones, with everything that can go wrong, are the simulator's.

use bytes::Bytes;
use uuid::Uuid;
use varve_log::{LeaderEpoch, Offset};

use super::*;

fn key(id: i32) -> ReplicaKey {
    let directory = Uuid::from_u128(u128::from(id.unsigned_abs()) + 1);
    ReplicaKey {
        id: NodeId::new(id),
        directory,
    }
}

fn config(id: i32) -> Config {
    Config {
        me: key(id),
        bootstrap: vec![],
        election_timeout: 1_000,
        fetch_timeout: 2_000,
        request_timeout: 1_500,
        fetch_wait: 500,
        retry_backoff: 20,
        fetch_entries_max: 100,
        snapshot_chunk_bytes_max: 1_000,
        entries_behind_snapshot: 0,
        proposals_max: 2,
        seed: u64::from(id.unsigned_abs()) + 7,
    }
}

fn voters(ids: &[i32]) -> VoterSet {
    VoterSet::new(ids.iter().map(|id| (key(*id), "host:9093".into())))
}

fn formatted(ids: &[i32]) -> Stored {
    let snapshot = Snapshot {
        voters: voters(ids),
        ..Snapshot::default()
    };
    Stored {
        snapshot,
        ..Stored::default()
    }
}

/// A replica whose disk does everything at once, unless it is told to hold still.
struct Replica {
    node: Node,
    now: i64,
    sent: Vec<Envelope>,
    answers: Vec<(Ticket, Answer)>,
    unsynced: u64,
    disk_holds_still: bool,
}

impl Replica {
    fn start(id: i32, stored: Stored) -> Self {
        let mut effects = vec![];
        let node = Node::new(config(id), stored, 0, &mut effects).unwrap();
        let mut replica = Self {
            node,
            now: 0,
            sent: vec![],
            answers: vec![],
            unsynced: 0,
            disk_holds_still: false,
        };
        replica.carry_out(effects);
        replica
    }

    fn step(&mut self, event: Event) {
        let mut effects = vec![];
        self.node.step(self.now, event, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Write { number, .. } => self.unsynced = number,
                Effect::Send(envelope) => self.sent.push(envelope),
                Effect::Answer { ticket, answer } => self.answers.push((ticket, answer)),
                Effect::Committed { .. } | Effect::Load(_) | Effect::Became { .. } => {}
            }
        }
        if self.unsynced > 0 && !self.disk_holds_still {
            self.sync();
        }
    }

    fn sync(&mut self) {
        let number = std::mem::take(&mut self.unsynced);
        self.step(Event::Written(number));
    }

    fn wait(&mut self, milliseconds: i64) {
        self.now += milliseconds;
        self.step(Event::Tick);
    }

    fn propose(&mut self, ticket: u64) {
        let command = Bytes::from_static(b"command");
        self.step(Event::Propose {
            ticket: Ticket(ticket),
            command,
        });
    }

    fn receive(&mut self, from: i32, epoch: i32, message: Message) {
        let envelope = Envelope {
            from: key(from),
            to: self.node.config.me.id,
            id: 1,
            epoch: LeaderEpoch::new(epoch),
            message,
        };
        self.step(Event::Received(envelope));
    }
}

/// Carries messages between the replicas until none is under way.
fn talk(replicas: &mut [Replica]) {
    loop {
        let sent: Vec<Envelope> = replicas
            .iter_mut()
            .flat_map(|replica| std::mem::take(&mut replica.sent))
            .collect();
        if sent.is_empty() {
            return;
        }
        for envelope in sent {
            if let Some(to) = replicas
                .iter_mut()
                .find(|replica| replica.node.config.me.id == envelope.to)
            {
                to.step(Event::Received(envelope));
            }
        }
    }
}

fn three() -> Vec<Replica> {
    let mut replicas: Vec<Replica> = (1..=3)
        .map(|id| Replica::start(id, formatted(&[1, 2, 3])))
        .collect();
    replicas[0].wait(2_000);
    talk(&mut replicas);
    assert!(replicas[0].node.is_leader());
    replicas
}

fn pre_vote_of(voter: i32, log_end: Position) -> Message {
    Message::Vote(VoteRequest {
        voter: key(voter),
        pre_vote: true,
        log_end,
    })
}

#[test]
fn a_quorum_of_one_leads_at_once_and_sends_nothing() {
    let mut replica = Replica::start(1, formatted(&[1]));
    assert!(replica.node.is_leader());
    replica.propose(1);
    assert_eq!(
        replica.answers,
        [(
            Ticket(1),
            Answer::Committed {
                offset: Offset::new(1)
            }
        )]
    );
    assert!(replica.sent.is_empty());
}

#[test]
fn what_three_agree_on_is_committed_on_all_of_them() {
    let mut replicas = three();
    replicas[0].propose(1);
    talk(&mut replicas);
    assert_eq!(
        replicas[0].answers,
        [(
            Ticket(1),
            Answer::Committed {
                offset: Offset::new(1)
            }
        )]
    );
    for replica in &replicas {
        assert_eq!(replica.node.high_watermark(), Offset::new(2));
    }
}

#[test]
fn a_vote_is_on_the_disk_before_it_is_sent() {
    let mut voter = Replica::start(2, formatted(&[1, 2, 3]));
    voter.disk_holds_still = true;
    let request = VoteRequest {
        voter: key(2),
        pre_vote: false,
        log_end: Position::default(),
    };
    voter.sent.clear();
    voter.receive(1, 1, Message::Vote(request));
    assert!(voter.sent.is_empty());
    voter.sync();
    let granted = |envelope: &Envelope| matches!(&envelope.message, Message::VoteResponse(r) if r.granted);
    assert!(voter.sent.iter().any(granted));
}

#[test]
fn a_follower_acknowledges_nothing_that_is_not_on_its_disk() {
    let mut replicas = three();
    for follower in [1, 2] {
        replicas[follower].disk_holds_still = true;
    }
    replicas[0].propose(1);
    talk(&mut replicas);
    assert!(replicas[0].answers.is_empty());
    replicas[1].sync();
    talk(&mut replicas);
    assert_eq!(replicas[0].answers.len(), 1);
}

#[test]
fn a_voter_that_hears_from_its_leader_grants_no_pre_vote() {
    let mut replicas = three();
    let log_end = replicas[2].node.log_end();
    replicas[1].receive(3, 1, pre_vote_of(2, log_end));
    let refused = |envelope: &Envelope| matches!(&envelope.message, Message::VoteResponse(r) if !r.granted);
    assert!(replicas[1].sent.iter().any(refused));
    assert_eq!(replicas[1].node.epoch(), LeaderEpoch::new(1));
}

#[test]
fn a_vote_for_another_disk_is_not_given() {
    let mut voter = Replica::start(2, Stored::default());
    let lost = ReplicaKey {
        id: NodeId::new(2),
        directory: Uuid::from_u128(99),
    };
    let request = VoteRequest {
        voter: lost,
        pre_vote: false,
        log_end: Position::default(),
    };
    voter.receive(1, 1, Message::Vote(request));
    let granted = |envelope: &Envelope| matches!(&envelope.message, Message::VoteResponse(r) if r.granted);
    assert!(!voter.sent.iter().any(granted));
}

#[test]
fn a_leader_that_nobody_asks_resigns_and_does_not_know_what_became_of_its_proposals() {
    let mut replicas = three();
    replicas[0].propose(1);
    replicas[0].wait(3_001);
    assert!(!replicas[0].node.is_leader());
    assert_eq!(replicas[0].answers, [(Ticket(1), Answer::Unknown)]);
}

#[test]
fn the_leader_refuses_more_than_it_may_hold() {
    let mut replicas = three();
    for ticket in 1..=3 {
        replicas[0].propose(ticket);
    }
    assert_eq!(replicas[0].answers, [(Ticket(3), Answer::Refused(Refusal::Busy))]);
}

#[test]
fn an_observer_gets_a_vote_once_it_has_caught_up() {
    let mut replicas = three();
    let add = |ticket| Event::AddVoter {
        ticket: Ticket(ticket),
        voter: key(4),
        address: "host:9093".into(),
    };
    replicas[0].step(add(1));
    assert_eq!(
        replicas[0].answers,
        [(Ticket(1), Answer::Refused(Refusal::NotCaughtUp))]
    );
    let mut observer = Replica::start(4, Stored::default());
    observer.node.config.bootstrap = vec![NodeId::new(1)];
    observer.wait(30);
    replicas.push(observer);
    talk(&mut replicas);
    assert_eq!(replicas[3].node.high_watermark(), Offset::new(1));
    replicas[0].step(add(2));
    talk(&mut replicas);
    assert_eq!(
        replicas[0].answers[1],
        (
            Ticket(2),
            Answer::Committed {
                offset: Offset::new(1)
            }
        )
    );
    assert_eq!(replicas[3].node.voters(), &voters(&[1, 2, 3, 4]));
}

#[test]
fn who_comes_late_loads_the_snapshot() {
    let mut replicas = three();
    replicas[0].propose(1);
    talk(&mut replicas);
    let image = Bytes::from(vec![7; 2_500]);
    replicas[0].step(Event::SnapshotTaken {
        end: Offset::new(2),
        image: image.clone(),
    });
    assert_eq!(replicas[0].node.log_start(), Offset::new(2));
    let mut observer = Replica::start(4, Stored::default());
    observer.node.config.bootstrap = vec![NodeId::new(1)];
    observer.wait(30);
    replicas.push(observer);
    talk(&mut replicas);
    assert_eq!(replicas[3].node.snapshot().image, image);
    assert_eq!(replicas[3].node.high_watermark(), Offset::new(2));
    assert_eq!(replicas[3].node.voters(), &voters(&[1, 2, 3]));
}

#[test]
fn a_disk_that_has_lost_the_middle_of_the_log_is_refused() {
    let stored = Stored {
        log_start: Position {
            end: Offset::new(5),
            epoch: LeaderEpoch::new(1),
        },
        ..formatted(&[1])
    };
    assert!(Node::new(config(1), stored, 0, &mut vec![]).is_err());
}

#[test]
fn a_read_is_confirmed_by_who_still_follows() {
    let mut replicas = three();
    replicas[0].step(Event::Confirm { ticket: Ticket(1) });
    assert!(replicas[0].answers.is_empty());
    talk(&mut replicas);
    let high_watermark = Offset::new(1);
    assert_eq!(
        replicas[0].answers,
        [(Ticket(1), Answer::Confirmed { high_watermark })]
    );
}

fn gone(leader: i32) -> Event {
    Event::Unanswered {
        to: NodeId::new(leader),
        id: 0,
        refused: true,
    }
}

#[test]
fn a_leader_whose_process_is_gone_is_not_waited_for() {
    let mut replicas = three();
    let mut others = replicas.split_off(1);
    for replica in &mut others {
        replica.step(gone(1));
    }
    others[0].wait(250);
    talk(&mut others);
    assert!(others[0].node.is_leader());
}

#[test]
fn a_leader_that_only_one_follower_takes_for_gone_stays() {
    let mut replicas = three();
    let epoch = replicas[0].node.epoch();
    replicas[1].step(gone(1));
    replicas[1].wait(250);
    assert_eq!(replicas[1].node.role(), RoleName::Prospective);
    talk(&mut replicas);
    assert!(replicas[0].node.is_leader());
    assert_eq!(replicas[0].node.epoch(), epoch);
}
