"""Every panel of docs/dashboard.json has data on a running cluster, and what it says of a dead broker is true.

Three brokers with some traffic of each kind; each selector of each panel's expressions is looked up on the brokers' own pages,
labels and their values included. Then one broker is killed and comes back.
"""

import json
import re
import urllib.request

from confluent_kafka import Consumer, TopicPartition

from harness.cluster import Cluster
from harness.part import Part, run
from harness.place import REPOSITORY, wait_for
from harness.traffic import Record, consume, produce, seal, tiered_topic

PARTITIONS = 3
SERIES = re.compile(r"\b((?:kafka|varve)_[a-z0-9_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def samples(broker) -> list[tuple[str, dict[str, str], float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.http_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            name, labels, value = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups()
            found.append((name, dict(re.findall(r'(\w+)="([^"]*)"', labels or "")), float(value)))
    return found


def matches(labels: dict[str, str], matchers) -> bool:
    return all(re.fullmatch(want if how == "=~" else re.escape(want), labels.get(name, "")) for name, how, want in matchers)


def total(brokers, name: str, **labels) -> list[float]:
    """A metric on each broker, added up over those labels it is not asked by."""
    chosen = [(label, "=", want) for label, want in labels.items()]
    return [sum(v for n, l, v in samples(broker) if n == name and matches(l, chosen)) for broker in brokers]


def traffic(part: Part, cluster: Cluster):
    tiered_topic(cluster, "orders", PARTITIONS, varve_table_enable="true", varve_table_commit_interval_ms=300)
    for p in range(PARTITIONS):
        produce(cluster.address, "orders", [Record(b"k", b"%d" % i * 100) for i in range(2000)], p)
    ends = seal(cluster.address, "orders", PARTITIONS)
    part.equal(sum(1 for _ in consume(cluster.address, "orders", ends)), 2000 * PARTITIONS, "records went in and came back")
    group = Consumer({"bootstrap.servers": cluster.address, "group.id": "readers"})
    group.commit(offsets=[TopicPartition("orders", p, 1500) for p in range(PARTITIONS)], asynchronous=False)
    group.close()
    wait_for("local copies gone", lambda: len(list(consume(cluster.address, "orders", ends))) and
             sum(total(cluster.brokers, "varve_fetch_bytes_total", tier="bucket")) > 0, 60, pause=0.5)


def panels(part: Part, cluster: Cluster):
    dashboard = json.loads((REPOSITORY / "docs/dashboard.json").read_text())
    there = [sample for broker in cluster.brokers for sample in samples(broker)]
    asked, missing = 0, []
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for name, chosen in SERIES.findall(target["expr"]):
                asked += 1
                if not any(n == name and matches(l, MATCHER.findall(chosen)) for n, l, _ in there):
                    missing.append((panel["title"], name, chosen))
    part.check(not missing, f"all {asked} series of {len(dashboard['panels'])} panels are on the brokers' pages", str(missing))


def whole(brokers) -> dict[str, float]:
    return {
        "active": max(total(brokers, "kafka_controller_kafkacontroller_activebrokercount")),
        "fenced": max(total(brokers, "kafka_controller_kafkacontroller_fencedbrokercount")),
        "controllers": sum(total(brokers, "kafka_controller_kafkacontroller_activecontrollercount")),
        "offline": max(total(brokers, "kafka_controller_kafkacontroller_offlinepartitionscount")),
        "under_replicated": sum(total(brokers, "kafka_server_replicamanager_underreplicatedpartitions")),
        "under_min_isr": sum(total(brokers, "kafka_server_replicamanager_underminisrpartitioncount")),
        "leaders": sum(total(brokers, "kafka_server_replicamanager_leadercount")),
    }


def story(part: Part):
    if part.against_kafka:
        part.say("Kafka's own metrics come through an exporter")
        return
    cluster = Cluster(part.directory).start()
    traffic(part, cluster)
    panels(part, cluster)
    partitions = PARTITIONS + 50                             # and those of __consumer_offsets
    healthy = {"active": 3, "fenced": 0, "controllers": 1, "offline": 0, "under_replicated": 0, "under_min_isr": 0,
               "leaders": partitions}
    part.equal(whole(cluster.brokers), healthy, "three brokers are told as whole")
    part.equal(sum(total(cluster.brokers, "kafka_consumergroup_lag", topic="orders")) > 0, True, "a group's lag is known where its coordinator is")
    bucket = total(cluster.brokers, "varve_tier_bytes", topic="orders")
    part.check(all(bytes > 0 for bytes in bucket), "what is in the bucket is told once for each partition, by its leader", str(bucket))
    dead = cluster.number(2)
    dead.kill()
    others = [broker for broker in cluster.brokers if broker is not dead]
    short = healthy | {"active": 2, "fenced": 1, "under_replicated": partitions}
    wait_for(f"two brokers told as {short}", lambda: whole(others) == short, 30, pause=0.2)
    part.say(f"without the third they say {short}")
    part.equal(sum(total(others, "kafka_server_replicamanager_isrshrinks_total")), partitions, "each partition's in-sync replicas shrank once")
    dead.start()
    wait_for(f"three brokers told as {healthy}", lambda: whole(cluster.brokers) == healthy, 60, pause=0.2)
    part.equal(sum(total(cluster.brokers, "kafka_server_replicamanager_isrexpands_total")), partitions, "and grew again once, when it was back")
    cluster.stop()


run(story)
