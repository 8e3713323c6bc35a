"""OpenAI's Python client for both kinds of model: one made for conversations, and a tiny one that only continues texts."""

from collections.abc import Iterator

import openai
import pytest

from tests.gateway.http_client import load, until


def sdk_for(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def sdk(tiny_gateway_url: str, api_key: str) -> Iterator[openai.OpenAI]:
    """Over a tiny GPT-2 with random weights: nothing it says makes sense, which no parameter's meaning may depend on."""
    with sdk_for(tiny_gateway_url, api_key) as opened:
        yield opened


@pytest.fixture(scope="session")
def chat_sdk(gateway_url: str, api_key: str) -> Iterator[openai.OpenAI]:
    """Over SmolLM2-135M-Instruct."""
    with sdk_for(gateway_url, api_key) as opened:
        yield opened


@pytest.fixture
def all_ended(tiny_gateway_url: str) -> Iterator[None]:
    """After the test every text of the tiny model's gateway has ended, also where its client left."""
    yield
    assert any(load(tiny_gateway_url) == (0, 0) for _ in until(5)), "texts still run after their clients are gone"
