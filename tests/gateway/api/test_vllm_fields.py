"""What clients of vLLM ask for on OpenAI's routes: token ids, log-probabilities of a prompt, answers of no given length."""

import json
from typing import Any

import pytest

from tests.gateway.http_client import client, events

MODEL = {"model": "latest_checkpoint.pt", "temperature": 0}
CHAT = MODEL | {"messages": [{"role": "user", "content": "Hello"}]}
COMPLETION = MODEL | {"prompt": ["One, two, three,", "The sea"], "n": 2}


def post(url: str, key: str, path: str, body: dict[str, Any]) -> Any:
    with client(url, key) as http:
        response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return events(response) if body.get("stream") else response.json()


def test_token_ids_of_an_answer_are_those_that_its_usage_counts_whole_and_streamed(gateway_url: str, api_key: str) -> None:
    asked = CHAT | {"return_token_ids": True, "n": 2, "max_tokens": 60}  # the model ends its greeting before
    whole = post(gateway_url, api_key, "/v1/chat/completions", asked)
    assert {choice["finish_reason"] for choice in whole["choices"]} == {"stop"}
    with client(gateway_url, api_key) as http:
        prompt = http.post("/tokenize", json={"messages": CHAT["messages"]}).json()["tokens"]
        texts = [http.post("/detokenize", json={"tokens": one["token_ids"]}).json()["prompt"] for one in whole["choices"]]
    assert whole["prompt_token_ids"] == prompt
    assert texts == [f"{one['message']['content']}<|im_end|>" for one in whole["choices"]]  # the token that ended it too
    assert sum(len(one["token_ids"]) for one in whole["choices"]) == whole["usage"]["completion_tokens"]
    first, *chunks = post(gateway_url, api_key, "/v1/chat/completions", asked | {"stream": True})
    assert first["prompt_token_ids"] == prompt and not any("prompt_token_ids" in chunk for chunk in chunks)
    for index, one in enumerate(whole["choices"]):
        pieces = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [token for piece in pieces for token in piece.get("token_ids", [])] == one["token_ids"]


