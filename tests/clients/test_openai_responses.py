"""OpenAI's Python client, responses: text in, text out, the events of a stream, and parsing."""

from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

MODEL = "latest_checkpoint.pt"


class City(BaseModel):
    city: str = Field(max_length=20)
    people: int = Field(ge=0, le=100_000_000)


def respond(sdk: openai.OpenAI, **parameters: Any) -> Any:
    defaults: dict[str, Any] = {"model": MODEL, "input": "Name a city.", "max_output_tokens": 16, "temperature": 0}
    return sdk.responses.create(**defaults | parameters)


def test_a_response_is_complete(chat_sdk: openai.OpenAI) -> None:
    response = respond(chat_sdk)
    assert response.id.startswith("resp_") and response.object == "response" and response.error is None
    assert response.status in ("completed", "incomplete") and response.output_text
    (message,) = response.output
    assert message.type == "message" and message.role == "assistant" and message.content[0].type == "output_text"
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and usage.output_tokens <= 16
    assert usage.input_tokens_details.cached_tokens >= 0


def test_a_response_that_was_cut_says_so(sdk: openai.OpenAI) -> None:
    response = respond(sdk, max_output_tokens=16, extra_body={"ignore_eos": True})
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens"


def test_messages_and_instructions_make_the_same_conversation_as_in_chat(chat_sdk: openai.OpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": "Name a city."}]
    chat = chat_sdk.chat.completions.create(
        model=MODEL, messages=[{"role": "system", "content": "Be short."}, *conversation], max_tokens=16, temperature=0
    )
    response = respond(chat_sdk, input=conversation, instructions="Be short.")
    assert response.output_text == chat.choices[0].message.content
    parts: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Name a city."}]}]
    assert respond(chat_sdk, input=parts, instructions="Be short.").output_text == response.output_text


def test_the_events_of_a_stream_come_in_their_order_and_hold_the_whole_text(chat_sdk: openai.OpenAI) -> None:
    whole = respond(chat_sdk)
    events = list(respond(chat_sdk, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[-1] == f"response.{whole.status}"
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_the_stream_helper_gathers_the_response(chat_sdk: openai.OpenAI) -> None:
    ended: Any = {"max_output_tokens": 50, "extra_body": {"stop": "."}}  # the helper takes nothing but completed responses
    with chat_sdk.responses.stream(model=MODEL, input="Name a city.", temperature=0, **ended) as events:
        seen = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events.get_final_response().output_text == seen == respond(chat_sdk, **ended).output_text
    assert seen


def test_a_pydantic_model_is_parsed(chat_sdk: openai.OpenAI) -> None:
    response = chat_sdk.responses.parse(
        model=MODEL, input="Name a city and how many people live there.", text_format=City, max_output_tokens=100, temperature=0
    )
    assert isinstance(response.output_parsed, City)


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ],
)
def test_what_is_not_done_is_refused_by_name(sdk: openai.OpenAI, parameters: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        respond(sdk, **parameters)
    assert refused.value.param == param
