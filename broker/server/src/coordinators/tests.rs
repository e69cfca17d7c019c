//! A whole node on a socket, asked as clients ask: what its groups promise must hold through restarts.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteGroupsRequest, DeleteTopicsRequest, DescribeGroupsRequest,
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest, RequestHeader,
    ResponseHeader, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::config::Config;
use crate::node::Node;
use crate::wire::ErrorCode;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(text("readers"))
}

fn start(dir: &Path) -> Node {
    start_with(dir, "os")
}

fn start_with(dir: &Path, flush: &str) -> Node {
    let dir = dir.to_str().unwrap();
    let pairs = [
        ("listeners", "PLAINTEXT://127.0.0.1:0"),
        ("log.dirs", dir),
        ("varve.http.listener", "none"),
        ("group.initial.rebalance.delay.ms", "50"),
        ("offsets.topic.num.partitions", "4"),
        ("varve.flush", flush),
    ];
    let begun = Instant::now();
    loop {
        match Node::start(Config::from_properties(&pairs).unwrap()) {
            Ok(node) => return node,
            // The directory's lock goes with the last thread of the node before.
            Err(error)
                if error.to_string().contains("in use") && begun.elapsed() < Duration::from_secs(10) =>
            {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error:#}"),
        }
    }
}

struct Client(TcpStream);

impl Client {
    fn of(node: &Node) -> Self {
        Self::at(node.bootstrap())
    }

    fn at(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut body = BytesMut::new();
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(text("test")));
        header.encode(&mut body, R::header_version(version)).unwrap();
        request.encode(&mut body, version).unwrap();
        self.0
            .write_all(&u32::try_from(body.len()).unwrap().to_be_bytes())
            .unwrap();
        self.0.write_all(&body).unwrap();
    }

    fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut frame).unwrap();
        let mut frame = Bytes::from(frame);
        ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
        R::Response::decode(&mut frame, version).unwrap()
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// Asks again while the coordinator is being found or loaded, as clients do.
    fn patiently<R: Request>(
        &mut self,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> R::Response {
        let begun = Instant::now();
        loop {
            let answer = self.call(version, request);
            let wait = [
                ErrorCode::CoordinatorLoadInProgress,
                ErrorCode::CoordinatorNotAvailable,
            ]
            .map(ErrorCode::code);
            if !wait.contains(&code(&answer)) {
                return answer;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the coordinator does not get ready"
            );
            std::thread::yield_now();
        }
    }

    fn create_topic(&mut self) {
        let topic = CreatableTopic::default()
            .with_name(TopicName(text("orders")))
            .with_num_partitions(2)
            .with_replication_factor(1);
        let answer = self.call(
            5,
            &CreateTopicsRequest::default()
                .with_topics(vec![topic])
                .with_timeout_ms(5_000),
        );
        assert_eq!(answer.topics[0].error_code, 0);
    }

    fn find(&mut self) {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("readers")]);
        let answer = self.call(4, &request);
        assert_eq!(
            (
                answer.coordinators[0].error_code,
                answer.coordinators[0].node_id.0
            ),
            (0, 1)
        );
    }

    /// Joins as a new member, whichever way the version has it.
    fn join(&mut self, version: i16) -> JoinGroupResponse {
        let answer = self.call(version, &join(""));
        if answer.error_code != ErrorCode::MemberIdRequired.code() {
            return answer;
        }
        let member_id = answer.member_id.to_string();
        self.call(version, &join(&member_id))
    }

    fn commit(&mut self, member: &str, generation: i32, offset: i64) -> i16 {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("note")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("orders")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_member_id(text(member))
            .with_generation_id_or_member_epoch(generation)
            .with_topics(vec![topic]);
        let answer = self.patiently(8, &request, |answer| answer.topics[0].partitions[0].error_code);
        answer.topics[0].partitions[0].error_code
    }

    /// What is committed for `orders-1`.
    fn committed(&mut self) -> i64 {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(TopicName(text("orders")))
            .with_partition_indexes(vec![1]);
        let request = OffsetFetchRequest::default()
            .with_group_id(group())
            .with_topics(Some(vec![topic]));
        let answer = self.patiently(7, &request, |answer| answer.error_code);
        assert_eq!(answer.error_code, 0);
        answer.topics[0].partitions[0].committed_offset
    }

    fn state(&mut self) -> String {
        let answer = self.call(5, &DescribeGroupsRequest::default().with_groups(vec![group()]));
        answer.groups[0].group_state.to_string()
    }
}

fn join(member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"topics"));
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_member_id(text(member))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

#[test]
fn a_member_joins_commits_and_goes_on_after_a_restart() {
    for flush in ["os", "group"] {
        join_commit_restart(flush);
    }
}

