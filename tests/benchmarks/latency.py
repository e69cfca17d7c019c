"""End-to-end latency at a fixed rate: one process sends by the clock, another receives; both clocks are the machine's.

Open loop: a record's time is the moment at which it was due, not the one at which the sender got round to it. Prints
percentiles in milliseconds as JSON. The first fifth of the run is not counted.
"""

import json
import multiprocessing
import struct
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

VALUE_BYTES = 1000


def send(address: str, rate: int, seconds: int, ready):
    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 1, "queue.buffering.max.messages": 1_000_000})
    producer.list_topics("latency", timeout=30)
    ready.wait(60)
    filler = b"x" * (VALUE_BYTES - 8)
    began, step = time.monotonic_ns(), 1_000_000_000 // rate
    for i in range(rate * seconds):
        due = began + i * step
        ahead = due - time.monotonic_ns()
        if ahead > 200_000:
            producer.poll(0)
            time.sleep(ahead / 1e9)
        producer.produce("latency", struct.pack(">q", due) + filler, partition=0)
    if producer.flush(60):
        raise SystemExit("not all was acknowledged")


def receive(address: str, count: int, ready, out):
    consumer = Consumer({"bootstrap.servers": address, "group.id": "latency", "enable.auto.commit": False, "fetch.min.bytes": 1})
    consumer.assign([TopicPartition("latency", 0, 0)])
    consumer.poll(1)
    ready.set()
    taken = []
    while len(taken) < count:
        message = consumer.poll(30)
        if message is None:
            break
        if message.error() is None:
            taken.append(time.monotonic_ns() - struct.unpack_from(">q", message.value())[0])
    out.put(taken)
    consumer.close()


def main():
    address, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ready, out = multiprocessing.Event(), multiprocessing.Queue()
    receiver = multiprocessing.Process(target=receive, args=(address, rate * seconds, ready, out))
    sender = multiprocessing.Process(target=send, args=(address, rate, seconds, ready))
    receiver.start()
    sender.start()
    taken = out.get(timeout=seconds + 120)
    sender.join()
    receiver.join()
    if len(taken) != rate * seconds:
        raise SystemExit(f"records are missing. want={rate * seconds}, got={len(taken)}")
    counted = sorted(taken[len(taken) // 5:])
    print(json.dumps({f"p{p}_ms": counted[min(len(counted) - 1, int(len(counted) * p / 100))] / 1e6 for p in (50, 99, 99.9)}))


if __name__ == "__main__":
    main()
