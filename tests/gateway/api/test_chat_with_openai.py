"""OpenAI's own client chats with the gateway as with OpenAI: answers, streams, and the exceptions that it documents."""

from collections.abc import Iterator

import openai
import pytest

from tests.gateway.http_client import CHAT


@pytest.fixture
def sdk(gateway_url: str, api_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway_url}/v1", api_key=api_key, max_retries=0, timeout=60) as opened:
        yield opened


def test_the_openai_client_gets_an_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(**CHAT, temperature=0, user="u", n=1, seed=1)
    assert answer.choices[0].message.content and answer.usage and answer.usage.completion_tokens == 2
    assert [model.id for model in sdk.models.list()].count(answer.model) == 1
    assert sdk.models.retrieve("latest_checkpoint.pt").id == answer.model


def test_the_openai_client_streams(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(**CHAT, temperature=0).choices[0].message.content
    stream = sdk.chat.completions.create(**CHAT, temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 2


def test_the_openai_client_takes_its_own_answer_back(sdk: openai.OpenAI) -> None:
    first = sdk.chat.completions.create(**CHAT)
    messages = [*CHAT["messages"], first.choices[0].message, {"role": "user", "content": [{"type": "text", "text": "And?"}]}]
    second = sdk.chat.completions.create(model=first.model, messages=messages, max_completion_tokens=2)
    assert second.usage and first.usage and second.usage.prompt_tokens > first.usage.prompt_tokens


def test_the_openai_client_raises_what_it_documents(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(**CHAT | {"model": "gpt-4"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(**CHAT, temperature=3)
    assert refused.value.param == "temperature"
