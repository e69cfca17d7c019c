"""A topic's table while its keeper dies: the leader of the first partition is killed with -9 in the middle of commits, again and
again, under acks=all load. Whoever leads next goes on; at the end the table is the log, as sets, and one broker keeps it.
"""

import os
import random
import time

from confluent_kafka import Consumer, TopicPartition

from harness.cluster import Cluster
from harness.ledger import Ledger, Load
from harness.part import Part, run
from harness.place import FULL, wait_for
from harness.table import duck, newest_metadata, same_as_log
from harness.traffic import tiered_topic

KILLS = int(os.environ.get("VARVE_TEST_KILLS") or (20 if FULL else 3))
SEED = int(os.environ.get("VARVE_TEST_SEED") or time.time_ns() % 1_000_000_007)
PARTITIONS = 3


def rows(bucket) -> int:
    metadata = newest_metadata(bucket, "ledger")
    # A file that is being written cannot be read yet; the next look finds it whole.
    try:
        return duck().execute(f"SELECT count(*) FROM iceberg_scan('{metadata}')").fetchone()[0] if metadata else 0
    except Exception:
        return 0


def keepers(cluster: Cluster) -> list[int]:
    """Who tells of the table on its page of metrics."""
    return [n for n, broker in enumerate(cluster.brokers, 1) if "varve_table_rows" in broker.metrics()]


def story(part: Part):
    if part.against_kafka:
        part.say("Kafka keeps no tables")
        return
    part.say(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    cluster = Cluster(part.directory).start()
    bucket = part.directory / "bucket"
    tiered_topic(cluster, "ledger", PARTITIONS, varve_table_enable="true", varve_table_commit_interval_ms=300)
    for broker in cluster.brokers:
        broker.replication = 1
    cluster.create("narrow", PARTITIONS, varve_table_enable="true", varve_table_commit_interval_ms=300)
    ledger = Ledger(part.directory / "history.txt")
    load = Load(cluster.address, ledger, random.Random(SEED + 1), list(range(PARTITIONS)))
    load.start()
    for kill in range(KILLS):
        before = rows(bucket)
        wait_for("commits to the table", lambda: rows(bucket) > before, 60, pause=0.2)
        time.sleep(chance.uniform(0, 0.6))                   # anywhere between two commits, or in one
        keeper = cluster.leader("ledger", 0, ask=chance.randrange(3) + 1)
        cluster.number(keeper).kill()
        others = [broker for broker in cluster.brokers if broker is not cluster.number(keeper)]
        wait_for("another keeper", lambda: any("varve_table_rows" in broker.metrics() for broker in others), 60, pause=0.1)
        # Sometimes it is back before its successor has committed anything.
        time.sleep(chance.uniform(0, 1.0))
        cluster.number(keeper).start()
        wait_for("everybody in sync again", lambda: cluster.in_sync("ledger", ask=keeper), 60, pause=0.1)
        part.say(f"kill {kill + 1}: broker {keeper}; {rows(bucket)} rows so far, {ledger.acknowledged} acknowledged")
    load.finish()
    asker = Consumer({"bootstrap.servers": cluster.address, "group.id": "ends", "log_level": 0})
    ends = {p: asker.get_watermark_offsets(TopicPartition("ledger", p), timeout=30)[1] for p in range(PARTITIONS)}
    asker.close()
    part.equal(sum(ends.values()), ledger.acknowledged, "the log has an offset for every acknowledged record")
    wait_for("every record in the table", lambda: rows(bucket) >= sum(ends.values()), 60, pause=0.5)
    same_as_log(part, cluster.address, "ledger", ends, newest_metadata(bucket, "ledger"))
    part.equal(keepers(cluster), [cluster.leader("ledger", 0)], "the leader of the first partition keeps the table, and nobody else says so")
    logs = "".join((broker.directory / "broker.log").read_text() for broker in cluster.brokers)
    part.check(newest_metadata(bucket, "narrow") is None and "topic=narrow" in logs,
               "a topic with partitions that its keeper holds no replica of has no table, and the log says so")
    cluster.stop()


run(story)
