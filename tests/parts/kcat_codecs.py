"""100,000 keyed records in each codec, with headers, through kcat and librdkafka; read back once the local copies are gone.

Two topics a codec: one written by librdkafka with timestamps and headers of each record's own, one written by kcat.
Both are read by both, and keys, values, headers, timestamps and order are compared by checksum.
"""

import hashlib
import random
import subprocess

from harness.part import Part, run
from harness.traffic import Record, consume, produce, read_digest, seal, sent_digest, tiered_topic

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
COUNT = 100_000
LINE = r"%T %o %k %s %h\n"
START = 1_700_000_000_000


def records(seed: int) -> list[Record]:
    chance = random.Random(seed)
    return [Record(f"key-{i % 977}".encode(),
                   f'{{"n":{i},"noise":"{chance.getrandbits(96):024x}","text":"the quick brown fox"}}'.encode(),
                   (("trace", b"first"), ("trace", f"second-{i}".encode()), ("nothing", None)),
                   START + i)
            for i in range(COUNT)]


def kcat(*arguments, **more) -> subprocess.CompletedProcess:
    done = subprocess.run(["kcat", *map(str, arguments)], capture_output=True, timeout=300, **more)
    if done.returncode:
        raise RuntimeError(f"kcat failed. arguments={arguments}, stderr={done.stderr.decode()[-600:]}")
    return done


def kcat_reads(address: str, topic: str) -> str:
    out = kcat("-C", "-b", address, "-t", topic, "-p", 0, "-o", "beginning", "-c", COUNT, "-q",
               "-X", "check.crcs=true", "-f", LINE).stdout
    return hashlib.sha256(out).hexdigest()


def lines_of(sent) -> str:
    sha = hashlib.sha256()
    for offset, r in enumerate(sent):
        headers = ",".join(f"{n}={'NULL' if v is None else v.decode()}" for n, v in r.headers)
        sha.update(f"{r.timestamp} {offset} {r.key.decode()} {r.value.decode()} {headers}\n".encode())
    return sha.hexdigest()


def story(part: Part):
    broker = part.broker().start()
    sent = records(7)
    want, want_lines = sent_digest(sent), lines_of(sent)
    typed = part.directory / "typed.txt"
    typed.write_bytes(b"".join(r.key + b"\t" + r.value + b"\n" for r in sent))

    for codec in CODECS:
        tiered_topic(broker, f"own-{codec}")
        produce(broker.address, f"own-{codec}", sent, compression_type=codec)
        tiered_topic(broker, f"kcat-{codec}")
        kcat("-P", "-b", broker.address, "-t", f"kcat-{codec}", "-p", 0, "-z", codec, "-K", "\t", "-l", typed,
             "-H", "trace=first", "-H", "trace=second", "-H", "nothing", "-X", "enable.idempotence=true", "-X", "linger.ms=20",
             "-X", "queue.buffering.max.messages=1000000")
        part.say(f"{codec}: {COUNT} records twice")
    ends = {f"{who}-{codec}": seal(broker.address, f"{who}-{codec}") for codec in CODECS for who in ("own", "kcat")}
    part.equal({topic: end[0] for topic, end in ends.items()}, {topic: COUNT for topic in ends}, "every topic holds all records")
    for topic, end in ends.items():
        part.local_copies_gone(broker, topic, end)

    for codec in CODECS:
        part.equal(read_digest(consume(broker.address, f"own-{codec}", ends[f"own-{codec}"])), want, f"{codec}: librdkafka reads what it wrote")
        part.equal(kcat_reads(broker.address, f"own-{codec}"), want_lines, f"{codec}: kcat reads what librdkafka wrote")
        # kcat stamps records with its own clock: taken as read, but never going back.
        back = [Record(m.key(), m.value(), tuple(m.headers()), m.timestamp()[1])
                for m in consume(broker.address, f"kcat-{codec}", ends[f"kcat-{codec}"])]
        headers = (("trace", b"first"), ("trace", b"second"), ("nothing", None))
        part.check([(r.key, r.value, r.headers) for r in back] == [(r.key, r.value, headers) for r in sent],
                   f"{codec}: librdkafka reads what kcat wrote")
        part.equal(kcat_reads(broker.address, f"kcat-{codec}"), lines_of(back), f"{codec}: kcat reads what kcat wrote")
    broker.stop()


run(story)
