"""`varve sql` over topics' tables on an S3 server: the same answers as DuckDB, and what it says when it has none."""

import json
import os
import pathlib
import subprocess

from harness.bucket import Versitygw
from harness.part import Part, run
from harness.place import wait_for
from harness.table import duck, newest_metadata
from harness.traffic import Record, produce, seal, tiered_topic

COUNT = 20_000


def records() -> list[Record]:
    return [Record(b"k%d" % (i % 100), json.dumps({"city": ["Falun", "Lund", "Umeå"][i % 3], "n": i, "share": i / 8}).encode(), (),
                   1_700_000_000_000 + i * 60_000) for i in range(COUNT)]


def filler(chance) -> bytes:
    return json.dumps({"city": chance.randbytes(32 << 10).hex(), "n": -1}).encode()


def ask(server: Versitygw, broker, question: str, *more: str) -> subprocess.CompletedProcess:
    binary = pathlib.Path(os.environ["VARVE_SQL_BIN"])
    return subprocess.run([binary, "sql", question, "--bootstrap-server", broker.address, *more], capture_output=True, text=True,
                          timeout=120, env={**os.environ, **server.env()})


def rows(done: subprocess.CompletedProcess) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()] if done.returncode == 0 else [{"failed": done.stderr}]


def story(part: Part):
    if part.against_kafka:
        part.say("Kafka keeps no tables")
        return
    server = Versitygw(part.directory / "s3").start()
    broker = part.broker(server.settings(), bucket=server.url(), env=server.env()).start()
    none = ask(server, broker, "select 1 from nowhere")
    part.check(none.returncode == 1 and "no topic has a table" in none.stderr, "without a table it says how to make one", none.stderr)
    common = {"varve_table_enable": "true", "varve_table_commit_interval_ms": 1000}
    tiered_topic(broker, "trips.2026", varve_table_value="json", **common)
    tiered_topic(broker, "plain", **common)
    for topic, kind in (("trips.2026", filler), ("plain", filler)):
        produce(broker.address, topic, records())
        seal(broker.address, topic, filler=kind)

    def complete(topic: str):
        found = rows(ask(server, broker, f'select count(*) as n from "{topic}" where "offset" < {COUNT}', "--json"))
        if "n" not in found[0]:
            raise RuntimeError(found[0])
        return found[0]["n"] == COUNT
    for topic in ("trips.2026", "plain"):
        wait_for(f"{COUNT} rows of {topic} in its table", lambda topic=topic: complete(topic), 120, pause=0.5)

    question = '''select city, count(*) as trips, cast(sum(n) as bigint) as n, sum(share) as share, cast(max("timestamp") as varchar) like '2023-%%' as y
                  from {table} where "offset" < {count} group by city order by city'''.replace("%%", "%")
    got = rows(ask(server, broker, question.format(table='"trips.2026"', count=COUNT), "--json"))
    metadata = newest_metadata(server, "trips.2026")
    cursor = duck(server).execute(question.format(table=f"iceberg_scan('{metadata}')", count=COUNT))
    names = [column[0] for column in cursor.description]
    part.equal(got, [dict(zip(names, row)) for row in cursor.fetchall()], "DataFusion and DuckDB give the same answer")

    shown = ask(server, broker, 'select key, value from plain where "offset" = 4')
    part.check("k4" in shown.stdout and '"Lund"' in shown.stdout, "keys and values that are text are shown as text", shown.stdout + shown.stderr)
    joined = ask(server, broker, f'''select count(*) as n from "trips.2026" t join plain p on t."offset" = p."offset" where p."offset" < {COUNT}''', "--json")
    part.equal(rows(joined), [{"n": COUNT}], "two topics are joined")
    for question, says in (("select * from trip", "trips.2026"), ("selec 1", "selec"), ("select nothing from plain", "nothing"),
                           ("drop table plain", "not supported"), ("insert into plain select * from plain", "not supported")):
        wrong = ask(server, broker, question)
        part.check(wrong.returncode == 1 and says in wrong.stderr and "panicked" not in wrong.stderr and wrong.stderr.count("\n") <= 3,
                   f"{question!r} is refused: {wrong.stderr.strip()[:200]}", wrong.stdout + wrong.stderr)
    broker.stop()
    server.stop()


run(story)
