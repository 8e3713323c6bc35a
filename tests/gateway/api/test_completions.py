"""POST /v1/completions: prompts of all kinds, echo, the older log-probabilities, the best of several."""

import re
import time
from typing import Any

import pytest

from tests.gateway.http_client import client, events

BODY = {"model": "latest_checkpoint.pt", "prompt": "One, two, three,", "max_tokens": 4, "temperature": 0}


def post(url: str, key: str, **fields: Any) -> Any:
    with client(url, key) as http:
        response = http.post("/v1/completions", json=BODY | fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer_has_the_form_of_openai(gateway_url: str, api_key: str) -> None:
    before = int(time.time())
    answer = post(gateway_url, api_key)
    assert answer.keys() == {"id", "object", "created", "model", "system_fingerprint", "choices", "usage"}
    assert re.fullmatch("cmpl-[0-9a-f]{24}", answer["id"]) and answer["object"] == "text_completion"
    assert before <= answer["created"] <= time.time() and re.fullmatch("fp_[0-9a-f]{12}", answer["system_fingerprint"])
    (choice,) = answer["choices"]
    assert choice == {"index": 0, "text": choice["text"], "logprobs": None, "finish_reason": "length"}
    usage = answer["usage"]
    assert usage["completion_tokens"] == 4 and usage["total_tokens"] == usage["prompt_tokens"] + 4


def test_text_and_its_tokens_are_the_same_prompt_alone_and_among_others(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        tokens = [http.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in (BODY["prompt"], "The sea")]
    alone = [post(gateway_url, api_key, prompt=prompt) for prompt in (BODY["prompt"], "The sea")]
    for prompt in ([BODY["prompt"], "The sea"], tokens):
        both = post(gateway_url, api_key, prompt=prompt)
        assert [choice["text"] for choice in both["choices"]] == [one["choices"][0]["text"] for one in alone]
        assert [choice["index"] for choice in both["choices"]] == [0, 1]
        assert both["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    assert post(gateway_url, api_key, prompt=tokens[0])["choices"] == alone[0]["choices"]


def test_echo_gives_the_prompt_back(gateway_url: str, api_key: str) -> None:
    plain = post(gateway_url, api_key)["choices"][0]["text"]
    assert post(gateway_url, api_key, echo=True)["choices"][0]["text"] == BODY["prompt"] + plain
    only = post(gateway_url, api_key, echo=True, max_tokens=0)
    assert only["choices"][0]["text"] == BODY["prompt"] and only["choices"][0]["finish_reason"] == "length"
    assert only["choices"][0]["logprobs"] is None and only["usage"]["completion_tokens"] == 0


def test_log_probabilities_have_the_older_form(gateway_url: str, api_key: str) -> None:
    prompt = "One 世, two"  # half characters among its tokens
    plain = post(gateway_url, api_key, prompt=prompt, logprobs=2)["choices"][0]
    echoed = post(gateway_url, api_key, prompt=prompt, logprobs=2, echo=True)["choices"][0]
    for choice, begin in ((plain, len(prompt)), (echoed, 0)):
        told = choice["logprobs"]
        assert told.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
        assert len({len(column) for column in told.values()}) == 1
        assert told["text_offset"][0] == begin and told["text_offset"] == sorted(told["text_offset"])
        text = prompt + plain["text"]
        for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
            assert token.startswith("bytes:") or text[offset:].startswith(token)
    first, *rest = zip(*echoed["logprobs"].values(), strict=True)
    assert first[1:3] == (None, None)
    for token, logprob, top, _ in rest:
        assert 2 <= len(top) <= 3 and top[token] == logprob <= 0
    assert any(token.startswith("bytes:\\x") for token in echoed["logprobs"]["tokens"])
    assert echoed["logprobs"]["tokens"][-4:] == plain["logprobs"]["tokens"]


def test_only_the_prompt_is_scored_without_new_tokens(gateway_url: str, api_key: str) -> None:
    def score(prompt: str) -> float:
        scored = post(gateway_url, api_key, prompt=prompt, echo=True, max_tokens=0, logprobs=1)
        told = scored["choices"][0]["logprobs"]
        assert len(told["tokens"]) == scored["usage"]["prompt_tokens"] and "".join(told["tokens"]) == prompt
        return sum(told["token_logprobs"][1:])

    assert score("One, two, three, four") > score("One, two, three, fish") > score("One, two, fish, zebra")


def test_best_of_gives_those_with_the_highest_mean_log_probability(tiny_gateway_url: str, api_key: str) -> None:
    body = {"temperature": 1.5, "top_p": 1.0, "seed": 3, "max_tokens": 6}
    every = post(tiny_gateway_url, api_key, **body, n=5, logprobs=0)["choices"]

    def mean(choice: Any) -> float:
        logprobs: list[float] = choice["logprobs"]["token_logprobs"]
        return sum(logprobs) / len(logprobs)

    best = post(tiny_gateway_url, api_key, **body, n=2, best_of=5)
    assert [choice["text"] for choice in best["choices"]] == [one["text"] for one in sorted(every, key=mean, reverse=True)[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in best["choices"])
    assert best["usage"]["completion_tokens"] == sum(len(one["logprobs"]["tokens"]) for one in every)


def test_the_best_answers_to_several_prompts_each_echo_their_own(tiny_gateway_url: str, api_key: str) -> None:
    body = {"prompt": ["One, two,", "A long time ago"], "n": 2, "best_of": 3, "echo": True, "logprobs": 0}
    choices = post(tiny_gateway_url, api_key, **body, max_tokens=2, temperature=1.0, seed=1)["choices"]
    for prompt, choice in zip(["One, two,"] * 2 + ["A long time ago"] * 2, choices, strict=True):
        assert choice["text"].startswith(prompt)
        assert choice["logprobs"]["text_offset"][-1] >= len(prompt)


@pytest.mark.parametrize("echo", [False, True])
def test_the_pieces_of_a_stream_join_to_the_whole_answer(tiny_gateway_url: str, api_key: str, echo: bool) -> None:
    body = BODY | {"prompt": ["One, 世", "Two,"], "n": 2, "seed": 1, "temperature": 1.2, "echo": echo, "logprobs": 1}
    with client(tiny_gateway_url, api_key) as http:
        whole = http.post("/v1/completions", json=body).json()
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        *pieces, last = events(http.post("/v1/completions", json=body | usage))
    assert {piece["object"] for piece in pieces} == {"text_completion"} and len({piece["id"] for piece in pieces}) == 1
    assert all(piece["usage"] is None for piece in pieces)
    assert last["choices"] == [] and last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    for choice in whole["choices"]:
        parts = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]
        for column, told in choice["logprobs"].items():
            assert [value for part in parts for value in part["logprobs"][column]] == told


@pytest.mark.parametrize("prompt", [[999_999], [[1], [999_999]], [-1]])
def test_a_token_that_the_model_does_not_have_is_400(gateway_url: str, api_key: str, prompt: Any) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/completions", json=BODY | {"prompt": prompt, "echo": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert "this model's tokens are 0 to " in response.json()["error"]["message"]


def test_a_suffix_is_refused_by_name(gateway_url: str, api_key: str) -> None:
    with client(gateway_url, api_key) as http:
        response = http.post("/v1/completions", json=BODY | {"suffix": "end"})
        none = http.post("/v1/completions", json=BODY | {"suffix": None})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "suffix")
    assert "cannot fill a gap" in response.json()["error"]["message"] and none.status_code == 200


def test_offsets_count_only_what_the_text_shows(gateway_url: str, api_key: str) -> None:
    """An end token that is ignored is told with its name, but no part of the text."""
    answer = post(gateway_url, api_key, ignore_eos=True, logit_bias={"0": 100}, logprobs=0)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["logprobs"]["tokens"]) == ("", ["<|endoftext|>"] * 4)
    assert choice["logprobs"]["text_offset"] == [len(BODY["prompt"])] * 4
