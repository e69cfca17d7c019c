"""What goes wrong at the start says so: exit code not 0, one clear line that names the culprit, and no panic.

The disk that is full is a small tmpfs; it is filled once before the start and once under load. Needs root for mount.
"""

import contextlib
import os
import pathlib
import re
import socket
import subprocess

from confluent_kafka import Producer

from harness.broker import Varve
from harness.bucket import KEY, SECRET, Versitygw
from harness.part import Part, run
from harness.place import built, free_port
from harness.traffic import consume

# Log lines in front of the error are no errors.
PROGRESS = re.compile(r"\b(INFO|WARN|DEBUG|TRACE)\b")


class Attempt:
    def __init__(self, part: Part, name: str):
        self.part, self.directory = part, part.directory / name
        self.varve = Varve(self.directory, {})

    def must_fail(self, what: str, *wanted: str, env: dict | None = None, arguments: tuple = ()):
        """Each of `wanted` is a pattern for the one line."""
        config = self.varve.write_config()
        done = subprocess.run([built("varve"), "server", "--config", config, *arguments], capture_output=True, text=True,
                              timeout=60, env={**os.environ, **(env or {})}, cwd=self.directory)
        printed = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        self.judge(what, done.returncode, printed, wanted)

    def judge(self, what: str, code: int, printed: str, wanted: tuple):
        said = [l for l in printed.splitlines() if l.strip() and not PROGRESS.search(l)]
        self.part.check(code not in (0, None) and code > 0, f"{what}: exit code {code}", printed[-800:])
        self.part.check("panicked" not in printed and "RUST_BACKTRACE" not in printed, f"{what}: no panic", printed[-800:])
        self.part.check(len(said) == 1, f"{what}: one line", f"lines={said}")
        for pattern in wanted:
            self.part.check(re.search(pattern, said[0], re.I) is not None, f"{what}: it says /{pattern}/", said[0])
        self.part.say(f"    {said[0]}")


@contextlib.contextmanager
def small_disk(place: pathlib.Path, mib: int):
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def configuration(part: Part):
    attempt = Attempt(part, "unknown-key")
    attempt.varve.settings["log.retention.hoars"] = "1"
    attempt.varve.settings["zookeeper.connect"] = "localhost"
    attempt.must_fail("unknown keys are all named at once", r"log\.retention\.hoars", r"zookeeper\.connect")
    attempt = Attempt(part, "bad-value")
    attempt.varve.settings["num.partitions"] = "several"
    attempt.must_fail("a bad value", r"num\.partitions", "several")
    attempt = Attempt(part, "bad-override")
    attempt.must_fail("a bad value on the command line", r"varve\.flush", "sometimes", arguments=("varve.flush=sometimes",))
    attempt = Attempt(part, "no-such-file")
    attempt.directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([built("varve"), "server", "--config", "/does/not/exist.properties"], capture_output=True, text=True, timeout=60)
    attempt.judge("no such config file", done.returncode, done.stdout + done.stderr, (r"/does/not/exist\.properties",))


def ports_and_places(part: Part):
    with socket.socket() as taken:
        attempt = Attempt(part, "port")
        taken.bind(("127.0.0.1", attempt.varve.port))
        taken.listen()
        attempt.must_fail("an occupied port", str(attempt.varve.port), "in use")
    with socket.socket() as taken:
        attempt = Attempt(part, "http-port")
        taken.bind(("127.0.0.1", attempt.varve.http_port))
        taken.listen()
        attempt.must_fail("an occupied http port", str(attempt.varve.http_port), "in use")
    attempt = Attempt(part, "file")
    attempt.directory.mkdir(parents=True, exist_ok=True)
    (attempt.directory / "data").write_text("not a directory")
    attempt.must_fail("a data directory that is a file", "data", "directory")
    attempt = Attempt(part, "twice")
    attempt.varve.start()
    second = Varve(attempt.directory, {})
    second.settings |= {"log.dirs": attempt.varve.settings["log.dirs"]}
    attempt.varve, first = second, attempt.varve
    attempt.must_fail("a data directory in use", "data", "use|lock")
    first.stop()


