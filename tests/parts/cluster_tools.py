"""Three brokers as Kafka's own tools and a consumer group see them: through the loss of a leader and of the controller."""

import json
import pathlib
import random
import re
import threading
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ConfigSource, NewTopic, ResourceType

from harness.cluster import Cluster
from harness.java_tools import tool
from harness.part import Part, run
from harness.place import wait_for
from harness.traffic import Record, consume, produce, read_digest, sent_digest
from harness.wire import LATEST_TIERED, Connection


def prints(part: Part, address: str, name: str, *arguments, want: str) -> str:
    printed = quorum(address, *arguments) if name == "kafka-metadata-quorum" else tool(name, *arguments, "--bootstrap-server", address)
    for pattern in want.splitlines():
        part.check(re.search(pattern, printed, re.M) is not None, f"{name} {' '.join(map(str, arguments))[:60]} prints /{pattern}/", printed[-1200:])
    return printed


def quorum(address: str, *arguments) -> str:
    # This tool wants the address before its subcommand.
    return tool("kafka-metadata-quorum", "--bootstrap-server", address, *arguments)


def quorum_leader(address: str) -> int:
    printed = quorum(address, "describe", "--status")
    return int(re.search(r"LeaderId:\s+(\d+)", printed).group(1))


def ends(address: str) -> list[int]:
    asker = Consumer({"bootstrap.servers": address, "group.id": "ends", "log_level": 0})
    found = [asker.get_watermark_offsets(TopicPartition("orders", p), timeout=30)[1] for p in range(6)]
    asker.close()
    return found


def story(part: Part):
    if part.against_kafka:
        part.say("only Varve's own cluster is started")
        return
    cluster = Cluster(part.directory, bucket=None).start()
    address = cluster.address
    prints(part, address, "kafka-topics", "--create", "--topic", "orders", "--partitions", 6, "--replication-factor", 3, want=r"Created topic orders\.")
    described = prints(part, address, "kafka-topics", "--describe", "--topic", "orders", want="ReplicationFactor: 3")
    leaders = [int(n) for n in re.findall(r"Leader: (\d)", described)]
    part.equal(sorted(set(leaders)), [1, 2, 3], "leaders are spread over the brokers")
    prints(part, address, "kafka-metadata-quorum", "describe", "--status", want="LeaderId:\\s+[123]\nCurrentVoters:.*1.*2.*3\nHighWatermark:\\s+[1-9]")
    prints(part, address, "kafka-metadata-quorum", "describe", "--replication", want="Leader\nFollower")
    part.equal(tool("kafka-topics", "--describe", "--under-replicated-partitions", "--bootstrap-server", address).strip(), "",
               "nothing misses a replica")

    produced, failed = {}, []

    def produce():
        try:
            produced["text"] = tool("kafka-verifiable-producer", "--topic", "orders", "--max-messages", 20000, "--throughput", 2000, "--acks", -1,
                                    "--bootstrap-server", address, seconds=150)
        except Exception as error:
            failed.append(error)
    load = threading.Thread(target=produce)
    load.start()
    wait_for("records", lambda: sum(ends(address)) > 100, 60, pause=0.1)
    controller = quorum_leader(address)
    cluster.number(controller).kill()
    part.say(f"broker {controller}, which led the quorum, is killed under load")
    others = ",".join(b.address for b in cluster.brokers if b is not cluster.number(controller))
    wait_for("another leader of the quorum", lambda: quorum_leader(others) != controller, 60, pause=0.5)
    prints(part, others, "kafka-topics", "--create", "--topic", "meanwhile", "--partitions", 2, "--replication-factor", 2, want="Created topic meanwhile")

    def missing() -> int:
        told = tool("kafka-topics", "--describe", "--under-replicated-partitions", "--bootstrap-server", others)
        return len(re.findall("Topic: orders", told))
    # The new controller gives everybody a whole session first.
    wait_for("all six partitions told as under-replicated", lambda: missing() == 6, 30, pause=0.5)
    part.say("what misses a replica is told")
    cluster.number(controller).start()
    wait_for("everybody in sync again", lambda: cluster.in_sync("orders"), 60, pause=0.2)
    load.join()
    if failed:
        raise failed[0]
    lines = [json.loads(line) for line in produced["text"].splitlines() if line.startswith("{")]
    sent = {int(l["value"]) for l in lines if l["name"] == "producer_send_success"}
    # This producer does not retry: what was on its way to a broker that died is refused, and may be there or not.
    part.check(len(sent) > 10000, f"kafka-verifiable-producer: {len(sent)} records are acknowledged")
    total = sum(ends(address))
    printed = tool("kafka-console-consumer", "--topic", "orders", "--from-beginning", "--timeout-ms", 15000, "--group", "readers",
                   "--max-messages", total, "--bootstrap-server", address)
    read = [int(line) for line in printed.splitlines() if line.isdigit()]
    part.equal((len(read), sent - set(read)), (total, set()), "kafka-console-consumer reads every one of them")
    part.equal(len(read), len(set(read)), "and none of them twice")
    group = tool("kafka-consumer-groups", "--describe", "--group", "readers", "--bootstrap-server", address)
    lags = [int(l.split()[5]) for l in group.splitlines() if re.search(r"\borders\b", l)]
    part.equal(lags, [0] * 6, "its group has no lag")
    coordinator = cluster.leader("__consumer_offsets", group_partition("readers"))
    cluster.number(coordinator).kill()
    others = ",".join(b.address for b in cluster.brokers if b is not cluster.number(coordinator))
    part.say(f"broker {coordinator}, which coordinates the group, is killed")

    def lag_known():
        try:
            told = tool("kafka-consumer-groups", "--describe", "--group", "readers", "--bootstrap-server", others, seconds=30)
        except Exception:
            return False
        return [int(l.split()[5]) for l in told.splitlines() if re.search(r"\borders\b", l)] == [0] * 6
    wait_for("the group's commits at its next coordinator", lag_known, 60, pause=0.5)
    part.say("the group's commits are at its next coordinator")
    cluster.number(coordinator).start()
    elections(part, cluster)
    cluster.kill()


