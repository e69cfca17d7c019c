"""One process that a test started: its log, its meters, and its end. Nothing else is ever signalled."""

import atexit
import os
import pathlib
import signal
import subprocess

from harness.place import wait_for

TICKS = os.sysconf("SC_CLK_TCK")
_running: list["Process"] = []


class Process:
    def __init__(self, command: list, log: pathlib.Path, env: dict | None = None, cwd=None):
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            self.child = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT,
                                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, cwd=cwd)
        _running.append(self)

    @property
    def pid(self) -> int:
        return self.child.pid

    def alive(self) -> bool:
        return self.child.poll() is None

    def wait_until(self, what: str, condition, seconds: float = 60):
        """Like wait_for, but a process that ended meanwhile is the answer to every question."""
        def ready():
            if not self.alive():
                raise RuntimeError(f"ended while waiting for {what}. exit={self.child.returncode}, log={self.tail()}")
            return condition()
        try:
            return wait_for(what, ready, seconds)
        except TimeoutError as late:
            raise TimeoutError(f"{late}. log={self.tail()}") from None

    def stop(self, seconds: float = 60):
        """The polite end: TERM, and a process that ignores it is a failure, not a habit."""
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                raise TimeoutError(f"did not stop on TERM within {seconds:g} s. log={self.tail()}") from None
        self._forget()

    def kill(self):
        if self.alive():
            self.child.kill()
        self.child.wait()
        self._forget()

    def _forget(self):
        if self in _running:
            _running.remove(self)

    def tail(self, lines: int = 15) -> str:
        return "\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def cpu_seconds(self) -> float:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self, field: str = "VmRSS") -> float:
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        raise KeyError(field)


@atexit.register
def end_what_is_left():
    for process in list(_running):
        process.kill()


def _told_to_end(*_):
    # A part that is told to end takes its processes along.
    end_what_is_left()
    os._exit(143)


signal.signal(signal.SIGTERM, _told_to_end)
