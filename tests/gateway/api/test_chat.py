"""POST /v1/chat/completions: the documented command, every bound, the shape of every answer."""

import json
import re
import subprocess
import time
from typing import Any

import pytest

from tests.gateway.api.test_parameter_bounds import CHAT_BOUNDS
from tests.gateway.http_client import CHAT, client, events


def documented_curl(url: str, key: str) -> dict[str, Any]:
    body = (
        '{"model": "latest_checkpoint.pt", "messages": [{"role": "user", "content": "Hello, world!"}], '
        '"max_tokens": 100, "temperature": 0.7}'
    )
    command = ["curl", "-sS", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    command += ["-H", f"Authorization: Bearer {key}", "-d", body]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, timeout=60, check=True).stdout)
    return answer


def test_the_documented_curl_command_answers(gateway_url: str, api_key: str) -> None:
    before = int(time.time())
    body = documented_curl(gateway_url, api_key)
    assert re.fullmatch("chatcmpl-[0-9a-f]{24}", body["id"])
    assert body["object"] == "chat.completion" and before <= body["created"] <= time.time()
    assert "system_fingerprint" in body and body["model"]
    (choice,) = body["choices"]
    assert choice["message"].keys() == {"role", "content", "refusal"}
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"] and choice["message"]["refusal"] is None
    assert choice["index"] == 0 and choice["logprobs"] is None and choice["finish_reason"] in ("stop", "length")
    usage = body["usage"]
    assert 1 <= usage["completion_tokens"] <= 100 and usage["prompt_tokens"] > 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_documented_curl_command_answers_without_a_chat_template(tiny_gateway_url: str, api_key: str) -> None:
    body = documented_curl(tiny_gateway_url, api_key)
    assert body["object"] == "chat.completion" and body["choices"][0]["message"]["role"] == "assistant"


def test_without_a_chat_template_the_contents_are_lines(tiny_gateway_url: str, api_key: str) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    with client(tiny_gateway_url, api_key) as http:
        body = {"model": "latest_checkpoint.pt", "max_tokens": 5, "temperature": 0}
        chat = http.post("/v1/chat/completions", json=body | {"messages": messages}).json()
        lines = http.post("/generate", json={"prompt": "Be kind.\nHello", "max_length": 5, "temperature": 0}).json()
        empty = http.post("/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": ""}]})
    assert "Be kind.\nHello" + chat["choices"][0]["message"]["content"] == lines["data"]["generated_text"]
    assert empty.status_code == 400 and empty.json()["error"]["param"] == "messages"


def test_a_text_ends_where_the_context_ends(tiny_gateway_url: str, api_key: str) -> None:
    with client(tiny_gateway_url, api_key) as http:
        context = http.get("/v1/models/latest_checkpoint.pt").json()["context_length"]
        answer = http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1_000_000, "temperature": 0}).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == context


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_without_room_for_an_answer_is_400_before_any_text(tiny_gateway_url: str, api_key: str, stream: bool) -> None:
    with client(tiny_gateway_url, api_key) as http:
        context = http.get("/v1/models/latest_checkpoint.pt").json()["context_length"]
        long = [{"role": "user", "content": "hello " * context}]
        response = http.post("/v1/chat/completions", json=CHAT | {"messages": long, "stream": stream})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert str(context) in error["message"]


