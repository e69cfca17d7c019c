"""`varve quickstart` keeps its promises with one broker and with three, and DuckDB gets the same answer from the table it left.

With three a leader dies on the way, the table is compared with the log as sets, and no broker survives the quickstart: not
Ctrl-C, and not its own kill -9.
"""

import json
import pathlib
import signal
import subprocess
import time

from confluent_kafka import Consumer, TopicPartition

from harness.part import Part, run
from harness.place import built, wait_for
from harness.process import Process
from harness.table import duck, newest_metadata, same_as_log


def promises(part: Part, said: dict, directory: pathlib.Path, bytes_min: int):
    part.say(json.dumps({k: v for k, v in said.items() if k != "answer"}))
    part.check(said["bytes_produced"] >= bytes_min, f"at least {bytes_min} bytes were produced", str(said["bytes_produced"]))
    part.equal(said["bytes_replayed_from_bucket"], said["bytes_produced"], "as many bytes came back from the bucket")
    part.equal(said["differences"], 0, "none of them differs")
    part.equal(said["table_rows"], said["records_produced"], "the table has a row for every record")
    metadata = said["table_metadata"].removeprefix("file://")
    part.equal(newest_metadata(directory, ""), metadata, "the table it names is the newest one")
    rows = duck().execute(f"SELECT count(*) FROM iceberg_scan('{metadata}')").fetchone()[0]
    part.equal(rows, said["records_produced"], "DuckDB counts the same rows")
    asked = duck().execute(f"""SELECT country, count(*), sum(amount_cents)::BIGINT
        FROM iceberg_scan('{metadata}') GROUP BY country ORDER BY country""").fetchall()
    part.equal([(row["country"], row["count"], row["sum_amount_cents"]) for row in said["answer"]], asked,
               "DuckDB gives the same answer")
    part.say(f"its answer: {json.dumps(said['answer'])[:200]}")


def one_broker(part: Part):
    began = time.monotonic()
    directory = part.directory / "one"
    done = subprocess.run([built("varve"), "quickstart", "--dir", directory, "--once", "--json"],
                          capture_output=True, text=True, timeout=600)
    seconds = time.monotonic() - began
    part.check(done.returncode == 0, f"it ends with 0 after {seconds:.0f} s", (done.stdout + done.stderr)[-1500:])
    promises(part, json.loads(done.stdout.splitlines()[-1]), directory, 100_000_000)


def children(pid: int) -> list[int]:
    return [int(n) for n in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids: list[int]) -> bool:
    return not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)


def three_brokers(part: Part):
    directory, log = part.directory / "three", part.directory / "three.log"
    command = [built("varve"), "quickstart", "--brokers", "3", "--dir", directory, "--bytes", "30000000", "--json"]
    quickstart = Process(command, log)
    quickstart.wait_until("the whole tour", lambda: "serving until Ctrl-C" in log.read_text(), 300)
    said = json.loads(next(line for line in log.read_text().splitlines() if line.startswith("{")))
    promises(part, said, directory, 30_000_000)
    part.check(said["leader_killed"] in (1, 2, 3) and said["next_leader"] != said["leader_killed"],
               f"broker {said['leader_killed']} was killed, broker {said['next_leader']} went on")
    part.check(0 < said["seconds_to_next_acknowledgement"] < 30, "its successor acknowledged after "
               f"{said['seconds_to_next_acknowledgement']:.1f} s", str(said))
    asker = Consumer({"bootstrap.servers": said["bootstrap_server"], "group.id": "ends"})
    ends = {p: asker.get_watermark_offsets(TopicPartition(said["topic"], p), timeout=30)[1] for p in range(3)}
    asker.close()
    part.equal(sum(ends.values()), said["records_produced"], "the log has an offset for every record")
    same_as_log(part, said["bootstrap_server"], said["topic"], ends, said["table_metadata"].removeprefix("file://"))
    brokers = children(quickstart.pid)
    part.equal(len(brokers), 3, "three brokers run")
    quickstart.child.send_signal(signal.SIGINT)
    part.equal(quickstart.child.wait(60), 0, "Ctrl-C ends it")
    part.check(gone(brokers), "and its brokers")


def killed(part: Part):
    log = part.directory / "killed.log"
    quickstart = Process([built("varve"), "quickstart", "--brokers", "3", "--dir", part.directory / "three"], log)
    quickstart.wait_until("three brokers, where the first run left its data", lambda: "1. brokers" in log.read_text(), 120)
    brokers = children(quickstart.pid)
    part.equal(len(brokers), 3, "they run again where the first run left its data")
    quickstart.kill()
    wait_for("the end of the brokers of a quickstart that was killed", lambda: gone(brokers), 10)
    part.say("none of them outlives a quickstart that is killed with -9")


def story(part: Part):
    if part.against_kafka:
        part.say("Kafka has no quickstart")
        return
    refused = subprocess.run([built("varve"), "quickstart", "--brokers", "2"], capture_output=True, text=True, timeout=60)
    part.check(refused.returncode != 0 and "1 broker or 3" in refused.stderr, "two brokers are refused", refused.stderr)
    one_broker(part)
    three_brokers(part)
    killed(part)


run(story)
