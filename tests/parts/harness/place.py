"""Where things are on this machine, and how long to wait for them. Nothing here starts anything."""

import os
import pathlib
import random
import socket
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
CACHE = pathlib.Path(os.environ.get("VARVE_TEST_CACHE") or pathlib.Path.home() / ".cache/varve-tests")
FULL = os.environ.get("VARVE_TEST_FULL") == "1"


def target_dir() -> pathlib.Path:
    given = os.environ.get("CARGO_TARGET_DIR")
    shared = pathlib.Path.home() / ".cache/varve-target"
    return pathlib.Path(given) if given else shared if shared.is_dir() else REPOSITORY / "target"


def built(name: str) -> pathlib.Path:
    """A binary of this workspace: the one the environment names, else the newest of what cargo left."""
    given = os.environ.get(f"{name.upper()}_BIN")
    if given:
        return pathlib.Path(given)
    found = [p for p in (target_dir() / kind / name for kind in ("release", "debug")) if p.exists()]
    if not found:
        raise SystemExit(f"{name} is not built. looked_in={target_dir()}, hint=cargo build --workspace")
    return max(found, key=lambda p: p.stat().st_mtime)


def free_port() -> int:
    """Below the range that outgoing connections take theirs from: while a broker is down, nobody may get its port, least of
    all a client that keeps knocking and by chance connects to itself."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for(what: str, condition, seconds: float = 60, pause: float = 0.05):
    """Asks until the answer is true and gives it back; past the bound it says what never came."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False
