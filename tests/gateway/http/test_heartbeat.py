"""A stream stays open while Triton is silent: comments come, which no client takes for text, and then the rest of the text."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from testing.gateway import Gateway
from testing.triton import Triton
from tests.conftest import TINY

COMMENT = ": keep-alive"
HEARTBEAT = 0.1  # seconds
SILENCE = 0.6  # seconds: Triton itself ends when its model process stands still for more than one
LONG = {"model": "latest_checkpoint.pt", "temperature": 0, "ignore_eos": True, "stream": True}
ROUTES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "The king", "max_length": 500, "temperature": 0, "ignore_eos": True, "stream": True},
    "/v1/completions": LONG | {"prompt": "The king", "max_tokens": 500},
    "/v1/responses": LONG | {"input": "The king", "max_output_tokens": 500},
}


@pytest.fixture(scope="module")
def own_triton(model_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with Triton(model_repository, tmp_path_factory.mktemp("triton"), [TINY], slots=2) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(own_triton: Triton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with Gateway(
        own_triton.grpc_address, log, f"gateway.http.streaming.HEARTBEAT = {HEARTBEAT}", MODEL_NAME=TINY, RUN_AHEAD="off"
    ) as started:
        yield started


@contextmanager
def stalled(triton: Triton) -> Iterator[None]:
    """Its model process stands still for SILENCE seconds."""
    stubs = triton.stub_pids
    assert stubs
    for pid in stubs:
        os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in stubs:
            os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(SILENCE, go_on)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def events(lines: list[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def text(told: list[Any]) -> str:
    """Of the events of any of the three routes."""
    pieces = [event["data"]["text"] for event in told if "data" in event]
    pieces += [choice["text"] for event in told for choice in event.get("choices", ())]
    return "".join(pieces + [event["delta"] for event in told if event.get("type") == "response.output_text.delta"])


def stream(url: str, key: str, path: str, at_first: Callable[[], Any]) -> list[str]:
    """All lines; ``at_first`` runs when the first piece of text has come."""
    lines: list[str] = []
    with httpx.stream("POST", url + path, json=ROUTES[path], headers={"X-API-Key": key}, timeout=60) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if not text(events(lines)) and text(events([line])):
                at_first()
            lines.append(line)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_silent_triton_makes_comments_and_the_text_goes_on_whole(
    own_triton: Triton, gateway: Gateway, api_key: str, path: str
) -> None:
    undisturbed = stream(gateway.url, api_key, path, lambda: None)
    with ExitStack() as stall:
        lines = stream(gateway.url, api_key, path, lambda: stall.enter_context(stalled(own_triton)))
    assert lines.count(COMMENT) >= 3
    assert all(lines[number + 1] == "" for number, line in enumerate(lines) if line == COMMENT)
    assert len(text(events(undisturbed))) > 100
    assert text(events(lines)) == text(events(undisturbed))


def test_clients_of_openai_read_through_the_comments(own_triton: Triton, gateway: Gateway, api_key: str) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key, max_retries=0)

    def completion() -> Iterator[str]:
        made = client.completions.create(
            model=TINY, prompt="The king", max_tokens=120, temperature=0, extra_body={"ignore_eos": True}, stream=True
        )
        for chunk in made:
            yield chunk.choices[0].text

    def response() -> Iterator[str]:
        made = client.responses.create(
            model=TINY, input="The king", max_output_tokens=120, temperature=0, extra_body={"ignore_eos": True}, stream=True
        )
        for event in made:
            if event.type == "response.output_text.delta":
                yield event.delta

    for run in (completion, response):
        expected = "".join(run())
        pieces = run()
        first = next(pieces)
        with stalled(own_triton):
            assert first + "".join(pieces) == expected


def test_restart_of_triton_in_mid_stream_is_bridged_by_comments(
    start_triton: Callable[..., AbstractContextManager[Triton]], tmp_path: Path, api_key: str
) -> None:
    with (
        start_triton(TINY, slots=2) as triton,
        Gateway(
            triton.grpc_address,
            tmp_path / "log",
            f"gateway.http.streaming.HEARTBEAT = {HEARTBEAT}",
            MODEL_NAME=TINY,
            RUN_AHEAD="off",
        ) as gateway,
    ):
        undisturbed = stream(gateway.url, api_key, "/generate", lambda: None)
        restart = threading.Thread(target=lambda: (triton.start(), triton.wait_ready(60)))

        def kill() -> None:
            os.kill(triton.pid, signal.SIGKILL)
            restart.start()

        lines = stream(gateway.url, api_key, "/generate", kill)
        restart.join()
    assert lines.count(COMMENT) >= 2
    assert text(events(lines)) == text(events(undisturbed))
