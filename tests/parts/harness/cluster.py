"""Several brokers that form one cluster on loopback."""

import base64
import pathlib
import uuid

from harness.broker import Varve
from harness.place import free_port
from harness.process import Process


class Cluster:
    """Brokers 1 to `size`, replicating three times, with `settings` for each of them."""

    def __init__(self, directory: pathlib.Path, size: int = 3, settings: dict | None = None, **varve):
        controllers = [free_port() for _ in range(size)]
        voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(controllers, 1))
        common = {
            "cluster.id": base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A"),
            "controller.quorum.voters": voters,
            "default.replication.factor": "3",
            "offsets.topic.replication.factor": "3",
            "min.insync.replicas": "2",
            **(settings or {}),
        }
        self.tiered = varve.get("bucket", "own") is not None
        if varve.get("bucket") == "own" or "bucket" not in varve:
            (directory / "bucket").mkdir(parents=True, exist_ok=True)
            varve["bucket"] = f"file://{directory / 'bucket'}"
        self.brokers = []
        for n, controller in enumerate(controllers, 1):
            broker = Varve(directory / f"broker-{n}", {**common, "node.id": str(n)}, **varve)
            broker.replication = 3
            broker.settings["listeners"] += f",CONTROLLER://127.0.0.1:{controller}"
            self.brokers.append(broker)

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def start(self) -> "Cluster":
        # None of them is ready before most of them are there.
        for broker in self.brokers:
            broker.process = Process(broker.command(), broker.directory / "broker.log", broker.env)
        for broker in self.brokers:
            broker.process.wait_until(f"varve on {broker.address}", broker.ready, 60)
        return self

    def kill(self):
        for broker in self.brokers:
            broker.kill()

    def stop(self):
        for broker in self.brokers:
            broker.stop()

    def create(self, topic: str, partitions: int = 1, **configs):
        self.brokers[0].create(topic, partitions, **configs)

    def number(self, n: int) -> Varve:
        return self.brokers[n - 1]

    def leader(self, topic: str, partition: int, ask: int = 1) -> int:
        admin = self.number(ask).admin()
        return admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader

    def in_sync(self, topic: str, ask: int = 1) -> bool:
        admin = self.number(ask).admin()
        partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
        return all(p.leader > 0 and len(p.isrs) == len(p.replicas) for p in partitions)
