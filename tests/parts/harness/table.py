"""Reading a topic's Iceberg table the way a stranger would: from its newest *.metadata.json and nothing else."""

import importlib
import pathlib

import duckdb
import pyarrow

from harness.bucket import KEY, REGION, SECRET, S3Server
from harness.part import Part
from harness.traffic import consume


def newest_metadata(place, topic: str) -> str | None:
    """`place` is the folder of a file bucket, or a running S3 server."""
    if isinstance(place, S3Server):
        pages = place.client().get_paginator("list_objects_v2").paginate(Bucket="varve")
        found = [(o["LastModified"], o["Key"]) for page in pages for o in page.get("Contents", [])
                 if o["Key"].endswith(".metadata.json") and topic in o["Key"]]
        return f"s3://varve/{max(found)[1]}" if found else None
    found = [p for p in pathlib.Path(place).rglob("*.metadata.json") if topic in str(p.relative_to(place))]
    return str(max(found, key=lambda p: (p.stat().st_mtime_ns, p.name))) if found else None


def duck(server: S3Server | None = None) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 2})
    for name in ("avro", "httpfs", "iceberg"):
        wheel = pathlib.Path(importlib.import_module(f"duckdb_extension_{name}").__file__).parent
        connection.execute(f"LOAD '{next(wheel.rglob('*.duckdb_extension'))}'")
    connection.execute("SET autoinstall_known_extensions=false; SET autoload_known_extensions=false; SET TimeZone='UTC'")
    if server is not None:
        connection.execute(f"CREATE SECRET (TYPE s3, KEY_ID '{KEY}', SECRET '{SECRET}', REGION '{REGION}', "
                           f"ENDPOINT '127.0.0.1:{server.port}', URL_STYLE 'path', USE_SSL false)")
    return connection


def pyiceberg_table(metadata: str, server: S3Server | None = None):
    from pyiceberg.table import StaticTable
    properties = {} if server is None else {
        "s3.endpoint": server.endpoint, "s3.access-key-id": KEY, "s3.secret-access-key": SECRET, "s3.region": REGION}
    return StaticTable.from_metadata(metadata, properties)


def same_as_log(part: Part, address: str, topic: str, ends: dict[int, int], metadata: str):
    """The table holds what the log holds, and as often: both differences of the two are empty."""
    columns = {"partition": pyarrow.int32(), "offset": pyarrow.int64(), "at": pyarrow.int64(), "key": pyarrow.binary(), "value": pyarrow.binary()}
    rows = [(m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value()) for m in consume(address, topic, ends)]
    log = pyarrow.table([pyarrow.array(column, kind) for column, kind in zip(zip(*rows), columns.values())], names=list(columns))
    connection = duck()
    connection.register("log", log)
    of_log = 'SELECT "partition", "offset", "at", "key", "value" FROM log'
    of_table = f'''SELECT "partition", "offset", epoch_ms("timestamp"), "key", "value" FROM iceberg_scan('{metadata}')'''
    for what, one, other in (("missing from the table", of_log, of_table), ("in the table and not in the log", of_table, of_log)):
        found = connection.execute(f"SELECT * FROM ({one} EXCEPT ALL {other}) ORDER BY 1, 2 LIMIT 3").fetchall()
        part.check(not found, f"nothing is {what}", f"first={found}")
    part.say(f"{len(rows)} records and rows were compared as sets")