def buckets(part: Part):
    server = Versitygw(part.directory / "s3").start()
    nowhere = f"http://127.0.0.1:{free_port()}"
    credentials = "credentials|denied|signature|refused"
    for name, bucket, key, secret, endpoint, more, wanted in (
            ("wrong credentials", server.url(), KEY, "not-the-secret", server.endpoint, {}, (credentials, "varve")),
            ("a wrong access key", server.url(), "nobody", SECRET, server.endpoint, {}, ("check key, secret", "access key")),
            ("a wrong region", server.url(), KEY, SECRET, server.endpoint, {"varve.bucket.region": "mars-north-1"},
             (r"set varve\.bucket\.region", "mars-north-1")),
            ("a missing bucket", "s3://no-such-bucket/x", KEY, SECRET, server.endpoint, {}, ("bucket does not exist", "no-such-bucket")),
            ("an endpoint where nobody listens", server.url(), KEY, SECRET, nowhere, {}, (re.escape(nowhere.removeprefix("http://")),)),
            ("a bucket url of no known kind", "gopher://varve/x", KEY, SECRET, server.endpoint, {}, ("gopher",))):
        attempt = Attempt(part, name.replace(" ", "-"))
        attempt.varve.settings |= {**server.settings(endpoint), "varve.bucket": bucket, **more}
        attempt.must_fail(name, *wanted, env={**server.env(), "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret})
    server.stop()


def full_disk(part: Part):
    attempt = Attempt(part, "full")
    with small_disk(attempt.directory / "disk", 1) as disk:
        attempt.varve.settings["log.dirs"] = str(disk / "data")
        filled = subprocess.run(["dd", "if=/dev/zero", f"of={disk}/filler", "bs=4k"], capture_output=True)
        part.check(filled.returncode != 0, "the disk is full")
        attempt.must_fail("a full disk at the start", "no space|full", "data")
    # Under load: whatever was acknowledged before is there when there is room again.
    attempt = Attempt(part, "filling")
    with small_disk(attempt.directory / "disk", 24) as disk:
        attempt.varve.settings |= {"log.dirs": str(disk / "data")}
        varve = attempt.varve.start()
        # Nothing can leave for the bucket: the one segment never seals.
        varve.create("filling", segment_bytes=1 << 30)
        acknowledged, refused = [], []
        producer = Producer({"bootstrap.servers": varve.address, "acks": "all", "message.timeout.ms": 15_000, "linger.ms": 5,
                             "enable.idempotence": True, "log_level": 0})
        for i in range(50):
            producer.produce("filling", b"%d " % i + b"x" * 900_000,
                             on_delivery=lambda e, m, i=i: refused.append(str(e)) if e else acknowledged.append((m.offset(), i)))
            producer.poll(0)
        left = producer.flush(60)
        part.check(left == 0 and 5 < len(acknowledged) < 50 and refused, f"a disk that fills: {len(acknowledged)} records taken, {len(refused)} refused")
        log = varve.process.log.read_text(errors="replace")
        part.check("panicked" not in log, "a disk that fills: no panic", log[-800:])
        if varve.process.alive():
            varve.kill()
        else:
            part.check(varve.process.child.returncode > 0, f"a disk that fills: exit code {varve.process.child.returncode}")
        subprocess.run(["mount", "-o", "remount,size=96m", disk], check=True)
        varve.start()
        read = {m.offset(): int(m.value().split(b" ", 1)[0]) for m in consume(varve.address, "filling", {0: part.log_end(varve, "filling")})}
        part.check(all(read.get(offset) == i for offset, i in acknowledged), "a disk that fills: all that was acknowledged is there")
        varve.stop()


def story(part: Part):
    if part.against_kafka:
        part.say("Varve's own messages: nothing to hold Kafka to")
        return
    configuration(part)
    ports_and_places(part)
    buckets(part)
    full_disk(part)


run(story)
