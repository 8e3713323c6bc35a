"""The same unusual prompts on every generating route: each has a defined answer."""

import json
from typing import Any

import pytest

from tests.gateway.http_client import client

MODEL = {"model": "latest_checkpoint.pt", "temperature": 0}
EMOJI = "😀" * 250_000  # a megabyte


def body(path: str, prompt: str, tokens: int, stream: bool = False) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {
        "/generate": {"prompt": prompt, "max_length": min(tokens, 512)},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens},
        "/v1/completions": {"prompt": prompt, "max_tokens": tokens},
        "/v1/responses": {"input": prompt, "max_output_tokens": tokens},
    }
    return MODEL | fields[path] | {"stream": stream}


PATHS = ["/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses"]
FIELDS = dict(zip(PATHS, ["prompt", "messages", "prompt", "input"], strict=True))


def code_of(path: str, error: dict[str, Any]) -> str | None:
    """Of /generate's envelope, which has none, the type."""
    return error["type"] if path == "/generate" else error["code"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prompt", ["hello " * 3000, EMOJI], ids=["long", "a megabyte of emoji"])
def test_a_prompt_longer_than_the_context_is_400_before_the_stream(
    gateway_url: str, api_key: str, path: str, prompt: str, stream: bool
) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post(path, content=_utf8(body(path, prompt, 1, stream)), headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text[:200]
    error = response.json()["error"]
    assert code_of(path, error) == ("validation_error" if path == "/generate" else "context_length_exceeded")
    assert error["message"].startswith(f"{FIELDS[path]} has ") and "context holds 2048" in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_an_empty_prompt_is_400_and_names_its_field(tiny_gateway_url: str, api_key: str, path: str) -> None:
    with client(tiny_gateway_url, api_key) as http:
        response = http.post(path, json=body(path, "", 1))
    assert response.status_code == 400 and response.json()["error"]["message"].startswith(FIELDS[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prompt", ["<|endoftext|>", "<|endoftext|>" * 3, "\x00\x01\x1b[31m\x7f\u0085\u2028", "\n", " "])
def test_special_tokens_and_control_characters_are_prompts_like_any_other(
    tiny_gateway_url: str, api_key: str, path: str, prompt: str
) -> None:
    with client(tiny_gateway_url, api_key) as http:
        assert http.post(path, json=body(path, prompt, 2)).status_code == 200
        response = http.post(path, json=body(path, prompt, 2, stream=True))
    assert response.status_code == 200 and '"error":{' not in response.text
    assert not set(response.text) & set("\u0085\u2028\u2029")


@pytest.mark.parametrize("path", PATHS)
def test_half_of_a_surrogate_pair_is_400(gateway_url: str, api_key: str, path: str) -> None:
    with client(gateway_url, api_key) as http:
        for half in ("\\ud800", "\\udc00", "a\\ud83d"):
            content = _utf8(body(path, "HALF", 1)).replace(b"HALF", half.encode())
            response = http.post(path, content=content, headers={"Content-Type": "application/json"})
            assert response.status_code == 400 and "not valid JSON" in response.json()["error"]["message"]
        pair = _utf8(body(path, "PAIR", 1)).replace(b"PAIR", rb"\ud83d\ude00")
        assert http.post(path, content=pair, headers={"Content-Type": "application/json"}).status_code == 200


@pytest.mark.parametrize("path", PATHS[1:])
def test_more_tokens_than_the_context_holds_end_where_it_ends(tiny_gateway_url: str, api_key: str, path: str) -> None:
    asked = body(path, "hello " * 1000, 1_000_000) | {"ignore_eos": True}
    with client(tiny_gateway_url, api_key) as http:
        context = http.get("/v1/models/latest_checkpoint.pt").json()["context_length"]
        answer = http.post(path, json=asked).json()
    assert answer["usage"]["total_tokens"] == context
    if path == "/v1/responses":
        assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    else:
        assert answer["choices"][0]["finish_reason"] == "length"


def _utf8(fields: dict[str, Any]) -> bytes:
    """Characters as they are: escaped, a megabyte would be three."""
    return json.dumps(fields, ensure_ascii=False).encode()
