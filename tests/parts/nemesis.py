"""Brokers on hosts of their own, while their network is cut, their processes are paused, killed and started again.

An idempotent producer and a live reader go on through all of it; small segments leave for a bucket meanwhile. After each fault
everything is healed and everybody must be in sync again. At the end every record is read from the beginning, from the bucket, and
the ledger goes to the checker in tests/src/checker.rs. VARVE_TEST_FAULTS chooses how many faults, VARVE_TEST_SEED repeats a run,
VARVE_TEST_BROKERS makes the cluster larger.
"""

import os
import random
import signal
import time

from confluent_kafka import Consumer, TopicPartition

from harness import net
from harness.cluster import Cluster
from harness.ledger import Ledger, Load, Reader, judge, read_all
from harness.part import Failed, Part, run
from harness.place import FULL, wait_for
from harness.traffic import gone_everywhere, seal, tiered_topic

FAULTS = int(os.environ.get("VARVE_TEST_FAULTS") or (60 if FULL else 6))
SEED = int(os.environ.get("VARVE_TEST_SEED") or time.time_ns() % 1_000_000_007)
BROKERS = int(os.environ.get("VARVE_TEST_BROKERS") or 3)
PARTITIONS = 3
# Longer and shorter than a broker's session.
LASTS_S = (0.5, 6.0)


class Nemesis:
    def __init__(self, cluster: Cluster, network: net.Net, chance: random.Random):
        self.cluster, self.network, self.chance = cluster, network, chance
        self.all = set(range(1, network.size + 1))

    def kill(self, n: int) -> str:
        self.cluster.number(n).kill()
        return f"broker {n} killed"

    def pause(self, n: int) -> str:
        self.cluster.number(n).process.child.send_signal(signal.SIGSTOP)
        return f"broker {n} stands still"

    def isolate(self, n: int) -> str:
        self.network.part({n})
        return f"broker {n} reaches clients, and no other broker"

    def unplug(self, n: int) -> str:
        self.network.unplug(n)
        return f"broker {n} unplugged"

    def half_cut(self, n: int) -> str:
        other = self.chance.choice(sorted(self.all - {n}))
        self.network.cut(n, other)
        return f"brokers {n} and {other} do not reach each other, all others do"

    def heal(self, n: int):
        self.network.heal()
        broker = self.cluster.number(n)
        if broker.process.alive():
            broker.process.child.send_signal(signal.SIGCONT)
        else:
            broker.start()


def story(part: Part):
    if part.against_kafka:
        part.say("only Varve's own cluster is started")
        return
    chance = random.Random(SEED)
    network = net.Net(BROKERS)
    part.say(f"seed {SEED}, {FAULTS} faults, {BROKERS} brokers")
    cluster = Cluster(part.directory, BROKERS, network=network).start()
    tiered_topic(cluster, "ledger", PARTITIONS)
    ledger = Ledger(part.directory / "history.txt")
    load = Load(cluster.address, ledger, random.Random(SEED + 1), list(range(PARTITIONS)), pause=0.01)
    reader = Reader(cluster.address, ledger, PARTITIONS)
    load.start()
    reader.start()
    nemesis = Nemesis(cluster, network, chance)
    faults = [nemesis.kill, nemesis.pause, nemesis.isolate, nemesis.unplug, nemesis.half_cut]
    for number in range(FAULTS):
        time.sleep(chance.uniform(0.1, 1.0))
        # Each kind in turn, then any; mostly against a leader.
        fault = faults[number] if number < len(faults) else chance.choice(faults)
        victim = cluster.leader("ledger", chance.randrange(PARTITIONS)) if chance.random() < 0.8 else chance.randrange(BROKERS) + 1
        told, lasts = fault(victim), chance.uniform(*LASTS_S)
        time.sleep(lasts)
        nemesis.heal(victim)
        healed = time.monotonic()
        wait_for("everybody in sync again", lambda: cluster.in_sync("ledger", ask=victim), 90, pause=0.05)
        for p in range(PARTITIONS):
            wait_for(f"an acknowledgement in partition {p}", lambda: ledger.latest.get(p, (0, 0))[0] > healed, 60, pause=0.01)
        if load.failure:
            raise Failed(f"producer: {load.failure}")
        part.say(f"{told} for {lasts:.1f} s; {time.monotonic() - healed:.1f} s later all is well, {ledger.acknowledged} acknowledged")
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
    judge(part, ledger, FAULTS, SEED)


net.enter()
run(story)
