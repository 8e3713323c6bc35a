"""`make serve` as a process, and what is left of it."""

import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve.triton_server import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED_MEMORY = Path("/dev/shm")


class MakeServe:
    """A running `make serve` in a process group of its own, as in a terminal; a mark in the environment tells its children."""

    def __init__(self, **environment: str) -> None:
        self.port = int(environment.setdefault("PORT", str(free_port())))
        self._mark = f"TIDEGATE_TEST_MARK={uuid.uuid4()}"
        name, value = self._mark.split("=")
        self.process = subprocess.Popen(
            ["make", "--no-print-directory", "serve"],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")} | environment | {name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text: str, timeout: float = 240) -> str:
        """The first line from now on that contains ``text``; fails with all output where it ends or takes too long."""
        deadline = time.monotonic() + timeout
        while line := self._lines.get(timeout=max(0.1, deadline - time.monotonic())):
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}:\n{self.output}")

    def wait_ended(self, timeout: float) -> int:
        """The exit status; the output is complete then."""
        status = self.process.wait(timeout)
        while line := self._lines.get(timeout=timeout):
            self.output += line
        return status

    def processes(self) -> dict[int, str]:
        """Every living process that descends from it, whoever its parent is now: command line by process id."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (directory / "environ").read_bytes().decode(errors="replace").split("\0"):
                    found[int(directory.name)] = (
                        (directory / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                    )
            except OSError:
                continue  # it has ended
        return {pid: command for pid, command in found.items() if command}

    def pid_of(self, part: str) -> int:
        """The process whose command line contains ``part``."""
        (pid,) = [pid for pid, command in self.processes().items() if part in command and "process_guard.py" not in command]
        return pid

    def shared_memory(self) -> list[str]:
        """The files that its Triton keeps in /dev/shm."""
        return [file.name for file in SHARED_MEMORY.glob(f"tidegate_{self.supervisor}_*")]

    def remember_supervisor(self) -> None:
        self.supervisor = self.pid_of("-m tidegate serve")

    def left_after(self, seconds: float) -> tuple[dict[int, str], list[str]]:
        """Processes and files in /dev/shm that are still there after at most ``seconds``."""
        deadline = time.monotonic() + seconds
        while (left := (self.processes(), self.shared_memory())) != ({}, []) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)


@contextmanager
def starter() -> Iterator[Callable[..., MakeServe]]:
    """What it starts is stopped at its end."""
    started: list[MakeServe] = []

    def start(**environment: str) -> MakeServe:
        started.append(MakeServe(**environment))
        return started[-1]

    try:
        yield start
    finally:
        for serve in started:
            if serve.process.poll() is None:
                serve.press_ctrl_c()
        for serve in started:
            serve.process.wait(10)


def start_demonstration(start: Callable[..., MakeServe]) -> MakeServe:
    serve = start(MY_API_KEY="it's a secret", SLOTS="2")
    serve.wait_for("  try ")
    serve.remember_supervisor()
    return serve


@pytest.fixture
def make_serve() -> Iterator[Callable[..., MakeServe]]:
    with starter() as start:
        yield start


@pytest.fixture
def ready(make_serve: Callable[..., MakeServe]) -> MakeServe:
    """The demonstration model, served for this test alone."""
    return start_demonstration(make_serve)


@pytest.fixture(scope="module")
def running() -> Iterator[MakeServe]:
    """The demonstration model, served for all tests that leave it running; whatever was started again ends with it."""
    with starter() as start:
        serve = start_demonstration(start)
        yield serve
    assert serve.left_after(0) == ({}, [])
