"""Producers and readers that write down what was sent, acknowledged and read, for the checker in tests/src/checker.rs."""

import json
import random
import subprocess
import threading
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from harness.part import Failed, Part
from harness.place import built
from harness.traffic import consume

# What is on its way when a server dies is sent again for as long as this takes.
OUTAGE_MAX_S = 120


class Ledger:
    def __init__(self, path):
        self.path = path
        self.file, self.lock = open(path, "w", buffering=1 << 20), threading.Lock()
        self.acknowledged = 0
        # By partition: when what was acknowledged last was sent, and when that was known. Monotonic seconds.
        self.latest: dict[int, tuple[float, float]] = {}
        self.refused: list[str] = []

    def write(self, *words):
        with self.lock:
            print(*words, file=self.file)

    def settled(self, partition: int, sequence: int, error, message, sent_at: float):
        if error is None:
            self.acknowledged += 1
            self.latest[partition] = (sent_at, time.monotonic())
            self.write("acked", partition, sequence, message.offset())
        else:
            self.refused.append(str(error))
            self.write("refused", partition, sequence)


class Load(threading.Thread):
    """Sends numbered records until told to stop, and leaves nothing unsettled behind."""

    def __init__(self, address: str, ledger: Ledger, chance: random.Random, partitions: list[int], start: int = 0, pause: float = 0.002):
        """A burst of up to 200 records, then `pause` seconds."""
        super().__init__()
        self.pause = pause
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
                                      on_delivery=lambda e, m, p=partition, s=sequence, t=time.monotonic(): self.ledger.settled(p, s, e, m, t))
            except BufferError:
                break
            # Written down after it was queued: the sequence is used up only now, and its answer comes out of poll().
            self.ledger.write("sent", partition, sequence)
            self.next[partition] = sequence + 1
        self.producer.poll(self.pause)

    def finish(self):
        self.stopping.set()
        self.join(OUTAGE_MAX_S + 30)
        if self.failure:
            raise Failed(f"producer: {self.failure}")


class Reader(threading.Thread):
    """Follows the log through all the kills."""

    def __init__(self, address: str, ledger: Ledger, partitions: int):
        super().__init__(daemon=True)
        self.partitions = partitions
        self.ledger, self.stopping, self.failure = ledger, threading.Event(), None
        self.consumer = Consumer({"bootstrap.servers": address, "group.id": "live", "enable.auto.commit": False,
                                  "auto.offset.reset": "error", "check.crcs": True, "log_level": 0,
                                  "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200})

    def run(self):
        self.consumer.assign([TopicPartition("ledger", p, 0) for p in range(self.partitions)])
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


def read_all(broker, ledger: Ledger, ends: dict[int, int]):
    for m in consume(broker.address, "ledger", ends):
        ledger.write("read", "final", m.partition(), m.offset(), m.value().split(b" ", 1)[0].decode())
    for p, end in ends.items():
        ledger.write("ended", "final", p, end)


def judge(part: Part, ledger: Ledger, kills: int, seed: int):
    if ledger.refused:
        raise Failed(f"the producer gave up records. count={len(ledger.refused)}, first={ledger.refused[0]}")
    done = subprocess.run([built("check_history"), ledger.path], capture_output=True, text=True)
    if not done.stdout:
        raise Failed(f"the checker could not judge. stderr={done.stderr}")
    verdict = json.loads(done.stdout)
    part.check(verdict["acknowledged"] > 100 * kills, f"{verdict['acknowledged']} records were acknowledged through {kills} kills")
    for what in ("lost", "duplicated", "reordered", "inconsistent", "nonmonotonic", "invented"):
        part.check(verdict[what] == 0, f"{what} {verdict[what]}", f"seed={seed}, examples={verdict['examples']}")

