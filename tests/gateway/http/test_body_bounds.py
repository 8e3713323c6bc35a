"""What a body may cost is bounded: its size, its time, its depth and its numbers; raw bytes against a real gateway."""

import time
from contextlib import ExitStack

import httpx
import pytest

from gateway.http.body import MAXIMUM_BODY, MAXIMUM_DEPTH
from testing.gateway import Gateway
from tests.gateway.http.test_bounds import assert_refused, exchange, read_all
from tests.gateway.http_client import client


def test_a_body_whose_length_is_said_in_two_ways_is_refused(gateway: Gateway, api_key: str) -> None:
    head = (
        f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {api_key}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert exchange(gateway, head.encode() + b"0\r\n\r\n")[0] == 400


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.parametrize(
    "length", ["Content-Length: 1000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"], ids=["length", "chunks"]
)
def test_a_body_that_does_not_come_is_408(gateway: Gateway, api_key: str, path: str, length: str) -> None:
    answer = exchange(gateway, f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {api_key}\r\n{length}".encode())
    assert "body did not arrive" in assert_refused(answer, 408, "request_timeout", path)
    assert "x-request-id" in answer[1]


def test_a_body_after_the_answer_holds_no_connection(gateway: Gateway) -> None:
    """The key was wrong: nobody reads the body. It may come all the same, so that the answer arrives, but not for ever."""
    with gateway.connect() as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        assert read_all(connection).startswith(b"HTTP/1.1 401 ")
    with gateway.connect() as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert b"401" in connection.recv(1000)
        connection.sendall(b"x" * 9)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in read_all(connection)


def test_small_chunks_hold_up_nobody(gateway: Gateway) -> None:
    """A quarter of a million chunks, of a stranger: they were read in seconds during which nobody else was."""
    with ExitStack() as many:
        connections = [many.enter_context(gateway.connect()) for _ in range(30)]
        for connection in connections:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for connection in connections:
            connection.sendall(b"1\r\nx\r\n" * 8000)
        began = time.monotonic()
        assert httpx.get(f"{gateway.url}/livez", timeout=5).status_code == 200
        assert time.monotonic() - began < 0.7


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"x: "], ids=["many", "a long one"])
def test_trailers_are_bounded(gateway: Gateway, begun: bytes) -> None:
    before = gateway.memory()
    with gateway.connect() as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + begun)
        end = time.monotonic() + 10
        with pytest.raises(OSError):
            while time.monotonic() < end:
                connection.sendall(b"x1: y\r\n" * 10_000 if not begun else b"x" * 100_000)
    assert gateway.memory() - before < 30 << 20


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_body_that_says_it_is_small_and_is_not_or_says_it_is_large(gateway: Gateway, api_key: str, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {api_key}\r\nConnection: close\r\n"
    chunk = b"%x\r\n" % MAXIMUM_BODY + b" " * MAXIMUM_BODY + b"\r\n"
    assert exchange(gateway, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"1\r\n \r\n0\r\n\r\n")[0] == 413
    assert exchange(gateway, head.encode() + b"Content-Length: %d\r\n\r\n" % (MAXIMUM_BODY + 1))[0] == 413  # before it is sent
    assert exchange(gateway, head.encode() + b"Content-Length: 2\r\n\r\n{}" + b"x" * 100)[0] == 400
    assert exchange(gateway, head.encode() + b"Content-Length: 99999999999999999999999\r\n\r\n")[0] == 400


@pytest.mark.parametrize("depth", [MAXIMUM_DEPTH, 150, 250, 400_000])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_a_body_nested_too_deeply_is_400(gateway: Gateway, api_key: str, path: str, depth: int) -> None:
    with client(gateway.url, api_key) as http:
        for content in (
            '{"prompt":' + "[" * depth + "]" * depth + "}",
            '{"prompt":' + '{"a":' * depth + "1" + "}" * depth + "}",
        ):
            answer = http.post(path, content=content[:MAXIMUM_BODY])
            assert answer.status_code == 400
            assert "more than 64 objects and lists in each other" in answer.text
        shallow = "[" * (MAXIMUM_DEPTH - 1) + "]" * (MAXIMUM_DEPTH - 1)
        assert "prompt is [[[" in http.post(path, content=f'{{"model": "m", "prompt": {shallow}}}').text


@pytest.mark.parametrize(
    "number", ["9" * 5000, "9" * 1_000_000, "-" + "9" * 5000, "0." + "9" * 1_000_000, "1e999999999", "1" * 4000]
)
def test_a_number_of_absurd_length_is_400(gateway: Gateway, api_key: str, number: str) -> None:
    with client(gateway.url, api_key) as http:
        answer = http.post("/generate", content=f'{{"prompt": "The king", "seed": {number}}}')
    assert answer.status_code == 400 and len(answer.text) < 500


def test_of_a_key_that_comes_twice_the_last_value_counts(gateway: Gateway, api_key: str) -> None:
    with client(gateway.url, api_key) as http:
        answer = http.post("/generate", content='{"max_length": "x", "prompt": "The king", "max_length": 0}')
    assert answer.json()["error"]["message"] == "max_length is 0; it must be an integer from 1 to 512."
