"""A process that serves HTTP, on a port of its own: started, waited for, stopped."""

import http.client
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from serve.processes import GuardedProcess
from serve.triton_server import free_port

START_TIMEOUT = 180.0  # seconds
PORT = "{port}"  # in a command and in its environment: becomes the port


class StartFailed(Exception):
    """A server ended or did not answer in time. The message has the end of its log."""


class Server:
    """``command`` with a free port, which stays the same when it is started again. It ends with us, however we end.

    ``ready``: the path that answers 200 once it serves. ``grace``: seconds that it has after SIGTERM. ``env`` is added to ours.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        ready: str = "/health",
        grace: float = 5.0,
        start_timeout: float = START_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.log = log
        self._command = [str(word).replace(PORT, str(self.port)) for word in command]
        self._ready, self._grace, self._start_timeout = ready, grace, start_timeout
        self._env = os.environ | {name: value.replace(PORT, str(self.port)) for name, value in (env or {}).items()}
        self._process: GuardedProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._started.pid

    def start(self) -> None:
        """Returns when it is ready. StartFailed where it is not."""
        with self.log.open("wb" if self._process is None else "ab") as output:
            self._process = GuardedProcess(self._command, env=self._env, output=output, grace=self._grace)
        deadline = time.monotonic() + self._start_timeout
        while self._status() != 200:
            if not self._process.running or time.monotonic() > deadline:
                self.stop()
                raise StartFailed(f"{self._command[0]} did not become ready:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Returns when nothing of it is left."""
        if self._process is not None:
            self._process.stop()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Its exit status, once it has ended by itself. TimeoutError where it has not."""
        deadline = time.monotonic() + timeout
        while (status := self._started.exit_status) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._command[0]} still runs after {timeout:.0f} s")
            time.sleep(0.02)
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _started(self) -> GuardedProcess:
        assert self._process is not None, "it was never started"
        return self._process

    def _status(self) -> int | None:
        return http_status(self.port, self._ready)


def http_status(port: int, path: str) -> int | None:
    """Of a GET at this machine; None where nothing answers. http.client asks no proxy, whatever the environment says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
