"""The benchmark: which broker, in which order, and what comes out.

The first number is the broker's own CPU-seconds per GB: on two shared cores MB/s mostly measures the client. The client's
processes are never counted. Brokers take turns (A B B A), each on an empty directory, and medians are compared.

The client is kcat (librdkafka, C): about 1 CPU-second per GB, so that most of the machine is left for the broker; Kafka's
own Java perf tools cost more than the brokers they measure. Only latency goes through librdkafka's Python binding, at a
fixed rate far below what it can do.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import cold
import hot
import three
from harness.broker import Kafka, Varve
from harness.cluster import Cluster

# What Kafka 4.3.1 with Aiven's tiered-storage plugin (1.2.0-SNAPSHOT, tuned: memory cache, 16 MiB prefetch, 16 threads)
# reached over the same link on such a machine. The plugin is on no package registry: these figures stand for it.
RECORDED = {"cold.MB/s": 131.0, "cold.cpu_s/GB": 4.2, "cold.GET/GB": 242.0, "tier.cpu_s/GB": 3.7, "tier.PUT/GB": 105.0}

SYSTEMS = {
    "kafka": lambda place: Kafka(place),
    "varve": lambda place: Varve(place, bucket=None),
    "varve-os": lambda place: Varve(place, {"varve.flush": "os"}, bucket=None),
    "varve-group": lambda place: Varve(place, {"varve.flush": "group"}, bucket=None),
}

CLUSTERS = {
    "kafka": lambda place: Cluster(place, kind=Kafka),
    "varve": lambda place: Cluster(place, bucket=None),
    "varve-os": lambda place: Cluster(place, settings={"varve.flush": "os"}, bucket=None),
    "varve-group": lambda place: Cluster(place, settings={"varve.flush": "group"}, bucket=None),
}


def machine() -> dict:
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return {"load": round(os.getloadavg()[0], 2), "steal": int(fields[7])}


def quiet(insist: bool):
    load = os.getloadavg()[0]
    if load > 0.7:
        print(f"the machine is busy. load={load:.2f}, wanted<=0.7", file=sys.stderr)
        if insist:
            raise SystemExit("not started: results would mean little (--even-if-busy starts anyway)")


def warm_memory(place: pathlib.Path, gigabytes: float):
    """Touches as much memory as a run will: on a virtual machine the first touch of a page costs more than any broker."""
    path = place / "warm"
    block = os.urandom(1 << 20)
    with open(path, "wb") as out:
        for _ in range(int(gigabytes * 1024)):
            out.write(block)
    path.unlink()


class Results:
    def __init__(self, output: str | None):
        self.file = open(output, "a") if output else None
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, system: str, scenario: str, metrics: dict, **more):
        line = json.dumps({"system": system, "scenario": scenario, **metrics, **more, **machine()})
        print(line, flush=True)
        if self.file:
            print(line, file=self.file, flush=True)
        for name, value in metrics.items():
            self.values.setdefault(f"{scenario}.{name}", {}).setdefault(system, []).append(value)

    def table(self) -> str:
        systems = sorted({s for per in self.values.values() for s in per} | {"kafka"}, key=lambda s: (s != "kafka", s))
        others = [s for s in systems if s != "kafka"]
        head = ["", *systems, *(f"{s} / kafka" for s in others)]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name, per in self.values.items():
            middle = {s: statistics.median(v) for s, v in per.items()}
            kafka = middle.get("kafka", RECORDED.get(name))
            shown = [spread(per[s]) if s in per else f"{RECORDED[name]:g} (recorded)" if s == "kafka" and name in RECORDED else ""
                     for s in systems]
            ratios = [f"{middle[s] / kafka:.2f}x" if s in middle and kafka else "" for s in others]
            lines.append("| " + " | ".join([name, *shown, *ratios]) + " |")
        return "\n".join(lines)


def spread(values: list[float]) -> str:
    middle = f"{statistics.median(values):.4g}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.4g}-{max(values):.4g}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="kafka,varve", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--scenarios", default="startup,produce,consume,latency,cold",
                        help="startup, produce, consume (needs produce), latency, cold (Varve only: tiering and cold replay); "
                             "three (three brokers: cost, latency), failover (three brokers: kills and restarts under load)")
    parser.add_argument("--rounds", type=int, default=1, help="each round is A B B A: two runs of every system")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="record bytes of each produce and consume run")
    parser.add_argument("--cold-gigabytes", type=float, default=2.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="GB through a fresh broker before anything is measured")
    parser.add_argument("--kills", type=int, default=20, help="failover: leaders killed in each run")
    parser.add_argument("--controller-kills", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=2, help="failover: how often every broker is restarted")
    parser.add_argument("--even-if-busy", action="store_true")
    parser.add_argument("--output", help="also append the JSON lines to this file")
    parser.add_argument("--directory", help="where brokers keep their data; else a new temporary directory")
    options = parser.parse_args()
    quiet(not options.even_if_busy)

    place = pathlib.Path(tempfile.mkdtemp(prefix="varve-bench-", dir=options.directory))
    scenarios = options.scenarios.split(",")
    systems = options.systems.split(",")
    results = Results(options.output)
    print(json.dumps({"machine": os.uname().release, "cores": os.cpu_count(), "kcat": subprocess.getoutput("kcat -V | tail -2 | head -1"),
                      "options": vars(options), **machine()}), flush=True)
    try:
        warm_memory(place, 2 * options.gigabytes + 1)
        payload = hot.Payload(place, options.gigabytes)
        for turn, system in enumerate((systems + systems[::-1]) * options.rounds):
            if {"startup", "produce", "consume", "latency"} & set(scenarios):
                directory = place / f"{turn}-{system}"
                hot.run(lambda: SYSTEMS[system](directory), scenarios, payload, options, lambda *a, **k: results.add(system, *a, **k))
                shutil.rmtree(directory, ignore_errors=True)
                os.sync()
            if {"three", "failover"} & set(scenarios):
                directory = place / f"{turn}-{system}-three"
                three.run(CLUSTERS[system], directory, scenarios, payload, options, lambda *a, **k: results.add(system, *a, **k))
                shutil.rmtree(directory, ignore_errors=True)
                os.sync()
        if "cold" in scenarios:
            cold.run(place / "cold", payload, options, lambda *a, **k: results.add("varve", *a, **k))
        print("\n" + results.table())
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"\n{time.monotonic() - began:.0f} s")
