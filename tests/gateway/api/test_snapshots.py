"""Every envelope and every event, whole, as a client receives it: the files of snapshots/.

Ids, times, fingerprints and figures that depend on the run are replaced by words; texts are greedy ones of the tiny model, and
a stream is of one token, since a client that reads late may get several at once. After a change that is meant:
`UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/gateway/api/test_snapshots.py`, and read the difference.
"""

import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.http.error_responses import error_body
from serve.triton_server import TritonServer
from tests.conftest import DEMO, ROOT, TINY, gateway_process
from tests.gateway.http_client import client

SNAPSHOTS = Path(__file__).parent / "snapshots"
TOLERANCE = 1e-3  # of log-probabilities: processors differ in the last bits
WORDS = {
    "id": "<id>", "item_id": "<id>", "created": "<time>", "created_at": "<time>", "completed_at": "<time>",
    "system_fingerprint": "<fingerprint>", "cached_tokens": "<count>", "version": "<version>", "request_id": "<id>",
    "running": "<count>", "waiting": "<count>",
}  # fmt: skip
PROMPT = {"prompt": "The quick brown fox", "temperature": 0}
MODEL = {"model": "latest_checkpoint.pt", "temperature": 0}
CHAT = MODEL | {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
COMPLETION = MODEL | PROMPT | {"max_tokens": 1}
MESSAGE = CHAT
RESPONSE = MODEL | {"input": "Hello", "max_output_tokens": 1}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
SCHEMA = {"name": "yes", "schema": {"const": "yes"}}
JSON_FORM, TEXT_FORM = {"type": "json_schema", "json_schema": SCHEMA}, {"type": "json_schema"} | SCHEMA
LONG = [{"role": "user", "content": "hello " * 2000}]

Case = tuple[str, str, dict[str, Any] | None]
CASES: dict[str, Case] = {
    "generate": ("POST", "/generate", PROMPT | {"max_length": 1}),
    "generate_stream": ("POST", "/generate", PROMPT | {"max_length": 1, "stream": True}),
    "chat": ("POST", "/v1/chat/completions", CHAT),
    "chat_n_logprobs": ("POST", "/v1/chat/completions", CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2}),
    "chat_json_schema": ("POST", "/v1/chat/completions", CHAT | {"response_format": JSON_FORM, "max_tokens": 8}),
    "chat_stream": ("POST", "/v1/chat/completions", CHAT | {"stream": True}),
    "chat_stream_usage_logprobs": ("POST", "/v1/chat/completions", CHAT | USAGE | {"logprobs": True, "top_logprobs": 1}),
    "completion": ("POST", "/v1/completions", COMPLETION),
    "completion_several": ("POST", "/v1/completions", COMPLETION | {"prompt": ["Once", "The"]}),
    "completion_echo_logprobs": ("POST", "/v1/completions", COMPLETION | {"echo": True, "logprobs": 2}),
    "completion_scored": ("POST", "/v1/completions", COMPLETION | {"echo": True, "logprobs": 0, "max_tokens": 0}),
    "completion_stream": ("POST", "/v1/completions", COMPLETION | {"stream": True}),
    "completion_stream_usage_echo_logprobs": ("POST", "/v1/completions", COMPLETION | USAGE | {"echo": True, "logprobs": 1}),
    "response": ("POST", "/v1/responses", RESPONSE),
    "response_logprobs": ("POST", "/v1/responses", RESPONSE | {"include": ["message.output_text.logprobs"], "top_logprobs": 1}),
    "response_json_schema": (
        "POST",
        "/v1/responses",
        RESPONSE | {"max_output_tokens": 8, "text": {"format": TEXT_FORM}},
    ),
    "response_stream": ("POST", "/v1/responses", RESPONSE | {"stream": True}),
    "message": ("POST", "/v1/messages", MESSAGE),
    "message_stream": ("POST", "/v1/messages", MESSAGE | {"stream": True}),
    "message_tokens": ("POST", "/v1/messages/count_tokens", {"model": MODEL["model"], "messages": CHAT["messages"]}),
    "models": ("GET", "/v1/models", None),
    "model": ("GET", "/v1/models/latest_checkpoint.pt", None),
    "about": ("GET", "/v1", None),
    "health": ("GET", "/health", None),
    "readyz": ("GET", "/readyz", None),
    "livez": ("GET", "/livez", None),
    "tokenize": ("POST", "/tokenize", {"prompt": "The quick brown fox", "return_token_strs": True}),
    "detokenize": ("POST", "/detokenize", {"tokens": [464, 2068]}),
    "error_body_generate": ("POST", "/generate", {}),
    "error_body_openai": ("POST", "/v1/chat/completions", {}),
    "error_field_generate": ("POST", "/generate", PROMPT | {"max_length": 513}),
    "error_field_openai": ("POST", "/v1/chat/completions", CHAT | {"messages": [{"role": "robot", "content": "a"}]}),
    "error_unknown_field": ("POST", "/v1/completions", COMPLETION | {"suffix": "a"}),
    "error_context_generate": ("POST", "/generate", PROMPT | {"prompt": "hello " * 2000}),
    "error_context_openai": ("POST", "/v1/chat/completions", CHAT | {"messages": LONG}),
    "error_context_stream": ("POST", "/v1/responses", RESPONSE | {"input": "hello " * 2000, "stream": True}),
    "error_context_anthropic": ("POST", "/v1/messages", CHAT | {"messages": LONG, "stream": True}),
    "error_field_anthropic": ("POST", "/v1/messages", CHAT | {"temperature": 2}),
    "error_method_anthropic": ("GET", "/v1/messages", None),
    "error_grammar": ("POST", "/v1/chat/completions", CHAT | {"response_format": {"type": "regex", "regex": "("}}),
    "error_model": ("POST", "/v1/chat/completions", CHAT | {"model": "gpt-4"}),
    "error_model_generate": ("POST", "/generate", PROMPT | {"model": "gpt-4"}),
    "error_path": ("GET", "/nothing", None),
    "error_path_openai": ("GET", "/v1/nothing", None),
    "error_method": ("GET", "/generate", None),
    "error_method_openai": ("DELETE", "/v1/models", None),
}  # fmt: skip


