"""What a connection may cost is bounded, and whoever goes beyond is told so in a sentence; raw bytes against a real gateway."""

import json
import re
import socket
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from gateway.http.request_reader import MAXIMUM_HEAD, MAXIMUM_HEADERS
from testing.gateway import Gateway
from tests.gateway.http_client import client

INSIDE = re.compile(rb"(?i)uvicorn|httptools|starlette|fastapi|pydantic|traceback|\.py|/usr|/home|site-packages|\nserver:")


def read_all(connection: socket.socket) -> bytes:
    """Until the server closes; nothing of the inside may be in it."""
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert not INSIDE.search(answer), answer
    return answer


def exchange(gateway: Gateway, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the only answer, after which the server closes the connection."""
    with gateway.connect() as connection:
        connection.sendall(sent)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert headers["connection"] == "close"
    return int(first.split()[1]), headers, body


def assert_refused(told: tuple[int, dict[str, str], bytes], status: int, code: str, path: str) -> str:
    """In the envelope of the route; returns the message."""
    assert told[0] == status, told
    error = json.loads(told[2])
    if path.startswith("/v1"):
        assert error["error"].keys() == {"message", "type", "param", "code"} and error["error"]["code"] == code
    else:
        assert error.keys() == {"status", "error"} and error["error"].keys() == {"type", "message"}
    return str(error["error"]["message"])


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "field",
    [
        b"X-Long: " + b"x" * MAXIMUM_HEAD + b"\r\n\r\n",
        b"X-Endless: " + b"x" * (1 << 20),
        b"X" * MAXIMUM_HEAD + b": 1\r\n\r\n",
        b"".join(b"X-%d: 1\r\n" % number for number in range(MAXIMUM_HEADERS + 1)) + b"\r\n",
    ],
    ids=["a long value", "a value without end", "a long name", "many headers"],
)
def test_a_head_that_is_too_large_is_431(gateway: Gateway, path: str, field: bytes) -> None:
    told = exchange(gateway, f"POST {path} HTTP/1.1\r\n".encode() + field)
    assert "at most 32768 bytes and 100 headers" in assert_refused(told, 431, "headers_too_large", path)


def test_a_long_request_line_is_431_and_a_head_below_the_bound_is_read(gateway: Gateway, api_key: str) -> None:
    assert exchange(gateway, b"GET /v1/" + b"x" * MAXIMUM_HEAD + b" HTTP/1.1\r\n\r\n")[0] == 431
    with client(gateway.url, api_key) as http:
        assert http.get("/v1/models", headers={"X-Long": "x" * (MAXIMUM_HEAD - 1000)}).status_code == 200
        many = {f"X-{number}": "1" for number in range(MAXIMUM_HEADERS - 10)}
        assert [http.get("/v1/models", headers=many).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    "sent", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", b"\x16\x03\x01"]
)
def test_what_is_not_http_is_400(gateway: Gateway, sent: bytes) -> None:
    told = exchange(gateway, sent)
    assert "not HTTP" in assert_refused(told, 400, "bad_http", "/")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_head_that_does_not_come_to_its_end_is_408(gateway: Gateway, path: str) -> None:
    began = time.monotonic()
    told = exchange(gateway, f"POST {path} HTTP/1.1\r\nHost: x\r\nX-".encode())
    assert "head of the request did not arrive" in assert_refused(told, 408, "request_timeout", path)
    assert 0.9 < time.monotonic() - began < 5


def test_dripping_a_head_does_not_prolong_its_time(gateway: Gateway) -> None:
    began = time.monotonic()
    with gateway.connect() as connection:
        connection.settimeout(0.2)
        answer = b""
        for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 40:
            connection.sendall(bytes([byte]))
            try:
                answer = connection.recv(1000)
                break
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5


def test_a_connection_that_says_nothing_is_closed_without_a_word(gateway: Gateway) -> None:
    with gateway.connect() as connection:
        assert read_all(connection) == b""


def test_an_idle_connection_is_closed(gateway: Gateway) -> None:
    for rest in (b"", b"\r\n"):
        with gateway.connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + rest)
            assert b"200 OK" in read_all(connection)


def test_200_slow_senders_do_not_hold_up_a_request(gateway: Gateway, api_key: str) -> None:
    with ExitStack() as slow, client(gateway.url, api_key) as http:
        connections = [slow.enter_context(gateway.connect()) for _ in range(200)]
        for connection in connections:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nX-")
        began = time.monotonic()
        assert http.post("/generate", json={"prompt": "The king", "max_length": 3}).status_code == 200
        assert time.monotonic() - began < 1
        assert all(read_all(connection).startswith(b"HTTP/1.1 408 ") for connection in connections)


def test_connections_at_rest_make_room_for_others(gateway: Gateway, api_key: str) -> None:
    with ExitStack() as many:
        for _ in range(400):
            many.enter_context(gateway.connect())
        with client(gateway.url, api_key) as http:
            assert http.get("/livez").status_code == 200
            assert http.post("/generate", json={"prompt": "The king", "max_length": 3}).status_code == 200


def test_where_all_connections_are_busy_more_are_told_so_and_probes_are_answered(gateway: Gateway, api_key: str) -> None:
    body = b'{"prompt": "The king", "max_length": 500, "ignore_eos": true}'
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as many:
        for _ in range(300):
            busy = many.enter_context(gateway.connect())
            busy.sendall(head % (api_key.encode(), len(body)) + body[:-1])
        told = exchange(gateway, b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_refused(told, 503, "too_many_connections", "/v1")
        assert told[1]["retry-after"] == "2"
        assert httpx.get(f"{gateway.url}/livez", timeout=5).status_code == 200
    for _ in range(50):
        if httpx.get(f"{gateway.url}/v1", timeout=5).status_code == 401:
            return
        time.sleep(0.1)
    raise AssertionError("the connections are gone, but a new one is refused")


def test_requests_ahead_of_their_answers_are_bounded(gateway: Gateway) -> None:
    before = gateway.memory()
    with gateway.connect() as connection:
        with suppress(OSError):
            for _ in range(1000):
                connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        assert gateway.memory() - before < 30 << 20
    with gateway.connect() as connection:
        connection.sendall(
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 15 + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert read_all(connection).count(b"HTTP/1.1 200 OK") == 16
    with gateway.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200 OK") >= 16 and b"more than 16 requests were sent ahead" in answers


def test_who_reads_nothing_is_let_go_whatever_it_sends(gateway: Gateway) -> None:
    large = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with gateway.connect(receive_buffer=4096) as silent, gateway.connect(receive_buffer=4096) as asking:
        for connection in (silent, asking):
            connection.sendall(large * 6)
        time.sleep(0.5)
        asking.sendall(large)
        time.sleep(3)
        for connection in (silent, asking):
            with pytest.raises(OSError):
                for _ in range(3):
                    connection.sendall(large)
                    time.sleep(0.1)


def test_an_offer_of_another_protocol_is_passed_over(gateway: Gateway, api_key: str) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    with gateway.connect() as connection:
        for _ in range(2):
            assert gateway.livez(connection, offer).startswith(b"HTTP/1.1 200 OK")
    with client(gateway.url, api_key) as http:  # Java's client makes this offer with every request
        headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAA"}
        for _ in range(2):
            answer = http.post("/generate", json={"prompt": "The king", "max_length": 3}, headers=headers)
            assert answer.status_code == 200, answer.text
    websocket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
    with gateway.connect() as connection:
        connection.sendall(b"GET /generate HTTP/1.1\r\nHost: x\r\n" + websocket + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 405 ")
