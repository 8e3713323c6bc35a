"""What evaluation harnesses send to /v1/completions: scoring by echo and log-probabilities, generation from tokens."""

from typing import Any

import pytest

from tests.gateway.http_client import client

CONTEXT = [464, 2068, 7586]  # "The quick brown" in GPT-2's vocabulary
CONTINUATION = [21831, 18045]  # " fox jumps"


def score(url: str, key: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "latest_checkpoint.pt", "temperature": 0, "logprobs": 1, "seed": 1234, "echo": True} | fields
    with client(url, key) as http:
        response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_continuation_is_scored_by_its_tokens(tiny_gateway_url: str, api_key: str, max_tokens: int) -> None:
    """The sum over the continuation's tokens, and whether each was the most probable one: what such a harness computes."""
    choice = score(tiny_gateway_url, api_key, prompt=[CONTEXT + CONTINUATION], max_tokens=max_tokens)["choices"][0]
    logprobs = choice["logprobs"]
    assert len(logprobs["token_logprobs"]) == 5 + max_tokens and logprobs["token_logprobs"][0] is None
    continuation = slice(len(CONTEXT), len(CONTEXT) + len(CONTINUATION))
    assert logprobs["tokens"][continuation] == [" fox", " jumps"]
    for token, logprob, top in zip(
        logprobs["tokens"][continuation], logprobs["token_logprobs"][continuation], logprobs["top_logprobs"][continuation],
        strict=True,
    ):  # fmt: skip
        assert logprob <= max(top.values()) + 1e-5
        assert top[token] == pytest.approx(logprob)


def test_a_batch_of_prompts_is_scored_as_each_alone(tiny_gateway_url: str, api_key: str) -> None:
    prompts = [CONTEXT + CONTINUATION, CONTEXT, CONTINUATION]
    together = score(tiny_gateway_url, api_key, prompt=prompts, max_tokens=0)["choices"]
    assert [choice["index"] for choice in together] == [0, 1, 2]
    for prompt, choice in zip(prompts, together, strict=True):
        (alone,) = score(tiny_gateway_url, api_key, prompt=[prompt], max_tokens=0)["choices"]
        assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(alone["logprobs"]["token_logprobs"][1:], abs=1e-4)


def test_generated_tokens_are_as_probable_as_they_score(tiny_gateway_url: str, api_key: str) -> None:
    """What greedy decoding says of its own tokens is what scoring the same text says."""
    body = {"prompt": CONTEXT, "max_tokens": 5, "echo": False}
    generated = score(tiny_gateway_url, api_key, **body)["choices"][0]
    with client(tiny_gateway_url, api_key) as http:
        tokens = http.post("/tokenize", json={"prompt": generated["text"]}).json()["tokens"]
    if len(tokens) != 5:
        pytest.fail(f"the text {generated['text']!r} is not tokenized as it was written")
    scored = score(tiny_gateway_url, api_key, prompt=CONTEXT + tokens, max_tokens=0)["choices"][0]
    assert scored["logprobs"]["token_logprobs"][3:] == pytest.approx(generated["logprobs"]["token_logprobs"], abs=1e-4)


def test_generation_ends_at_the_harness_stop_strings(tiny_gateway_url: str, api_key: str) -> None:
    body = {
        "prompt": "Question: What?\nAnswer:",
        "max_tokens": 32,
        "stop": ["\n\n", "Question:"],
        "echo": False,
        "logprobs": None,
    }
    choice = score(tiny_gateway_url, api_key, **body)["choices"][0]
    assert "\n\n" not in choice["text"] and choice["logprobs"] is None
