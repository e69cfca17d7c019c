"""Four brokers; partitions are moved between all of them under acks=all load, leaders and all, and one broker is killed on the way.

Kafka's own tool moves them. The ledger of what was sent, acknowledged and read goes to the checker in tests/src/checker.rs. Small
segments leave for a bucket the whole time, so that new replicas begin where it ends. VARVE_TEST_SEED makes a run again.
"""

import json
import os
import random
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from harness.cluster import Cluster
from harness.java_tools import tool
from harness.ledger import Ledger, Load, Reader, judge, read_all
from harness.part import Failed, Part, run
from harness.place import FULL, wait_for

MOVES = 20 if FULL else 4
SEED = int(os.environ.get("VARVE_TEST_SEED") or time.time_ns() % 1_000_000_007)
PARTITIONS = 3
BROKERS = [1, 2, 3, 4]


def move(cluster: Cluster, part: Part, target: list[list[int]]):
    plan = part.directory / "plan.json"
    moved = [{"topic": "ledger", "partition": p, "replicas": replicas} for p, replicas in enumerate(target)]
    plan.write_text(json.dumps({"version": 1, "partitions": moved}))
    tool("kafka-reassign-partitions", "--bootstrap-server", cluster.address, "--execute", "--reassignment-json-file", plan)

    def there() -> bool:
        found = cluster.number(1).admin().list_topics("ledger", timeout=10).topics["ledger"].partitions
        return all(found[p].replicas == replicas and set(found[p].isrs) == set(replicas) for p, replicas in enumerate(target))
    wait_for(f"the replicas {target}", there, 60, pause=0.05)


def held(cluster: Cluster) -> dict[int, set[int]]:
    """Partitions of which a broker has a folder."""
    folders = {n: (cluster.number(n).directory / "data").glob("ledger-*") for n in BROKERS}
    return {n: {int(folder.name.split("-")[1]) for folder in found} for n, found in folders.items()}


def story(part: Part):
    if part.against_kafka:
        part.say("only Varve's own cluster is started")
        return
    part.say(f"seed {SEED}, {MOVES} moves")
    chance = random.Random(SEED)
    cluster = Cluster(part.directory, size=len(BROKERS)).start()
    admin = cluster.number(1).admin()
    new = NewTopic("ledger", PARTITIONS, replica_assignment=[[1, 2, 3], [2, 3, 4], [3, 4, 1]],
                   config={"segment.bytes": str(1 << 20), "retention.ms": "-1", "local.retention.ms": "1"})
    admin.create_topics([new])["ledger"].result(30)
    ledger = Ledger(part.directory / "history.txt")
    load = Load(cluster.address, ledger, random.Random(SEED + 1), list(range(PARTITIONS)))
    reader = Reader(cluster.address, ledger, PARTITIONS)
    load.start()
    reader.start()
    wait_for("the first acknowledgements", lambda: ledger.acknowledged > 1000, 60, pause=0.05)
    victim_at = chance.randrange(MOVES - 1)
    target: list[list[int]] = []
    for n in range(MOVES):
        target = [chance.sample(BROKERS, chance.choice([2, 3])) for _ in range(PARTITIONS)]
        move(cluster, part, target)
        if load.failure:
            raise Failed(f"producer: {load.failure}")
        part.say(f"move {n + 1}: {target}, {ledger.acknowledged} acknowledged")
        if n == victim_at:
            victim = cluster.number(chance.choice(BROKERS))
            victim.kill()
            victim.start()
            part.say(f"the broker on {victim.address} was killed, and moves on with the others")
    load.finish()
    reader.finish()
    wanted = {n: {p for p, replicas in enumerate(target) if n in replicas} for n in BROKERS}
    wait_for("no broker holding what is not its", lambda: held(cluster) == wanted, 10, pause=0.1)
    part.say("each broker holds what it was given, and nothing else")
    asker = Consumer({"bootstrap.servers": cluster.address, "group.id": "ends", "log_level": 0})
    ends = {p: asker.get_watermark_offsets(TopicPartition("ledger", p), timeout=30)[1] for p in range(PARTITIONS)}
    asker.close()
    read_all(cluster, ledger, ends)
    ledger.file.close()
    cluster.kill()
    judge(part, ledger, MOVES, SEED)


run(story)
