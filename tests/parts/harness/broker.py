"""A broker to aim clients at: Varve, or Apache Kafka itself as the reference that proves a test right."""

import json
import pathlib
import urllib.request

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from harness.place import CACHE, answers, built, free_port
from harness.process import Process

KAFKA_VERSION = "4.3.1"
KAFKA_LIBS = CACHE / f"kafka-{KAFKA_VERSION}"

# One node, and no second of waiting for replicas or group members that will never come.
ONE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "group.initial.rebalance.delay.ms": "0",
}


class Broker:
    """start, stop, kill -9 and start again on the same directory and port."""

    name = "?"
    tiered = False
    replication = 1

    def __init__(self, directory: pathlib.Path, settings: dict | None = None, env: dict | None = None, host: str = "127.0.0.1",
                 inside: list | None = None):
        """`inside` goes in front of the command: what starts it on `host`."""
        self.directory = directory
        self.host, self.inside = host, inside or []
        self.port = free_port()
        self.env = env or {}
        self.settings = {
            **ONE_NODE,
            "listeners": f"PLAINTEXT://{self.address}",
            "log.dirs": str(directory / "data"),
            **(settings or {}),
        }
        self.process: Process | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def write_config(self) -> pathlib.Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "server.properties"
        path.write_text("".join(f"{k}={v}\n" for k, v in self.settings.items()))
        return path

    def command(self) -> list:
        raise NotImplementedError

    def start(self, seconds: float = 120) -> "Broker":
        self.spawn()
        self.process.wait_until(f"{self.name} on {self.address}", self.ready, seconds)
        return self

    def spawn(self):
        """Starts the process, and waits for nothing."""
        self.process = Process([*self.inside, *self.command()], self.directory / "broker.log", self.env)

    def ready(self) -> bool:
        return answers(self.port)

    def stop(self):
        self.process.stop()

    def kill(self):
        self.process.kill()

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address})

    def create(self, topic: str, partitions: int = 1, **configs):
        """Keyword names are Kafka's with underscores for dots: segment_bytes=1048576."""
        new = NewTopic(topic, partitions, self.replication, config={k.replace("_", "."): str(v) for k, v in configs.items()})
        admin = self.admin()                                # kept: its futures end with it
        for done in admin.create_topics([new]).values():
            done.result(30)

    def alter(self, topic: str, **configs):
        entries = [ConfigEntry(k.replace("_", "."), str(v), incremental_operation=AlterConfigOpType.SET)
                   for k, v in configs.items()]
        admin = self.admin()
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for done in admin.incremental_alter_configs([resource]).values():
            done.result(30)

    def topic_config(self, topic: str) -> dict:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        admin = self.admin()
        entries = admin.describe_configs([resource])[resource].result(30)
        return {name: entry.value for name, entry in entries.items()}


class Varve(Broker):
    name = "varve"
    tiered = True

    def __init__(self, directory: pathlib.Path, settings: dict | None = None, bucket: str | None = "own", env=None,
                 host: str = "127.0.0.1", inside: list | None = None):
        """`bucket` is a URL, or "own" for a folder beside the data, or None for no tiering at all."""
        self.http_port = free_port()
        if bucket == "own":
            bucket = f"file://{directory / 'bucket'}"
            (directory / "bucket").mkdir(parents=True, exist_ok=True)
        super().__init__(directory, {
            **({"varve.bucket": bucket} if bucket else {}),
            "varve.http.listener": f"{host}:{self.http_port}",
            "log.retention.check.interval.ms": "500",
            **(settings or {}),
        }, env, host, inside)

    def command(self) -> list:
        return [built("varve"), "server", "--config", self.write_config()]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.http_port}/health/ready", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def metrics(self) -> dict[str, float]:
        """Samples added up over their labels: enough to see that something moved."""
        with urllib.request.urlopen(f"http://{self.host}:{self.http_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        totals: dict[str, float] = {}
        for line in lines:
            if line and not line.startswith("#"):
                name, value = line.split("{", 1)[0].split(" ", 1)[0], float(line.rsplit("} ", 1)[-1].split(" ")[-1])
                totals[name] = totals.get(name, 0) + value
        return totals


class Kafka(Broker):
    """Apache Kafka in KRaft combined mode, from the jars that tests/install fetched."""

    name = "kafka"
    heap = "1g"

    def __init__(self, directory: pathlib.Path, settings: dict | None = None, env: dict | None = None):
        super().__init__(directory, settings, env)
        controller = free_port()
        self.settings |= {
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
        }

    def command(self) -> list:
        config = self.write_config()
        if not (self.directory / "data/meta.properties").exists():
            storage = Process(["java", *java_options(), "kafka.tools.StorageTool", "format", "-g",
                               "-t", "dmFydmUtdGVzdC1jbHVzdA", "-c", config], self.directory / "format.log")
            if storage.child.wait(60):
                raise RuntimeError(f"kafka-storage failed. log={storage.tail()}")
        # The options of Kafka's own start script.
        return ["java", f"-Xms{self.heap}", f"-Xmx{self.heap}", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
                "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
                *java_options(), "kafka.Kafka", config]

    def ready(self) -> bool:
        # The port opens before the broker is unfenced; a broker that lists itself can be produced to.
        if not answers(self.port):
            return False
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except Exception:
            return False


def java_options() -> list:
    logging = CACHE / "log4j2.properties"
    if not logging.exists():
        logging.write_text("status = error\nrootLogger.level = warn\nrootLogger.appenderRefs = stderr\n"
                           "rootLogger.appenderRef.stderr.ref = STDERR\nappender.console.type = Console\n"
                           "appender.console.name = STDERR\nappender.console.target = SYSTEM_ERR\n"
                           "appender.console.layout.type = PatternLayout\n"
                           "appender.console.layout.pattern = [%d] %p %m (%c)%n\n")
    return [f"-Dlog4j2.configurationFile={logging}", "-cp", f"{KAFKA_LIBS}/*"]


def describe(broker: Broker) -> str:
    return json.dumps({"broker": broker.name, "address": broker.address, "directory": str(broker.directory)})
