"""POST /tokenize and /detokenize, in the form of vLLM's clients."""

from typing import Any

import pytest

from tests.gateway.http_client import client

MESSAGES = [{"role": "user", "content": "Say hello."}]
TEXT = "Hello 世界 👩‍👩‍👧\n\ttab <|endoftext|> \x00"


def post(url: str, key: str, path: str, status: int = 200, **fields: Any) -> Any:
    with client(url, key) as http:
        response = http.post(path, json=fields)
    assert response.status_code == status, response.text
    return response.json()


def test_the_answer_counts_the_tokens_and_tells_the_longest_text(gateway_url: str, api_key: str) -> None:
    answer = post(gateway_url, api_key, "/tokenize", prompt=TEXT)
    with client(gateway_url, api_key) as http:
        context = http.get("/v1/models/latest_checkpoint.pt").json()["context_length"]
    tokens = answer["tokens"]
    assert answer == {"count": len(tokens), "max_model_len": context, "tokens": tokens, "token_strs": None}
    strings = post(gateway_url, api_key, "/tokenize", prompt="Hello world", return_token_strs=True)
    assert strings["token_strs"] == ["Hello", " world"]


@pytest.mark.parametrize("text", [TEXT, "", " ", "<|endoftext|>"])
def test_text_comes_back_from_its_tokens(gateway_url: str, tiny_gateway_url: str, api_key: str, text: str) -> None:
    for url in (gateway_url, tiny_gateway_url):
        tokens = post(url, api_key, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]
        assert post(url, api_key, "/detokenize", tokens=tokens) == {"prompt": text}


def test_messages_are_the_prompt_of_chat(gateway_url: str, api_key: str) -> None:
    asked = post(gateway_url, api_key, "/tokenize", messages=MESSAGES)
    chat = {"model": "latest_checkpoint.pt", "messages": MESSAGES, "max_tokens": 1}
    assert post(gateway_url, api_key, "/v1/chat/completions", **chat)["usage"]["prompt_tokens"] == asked["count"]
    without = post(gateway_url, api_key, "/tokenize", messages=MESSAGES, add_generation_prompt=False)
    assert without["count"] < asked["count"] and asked["tokens"][: without["count"]] == without["tokens"]


@pytest.mark.parametrize("tokens", [[10_000_000], [1, -1], [2**70], ["1"], [1.0], "1", None])
def test_what_is_no_token_is_400(gateway_url: str, api_key: str, tokens: Any) -> None:
    error = post(gateway_url, api_key, "/detokenize", status=400, tokens=tokens)["error"]
    assert error["type"] == "validation_error" and error["message"].startswith("tokens")


def test_a_model_can_be_named_and_has_to_exist(gateway_url: str, api_key: str) -> None:
    other = post(gateway_url, api_key, "/tokenize", model="tiny-characters", prompt="to be")
    assert other["count"] == 5
    assert (
        "tiny-characters" in post(gateway_url, api_key, "/tokenize", status=404, model="gpt-4", prompt="a")["error"]["message"]
    )
    assert post(gateway_url, api_key, "/detokenize", model="tiny-characters", tokens=other["tokens"]) == {"prompt": "to be"}


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_a_key_is_needed(gateway_url: str, path: str) -> None:
    with client(gateway_url) as http:
        assert http.post(path, json={"prompt": "a"}).status_code == 401
