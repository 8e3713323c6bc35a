"""A client that goes away costs nothing: its text ends at once, whether it streamed or not."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.gateway.http_client import CHAT, client, load, until
from tests.logits import WIDER_VECTORS

LONG = {
    "messages": [{"role": "user", "content": "Count from 1 to 1000, a number a line."}],
    "max_tokens": 1500,
    "temperature": 0,
}


@contextmanager
def raw_request(url: str, key: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + content)
        yield connection


def wait_for(url: str, wanted: tuple[int, int], seconds: float) -> None:
    seen = None
    for _ in until(seconds):
        seen = load(url)
        if seen == wanted:
            return
    raise AssertionError(f"running and waiting are {seen} after {seconds} s, not {wanted}")


@pytest.fixture
def idle_url(gateway_url: str) -> str:
    wait_for(gateway_url, (0, 0), 10)
    return gateway_url


def test_a_broken_stream_ends_its_text(idle_url: str, api_key: str) -> None:
    with raw_request(idle_url, api_key, CHAT | LONG | {"stream": True}) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        wait_for(idle_url, (1, 0), 5)
    wait_for(idle_url, (0, 0), 2)


def test_a_broken_request_without_a_stream_ends_its_text(idle_url: str, api_key: str) -> None:
    with raw_request(idle_url, api_key, CHAT | LONG):
        wait_for(idle_url, (1, 0), 5)
    wait_for(idle_url, (0, 0), 2)


def test_so_does_one_whose_client_has_sent_the_next_request(idle_url: str, api_key: str) -> None:
    with raw_request(idle_url, api_key, CHAT | LONG) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        wait_for(idle_url, (1, 0), 5)
    wait_for(idle_url, (0, 0), 2)


def test_clients_that_leave_disturb_no_other(idle_url: str, api_key: str) -> None:
    body = CHAT | {"max_tokens": 40, "temperature": 0}
    with client(idle_url, api_key) as http:
        alone = http.post("/v1/chat/completions", json=body).json()["choices"]
        with raw_request(idle_url, api_key, CHAT | LONG | {"stream": True}), raw_request(idle_url, api_key, CHAT | LONG):
            wait_for(idle_url, (2, 0), 5)
            with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
                next(response.iter_lines())
        again = http.post("/v1/chat/completions", json=body).json()["choices"]
    assert WIDER_VECTORS or again == alone
    wait_for(idle_url, (0, 0), 2)


def test_a_client_that_leaves_while_it_sends_is_no_error(idle_url: str, api_key: str) -> None:
    host, port = idle_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {api_key}\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"prompt"')
    wait_for(idle_url, (0, 0), 2)
