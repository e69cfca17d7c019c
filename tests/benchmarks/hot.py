"""Start-up, produce, hot consume, memory and latency of one broker on an empty directory."""

import json
import pathlib
import random
import shutil
import subprocess
import sys
import time

from confluent_kafka import Producer

from harness.place import wait_for
from harness.process import Process

RECORD_BYTES = 1000
SMALL_BYTES, SMALL_COUNT = 100, 200_000
LATENCY_RATE, LATENCY_SECONDS = 10_000, 20
# Large batches, as a loaded producer makes them; acks=all as every default has it.
PRODUCER = {"acks": "all", "linger.ms": 20, "batch.size": 1_000_000, "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 400_000, "queue.buffering.max.kbytes": 1_000_000}


class Payload:
    """Events as JSON lines of about 1,000 bytes, one file for every codec: lz4 makes it about 2.2 times smaller."""

    def __init__(self, place: pathlib.Path, gigabytes: float):
        self.count = int(gigabytes * 1e9 / RECORD_BYTES)
        self.path, self.small = place / "events.jsonl", place / "small.txt"
        chance = random.Random(42)
        distinct = [self.event(chance, i) for i in range(20_000)]
        with open(self.path, "wb") as out:
            for i in range(0, self.count, len(distinct)):
                out.writelines(distinct[:self.count - i])
        self.bytes = self.path.stat().st_size - self.count
        with open(self.small, "wb") as out:
            out.writelines(b"%0*d\n" % (SMALL_BYTES, i) for i in range(SMALL_COUNT))

    @staticmethod
    def event(chance: random.Random, i: int) -> bytes:
        event = {"id": f"{chance.getrandbits(128):032x}", "user": chance.randrange(1_000_000), "at": 1_700_000_000_000 + i,
                 "kind": chance.choice(["view", "click", "purchase", "search"]), "page": f"/articles/{chance.randrange(5000)}",
                 "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
                 "tags": [chance.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(6)]}
        line = json.dumps(event)
        rest = RECORD_BYTES - len(line) - len(', "trace": ""')
        return (line[:-1] + f', "trace": "{chance.getrandbits(rest * 2):x}'[:rest + 12].ljust(rest + 12, ".") + '"}\n').encode()


def settings(config: dict) -> list[str]:
    return [word for name, value in config.items() for word in ("-X", f"{name}={value}")]


def kcat(*arguments) -> float:
    """Runs kcat to its end; gives its seconds."""
    began = time.monotonic()
    subprocess.run(["kcat", *map(str, arguments)], check=True, timeout=1800, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.monotonic() - began


class Meter:
    """The broker's CPU from here to `stop`, with what it still does once the client has gone."""

    def __init__(self, process):
        self.process, self.before = process, process.cpu_seconds()

    def stop(self) -> float:
        last = [self.process.cpu_seconds()]

        def settled():
            time.sleep(0.3)
            now, last[0] = self.process.cpu_seconds(), last[0]
            idle, last[0] = now - last[0] <= 0.02, now
            return idle
        wait_for("the broker comes to rest", settled, 60, pause=0)
        return last[0] - self.before


def produce(broker, payload: Payload, topic: str, codec: str) -> dict:
    broker.create(topic)
    meter = Meter(broker.process)
    seconds = kcat("-P", "-b", broker.address, "-t", topic, "-p", 0, "-z", codec, "-l", payload.path, *settings(PRODUCER))
    return {"cpu_s/GB": meter.stop() / payload.bytes * 1e9, "MB/s": payload.bytes / seconds / 1e6}


def produce_singly(broker, payload: Payload, topic: str) -> dict:
    broker.create(topic)
    meter = Meter(broker.process)
    seconds = kcat("-P", "-b", broker.address, "-t", topic, "-p", 0, "-l", payload.small,
                   *settings({**PRODUCER, "linger.ms": 0, "batch.num.messages": 1}))
    return {"cpu_us/request": meter.stop() / SMALL_COUNT * 1e6, "requests/s": SMALL_COUNT / seconds}


def consume(broker, payload: Payload, topic: str) -> dict:
    meter = Meter(broker.process)
    seconds = kcat("-C", "-b", broker.address, "-t", topic, "-p", 0, "-o", "beginning", "-c", payload.count, "-q", "-f", "")
    return {"cpu_s/GB": meter.stop() / payload.bytes * 1e9, "MB/s": payload.bytes / seconds / 1e6}


def startup(make) -> dict:
    """From exec on an empty directory to the first acknowledged record, through librdkafka."""
    broker = make()
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all", "linger.ms": 0, "log_level": 0,
                         "reconnect.backoff.ms": 5, "reconnect.backoff.max.ms": 20, "retry.backoff.ms": 5,
                         "topic.metadata.refresh.fast.interval.ms": 10, "message.timeout.ms": 120_000})
    command = broker.command()                              # formats Kafka's directory: that is not counted
    acknowledged = []
    began = time.monotonic()
    broker.process = Process(command, broker.directory / "broker.log", broker.env)
    producer.produce("first", b"record", on_delivery=lambda e, m: acknowledged.append(time.monotonic() - began) if e is None else None)
    broker.process.wait_until("the first acknowledgement", lambda: producer.poll(0.002) >= 0 and acknowledged, 120)
    result = {"seconds": acknowledged[0], "cpu_s": broker.process.cpu_seconds()}
    time.sleep(3)                                            # idle is what it is after it has come to rest
    result["rss_idle_MiB"] = broker.process.memory_mib()
    broker.stop()
    shutil.rmtree(broker.directory)
    return result


def latency(broker) -> dict:
    broker.create("latency")
    client = pathlib.Path(__file__).with_name("latency.py")
    done = subprocess.run([sys.executable, client, broker.address, str(LATENCY_RATE), str(LATENCY_SECONDS)],
                          capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"latency client: {done.stderr[-800:]}")
    return json.loads(done.stdout)


def run(make, scenarios: list[str], payload: Payload, options, add):
    if "startup" in scenarios:
        add("startup", startup(make))
    if not {"produce", "consume", "latency"} & set(scenarios):
        return
    broker = make().start()
    if options.warm_up > 0:
        for _ in range(max(1, round(options.warm_up / options.gigabytes))):
            broker.create("warm")
            kcat("-P", "-b", broker.address, "-t", "warm", "-p", 0, "-l", payload.path, *settings(PRODUCER))
            kcat("-C", "-b", broker.address, "-t", "warm", "-p", 0, "-o", "beginning", "-c", payload.count, "-q", "-f", "")
            admin = broker.admin()
            for gone in admin.delete_topics(["warm"]).values():
                gone.result(30)
    if {"produce", "consume"} & set(scenarios):
        for codec in ("none", "lz4", "zstd"):
            add(f"produce-{codec}", produce(broker, payload, codec, codec))
            if codec == "none" and "consume" in scenarios:
                add("consume-hot", consume(broker, payload, codec))
        add("produce-one-record", produce_singly(broker, payload, "single"))
        add("memory", {"rss_loaded_MiB": broker.process.memory_mib(), "rss_peak_MiB": broker.process.memory_mib("VmHWM")})
    if "latency" in scenarios:
        add("latency", latency(broker))
    broker.stop()