@pytest.mark.parametrize(("name", "lowest", "highest", "below", "above"), CHAT_BOUNDS)
def test_every_bound_holds_over_http(gateway_url: str, api_key: str, name, lowest, highest, below, above) -> None:
    with client(gateway_url, api_key) as http:
        for value in (lowest, highest):
            # At its upper bound max_tokens may cost a whole context: the first event is enough there.
            with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True, name: value}) as response:
                assert response.status_code == 200, response.read()
                assert next(response.iter_lines()).startswith('data: {"id":"chatcmpl-')
        for value in (below, above):
            response = http.post("/v1/chat/completions", json=CHAT | {name: value})
            assert response.status_code == 400
            error = response.json()["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["type"], error["param"]) == ("invalid_request_error", name)
            assert error["message"].startswith(f"{name} is ") and "it must be" in error["message"]


def test_an_unknown_model_is_404(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/chat/completions", json=CHAT | {"model": "gpt-4"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("content", "param"), [(b"{", None), (b"[]", None), (b"{}", "model")])
def test_a_bad_body_is_400_and_never_422(gateway_url: str, api_key: str, content: bytes, param: str | None) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("include_usage", [False, True])
def test_the_chunks_have_the_shape_that_clients_expect(tiny_gateway_url: str, api_key: str, include_usage: bool) -> None:
    body = CHAT | {"max_tokens": 8, "temperature": 0}
    streamed = {"stream": True, "stream_options": {"include_usage": include_usage}}
    with client(tiny_gateway_url, api_key) as http:
        http.post("/v1/chat/completions", json=body)  # from here on the cache holds the prompt
        response = http.post("/v1/chat/completions", json=body | streamed)
        whole = http.post("/v1/chat/completions", json=body).json()
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache" and response.headers["X-Accel-Buffering"] == "no"
    chunks = events(response)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    if include_usage:
        last = chunks.pop()
        assert last["choices"] == [] and last["usage"] == whole["usage"]
        assert all(chunk["usage"] is None for chunk in chunks)
    else:
        assert not any("usage" in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert all(choice["finish_reason"] is None and choice["logprobs"] is None for choice in choices[:-1])
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole["choices"][0]["message"]["content"]


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(tiny_gateway_url: str, api_key: str) -> None:
    body = CHAT | {"max_tokens": 24, "temperature": 0}
    with client(tiny_gateway_url, api_key) as http:
        text = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        stop = text[len(text) // 2 :][:3]  # begins and ends inside of tokens, if it must
        for stops in (stop, ["never this", stop]):
            choice = http.post("/v1/chat/completions", json=body | {"stop": stops}).json()["choices"][0]
            assert choice["message"]["content"] == text[: text.index(stop)]
            assert choice["finish_reason"] == "stop"


def test_n_choices_are_written_at_once_and_a_stream_of_them_joins_to_the_same(tiny_gateway_url: str, api_key: str) -> None:
    body = CHAT | {"n": 3, "seed": 4, "temperature": 1.5, "max_tokens": 8}
    with client(tiny_gateway_url, api_key) as http:
        whole = http.post("/v1/chat/completions", json=body).json()
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = events(http.post("/v1/chat/completions", json=body | usage))
        alone = http.post("/v1/chat/completions", json=body | {"n": 1}).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(texts)) == 3 and texts[0] == alone["choices"][0]["message"]["content"]
    assert whole["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert last["choices"] == [] and last["usage"] | {"prompt_tokens_details": {}} == whole["usage"] | {
        "prompt_tokens_details": {}
    }
    for index, text in enumerate(texts):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""} and choices[-1]["delta"] == {}
        assert "".join(choice["delta"].get("content", "") for choice in choices) == text
        assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
        assert choices[-1]["finish_reason"] == whole["choices"][index]["finish_reason"]


def test_log_probabilities_have_the_form_of_openai(gateway_url: str, api_key: str) -> None:
    body = CHAT | {"max_tokens": 6, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    with client(gateway_url, api_key) as http:
        answer = http.post("/v1/chat/completions", json=body).json()
        chunks = events(http.post("/v1/chat/completions", json=body | {"stream": True}))
        none = http.post("/v1/chat/completions", json=body | {"top_logprobs": 0}).json()
    (choice,) = answer["choices"]
    assert choice["logprobs"].keys() == {"content", "refusal"} and choice["logprobs"]["refusal"] is None
    told = choice["logprobs"]["content"]
    end_token = choice["finish_reason"] == "stop"  # is counted, but is no part of the text
    assert len(told) == answer["usage"]["completion_tokens"] - end_token
    assert b"".join(bytes(token["bytes"]) for token in told).decode() == choice["message"]["content"]
    for token in told:
        assert token.keys() == {"token", "logprob", "bytes", "top_logprobs"} and token["logprob"] <= 0
        best, *others = token["top_logprobs"]
        assert len(others) == 2 and best.keys() == {"token", "logprob", "bytes"}
        assert (best["token"], best["logprob"]) == (token["token"], token["logprob"])  # greedy
        assert best["logprob"] >= others[0]["logprob"] >= others[1]["logprob"]
    streamed = [token for chunk in chunks for token in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == told
    assert all(token["top_logprobs"] == [] for token in none["choices"][0]["logprobs"]["content"])


def test_the_usage_tells_what_the_cache_held(tiny_gateway_url: str, api_key: str) -> None:
    body = CHAT | {"messages": [{"role": "user", "content": "A prompt that only this test sends. " * 4}]}
    with client(tiny_gateway_url, api_key) as http:
        first, second = (http.post("/v1/chat/completions", json=body).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    assert 0 < second["prompt_tokens_details"]["cached_tokens"] < second["prompt_tokens"]
    assert second["completion_tokens_details"] == {"reasoning_tokens": 0}


@pytest.mark.parametrize("name", ["logit_bias", "response_format"])
def test_what_only_the_model_can_refuse_is_a_400_before_any_text(gateway_url: str, api_key: str, name: str) -> None:
    wrong = {"logit_bias": {"999999": 1}, "response_format": {"type": "regex", "regex": "(a"}}[name]
    with client(gateway_url, api_key) as http:
        for stream in (False, True):
            response = http.post("/v1/chat/completions", json=CHAT | {name: wrong, "stream": stream})
            assert (response.status_code, response.json()["error"]["param"]) == (400, name)


def test_a_format_is_kept(gateway_url: str, api_key: str) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
    formats: dict[str, dict[str, Any]] = {
        r"\{\s*\"age\"\s*:\s*-?\d+\s*\}": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        r"[0-9]{3}-[a-f]{2}": {"type": "regex", "regex": "[0-9]{3}-[a-f]{2}"},
        r"(yes|no)": {"type": "grammar", "grammar": 'start: "yes" | "no"'},
    }
    with client(gateway_url, api_key) as http:
        for pattern, form in formats.items():
            body = CHAT | {"max_tokens": 60, "temperature": 2.0, "response_format": form}
            answer = http.post("/v1/chat/completions", json=body).json()
            assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"]), answer
        body = CHAT | {"max_tokens": 60, "temperature": 2.0, "response_format": {"type": "json_object"}}
        answer = http.post("/v1/chat/completions", json=body).json()
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"]), dict)


def test_the_usage_may_come_with_every_event(tiny_gateway_url: str, api_key: str) -> None:
    """As GuideLLM and aiperf ask for it."""
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": False}
    body = CHAT | {"max_tokens": 6, "n": 2, "stream": True, "stream_options": options, "ignore_eos": True}
    with client(tiny_gateway_url, api_key) as http:
        chat = events(http.post("/v1/chat/completions", json=body))
        prompt = {name: value for name, value in body.items() if name != "messages"} | {"prompt": "The king"}
        completion = events(http.post("/v1/completions", json=prompt))
        alone = body | {"stream_options": {"continuous_usage_stats": True}}
        without_end = events(http.post("/v1/chat/completions", json=alone))
    for told in (chat, completion):
        counts = [event["usage"]["completion_tokens"] for event in told]
        assert counts == sorted(counts) and counts[-1] == 12
        assert len({event["usage"]["prompt_tokens"] for event in told}) == 1
        assert all(
            event["usage"]["total_tokens"] == event["usage"]["prompt_tokens"] + count
            for event, count in zip(told, counts, strict=True)
        )
        assert told[-1]["choices"] == [] and told[-2]["usage"]["completion_tokens"] == 12
    assert without_end[-1]["choices"] and without_end[-1]["usage"]["completion_tokens"] == 12


def test_what_earlier_answers_and_other_servers_have_in_a_message_changes_nothing(tiny_gateway_url: str, api_key: str) -> None:
    cached = {"type": "text", "text": "Hello, world!", "cache_control": {"type": "ephemeral"}, "annotations": []}
    empty: dict[str, Any] = {"tool_calls": [], "annotations": [], "function_call": None, "refusal": None, "audio": None}
    empty |= {"reasoning_content": "", "cache_control": {"type": "ephemeral"}}
    plain = CHAT | {"temperature": 0, "messages": [*CHAT["messages"], {"role": "assistant", "content": "Yes."}]}
    with client(tiny_gateway_url, api_key) as http:
        told = http.post("/v1/chat/completions", json=plain).json()
        for nothing in (empty, dict.fromkeys(empty)):
            messages = [{"role": "user", "content": [cached]}, {"role": "assistant", "content": "Yes."} | nothing]
            answer = http.post("/v1/chat/completions", json=plain | {"messages": messages}).json()
            assert answer["choices"] == told["choices"]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "text", "text": "a", "weight": 1}, '[1] has "weight"'),
        ({"type": "image_url", "image_url": {"url": "x"}}, '[1].type is "image_url"'),
        ({"type": "text"}, "[1].text is missing"),
        ({"type": "text", "text": 5}, "[1].text is no string"),
        ("a", "[1] is no object"),
    ],
)
def test_the_error_names_what_is_wrong_in_a_part(tiny_gateway_url: str, api_key: str, part: Any, named: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, part]}
    with client(tiny_gateway_url, api_key) as http:
        error = http.post("/v1/chat/completions", json=CHAT | {"messages": [message]}).json()["error"]
    assert error["param"] == "messages[0].content"
    assert "it must be a string or a list of text parts" in error["message"]
    assert error["message"].endswith(f"; messages[0].content{named}.")
