"""A Triton with its backend, on free ports: ready when it is entered, and broken on demand."""

import os
import signal
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from serve.triton_server import TritonServer, free_port
from testing.server import START_TIMEOUT


class Triton(TritonServer):
    """``options`` are more of tritonserver's own; ``env`` reaches the backend."""

    def __init__(
        self,
        repository: Path,
        run_dir: Path,
        models: Sequence[str] | None = None,
        *options: str,
        slots: int | None = None,
        metrics: bool = False,
        **env: str,
    ) -> None:
        super().__init__(repository, run_dir, models, ({"TIDEGATE_SLOTS": str(slots)} if slots else {}) | env)
        self._options = options
        self._metrics_port = free_port() if metrics else None

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready(START_TIMEOUT)
        return self

    @property
    def metrics_address(self) -> str:
        """Where its own metrics are, as in a container."""
        assert self._metrics_port is not None
        return f"127.0.0.1:{self._metrics_port}"

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def victim(self, stub: bool = False) -> int | None:
        """The process id of the server, or of a living stub."""
        if not self.running:
            return None
        return next(iter(self.stub_pids), None) if stub else self.pid

    def kill(self, stub: bool = False) -> None:
        pid = self.victim(stub)
        assert pid is not None, "nothing is left to kill"
        os.kill(pid, signal.SIGKILL)

    @contextmanager
    def paused(self, stub: bool = False) -> Iterator[None]:
        """It answers nothing meanwhile, and its connections stay open."""
        pid = self.victim(stub)
        assert pid is not None, "nothing is left to pause"
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _accepts_connections(self) -> bool:
        """The port of its metrics is the last one to open."""
        with socket.socket() as connection:
            metrics = self._metrics_port is None or connection.connect_ex(("127.0.0.1", self._metrics_port)) == 0
        return metrics and super()._accepts_connections()

    def _command(self) -> list[str]:
        command = super()._command()
        if self._metrics_port is not None:
            command = [option for option in command if not option.startswith("--allow-metrics")]
            command += ["--metrics-address=127.0.0.1", f"--metrics-port={self._metrics_port}"]
        return [*command, *self._options]
