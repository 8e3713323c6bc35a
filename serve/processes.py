"""Child processes that end with us, however we end."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

GUARD = Path(__file__).with_name("guard.py")


class GuardedProcess:
    """A command under `guard.py`: it and all its descendants end when it is stopped, when it dies, and when we die.

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
        return self._guard.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The command's exit status (128 + signal where one ended it), None while it runs."""
        return self._guard.poll()

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self._guard.wait()

    def stop(self) -> None:
        """Returns when nothing of it is left, at the latest a second or two after the grace time."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(self._grace + 10)

    def __enter__(self) -> "GuardedProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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
