"""The S3 server dies under load and comes back: producing goes on, nothing is lost, the uploads catch up."""

import os
import random
import signal
import threading
import time

from confluent_kafka import Producer

from harness.bucket import Versitygw
from harness.part import Failed, Part, run
from harness.place import FULL, wait_for
from harness.traffic import Digest, consume, read_digest, seal, tiered_topic
from harness.wire import EARLIEST, EARLIEST_LOCAL, LATEST_TIERED, Connection

OUTAGE_S = 60 if FULL else 10
PARTITIONS = 2
# About 4 MB/s: several segments seal and want to leave in every second of the outage.
BURST, PAUSE_S = 40, 0.02


class Load(threading.Thread):
    """Steady traffic. Remembers what was sent, in order, and when the acknowledgements came."""

    def __init__(self, address: str):
        super().__init__()
        self.digests = [Digest() for _ in range(PARTITIONS)]
        self.sent, self.acknowledged_at, self.refused = 0, [], []
        self.slowest = (0.0, 0.0)                            # seconds to the acknowledgement, when
        self.stopping = threading.Event()
        self.producer = Producer({"bootstrap.servers": address, "acks": "all", "enable.idempotence": True, "linger.ms": 5})

    def run(self):
        chance = random.Random(5)
        stamp = 1_700_000_000_000
        while not self.stopping.wait(PAUSE_S):
            for _ in range(BURST):
                p, value, stamp = self.sent % PARTITIONS, chance.randbytes(2000), stamp + 1
                began = time.monotonic()
                self.producer.produce("outage", value, b"%d" % self.sent, partition=p, timestamp=stamp,
                                      on_delivery=lambda e, m, began=began: self.settled(e, began))
                self.digests[p].add(b"%d" % self.sent, value, None, stamp)
                self.sent += 1
            self.producer.poll(0)
        if self.producer.flush(60):
            self.refused.append("not settled within 60 s")

    def settled(self, error, began: float):
        now = time.monotonic()
        if error is not None:
            self.refused.append(str(error))
        self.acknowledged_at.append(now)
        self.slowest = max(self.slowest, (now - began, now))

    def acknowledged_between(self, begin: float, end: float) -> list[int]:
        """Per second."""
        counts = [0] * max(1, int(end - begin))
        for at in self.acknowledged_at:
            if begin <= at < begin + len(counts):
                counts[int(at - begin)] += 1
        return counts


def places(broker, place: int) -> list[int]:
    with Connection(broker.address) as connection:
        return [connection.offset_at("outage", p, place)[0] for p in range(PARTITIONS)]


def retention_goes_on(part: Part):
    """A tiered partition that needs its manifest to know what may go does not hold up the others."""
    server = Versitygw(part.directory / "s3-retention").start()
    broker = part.broker(server.settings(), name="broker-retention", bucket=server.url(), env=server.env()).start()
    tiered_topic(broker, "tiered")
    part.local_copies_gone(broker, "tiered", {0: 1} | seal(broker.address, "tiered"))
    broker.create("plain", segment_bytes=1 << 20, retention_ms=-1, remote_storage_enable="false")
    seal(broker.address, "plain")
    broker.stop()
    broker.start()                                          # without limits nobody has asked for the manifest yet
    os.kill(server.process.child.pid, signal.SIGSTOP)        # what does not answer is waited for longer than what refuses
    broker.alter("tiered", retention_bytes=1 << 30)
    time.sleep(2)
    broker.alter("plain", retention_bytes=1)

    def trimmed():
        with Connection(broker.address) as connection:
            return connection.offset_at("plain", 0, EARLIEST)[0] > 0
    wait_for("retention of the other topic", trimmed, 10)
    part.say("retention of other topics goes on without the bucket")
    broker.stop()
    server.kill()


def story(part: Part):
    if not part.against_kafka:
        retention_goes_on(part)
    server = Versitygw(part.directory / "s3").start()
    broker = part.broker(None if part.against_kafka else server.settings(), bucket=server.url(), env=server.env()).start() \
        if not part.against_kafka else part.broker().start()
    tiered_topic(broker, "outage", PARTITIONS)
    load = Load(broker.address)
    load.start()
    if broker.tiered:
        wait_for("uploads begin", lambda: min(places(broker, LATEST_TIERED)) > 0, 60)
    server.kill()
    gone = time.monotonic()
    part.say("the S3 server is gone")
    stuck = None
    # The outage itself takes its time; meanwhile the tier stands still and the local disk keeps what it has.
    while time.monotonic() - gone < OUTAGE_S:
        if broker.tiered and stuck is None and time.monotonic() - gone > 2:
            stuck = places(broker, LATEST_TIERED)
        if load.refused or not broker.process.alive():
            break
        time.sleep(0.2)
    back = time.monotonic()
    if broker.tiered:
        part.equal(places(broker, LATEST_TIERED), stuck, "nothing claims to be uploaded meanwhile")
        local = places(broker, EARLIEST_LOCAL)
        part.check(all(l <= t + 1 for l, t in zip(local, stuck)), "nothing that was not uploaded left the disk", f"local={local}, tiered={stuck}")
    server.start()
    part.say(f"it is back after {back - gone:.1f} s")
    if broker.tiered:
        wait_for("the uploads move again", lambda: all(n > o for n, o in zip(places(broker, LATEST_TIERED), stuck)), 60)
        part.say(f"uploads moved again {time.monotonic() - back:.1f} s later")
    load.stopping.set()
    load.join(120)
    if load.refused:
        raise Failed(f"records were refused. count={len(load.refused)}, first={load.refused[0]}")
    during = load.acknowledged_between(gone, back)
    part.check(min(during) > 0, f"producing went on in every second of the outage: {min(during)} to {max(during)} a second")
    part.say(f"slowest acknowledgement {load.slowest[0] * 1000:.0f} ms, {load.slowest[1] - gone:+.1f} s after the loss")
    ends = seal(broker.address, "outage", PARTITIONS)
    part.equal(sum(ends.values()), load.sent, f"all {load.sent} records have offsets")
    part.local_copies_gone(broker, "outage", ends, 120)
    for p in range(PARTITIONS):
        part.equal(read_digest(consume(broker.address, "outage", {p: ends[p]})), load.digests[p].result(), f"partition {p}: nothing lost, in order")
    broker.stop()
    server.stop()


run(story)
