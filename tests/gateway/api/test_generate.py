"""POST /generate, as it is documented."""

import json
import subprocess
from typing import Any

import pytest

from gateway.api.schemas import LARGEST_TOP_K
from tests.gateway.api.test_parameter_bounds import GENERATE_BOUNDS
from tests.gateway.http_client import client, events

PROMPT = "你好，世界"


def test_the_documented_curl_command_answers(gateway_url: str, api_key: str) -> None:
    command = ["curl", "-sS", "-X", "POST", f"{gateway_url}/generate", "-H", "Content-Type: application/json"]
    command += [
        "-H",
        f"X-API-Key: {api_key}",
        "-d",
        '{"prompt": "你好，世界", "max_length": 50, "temperature": 0.7, "top_k": 50}',
    ]
    body = json.loads(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
    assert body.keys() == {"status", "data"} and body["status"] == "success"
    assert body["data"].keys() == {"prompt", "generated_text"}
    assert body["data"]["prompt"] == PROMPT
    assert body["data"]["generated_text"].startswith(PROMPT)
    assert len(body["data"]["generated_text"]) > len(PROMPT)


@pytest.mark.parametrize(("name", "lowest", "highest", "below", "above"), GENERATE_BOUNDS)
def test_every_bound_holds_over_http(gateway_url: str, api_key: str, name, lowest, highest, below, above) -> None:
    with client(gateway_url, api_key) as http:
        for value in (lowest, highest):
            # At its upper bound max_length may cost 512 tokens: the end of the stream's first piece is enough there.
            body = {"prompt": PROMPT, "max_length": 1, "stream": True} | {name: value}
            with http.stream("POST", "/generate", json=body) as response:
                assert response.status_code == 200, response.read()
                assert next(response.iter_lines()).startswith('data: {"status":"success"')
        for value in (below, above):
            response = http.post("/generate", json={"prompt": PROMPT, "max_length": 1} | {name: value})
            assert response.status_code == 400
            error = response.json()["error"]
            assert response.json() == {"status": "error", "error": {"type": "validation_error", "message": error["message"]}}
            assert error["message"].startswith(f"{name} is ") and "it must be" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": 5},
        {"prompt": "a", "max_length": "5"},
        {"prompt": "a", "max_length": True},
        {"prompt": "a", "temperature": "0.7"},
        {"prompt": "a", "max_tokens": 5},
        {"prompt": "a", "top_k": 1.5},
    ],
)
def test_what_does_not_validate_is_a_validation_error(gateway_url: str, api_key: str, body: dict[str, Any]) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/generate", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "validation_error")


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b'{"prompt": "a"', "application/json"),
        (b'["a"]', "application/json"),
        (b'{"prompt": "\xff"}', "application/json"),
        (b"prompt=a", "application/x-www-form-urlencoded"),
        (b'{"prompt": "a"}', "text/plain"),
    ],
)
def test_what_is_no_json_object_is_an_invalid_request(
    gateway_url: str, api_key: str, content: bytes, content_type: str
) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/generate", content=content, headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request")


@pytest.mark.parametrize("declared", [True, False], ids=["with Content-Length", "chunked"])
def test_a_body_beyond_a_mebibyte_is_413(gateway_url: str, api_key: str, declared: bool) -> None:
    body = json.dumps({"prompt": "a" * (1 << 20)}).encode()
    with client(gateway_url, api_key) as http:
        response = http.post(
            "/generate",
            content=body if declared else iter([body[:1000], body[1000:]]),
            headers={"Content-Type": "application/json"},
        )
    assert (response.status_code, response.json()["error"]["type"]) == (413, "invalid_request")
    assert "1048576 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_without_room_for_an_answer_is_400_before_any_text(gateway_url: str, api_key: str, stream: bool) -> None:
    with client(gateway_url, api_key) as http:
        context = http.get("/v1/models/latest_checkpoint.pt").json()["context_length"]
        response = http.post("/generate", json={"prompt": "hello " * context, "stream": stream})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "validation_error")
    assert str(context) in response.json()["error"]["message"]


