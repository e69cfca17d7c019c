#!/usr/bin/env python3
"""Opens a Varve table from its metadata file alone, as DuckDB and PyIceberg see it.

usage: read_table.py METADATA_JSON [--json] [--engine duckdb|pyiceberg|both] [--sql SQL]
                     [--s3-endpoint URL] [--expect-rows N]

METADATA_JSON is a path, file:///… or s3://…; credentials come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
AWS_REGION, the endpoint from --s3-endpoint or AWS_ENDPOINT_URL. Prints for each engine the number of rows and, per
partition, rows, first and last offset, duplicates and missing offsets. Ends with 1 when the engines disagree, when
a row is there twice, or when --expect-rows does not hold. --sql runs one statement on DuckDB, with the table as `t`.

Needs: pytz duckdb==1.5.5 duckdb-extension-{iceberg,avro,httpfs}==1.5.5 pyiceberg[pyarrow]==0.12.0
"""

import argparse
import importlib
import json
import os
import pathlib
import sys
from urllib.parse import urlparse

PER_PARTITION = """
    select partition, count(*) as rows, min("offset") as first, max("offset") as last,
           count(*) - count(distinct "offset") as duplicates,
           max("offset") - min("offset") + 1 - count(distinct "offset") as missing
    from {table} group by partition order by partition
"""


def duckdb_connection(endpoint):
    import duckdb

    con = duckdb.connect()
    # The wheels carry the extensions; nothing is fetched while the test runs.
    con.execute("SET autoinstall_known_extensions=false; SET autoload_known_extensions=false; SET TimeZone='UTC'")
    for name in ("avro", "httpfs", "iceberg"):
        folder = pathlib.Path(importlib.import_module("duckdb_extension_" + name).__file__).parent
        con.execute(f"LOAD '{next(folder.rglob('*.duckdb_extension'))}'")
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        options = {
            "KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
            "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
            "REGION": os.environ.get("AWS_REGION", "us-east-1"),
        }
        if endpoint:
            url = urlparse(endpoint)
            options |= {"ENDPOINT": url.netloc, "URL_STYLE": "path"}
        pairs = ", ".join(f"{key} '{value}'" for key, value in options.items())
        if endpoint:
            pairs += ", USE_SSL " + ("true" if url.scheme == "https" else "false")
        con.execute(f"CREATE SECRET (TYPE s3, {pairs})")
    return con


def read_with_duckdb(location, endpoint, sql=None):
    con = duckdb_connection(endpoint)
    con.execute(f"CREATE VIEW t AS SELECT * FROM iceberg_scan('{location}')")
    if sql:
        cursor = con.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]
    cursor = con.execute(PER_PARTITION.format(table="t"))
    names = [column[0] for column in cursor.description]
    partitions = [dict(zip(names, row)) for row in cursor.fetchall()]
    rows = con.execute("select count(*) from t").fetchone()[0]
    columns = {name: str(kind).lower() for name, kind, *_ in con.execute("describe t").fetchall()}
    return {"rows": rows, "partitions": partitions, "columns": columns}


def read_with_pyiceberg(location, endpoint):
    from pyiceberg.table import StaticTable

    properties = {}
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        properties = {
            "s3.access-key-id": os.environ["AWS_ACCESS_KEY_ID"],
            "s3.secret-access-key": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
            "s3.region": os.environ.get("AWS_REGION", "us-east-1"),
        }
        if endpoint:
            properties["s3.endpoint"] = endpoint
    table = StaticTable.from_metadata(location, properties)
    columns = {field.name: str(field.field_type) for field in table.schema().fields}
    partitions = {}
    for batch in table.scan(selected_fields=("partition", "offset")).to_arrow_batch_reader():
        for partition, offset in zip(batch.column("partition").to_pylist(), batch.column("offset").to_pylist()):
            partitions.setdefault(partition, []).append(offset)
    summaries = []
    for partition, offsets in sorted(partitions.items()):
        distinct = len(set(offsets))
        first, last = min(offsets), max(offsets)
        summaries.append({
            "partition": partition, "rows": len(offsets), "first": first, "last": last,
            "duplicates": len(offsets) - distinct, "missing": last - first + 1 - distinct,
        })
    # Every column of some rows, so that a broken one does not hide behind the two read above.
    sample = table.scan(limit=100).to_arrow()
    assert set(sample.column_names) == set(columns)
    return {"rows": sum(p["rows"] for p in summaries), "partitions": summaries, "columns": columns}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--engine", choices=["duckdb", "pyiceberg", "both"], default="both")
    parser.add_argument("--sql", help="run this on DuckDB, with the table as t, and print the rows as JSON")
    parser.add_argument("--s3-endpoint", default=os.environ.get("AWS_ENDPOINT_URL"))
    parser.add_argument("--expect-rows", type=int)
    arguments = parser.parse_args()

    if arguments.sql:
        print(json.dumps(read_with_duckdb(arguments.metadata, arguments.s3_endpoint, arguments.sql), default=str))
        return 0
    found = {}
    if arguments.engine in ("duckdb", "both"):
        found["duckdb"] = read_with_duckdb(arguments.metadata, arguments.s3_endpoint)
    if arguments.engine in ("pyiceberg", "both"):
        found["pyiceberg"] = read_with_pyiceberg(arguments.metadata, arguments.s3_endpoint)

    problems = []
    first = next(iter(found.values()))
    for engine, table in found.items():
        if (table["rows"], table["partitions"]) != (first["rows"], first["partitions"]):
            problems.append("the engines disagree")
        if any(partition["duplicates"] for partition in table["partitions"]):
            problems.append(f"{engine}: rows are there twice")
        if arguments.expect_rows not in (None, table["rows"]):
            problems.append(f"{engine}: expected {arguments.expect_rows} rows, found {table['rows']}")
    if arguments.json:
        print(json.dumps({**found, "problems": problems}))
    else:
        for engine, table in found.items():
            print(f"{engine}: {table['rows']} rows, {len(table['columns'])} columns")
            for partition in table["partitions"]:
                print("  partition {partition}: {rows} rows, offsets {first}..{last}, "
                      "{duplicates} duplicates, {missing} missing".format(**partition))
        for problem in problems:
            print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
