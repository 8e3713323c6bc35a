"""Processes untrusted input in expendable processes: each question has limits of processor time and memory.

Each process runs a module with ``prepare(setup)``, which returns the function that answers questions; sandbox_process.py is the
process's side. Questions, answers and the setup are JSON.
"""

import json
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.text import sandbox_process


class BoundExceeded(Exception):
    """A question exceeded its limit of processor time or memory, or ended its process in another way."""


class Sandbox:
    """At most ``processes`` processes, started on first use and restarted after a question ends one. ``ask`` blocks; it is
    thread-safe. The processes end with `close`, at the latest with this object."""

    def __init__(self, module: str, setup: object, *, seconds: float, memory: int, processes: int = 1, nice: int = 0) -> None:
        """Limits per question: ``seconds`` of processor time, and ``memory`` in bytes beyond what the prepared process uses.
        ``nice``: the processes' niceness."""
        start = json.dumps([module, setup, seconds, memory, nice])
        self._idle = deque(_Process(start) for _ in range(processes))  # the last one used is warm, so it is used first
        self._free = threading.Semaphore(processes)
        self._closed = False

    def ask(self, question: object, *, fills_memory: bool = False) -> Any:
        """Returns the answer. Raises BoundExceeded. ``fills_memory``: replaces the process afterwards, because its memory would
        be too fragmented for another such question."""
        try:
            return self._ask(question, fills_memory)
        finally:
            if self._closed:
                self.close()

    def close(self) -> None:
        """Ends the idle processes now, and every other one after its question. Later questions are still answered."""
        self._closed = True
        ended = []
        while self._free.acquire(blocking=False):
            ended.append(self._idle.popleft())
            ended[-1].end()
        self._idle.extend(ended)
        for _ in ended:
            self._free.release()

    def _ask(self, question: object, fills_memory: bool) -> Any:
        with self._free:
            process, is_warm = self._idle.pop(), True
            try:
                answer = process.ask(json.dumps(question))
                if fills_memory:
                    is_warm = False
                    process.replace()
                return answer
            except BoundExceeded:
                is_warm = False
                raise
            finally:
                (self._idle.append if is_warm else self._idle.appendleft)(process)


class _Process:
    def __init__(self, start: str) -> None:
        self._start_line = start
        self._process: subprocess.Popen[str] | None = None
        self.end: Callable[[], object] = lambda: None

    def ask(self, question: str) -> Any:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer.endswith("\n"):
            self.end()
            raise BoundExceeded
        return json.loads(answer)

    def replace(self) -> None:
        """Replaces the process. The new one prepares itself in the background."""
        self.end()
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(sandbox_process.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C goes to the gateway, which ends the process
        )
        self.end = weakref.finalize(self, _end, process)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            print(self._start_line, file=process.stdin, flush=True)
        return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError), process:  # waits for it and closes its pipes
        pass
