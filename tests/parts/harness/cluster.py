"""Several brokers that form one cluster on loopback: Varve's, or Apache Kafka's for the benchmark."""

import base64
import pathlib
import uuid

from harness.broker import Broker, Varve
from harness.net import Net
from harness.place import free_port


class Cluster:
    """Brokers 1 to `size`, replicating three times, with `settings` for each of them; on `network`, each on a host of its own."""

    def __init__(self, directory: pathlib.Path, size: int = 3, settings: dict | None = None, kind: type[Broker] = Varve,
                 network: Net | None = None, **varve):
        host = network.host if network else lambda n: "127.0.0.1"
        controllers = [f"{host(n)}:{free_port()}" for n in range(1, size + 1)]
        voters = ",".join(f"{n}@{address}" for n, address in enumerate(controllers, 1))
        common = {
            "cluster.id": base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A"),
            "controller.quorum.voters": voters,
            "default.replication.factor": "3",
            "offsets.topic.replication.factor": "3",
            "min.insync.replicas": "2",
            **(settings or {}),
        }
        self.tiered = kind is Varve and varve.get("bucket", "own") is not None
        if self.tiered and varve.get("bucket", "own") == "own":
            (directory / "bucket").mkdir(parents=True, exist_ok=True)
            varve["bucket"] = f"file://{directory / 'bucket'}"
        self.brokers = []
        for n, controller in enumerate(controllers, 1):
            where = {"host": host(n), "inside": network.inside(n)} if network else {}
            broker = kind(directory / f"broker-{n}", {**common, "node.id": str(n)}, **where, **varve)
            broker.replication = 3
            broker.settings |= {"listeners": f"PLAINTEXT://{broker.address},CONTROLLER://{controller}",
                                "controller.quorum.voters": voters}
            self.brokers.append(broker)

    @property
    def address(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def start(self) -> "Cluster":
        # None of them is ready before most of them are there.
        for broker in self.brokers:
            broker.spawn()
        for broker in self.brokers:
            broker.process.wait_until(f"{broker.name} on {broker.address}", broker.ready, 60)
        return self

    def kill(self):
        for broker in self.brokers:
            broker.kill()

    def stop(self):
        for broker in self.brokers:
            broker.stop()

    def create(self, topic: str, partitions: int = 1, **configs):
        self.brokers[0].create(topic, partitions, **configs)

    def number(self, n: int) -> Broker:
        return self.brokers[n - 1]

    def leader(self, topic: str, partition: int, ask: int = 1) -> int:
        admin = self.number(ask).admin()
        return admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader

    def in_sync(self, topic: str, ask: int = 1) -> bool:
        admin = self.number(ask).admin()
        partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
        return all(p.leader > 0 and len(p.isrs) == len(p.replicas) for p in partitions)
