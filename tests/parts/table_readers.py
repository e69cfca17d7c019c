"""A topic's table on an S3 server, opened by DuckDB and PyIceberg from the newest metadata file alone.

Raw columns and JSON columns; rows are compared with what was produced, a restart comes in between, and the topic goes on.
"""

import json
import os
import random
import subprocess
import sys

from harness import place
from harness.bucket import Versitygw
from harness.part import Part, run
from harness.place import wait_for
from harness.table import duck, newest_metadata, pyiceberg_table
from harness.traffic import Record, produce, seal, tiered_topic

COUNT, PARTITIONS = 20_000, 2


def raw_records(partition: int) -> list[Record]:
    chance = random.Random(partition)
    return [Record(b"k%d" % i if i % 10 else None, chance.randbytes(chance.randrange(60)) if i % 7 else None,
                   (("a", b"1"), ("a", None)) if i % 3 == 0 else (), 1_700_000_000_000 + i) for i in range(COUNT)]


def json_records(partition: int) -> list[Record]:
    return [Record(b"k%d" % (i % 100), json.dumps({"city": ["Falun", "Lund", "Umeå"][i % 3], "n": i, "share": i / 8,
                                                   "open": i % 2 == 0}).encode(), (), 1_700_000_000_000 + i)
            for i in range(COUNT)]


def json_filler(chance) -> bytes:
    return json.dumps({"city": chance.randbytes(32 << 10).hex(), "n": -1}).encode()


def rows_in(connection, server, topic: str, ends: dict) -> tuple[str, int] | None:
    metadata = newest_metadata(server, topic)
    if metadata is None:
        return None
    below = " OR ".join(f'("partition" = {p} AND "offset" < {end})' for p, end in ends.items())
    return metadata, connection.execute(f"SELECT count(*) FROM iceberg_scan('{metadata}') WHERE {below}").fetchone()[0]


def complete(connection, server, topic: str, ends: dict) -> str:
    want = sum(ends.values())

    def there():
        found = rows_in(connection, server, topic, ends)
        return found[0] if found and found[1] >= want else None
    return wait_for(f"{want} rows of {topic} in its table", there, 120, pause=0.5)


def raw_table(part: Part, server, connection, broker, ends: dict):
    metadata = complete(connection, server, "rawtable", ends)
    arrow = pyiceberg_table(metadata, server).scan().to_arrow()
    names = {"partition", "offset", "timestamp", "key", "headers", "value"}
    part.equal(set(arrow.column_names), names, "PyIceberg sees the six columns")
    sent = {(p, i): r for p in range(PARTITIONS) for i, r in enumerate(raw_records(p))}
    got = {(row["partition"], row["offset"]): row for row in arrow.to_pylist()}
    part.equal(len(got), arrow.num_rows, "no record is in the table twice")
    wrong = [at for at, r in sent.items() if at not in got or (got[at]["key"], got[at]["value"]) != (r.key, r.value)
             or int(got[at]["timestamp"].timestamp() * 1000 + 0.5) != r.timestamp or headers_of(got[at]["headers"]) != r.headers]
    part.check(not wrong, "PyIceberg: every row holds its record", f"wrong={len(wrong)}, first={wrong[:1] and (got.get(wrong[0]), sent[wrong[0]])}")
    counted = connection.execute(f"""SELECT "partition", count(*), sum(octet_length("value")), count("key")
        FROM iceberg_scan('{metadata}') WHERE "offset" < {COUNT} GROUP BY 1 ORDER BY 1""").fetchall()
    want = [(p, COUNT, sum(len(r.value or b"") for r in raw_records(p)), sum(r.key is not None for r in raw_records(p)))
            for p in range(PARTITIONS)]
    part.equal(counted, want, "DuckDB counts the same")


def headers_of(column) -> tuple:
    """A list of name and value, in order, duplicates kept, whatever the two fields are called."""
    return tuple(tuple(h.values()) if isinstance(h, dict) else tuple(h) for h in column or ())


def json_table(part: Part, server, connection, broker, ends: dict):
    metadata = complete(connection, server, "jsontable", ends)
    got = connection.execute(f"""SELECT city, count(*), sum(n)::BIGINT, sum(share), count(*) FILTER ("open")
        FROM iceberg_scan('{metadata}') WHERE "offset" < {COUNT} GROUP BY city ORDER BY city""").fetchall()
    want = []
    for k, city in enumerate(["Falun", "Lund", "Umeå"]):
        ns = [i for i in range(COUNT) if i % 3 == k] * PARTITIONS
        want.append((city, len(ns), sum(ns), sum(n / 8 for n in ns), sum(n % 2 == 0 for n in ns)))
    part.equal(got, want, "DuckDB answers a question on JSON columns")
    total = pyiceberg_table(metadata, server).scan(row_filter=f"offset < {COUNT}").to_arrow().column("n").to_pylist()
    part.equal(sum(total), sum(range(COUNT)) * PARTITIONS, "PyIceberg adds up the same")


def story(part: Part):
    if part.against_kafka:
        part.say("Kafka keeps no tables")
        return
    server = Versitygw(part.directory / "s3").start()
    broker = part.broker(server.settings(), bucket=server.url(), env=server.env()).start()
    connection = duck(server)
    common = {"varve_table_enable": "true", "varve_table_commit_interval_ms": 1000}
    tiered_topic(broker, "rawtable", PARTITIONS, **common)
    tiered_topic(broker, "jsontable", PARTITIONS, varve_table_value="json", **common)
    for p in range(PARTITIONS):
        produce(broker.address, "rawtable", raw_records(p), p, compression_type="zstd")
        produce(broker.address, "jsontable", json_records(p), p)
    raw_ends = seal(broker.address, "rawtable", PARTITIONS)
    json_ends = seal(broker.address, "jsontable", PARTITIONS, filler=json_filler)
    raw_table(part, server, connection, broker, raw_ends)
    json_table(part, server, connection, broker, json_ends)
    # Exactly once, also over a kill in the middle of the next commits.
    produce(broker.address, "rawtable", raw_records(0), 0)
    broker.kill()
    broker.start()
    ends = {p: part.log_end(broker, "rawtable", p) for p in range(PARTITIONS)}
    seal(broker.address, "rawtable", PARTITIONS)
    metadata = complete(connection, server, "rawtable", ends)
    doubles = connection.execute(f"""SELECT count(*) FROM (SELECT 1 FROM iceberg_scan('{metadata}')
        GROUP BY "partition", "offset" HAVING count(*) > 1)""").fetchone()[0]
    part.equal(doubles, 0, "after a kill in between: every record is there, and once")
    whole = pyiceberg_table(metadata, server).scan().count()
    reader = place.REPOSITORY / "tests/clients/read_table.py"
    done = subprocess.run([sys.executable, reader, metadata, "--json", "--engine", "both", "--s3-endpoint", server.endpoint,
                           "--expect-rows", str(whole)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **server.env()})
    part.check(done.returncode == 0, "both engines agree, and no offset is missing or twice (tests/clients/read_table.py)",
               (done.stdout + done.stderr)[-800:])
    broker.stop()
    server.stop()


run(story)