def leaders(address: str, topic: str) -> dict[int, tuple[int, int]]:
    """Of each partition who leads, and who is preferred."""
    told = tool("kafka-topics", "--describe", "--topic", topic, "--bootstrap-server", address)
    lines = re.findall(r"Partition: (\d+)\tLeader: (\d+|none)\tReplicas: (\d+)", told)
    return {int(p): (0 if leader == "none" else int(leader), int(first)) for p, leader, first in lines}


def elections(part: Part, cluster: Cluster):
    """Preferred ones after a broker came back; an unclean one where the last replica in sync is gone."""
    address = cluster.address
    wait_for("everybody in sync again", lambda: cluster.in_sync("orders") and cluster.in_sync("__consumer_offsets"), 60, pause=0.2)
    astray = [p for p, (leader, first) in leaders(address, "orders").items() if leader != first]
    part.check(len(astray) >= 2, f"partitions {astray} are not led by their preferred replicas")
    tool_says = "Successfully completed leader election \\(PREFERRED\\) for partitions orders-"
    prints(part, address, "kafka-leader-election", "--election-type", "preferred", "--topic", "orders", "--partition", astray[0], want=f"{tool_says}{astray[0]}$")
    prints(part, address, "kafka-leader-election", "--election-type", "preferred", "--topic", "orders", "--partition", astray[0],
           want=f"Valid replica already elected for partitions orders-{astray[0]}")
    file = part.directory / "elect.json"
    file.write_text(json.dumps({"partitions": [{"topic": "orders", "partition": astray[1]}]}))
    prints(part, address, "kafka-leader-election", "--election-type", "preferred", "--path-to-json-file", file, want=f"{tool_says}{astray[1]}$")
    prints(part, address, "kafka-leader-election", "--election-type", "preferred", "--all-topic-partitions", want="Successfully completed leader election")
    for topic in ("orders", "__consumer_offsets"):
        part.equal([p for p, (leader, first) in leaders(address, topic).items() if leader != first], [], f"every partition of {topic} has its preferred leader")
    refused = tool("kafka-leader-election", "--election-type", "preferred", "--topic", "nowhere", "--partition", 0, "--bootstrap-server", address, fails=True)
    part.check("UnknownTopicOrPartition" in refused, "an unknown topic is told as one", refused[-500:])

    placed(cluster, "frail", [1, 2], min_insync_replicas=1)
    placed(cluster, "available", [1, 2], min_insync_replicas=1, unclean_leader_election_enable="true")
    cluster.number(2).kill()
    rest = f"{cluster.number(1).address},{cluster.number(3).address}"
    wait_for("broker 2 out of sync", lambda: cluster.number(1).admin().list_topics("frail", timeout=10).topics["frail"].partitions[0].isrs == [1], 30, pause=0.2)
    tool("kafka-verifiable-producer", "--topic", "frail", "--max-messages", 10, "--acks", -1, "--bootstrap-server", rest)
    cluster.number(1).kill()
    cluster.number(2).start()
    there = f"{cluster.number(2).address},{cluster.number(3).address}"
    wait_for("no leader", lambda: leaders(there, "frail")[0][0] == 0, 30, pause=0.2)
    wait_for("a leader whatever it costs", lambda: leaders(there, "available")[0][0] == 2, 30, pause=0.2)
    part.say("a topic with unclean.leader.election.enable has found another leader by itself")
    prints(part, there, "kafka-leader-election", "--election-type", "unclean", "--topic", "frail", "--partition", 0,
           want=r"Successfully completed leader election \(UNCLEAN\) for partitions frail-0")
    part.equal(leaders(there, "frail")[0], (2, 1), "the replica that missed ten records leads, because an operator said so")


