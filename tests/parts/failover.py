"""Three brokers; the leader of a partition is killed with -9, again and again, under acks=all load.

One idempotent librdkafka producer lives through all of it, a live reader follows. After each kill the broker comes back,
catches up and is in sync again before the next one dies; then all three die together, more than once. Small segments leave for a
bucket the whole time, and their local copies go; at the end everything is read from the beginning, from the bucket. The ledger of
what was sent, acknowledged and read goes to the checker in tests/src/checker.rs. VARVE_TEST_KILLS chooses how many kills,
VARVE_TEST_SEED makes a run again.
"""

import os
import random
import time

from confluent_kafka import Consumer, TopicPartition

from harness.cluster import Cluster
from harness.ledger import Ledger, Load, Reader, judge, read_all
from harness.part import Failed, Part, run
from harness.place import FULL, wait_for
from harness.traffic import gone_everywhere, seal, tiered_topic

KILLS = int(os.environ.get("VARVE_TEST_KILLS") or (200 if FULL else 5))
SEED = int(os.environ.get("VARVE_TEST_SEED") or time.time_ns() % 1_000_000_007)
# Then all three are killed together, so often.
AT_ONCE = 10 if FULL else 2
PARTITIONS = 3


def story(part: Part):
    if part.against_kafka:
        part.say("only Varve's own cluster is started")
        return
    part.say(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    cluster = Cluster(part.directory).start()
    tiered_topic(cluster, "ledger", PARTITIONS)
    ledger = Ledger(part.directory / "history.txt")
    load = Load(cluster.address, ledger, random.Random(SEED + 1), list(range(PARTITIONS)))
    reader = Reader(cluster.address, ledger, PARTITIONS)
    load.start()
    reader.start()
    gaps = []
    for kill in range(KILLS):
        time.sleep(chance.uniform(0.05, 1.0))                # the random moment itself
        victim_of = chance.randrange(PARTITIONS)
        victim = cluster.leader("ledger", victim_of, ask=chance.randrange(3) + 1)
        died = time.monotonic()
        cluster.number(victim).kill()
        wait_for("an acknowledgement by the next leader", lambda: ledger.latest.get(victim_of, (0, 0))[0] > died, 60, pause=0.005)
        gaps.append(ledger.latest[victim_of][1] - died)
        cluster.number(victim).start()
        wait_for("everybody in sync again", lambda: cluster.in_sync("ledger", ask=victim), 60, pause=0.05)
        if load.failure:
            raise Failed(f"producer: {load.failure}")
        part.say(f"kill {kill + 1}: broker {victim}, acknowledged again after {gaps[-1]:.2f} s, {ledger.acknowledged} in all")
    for again in range(AT_ONCE):
        time.sleep(chance.uniform(0.05, 1.0))
        cluster.kill()
        began = time.monotonic()
        cluster.start()
        wait_for("everybody in sync again", lambda: cluster.in_sync("ledger"), 60, pause=0.05)
        part.say(f"all three killed at once, time {again + 1}: in sync again after {time.monotonic() - began:.2f} s, {ledger.acknowledged} acknowledged")
    load.finish()
    reader.finish()
    asker = Consumer({"bootstrap.servers": cluster.address, "group.id": "ends", "log_level": 0})
    ends = {p: asker.get_watermark_offsets(TopicPartition("ledger", p), timeout=30)[1] for p in range(PARTITIONS)}
    asker.close()
    seal(cluster.address, "ledger", PARTITIONS)
    wait_for("local copies gone", lambda: gone_everywhere(cluster, "ledger", ends), 120, pause=0.2)
    part.say("all of it is in the bucket, and only there")
    read_all(cluster, ledger, ends)
    ledger.file.close()
    cluster.stop()
    judge(part, ledger, KILLS + AT_ONCE, SEED)
    gaps.sort()
    part.say(f"kill to acknowledgement: p50 {gaps[len(gaps) // 2]:.2f} s, p99 {gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)]:.2f} s")


run(story)
