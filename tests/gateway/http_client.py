"""What the HTTP tests share: a client with the key, and reading a stream of events."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

CHAT = {"model": "latest_checkpoint.pt", "messages": [{"role": "user", "content": "Hello, world!"}], "max_tokens": 2}


def client(url: str, key: str | None = None) -> httpx.Client:
    return httpx.Client(base_url=url, headers={} if key is None else {"X-API-Key": key}, timeout=60)


def events(response: httpx.Response) -> list[Any]:
    """All events of a finished stream, which must end with [DONE]."""
    parts = response.text.split("\n\n")
    assert parts.pop() == "" and parts[-1] == "data: [DONE]", parts[-2:]
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


def named_events(response: httpx.Response) -> list[Any]:
    """All events of a finished stream of /v1/responses: each named by its type, numbered, and no [DONE]."""
    parts = response.text.split("\n\n")
    assert parts.pop() == "" and "[DONE]" not in response.text
    told = []
    for number, part in enumerate(parts):
        name, data = part.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {told[-1]['type']}" and told[-1].pop("sequence_number") == number
    return told


def load(url: str) -> tuple[int, int]:
    """Running and waiting texts of all models, as /health tells."""
    models = httpx.get(f"{url}/health", timeout=10).json()["data"]["models"].values()
    return sum(model["running"] for model in models), sum(model["waiting"] for model in models)


def until(seconds: float) -> Iterator[None]:
    """Repeats a loop's body until the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
