"""A stream's head passes all middlewares, its events none; a fault in mid-stream ends that stream alone, with an event."""

import json
from collections.abc import Iterator

import httpx
import pytest

from serve.triton_server import TritonServer
from testing.gateway import Gateway
from tests.conftest import TINY
from tests.gateway.http_client import client, events, load, until

LONG = {"model": TINY, "prompt": "The king", "max_tokens": 900, "temperature": 0, "ignore_eos": True, "stream": True}
FAULT = """
import gateway.api.serializers.completions as completions
write = completions.CompletionSerializer.events
def faulty(self, delta):
    if self._begun and self._body.user == "victim":
        raise RuntimeError("password=hunter2")
    return write(self, delta)
completions.CompletionSerializer.events = faulty
"""


@pytest.fixture(scope="module")
def gateway(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with Gateway(triton.grpc_address, log, FAULT, MODEL_NAME=TINY, LOG_FORMAT="json", RUN_AHEAD="off") as started:
        yield started


def test_fault_in_mid_stream_is_its_last_event_and_frees_the_slot(gateway: Gateway, api_key: str) -> None:
    with client(gateway.url, api_key) as http:
        with http.stream("POST", "/v1/completions", json=LONG) as beside:
            response = http.post("/v1/completions", json=LONG | {"user": "victim"})
            first, last = events(response)
            assert response.status_code == 200 and first["choices"][0]["text"]
            assert last["error"]["type"] == "server_error" and "hunter2" not in response.text
            beside.read()
        assert events(beside)[-1]["choices"][0]["finish_reason"] == "length"
        assert load(gateway.url) == (0, 0)
        lines: list[dict[str, str]] = []
        for _ in until(5):
            lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
            lines = [line for line in lines if line.get("request_id") == response.headers["X-Request-Id"]]
            if len(lines) == 2:
                break
    fault, request = lines
    assert fault["level"] == "ERROR" and "hunter2" in fault["exception"]
    assert (request["status"], request["error"]) == (200, "RuntimeError")
    failed = 'tidegate_requests_failed_total{reason="server_error"} 1.0'
    assert failed in httpx.get(f"{gateway.url}/metrics").text


def test_head_of_a_stream_has_what_every_answer_has(gateway: Gateway, api_key: str) -> None:
    headers = {"Origin": "https://chat.example", "X-Request-Id": "mine"}
    with client(gateway.url, api_key) as http:
        response = http.post("/v1/completions", json=LONG | {"max_tokens": 3}, headers=headers)
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["X-Request-Id"] == "mine"
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-cache", "no")
    assert events(response)[-1]["choices"][0]["finish_reason"] == "length"
