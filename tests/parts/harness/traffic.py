"""Records in and out through librdkafka, with nothing lost silently on the way."""

import hashlib
import random
import time
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from harness.wire import EARLIEST_LOCAL, Connection

# A topic whose sealed segments leave the local disk at once, and whose past is kept for ever
# (without retention.ms=-1 records from 2013 would be deleted as too old).
TIERED = {"segment_bytes": 1 << 20, "retention_ms": -1}
TIERED_ONLY = {"remote_storage_enable": "true", "local_retention_ms": 1}


def tiered_topic(broker, topic: str, partitions: int = 1, **more):
    broker.create(topic, partitions, **{**TIERED, **(TIERED_ONLY if broker.tiered else {}), **more})


@dataclass(frozen=True)
class Record:
    key: bytes | None
    value: bytes | None
    headers: tuple = ()
    timestamp: int = 0


class Deliveries:
    """Counts what was acknowledged; the first refusal ends the run."""

    def __init__(self):
        self.acknowledged = 0

    def __call__(self, error, _message):
        if error is not None:
            raise RuntimeError(f"not delivered: {error}")
        self.acknowledged += 1


def produce(address: str, topic: str, records, partition: int | None = None, **config) -> int:
    producer = Producer({"bootstrap.servers": address, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000,
                         "acks": "all", "enable.idempotence": True, **{k.replace("_", "."): v for k, v in config.items()}})
    delivered = Deliveries()
    sent = 0
    place = {} if partition is None else {"partition": partition}
    for r in records:
        while True:
            try:
                producer.produce(topic, r.value, r.key, headers=list(r.headers) or None, timestamp=r.timestamp,
                                 on_delivery=delivered, **place)
                break
            except BufferError:
                producer.poll(0.1)
        sent += 1
        if sent % 1000 == 0:
            producer.poll(0)
    if producer.flush(120) or delivered.acknowledged != sent:
        raise RuntimeError(f"not all delivered. sent={sent}, acknowledged={delivered.acknowledged}")
    return sent


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(64 << 10)


def seal(address: str, topic: str, partitions: int = 1, segment_bytes: int = 1 << 20, filler=noise) -> dict[int, int]:
    """Pushes what a topic holds into sealed segments: filler larger than a segment follows it. Gives the old ends."""
    ends = {}
    consumer = Consumer({"bootstrap.servers": address, "group.id": "ends"})
    for partition in range(partitions):
        ends[partition] = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
    consumer.close()
    chance = random.Random(0)
    for partition in range(partitions):
        count = 2 * segment_bytes // (64 << 10) + 2
        produce(address, topic, [Record(b"filler", filler(chance)) for _ in range(count)], partition, linger_ms=0)
    return ends


def consume(address: str, topic: str, ends: dict[int, int], starts: dict[int, int] | None = None, timeout: float = 120, **config):
    """Yields every message below `ends`, partition by partition in log order, and insists on each end being reached."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "replay", "enable.auto.commit": False,
                         "enable.partition.eof": True, "check.crcs": True, "auto.offset.reset": "error",
                         **{k.replace("_", "."): v for k, v in config.items()}})
    left = {p: end for p, end in ends.items() if end > (starts or {}).get(p, 0)}
    consumer.assign([TopicPartition(topic, p, (starts or {}).get(p, 0)) for p in left])
    try:
        heard = time.monotonic()
        while left:
            messages = consumer.consume(10_000, timeout=0.2)  # a longer one would wait for 10,000 that never come
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > timeout:
                raise RuntimeError(f"nothing more came for {timeout} s. topic={topic}, left={left}")
            for m in messages:
                error = m.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        if m.partition() in left and m.offset() < left[m.partition()]:
                            raise RuntimeError(f"the log ends early. topic={topic}, at={m.offset()}, want={left}")
                        continue
                    raise RuntimeError(f"consuming: {error}")
                p = m.partition()
                if p not in left or m.offset() >= ends[p]:
                    continue
                yield m
                if m.offset() == left[p] - 1:
                    del left[p]
    finally:
        consumer.close()


def fingerprint(key, value, headers, timestamp) -> bytes:
    """One record as unambiguous bytes: None and empty differ, and so do the orders of headers."""
    parts = [repr(timestamp), repr(key), repr(value), repr([(n, v) for n, v in headers or []])]
    return "\x1f".join(parts).encode() + b"\x1e"


class Digest:
    def __init__(self):
        self.sha, self.count = hashlib.sha256(), 0

    def add(self, key, value, headers, timestamp):
        self.sha.update(fingerprint(key, value, headers, timestamp))
        self.count += 1

    def result(self) -> tuple[int, str]:
        return self.count, self.sha.hexdigest()


def sent_digest(records) -> tuple[int, str]:
    digest = Digest()
    for r in records:
        digest.add(r.key, r.value, r.headers, r.timestamp)
    return digest.result()


def read_digest(messages) -> tuple[int, str]:
    digest = Digest()
    for m in messages:
        digest.add(m.key(), m.value(), m.headers(), m.timestamp()[1])
    return digest.result()


def gone_everywhere(cluster, topic: str, ends: dict[int, int]) -> bool:
    """Whether no leader has anything below `ends` (partition: offset) on its own disk any more."""
    for partition, end in ends.items():
        leader = cluster.number(cluster.leader(topic, partition))
        with Connection(leader.address) as connection:
            if connection.offset_at(topic, partition, EARLIEST_LOCAL)[0] < end:
                return False
    return True