MIB = 1 << 20


class Moves:
    """kafka-reassign-partitions, with a file for each plan."""

    def __init__(self, part: Part, cluster: Cluster):
        self.part, self.cluster, self.plans = part, cluster, 0

    def plan(self, **topics: list[int]) -> pathlib.Path:
        """Replicas of each topic's first partition."""
        self.plans += 1
        file = self.part.directory / f"plan-{self.plans}.json"
        moved = [{"topic": topic, "partition": 0, "replicas": replicas} for topic, replicas in topics.items()]
        file.write_text(json.dumps({"version": 1, "partitions": moved}))
        return file

    def tool(self, action: str, plan: pathlib.Path, *more, fails: bool = False) -> str:
        address = self.cluster.address
        return tool("kafka-reassign-partitions", "--bootstrap-server", address, action, "--reassignment-json-file", plan, *more, fails=fails)

    def execute(self, plan: pathlib.Path, *more) -> str:
        printed = self.tool("--execute", plan, *more)
        self.part.check("Successfully started partition reassignment" in printed, f"--execute {' '.join(map(str, more))} with {plan.name} starts", printed[-800:])
        return printed

    def verified(self, plan: pathlib.Path) -> bool:
        return "is completed" in self.tool("--verify", plan)


def known(cluster: Cluster) -> list[int]:
    """Brokers that clients are told of."""
    return sorted(cluster.number(1).admin().list_topics(timeout=10).brokers)


def holds(cluster: Cluster, broker: int, topic: str) -> bool:
    return (cluster.number(broker).directory / "data" / f"{topic}-0").exists()


def copied(cluster: Cluster, broker: int) -> float:
    return cluster.number(broker).metrics()["kafka_server_brokertopicmetrics_replicationbytesin_total"]


def replicas(cluster: Cluster, topic: str, ask: int) -> list[int]:
    return cluster.number(ask).admin().list_topics(topic, timeout=10).topics[topic].partitions[0].replicas


