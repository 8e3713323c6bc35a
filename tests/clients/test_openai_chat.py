"""OpenAI's Python client, chat completions: every parameter does what it says."""

import json
import re
from typing import Any

import httpx
import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field

MODEL = "latest_checkpoint.pt"
ASKED: list[Any] = [{"role": "user", "content": "Name a city and how many people live there."}]
HELLO = 23748  # " hello" in GPT-2's vocabulary
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


class City(BaseModel):
    city: str = Field(max_length=20)
    people: int = Field(ge=0, le=100_000_000)


def ask(sdk: openai.OpenAI, **parameters: Any) -> ChatCompletion:
    defaults: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": 8, "temperature": 0}
    return sdk.chat.completions.create(**defaults | parameters)


def text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def stream(sdk: openai.OpenAI, **parameters: Any) -> list[Any]:
    return list(ask(sdk, stream=True, **parameters))  # type: ignore[call-overload]


def test_an_answer_is_complete(chat_sdk: openai.OpenAI) -> None:
    answer = ask(chat_sdk)
    assert re.fullmatch("chatcmpl-[0-9a-f]{24}", answer.id) and answer.object == "chat.completion"
    assert answer.system_fingerprint and answer.system_fingerprint.startswith("fp_")
    assert answer.usage and answer.usage.prompt_tokens_details
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 <= (answer.usage.prompt_tokens_details.cached_tokens or 0) < answer.usage.prompt_tokens
    (choice,) = answer.choices
    assert choice.finish_reason == "length" and choice.logprobs is None and choice.message.refusal is None


def test_a_streamed_answer_is_the_whole_answer_with_usage_when_asked(chat_sdk: openai.OpenAI) -> None:
    whole = ask(chat_sdk)
    chunks = stream(chat_sdk, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text(whole)
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and whole.usage and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in stream(chat_sdk))


