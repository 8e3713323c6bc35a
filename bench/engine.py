"""Engines as processes that stay loaded and are asked in turn: the parent's side of engines/protocol.py."""

import json
import select
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environments import ROOT, RUN, Environment, PeerError

LOADING, ANSWERING = 300.0, 300.0  # seconds: an engine that takes longer is left out


@dataclass(frozen=True)
class Setting:
    """One engine with one kind of weights. ``command`` is made when its environment and weights are there."""

    name: str
    environment: Environment | None  # None: ours
    command: Callable[[], Sequence[str | Path]]
    quick: bool = True  # whether a quick run has it too
    instead_of: str | None = None  # tried only where that one failed


class Engine:
    """The running process of a setting. PeerError where it does not start, ends, or says that it cannot."""

    def __init__(self, name: str, command: Sequence[str | Path]) -> None:
        self.name = name
        RUN.mkdir(parents=True, exist_ok=True)
        self._log = (RUN / f"{name.replace(' ', '-')}.log").open("w+")
        self._process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT
        )
        try:
            self.given = str(self._read(LOADING)["given"])
        except PeerError:
            self.close()
            raise

    def ask(self, do: str, *, timeout: float = ANSWERING, **fields: Any) -> dict[str, Any]:
        """An engine that takes longer than ``timeout`` seconds is ended."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": do} | fields).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        answer = self._read(timeout)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _read(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            self._process.kill()
            raise PeerError(f"it did not answer within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            output = [line.strip() for line in self._log.read().splitlines() if line.strip()]
            raise PeerError(f"its process ended with status {status}: {' / '.join(output[-2:])[-400:]}")
        return dict(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextmanager
def started(settings: Sequence[Setting], failures: dict[str, str], say: Callable[[str], None]) -> Iterator[list[Engine]]:
    """Those that start. What is wrong with the others goes into ``failures``, and their next best setting is tried."""
    engines: list[Engine] = []
    try:
        for setting in settings:
            if setting.instead_of and setting.instead_of not in failures:
                continue
            try:
                engines.append(Engine(setting.name, setting.command()))
                say(f"  {setting.name}: {engines[-1].given}")
            except (PeerError, OSError) as error:
                failures[setting.name] = str(error)
                say(f"  {setting.name} cannot take part: {error}")
        yield engines
    finally:
        for engine in engines:
            engine.close()