def moves(part: Part):
    """Partitions go from broker to broker; of what is in the bucket nothing is copied."""
    cluster = Cluster(part.directory / "moves", size=4, settings={"leader.imbalance.check.interval.seconds": "1"}).start()
    address = cluster.address
    mover = Moves(part, cluster)
    placed(cluster, "history", [1, 2], segment_bytes=MIB, retention_ms=-1)
    chance = random.Random(1)
    sent = [Record(b"k", chance.randbytes(16 << 10), timestamp=1_700_000_000_000 + n) for n in range(1600)]
    produce(address, "history", sent, 0)

    def in_bucket() -> int:
        with Connection(cluster.number(cluster.leader("history", 0)).address) as connection:
            return connection.offset_at("history", 0, LATEST_TIERED)[0] + 1
    wait_for("history in the bucket", lambda: in_bucket() > 1500, 60, pause=0.1)
    file = part.directory / "topics.json"
    file.write_text(json.dumps({"version": 1, "topics": [{"topic": "history"}]}))
    printed = tool("kafka-reassign-partitions", "--bootstrap-server", address, "--generate", "--topics-to-move-json-file", file, "--broker-list", "3,4")
    proposed = json.loads(printed.split("Proposed partition reassignment configuration\n", 1)[1])
    part.equal(sorted(proposed["partitions"][0]["replicas"]), [3, 4], "--generate proposes the brokers it is given")

    plan = mover.plan(history=[3, 2])
    mover.execute(plan)
    wait_for("--verify says completed", lambda: mover.verified(plan), 30, pause=0.2)
    wait_for("broker 1's copy gone", lambda: not holds(cluster, 1, "history"), 10, pause=0.1)
    wait_for("the preferred replica's copy", lambda: holds(cluster, 3, "history"), 10, pause=0.1)
    bytes_sent = sum(len(r.value) for r in sent)
    part.check(bytes_sent > 24 * MIB and copied(cluster, 3) < 3 * MIB,
               f"a new replica of {bytes_sent} bytes copied {copied(cluster, 3):.0f}: what is not in the bucket yet")

    placed(cluster, "balanced", [2, 1])
    cluster.number(2).stop()
    part.equal(cluster.leader("balanced", 0), 1, "broker 2 has stopped, others lead")
    # If it led the quorum, the next leader of that gives it a whole session first; Kafka's tool asks every broker that is told.
    wait_for("broker 2 told as gone", lambda: 2 not in known(cluster), 15, pause=0.1)
    others = ",".join(b.address for b in cluster.brokers if b is not cluster.number(2))
    plan = mover.plan(history=[3, 4])
    mover.execute(plan)
    wait_for("a reassignment without the broker that goes", lambda: mover.verified(plan), 30, pause=0.2)
    part.check(holds(cluster, 2, "history"), "broker 2 was down while its replica went elsewhere")
    cluster.number(2).start()
    part.check(not holds(cluster, 2, "history"), "and deletes it when it starts")
    wait_for("its leadership back at broker 2", lambda: cluster.leader("balanced", 0) == 2, 15, pause=0.1)
    part.say("what broker 2 is preferred for it leads again by itself")
    part.equal(read_digest(consume(others, "history", {0: len(sent)})), sent_digest(sent), "every record is there, in order")
    part.equal(replicas(cluster, "history", 1), [3, 4], "and the replicas are those that were asked for")
    throttled(part, cluster, mover)
    taken_out(part, cluster)
    cluster.kill()


def taken_out(part: Part, cluster: Cluster):
    """A broker that is gone for good, and its number come back."""
    gone = cluster.number(4)
    gone.kill()
    others = ",".join(b.address for b in cluster.brokers if b is not gone)
    prints(part, others, "kafka-cluster", "unregister", "--id", 4, want=r"Broker 4 is no longer registered\.")
    part.equal(known(cluster), [1, 2, 3], "three brokers are left")
    again = tool("kafka-cluster", "unregister", "--id", 4, "--bootstrap-server", others, fails=True)
    part.check("not currently registered" in again, "and broker 4 cannot be taken out twice", again[-500:])
    gone.start()
    part.equal(known(cluster), [1, 2, 3, 4], "a broker that starts under that number is a new one")


def throttles(cluster: Cluster) -> dict[str, str]:
    """What is set of them, on brokers and on the topic."""
    brokers = range(1, len(cluster.brokers) + 1)
    places = [ConfigResource(ResourceType.BROKER, str(n)) for n in brokers] + [ConfigResource(ResourceType.TOPIC, "bulk")]
    found = {}
    for place in places:                                    # librdkafka asks one broker a time
        admin = cluster.number(1).admin()
        for name, entry in admin.describe_configs([place])[place].result(30).items():
            if "replication.throttled" in name and entry.source in (ConfigSource.DYNAMIC_BROKER_CONFIG.value, ConfigSource.DYNAMIC_TOPIC_CONFIG.value):
                found[name] = entry.value
    return found


