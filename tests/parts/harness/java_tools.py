"""Apache Kafka's own command-line tools, unmodified, from the jars on Maven Central."""

import subprocess

from harness.broker import java_options

CLASSES = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
    "kafka-verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-groups": "org.apache.kafka.tools.GroupsCommand",
    "kafka-leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
}


def command(tool: str, *arguments) -> list[str]:
    # A tool lives for a second: the first compiler tier alone takes a third off its CPU.
    return ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", *java_options(), CLASSES[tool], *map(str, arguments)]


def tool(name: str, *arguments, stdin: str = "", seconds: float = 90, fails: bool = False) -> str:
    """Runs a tool to its end and gives what it printed, both streams; a tool that fails unexpectedly is a failure."""
    done = subprocess.run(command(name, *arguments), input=stdin, capture_output=True, text=True, timeout=seconds)
    printed = done.stdout + done.stderr
    if bool(done.returncode) != fails:
        raise RuntimeError(f"{name} ended with {done.returncode}. arguments={arguments}, output={printed[-1500:]}")
    return printed
