"""LangChain's OpenAI classes, with nothing set but the address, the key and the model."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field, SecretStr

MODEL = "latest_checkpoint.pt"
ASKED = [SystemMessage("Be short."), HumanMessage("Name a city.")]


class City(BaseModel):
    """A city and how many people live there."""

    city: str = Field(max_length=20)
    people: int = Field(ge=0, le=100_000_000)


@pytest.fixture
def chat(gateway_url: str, api_key: str) -> Any:
    return lambda **options: ChatOpenAI(
        **{"model": MODEL, "base_url": f"{gateway_url}/v1", "api_key": SecretStr(api_key), "temperature": 0, "max_retries": 0}
        | {"max_completion_tokens": 12}
        | options
    )


@pytest.fixture
def completions(tiny_gateway_url: str, api_key: str) -> OpenAI:
    return OpenAI(
        model=MODEL, base_url=f"{tiny_gateway_url}/v1", api_key=SecretStr(api_key), temperature=0, max_tokens=6, max_retries=0
    )


def test_a_chat_is_answered_with_its_usage(chat: Any) -> None:
    answer = chat().invoke(ASKED)
    assert answer.content and answer.usage_metadata["output_tokens"] <= 12
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert answer.response_metadata["model_name"] and answer.response_metadata["system_fingerprint"]


def test_a_chat_streams(chat: Any) -> None:
    pieces = list(chat().stream(ASKED))
    assert len(pieces) > 2 and "".join(piece.content for piece in pieces) == chat().invoke(ASKED).content
    counted = [piece.usage_metadata for piece in chat(stream_usage=True).stream(ASKED) if piece.usage_metadata]
    assert len(counted) == 1 and counted[0]["output_tokens"] > 0


def test_a_batch_is_answered_in_its_order(chat: Any) -> None:
    questions = ["Name a city.", "Name a colour.", "Name a fruit."]
    alone = [chat().invoke(question).content for question in questions]
    assert [answer.content for answer in chat().batch(questions)] == alone


async def test_the_asynchronous_calls_answer(one_event_loop: None, chat: Any) -> None:
    first, second = await asyncio.gather(chat().ainvoke(ASKED), chat().ainvoke(ASKED))
    assert first.content == second.content


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_structured_output_is_an_object_of_its_class(chat: Any, method: str) -> None:
    structured = chat(max_completion_tokens=100).with_structured_output(City, method=method, include_raw=True)
    result = structured.invoke("Name a city and how many people live there, as JSON with the keys city and people.")
    if method == "json_schema":
        assert isinstance(result["parsed"], City), result
    else:  # any JSON object: whether it is a city is up to the model
        assert result["raw"].content.lstrip().startswith("{")


def test_log_probabilities_come_with_the_answer(chat: Any) -> None:
    answer = chat(logprobs=True, top_logprobs=2).invoke(ASKED)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith(answer.content)
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_the_other_parameters_pass(chat: Any) -> None:
    options = {"seed": 3, "top_p": 0.5, "presence_penalty": 0.5, "frequency_penalty": 0.5, "n": 1, "stop": ["\n"]}
    first, second = (chat(**options, temperature=1).invoke(ASKED).content for _ in range(2))
    assert first == second and "\n" not in first


def test_the_responses_api_answers(chat: Any) -> None:
    answer = chat(use_responses_api=True, max_completion_tokens=16).invoke(ASKED)
    assert answer.text and answer.response_metadata["status"] in ("completed", "incomplete")


def test_a_text_is_completed_whole_streamed_and_in_a_batch(completions: OpenAI) -> None:
    whole = completions.invoke("The quick brown fox")
    assert whole and "".join(completions.stream("The quick brown fox")) == whole
    assert completions.batch(["The quick brown fox", "Once"]) == [whole, completions.invoke("Once")]
