"""Liveness, readiness and health are three things, and load is none of them."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.engine.replica import PROBE_TIMEOUT
from gateway.errors import BackendUnavailable
from gateway.server import Server
from gateway.settings import Settings
from serve.triton_server import TritonServer
from tests.conftest import DEMO, TINY, gateway_process
from tests.gateway.engines import engine_on
from tests.gateway.http.test_disconnect import raw_request
from tests.gateway.http_client import CHAT, client, load, until

StartTriton = Callable[..., AbstractContextManager[TritonServer]]
PROBES = ("/livez", "/readyz", "/health")
LONG = CHAT | {"max_tokens": 1500, "ignore_eos": True}


def statuses(url: str) -> dict[str, int]:
    return {path: httpx.get(url + path, timeout=10).status_code for path in PROBES}


def wait_statuses(url: str, livez: int, others: int) -> None:
    wanted = {"/livez": livez, "/readyz": others, "/health": others}
    for _ in until(20):
        seen = statuses(url)
        assert seen["/livez"] == livez
        if seen == wanted:
            return
    raise AssertionError(f"{seen}, not {wanted}")


def test_without_triton_the_gateway_lives_but_is_not_ready_and_with_it_it_is_again(
    start_triton: StartTriton, tmp_path: Path
) -> None:
    with start_triton(DEMO, slots=1) as triton, gateway_process(triton.grpc_address, tmp_path / "log") as url:
        wait_statuses(url, 200, 200)
        triton.stop()
        wait_statuses(url, 200, 503)
        reason = httpx.get(f"{url}/readyz", timeout=10)
        assert reason.json()["status"] == "error" and "model server does not answer" in reason.json()["error"]["message"]
        assert reason.headers["Retry-After"] == "2" and triton.grpc_address not in reason.text
        assert httpx.head(f"{url}/readyz", timeout=10).status_code == 503
        triton.start()
        triton.wait_ready(60)
        wait_statuses(url, 200, 200)


def test_a_full_queue_is_not_ill(start_triton: StartTriton, tmp_path: Path, api_key: str) -> None:
    with (
        start_triton(DEMO, slots=1) as triton,
        gateway_process(triton.grpc_address, tmp_path / "log", MAX_WAITING="1") as url,
        client(url, api_key) as http,
        ExitStack() as requests,
    ):
        for running in ((1, 0), (1, 1)):
            requests.enter_context(raw_request(url, api_key, LONG))
            for _ in until(10):
                if load(url) == running:
                    break
        assert http.post("/v1/chat/completions", json=LONG).status_code == 429
        assert statuses(url) == dict.fromkeys(PROBES, 200)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_a_gateway_whose_loop_was_late_does_not_call_triton_dead(triton: TritonServer) -> None:
    async with engine_on(triton) as engine:
        for late in (0.9, 1.1, 1.5):  # of what a probe waits for
            await asyncio.sleep(PROBE_TIMEOUT + 0.1)  # until Triton's last answer counts no longer
            asyncio.get_running_loop().call_later(0.001, time.sleep, late * PROBE_TIMEOUT)
            await engine.probe()
        assert engine.replicas[0].failing_since is None


@pytest.mark.anyio
@pytest.mark.usefixtures("one_event_loop")
async def test_a_triton_that_does_not_answer_is_found_though_the_loop_is_on_time(start_triton: StartTriton) -> None:
    with start_triton(TINY, slots=1) as triton:
        async with engine_on(triton) as engine:
            await asyncio.sleep(PROBE_TIMEOUT + 0.1)
            os.kill(triton.stub_pids[0], signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(BackendUnavailable, match="does not answer"):
                await engine.probe()
            assert time.monotonic() - began < 2 * PROBE_TIMEOUT
            os.kill(triton.stub_pids[0], signal.SIGCONT)


def test_health_tells_the_version_of_every_model(gateway_url: str) -> None:
    body = httpx.get(f"{gateway_url}/health", timeout=10).json()
    assert body["status"] == "success" and DEMO in body["data"]["models"]
    for model in body["data"]["models"].values():
        assert model.keys() == {"version", "precision", "devices", "running", "waiting", "older"}
        assert model["version"].isdecimal()


def test_probes_need_no_key_and_answer_head(gateway_url: str) -> None:
    for path in PROBES:
        assert httpx.get(gateway_url + path, timeout=10).json()["status"] == "success"
        head = httpx.head(gateway_url + path, timeout=10)
        assert (head.status_code, head.content) == (200, b"")


def test_a_gateway_that_was_told_to_stop_is_not_ready_though_it_still_answers() -> None:
    settings = Settings()
    app = create_app(settings)
    server = Server(app, settings)

    async def ask_while_stopping() -> httpx.Response:
        server.handle_exit(signal.SIGTERM, None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
            return await http.get("/readyz")

    response = asyncio.run(ask_while_stopping())
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The server is stopping."
