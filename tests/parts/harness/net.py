"""A network of hosts on one machine: one namespace for each broker, a bridge between them, clients on the bridge.

Everything is inside namespaces of its own into which the part is started again, so that nothing outside sees it and nothing is
left behind. Links are cut with routes: a host that has no way to another one neither sends to it nor answers it.
"""

import os
import subprocess
import sys

PREFIX = "10.77.0"
INSIDE = "VARVE_TEST_INSIDE"


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True, text=True)


def enter():
    """Starts this program again inside namespaces of its own, unless it is in them."""
    if os.environ.get(INSIDE):
        return
    os.environ[INSIDE] = "1"
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    # Names of network namespaces are mounts below /run.
    os.execvp("unshare", ["unshare", "--net", "--mount", *as_root, "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh",
                          sys.executable, *sys.argv])


class Net:
    def __init__(self, size: int):
        self.size = size
        self.blocked: set[tuple[int, int]] = set()
        ip("link", "set", "lo", "up")
        ip("link", "add", "hub", "type", "bridge")
        ip("addr", "add", f"{PREFIX}.254/24", "dev", "hub")
        ip("link", "set", "hub", "up")
        for n in range(1, size + 1):
            ip("netns", "add", self.namespace(n))
            ip("link", "add", f"link{n}", "type", "veth", "peer", "name", "eth0", "netns", self.namespace(n))
            ip("link", "set", f"link{n}", "master", "hub", "up")
            ip("-n", self.namespace(n), "addr", "add", f"{self.host(n)}/24", "dev", "eth0")
            ip("-n", self.namespace(n), "link", "set", "eth0", "up")
            ip("-n", self.namespace(n), "link", "set", "lo", "up")

    @staticmethod
    def namespace(n: int) -> str:
        return f"broker-{n}"

    @staticmethod
    def host(n: int) -> str:
        return f"{PREFIX}.{n}"

    def inside(self, n: int) -> list[str]:
        """What to put in front of a command that is to run on host `n`."""
        return ["ip", "netns", "exec", self.namespace(n)]

    def cut(self, a: int, b: int):
        """Nothing goes from `a` to `b` any more, so that no connection between them works; what `b` still sends arrives at `a`."""
        ip("-n", self.namespace(a), "route", "add", "blackhole", f"{self.host(b)}/32")
        self.blocked.add((a, b))

    def part(self, some: set[int]):
        """`some` and the others do not reach each other. Clients reach them all."""
        for a in range(1, self.size + 1):
            for b in range(1, self.size + 1):
                if (a in some) != (b in some):
                    self.cut(a, b)

    def unplug(self, n: int):
        """Nobody reaches `n`, clients neither."""
        ip("link", "set", f"link{n}", "down")

    def heal(self):
        for a, b in self.blocked:
            ip("-n", self.namespace(a), "route", "del", "blackhole", f"{self.host(b)}/32")
        self.blocked = set()
        for n in range(1, self.size + 1):
            ip("link", "set", f"link{n}", "up")
