"""Work on what strangers send, in processes that may come to harm: each question has a bound of processor time and of memory.

What runs there is a module with ``prepare(setup)``, which returns the function that answers; sandbox_process.py is the
other side. Questions, answers and the setup are JSON.
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
    """A question took more processor time or memory than it may, or ended its process in another way."""


class Sandbox:
    """At most ``processes`` of them, each begun when it is first needed, and again after a question that ended it. ``ask``
    blocks; threads may share it. The processes end with this object."""

    def __init__(self, module: str, setup: object, *, seconds: float, memory: int, processes: int = 1, nice: int = 0) -> None:
        """Of one question: ``seconds`` of processor time, ``memory`` in bytes besides what the prepared process holds.
        ``nice``: how much the processes yield to all others."""
        start = json.dumps([module, setup, seconds, memory, nice])
        self._idle = deque(_Process(start) for _ in range(processes))  # what was used last is warm, and is used first
        self._free = threading.Semaphore(processes)

    def ask(self, question: object, *, fills_memory: bool = False) -> Any:
        """Raises BoundExceeded. ``fills_memory``: its process is replaced afterwards, or the next such question would find the
        memory full of holes."""
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
        self._end: Callable[[], object] = lambda: None

    def ask(self, question: str) -> Any:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = self._start()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(question, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer.endswith("\n"):
            self._end()
            raise BoundExceeded
        return json.loads(answer)

    def replace(self) -> None:
        """The new one prepares itself meanwhile."""
        self._end()
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(sandbox_process.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is for the gateway, which ends it
        )
        self._end = weakref.finalize(self, _end, process)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            print(self._start_line, file=process.stdin, flush=True)
        return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    with suppress(BrokenPipeError), process:  # waits for it and closes its pipes
        pass
