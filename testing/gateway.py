"""A gateway as users start it, `python -m gateway`: asked by its address, by signals and by raw bytes."""

import http.client
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import psutil

from testing import ROOT
from testing.server import PORT, Server


class Gateway(Server):
    """Before the Tritons at ``tritons``, addresses with commas between them.

    ``constants``: statements that make its times short, such as ``gateway.http.streaming.HEARTBEAT = 0.1``. ``module``: what is
    run instead of `gateway`. ``settings`` are environment variables.
    """

    def __init__(
        self,
        tritons: str,
        log: Path,
        constants: str = "",
        *,
        module: str = "gateway",
        ready: str = "/health",
        grace: float = 5.0,
        **settings: str,
    ) -> None:
        modules = "gateway.server, gateway.http.protocol, gateway.http.streaming, gateway.http.unread, gateway.http.body"
        script = f"import {modules}\n{constants}\n"
        command = ["-c", f"{script}gateway.server.run()"] if constants else ["-m", module]
        env = {"TRITON_URL": tritons, "HOST": "127.0.0.1", "PORT": PORT, "PYTHONPATH": str(ROOT)} | settings
        super().__init__([sys.executable, *command], log, ready=ready, grace=grace, env=env)
        if "MY_API_KEY" not in settings:
            self._env.pop("MY_API_KEY", None)  # that of the shell: its own default counts

    def drain(self) -> int:
        """SIGTERM; its exit status once it has ended by itself."""
        self.send(signal.SIGTERM)
        status = self.wait(self._grace)
        self.stop()
        return status

    def load(self) -> int:
        """Sequences that run or wait."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/health")
            models: dict[str, Any] = json.load(connection.getresponse())["data"]["models"]
        finally:
            connection.close()
        return sum(model["running"] + model["waiting"] for model in models.values())

    def memory(self) -> int:
        """Bytes that are resident."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(20)
        connection.connect(self.address)
        return connection

    def livez(self, connection: socket.socket, headers: bytes = b"") -> bytes:
        """Asks on a connection; its whole answer."""
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        answer = b""
        while not answer.endswith(b"}}"):
            received = connection.recv(65536)
            assert received, answer
            answer += received
        return answer
