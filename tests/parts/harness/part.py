"""A part: one story against freshly started processes, with a verdict. Each part file calls run(story)."""

import os
import pathlib
import shutil
import sys
import tempfile
import time
import traceback

from harness.broker import Broker, Kafka, Varve
from harness.place import wait_for
from harness.process import end_what_is_left
from harness.wire import EARLIEST_LOCAL, LATEST, Connection


class Failed(Exception):
    """What a check found; the message is the whole story."""


class Part:
    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.began = time.monotonic()
        # The reference: with VARVE_TEST_BROKER=kafka a part runs against Apache Kafka, without its claims about tiers.
        self.against_kafka = os.environ.get("VARVE_TEST_BROKER") == "kafka"

    def broker(self, settings: dict | None = None, name: str = "broker", **varve) -> Broker:
        if self.against_kafka:
            own = {k: v for k, v in (settings or {}).items() if not k.startswith("varve.")}
            return Kafka(self.directory / name, own)
        return Varve(self.directory / name, settings, **varve)

    def say(self, what: str):
        print(f"  [{time.monotonic() - self.began:6.1f} s] {what}", flush=True)

    def check(self, holds: bool, what: str, detail: str = ""):
        if not holds:
            raise Failed(f"{what}{'. ' + detail if detail else ''}")
        self.say(what)

    def equal(self, got, want, what: str):
        self.check(got == want, what, f"got={shorten(got)}, want={shorten(want)}")

    def local_copies_gone(self, broker: Broker, topic: str, ends: dict[int, int], seconds: float = 90):
        """Waits until no byte below `ends` (partition: offset) is on the broker's own disk any more."""
        if not broker.tiered:
            return
        for partition, end in ends.items():
            last = [None]

            def gone():
                with Connection(broker.address) as connection:
                    last[0] = connection.offset_at(topic, partition, EARLIEST_LOCAL)[0]
                return last[0] >= end
            try:
                wait_for("local copies gone", gone, seconds, pause=0.2)
            except TimeoutError as late:
                raise Failed(f"{late}. topic={topic}, partition={partition}, earliest_local={last[0]}, want>={end}") from None
        self.say(f"local copies of {topic} are gone")

    def log_end(self, broker: Broker, topic: str, partition: int = 0) -> int:
        with Connection(broker.address) as connection:
            return connection.offset_at(topic, partition, LATEST)[0]


def shorten(value) -> str:
    text = repr(value)
    return text if len(text) < 600 else text[:600] + "..."


def give_up(why: str):
    print(f"  FAILED: {why}", flush=True)
    end_what_is_left()
    os._exit(1)                                              # threads of clients may wait for a broker that is gone


def run(story):
    directory = pathlib.Path(tempfile.mkdtemp(prefix="varve-part-", dir=os.environ.get("VARVE_TEST_TMP")))
    part = Part(directory)
    try:
        story(part)
    except (Failed, TimeoutError, RuntimeError) as wrong:
        give_up(f"{wrong}\n  kept: {directory}")
    except Exception:
        traceback.print_exc(file=sys.stdout)
        give_up(f"see above\n  kept: {directory}")
    shutil.rmtree(directory, ignore_errors=True)