fn join_commit_restart(flush: &str) {
    let home = tempfile::tempdir().unwrap();
    let node = start_with(home.path(), flush);
    let mut client = Client::of(&node);
    client.create_topic();
    client.find();
    let joined = client.join(9);
    assert_eq!(
        (joined.error_code, joined.generation_id, joined.members.len()),
        (0, 1, 1)
    );
    assert_eq!(joined.leader, joined.member_id);
    let member = joined.member_id.to_string();
    let share = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"orders-1"));
    let sync = SyncGroupRequest::default()
        .with_group_id(group())
        .with_generation_id(1)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(vec![share]);
    assert_eq!(client.call(5, &sync).assignment, "orders-1");
    assert_eq!(client.commit(&member, 1, 42), 0);
    assert_eq!(client.commit(&member, 2, 43), ErrorCode::IllegalGeneration.code());
    assert_eq!(client.committed(), 42);
    node.shutdown();

    let node = start_with(home.path(), flush);
    let mut client = Client::of(&node);

    assert_eq!(client.committed(), 42, "never «nothing», not even while loading");
    let heartbeat = HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(1)
        .with_member_id(joined.member_id.clone());
    assert_eq!(
        client.call(4, &heartbeat).error_code,
        0,
        "the member does not notice"
    );
    assert_eq!(client.state(), "Stable");
    let leave = MemberIdentity::default().with_member_id(joined.member_id);
    let left = client.call(
        5,
        &LeaveGroupRequest::default()
            .with_group_id(group())
            .with_members(vec![leave]),
    );
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
    assert_eq!(client.state(), "Empty");
    node.shutdown();
}

#[test]
fn clients_older_than_the_id_they_would_be_told_are_taken_in_at_once() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let mut client = Client::of(&node);
    client.find();
    for version in [0, 1, 3] {
        let mut client = Client::of(&node);
        let answer = client.call(version, &join(""));
        assert_eq!(answer.error_code, 0, "version {version}");
        let leave = LeaveGroupRequest::default()
            .with_group_id(group())
            .with_member_id(answer.member_id);
        assert_eq!(client.call(1, &leave).error_code, 0);
    }
    node.shutdown();
}

#[test]
fn a_second_member_waits_for_the_first_to_join_again() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let (mut first, mut second) = (Client::of(&node), Client::of(&node));
    first.find();
    let leader = first.join(3).member_id.to_string();
    second.send(3, &join(""));
    let heartbeat = HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(1)
        .with_member_id(text(&leader));
    let begun = Instant::now();
    while first.call(0, &heartbeat).error_code != ErrorCode::RebalanceInProgress.code() {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let again = first.call(3, &join(&leader));
    let joined = second.receive::<JoinGroupRequest>(3);
    assert_eq!(
        (
            again.generation_id,
            joined.generation_id,
            again.members.len(),
            joined.members.len()
        ),
        (2, 2, 2, 0)
    );
    assert_eq!(joined.leader.as_str(), leader);
    node.shutdown();
}

#[test]
fn what_was_committed_goes_with_its_group_and_with_its_topic() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let mut client = Client::of(&node);
    client.create_topic();
    client.find();
    assert_eq!(client.commit("", -1, 7), 0, "nobody has joined");
    let listed = client.call(
        4,
        &ListGroupsRequest::default().with_states_filter(vec![text("empty")]),
    );
    assert_eq!(listed.groups.len(), 1);

    let deleted = client.call(
        2,
        &DeleteGroupsRequest::default().with_groups_names(vec![group()]),
    );
    assert_eq!(deleted.results[0].error_code, 0);
    assert_eq!((client.committed(), client.state().as_str()), (-1, "Dead"));
    let again = client.call(
        2,
        &DeleteGroupsRequest::default().with_groups_names(vec![group()]),
    );
    assert_eq!(again.results[0].error_code, ErrorCode::GroupIdNotFound.code());

    assert_eq!(client.commit("", -1, 8), 0);
    let delete = DeleteTopicsRequest::default()
        .with_topic_names(vec![TopicName(text("orders"))])
        .with_timeout_ms(5_000);
    assert_eq!(client.call(3, &delete).responses[0].error_code, 0);
    let begun = Instant::now();
    while client.committed() != -1 {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "offsets of a deleted topic stay"
        );
    }
    node.shutdown();
    let node = start(home.path());
    assert_eq!(Client::of(&node).committed(), -1, "also after a restart");
    node.shutdown();
}

#[test]
fn requests_of_nobody_s_group_are_refused_as_kafka_does() {
    let home = tempfile::tempdir().unwrap();
    let node = start(home.path());
    let mut client = Client::of(&node);
    let early = client.call(3, &join(""));
    assert_eq!(
        early.error_code,
        ErrorCode::NotCoordinator.code(),
        "nobody has asked for a coordinator yet"
    );
    client.find();
    let nameless = client.call(3, &join("").with_group_id(GroupId(text(""))));
    assert_eq!(nameless.error_code, ErrorCode::InvalidGroupId.code());
    let stranger = client.call(3, &join("stranger"));
    assert_eq!(stranger.error_code, ErrorCode::UnknownMemberId.code());
    let described = client.call(6, &DescribeGroupsRequest::default().with_groups(vec![group()]));
    assert_eq!(described.groups[0].error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(client.call(4, &ListGroupsRequest::default()).groups.len(), 0);
    node.shutdown();
}