def alter(cluster: Cluster, broker: str, key: str, value: int):
    entry = ConfigEntry(key, str(value), incremental_operation=AlterConfigOpType.SET)
    admin = cluster.number(1).admin()
    resource = ConfigResource(ResourceType.BROKER, broker, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(30)


def throttled(part: Part, cluster: Cluster, mover: Moves):
    placed(cluster, "bulk", [1, 2], remote_storage_enable="false")
    chance = random.Random(2)
    produce(cluster.address, "bulk", [Record(b"k", chance.randbytes(64 << 10)) for _ in range(384)], 0)
    plan, rate, before = mover.plan(bulk=[1, 3]), 2 * MIB, copied(cluster, 3)
    mover.execute(plan, "--throttle", rate)
    part.equal(throttles(cluster), {"leader.replication.throttled.rate": "2097152", "follower.replication.throttled.rate": "2097152",
                                    "leader.replication.throttled.replicas": "0:1,0:2", "follower.replication.throttled.replicas": "0:3"},
               "--throttle sets rates on brokers and replicas on the topic")
    wait_for("the first bytes", lambda: copied(cluster, 3) > before, 10, pause=0.05)
    # Each side by itself keeps the rate.
    for side, other, broker in (("leader", "follower", "3"), ("follower", "leader", "1")):
        alter(cluster, "1", f"{side}.replication.throttled.rate", rate)
        alter(cluster, "3", f"{side}.replication.throttled.rate", rate)
        alter(cluster, broker, f"{other}.replication.throttled.rate", 1024 * MIB)
        began, before = time.monotonic(), copied(cluster, 3)
        time.sleep(1.2)                                     # a rate needs some time to be seen
        done, took = copied(cluster, 3) - before, time.monotonic() - began
        # A second's worth at once, and answers that may overdraw it; without a throttle all of it is copied in a fraction of that.
        part.check(0 < done < 12 * MIB, f"{done:.0f} bytes of 24 MiB were copied in {took:.1f} s at the {side}'s 2 MiB a second")
    mover.execute(plan, "--additional", "--throttle", 64 * MIB)
    wait_for("the rest, at another rate", lambda: 3 in cluster.number(1).admin().list_topics("bulk", timeout=10).topics["bulk"].partitions[0].isrs, 60, pause=0.05)
    wait_for("--verify says completed", lambda: mover.verified(plan), 30, pause=0.2)
    part.equal(throttles(cluster), {}, "--verify takes the throttles away")
    plan = mover.plan(bulk=[1, 4])
    mover.execute(plan, "--throttle", 100_000)
    part.check("is still in progress" in mover.tool("--verify", plan), "a slow one is still in progress")
    part.check(holds(cluster, 4, "bulk"), "its new replica has begun")
    printed = mover.tool("--cancel", plan)
    part.check("Successfully cancelled" in printed, "--cancel takes it back", printed[-500:])
    part.equal(replicas(cluster, "bulk", 1), [1, 3], "and the replicas are those there were")
    wait_for("what was begun is gone", lambda: not holds(cluster, 4, "bulk"), 10, pause=0.1)
    part.equal(throttles(cluster), {}, "as are the throttles")


def placed(cluster: Cluster, topic: str, brokers: list[int], **configs):
    """A topic of one partition on these brokers."""
    admin = cluster.number(3).admin()
    new = NewTopic(topic, 1, replica_assignment=[brokers], config={name.replace("_", "."): str(value) for name, value in configs.items()})
    admin.create_topics([new])[topic].result(30)


def group_partition(group: str, partitions: int = 50) -> int:
    digest = 0
    for c in group:
        digest = (digest * 31 + ord(c)) & 0xFFFFFFFF
    signed = digest - (1 << 32) if digest >= 1 << 31 else digest
    return abs(signed) % partitions


def both(part: Part):
    story(part)
    if not part.against_kafka:
        moves(part)


run(both)
