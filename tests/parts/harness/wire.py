"""The few Kafka requests that no Python client offers: ListOffsets at -4 and -5, and Fetch as raw bytes.

Small, strict and ours: what a client library would hide (which tier holds what, the exact bytes of a batch)
is what these tests are about. ListOffsets v9 and Fetch v12, both in the flexible encoding.
"""

import hashlib
import io
import socket
import struct

EARLIEST, LATEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED = -2, -1, -3, -4, -5


class Refused(Exception):
    """The broker answered with an error code of Kafka's."""


def uvarint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def text(s: str) -> bytes:
    return uvarint(len(s) + 1) + s.encode()


NO_TAGS = b"\0"


class Reader(io.BytesIO):
    def take(self, form: str):
        values = struct.unpack(">" + form, self.read(struct.calcsize(">" + form)))
        return values[0] if len(values) == 1 else values

    def uvarint(self) -> int:
        n = shift = 0
        while True:
            byte = self.read(1)[0]
            n |= (byte & 0x7F) << shift
            if byte < 0x80:
                return n
            shift += 7

    def length(self) -> int:
        return self.uvarint() - 1

    def tags(self):
        for _ in range(self.uvarint()):
            self.uvarint()
            self.read(self.uvarint())


class Connection:
    def __init__(self, address: str, timeout: float = 60):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, key: int, version: int, body: bytes) -> Reader:
        self.count += 1
        head = struct.pack(">hhi", key, version, self.count) + struct.pack(">h", 5) + b"tests" + NO_TAGS
        self.socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        answer = Reader(self._exactly(struct.unpack(">i", self._exactly(4))[0]))
        assert answer.take("i") == self.count, "answer to another request"
        answer.tags()
        return answer

    def _exactly(self, n: int) -> bytes:
        parts = []
        while n:
            part = self.socket.recv(min(n, 1 << 20))
            if not part:
                raise ConnectionError("closed in the middle of an answer")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def offset_at(self, topic: str, partition: int, timestamp: int) -> tuple[int, int]:
        """(offset, timestamp) for a time, or for one of the named places above; (-1, -1) when there is none."""
        body = (struct.pack(">ib", -1, 0) + uvarint(2) + text(topic) + uvarint(2)
                + struct.pack(">iiq", partition, -1, timestamp) + NO_TAGS * 3)
        answer = self.ask(2, 9, body)
        answer.take("i")                                    # throttle
        assert answer.length() == 1
        answer.read(answer.length())                        # topic
        assert answer.length() == 1
        _, error, at, offset, _ = answer.take("ihqqi")
        if error:
            raise Refused(f"ListOffsets: error {error}. topic={topic}, partition={partition}, timestamp={timestamp}")
        return offset, at

    def fetch(self, topic: str, partition: int, offset: int, max_bytes: int = 4 << 20) -> tuple[int, bytes]:
        """(high watermark, whole batches from the one that holds `offset` on)."""
        body = (struct.pack(">iiiibii", -1, 1000, 1, max_bytes, 0, 0, -1)
                + uvarint(2) + text(topic) + uvarint(2)
                + struct.pack(">iiqiqi", partition, -1, offset, -1, -1, max_bytes) + NO_TAGS * 2
                + uvarint(1) + text("") + NO_TAGS)
        answer = self.ask(1, 12, body)
        answer.take("i")
        error = answer.take("h")
        answer.take("i")
        if error or answer.length() != 1:
            raise Refused(f"Fetch: error {error}, or no topic. topic={topic}")
        answer.read(answer.length())
        assert answer.length() == 1
        _, error, high_watermark, _, _ = answer.take("ihqqq")
        if error:
            raise Refused(f"Fetch: error {error}. topic={topic}, partition={partition}, offset={offset}")
        for _ in range(max(answer.length(), 0)):            # aborted transactions
            answer.take("qq")
            answer.tags()
        answer.take("i")                                    # preferred read replica
        return high_watermark, whole_batches(answer.read(max(answer.length(), 0)))


def whole_batches(records: bytes) -> bytes:
    return records[:sum(size for _, size in batches(records))]


def batches(records: bytes):
    """(position, size) of each whole batch."""
    at = 0
    while at + 12 <= len(records):
        size = 12 + struct.unpack_from(">i", records, at + 8)[0]
        if at + size > len(records):
            return
        yield at, size
        at += size


def digest(address: str, topic: str, partition: int, start: int, end: int) -> tuple[str, int]:
    """SHA-256 and length of the log's own bytes in [start, end): the same from every tier, or something is wrong."""
    sha, total = hashlib.sha256(), 0
    with Connection(address) as connection:
        while start < end:
            # A broker that has nothing but a slow bucket to answer with says so after a while.
            answers = (connection.fetch(topic, partition, start)[1] for _ in range(20))
            records = next(filter(None, answers), b"")
            if not records:
                raise Refused(f"Fetch: nothing below the end. topic={topic}, partition={partition}, offset={start}")
            for at, size in batches(records):
                base, last = struct.unpack_from(">q", records, at)[0], struct.unpack_from(">i", records, at + 23)[0]
                if base + last < start:
                    continue                                # a fetch may begin with the batch before the asked offset
                if base > start:
                    raise Refused(f"gap in the log. topic={topic}, partition={partition}, want={start}, got={base}")
                if start >= end:
                    break
                sha.update(records[at:at + size])
                total += size
                start = base + last + 1
    return sha.hexdigest(), total
