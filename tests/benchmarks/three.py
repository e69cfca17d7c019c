"""Three brokers on this machine, everything three times replicated, min.insync.replicas=2, acks=all: what it costs, and how
long clients wait while leaders die, move, and brokers are restarted one after the other.

Both systems run with their own defaults for everything that decides when a broker is given up.
"""

import json
import pathlib
import random
import re
import statistics
import subprocess
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness.cluster import Cluster
from harness.java_tools import tool
from harness.ledger import Ledger, Load, read_all
from harness.place import built, wait_for
from hot import PRODUCER, Meter, Payload, kcat, latency, settings

PARTITIONS = 3
# About 5,000 records a second: what is measured is the wait, not the machine's limit.
LOAD_PAUSE_S = 0.02


class Brokers:
    """All of a cluster's processes as one, for the meter."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster

    def cpu_seconds(self) -> float:
        return sum(broker.process.cpu_seconds() for broker in self.cluster.brokers)


class Timed(Ledger):
    """Also the longest time a partition was without an acknowledgement since `forget`."""

    def __init__(self, path):
        super().__init__(path)
        self.longest: dict[int, float] = {}

    def settled(self, partition, sequence, error, message, sent_at):
        before = self.latest.get(partition)
        super().settled(partition, sequence, error, message, sent_at)
        if error is None and before:
            self.longest[partition] = max(self.longest.get(partition, 0.0), self.latest[partition][1] - before[1])

    def forget(self):
        self.longest = {}


def percentiles(name: str, seconds: list[float]) -> dict:
    ordered = sorted(seconds)
    at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
    return {f"{name}.p50_s": statistics.median(ordered), f"{name}.p99_s": at(0.99), f"{name}.worst_s": ordered[-1]}


def costs(cluster: Cluster, payload: Payload, add):
    for codec in ("none", "lz4"):
        cluster.create(codec)
        meter = Meter(Brokers(cluster))
        seconds = kcat("-P", "-b", cluster.address, "-t", codec, "-p", 0, "-z", codec, "-l", payload.path, *settings(PRODUCER))
        add(f"three-produce-{codec}", {"cpu_s/GB": meter.stop() / payload.bytes * 1e9, "MB/s": payload.bytes / seconds / 1e6})
    add("three-memory", {"rss_MiB": sum(broker.process.memory_mib() for broker in cluster.brokers)})
    add("three-latency", latency(cluster))


def in_sync(cluster: Cluster, ask: int):
    wait_for("everybody in sync again", lambda: cluster.in_sync("ledger", ask=ask), 180, pause=0.1)


def leaders_die(cluster: Cluster, ledger: Timed, chance: random.Random, kills: int) -> dict:
    waits = []
    for _ in range(kills):
        time.sleep(chance.uniform(0.3, 1.3))
        partition = chance.randrange(PARTITIONS)
        victim = cluster.leader("ledger", partition, ask=chance.randrange(3) + 1)
        died = time.monotonic()
        cluster.number(victim).kill()
        wait_for("an acknowledgement by the next leader", lambda: ledger.latest.get(partition, (0, 0))[0] > died, 120, pause=0.005)
        waits.append(ledger.latest[partition][1] - died)
        cluster.number(victim).start()
        in_sync(cluster, victim)
        print(json.dumps({"kill": len(waits), "acknowledged_after_s": round(waits[-1], 3)}), flush=True)
    return {"kills": kills, **percentiles("failover", waits)}


def quorum_leader(address: str) -> int:
    told = tool("kafka-metadata-quorum", "--bootstrap-server", address, "describe", "--status")
    return int(re.search(r"LeaderId:\s+(\d+)", told).group(1))


def controllers_die(cluster: Cluster, chance: random.Random, kills: int) -> dict:
    waits = []
    for kill in range(kills):
        victim = quorum_leader(cluster.address)
        others = ",".join(broker.address for broker in cluster.brokers if broker is not cluster.number(victim))
        admin = AdminClient({"bootstrap.servers": others, "log_level": 0})
        admin.list_topics(timeout=10)
        died, attempt = time.monotonic(), 0
        cluster.number(victim).kill()

        def created() -> bool:
            nonlocal attempt
            attempt += 1
            new = NewTopic(f"made-{kill}-{attempt}", 1, 2)
            try:
                admin.create_topics([new], operation_timeout=1, request_timeout=1)[new.topic].result(2)
                return True
            except Exception:
                return False
        wait_for("CreateTopics", created, 120, pause=0.01)
        waits.append(time.monotonic() - died)
        cluster.number(victim).start()
        in_sync(cluster, victim)
        print(json.dumps({"controller_kill": kill + 1, "created_after_s": round(waits[-1], 3)}), flush=True)
    return percentiles("create_topics", waits)


def brokers_are_restarted(cluster: Cluster, ledger: Timed, rounds: int) -> dict:
    """TERM, wait for the end, start again; the longest wait of any partition for an acknowledgement meanwhile."""
    waits = []
    for restart in range(rounds * len(cluster.brokers)):
        broker = cluster.brokers[restart % len(cluster.brokers)]
        ledger.forget()
        broker.stop()
        broker.start()
        in_sync(cluster, restart % len(cluster.brokers) + 1)
        time.sleep(1)
        waits.append(max(ledger.longest.values()))
    return {"restarts": len(waits), **percentiles("gap", waits)}


def judge(ledger: Ledger) -> dict:
    verdict = json.loads(subprocess.run([built("check_history"), ledger.path], capture_output=True, text=True, check=True).stdout)
    return {**{what: verdict[what] for what in ("acknowledged", "lost", "duplicated", "reordered")}, "client_errors": len(ledger.refused)}


def under_load(cluster: Cluster, place: pathlib.Path, options, add):
    cluster.create("ledger", PARTITIONS)
    ledger = Timed(place / "history.txt")
    chance = random.Random(7)
    load = Load(cluster.address, ledger, chance, list(range(PARTITIONS)), pause=LOAD_PAUSE_S)
    load.start()
    wait_for("acknowledgements", lambda: ledger.acknowledged > 10_000, 120)
    restarts = brokers_are_restarted(cluster, ledger, options.restarts)
    add("three-restart", {**restarts, "client_errors": len(ledger.refused)})
    deaths = leaders_die(cluster, ledger, chance, options.kills)
    controllers = controllers_die(cluster, chance, options.controller_kills)
    load.finish()
    asker = Consumer({"bootstrap.servers": cluster.address, "group.id": "ends", "log_level": 0})
    ends = {p: asker.get_watermark_offsets(TopicPartition("ledger", p), timeout=30)[1] for p in range(PARTITIONS)}
    asker.close()
    read_all(cluster, ledger, ends)
    ledger.file.close()
    add("three-failover", {**deaths, **judge(ledger)})
    add("three-controller", controllers)


def run(make, place: pathlib.Path, scenarios: list[str], payload: Payload, options, add):
    cluster = make(place).start()
    if "three" in scenarios:
        costs(cluster, payload, add)
    if "failover" in scenarios:
        under_load(cluster, place, options, add)
    # The last of a quorum of Kafka cannot stop in order: it waits for a controller.
    cluster.kill()
