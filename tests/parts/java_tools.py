"""Kafka's Java tools, unmodified, each asked for what people ask of it, and judged by what it prints."""

import json
import re
import signal
import subprocess

from harness.java_tools import command, tool
from harness.part import Part, run
from harness.place import wait_for


class Tools:
    def __init__(self, part: Part, address: str):
        self.part, self.address = part, address

    def ask(self, name: str, *arguments, **more) -> str:
        # Some tools take a subcommand first, so the address stands last.
        return tool(name, *arguments, "--bootstrap-server", self.address, **more)

    def prints(self, name: str, *arguments, want: str, **more) -> str:
        """Every line of `want` is a pattern that the output must hold."""
        printed = self.ask(name, *arguments, **more)
        for pattern in want.splitlines():
            self.part.check(re.search(pattern, printed, re.M) is not None,
                            f"{name} {' '.join(map(str, arguments))[:70]} prints /{pattern}/", printed[-1200:])
        return printed


def topics_and_configs(t: Tools):
    t.prints("kafka-broker-api-versions", want=r"Produce\(0\): .*usable")
    t.prints("kafka-cluster", "cluster-id", want=r"Cluster ID: \S+")
    t.prints("kafka-topics", "--create", "--topic", "orders", "--partitions", 3, "--replication-factor", 1,
             "--config", "retention.ms=86400000", want=r"Created topic orders\.")
    t.prints("kafka-topics", "--create", "--topic", "orders", "--partitions", 1, want="already exists", fails=True)
    t.prints("kafka-topics", "--create", "--topic", "bad name", fails=True, want="illegal|invalid|Invalid")
    t.prints("kafka-topics", "--describe", "--topic", "orders",
             want="Topic: orders\\s+TopicId: \\S{22}\\s+PartitionCount: 3\\s+ReplicationFactor: 1\\s+Configs: .*retention.ms=86400000\n"
                  "Partition: 2\\s+Leader: 1\\s+Replicas: 1\\s+Isr: 1")
    t.prints("kafka-topics", "--alter", "--topic", "orders", "--partitions", 4, want="")
    t.prints("kafka-topics", "--describe", "--topic", "orders", want="PartitionCount: 4")
    t.prints("kafka-topics", "--list", want="^orders$")
    t.prints("kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", "orders",
             "--add-config", "max.message.bytes=2000000,retention.bytes=123456789", want="Completed updating config for topic orders")
    t.prints("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", "orders",
             want="max.message.bytes=2000000 .*DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000000\nretention.bytes=123456789")
    t.prints("kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", "orders",
             "--delete-config", "retention.bytes", want="Completed")
    described = t.ask("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", "orders")
    t.part.check("retention.bytes" not in described, "a deleted config is gone", described)
    t.prints("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", "orders", "--all",
             want="cleanup.policy=delete .*DEFAULT_CONFIG")
    t.prints("kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", "orders",
             "--add-config", "retention.ms=soon", fails=True, want="retention.ms")
    t.prints("kafka-configs", "--describe", "--entity-type", "brokers", "--entity-name", 1, "--all", want="log.dirs?=")


def console(t: Tools):
    lines = [f"k{i}:v{i}" for i in range(500)]
    t.ask("kafka-console-producer", "--topic", "lines", "--property", "parse.key=true", "--property", "key.separator=:",
          stdin="\n".join(lines) + "\n")
    printed = t.ask("kafka-console-consumer", "--topic", "lines", "--from-beginning", "--max-messages", 500,
                    "--timeout-ms", 20000, "--property", "print.key=true", "--property", "key.separator=:",
                    "--group", "readers", "--consumer-property", "enable.auto.commit=true")
    t.part.equal([l for l in printed.splitlines() if l.startswith("k")], lines, "kafka-console-consumer reads what kafka-console-producer wrote")
    t.prints("kafka-get-offsets", "--topic", "lines", want="^lines:0:500$")
    t.prints("kafka-get-offsets", "--topic", "lines", "--time", "earliest", want="^lines:0:0$")
    t.prints("kafka-get-offsets", "--topic", "lines", "--time", "max-timestamp", want=r"^lines:0:\d+$")


def groups(t: Tools):
    group = ("--group", "readers")
    t.prints("kafka-consumer-groups", "--list", want="^readers$")
    t.prints("kafka-groups", "--list", want=r"^readers\s+Classic")
    t.prints("kafka-consumer-groups", "--describe", *group, want=r"readers\s+lines\s+0\s+500\s+500\s+0\s")
    t.prints("kafka-consumer-groups", "--describe", *group, "--state", want=r"readers\s+.*Empty\s+0")
    reset = ("--reset-offsets", *group, "--topic", "lines")
    t.prints("kafka-consumer-groups", *reset, "--shift-by", -100, "--dry-run", want=r"readers\s+lines\s+0\s+400")
    t.prints("kafka-consumer-groups", "--describe", *group, want=r"readers\s+lines\s+0\s+500\s+500\s+0\s")
    t.prints("kafka-consumer-groups", *reset, "--to-offset", 120, "--execute", want=r"readers\s+lines\s+0\s+120")
    t.prints("kafka-consumer-groups", "--describe", *group, want=r"readers\s+lines\s+0\s+120\s+500\s+380\s")
    t.prints("kafka-consumer-groups", *reset, "--to-earliest", "--execute", want=r"readers\s+lines\s+0\s+0")
    t.prints("kafka-consumer-groups", *reset, "--to-datetime", "2030-01-01T00:00:00.000", "--execute", want=r"readers\s+lines\s+0\s+500")
    t.prints("kafka-consumer-groups", "--delete", *group, want="successful")
    listed = t.ask("kafka-consumer-groups", "--list")
    t.part.check("readers" not in listed.split(), "a deleted group is gone", listed)


