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
    metadata = newest_metadata(part.directory / "quick", "")
    part.check(metadata is not None, "the table is there")
    rows = duck().execute(f"SELECT count(*) FROM iceberg_scan('{metadata}')").fetchone()[0]
    part.equal(rows, said["records_produced"], "DuckDB counts the same rows")
    part.say(f"its answer: {json.dumps(said['answer'])[:400]}")


run(story)
