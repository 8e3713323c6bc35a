"""Whatever bytes a client sends: a checked body comes of them, or one InvalidRequest that can be told."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.schemas import (
    Body,
    ChatBody,
    CompletionBody,
    CountTokensBody,
    DetokenizeBody,
    GenerateBody,
    MessagesBody,
    ResponsesBody,
    TokenizeBody,
    fields_of,
)
from gateway.errors import LONGEST_ECHO, InvalidRequest
from gateway.http.body import LargeBodies, parse

LONGEST_MESSAGE = 1500  # characters: the names of all fields, and what came, cut short
MESSAGES = [{"role": "user", "content": "Hello"}]
VALID: dict[type[Body], dict[str, Any]] = {
    GenerateBody: {"prompt": "Hello"},
    ChatBody: {"model": "m", "messages": MESSAGES},
    CompletionBody: {"model": "m", "prompt": "Hello"},
    ResponsesBody: {"model": "m", "input": MESSAGES},
    MessagesBody: {"model": "m", "messages": MESSAGES, "max_tokens": 5},
    CountTokensBody: {"model": "m", "messages": MESSAGES},
    TokenizeBody: {"messages": MESSAGES},
    DetokenizeBody: {"tokens": [1, 2]},
}
SCHEMAS = pytest.mark.parametrize("schema", VALID, ids=lambda schema: schema.__name__)
# Any JSON, with the words that mean something here among its keys and strings, and numbers that no float or integer holds.
words = st.sampled_from(
    ["type", "json_schema", "schema", "text", "content", "role", "user", "regex", "name", "$ref", "[key]", "0"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words | st.just(10**400)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | words, inner, max_size=4)
)


def outcome(schema: type[Body], content: bytes) -> Body | InvalidRequest:
    """Fails on any other exception, and on an error that a client could not be told."""
    try:
        return parse(schema, content)
    except InvalidRequest as error:
        assert error.message.isascii() or len(error.message) < LONGEST_MESSAGE
        assert 0 < len(error.message) < LONGEST_MESSAGE
        # The path to a field: its parts are names of ours, and of a client's own one at the most, which is cut short.
        assert error.param is None or len(error.param) <= 2 * LONGEST_ECHO
        json.dumps({"message": error.message, "param": error.param}, ensure_ascii=False).encode()
        return error


def test_every_schema_is_tried() -> None:
    import gateway.api.schemas

    bodies = {name for name in gateway.api.schemas.__all__ if name.endswith("Body") and name not in ("Body", "SamplingBody")}
    assert bodies == {schema.__name__ for schema in VALID}
    for schema, fields in VALID.items():
        assert isinstance(outcome(schema, json.dumps(fields).encode()), schema)


@SCHEMAS
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=80) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(schema: type[Body], content: bytes) -> None:
    outcome(schema, content)


@SCHEMAS
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_value_in_any_field_is_read_or_refused(schema: type[Body], data: st.DataObject) -> None:
    names = st.sampled_from(sorted(fields_of(schema)))
    fields = VALID[schema] | data.draw(st.dictionaries(names | st.text(max_size=6), anything, min_size=1, max_size=3))
    result = outcome(schema, json.dumps(fields).encode())
    # null asks for nothing: an earlier answer, sent back, is full of it.
    unknown = [name for name, value in fields.items() if name not in fields_of(schema) and value is not None]
    if unknown:
        assert isinstance(result, InvalidRequest), f"{unknown} passed without a word"


@SCHEMAS
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_body_that_was_read_asks_for_what_the_engine_takes(schema: type[Body], data: st.DataObject) -> None:
    """Bounds hold in what comes out, whatever went in: also where fields depend on each other."""
    if not hasattr(schema, "generation"):
        return
    numbers = st.integers(-2, 130) | st.floats(-3, 3) | st.booleans()
    names = sorted(name for name in fields_of(schema) if name not in VALID[schema])
    fields = VALID[schema] | data.draw(st.dictionaries(st.sampled_from(names), numbers, max_size=4))
    body = outcome(schema, json.dumps(fields).encode())
    if isinstance(body, InvalidRequest):
        return
    request = body.generation([1, 2, 3])  # type: ignore[attr-defined]
    sampling = request.sampling
    assert 0 <= sampling.temperature <= 2 and sampling.top_k >= 0 and 0 <= sampling.top_p <= 1 and 0 <= sampling.min_p <= 1
    assert (
        0.1 <= sampling.repetition_penalty <= 10
        and abs(sampling.presence_penalty) <= 2
        and abs(sampling.frequency_penalty) <= 2
    )
    assert request.max_tokens >= 1 or (request.max_tokens == 0 and request.prompt_logprobs is not None)
    assert 0 <= request.min_tokens <= max(request.max_tokens, 0) and len(request.stop) <= 4
    assert request.logprobs is None or 0 <= request.logprobs <= 20


@pytest.mark.anyio
async def test_large_bodies_of_a_key_let_those_of_another_pass() -> None:
    bodies, order = LargeBodies(), list[str]()
    large = json.dumps({"model": "m", "prompt": list(range(60_000))}).encode()

    async def read(owner: str) -> None:
        await bodies.parse(owner, CompletionBody, large)
        order.append(owner)

    await asyncio.gather(*(read(owner) for owner in ["busy"] * 12 + ["other"]))
    assert order.index("other") <= 4  # of 13: it begins as the third, and threads end when they end
