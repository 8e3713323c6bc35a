"""OpenAI's Python client, what goes wrong: its own exceptions, with code and param; limits of keys, and its retries."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import pytest

from serve.triton_server import TritonServer
from tests.clients.conftest import sdk_for
from tests.conftest import DEMO, ROOT, TINY, gateway_process
from tests.gateway.http_client import client

CHAT: dict[str, Any] = {
    "model": "latest_checkpoint.pt", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "param", "code"),
    [
        ({"temperature": 3}, "temperature", None),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id", None),
        ({"messages": []}, "messages", None),
        ({"n": 0}, "n", None),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"logit_bias": {"999999": 1}}, "logit_bias", None),
        ({"response_format": {"type": "regex", "regex": "("}}, "response_format", None),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools", None),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field", None),
        ({"messages": [{"role": "user", "content": "hello " * 2000}]}, "messages", "context_length_exceeded"),
    ],
)
def test_what_is_wrong_is_a_bad_request_that_names_it(
    sdk: openai.OpenAI, parameters: dict[str, Any], param: str, code: str | None
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.chat.completions.create(**CHAT | parameters, stream=stream)
        assert (refused.value.param, refused.value.code) == (param, code)
        assert refused.value.type == "invalid_request_error" and refused.value.request_id


def test_a_wrong_key_and_an_unknown_model_have_their_own_exceptions(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as wrong:
        sdk.with_options(api_key="wrong").models.list()
    assert wrong.value.code == "invalid_api_key"
    for ask in (sdk.chat.completions.create, lambda **asked: sdk.models.retrieve(asked["model"])):
        with pytest.raises(openai.NotFoundError) as missing:
            ask(**CHAT | {"model": "gpt-4"})  # type: ignore[operator]
        assert missing.value.code == "model_not_found"


@pytest.fixture(scope="module")
def limited(triton: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., openai.OpenAI]]:
    """Makes a client with a new key of the given limits, of a gateway with a file of keys."""
    directory = tmp_path_factory.mktemp("keys")
    file = directory / "keys.json"

    def create(name: str, *limits: str) -> str:
        command = [sys.executable, "-m", "gateway.keys", "create", name, "--file", str(file), *limits]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    create("first")
    environment = {"MODEL_NAME": TINY, "API_KEYS_FILE": str(file)}
    with gateway_process(triton.grpc_address, directory / "log", **environment) as address:

        def make(name: str, *limits: str) -> openai.OpenAI:
            made = sdk_for(address, create(name, *limits))
            for _ in range(50):  # the gateway looks at the file every second
                try:
                    made.models.list()
                    return made
                except openai.AuthenticationError:
                    time.sleep(0.1)
            raise AssertionError(f"the key {name} is not accepted")

        yield make


def test_a_model_that_a_key_may_not_use_is_denied(limited: Callable[..., openai.OpenAI]) -> None:
    sdk = limited("one-model", "--model", TINY)
    assert [model.id for model in sdk.models.list()] == [TINY]
    assert sdk.chat.completions.create(**CHAT).choices
    with pytest.raises(openai.PermissionDeniedError) as denied:
        sdk.chat.completions.create(**CHAT | {"model": DEMO})
    assert denied.value.code == "model_not_allowed"


def test_a_used_up_limit_is_a_rate_limit_error_with_its_headers(limited: Callable[..., openai.OpenAI]) -> None:
    sdk = limited("two-a-minute", "--requests-per-minute", "2")
    raw = sdk.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-ratelimit-limit-requests"] == "2" and raw.headers["x-ratelimit-remaining-requests"] == "1"
    sdk.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as refused:
        sdk.chat.completions.create(**CHAT)
    assert refused.value.code == "rate_limit_exceeded"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 30
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_the_client_waits_as_long_as_it_is_told_and_then_succeeds(limited: Callable[..., openai.OpenAI]) -> None:
    """60 requests a minute come back one a second: with its usual two retries the client does not even notice."""
    sdk = limited("sixty-a-minute", "--requests-per-minute", "60")
    with client(str(sdk.base_url).removesuffix("/v1/"), sdk.api_key) as http:
        while http.post("/v1/chat/completions", json={}).status_code != 429:
            pass
    assert sdk.with_options(max_retries=2).chat.completions.create(**CHAT).choices


def test_a_request_that_can_never_fit_is_not_tried_again(limited: Callable[..., openai.OpenAI]) -> None:
    sdk = limited("few-tokens", "--tokens-per-minute", "10").with_options(max_retries=5)
    begun = time.monotonic()
    with pytest.raises(openai.RateLimitError, match="can never fit"):
        sdk.chat.completions.create(**CHAT | {"max_tokens": 100})
    assert time.monotonic() - begun < 2


def test_a_stream_that_breaks_raises_in_the_client(
    start_triton: Callable[..., AbstractContextManager[TritonServer]], tmp_path: Path, api_key: str
) -> None:
    with (
        start_triton(DEMO, slots=2) as triton,
        gateway_process(triton.grpc_address, tmp_path / "log", RECOVERY_TIMEOUT="1") as address,
        sdk_for(address, api_key) as sdk,
    ):
        endless = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}
        pieces = iter(sdk.chat.completions.create(**CHAT | endless, stream=True))
        assert next(pieces).choices and next(pieces).choices
        triton.stop()
        with pytest.raises(openai.APIError) as broken:
            list(pieces)
        assert broken.value.code == "backend_unavailable"
        with pytest.raises(openai.InternalServerError) as down:
            sdk.chat.completions.create(**CHAT)
        assert down.value.status_code == 503 and down.value.response.headers["retry-after"]
