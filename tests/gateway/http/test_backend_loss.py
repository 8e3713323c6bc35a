"""What a client is told when Triton is gone, and what an operator is told when the gateway cannot start."""

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from serve.triton_server import TritonServer, free_port
from tests.conftest import DEMO, ROOT, gateway_process
from tests.gateway.http_client import CHAT, client, events, until

StartTriton = Callable[..., AbstractContextManager[TritonServer]]


def test_without_triton_a_stream_ends_with_an_error_and_requests_get_503(
    start_triton: StartTriton, tmp_path: Path, api_key: str
) -> None:
    with (
        start_triton(DEMO, slots=2) as triton,
        gateway_process(triton.grpc_address, tmp_path / "log", RECOVERY_TIMEOUT="1") as url,
        client(url, api_key) as http,
    ):
        with http.stream("POST", "/v1/chat/completions", json=CHAT | {"max_tokens": 1500, "stream": True}) as response:
            assert response.status_code == 200
            triton.stop()
            response.read()
        *chunks, last = events(response)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert last["error"].keys() == {"message", "type", "param", "code"}
        assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "backend_unavailable")

        log = (tmp_path / "log").read_text()
        assert re.search(r"path=/v1/chat/completions status=200 .* error=backend_unavailable", log)

        health = http.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "error")
        assert health.json()["error"]["type"] == "server_error"
        assert health.headers["Retry-After"] == "2"
        assert triton.grpc_address not in health.text

        whole = http.post("/generate", json={"prompt": "Hello"})
        assert (whole.status_code, whole.json()["error"]["type"]) == (503, "server_error")
        refused = http.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "backend_unavailable")
        assert http.get("/v1/models").status_code == 200

        triton.start()
        triton.wait_ready(60)
        assert any(http.get("/readyz").status_code == 200 for _ in until(30))
        assert http.post("/generate", json={"prompt": "Hello", "max_length": 1}).status_code == 200
        assert http.get("/health").status_code == 200


def start_gateway(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_bad_setting_stops_the_start_with_one_sentence() -> None:
    ended = start_gateway(PORT="abc")
    assert ended.returncode == 1
    assert ended.stderr == "gateway: PORT is 'abc'; it must be a whole number from 1 to 65535.\n"


def test_a_gateway_without_triton_does_not_listen() -> None:
    port = free_port()
    ended = start_gateway(PORT=str(port), TRITON_URL=f"127.0.0.1:{free_port()}", RECOVERY_TIMEOUT="1")
    assert ended.returncode != 0
    assert "no Triton with a model answered within 1 seconds" in ended.stderr
    try:
        httpx.get(f"http://127.0.0.1:{port}/health", timeout=2)
    except httpx.ConnectError:
        return
    raise AssertionError("something listens although the gateway has ended")


def test_a_model_that_triton_does_not_serve_stops_the_start(triton: TritonServer) -> None:
    ended = start_gateway(PORT=str(free_port()), TRITON_URL=triton.grpc_address, MODEL_NAME="gpt-5")
    assert ended.returncode != 0
    assert f"MODEL_NAME is 'gpt-5'; Triton at {triton.grpc_address} serves: " in ended.stderr
    assert DEMO in ended.stderr
