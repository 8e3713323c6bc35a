"""A client that does not read what it asked for costs nobody else anything, and the gateway no more than its text."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY
from tests.gateway.http_client import client, load, until

UNREAD_TIMEOUT = 4.0  # seconds
# Every event tells the most probable tokens: megabytes in all, which no buffer of the system holds for a client like this.
LARGE = {"model": TINY, "prompt": "The king", "max_tokens": 900, "logprobs": 5, "stream": True, "ignore_eos": True, "n": 4}


@pytest.fixture
def gateway(triton: TritonServer, tmp_path: Path) -> Iterator[Gateway]:
    constants = f"gateway.http.unread.UNREAD_TIMEOUT = {UNREAD_TIMEOUT}; gateway.http.streaming.HEARTBEAT = 0.1"
    with Gateway(triton.grpc_address, tmp_path / "log", constants, MODEL_NAME=TINY, RUN_AHEAD="off") as started:
        yield started
        assert "Traceback" not in (tmp_path / "log").read_text()


def ask_without_reading(gateway: Gateway, key: str) -> socket.socket:
    connection = gateway.connect(receive_buffer=2048)
    body = json.dumps(LARGE).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.slow
def test_who_does_not_read_holds_up_nobody_and_is_let_go(gateway: Gateway, api_key: str) -> None:
    with client(gateway.url, api_key) as http, ExitStack() as open_connections:
        http.post("/v1/completions", json=LARGE).read()  # what is allocated once is
        before = gateway.memory()
        for _ in range(3):
            open_connections.enter_context(ask_without_reading(gateway, api_key))
        longest = 0.0
        for _ in until(60):
            began = time.monotonic()
            assert http.post("/generate", json={"prompt": "To be", "max_length": 2}).status_code == 200
            longest = max(longest, time.monotonic() - began)
            if load(gateway.url) == (0, 0):
                break
        assert load(gateway.url) == (0, 0)  # all texts came to their end although nobody reads them
        assert longest < 2
        assert gateway.memory() - before < 12 * 900 * 5000  # bytes: texts × tokens × what a token with its alternatives takes
        held = gateway.memory()
        time.sleep(1)
        assert gateway.memory() - held < 1 << 20  # comments do not pile up
        lines = gateway.log.read_text().splitlines()
        for _ in until(UNREAD_TIMEOUT * 5):
            lines = gateway.log.read_text().splitlines()
            if sum("path=/v1/completions" in line for line in lines) == 4:
                return
        raise AssertionError("connections that nobody reads are kept:\n" + "\n".join(lines))
