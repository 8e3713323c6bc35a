"""Child processes that end with us, however we end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from serve.process_guard import remove_shared_memory

GUARD = Path(__file__).with_name("process_guard.py")
GUARD_TIMEOUT = 10.0  # seconds that a guard has beyond its command's grace
GROUP_END_TIMEOUT = 2.0  # seconds: dead ones stay where process 1 does not reap


class GuardedProcess:
    """A command under `process_guard.py`: it and all its descendants end when it is stopped, when it dies, and when we die.

    ``output`` receives its standard output and error (None: ours). ``grace`` is how many seconds it has after ``stop_signal``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: IO[bytes] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace: float = 5.0,
        shm_prefix: str = "-",
    ) -> None:
        self._grace = grace
        self._shm_prefix = shm_prefix
        self._cleared = False  # after a guard that could not do it
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(int(stop_signal)), str(grace), shm_prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=dict(env),
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone: the order of stopping is ours
        )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0)  # of the command itself; 0: it could not be started

    @property
    def running(self) -> bool:
        return self.exit_status is None

    @property
    def exit_status(self) -> int | None:
        """The command's exit status (128 + signal where one ended it), None while it runs."""
        return self._settle(status) if (status := self._guard.poll()) is not None else None

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self._settle(self._guard.wait())

    def stop(self) -> None:
        """Returns when nothing of it is left, at the latest a second or two after the grace time."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(self._grace + GUARD_TIMEOUT)
        except subprocess.TimeoutExpired:  # somebody has stopped the guard itself
            self._guard.kill()
        self.wait()

    def _settle(self, status: int) -> int:
        """The exit status, after doing what a guard that was killed has left undone."""
        if status >= 0:
            return status
        if not self._cleared:
            self._cleared = True  # only once: later, the process ids may be another's
            _end_group(self.pid)
            remove_shared_memory(self._shm_prefix)
        return 128 - status

    def __enter__(self) -> "GuardedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _end_group(group: int) -> None:
    """Kills a process group whose members are no children of ours, and waits until they are gone."""
    deadline = time.monotonic() + GROUP_END_TIMEOUT
    while group and time.monotonic() < deadline:  # 0 would be our own
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.02)


def children(pid: int) -> dict[int, str]:
    """The names (their first 15 characters) of the child processes of ``pid``, dead ones that nobody waited for included."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        process = _read_stat(int(directory.name))
        if process and process.parent == pid:
            found[int(directory.name)] = process.name
    return found


def is_alive(pid: int) -> bool:
    process = _read_stat(pid)
    return process is not None and process.state != "Z"


def is_zombie(pid: int) -> bool:
    """Whether it is dead and its parent has not noticed."""
    process = _read_stat(pid)
    return process is not None and process.state == "Z"


class _Process(NamedTuple):
    name: str
    state: str  # "R", "S", "Z", …
    parent: int


def _read_stat(pid: int) -> _Process | None:
    try:
        name, fields = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except OSError:
        return None  # it has ended
    state, parent = fields.split()[:2]
    return _Process(name, state, int(parent))
