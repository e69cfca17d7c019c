"""The server is killed with -9 at random moments under load; afterwards every acknowledged record must be where it was said.

One idempotent librdkafka producer (acks=all) lives through all the kills, a second one through each life of the server.
A live reader follows, segments seal and leave for the bucket meanwhile, and at the end all is read from the beginning.
The ledger of what was sent, acknowledged and read goes to the checker in tests/src/checker.rs.
VARVE_TEST_KILLS chooses how many kills, VARVE_TEST_SEED makes a run again.
"""

import os
import random
import time

from harness.ledger import Ledger, Load, Reader, judge, read_all
from harness.part import Failed, Part, run
from harness.place import FULL
from harness.process import Process
from harness.traffic import tiered_topic

KILLS = int(os.environ.get("VARVE_TEST_KILLS") or (50 if FULL else 5))
SEED = int(os.environ.get("VARVE_TEST_SEED") or time.time_ns() % 1_000_000_007)
PARTITIONS = 3


def story(part: Part):
    part.say(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    broker = part.broker().start()
    tiered_topic(broker, "ledger", PARTITIONS)
    ledger = Ledger(part.directory / "history.txt")
    long_lived = Load(broker.address, ledger, random.Random(SEED + 1), [0, 1])
    reader = Reader(broker.address, ledger, PARTITIONS)
    long_lived.start()
    reader.start()
    recoveries, next_start = [], 0
    for kill in range(KILLS):
        # Partition 2 gets a new producer each life: producer ids come and go as well.
        short_lived = Load(broker.address, ledger, random.Random(SEED + 2 + kill), [2], next_start)
        short_lived.start()
        before, moment = ledger.acknowledged, chance.uniform(0.05, 2.0)
        time.sleep(moment)                                   # the random moment itself
        broker.kill()
        if chance.random() < 0.2:                            # and sometimes again in the middle of recovery
            broker.process = None
            half = part_started(broker)
            time.sleep(chance.uniform(0.0, 0.1))
            half.kill()
        began = time.monotonic()
        broker.start()
        recoveries.append(time.monotonic() - began)
        short_lived.finish()
        next_start = short_lived.next[2]
        if long_lived.failure:
            raise Failed(f"producer: {long_lived.failure}")
        part.say(f"kill {kill + 1} after {moment:.2f} s, {ledger.acknowledged - before} acknowledged, "
                 f"ready again in {recoveries[-1]:.2f} s")
    long_lived.finish()
    reader.finish()
    read_all(broker, ledger, {p: part.log_end(broker, "ledger", p) for p in range(PARTITIONS)})
    ledger.file.close()
    broker.stop()
    judge(part, ledger, KILLS, SEED)
    part.say(f"ready again: median {sorted(recoveries)[len(recoveries) // 2]:.2f} s, worst {max(recoveries):.2f} s")


def part_started(broker):
    return Process(broker.command(), broker.directory / "broker.log", broker.env)


run(story)