def test_the_stream_and_the_whole_answer_are_the_same_text(tiny_gateway_url: str, api_key: str) -> None:
    body = {"prompt": "The sea is", "max_length": 24, "temperature": 0.9, "seed": 7}
    with client(tiny_gateway_url, api_key) as http:
        whole = http.post("/generate", json=body).json()["data"]["generated_text"]
        response = http.post("/generate", json=body | {"stream": True})
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache" and response.headers["X-Accel-Buffering"] == "no"
    *pieces, last = [event["data"] for event in events(response)]
    assert "The sea is" + "".join(piece["text"] for piece in pieces) == whole
    assert all(piece.keys() == {"text"} and piece["text"] for piece in pieces)
    assert last["text"] == "" and last["finish_reason"] in ("length", "stop")
    usage = last["usage"]
    assert 1 <= usage["completion_tokens"] <= 24 and usage["prompt_tokens"] >= 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_max_length_counts_new_tokens(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post(
            "/generate", json={"prompt": "One, two, three, four,", "max_length": 5, "temperature": 0, "stream": True}
        )
    assert events(response)[-1]["data"]["usage"]["completion_tokens"] == 5


def test_top_k_of_one_is_greedy(tiny_gateway_url: str, api_key: str) -> None:
    body = {"prompt": "The capital of France is", "max_length": 8}
    with client(tiny_gateway_url, api_key) as http:
        greedy = http.post("/generate", json=body | {"temperature": 0, "top_k": LARGEST_TOP_K}).json()
        one = http.post("/generate", json=body | {"temperature": 2.0, "top_k": 1}).json()
    assert greedy == one


def test_a_seed_gives_the_same_text_and_no_seed_another(tiny_gateway_url: str, api_key: str) -> None:
    body = {"prompt": "Once upon a time", "max_length": 24, "temperature": 1.5}
    with client(tiny_gateway_url, api_key) as http:
        seeded = {http.post("/generate", json=body | {"seed": 11}).text for _ in range(2)}
        free = {http.post("/generate", json=body).text for _ in range(2)}
    assert len(seeded) == 1 and len(free) == 2


def test_the_text_begins_with_the_prompt_byte_for_byte(tiny_gateway_url: str, api_key: str) -> None:
    with client(tiny_gateway_url, api_key) as http:
        for prompt in (
            "  two spaces ",
            "tab\tand\r\nnewlines\n",
            "e\u0301 \u00e9",
            "<|endoftext|>a<|endoftext|>",
            "\x00\x7f",
            "👩‍👩‍👧",
        ):
            data = http.post("/generate", json={"prompt": prompt, "max_length": 2}).json()["data"]
            assert data["prompt"] == prompt and data["generated_text"].startswith(prompt)


def test_every_sampling_parameter_means_what_it_means_in_chat(tiny_gateway_url: str, api_key: str) -> None:
    body = {"prompt": "The sea is", "max_length": 16, "temperature": 1.3, "seed": 5}
    with client(tiny_gateway_url, api_key) as http:
        plain = http.post("/generate", json=body).json()["data"]["generated_text"].removeprefix("The sea is")
        for fields in (
            {"top_p": 0.3},
            {"min_p": 0.5},
            {"top_k": 2},
            {"presence_penalty": 2.0},
            {"frequency_penalty": -2.0},
            {"repetition_penalty": 5.0},
            {"logit_bias": {"262": 100}},
        ):
            asked = {"model": "latest_checkpoint.pt", "prompt": "The sea is", "max_tokens": 16, "top_p": 1.0}
            asked |= {"temperature": 1.3, "seed": 5}
            there = http.post("/v1/completions", json=asked | fields).json()["choices"][0]["text"]
            here = http.post("/generate", json=body | fields).json()["data"]["generated_text"].removeprefix("The sea is")
            assert here == there != plain, fields


def test_a_model_can_be_named(gateway_url: str, api_key: str) -> None:
    body = {"prompt": "The sea is", "max_length": 4, "temperature": 0}
    with client(gateway_url, api_key) as http:
        default = http.post("/generate", json=body).json()
        other = http.post("/generate", json=body | {"model": "tiny-gpt2"}).json()
        unknown = http.post("/generate", json=body | {"model": "gpt-4"})
    assert default != other
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "invalid_request")


def test_a_text_has_at_least_min_tokens_and_none_of_its_stop_strings(tiny_gateway_url: str, api_key: str) -> None:
    body = {"prompt": "The sea is", "max_length": 12, "temperature": 0, "stream": True}
    with client(tiny_gateway_url, api_key) as http:
        whole = "".join(event["data"]["text"] for event in events(http.post("/generate", json=body)))
        stop = whole[:1]
        early = events(http.post("/generate", json=body | {"stop": stop}))
        late = events(http.post("/generate", json=body | {"stop": stop, "min_tokens": 12}))
    assert [event["data"]["text"] for event in early] == [""] and early[-1]["data"]["finish_reason"] == "stop"
    assert late[-1]["data"]["usage"]["completion_tokens"] == 12
