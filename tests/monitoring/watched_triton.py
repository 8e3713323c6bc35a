"""A real Triton whose own /metrics is open, as it is in a container; and with any other options of tritonserver."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from serve.triton_server import TritonServer, free_port


class WatchedTriton(TritonServer):
    def __init__(self, model_repository: Path, run_dir: Path, models: Sequence[str], *options: str, **more: Any) -> None:
        super().__init__(model_repository, run_dir, models, **more)
        self._metrics_port = free_port()
        self._options = options

    @property
    def metrics_address(self) -> str:
        return f"127.0.0.1:{self._metrics_port}"

    def metrics(self) -> str:
        return httpx.get(f"http://{self.metrics_address}/metrics").text

    def _command(self) -> list[str]:
        command = [option for option in super()._command() if not option.startswith("--allow-metrics")]
        return [*command, "--metrics-address=127.0.0.1", f"--metrics-port={self._metrics_port}", *self._options]