def neutral(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: WORDS[name] if name in WORDS and inner is not None and inner not in (TINY, DEMO) and not is_model(value, name)
            else neutral(inner)
            for name, inner in value.items()
        }  # fmt: skip
    return [neutral(inner) for inner in value] if isinstance(value, list) else value


def is_model(value: dict[str, Any], name: str) -> bool:
    return name == "id" and value.get("object") == "model"


def received(response: Any) -> dict[str, Any]:
    """An answer's status, content type, and body or events; named events with their names."""
    seen: dict[str, Any] = {"status": response.status_code, "content_type": response.headers["content-type"]}
    if not seen["content_type"].startswith("text/event-stream"):
        body = neutral(json.loads(re.sub(r"again in \d+s", "again in <seconds>s", response.text)))
        return seen | {"body": body}
    events = []
    for part in response.text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in part.split("\n"))
        data = fields.pop("data")
        events.append(fields | {"data": data if data == "[DONE]" else neutral(json.loads(data))})
    return seen | {"events": events}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE
    return type(one) is type(other) and bool(one == other)


def check(name: str, seen: Any) -> None:
    """Fails with a readable difference; rewrites the file where that is asked."""
    file = SNAPSHOTS / f"{name}.json"
    text = json.dumps(seen, indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        SNAPSHOTS.mkdir(exist_ok=True)
        if not file.exists() or not same(json.loads(file.read_text()), seen):
            file.write_text(text)
        return
    assert file.exists(), f"{file.name} is missing; UPDATE_SNAPSHOTS=1 makes it"
    if not same(json.loads(file.read_text()), seen):
        lines = difflib.unified_diff(file.read_text().splitlines(), text.splitlines(), file.name, "now", lineterm="")
        pytest.fail("\n".join(lines), pytrace=False)


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_what_it_was(tiny_gateway_url: str, api_key: str, name: str) -> None:
    method, path, body = CASES[name]
    with client(tiny_gateway_url, api_key) as http:
        check(name, received(http.request(method, path, json=body)))


@pytest.mark.parametrize(("name", "path"), [("generate", "/generate"), ("openai", "/v1/chat/completions")])
def test_a_refused_key_is_told_as_it_was(tiny_gateway_url: str, name: str, path: str) -> None:
    with client(tiny_gateway_url) as http:
        check(f"error_key_{name}", received(http.post(path, json={})))


@pytest.mark.parametrize(("name", "path"), [("generate", "/generate"), ("openai", "/v1/chat/completions")])
def test_a_body_that_is_no_object_or_too_large_is_told_as_it_was(
    tiny_gateway_url: str, api_key: str, name: str, path: str
) -> None:
    with client(tiny_gateway_url, api_key) as http:
        check(f"error_no_json_{name}", received(http.post(path, content=b"{")))
        check(f"error_no_object_{name}", received(http.post(path, content=b"[]")))
        check(f"error_large_{name}", received(http.post(path, content=b" " * (1 << 20) + b"{}")))


@pytest.fixture(scope="module")
def limited(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway and a key for two requests a minute, of the tiny model only."""
    directory = tmp_path_factory.mktemp("limited")
    command = [sys.executable, "-m", "gateway.keys", "create", "alice", "--file", str(directory / "keys.json")]
    command += ["--requests-per-minute", "2", "--tokens-per-minute", "500", "--model", TINY]
    key = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    environment = {"MODEL_NAME": TINY, "API_KEYS_FILE": str(directory / "keys.json")}
    with gateway_process(triton.grpc_address, directory / "log", **environment) as address:
        yield address, key


def test_what_a_key_may_not_is_told_as_it_was(limited: tuple[str, str]) -> None:
    with client(*limited) as http:
        check("error_model_not_allowed", received(http.post("/v1/chat/completions", json=CHAT | {"model": DEMO})))
        check("error_tokens_never_fit", received(http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 600})))
        for _ in range(3):
            openai, generate = (http.post(path, json={}) for path in ("/v1/chat/completions", "/generate"))
        check("error_limit_openai", received(openai))
        check("error_limit_generate", received(generate))


def test_every_error_there_is_has_its_three_bodies() -> None:
    """Those that no test can cause at will among them."""
    from tests.gateway.http.test_errors import TABLE

    bodies = {
        f"{type(error).__name__}{' with a field' if error.param else ''}": {
            "status": error.status, "/generate": error_body(error, "/generate"), "/v1": error_body(error, "/v1/models"),
            "/v1/messages": error_body(error, "/v1/messages"),
        }
        for error, *_ in TABLE
    }  # fmt: skip
    check("errors", bodies)


def test_every_snapshot_is_of_a_case() -> None:
    source = Path(__file__).read_text()
    families = ("error_key_", "error_no_json_", "error_no_object_", "error_large_")
    for file in SNAPSHOTS.glob("*.json"):
        assert file.stem in CASES or f'"{file.stem}"' in source or file.stem.startswith(families), (
            f"{file.name} belongs to no test"
        )
