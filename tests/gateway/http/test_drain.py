"""A stop loses nothing that it need not lose: it is told, then no connection is accepted, then texts finish, then they end."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY
from tests.gateway.http_client import load, until

ENDLESS = {"model": TINY, "prompt": "The king", "max_tokens": 900, "temperature": 0, "ignore_eos": True}
MANY = ENDLESS | {"n": 32}  # takes seconds on any machine
SHORT = ENDLESS | {"max_tokens": 3}


@pytest.fixture
def gateway(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Gateway]:
    """On a Triton of its own: texts that are cut may leave slots behind that look used for a while."""
    with (
        start_triton(TINY, slots=8) as triton,
        Gateway(
            triton.grpc_address, tmp_path / "log", MODEL_NAME=TINY, SPECULATION="off", RUN_AHEAD="off", **request.param
        ) as started,
    ):
        yield started


def with_settings(**settings: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gateway", [settings], indirect=True, ids=["-".join(settings)])


def complete(gateway: Gateway, key: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/completions", json=body, headers={"X-API-Key": key}, timeout=60)


def begin(gateway: Gateway, key: str, *bodies: dict[str, Any]) -> list[Future[httpx.Response]]:
    """Requests, once all their texts run or wait."""
    pool = ThreadPoolExecutor(len(bodies))
    asked = [pool.submit(complete, gateway, key, body) for body in bodies]
    pool.shutdown(wait=False)
    for _ in until(20):
        if sum(load(gateway.url)) == sum(body.get("n", 1) for body in bodies):
            return asked
    raise AssertionError(f"{load(gateway.url)} texts run and wait")


def refuses_connections(gateway: Gateway) -> bool:
    try:
        gateway.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def text_of(response: httpx.Response) -> str:
    if not response.headers["Content-Type"].startswith("text/event-stream"):
        return str(response.json()["choices"][0]["text"])
    parts = response.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    events = [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]
    assert all("error" not in event for event in events)
    return "".join(event["choices"][0]["text"] for event in events)


@with_settings(GRACE_PERIOD="30")
def test_requests_under_way_end_whole_and_others_are_refused(gateway: Gateway, api_key: str) -> None:
    texts = begin(gateway, api_key, ENDLESS, ENDLESS | {"stream": True})
    gateway.send(signal.SIGTERM)
    for _ in until(5):
        if refuses_connections(gateway):
            break
    else:
        raise AssertionError("connections are still accepted")
    assert not any(text.done() for text in texts)  # else nothing was shown
    whole, streamed = [text.result() for text in texts]
    assert (whole.status_code, whole.headers["Connection"]) == (200, "close")
    assert whole.json()["usage"]["completion_tokens"] == 900
    assert text_of(whole) == text_of(streamed)
    assert gateway.wait(5) == 0
    assert "Traceback" not in gateway.log.read_text()


@with_settings(DRAIN_DELAY="3")
def test_during_the_delay_readyz_says_no_while_new_requests_are_answered(gateway: Gateway, api_key: str) -> None:
    with httpx.Client(base_url=gateway.url, headers={"X-API-Key": api_key}, timeout=30) as http:
        assert "Connection" not in http.post("/v1/completions", json=SHORT).headers
        gateway.send(signal.SIGTERM)
        told = time.monotonic()
        while http.get("/readyz").status_code == 200:
            assert time.monotonic() - told < 1
        for _ in range(3):
            answer = http.post("/v1/completions", json=SHORT)
            assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
        assert http.get("/livez").status_code == 200
    assert gateway.wait(10) == 0
    assert 3 <= time.monotonic() - told < 6
    assert refuses_connections(gateway)


@with_settings(GRACE_PERIOD="1")
def test_past_the_grace_texts_end_with_an_error_and_the_process_ends(gateway: Gateway, api_key: str) -> None:
    streamed, whole = begin(gateway, api_key, ENDLESS | {"stream": True}, ENDLESS | {"n": 7})  # each has a slot
    began = time.monotonic()
    gateway.send(signal.SIGTERM)
    assert whole.result().status_code == 503
    assert whole.result().json()["error"]["code"] == "backend_unavailable"
    assert whole.result().headers["Retry-After"] == "2"
    *_, error, done, end = streamed.result().text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["message"] == "The server is stopping."
    assert (done, end) == ("data: [DONE]", "")
    assert gateway.wait(5) == 0
    assert 1 <= time.monotonic() - began < 4.5
    assert "Traceback" not in gateway.log.read_text()


@with_settings(GRACE_PERIOD="60", DRAIN_DELAY="60")
def test_a_second_signal_ends_at_once_but_one_right_after_the_first_is_the_same(gateway: Gateway, api_key: str) -> None:
    (text,) = begin(gateway, api_key, MANY)
    gateway.send(signal.SIGTERM)
    gateway.send(signal.SIGINT)
    time.sleep(1.1)
    assert not text.done()
    assert not refuses_connections(gateway)
    gateway.send(signal.SIGTERM)
    assert text.result(5).status_code == 503
    assert gateway.wait(5) == 0


@with_settings(GRACE_PERIOD="20")
def test_a_request_that_was_on_its_way_is_answered(gateway: Gateway, api_key: str) -> None:
    """Its connection is open, and half of it is sent; another connection rests, and does not hold the stop up."""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-API-Key: {api_key}\r\nContent-Type: application/json\r\n"
    body = json.dumps(SHORT).encode()
    with gateway.connect() as half, gateway.connect() as silent, gateway.connect() as resting:
        assert gateway.livez(resting).startswith(b"HTTP/1.1 200 OK")
        half.sendall(head.encode())
        time.sleep(0.2)
        gateway.send(signal.SIGTERM)
        assert silent.recv(100) == resting.recv(100) == b""
        half.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: half.recv(10000), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in answer
    assert gateway.wait(3) == 0


@with_settings(GRACE_PERIOD="600")
def test_a_stop_with_nothing_to_do_takes_a_second(gateway: Gateway) -> None:
    with gateway.connect():
        began = time.monotonic()
        gateway.send(signal.SIGTERM)
        assert gateway.wait(5) == 0
        assert time.monotonic() - began < 3
