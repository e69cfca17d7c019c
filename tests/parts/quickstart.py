"""`varve quickstart --once --json` keeps its promises, and DuckDB gets the same answer from the table it left."""

import json
import subprocess
import time

from harness.part import Part, run
from harness.place import built
from harness.table import duck, newest_metadata


def story(part: Part):
    if part.against_kafka:
        part.say("Kafka has no quickstart")
        return
    began = time.monotonic()
    done = subprocess.run([built("varve"), "quickstart", "--dir", part.directory / "quick", "--once", "--json"],
                          capture_output=True, text=True, timeout=600)
    seconds = time.monotonic() - began
    part.check(done.returncode == 0, f"it ends with 0 after {seconds:.0f} s", (done.stdout + done.stderr)[-1500:])
    said = json.loads(done.stdout.splitlines()[-1])
    part.say(json.dumps({k: v for k, v in said.items() if k != "answer"}))
    part.check(said["bytes_produced"] >= 100_000_000, "at least 100 MB were produced", str(said["bytes_produced"]))
    part.equal(said["bytes_replayed_from_bucket"], said["bytes_produced"], "as many bytes came back from the bucket")
    part.equal(said["differences"], 0, "none of them differs")
    part.equal(said["table_rows"], said["records_produced"], "the table has a row for every record")
    metadata = said["table_metadata"].removeprefix("file://")
    part.equal(newest_metadata(part.directory / "quick", ""), metadata, "the table it names is the newest one")
    rows = duck().execute(f"SELECT count(*) FROM iceberg_scan('{metadata}')").fetchone()[0]
    part.equal(rows, said["records_produced"], "DuckDB counts the same rows")
    asked = duck().execute(f"""SELECT country, count(*), sum(amount_cents)::BIGINT
        FROM iceberg_scan('{metadata}') GROUP BY country ORDER BY country""").fetchall()
    part.equal([(row["country"], row["count"], row["sum_amount_cents"]) for row in said["answer"]], asked,
               "DuckDB gives the same answer")
    part.say(f"its answer: {json.dumps(said['answer'])[:200]}")


run(story)