def test_the_stream_helper_gathers_the_answer(chat_sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_completion_tokens": 50, "temperature": 0, "stop": "."}
    with chat_sdk.chat.completions.stream(**asked) as events:
        seen = "".join(event.delta for event in events if event.type == "content.delta")
        gathered = events.get_final_completion()
    assert seen and seen == gathered.choices[0].message.content == text(chat_sdk.chat.completions.create(**asked))


def test_n_answers_have_their_own_indexes_and_the_first_is_the_only_one_of_n_1(sdk: openai.OpenAI) -> None:
    one = ask(sdk, temperature=1, seed=5)
    three = ask(sdk, temperature=1, seed=5, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert texts[0] == text(one) and len(set(texts)) == 3
    assert one.usage and three.usage and three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 24
    streamed = ["", "", ""]
    for chunk in stream(sdk, temperature=1, seed=5, n=3):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_log_probabilities_tell_every_token_with_its_bytes(sdk: openai.OpenAI) -> None:
    choice = ask(sdk, logprobs=True, top_logprobs=20).choices[0]
    assert choice.logprobs and choice.logprobs.content and len(choice.logprobs.content) == 8
    assert b"".join(bytes(token.bytes or []) for token in choice.logprobs.content).decode() == choice.message.content
    for token in choice.logprobs.content:
        alternatives = [alternative.logprob for alternative in token.top_logprobs]
        assert len(alternatives) == 20 and alternatives == sorted(alternatives, reverse=True)
        assert token.logprob == alternatives[0] <= 0  # greedy
    assert ask(sdk, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []  # type: ignore[union-attr, index]


def test_log_probabilities_are_the_models_own_whatever_filters_the_sampling(sdk: openai.OpenAI) -> None:
    plain = ask(sdk, max_tokens=1, logprobs=True, top_logprobs=5).choices[0].logprobs
    filtered = (
        ask(sdk, max_tokens=1, logprobs=True, top_logprobs=5, temperature=2, top_p=0.1, logit_bias={HELLO: 100}, seed=1)
        .choices[0]
        .logprobs
    )
    assert plain and plain.content and filtered and filtered.content
    before = [(other.token, other.logprob) for other in plain.content[0].top_logprobs]
    after = [(other.token, other.logprob) for other in filtered.content[0].top_logprobs]
    assert [token for token, _ in before] == [token for token, _ in after]
    assert [logprob for _, logprob in before] == pytest.approx([logprob for _, logprob in after], abs=1e-4)
    assert filtered.content[0].token == " hello"


def test_streamed_log_probabilities_are_those_of_the_whole_answer(sdk: openai.OpenAI) -> None:
    whole = ask(sdk, logprobs=True, top_logprobs=2).choices[0].logprobs
    choices = [chunk.choices[0] for chunk in stream(sdk, logprobs=True, top_logprobs=2)]
    streamed = [token for choice in choices if choice.logprobs for token in choice.logprobs.content or []]
    assert whole and whole.content and [token.token for token in streamed] == [token.token for token in whole.content]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in whole.content], abs=1e-4)


def test_logit_bias_makes_a_token_certain_or_impossible(sdk: openai.OpenAI) -> None:
    assert text(ask(sdk, logit_bias={HELLO: 100})) == " hello" * 8
    assert " hello" not in text(ask(sdk, temperature=2, logit_bias={HELLO: -100}, max_tokens=40))


def test_a_seed_gives_the_same_text(sdk: openai.OpenAI) -> None:
    first, second, other = (text(ask(sdk, temperature=1.5, top_p=1, seed=seed)) for seed in (7, 7, 8))
    assert first == second != other
    chunks = stream(sdk, temperature=1.5, top_p=1, seed=7)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == first


def test_stop_strings_end_the_text_before_them(sdk: openai.OpenAI) -> None:
    whole = text(ask(sdk, max_tokens=24))
    stop = whole[len(whole) // 2 :][:3]
    for stops in (stop, ["\0never", stop]):
        choice = ask(sdk, max_tokens=24, stop=stops).choices[0]
        assert choice.message.content == whole[: whole.index(stop)] and choice.finish_reason == "stop"


def test_parameters_of_other_servers_pass_as_extra_body(sdk: openai.OpenAI) -> None:
    """min_p 1 and top_k 1 leave only the most probable token, whatever the temperature."""
    greedy = text(ask(sdk))
    assert text(ask(sdk, temperature=2, top_p=1, extra_body={"min_p": 1.0, "top_k": 0})) == greedy
    assert text(ask(sdk, temperature=2, top_p=1, extra_body={"top_k": 1})) == greedy
    kept = ask(sdk, extra_body={"min_tokens": 8, "ignore_eos": True, "repetition_penalty": 1.0})
    assert kept.usage and kept.usage.completion_tokens == 8


def test_a_json_object_is_one_also_when_hot(sdk: openai.OpenAI) -> None:
    for seed in range(3):
        answer = ask(sdk, response_format={"type": "json_object"}, temperature=2, top_p=1, seed=seed, max_tokens=120)
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(text(answer)), dict)
        else:
            assert text(answer).lstrip().startswith("{")


def test_a_json_schema_is_kept_also_when_hot(sdk: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    ended = 0
    for seed in range(4):
        answer = ask(sdk, response_format=form, temperature=2, top_p=1, seed=seed, max_tokens=150)
        if answer.choices[0].finish_reason == "stop":
            jsonschema.validate(json.loads(text(answer)), SCHEMA)
            ended += 1
    assert ended, "no answer came to its end"


def test_a_pydantic_model_is_parsed(chat_sdk: openai.OpenAI) -> None:
    answer = chat_sdk.chat.completions.parse(
        model=MODEL, messages=ASKED, response_format=City, max_completion_tokens=100, temperature=0
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, City) and City.model_validate_json(answer.choices[0].message.content or "") == parsed


def test_fields_that_change_nothing_are_accepted(sdk: openai.OpenAI) -> None:
    plain = text(ask(sdk))
    assert text(ask(sdk, user="u", store=False, metadata={"a": "b"}, service_tier="auto", safety_identifier="s")) == plain


def test_a_request_id_comes_back_and_is_made_where_none_is_sent(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASKED, max_tokens=1, extra_headers={"X-Request-Id": "my-own-id_1"}
    )
    assert raw.headers["x-request-id"] == "my-own-id_1" and raw.parse().choices
    first, second = ask(sdk, max_tokens=1), ask(sdk, max_tokens=1)
    assert first._request_id and second._request_id and first._request_id != second._request_id


async def test_the_async_client_answers_and_streams(one_event_loop: None, tiny_gateway_url: str, api_key: str) -> None:
    http = httpx.AsyncClient(timeout=60)
    async with openai.AsyncOpenAI(base_url=f"{tiny_gateway_url}/v1", api_key=api_key, http_client=http) as client:
        asked: Any = {"model": MODEL, "messages": ASKED, "max_tokens": 6, "temperature": 0}
        whole = await client.chat.completions.create(**asked)
        pieces = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
        assert [model.id async for model in client.models.list()]


def test_a_stream_that_is_left_ends_its_text(sdk: openai.OpenAI, all_ended: None) -> None:
    opened = sdk.chat.completions.create(
        model=MODEL, messages=ASKED, max_tokens=500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(opened))
    opened.close()