def test_each_answer_to_a_prompt_has_its_own_token_ids(gateway_url: str, api_key: str) -> None:
    asked = COMPLETION | {"temperature": 1, "seed": 3, "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
    choices = post(gateway_url, api_key, "/v1/completions", asked)["choices"]
    with client(gateway_url, api_key) as http:
        prompts = [http.post("/tokenize", json={"prompt": prompt}).json()["tokens"] for prompt in COMPLETION["prompt"]]
        texts = [http.post("/detokenize", json={"tokens": one["token_ids"]}).json()["prompt"] for one in choices]
    assert [one["prompt_token_ids"] for one in choices] == [prompts[0], prompts[0], prompts[1], prompts[1]]
    assert [one["text"] for one in choices] == [text.replace("<|im_end|>", "") for text in texts]
    assert len({tuple(one["token_ids"]) for one in choices}) == 4
    pieces = [event["choices"][0] for event in post(gateway_url, api_key, "/v1/completions", asked | {"stream": True})]
    for index, one in enumerate(choices):
        first, *others = [piece for piece in pieces if piece["index"] == index]
        assert first["prompt_token_ids"] == one["prompt_token_ids"]
        assert not any("prompt_token_ids" in piece for piece in others)
        assert sum((piece["token_ids"] for piece in others), first["token_ids"]) == one["token_ids"]


def test_log_probabilities_of_a_prompt_are_those_of_its_echo_with_ranks(gateway_url: str, api_key: str) -> None:
    asked = MODEL | {"prompt": "One, two, three,", "max_tokens": 1, "prompt_logprobs": 7, "return_token_ids": True}
    (choice,) = post(gateway_url, api_key, "/v1/completions", asked | {"echo": True, "logprobs": 2})["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None and len(others) == len(choice["prompt_token_ids"]) - 1 > 3
    echoed = choice["logprobs"]["token_logprobs"][1 : len(others) + 1]
    for token, position, logprob in zip(choice["prompt_token_ids"][1:], others, echoed, strict=True):
        own, *top = position.values()
        assert next(iter(position)) == str(token) and own["logprob"] == logprob
        ranks = [one["rank"] for one in top]
        assert sorted({*ranks, own["rank"]})[:7] == list(range(1, 8)) and len(position) == (7 if own["rank"] <= 7 else 8)
        logprobs = [one["logprob"] for one in sorted(position.values(), key=lambda one: one["rank"])]
        assert logprobs == sorted(logprobs, reverse=True)
    assert max(len(top) for top in choice["logprobs"]["top_logprobs"][1:]) <= 3  # echo's own are as many as it asked for
    chat = post(gateway_url, api_key, "/v1/chat/completions", CHAT | {"prompt_logprobs": 0, "max_tokens": 1})
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"] and len(chat["prompt_logprobs"][5]) == 1


def test_more_log_probabilities_than_are_returned_are_refused_by_the_field_that_asks_for_them(
    gateway_url: str, api_key: str
) -> None:
    for fields, param in (
        ({"prompt_logprobs": 20, "max_tokens": 1, "n": 128, "prompt": "one two three " * 100}, "prompt_logprobs"),
        ({"logprobs": 5, "max_tokens": 2000, "n": 128}, "logprobs"),
    ):
        with client(gateway_url, api_key) as http:
            response = http.post("/v1/completions", json=MODEL | {"prompt": "a"} | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_an_answer_of_no_given_length_goes_on_to_the_end_of_the_context(tiny_gateway_url: str, api_key: str) -> None:
    for path, fields in (("/v1/chat/completions", {"messages": CHAT["messages"]}), ("/v1/responses", {"input": "Hello"})):
        answer = post(tiny_gateway_url, api_key, path, MODEL | fields | {"ignore_eos": True})
        assert answer["usage"]["total_tokens"] == 1024
    completion = post(tiny_gateway_url, api_key, "/v1/completions", MODEL | {"prompt": "Hello", "ignore_eos": True})
    assert completion["usage"]["completion_tokens"] == 16


@pytest.mark.slow
def test_an_answer_of_no_given_length_is_as_long_as_its_log_probabilities_allow(tiny_gateway_url: str, api_key: str) -> None:
    """200,000 of a request: twelve answers to 1,024 tokens with 20 alternatives would have more."""
    asked = CHAT | {"n": 12, "logprobs": True, "top_logprobs": 20, "ignore_eos": True}
    answer = post(tiny_gateway_url, api_key, "/v1/chat/completions", asked)
    assert answer["usage"]["completion_tokens"] == 12 * (200_000 // 12 // 21)
    with client(tiny_gateway_url, api_key) as http:
        refused = http.post("/v1/chat/completions", json=asked | {"max_tokens": 1000})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "top_logprobs")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/latest_checkpoint.pt"])
def test_a_model_is_described_in_the_words_of_four_servers(gateway_url: str, api_key: str, path: str) -> None:
    with client(gateway_url, api_key) as http:
        answer = http.get(path).json()
    model = next(one for one in answer.get("data", [answer]) if one["id"] == answer.get("last_id", answer.get("id")))
    assert model["max_model_len"] == model["context_length"] == model["meta"]["n_ctx_train"] > 0
    assert model["meta"]["n_vocab"] > 0 and model["root"] == model["checkpoint"] and model["parent"] is None
    assert model["type"] == model["object"] == "model" and model["display_name"] == model["id"]
    assert json.dumps(model["created_at"]).endswith('Z"')


def test_what_clients_ask_before_their_first_request_is_answered(gateway_url: str, api_key: str) -> None:
    """llama.cpp's clients ask /health; launchers and proxies ask for any page with HEAD or GET."""
    with client(gateway_url, api_key) as http:
        for path in ("/health", "/v1/models", "/v1", "/"):
            assert http.get(path).status_code == http.head(path).status_code == 200