def records_and_disks(t: Tools):
    request = t.part.directory / "delete.json"
    request.write_text(json.dumps({"version": 1, "partitions": [{"topic": "lines", "partition": 0, "offset": 200}]}))
    t.prints("kafka-delete-records", "--offset-json-file", request, want=r"partition: lines-0\s+low_watermark: 200")
    t.prints("kafka-get-offsets", "--topic", "lines", "--time", "earliest", want="^lines:0:200$")
    printed = t.ask("kafka-console-consumer", "--topic", "lines", "--from-beginning", "--max-messages", 1, "--timeout-ms", 20000)
    t.part.check("v200" in printed.split(), "reading begins where deletion ended", printed)
    printed = t.ask("kafka-log-dirs", "--describe", "--topic-list", "lines")
    said = json.loads(next(l for l in printed.splitlines() if l.startswith("{")))
    partitions = [p for b in said["brokers"] for d in b["logDirs"] for p in d["partitions"] if d["error"] is None]
    t.part.check([p["partition"] for p in partitions] == ["lines-0"] and partitions[0]["size"] > 0,
                 "kafka-log-dirs shows lines-0 and its size", printed)


def performance(t: Tools):
    t.prints("kafka-topics", "--create", "--topic", "perf", "--partitions", 2, want="Created topic perf")
    printed = tool("kafka-producer-perf-test", "--topic", "perf", "--num-records", 200000, "--record-size", 512, "--throughput", -1,
                   "--producer-props", f"bootstrap.servers={t.address}", "acks=all", "compression.type=lz4", seconds=180)
    t.part.check("200000 records sent" in printed, "kafka-producer-perf-test sent 200,000 records", printed[-600:])
    # Its columns: start, end, MB, MB/s, records, ...
    printed = tool("kafka-consumer-perf-test", "--bootstrap-server", t.address, "--topic", "perf",
                   consumed_flag(), 200000, "--timeout", 30000, seconds=180)
    row = [l for l in printed.splitlines() if re.match(r"\d{4}-\d\d-\d\d", l)]
    t.part.check(len(row) == 1 and int(row[0].split(",")[4]) >= 200000, "kafka-consumer-perf-test read them all", printed[-600:])


def consumed_flag() -> str:
    # Renamed in 4.2; the old name still works there and warns.
    return "--num-records"


def verifiable(t: Tools):
    printed = t.ask("kafka-verifiable-producer", "--topic", "checked", "--max-messages", 5000, "--acks", -1)
    acknowledged = [json.loads(l) for l in printed.splitlines() if '"producer_send_success"' in l]
    t.part.equal(len(acknowledged), 5000, "kafka-verifiable-producer: 5,000 acknowledged")
    log = t.part.directory / "verifiable.log"
    with log.open("w") as out:
        consumer = subprocess.Popen(command("kafka-verifiable-consumer", "--bootstrap-server", t.address, "--topic", "checked",
                                            "--group-id", "verifiers", "--max-messages", 5000, "--verbose"), stdout=out, stderr=out)
    try:
        def all_read():
            return log.read_text().count('"record_data"') >= 5000 or consumer.poll() is not None
        wait_for("kafka-verifiable-consumer reads 5,000 records", all_read, 60)
    finally:
        consumer.send_signal(signal.SIGTERM)
        consumer.wait(30)
    events = [json.loads(l) for l in log.read_text().splitlines() if l.startswith("{")]
    values = [(e["partition"], e["offset"], e["value"]) for e in events if e["name"] == "record_data"]
    sent = [(e["partition"], e["offset"], e["value"]) for e in acknowledged]
    t.part.equal(sorted(values)[:5000], sorted(sent), "kafka-verifiable-consumer reads exactly what was acknowledged")
    t.part.check(any(e["name"] == "offsets_committed" and e["success"] for e in events), "and commits its offsets")


def story(part: Part):
    broker = part.broker().start()
    t = Tools(part, broker.address)
    topics_and_configs(t)
    console(t)
    groups(t)
    records_and_disks(t)
    performance(t)
    verifiable(t)
    t.prints("kafka-topics", "--delete", "--topic", "orders", want="")
    wait_for("the deleted topic leaves the list", lambda: "orders" not in t.ask("kafka-topics", "--list").split(), 30)
    broker.stop()


run(story)
