"""The whole path against two real S3 servers: produce, seal, upload, drop the local copies, replay, byte for byte.

The log's own bytes are digested through raw fetches: from the local disk, from the bucket, and from the bucket again
after a restart with nothing cached. moto checks no signature and no checksum; versitygw checks both.
"""

import random
import time

from confluent_kafka import Consumer, TopicPartition

from harness.bucket import SERVERS
from harness.part import Part, run
from harness.traffic import TIERED, Record, consume, produce, read_digest, seal, sent_digest, tiered_topic
from harness.wire import EARLIEST, LATEST_TIERED, Connection, digest

COUNT, PARTITIONS = 30_000, 3


def records(partition: int) -> list[Record]:
    chance = random.Random(partition)
    return [Record(b"%d" % i, chance.randbytes(chance.randrange(400)) if i % 50 else None, (("i", b"%d" % i),),
                   1_700_000_000_000 + i) for i in range(COUNT)]


def story_on(part: Part, name: str):
    server = None if part.against_kafka else SERVERS[name](part.directory / name).start()
    varve = {} if server is None else {"bucket": server.url("path"), "env": server.env()}
    settings = {} if server is None else {**server.settings(), "varve.cache.disk.bytes": "0"}
    broker = part.broker(settings, name=f"broker-{name}", **varve).start()
    sent = [records(p) for p in range(PARTITIONS)]
    # All stays local at first (uploads may begin), so that the same bytes can be digested from both sides of the seam.
    broker.create("path", PARTITIONS, **TIERED)
    for p in range(PARTITIONS):
        produce(broker.address, "path", sent[p], p, compression_type=["none", "lz4", "zstd"][p])
    ends = seal(broker.address, "path", PARTITIONS)
    part.equal(ends, {p: COUNT for p in range(PARTITIONS)}, f"{name}: every record has its offset")
    local = [digest(broker.address, "path", p, 0, COUNT) for p in range(PARTITIONS)]
    if broker.tiered:
        broker.alter("path", remote_storage_enable="true", local_retention_ms=1)
    part.local_copies_gone(broker, "path", ends)
    part.equal([digest(broker.address, "path", p, 0, COUNT) for p in range(PARTITIONS)], local,
               f"{name}: the same bytes as before they left the local disk")
    for p in range(PARTITIONS):
        part.equal(read_digest(consume(broker.address, "path", {p: COUNT})), sent_digest(sent[p]),
                   f"{name}: partition {p} replayed by librdkafka equals what was sent")
    if server is not None:
        with Connection(broker.address) as connection:
            tiered = [connection.offset_at("path", p, LATEST_TIERED)[0] for p in range(PARTITIONS)]
            earliest = [connection.offset_at("path", p, EARLIEST)[0] for p in range(PARTITIONS)]
        part.check(all(t >= COUNT - 1 for t in tiered) and earliest == [0] * PARTITIONS,
                   f"{name}: ListOffsets knows what is tiered", f"latest_tiered={tiered}, earliest={earliest}")
        stored = sum(server.keys("path").values())
        part.check(stored >= sum(size for _, size in local), f"{name}: the bucket holds {stored} bytes")
    broker.stop()
    broker.start()
    part.equal([digest(broker.address, "path", p, 0, COUNT) for p in range(PARTITIONS)], local,
               f"{name}: the same bytes after a restart")
    broker.stop()
    if server is not None:
        server.stop()


def hot_beside_cold(part: Part):
    """One consumer of a partition in the bucket and a larger one on disk: it gets both, and the bucket is read once."""
    broker = part.broker({"varve.cache.disk.bytes": "0"}, name="broker-mixed").start()
    chance = random.Random(0)
    big = [Record(b"big", chance.randbytes(10_000)) for _ in range(2000)]
    tiered_topic(broker, "cold")
    produce(broker.address, "cold", big, 0)
    part.local_copies_gone(broker, "cold", seal(broker.address, "cold"))
    broker.create("hot")
    for _ in range(6):
        produce(broker.address, "hot", big, 0)
    before = broker.metrics() if broker.tiered else {}
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "mixed", "enable.auto.commit": False,
                         "fetch.message.max.bytes": 1 << 20})
    consumer.assign([TopicPartition("cold", 0, 0), TopicPartition("hot", 0, 0)])
    seen = {"cold": 0, "hot": 0}
    deadline = time.monotonic() + 60
    while seen["cold"] < len(big) and time.monotonic() < deadline:
        for message in consumer.consume(1000, 0.2):
            seen[message.topic()] += message.error() is None
    consumer.close()
    part.check(seen["cold"] >= len(big) and seen["hot"] < 6 * len(big), "a cold partition is read beside a hot one", f"seen={seen}")
    if broker.tiered:
        # One for each segment of 1 MiB, those behind the records among them, and a few more for where it began.
        requests = broker.metrics()["varve_bucket_requests_total"] - before["varve_bucket_requests_total"]
        part.check(requests < 40, f"with {requests:.0f} requests to the bucket")
    broker.stop()


def story(part: Part):
    hot_beside_cold(part)
    for name in SERVERS:
        story_on(part, name)


run(story)
