"""A gateway as users start it, `python -m gateway`: what all tests ask, by its address, by signals and by raw bytes."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from serve.triton_server import free_port

ROOT = Path(__file__).resolve().parent.parent.parent

STOP_WITHIN = 5  # seconds


class OwnGateway:
    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

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

    def memory(self) -> int:
        """Bytes that are resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def own_gateway(triton_address: str, log: Path, constants: str = "", **environment: str) -> Iterator[OwnGateway]:
    """``constants``: statements that make its times short, such as ``gateway.http.streaming.HEARTBEAT = 0.1``."""
    port = free_port()
    script = (
        "import gateway.__main__, gateway.http.protocol, gateway.http.streaming, gateway.http.body\n"
        f"{constants}\ngateway.__main__.main()"
    )
    command = [sys.executable, "-c", script] if constants else [sys.executable, "-m", "gateway"]
    env = {name: value for name, value in os.environ.items() if name != "MY_API_KEY"}
    env |= {"TRITON_URL": triton_address, "PORT": str(port), "HOST": "127.0.0.1"} | environment
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
    gateway = OwnGateway(f"http://127.0.0.1:{port}", process, log)
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{gateway.url}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError(f"the gateway did not become healthy:\n{log.read_text()}")
        yield gateway
    finally:
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:  # a text that is still under way
            process.kill()
            process.wait()
