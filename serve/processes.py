"""Child processes that end when this process ends, however it ends."""

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
GUARD_TIMEOUT = 10.0  # seconds for the guard, on top of its command's grace
GROUP_END_TIMEOUT = 2.0  # seconds: zombies remain if process 1 does not reap them


class GuardedProcess:
    """A command under `process_guard.py`: it ends with all its descendants when it is stopped, when it dies, or when we die.

    ``output`` receives its standard output and error (None: ours). ``grace`` is how many seconds it gets after
    ``stop_signal``.
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
        self._cleared = False  # whether we cleaned up for a guard that was killed
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(int(stop_signal)), str(grace), shm_prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env=dict(env),
            start_new_session=True,  # Ctrl-C in the terminal only reaches us: we decide the order of stopping
        )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0)  # of the command itself; 0 if it could not be started

    @property
    def running(self) -> bool:
        return self.exit_status is None

    @property
    def exit_status(self) -> int | None:
        """The command's exit status (128 + signal if a signal ended it), or None while it runs."""
        return self._settle(status) if (status := self._guard.poll()) is not None else None

    def wait(self) -> int:
        """Waits for the command to end by itself and returns its exit status."""
        return self._settle(self._guard.wait())

    def stop(self) -> None:
        """Stops the command. Returns when nothing of it is left, at most a few seconds after the grace time."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        try:
            self._guard.wait(self._grace + GUARD_TIMEOUT)
        except subprocess.TimeoutExpired:  # the guard itself was suspended
            self._guard.kill()
        self.wait()

    def _settle(self, status: int) -> int:
        """The exit status, after any cleanup that a killed guard could not do."""
        if status >= 0:
            return status
        if not self._cleared:
            self._cleared = True  # only once: the process ids may be reused later
            _end_group(self.pid)
            remove_shared_memory(self._shm_prefix)
        return 128 - status

    def __enter__(self) -> "GuardedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _end_group(group: int) -> None:
    """Kills a process group whose members are not our children, and waits until they are gone."""
    deadline = time.monotonic() + GROUP_END_TIMEOUT
    while group and time.monotonic() < deadline:  # 0 would mean our own group
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.02)


def children(pid: int) -> dict[int, str]:
    """The child processes of ``pid``: pid → name (first 15 characters). Includes zombies."""
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
    """Whether it is dead but not yet reaped by its parent."""
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
