"""Tiering, and cold replay of one partition over a far link: 30 ± 10 ms to the first byte, 80 MB/s a connection.

The store is versitygw on the same two cores, behind far_link. Kafka's side of this comparison is recorded, not run: its
tiered-storage plugin is on no package registry.
"""

import json
import pathlib
import shutil
import urllib.request

from harness.broker import Varve
from harness.bucket import Versitygw
from harness.place import answers, built, free_port, wait_for
from harness.process import Process
from harness.wire import EARLIEST_LOCAL, LATEST, LATEST_TIERED, Connection
from hot import PRODUCER, Meter, Payload, kcat, settings

SEGMENT_BYTES = 64 << 20
REPLAYS = 3


class FarLink:
    def __init__(self, directory: pathlib.Path, upstream: int):
        self.port, self.control = free_port(), free_port()
        self.process = Process([built("far_link"), "--listen", f"127.0.0.1:{self.port}", "--upstream", f"127.0.0.1:{upstream}",
                                "--control", f"127.0.0.1:{self.control}", "--latency-ms", 30, "--jitter-ms", 10, "--mbps", 80],
                               directory / "far_link.log")
        self.process.wait_until("far_link", lambda: answers(self.port) and answers(self.control))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}{path}", timeout=10) as answer:
            return json.load(answer)


def requests(counts: dict, *methods: str) -> int:
    return sum(c["requests"] for kind, c in counts["kinds"].items() if kind.split(" ")[0] in methods)


def tiered(broker, end: int) -> bool:
    with Connection(broker.address) as connection:
        return connection.offset_at("cold", 0, LATEST_TIERED)[0] >= end


def run(place: pathlib.Path, payload: Payload, options, add):
    store = Versitygw(place / "s3").start()
    link = FarLink(place, store.port)
    cache = place / "cache"
    broker = Varve(place / "broker", {**store.settings(link.endpoint), "varve.cache.dir": str(cache)}, store.url(), store.env()).start()
    broker.create("cold", segment_bytes=SEGMENT_BYTES, retention_ms=-1, remote_storage_enable="false")
    times = max(1, round(options.cold_gigabytes * 1e9 / payload.bytes))
    for _ in range(times):
        kcat("-P", "-b", broker.address, "-t", "cold", "-p", 0, "-l", payload.path, *settings(PRODUCER))
    with Connection(broker.address) as connection:
        end = connection.offset_at("cold", 0, LATEST)[0]
    tiering(broker, link, end, payload, add)
    # One segment stays open and local: the replay reads what has left.
    with Connection(broker.address) as connection:
        cold_end = wait_for("the local copies go", lambda: local_start(connection, end, payload), 60)
    broker.stop()
    for _ in range(REPLAYS):
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(broker.directory / "data/cache", ignore_errors=True)
        replay(broker, link, cold_end, payload, add)
    store.stop()
    link.process.stop()


def local_start(connection, end: int, payload: Payload) -> int:
    start = connection.offset_at("cold", 0, EARLIEST_LOCAL)[0]
    return start if (end - start) * payload.bytes / payload.count < 2 * SEGMENT_BYTES else 0


def tiering(broker, link: FarLink, end: int, payload: Payload, add):
    link.ask("/reset")
    meter = Meter(broker.process)
    broker.alter("cold", remote_storage_enable="true", local_retention_ms=1)
    per_segment = int(SEGMENT_BYTES * payload.count / payload.bytes)
    wait_for("all sealed segments are uploaded", lambda: tiered(broker, end - per_segment - 1), 600, pause=0.2)
    cpu, counts = meter.stop(), link.ask("/counts")
    with Connection(broker.address) as connection:
        uploaded = connection.offset_at("cold", 0, LATEST_TIERED)[0] * payload.bytes / payload.count
    sent = sum(c["bytes_up"] for c in counts["kinds"].values())
    add("tier", {"cpu_s/GB": cpu / uploaded * 1e9, "PUT/GB": requests(counts, "PUT", "POST") / uploaded * 1e9,
                 "bytes/byte": sent / uploaded}, requests=counts["kinds"])


def replay(broker, link: FarLink, end: int, payload: Payload, add):
    broker.start()
    link.ask("/reset")
    meter = Meter(broker.process)
    seconds = kcat("-C", "-b", broker.address, "-t", "cold", "-p", 0, "-o", "beginning", "-c", end, "-q", "-f", "")
    cpu, counts = meter.stop(), link.ask("/counts")
    size = end * payload.bytes / payload.count
    fetched = sum(c["bytes_down"] for kind, c in counts["kinds"].items() if kind.startswith("GET"))
    add("cold", {"MB/s": size / seconds / 1e6, "cpu_s/GB": cpu / size * 1e9, "GET/GB": requests(counts, "GET", "HEAD") / size * 1e9,
                 "bytes/byte": fetched / size, "rss_MiB": broker.process.memory_mib()},
        in_flight_max=counts["in_flight_max"], in_flight_mean=round(counts["request_seconds"] / seconds, 2))
    broker.stop()
