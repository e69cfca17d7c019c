"""The server is killed with -9 at random moments under load; afterwards every acknowledged record must be where it was said.

One idempotent librdkafka producer (acks=all) lives through all the kills, a second one through each life of the server.
A live reader follows, segments seal and leave for the bucket meanwhile, and at the end all is read from the beginning.
The ledger of what was sent, acknowledged and read goes to the checker in tests/src/checker.rs.
VARVE_TEST_KILLS chooses how many kills, VARVE_TEST_SEED makes a run again.
"""

import json
import os
import random
import subprocess
import threading
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from harness.part import Failed, Part, run
from harness.place import FULL, built
from harness.traffic import consume, tiered_topic

KILLS = int(os.environ.get("VARVE_TEST_KILLS") or (50 if FULL else 5))
SEED = int(os.environ.get("VARVE_TEST_SEED") or time.time_ns() % 1_000_000_007)
PARTITIONS = 3
# What is on its way when the server dies is sent again for as long as this takes.
OUTAGE_MAX_S = 120


class Ledger:
    def __init__(self, path):
        self.file, self.lock = open(path, "w", buffering=1 << 20), threading.Lock()
        self.acknowledged = 0
        self.refused: list[str] = []

    def write(self, *words):
        with self.lock:
            print(*words, file=self.file)

    def settled(self, partition: int, sequence: int, error, message):
        if error is None:
            self.acknowledged += 1
            self.write("acked", partition, sequence, message.offset())
        else:
            self.refused.append(str(error))
            self.write("refused", partition, sequence)


class Load(threading.Thread):
    """Sends numbered records until told to stop, and leaves nothing unsettled behind."""

    def __init__(self, address: str, ledger: Ledger, chance: random.Random, partitions: list[int], start: int = 0):
        super().__init__()
        self.ledger, self.chance, self.partitions = ledger, chance, partitions
        self.next = dict.fromkeys(partitions, start)
        self.stopping = threading.Event()
        self.failure: Exception | None = None
        self.producer = Producer({
            "bootstrap.servers": address, "acks": "all", "enable.idempotence": True, "linger.ms": 2,
            "compression.type": chance.choice(["none", "lz4", "zstd"]), "message.timeout.ms": OUTAGE_MAX_S * 1000,
            "queue.buffering.max.messages": 20_000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200,
            "retry.backoff.ms": 20, "error_cb": self.error, "log_level": 0})

    def error(self, error: KafkaError):
        if error.fatal():
            self.failure = RuntimeError(f"the producer cannot go on: {error}")

    def run(self):
        try:
            while not self.stopping.is_set() and self.failure is None:
                self.burst()
            unsettled = self.producer.flush(OUTAGE_MAX_S)
            if unsettled:
                raise RuntimeError(f"{unsettled} records were never settled")
        except Exception as failure:
            self.failure = self.failure or failure

    def burst(self):
        for _ in range(self.chance.randrange(1, 200)):
            partition = self.chance.choice(self.partitions)
            sequence = self.next[partition]
            filler = b"x" * self.chance.randrange(300)
            try:
                self.producer.produce("ledger", b"%d %s" % (sequence, filler), partition=partition,
                                      on_delivery=lambda e, m, p=partition, s=sequence: self.ledger.settled(p, s, e, m))
            except BufferError:
                break
            # Written down after it was queued: the sequence is used up only now, and its answer comes out of poll().
            self.ledger.write("sent", partition, sequence)
            self.next[partition] = sequence + 1
        self.producer.poll(0.002)

    def finish(self):
        self.stopping.set()
        self.join(OUTAGE_MAX_S + 30)
        if self.failure:
            raise Failed(f"producer: {self.failure}")


class Reader(threading.Thread):
    """Follows the log through all the kills."""

    def __init__(self, address: str, ledger: Ledger):
        super().__init__(daemon=True)
        self.ledger, self.stopping, self.failure = ledger, threading.Event(), None
        self.consumer = Consumer({"bootstrap.servers": address, "group.id": "live", "enable.auto.commit": False,
                                  "auto.offset.reset": "error", "check.crcs": True, "log_level": 0,
                                  "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200})

    def run(self):
        self.consumer.assign([TopicPartition("ledger", p, 0) for p in range(PARTITIONS)])
        while not self.stopping.is_set():
            for m in self.consumer.consume(1000, timeout=0.05):
                if m.error() is None:
                    self.ledger.write("read", "live", m.partition(), m.offset(), m.value().split(b" ", 1)[0].decode())
                elif m.error().code() == KafkaError._AUTO_OFFSET_RESET or m.error().fatal():
                    self.failure = m.error()
                    return
        self.consumer.close()

    def finish(self):
        self.stopping.set()
        self.join(30)
        if self.failure:
            raise Failed(f"live reader: {self.failure}")


def story(part: Part):
    part.say(f"seed {SEED}, {KILLS} kills")
    chance = random.Random(SEED)
    broker = part.broker().start()
    tiered_topic(broker, "ledger", PARTITIONS)
    ledger = Ledger(part.directory / "history.txt")
    long_lived = Load(broker.address, ledger, random.Random(SEED + 1), [0, 1])
    reader = Reader(broker.address, ledger)
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
    read_all(broker, ledger, part)
    ledger.file.close()
    broker.stop()
    judge(part, ledger)
    part.say(f"ready again: median {sorted(recoveries)[len(recoveries) // 2]:.2f} s, worst {max(recoveries):.2f} s")


def part_started(broker):
    from harness.process import Process
    return Process(broker.command(), broker.directory / "broker.log", broker.env)


def read_all(broker, ledger: Ledger, part: Part):
    ends = {p: part.log_end(broker, "ledger", p) for p in range(PARTITIONS)}
    for m in consume(broker.address, "ledger", ends):
        ledger.write("read", "final", m.partition(), m.offset(), m.value().split(b" ", 1)[0].decode())
    for p, end in ends.items():
        ledger.write("ended", "final", p, end)


def judge(part: Part, ledger: Ledger):
    if ledger.refused:
        raise Failed(f"the producer gave up records. count={len(ledger.refused)}, first={ledger.refused[0]}")
    done = subprocess.run([built("check_history"), part.directory / "history.txt"], capture_output=True, text=True)
    if not done.stdout:
        raise Failed(f"the checker could not judge. stderr={done.stderr}")
    verdict = json.loads(done.stdout)
    part.check(verdict["acknowledged"] > 100 * KILLS, f"{verdict['acknowledged']} records were acknowledged through {KILLS} kills")
    for what in ("lost", "duplicated", "reordered", "inconsistent", "nonmonotonic", "invented"):
        part.check(verdict[what] == 0, f"{what} {verdict[what]}", f"seed={SEED}, examples={verdict['examples']}")


run(story)
